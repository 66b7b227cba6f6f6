"""The page of an explanation, drawn from ``explanation.json`` alone: the note, its phrases marked, and the check."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from lang1.common.artefact import read_json
from lang1.common.errors import ArtefactError
from lang1.reporting.numbers import fixed, percent, signed
from lang1.reporting.page import write_page

MOST_PHRASES = 15
CONTENTS = [
    ("answer", "The answer"),
    ("check", "Is it faithful?"),
    ("sections", "Sections"),
    ("phrases", "Phrases"),
    ("note", "The note"),
]


def render_explanation(source: Path, out: Path) -> Path:
    """Write the page and return where it lies.

    Raises:
        ArtefactError: a source that is not an explanation, or a place that cannot be written.
    """
    said = read_json(Path(source))
    if not isinstance(said, dict) or said.get("lang1_explanation") != 1:
        raise ArtefactError(f"{source}: not the explanation.json of lang1 explain; explain again.")
    phrases = sorted(said["phrases"], key=lambda p: -abs(p["occlusion"]))[:MOST_PHRASES]
    return write_page(
        "explain.html.j2",
        out,
        title=f"{said['title']}: {said['example_id']}",
        contents=CONTENTS,
        said=said,
        probability=percent(said["probability"]),
        log_odds=signed(said["log_odds"], 2),
        whole=signed(said["whole_note"], 2),
        checks=[_check(line) for line in said["faithfulness"]],
        agreement="" if said["agreement"] is None else fixed(said["agreement"], 2),
        sections=[(s["name"], signed(s["occlusion"], 2)) for s in said["sections"]],
        phrases=[(p["name"], signed(p["occlusion"], 2), signed(p.get("gradient × input"), 2)) for p in phrases],
        note=_marked(said),
        footer=f"lang1 {said['versions'].get('lang1', '')} · drawn from explanation.json alone, without network · "
        "holds the text of a note: as confidential as the records.",
    )


def _check(line: Mapping[str, Any]) -> dict[str, str]:
    return {
        "method": line["method"],
        "phrases": f"{line['phrases']} of {line['of']}",
        "out": signed(line["comprehensiveness"], 2),
        "out_random": signed(line["comprehensiveness_random"], 2),
        "share": percent(line["random_at_least_as_much"]),
        "alone": signed(line["sufficiency"], 2),
        "alone_random": signed(line["sufficiency_random"], 2),
        "verdict": "faithful" if line["faithful"] else "not shown to be",
    }


def _marked(said: Mapping[str, Any]) -> Markup:
    """The note with each phrase shaded by its effect; the effect stands in its title."""
    most = max((abs(p["occlusion"]) for p in said["phrases"]), default=0.0) or 1.0
    text, at, made = said["text"], 0, Markup("")
    for phrase in said["phrases"]:
        made += escape(text[at : phrase["start"]])
        strength = abs(phrase["occlusion"]) / most
        tone = "31, 95, 191" if phrase["occlusion"] >= 0 else "191, 79, 31"
        made += Markup('<span title="{}" style="background: rgba({}, {:.2f})">{}</span>').format(
            f"{signed(phrase['occlusion'], 2)}", tone, 0.45 * strength, text[phrase["start"] : phrase["end"]]
        )
        at = phrase["end"]
    return made + escape(text[at:])
