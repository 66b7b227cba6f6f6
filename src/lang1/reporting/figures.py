"""The plots of a results report: which curves belong into which panel, with legends and axes."""

from __future__ import annotations

from functools import partial
from typing import Any

from markupsafe import Markup

from lang1.reporting import plots, words
from lang1.reporting.index import Entry, Index
from lang1.reporting.numbers import compact, fixed, percent
from lang1.reporting.plots import Axes, Line, dash_of, role_of
from lang1.reporting.schema import Curve, Learning, Task
from lang1.reporting.views import dots

SERIES = ("s0", "s1", "s2", "s3", "s4", "s5")
LIMITS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)


def forests(index: Index) -> list[tuple[str, Markup]]:
    """A forest plot a task, all on one axis."""
    found = [(task, dots(index, task, index.entries)) for task in index.tasks]
    ends = [v for _, ds in found for d in ds for v in (d.value, d.low) if v is not None]
    if not ends:
        return []
    low = min(0.45, (min(ends) * 20 // 1) / 20)
    return [(t.title, plots.forest(f"forest-{k}", t.title, ds, low, 1.0)) for k, (t, ds) in enumerate(found) if ds]


def legend(index: Index, kinds: tuple[str, ...] = ("roc", "calibration")) -> list[tuple[Markup, str]]:
    """Line swatches of everybody who has a curve."""
    drawn = {(c.model, c.regime) for c in index.results.curves if c.kind in kinds}
    return [(plots.line_swatch(role_of(e), dash_of(e)), e.label) for e in index.entries if (e.model, e.regime) in drawn]


def curves(index: Index) -> list[dict[str, Any]]:
    """ROC and calibration panels, task by task; for a multiclass task a pair of panels a class."""
    made = []
    for place, task in enumerate(index.tasks):
        mine = [
            c
            for c in index.results.curves
            if c.task == task.task and (c.split is None or task.headline_split in (None, c.split))
        ]
        classes = list(dict.fromkeys(c.class_ for c in mine))
        many = len(task.options) > 2 or len(classes) > 2
        panels = []
        for k, name in enumerate(classes):
            title = f"{task.title}, {index.class_title(task, name)}" if many and name is not None else task.title
            here = [c for c in mine if c.class_ == name]
            roc = _roc(index, f"roc-{place}-{k}", title, [c for c in here if c.kind == "roc"])
            calibration, note = _calibration(
                index, f"cal-{place}-{k}", title, [c for c in here if c.kind == "calibration"]
            )
            caption = index.class_title(task, name) if many else ""
            panels.append({"caption": caption, "roc": roc, "calibration": calibration, "note": note})
        if panels:
            made.append({"title": task.title, "many": many, "panels": panels})
    return made


def _back_to_front(index: Index, found: list[Curve]) -> list[tuple[Entry, Curve]]:
    pairs = [(e, c) for e in index.entries for c in found if (c.model, c.regime) == (e.model, e.regime)]
    return pairs[::-1]  # specialists come first in the index and are drawn last, on top


def _roc(index: Index, uid: str, title: str, found: list[Curve]) -> Markup:
    if not found:
        return Markup("")
    lines = [Line(e.label, plots.known(c.x, c.y), role_of(e), dash_of(e)) for e, c in _back_to_front(index, found)]
    axes = Axes((0, 1), (0, 1), "False positive rate", "True positive rate", _one, _one, diagonal=True)
    return plots.panel(uid, f"ROC curves: {title}", lines, axes)


def _one(value: float) -> str:
    return fixed(value, 1)


def _calibration(index: Index, uid: str, title: str, found: list[Curve]) -> tuple[Markup, str]:
    """Without the checks (note length and the like). The axis follows trained models and the oracle; what lies outside
    it is counted beneath."""
    if not found:
        return Markup(""), ""
    weak = {e.key for e in index.by_role("baseline") if words.is_check(e.model)}
    pairs = [(e, c, plots.known(c.x, c.y)) for e, c in _back_to_front(index, found) if e.key not in weak]
    leading = [p for e, _, points in pairs if e.role in ("specialist", "oracle", "baseline") for p in points]
    most = max((v for p in leading or [p for _, _, points in pairs for p in points] for v in p), default=1.0)
    limit = next((cut for cut in LIMITS if most <= cut), 1.0)
    lines, outside = [], []
    for entry, curve, points in pairs:
        inside, gone = plots.clipped(points, limit)
        if gone:
            outside.append(f"{entry.short}: {gone} of {len(points)}")
        counts = [n for n, p in zip(curve.n or [], zip(curve.x, curve.y, strict=True), strict=False) if p in inside]
        sizes = None if entry.role in ("baseline", "oracle") else plots.radii(counts, len(inside))
        lines.append(Line(entry.label, inside, role_of(entry), dash_of(entry), sizes))
    axes = Axes((0, limit), (0, limit), "Stated risk", "Observed share", percent, percent, diagonal=True)
    note = f"Points outside the axis: {'; '.join(outside)}." if outside else ""
    return plots.panel(uid, f"Calibration: {title}", lines, axes), note


def learning(curves: list[Learning], tasks: list[Task]) -> list[dict[str, Any]]:
    """Learning curves: a panel for each stage and metric, a line for each run and, after ``:`` or ``/``, each part."""
    titles = {task.task: task.title for task in tasks}
    panels: dict[tuple[str, str, str], list[tuple[str, Learning]]] = {}
    for curve in curves:
        metric, part = _split_metric(curve.metric)
        panels.setdefault((curve.stage, metric, curve.unit), []).append((part, curve))
    made = []
    for place, ((stage, metric, unit), parts) in enumerate(panels.items()):
        runs = {curve.run for _, curve in parts}
        lines = []
        for k, (part, curve) in enumerate(parts):
            name = titles.get(part, part.replace("_", " "))
            name = ", ".join(x for x in (curve.run if len(runs) > 1 else "", name) if x) or (
                "mean" if metric.startswith("val") else "training"
            )
            points = plots.known(curve.x, curve.y)
            style = SERIES[k % len(SERIES)]
            end = name if len(parts) > 1 else ""
            lines.append(Line(name, points, f"series {style}", style, end=end[:22] if len(points) else ""))
        points = [p for line in lines for p in line.points]
        if not points:
            continue
        title = METRIC_TITLES.get(metric, metric.replace("_", " "))
        heading = f"{stage.capitalize()}: {title[0].lower()}{title[1:]}" if stage else title
        made.append({"title": heading, "plot": _panel(f"learn-{place}", heading, title, unit, lines)})
    return made


def _panel(uid: str, heading: str, title: str, unit: str, lines: list[Line]) -> Markup:
    points = [p for line in lines for p in line.points]
    low, high = min(y for _, y in points), max(y for _, y in points)
    pad = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    digits = 2 if high - low < 1.5 else 1
    text = partial(fixed, digits=digits) if high < 100 else compact
    axes = Axes(
        (0, max(x for x, _ in points)),
        (low - pad, high + pad),
        unit.capitalize(),
        title,
        compact,
        text,
        width=400,
        height=236,
    )
    return plots.panel(uid, f"{heading} over {unit}", lines, axes)


METRIC_TITLES = {
    "loss": "Loss",
    "train_loss": "Training loss",
    "val_loss": "Validation loss",
    "val_auroc": "Validation AUROC",
    "auroc": "Validation AUROC",
    "val_score": "Validation score",
    "lr": "Learning rate",
    "lr_factor": "Learning rate, share of its peak",
    "grad_norm": "Gradient norm",
    "tokens_per_second": "Tokens a second",
}


def _split_metric(metric: str) -> tuple[str, str]:
    for sign in (":", "/", "."):
        name, found, part = metric.partition(sign)
        if found and part:
            return name, part
    return metric, ""
