"""Traces of de-identification: words that were masked, how many, where, and whether masking knows the outcome."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from lang1.common.sections import sections
from lang1.remede.audit.effects import share
from lang1.remede.audit.finding import Finding, first, graded, told
from lang1.remede.audit.material import Material, TaskRows
from lang1.remede.audit.shortcuts import judge
from lang1.remede.audit.textmodel import value_scores
from lang1.reporting.numbers import fixed, percent

GUARD = "deidentification"
# MIMIC's two ways, and the tags that de-identifiers write in brackets.
MASK = re.compile(
    r"_{2,}|\[\*\*.*?\*\*\]|<(?:NAME|DATE|PHI|LOCATION|ID|AGE|PHONE)[^<>]{0,20}>|\[(?:NAME|DATE|PHI|REDACTED|REMOVED)[^\[\]]{0,20}\]"
    r"|\bX{3,}\b",
    re.IGNORECASE,
)
BY_SECTION = 2_000  # notes of which sections are counted


def check(material: Material) -> list[Finding]:
    """One finding a task."""
    return [_task(material, rows) for rows in material.tasks.values()]


def _task(material: Material, rows: TaskRows) -> Finding:
    texts = material.texts(list(rows.inputs))
    masks = np.array([len(MASK.findall(text)) for text in texts], dtype=np.float64)
    words = np.maximum(rows.column("note_words"), 1)
    words = np.where(np.isfinite(words), words, 1)
    if not masks.any():
        said = f"No mask of de-identification stands in {len(texts):,} notes."
        return Finding(GUARD, (17,), rows.task, "pass", said, 0, (), {"notes": len(texts)})
    of = share(int(masks.sum()), int(max(words.sum(), masks.sum())), material.settings.confidence)
    limit, knows = material.threshold("masked_words", rows.task), material.threshold("masked_auroc", rows.task)
    figures: dict[str, Any] = of.figures("share_of_words") | {
        "notes_with_masks": int((masks > 0).sum()),
        "notes": len(texts),
    }
    figures["masks_by_section"] = _by_section(texts[:BY_SECTION])
    ids = first([str(name) for name in rows.ids[masks > 0]])
    if rows.classes_of_all(material.settings.least_cases):
        alone = judge(material, rows, value_scores(rows, masks / words), 1)
        figures |= alone.area.figures("auroc")
        if alone.area.low > knows.value:
            said = (
                f"The share of masked words alone tells '{alone.option}' with AUROC {fixed(alone.area.value)}: masking "
                "follows the outcome."
            )
            return Finding(
                GUARD, (17,), rows.task, "fail", said, int((masks > 0).sum()), ids, figures, told("masked_auroc", knows)
            )
    said = f"{percent(of.value)} of the words of the notes are masked by de-identification."
    verdict = graded(of.low > limit.value, "warn", "pass")
    return Finding(
        GUARD, (17,), rows.task, verdict, said, int((masks > 0).sum()), ids, figures, told("masked_words", limit)
    )


def _by_section(texts: list[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for text in texts:
        for section in sections(text):
            n = len(MASK.findall(text[section.start : section.end]))
            if n:
                found[section.name] = found.get(section.name, 0) + n
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))
