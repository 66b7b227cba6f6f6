"""Figures of a study, from the schema to one SVG each: lines and scatters here, rows and matrices in files of theirs.

Every drawing holds its own legend, so that it can leave the page; colours come from the style sheet by role.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from markupsafe import Markup

from lang1.reporting import svg
from lang1.reporting.study_axes import Names, Numbers, is_names, names_of, numbers, readable, values_of, wrap
from lang1.reporting.study_matrix import draw_matrix
from lang1.reporting.study_rows import draw_rows
from lang1.reporting.study_schema import Figure, Point, Series
from lang1.reporting.study_series import Look, entry, legend, line_entry, looks, references
from lang1.reporting.svg import Drawing

WIDTH = 424.0
PLOT = 218.0  # height of the field of lines and scatters
TICK, AXIS = 11.5, 12.0
BANDS = 3  # more intervals than so many are drawn as whiskers, since bands on top of each other hide one another
LABELLED = 14  # a scatter with at most so many points names them
MARKED = 12  # points of a line that all get a marker
SHORT = 16  # letters of a reference line's name that stand beside it

Scale = Numbers | Names
Placed = tuple[float, float, Point]


def draw(figure: Figure, uid: str) -> Drawing:
    """The figure as a drawing; ``uid`` makes its ids unique on the page."""
    if figure.kind == "matrix":
        return draw_matrix(figure, uid, describe(figure))
    if figure.kind in ("forest", "bars"):
        return draw_rows(figure, uid, describe(figure))
    return _plane(figure, uid)


def describe(figure: Figure) -> str:
    """What a drawing shows, for who cannot see it: axes, and each series by its first and last value."""
    value, over = figure.y.label or "value", figure.x.label or "name"
    parts = [f"{value} by {over}" if figure.kind in ("forest", "bars", "matrix") else f"{value} against {over}"]
    for one in figure.series:
        known = [p for p in one.points if p.y is not None]
        if not known:
            parts.append(f"{one.name}: no values")
        elif figure.kind in ("forest", "bars") or len(known) <= 2:
            parts.append(f"{one.name}: " + ", ".join(_said(p) for p in known[:24]))
        elif figure.kind == "matrix":
            ys = [p.y for p in known if p.y is not None]
            parts.append(f"{len(known)} cells from {readable(min(ys))} to {readable(max(ys))}")
        else:
            parts.append(f"{one.name}: from {_said(known[0])} to {_said(known[-1])}, {len(known)} points")
    parts += [f"reference line {name}: {readable(at)}" for name, at in figure.lines.items()]
    return "; ".join(parts) + "."


def _said(point: Point) -> str:
    place = point.x if isinstance(point.x, str) else readable(float(point.x))
    name = f"{point.label} ({place})" if point.label else place
    bounds = "" if point.low is None or point.high is None else f" ({readable(point.low)} to {readable(point.high)})"
    return f"{name} {readable(point.y)}{bounds}"


def _plane(figure: Figure, uid: str) -> Drawing:
    series, styles = figure.series, looks(figure.series)
    beside = {n: v for n, v in figure.lines.items() if len(n) <= SHORT}
    kinds = references(figure.lines)
    entries = (
        [entry(s.name, look, figure.kind) for s, look in zip(series, styles, strict=True)] if len(series) > 1 else []
    )
    entries += [line_entry(n, kinds[n]) for n in figure.lines if n not in beside]
    drawn, high = legend(entries, WIDTH, 0)
    top = high + 24.0
    bottom = top + PLOT
    y = numbers([*values_of(series), *figure.lines.values()], bottom, top, figure.y.scale == "log")
    left = max(svg.text_width(text, TICK) for _, text in y.ticks()) + 10
    right = WIDTH - max((svg.text_width(n, TICK) + 8 for n in beside), default=8.0)
    x: Scale
    names = is_names(figure.x, series)
    if names:
        x = Names(names_of(figure.x, series), left, right)
    else:
        x = numbers([float(p.x) for s in series for p in s.points], left + 4, right - 4, figure.x.scale == "log")
    texts, below = _x_ticks(x)
    drawing = Drawing(WIDTH, bottom + below + 22, uid, figure.title, describe(figure))
    drawing.add(drawn, svg.label(figure.y.label, 0, top - 11, "t axis"))
    for place, text in y.ticks():
        drawing.add(svg.line(left, place, right, place, "grid"), svg.label(text, left - 6, place + 4, "t tick", "end"))
    for place, lines in texts:
        drawing.add(svg.line(place, bottom, place, bottom + 4, "rule"))
        drawing.add(*(svg.label(t, place, bottom + 16 + 13 * k, "t tick", "middle") for k, t in enumerate(lines)))
    drawing.add(svg.line(left, bottom, right, bottom, "rule"))
    drawing.add(svg.label(figure.x.label, (left + right) / 2, bottom + below + 17, "t axis", "middle"))
    _references(drawing, figure, beside, kinds, y, (left, right), (top, bottom))
    bands = sum(any(p.low is not None for p in s.points) for s in series) <= BANDS and not names
    order = sorted(range(len(series)), key=lambda k: series[k].role in ("specialist", "self"))
    for k in order:
        shift = _shift(x, k, len(series), bands or figure.kind == "scatter")
        shapes = _series(figure, series[k], styles[k], x, y, shift, bands)
        drawing.add(svg.tag("g", svg.tag("title", series[k].name) + shapes, class_=styles[k].role))
    if figure.kind == "scatter":
        drawing.add(*_names(series, styles, x, y, (left, right), (top, bottom)))
    return drawing


def _shift(x: Scale, place: int, of: int, exact: bool) -> float:
    """Series of one name stand side by side; on an axis of numbers whiskers are moved apart by a hair."""
    if of < 2:
        return 0.0
    if isinstance(x, Names):
        return min(x.pitch * 0.6, 18.0 * (of - 1)) * (place / (of - 1) - 0.5)
    return 0.0 if exact else 2.5 * (place - (of - 1) / 2)


def _x_ticks(x: Scale) -> tuple[list[tuple[float, list[str]]], float]:
    """Places with their lines of text, and how much room they take below the axis."""
    if isinstance(x, Numbers):
        places: list[tuple[float, str]] = []
        for place, text in x.ticks(6):
            if (
                not places
                or place - places[-1][0] > (svg.text_width(text, TICK) + svg.text_width(places[-1][1], TICK)) / 2 + 6
            ):
                places.append((place, text))
        return [(place, [text]) for place, text in places], 20.0
    made = [(x(name), wrap(name, TICK, x.pitch - 4)) for name in x.names]
    return made, 7.0 + 13 * max((len(lines) for _, lines in made), default=1)


def _references(
    drawing: Drawing,
    figure: Figure,
    beside: dict[str, float],
    kinds: dict[str, str],
    y: Numbers,
    across: tuple[float, float],
    down: tuple[float, float],
) -> None:
    for name, at in figure.lines.items():
        shape = svg.line(across[0], y(at), across[1], y(at), kinds[name])
        drawing.add(svg.tag("g", svg.tag("title", f"{name}: {readable(at)}") + shape))
    places = svg.spread([y(v) for v in beside.values()], 12, down[0], down[1])
    for name, place in zip(beside, places, strict=True):
        drawing.add(svg.label(name, across[1] + 6, place + 4, "t tick"))


def _series(figure: Figure, one: Series, look: Look, x: Scale, y: Numbers, shift: float, bands: bool) -> Markup:
    shapes = Markup("")
    runs = [list(run) for known, run in groupby(one.points, key=lambda p: p.y is not None) if known]
    for run in runs if figure.kind == "lines" else []:
        bounded = [p for p in run if p.low is not None and p.high is not None]
        if bands and len(bounded) == len(run) > 1:
            edge = [(_at(x, p) + shift, y(p.high or 0)) for p in run]
            edge += [(_at(x, p) + shift, y(p.low or 0)) for p in reversed(run)]
            shapes += svg.tag("polygon", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in edge), class_="band")
    for run in runs:
        placed = [(_at(x, p) + shift, y(p.y or 0), p) for p in run]
        if figure.kind == "lines" and len(placed) > 1:
            shapes += svg.path([(a, b) for a, b, _ in placed], f"curve {look.dash}")
        for a, b, point in _marked(placed) if figure.kind == "lines" else placed:
            if (
                point.low is not None
                and point.high is not None
                and not (bands and figure.kind == "lines" and len(run) > 1)
            ):
                shapes += svg.line(a, y(point.low), a, y(point.high), "whisker")
            shapes += svg.marker(look.marker, a, b, "mark", 4, f"{one.name}: {_said(point)}")
    return shapes


def _marked(placed: Sequence[Placed]) -> Sequence[Placed]:
    """The points of a line that get a marker: all of a few, else some evenly spaced, the last among them."""
    if len(placed) <= MARKED:
        return placed
    step = -(-(len(placed) - 1) // 6)
    return placed[::-1][::step]


def _at(x: Scale, point: Point) -> float:
    return x(float(point.x)) if isinstance(x, Numbers) else x(point.x)


def _names(
    series: Sequence[Series],
    styles: Sequence[Look],
    x: Scale,
    y: Numbers,
    across: tuple[float, float],
    down: tuple[float, float],
) -> list[Markup]:
    """Names beside the points of a scatter, where few have any: right, left, above or below, wherever there is room."""
    named = [
        (_at(x, p), y(p.y), p.label, look.role)
        for one, look in zip(series, styles, strict=True)
        for p in one.points
        if p.label and p.y is not None
    ]
    if len(named) > LABELLED:
        return []
    taken = [
        (_at(x, p) - 6, y(p.y if p.high is None else p.high) - 5, _at(x, p) + 6, y(p.y if p.low is None else p.low) + 5)
        for one in series
        for p in one.points
        if p.y is not None
    ]
    made = []
    for a, b, text, role in named:
        wide = svg.text_width(text, TICK) * 1.06  # bold
        tried = [(a + 8, b + 4), (a - 8 - wide, b + 4), (a - wide / 2, b - 9), (a - wide / 2, b + 16)]
        tried += [(place, b + 4 + by) for by in (-10, 10, -18, 18, -26, 26) for place in (a + 8, a - 8 - wide)]
        for left, base in tried:
            box = (left, base - 10, left + wide, base + 2)
            inside = box[0] >= across[0] and box[2] <= across[1] + 8 and box[1] >= down[0] - 4 and box[3] <= down[1]
            if inside and not any(box[0] < o[2] and o[0] < box[2] and box[1] < o[3] and o[1] < box[3] for o in taken):
                taken.append(box)
                made.append(svg.tag("g", svg.label(text, left, base, "t end"), class_=role))
                break
    return made
