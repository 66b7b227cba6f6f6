"""The page of a comparison, drawn from ``comparison.json`` alone: models × tasks, differences from the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lang1.reporting import figures, plots, views, words
from lang1.reporting.answer import verdict
from lang1.reporting.index import Index
from lang1.reporting.numbers import DASH, count, p_value, plural, signed, signed_interval
from lang1.reporting.page import write_page
from lang1.reporting.report import fingerprint
from lang1.reporting.schema import read_results, validate_results

HOW = {"holm": "Holm", "bh": "Benjamini–Hochberg"}


def render_comparison(results: dict[str, Any] | Path, out: Path) -> Path:
    """Write the page and return where it lies.

    Raises:
        ArtefactError: damaged results, or a place that cannot be written.
    """
    value = read_results(results)
    checked = validate_results(value)
    about = value["comparison"]
    index = Index(checked)
    reference = index.entry(about["reference"])
    groups = _differences(index)
    size, correction = about["family"], HOW.get(about["correction"], about["correction"])
    below = sum(f.below for f in checked.families)
    sentence = (
        f"{plural(len(about['models']), 'model')} on {plural(len(index.tasks), 'task')}, split "
        f"{words.split_title(about['split'])}, on the same examples and the same redraws of the patients. "
        f"Of {plural(size, 'comparison')}, {count(below)} stay below 0.05 after correction ({correction})."
    )
    contents = [("summary", "What was compared"), ("table", "Models and tasks"), ("forest", "Drawn")]
    contents += [("differences", "Differences"), ("measures", "Other measures"), ("runs", "Runs")]
    return write_page(
        "compare.html.j2",
        out,
        title=checked.title,
        contents=contents,
        sentence=sentence,
        warnings=[w.text for w in checked.warnings if w.level == "warn"],
        remarks=[w.text for w in checked.warnings if w.level != "warn"],
        heads=views.task_heads(index),
        main_table=[group for group in views.main_table(index) if group.lines],
        forests=figures.forests(index),
        reference=reference.label,
        correction=f"{correction}, {plural(size, 'comparison')}",
        groups=groups,
        pairs=len({row.versus for row in checked.rows if row.versus}) > 1,
        metrics=views.other_metrics(index),
        runs=[(index.entry(key).label, key, run) for key, run in about["runs"].items()],
        settings=[(step, views.flat(found)) for step, found in checked.settings.items()],
        footer=f"lang1 {checked.versions.get('lang1', '')} · comparison {fingerprint(value)[:12]} · "
        "drawn from comparison.json alone, without network.",
    )


def _differences(index: Index) -> list[dict[str, Any]]:
    rows = [(t, e, r) for t in index.tasks for e in index.entries for r in index.paired(t, e)]
    ends = [v for _, _, r in rows for v in (r.value, r.low, r.high) if v is not None]
    axis = (min([-0.05, *ends]) * 1.05, max([0.05, *ends]) * 1.05)
    made: list[dict[str, Any]] = []
    for place, (task, entry, row) in enumerate(rows):
        if not made or made[-1]["title"] != task.title:
            made.append({"title": task.title, "lines": []})
        other = index.entry(row.versus or "")
        decided = verdict(row)
        title = f"{task.title}: {entry.label} minus {other.label}"
        drawn = plots.difference(f"pair-{place}", title, row.value or 0.0, row.low, row.high, axis)
        made[-1]["lines"].append(
            {
                "model": entry.label,
                "versus": other.short,
                "value": signed(row.value),
                "interval": signed_interval(row.low, row.high),
                "verdict": decided,
                "sign": views.SIGNS.get(decided, ""),
                "p": p_value(row.note),
                "adjusted": DASH if row.p_adjusted is None else p_value(f"p = {row.p_adjusted:.3g}"),
                "plot": drawn if row.value is not None else "",
            }
        )
    return made
