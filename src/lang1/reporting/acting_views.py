"""What acting on the risks would mean, and what recalibration and other weighings change, as a report shows it."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from lang1.reporting import plots, words
from lang1.reporting.index import Entry, Index
from lang1.reporting.numbers import DASH, THIN, count, fixed, interval, percent, percent_interval
from lang1.reporting.plots import Axes, Line, dash_of, role_of
from lang1.reporting.schema import Operating, Row
from lang1.reporting.views import Cell, Group, head
from lang1.reporting.views import Line as TableLine

METHODS = {"platt": "Platt", "isotonic": "isotonic", "temperature": "temperature"}
WEIGHINGS = ("auroc", "auroc_patients", "auroc_weighted", "auprc_patients", "brier_patients")


def operating(index: Index) -> dict[str, Any]:
    """Everybody who is no check at each operating point: sensitivity, PPV beneath; a task a block, a point a column."""
    points = index.results.operating
    groups = []
    columns = dict.fromkeys((p.kind, p.at) for p in points)
    for task in index.tasks:
        mine = [p for p in points if p.task == task.task]
        lines = []
        for entry in _acting(index):
            here = {(p.kind, p.at): p for p in mine if (p.model, p.regime) == (entry.model, entry.regime)}
            if here:
                lines.append(head(index, entry, [_point(here.get(column)) for column in columns]))
        daily = [p.alerts_per_day / p.alerts_per_100 for p in mine if p.alerts_per_day and p.alerts_per_100]
        about = f"1{THIN}% of its encounters: {fixed(daily[0], 2)} alerts a day" if daily else ""
        if lines:
            groups.append(Group(task.title, lines, about))
    titles = [f"{percent(at)} alerted" if kind == "alert rate" else f"risk {percent(at)}" for kind, at in columns]
    return {"columns": titles, "groups": groups, "days": any(p.alerts_per_day is not None for p in points)}


def _acting(index: Index) -> list[Entry]:
    return [e for e in index.entries if not (e.role == "baseline" and words.is_check(e.model))]


def _point(point: Operating | None) -> Cell:
    if point is None:
        return Cell()
    span = percent_interval(point.sensitivity_low, point.sensitivity_high)
    right = percent_interval(point.ppv_low, point.ppv_high)
    main = f"{percent(point.sensitivity)}{f' ({span})' if span else ''}"
    return Cell(main, f"PPV {percent(point.ppv)}{f' ({right})' if right else ''}")


def decision_curves(index: Index) -> list[dict[str, Any]]:
    """Net benefit over the declared range, with acting on everybody; below -0.02 is not drawn."""
    made = []
    for place, task in enumerate(index.tasks):
        lines = []
        top = 0.0
        span: tuple[float, float] | None = None
        for entry in reversed(_acting(index)):
            for curve in index.results.curves:
                if (curve.kind, curve.task, curve.model, curve.regime) != (
                    "net_benefit",
                    task.task,
                    entry.model,
                    entry.regime,
                ):
                    continue
                points = plots.known(curve.x, curve.y)
                if points:
                    span = (points[0][0], points[-1][0])
                    top = max(top, *(y for _, y in points))
                    lines.append(Line(entry.label, _floored(points), role_of(entry), dash_of(entry)))
        rates = [
            r for e in index.entries if (r := index.row(task, e, "prevalence")) is not None and r.value is not None
        ]
        if span is None or not rates or rates[0].value is None:
            continue
        rate, (low, high) = rates[0].value, span
        grid = [low + (high - low) * k / 100 for k in range(101)]
        everybody = [(t, rate - (1 - rate) * t / (1 - t)) for t in grid]
        lines.insert(0, Line("acting on everybody", _floored(everybody), "series s5", "d3"))
        axes = Axes(
            span,
            (-0.02, max(top, rate) * 1.05),
            "Risk from which one acts",
            "Net benefit",
            percent,
            _two,
            width=400,
            height=236,
        )
        plot = plots.panel(f"decide-{place}", f"Net benefit: {task.title}", lines, axes)
        made.append({"title": task.title, "plot": plot})
    return made


def _floored(points: list[tuple[float, float]], floor: float = -0.02) -> list[tuple[float, float]]:
    kept = []
    for point in points:
        if point[1] < floor:
            break
        kept.append(point)
    return kept


def _two(value: float) -> str:
    return fixed(value, 2)


def recalibration(index: Index) -> dict[str, Any]:
    """Figures as stated and after each map, task by task, for everybody who was scored on validation too."""
    lines = index.results.recalibration
    metrics = list(dict.fromkeys(line.metric for line in lines))
    groups = []
    for task in index.tasks:
        rows = []
        for entry in _acting(index):
            mine = [ln for ln in lines if (ln.task, ln.model, ln.regime) == (task.task, entry.model, entry.regime)]
            if not mine or entry.role == "oracle":
                continue
            before = {ln.metric: ln.before for ln in mine}
            rows.append(head(index, entry, [_plain(before.get(m), m) for m in metrics]))
            for method in dict.fromkeys(ln.method for ln in mine):
                after = {ln.metric: ln.after for ln in mine if ln.method == method}
                about = f"… after {METHODS.get(method, method)}"
                rows.append(TableLine(about, [_plain(after.get(m), m) for m in metrics]))
        if rows:
            size = next(ln.fitted_on for ln in lines if ln.task == task.task)
            groups.append(Group(task.title, rows, f"fitted on {count(size)} validation rows"))
    return {"columns": [words.metric_words(m).title for m in metrics], "groups": groups}


def _plain(value: float | None, metric: str) -> Cell:
    return Cell(fixed(value, words.metric_words(metric).digits))


def weighings(index: Index) -> dict[str, Any]:
    """The headline figures with every patient, or every class by its size, counting alike; empty where they agree."""
    groups = []
    columns = [m for m in WEIGHINGS if any(m in index.metrics(task) for task in index.tasks)]
    if columns in ([], ["auroc"]):
        return {"columns": [], "groups": []}
    for task in index.tasks:
        lines = []
        if not set(index.metrics(task)) & set(WEIGHINGS[1:]):
            continue
        for entry in index.entries:
            cells = [_figure(index.row(task, entry, metric)) for metric in columns]
            if any(cell.main != DASH for cell in cells):
                lines.append(head(index, entry, cells))
        groups.append(Group(task.title, lines))
    return {"columns": [words.metric_words(m).title for m in columns], "groups": groups}


def _figure(row: Row | None) -> Cell:
    if row is None or row.value is None:
        return Cell()
    return Cell(fixed(row.value), interval(row.low, row.high))


def decision_legend(index: Index) -> list[tuple[Markup, str]]:
    """Line swatches of everybody whose decision curve is drawn."""
    drawn = {(c.model, c.regime) for c in index.results.curves if c.kind == "net_benefit"}
    return [
        (plots.line_swatch(role_of(e), dash_of(e)), e.label) for e in _acting(index) if (e.model, e.regime) in drawn
    ]
