"""Forests and grouped bars of a study: names down the left, values along one axis, one row for each series of a name.

Rows and not columns, since names are long and phones are narrow.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from lang1.reporting import svg
from lang1.reporting.numbers import fixed, signed
from lang1.reporting.study_axes import Numbers, names_of, numbers, readable, values_of, wrap
from lang1.reporting.study_schema import Figure, Point, Series
from lang1.reporting.study_series import Look, entry, legend, line_entry, looks, references
from lang1.reporting.svg import Drawing

WIDTH, RIGHT, LINE = 424.0, 374.0, 14.0
NARROW, BROAD = 96.0, 172.0  # room for names, as long as they need
SIZE = 12.5
PITCH = {"forest": 16.0, "bars": 15.0}
GAP = 11.0  # between names


def draw_rows(figure: Figure, uid: str, said: str) -> Drawing:
    """The drawing. Bars start at chance where that is a reference line, else at 0."""
    series, styles = figure.series, looks(figure.series)
    kinds = references(figure.lines)
    entries = (
        [entry(s.name, look, figure.kind) for s, look in zip(series, styles, strict=True)] if len(series) > 1 else []
    )
    entries += [line_entry(f"{name} ({readable(at)})", kinds[name]) for name, at in figure.lines.items()]
    drawn, high = legend(entries, WIDTH, 0)
    names = names_of(figure.x, series)
    top = high + 8.0
    base = start_of_bars(figure)
    values = [*values_of(series), *figure.lines.values(), *([base] if figure.kind == "bars" else [])]
    left = _room(names)
    axis = numbers(values, left, RIGHT, figure.y.scale == "log" and figure.kind == "forest")
    if figure.kind == "bars" and min(values) == base:
        axis = Numbers(base, axis.high, axis.start, axis.end)
    rows = _rows(names, series, left)
    heights = [max(PITCH[figure.kind] * max(len(found), 1), LINE * len(lines)) + GAP for _, lines, found in rows]
    bottom = top + sum(heights)
    drawing = Drawing(WIDTH, bottom + 36, uid, figure.title, said)
    drawing.add(drawn)
    for place, text in axis.ticks(4):
        drawing.add(
            svg.line(place, top, place, bottom, "grid"), svg.label(text, place, bottom + 15, "t tick", "middle")
        )
    for name, at in figure.lines.items():
        drawing.add(svg.line(axis(at), top, axis(at), bottom, kinds[name]))
    digits = signed if min(values, default=0) < 0 and figure.kind == "forest" else _plain
    y = top
    for (name, lines, found), height in zip(rows, heights, strict=True):
        middle = y + height / 2
        first = middle - LINE * (len(lines) - 1) / 2 + 4
        texts = [svg.label(text, left - 12, first + LINE * k, "t", "end") for k, text in enumerate(lines)]
        drawing.add(svg.tag("g", svg.tag("title", name) + Markup("").join(texts)))
        start = middle - PITCH[figure.kind] * (len(found) - 1) / 2
        for k, (which, point) in enumerate(found):
            at = start + PITCH[figure.kind] * k
            drawing.add(_row(figure, series[which], styles[which], point, axis, at, base, digits(point.y)))
        y += height
        if len(series) > 1 and y < bottom:
            drawing.add(svg.line(0, y, WIDTH, y, "grid"))
    drawing.add(svg.line(left, bottom, RIGHT, bottom, "rule"))
    drawing.add(svg.label(figure.y.label, (left + RIGHT) / 2, bottom + 32, "t axis", "middle"))
    return drawing


def start_of_bars(figure: Figure) -> float:
    """Where bars start: at chance where it is drawn, else at 0."""
    return next((at for name, at in figure.lines.items() if name.lower() in ("chance", "guessing")), 0.0)


def _plain(value: float | None) -> str:
    return readable(value) if value is not None else fixed(value)


def _room(names: Sequence[str]) -> float:
    """Width for names: so that the longest takes about two lines."""
    longest = max((svg.text_width(name, SIZE) for name in names), default=0.0)
    word = max((svg.text_width(word, SIZE) for name in names for word in name.split()), default=0.0)
    return min(max(longest / 1.8, word, NARROW) + 14, BROAD)


Found = list[tuple[int, Point]]


def _rows(names: Sequence[str], series: Sequence[Series], left: float) -> list[tuple[str, list[str], Found]]:
    made = []
    for name in names:
        found = [(k, p) for k, one in enumerate(series) for p in one.points if str(p.x) == name]
        made.append((name, wrap(name, SIZE, left - 12, 4), found))
    return made


def _row(
    figure: Figure, one: Series, look: Look, point: Point, axis: Numbers, y: float, base: float, text: str
) -> Markup:
    if point.y is None:
        return svg.tag(
            "g",
            svg.label("not known", axis(base if figure.kind == "bars" else axis.low) + 6, y + 4, "t tick"),
            class_=look.role,
        )
    shapes = Markup("")
    bounds = "" if point.low is None or point.high is None else f" ({readable(point.low)} to {readable(point.high)})"
    if figure.kind == "bars":
        ends = sorted((axis(base), axis(point.y)))
        height = PITCH["bars"] - 4
        shapes += svg.tag("rect", x=ends[0], y=y - height / 2, width=ends[1] - ends[0], height=height, class_="bar")
    if point.low is not None and point.high is not None:
        shapes += svg.line(axis(point.low), y, axis(point.high), y, "whisker")
    size = 3.5 if figure.kind == "bars" else 4.5
    said = f"{point.label or point.x}, {one.name}: {text}{bounds}"
    shapes += svg.marker(look.marker, axis(point.y), y, "mark", size, said)
    strong = " strong" if one.role == "specialist" and look.role == "r-specialist" else ""
    return svg.tag("g", shapes + svg.label(text, WIDTH, y + 4, f"t num{strong}", "end"), class_=look.role)
