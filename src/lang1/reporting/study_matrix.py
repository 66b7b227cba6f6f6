"""Matrices of a study: a number in every cell, shaded by its size; signs and numbers tell all that shades tell."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from lang1.reporting import svg
from lang1.reporting.numbers import fixed, interval, signed, signed_interval
from lang1.reporting.study_axes import names_of, readable, wrap
from lang1.reporting.study_schema import Figure, Point, Series
from lang1.reporting.svg import Drawing

LEFT, CELL, SIZE = 128.0, 80.0, 12.5
STRONGEST = 0.5  # opacity of the shade of the largest value: letters stay readable on it in light and in dark


def draw_matrix(figure: Figure, uid: str, said: str) -> Drawing:
    """The drawing. Series of the paper stand as small numbers in the cells; each other series is a block of its own."""
    blocks = [one for one in figure.series if one.role != "paper"] or list(figure.series)
    paper = {(str(p.x), p.label): p for one in figure.series if one.role == "paper" for p in one.points}
    columns = names_of(figure.x, figure.series)
    rows = list(dict.fromkeys([*figure.y.names, *(p.label for one in blocks for p in one.points)]))
    bounded = any(p.low is not None for one in blocks for p in one.points)
    height = 30.0 + 13 * bounded + 13 * bool(paper)
    heads = [wrap(name, 11.5, CELL - 4) for name in columns]
    head = 13.0 * max((len(lines) for lines in heads), default=1) + 8
    width = LEFT + CELL * max(len(columns), 1)
    values = [p.y for one in blocks for p in one.points if p.y is not None]
    drawing = Drawing(width, 0, uid, figure.title, said)
    y = 0.0
    for one in blocks:
        if len(blocks) > 1:
            drawing.add(svg.label(one.name, 0, y + 12, "t strong"))
            y += 20
        drawing.add(svg.label(figure.x.label, LEFT + (width - LEFT) / 2, y + 11, "t axis", "middle"))
        y += 18
        for k, lines in enumerate(heads):
            middle = LEFT + CELL * (k + 0.5)
            first = y + head - 8 - 13 * (len(lines) - 1)
            drawing.add(*(svg.label(t, middle, first + 13 * i, "t tick", "middle") for i, t in enumerate(lines)))
        y += head
        cells = {(str(p.x), p.label): p for p in one.points}
        for row in rows:
            lines = wrap(row, SIZE, LEFT - 14)
            first = y + height / 2 + 4 - 14 * (len(lines) - 1) / 2
            texts = [svg.label(t, LEFT - 10, first + 14 * i, "t", "end") for i, t in enumerate(lines)]
            drawing.add(svg.tag("g", svg.tag("title", row) + Markup("").join(texts)))
            for k, column in enumerate(columns):
                point, theirs = cells.get((column, row)), paper.get((column, row))
                where = (LEFT + CELL * k, y, height)
                drawing.add(_cell(one, column, row, point, theirs, where, values))
            y += height
        y += 14
    if figure.y.label:
        drawing.add(svg.label(figure.y.label, 0, 11 + 20 * (len(blocks) > 1), "t axis"))
    if paper:
        note = svg.tag("g", svg.marker("diamond", 8, -4, "mark", 4), class_="r-paper")
        body = note + svg.label("the paper’s figure", 18, 0, "t key")
        drawing.add(svg.tag("g", body, transform=f"translate({LEFT:.1f} {y + 6:.1f})"))
        y += 16
    drawing.height = y
    return drawing


def _cell(
    one: Series,
    column: str,
    row: str,
    point: Point | None,
    theirs: Point | None,
    where: tuple[float, float, float],
    values: Sequence[float],
) -> Markup:
    x, y, height = where
    known = point is not None and point.y is not None
    sign = min(values, default=0) < 0
    text = "–" if point is None or point.y is None else signed(point.y) if sign else readable(point.y)
    shade, strength = ("cell none", 0.0) if point is None or point.y is None else _shade(point.y, values)
    shapes = svg.tag(
        "rect", x=x, y=y, width=CELL, height=height, class_=shade, fill_opacity=f"{strength:.2f}" if known else None
    )
    lines = [(text, "t strong")]
    between = signed_interval if sign else interval
    if known and point is not None and point.low is not None and point.high is not None:
        lines.append((between(point.low, point.high, 2), "t tiny"))
    if theirs is not None and theirs.y is not None:
        lines.append((fixed(theirs.y), "t tiny theirs"))
    first = y + height / 2 + 4 - 6.5 * (len(lines) - 1)
    for k, (shown, class_) in enumerate(lines):
        shift = 4 if class_.endswith("theirs") else 0
        shapes += svg.label(shown, x + CELL / 2 + shift, first + 13 * k, class_, "middle")
        if shift:
            mark = svg.marker(
                "diamond", x + CELL / 2 - svg.text_width(shown, 9.5) / 2 - 4, first + 13 * k - 3.5, "mark", 3
            )
            shapes += svg.tag("g", mark, class_="r-paper")
    bounds = "" if point is None or point.low is None else f", {between(point.low, point.high)}"
    said = f"{row}, {column}: {text}{bounds}" + ("" if theirs is None else f"; paper {fixed(theirs.y)}")
    return svg.tag("g", svg.tag("title", said) + shapes)


def _shade(value: float, values: Sequence[float]) -> tuple[str, float]:
    """Class and opacity: by size from the least to the most; where signs differ, one colour for each sign."""
    least, most = min(values), max(values)
    if least < 0:
        reach = max(abs(least), abs(most)) or 1.0
        return ("cell below" if value < 0 else "cell above"), STRONGEST * abs(value) / reach
    share = (value - least) / (most - least) if most > least else 0.5
    return "cell above", 0.05 + (STRONGEST - 0.05) * share
