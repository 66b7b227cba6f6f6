"""The plots of a report, drawn with the SVG kit: forests, strips, curves.

Colour and fill come from the role class (``r-specialist`` …) of the style sheet, the same in every plot; markers and
dashes tell competitors of one role apart, so that nothing rests on colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lang1.reporting import svg
from lang1.reporting.index import Entry
from lang1.reporting.numbers import compact, fixed
from lang1.reporting.svg import Drawing, Point, Scale

DASHES = {"square": "d1", "diamond": "d2", "triangle": "d3", "wedge": "d4", "bar": "d4", "cross": "d5"}


@dataclass(frozen=True)
class Dot:
    """A line of a forest plot: a value with its interval; ``text`` shows on hover."""

    label: str
    value: float
    low: float | None
    high: float | None
    role: str
    marker: str
    text: str


def role_of(entry: Entry) -> str:
    """The style class of a competitor."""
    return f"r-{entry.role}"


def dash_of(entry: Entry) -> str:
    """The dash class of a competitor's line: solid for specialist and oracle, dashed before finetuning."""
    return {"specialist": "d0", "oracle": "d0", "self": "d-self"}.get(entry.role, DASHES.get(entry.marker, "d5"))


def swatch(role: str, marker: str) -> Markup:
    """A marker for legends and tables; decoration, the name stands beside it."""
    shape = svg.marker(marker, 8, 8, "mark", 5)
    return svg.tag("svg", shape, class_=f"swatch {role}", viewBox="0 0 16 16", width=14, height=14, aria_hidden="true")


def line_swatch(role: str, dash: str) -> Markup:
    """A piece of line for legends; decoration."""
    shape = svg.line(1, 7, 31, 7, f"curve {dash}")
    return svg.tag("svg", shape, class_=f"swatch {role}", viewBox="0 0 32 14", width=32, height=14, aria_hidden="true")


def forest(uid: str, title: str, dots: Sequence[Dot], low: float, high: float, metric: str = "AUROC") -> Markup:
    """A forest plot: one line a competitor, its value, its interval, the chance line and the oracle's line."""
    pitch, top, left, right, width = 25.0, 8.0, 158.0, 352.0, 400.0
    bottom = top + pitch * len(dots)
    x = Scale(low, high, left, right)
    said = "; ".join(f"{d.label} {d.text}" for d in dots)
    drawing = Drawing(width, bottom + 30, uid, f"{title}: {metric} with 95 % intervals", said)
    for value in svg.ticks(low, high, 4):
        drawing.add(
            svg.line(x(value), top, x(value), bottom, "grid"),
            svg.label(fixed(value, 1), x(value), bottom + 15, "t tick", "middle"),
        )
    if low < 0.5 < high:
        drawing.add(svg.line(x(0.5), top, x(0.5), bottom, "chance"))
    for dot in dots:
        if dot.role == "r-oracle":
            drawing.add(svg.line(x(dot.value), top, x(dot.value), bottom, "ceiling"))
    for row, dot in enumerate(dots):
        y = top + pitch * (row + 0.5)
        strong = " strong" if dot.role == "r-specialist" else ""
        shapes = svg.label(dot.label, left - 14, y + 4, "t" + strong, "end")
        if dot.low is not None and dot.high is not None:
            shapes += svg.line(x(max(dot.low, low)), y, x(min(dot.high, high)), y, "whisker")
        shapes += svg.marker(dot.marker, x(min(max(dot.value, low), high)), y, "mark", 5, f"{dot.label}: {dot.text}")
        shapes += svg.label(fixed(dot.value), width, y + 4, "t num" + strong, "end")
        drawing.add(svg.tag("g", shapes, class_=dot.role))
    drawing.add(svg.label(metric, (left + right) / 2, bottom + 29, "t axis", "middle"))
    return drawing.render()


def strip(uid: str, title: str, dots: Sequence[Dot], low: float, high: float) -> Markup:
    """Several competitors on one short line, for a table cell."""
    width, height = 172.0, 26.0
    x = Scale(low, high, 8, width - 8)
    said = "; ".join(f"{d.label} {d.text}" for d in dots)
    drawing = Drawing(width, height, uid, title, said)
    drawing.add(svg.line(x(low), height / 2, x(high), height / 2, "rail"))
    for dot in sorted(dots, key=lambda d: d.role == "r-specialist"):
        shapes = Markup("")
        if dot.role == "r-specialist" and dot.low is not None and dot.high is not None:
            shapes += svg.line(x(max(dot.low, low)), height / 2, x(min(dot.high, high)), height / 2, "whisker thick")
        place = x(min(max(dot.value, low), high))
        shapes += svg.marker(dot.marker, place, height / 2, "mark", 5, f"{dot.label}: {dot.text}")
        drawing.add(svg.tag("g", shapes, class_=dot.role))
    return drawing.render("plot strip")


def difference(
    uid: str, title: str, value: float, low: float | None, high: float | None, axis: tuple[float, float]
) -> Markup:
    """A paired difference for a table cell; ``axis`` holds 0 and is the same for every row of the table."""
    width, height = 250.0, 22.0
    x = Scale(*axis, 6, width - 6)
    drawing = Drawing(
        width, height, uid, title, f"{fixed(value)}, axis from {fixed(axis[0], 2)} to {fixed(axis[1], 2)}"
    )
    drawing.add(svg.line(6, height / 2, width - 6, height / 2, "rail"), svg.line(x(0), 1, x(0), height - 1, "zero"))
    shapes = Markup("")
    if low is not None and high is not None:
        shapes += svg.line(x(low), height / 2, x(high), height / 2, "whisker thick")
    shapes += svg.marker("circle", x(value), height / 2, "mark", 4.5)
    drawing.add(svg.tag("g", shapes, class_="r-specialist"))
    return drawing.render("plot strip")


@dataclass(frozen=True)
class Line:
    """A curve with its style; ``sizes`` (radii) draws points on it; ``end`` is written at its right end."""

    label: str
    points: Sequence[Point]
    role: str
    dash: str
    sizes: Sequence[float] | None = None
    end: str = ""


@dataclass(frozen=True)
class Axes:
    """The frame of a panel of curves: limits, axis names, how ticks are written."""

    x: tuple[float, float]
    y: tuple[float, float]
    x_title: str
    y_title: str
    x_text: Callable[[float], str] = compact
    y_text: Callable[[float], str] = compact
    diagonal: bool = False
    width: float = 212.0
    height: float = 212.0


@dataclass(frozen=True)
class Mark:
    """A moment marked across a panel, e.g. a restart; ``text`` shows on hover."""

    x: float
    kind: str
    text: str


def panel(uid: str, title: str, lines: Sequence[Line], axes: Axes, marks: Sequence[Mark] = ()) -> Markup:
    """A panel of curves on common axes. The last line is drawn on top."""
    tail = max((svg.text_width(line.end, 11) + 8 for line in lines if line.end), default=10.0)
    left, right, top, bottom = 40.0, axes.width - tail, 22.0, axes.height - 36
    x, y = Scale(*axes.x, left, right), Scale(*axes.y, bottom, top)
    said = f"{axes.y_title} against {axes.x_title} of " + ", ".join(line.label for line in lines)
    drawing = Drawing(axes.width, axes.height, uid, title, said)
    for value in svg.ticks(*axes.y, 4):
        drawing.add(
            svg.line(left, y(value), right, y(value), "grid"),
            svg.label(axes.y_text(value), left - 6, y(value) + 4, "t tick", "end"),
        )
    for value in svg.ticks(*axes.x, 4):
        drawing.add(
            svg.line(x(value), top, x(value), bottom, "grid"),
            svg.label(axes.x_text(value), x(value), bottom + 15, "t tick", "middle"),
        )
    if axes.diagonal:
        low, high = max(axes.x[0], axes.y[0]), min(axes.x[1], axes.y[1])
        drawing.add(svg.line(x(low), y(low), x(high), y(high), "chance"))
    drawing.add(
        svg.label(axes.y_title, 2, 11, "t axis"),
        svg.label(axes.x_title, (left + right) / 2, axes.height - 6, "t axis", "middle"),
    )
    for mark in marks:
        if axes.x[0] <= mark.x <= axes.x[1]:
            shape = svg.line(x(mark.x), top, x(mark.x), bottom, f"event {mark.kind}")
            drawing.add(svg.tag("g", svg.tag("title", mark.text) + shape))
    for line in lines:
        placed = [(x(px), y(py)) for px, py in line.points]
        shapes = svg.path(placed, f"curve {line.dash}") if len(placed) > 1 else Markup("")
        for (px, py), size in zip(placed, line.sizes or [3.0] * (len(placed) == 1), strict=False):
            shapes += svg.marker("circle", px, py, "dot", size)
        drawing.add(svg.tag("g", svg.tag("title", line.label) + shapes, class_=line.role))
    named = [line for line in lines if line.end and line.points]
    for line, place in zip(named, svg.spread([y(n.points[-1][1]) for n in named], 13, top, bottom), strict=True):
        drawing.add(svg.tag("g", svg.label(line.end, right + 6, place + 4, "t end"), class_=line.role))
    return drawing.render()


def clipped(points: Sequence[Point], limit: float) -> tuple[list[Point], int]:
    """Points inside [0, limit]², and how many lie outside."""
    inside = [(a, b) for a, b in points if a <= limit and b <= limit]
    return inside, len(points) - len(inside)


def radii(counts: Sequence[int | None] | None, points: int) -> list[float]:
    """Marker radii whose areas follow the rows in each bin."""
    if not counts or len(counts) != points:
        return [2.5] * points
    most = max((c or 0 for c in counts), default=0) or 1
    return [1.4 + 3.1 * math.sqrt((c or 0) / most) for c in counts]


def known(xs: Sequence[float | None], ys: Sequence[float | None]) -> list[Point]:
    """The points whose two coordinates are known."""
    return [(a, b) for a, b in zip(xs, ys, strict=True) if a is not None and b is not None]
