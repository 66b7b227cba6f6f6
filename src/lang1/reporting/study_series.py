"""How the series of a study's figures look: colour by role, marker and dash to tell series of one role apart, legends.

The paper's published values are hollow and dotted wherever they stand, so that nobody takes them for one's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lang1.reporting import svg
from lang1.reporting.study_schema import Series

MARKERS = ("circle", "square", "diamond", "triangle", "wedge", "cross")
FIRST_MARKER = {"specialist": 0, "self": 0, "generalist": 0, "baseline": 1}
DASHES = ("d0", "d5", "d2", "d3")
COLOURS = 6  # s0 … s5 of the style sheet
SIZE = 11.0  # of a legend's letters
ROW = 17.0
# Reference lines by name; others take dashes in turn, but for one at 0.
REFERENCE = {"chance": "chance", "guessing": "chance", "oracle": "ceiling"}


@dataclass(frozen=True)
class Look:
    """Classes and marker of a series."""

    role: str
    marker: str
    dash: str


def looks(series: Sequence[Series]) -> list[Look]:
    """A look for each series. Where all of ours share one role, colour tells them apart and not the role."""
    ours = [one for one in series if one.role not in ("paper", "oracle")]
    apart = len(ours) > 1 and len({one.role for one in ours}) == 1
    seen: dict[str, int] = {}
    made = []
    for one in series:
        place = seen.get(one.role, 0)
        seen[one.role] = place + 1
        if one.role == "paper":
            made.append(Look("r-paper", ("diamond", "triangle", "square", "wedge")[place % 4], "d-paper"))
        elif one.role == "oracle":
            made.append(Look("r-oracle", "bar", f"d{(0, 2, 4)[place % 3]}"))
        else:
            lap = place // COLOURS
            marker = MARKERS[(place + lap + FIRST_MARKER[one.role]) % len(MARKERS)]
            dash = "d-self" if one.role == "self" and not place and not apart else DASHES[(place + lap) % len(DASHES)]
            role = f"series s{place % COLOURS}" + (" open" if lap % 2 else "") if apart else f"r-{one.role}"
            made.append(Look(role, marker, dash))
    return made


def references(lines: Mapping[str, float]) -> dict[str, str]:
    """The class of each reference line by name; a line at 0 is what differences are read against."""
    return {
        name: REFERENCE.get(name.lower(), "zero" if at == 0 else f"chance d{2 + place % 4}")
        for place, (name, at) in enumerate(lines.items())
    }


@dataclass(frozen=True)
class Entry:
    """An entry of a legend: its drawing at the origin, 26 wide, and its name."""

    shape: Markup
    name: str


def entry(name: str, look: Look, kind: str) -> Entry:
    """A series as the legend shows it: a piece of line with its marker, a bar, or the marker alone."""
    shapes = Markup("")
    if kind == "lines":
        shapes += svg.line(0, 0, 24, 0, f"curve {look.dash}")
    if kind == "bars":
        shapes += svg.tag("rect", x=0.0, y=-5.0, width=24.0, height=10.0, class_="bar")
        shapes += svg.marker(look.marker, 24, 0, "mark", 3.5)
    else:
        shapes += svg.marker(look.marker, 12, 0, "mark", 4)
    return Entry(svg.tag("g", shapes, class_=look.role), name)


def line_entry(name: str, class_: str) -> Entry:
    """A reference line as the legend shows it."""
    return Entry(svg.line(0, 0, 24, 0, class_), name)


def legend(entries: Sequence[Entry], width: float, y: float) -> tuple[Markup, float]:
    """The legend in rows from ``y`` down, and how high it is. Long names are cut; their title has them whole."""
    x, rows, shapes = 0.0, 0, Markup("")
    for one in entries:
        most = max(int((width - 35) / (SIZE * svg.AVERAGE_GLYPH)), 8)
        name = one.name if len(one.name) <= most else one.name[: most - 1] + "…"
        needed = 33 + svg.text_width(name, SIZE) + 16
        if x and x + needed - 16 > width:
            x, rows = 0.0, rows + 1
        middle = y + ROW * (rows + 0.5)
        said = svg.tag("title", one.name) if name != one.name else Markup("")
        body = said + one.shape + svg.label(name, 33, 4, "t key")
        shapes += svg.tag("g", body, transform=f"translate({x + 1:.1f} {middle:.1f})")
        x += needed
    return shapes, ROW * (rows + 1) if entries else 0.0
