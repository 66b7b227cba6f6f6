"""Subgroups in a report: a forest plot and a table a task, and who could not be judged."""

from __future__ import annotations

from typing import Any

from lang1.reporting import plots, words
from lang1.reporting.index import Entry, Index
from lang1.reporting.numbers import (
    DASH,
    count,
    fixed,
    interval,
    p_value,
    percent,
    signed,
    signed_interval,
    with_interval,
)
from lang1.reporting.plots import Dot, role_of
from lang1.reporting.schema import Row, Task
from lang1.reporting.views import Cell, Line

COLUMNS = ("AUROC", "Gap in AUROC", "p", "corrected", "Outcome share", "Stated − observed", "n", "Outcomes")
Rows = dict[tuple[str, str], Row]  # by stratum and metric


def subgroups(index: Index) -> list[dict[str, Any]]:
    """A block for each task and competitor that has strata: forest, lines, and remarks on what was left out."""
    found: dict[tuple[str, str], Rows] = {}
    for row in index.strata():
        found.setdefault((row.task, f"{row.model}|{row.regime}"), {})[row.stratum or "", row.metric] = row
    several = len({key for _, key in found}) > 1
    made: list[dict[str, Any]] = []
    for task in index.tasks:
        for entry in index.entries:
            rows = found.get((task.task, entry.key))
            if rows:
                made.append(_block(index, task, entry, rows, len(made), several))
    return made


def _block(index: Index, task: Task, entry: Entry, rows: Rows, place: int, several: bool) -> dict[str, Any]:
    names = list(dict.fromkeys(name for name, _ in rows))
    dots = []
    whole = index.auroc(task, entry)
    if whole is not None and whole.value is not None:
        text = with_interval(whole.value, whole.low, whole.high)
        dots.append(Dot("everybody", whole.value, whole.low, whole.high, role_of(entry), "diamond", text))
    for name in names:
        row = rows.get((name, "auroc"))
        if row is not None and row.value is not None:
            text = with_interval(row.value, row.low, row.high)
            dots.append(Dot(_short(name), row.value, row.low, row.high, "r-baseline", "circle", text))
    low = min([0.45, *(((d.low if d.low is not None else d.value) * 20 // 1) / 20 for d in dots)])
    title = f"{task.title}, {entry.label}" if several else task.title
    out = [s for s in index.results.strata_left_out if (s.task, s.model) == (task.task, entry.key)]
    left = "; ".join(f"{s.stratum} (n {count(s.n)}, outcomes {count(s.events)}: {s.reason})" for s in out)
    return {
        "title": title,
        "split": words.split_title(task.headline_split),
        "forest": plots.forest(f"strata-{place}", title, dots, max(0.0, low), 1.0) if dots else "",
        "lines": [_line(name, rows) for name in names],
        "left_out": left,
    }


def _line(name: str, rows: Rows) -> Line:
    area, gap = rows.get((name, "auroc")), rows.get((name, "auroc_gap"))
    share, stated = rows.get((name, "prevalence")), rows.get((name, "stated_minus_observed"))
    cells = [_cell(area), Cell(), Cell(), Cell()]
    if gap is not None:
        cells[1] = Cell(signed(gap.value), signed_interval(gap.low, gap.high))
        cells[2] = Cell(p_value(gap.note))
        cells[3] = Cell(DASH if gap.p_adjusted is None else p_value(f"p = {gap.p_adjusted:.3g}"))
    elif any(row.reference == name for row in rows.values()):
        cells[1] = Cell("reference")
    cells.append(Cell(percent(share.value)) if share is not None else Cell())
    cells.append(Cell(signed(stated.value), signed_interval(stated.low, stated.high)) if stated is not None else Cell())
    any_row = area or next(row for (stratum, _), row in rows.items() if stratum == name)
    return Line(name, [*cells, Cell(count(any_row.n)), Cell(count(any_row.events))])


def _cell(row: Row | None) -> Cell:
    if row is None or row.value is None:
        return Cell()
    return Cell(fixed(row.value), interval(row.low, row.high))


def _short(name: str, limit: int = 24) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"
