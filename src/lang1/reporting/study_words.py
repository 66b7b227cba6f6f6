"""Words of the study's report: verdicts with their marks, parts of the design, the glossary beyond the common one."""

from __future__ import annotations

import re

from lang1.reporting.words import GLOSSARY

# Mark, class of the style sheet. The mark tells what the colour tells.
CLAIM_MARKS = {
    "holds": ("✓", "ahead"),
    "does not hold": ("✗", "behind"),
    "undecided": ("◆", "undecided"),
    "not examined": ("○", "not"),
}
VERDICTS = {
    "clear": ("●", "clear", "ahead"),
    "mixed": ("◐", "mixed", "mixed"),
    "undecided": ("◆", "undecided", "undecided"),
    "none": ("", "", ""),
}
DESIGNS = {
    "grid": "Main tables",
    "single": "Finetuned on one task alone",
    "trajectory": "Along one pretraining",
    "budget": "Checkpoint × finetuning notes",
    "efficiency": "Nested finetuning sizes",
    "twins": "Matched twins",
    "seen": "Patients seen in training",
    "systems": "Several health systems",
    "swaps": "One component swapped",
    "longitudinal": "Charts over time",
}
# Fields of a cell in the order of the design's table; those that no cell fills are left out.
FIELDS = {
    "label": "Name",
    "role": "Role",
    "regime": "Regime",
    "model": "Model",
    "parameters": "Parameters",
    "corpus": "Corpus",
    "tokens": "Tokens",
    "tasks": "Finetuned on",
    "notes": "Notes",
    "variant": "Variant",
    "budget": "Input budget",
    "pretrained_on": "Pretrained at",
    "trained_on": "Labels from",
    "tested_on": "Tested at",
    "benchmark": "Benchmark",
}
CASE_ROLES = {
    "specialist": "r-specialist",
    "self": "r-self",
    "generalist": "r-generalist",
    "baseline": "r-baseline",
    "oracle": "r-oracle",
}

_OWN: tuple[tuple[str, str], ...] = (
    (
        "The paper",
        "Lang1, “Generalist foundation models are not clinical enough for hospital operations” (arXiv 2511.13703). "
        "Its figures, hollow and dotted wherever they stand, come from another hospital with other patients, larger "
        "models and more text: they show the pattern to compare with, not a mark to reach.",
    ),
    (
        "Holds, does not hold, undecided",
        "Whether a claim of the paper is borne out by these data. It holds, or does not, only where the intervals "
        "allow no other reading; undecided means that these data cannot tell. Not examined: this study has no "
        "training that could tell.",
    ),
    (
        "Clear, mixed, undecided",
        "What an analysis’s sentence rests on: intervals that all point one way, intervals that point both ways, or "
        "intervals that hold 0.",
    ),
    (
        "Specialist and generalist",
        "The specialist learned its language from this hospital’s notes; a generalist from the open text of the "
        "internet. Both may be finetuned on the same labels.",
    ),
    (
        "Training seeds",
        "Trainings that differ in nothing but chance (order of examples, first weights). Where there are several, a "
        "figure is their mean and its interval holds patients and trainings; one training says nothing about the next.",
    ),
    (
        "Transfer",
        "A model that learned one task (rows) is asked another (columns). The joint row learned all at once.",
    ),
    (
        "Matched twins",
        "Two models alike in architecture, tokenizer policy and tokens read, one on general text alone, the other on "
        "general text and clinical notes: what differs between them is the notes.",
    ),
)

STUDY_GLOSSARY = _OWN + GLOSSARY


def slug(text: str) -> str:
    """A name for anchors and files: small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
