"""A small SVG kit: shapes, scales and markers as inline SVG that takes its colours from the page's style sheet.

Every drawing is ``role="img"`` with a title and a description; text is escaped. Sizes are in user units, about one
CSS pixel where the drawing is shown at its natural width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

Point = tuple[float, float]
AVERAGE_GLYPH = 0.56  # width of a glyph of a system sans font over its size; measured on typical labels


def text_width(text: str, size: float) -> float:
    """About how wide a text is, in user units."""
    return len(text) * size * AVERAGE_GLYPH


def _number(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


def tag(name: str, body: str | Markup = "", /, **attributes: object) -> Markup:
    """An element; ``class_`` and ``stroke_width`` become ``class`` and ``stroke-width``, floats get one decimal."""
    parts = [f"<{name}"]
    for key, value in attributes.items():
        if value is None:
            continue
        shown = _number(value) if isinstance(value, float) else str(value)
        parts.append(f' {key.rstrip("_").replace("_", "-")}="{escape(shown)}"')
    opening = "".join(parts)
    return Markup(f"{opening}>{escape(body)}</{name}>") if body else Markup(f"{opening}/>")


@dataclass
class Drawing:
    """Shapes collected into one inline SVG of ``width`` × ``height`` user units."""

    width: float
    height: float
    uid: str
    title: str
    description: str
    shapes: list[Markup] = field(default_factory=list)

    def add(self, *shapes: Markup) -> None:
        """Draw shapes on top of those before."""
        self.shapes.extend(shapes)

    def render(self, class_: str = "plot") -> Markup:
        """The ``<svg>`` element."""
        head = tag("title", self.title, id=f"{self.uid}-t") + tag("desc", self.description, id=f"{self.uid}-d")
        return tag(
            "svg",
            head + Markup("").join(self.shapes),
            class_=class_,
            viewBox=f"0 0 {_number(self.width)} {_number(self.height)}",
            width=_number(self.width),
            height=_number(self.height),
            role="img",
            aria_labelledby=f"{self.uid}-t {self.uid}-d",
        )


@dataclass(frozen=True)
class Scale:
    """A linear map from data to user units."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        return self.start + (self.end - self.start) * ((value - self.low) / span if span else 0.5)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round tick values inside [low, high], about ``wanted`` of them, in steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A straight line."""
    return tag("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=class_)


def label(text: str, x: float, y: float, class_: str = "t", anchor: str | None = None) -> Markup:
    """A text; ``anchor`` is start (default), middle or end."""
    return tag("text", text, x=float(x), y=float(y), class_=class_, text_anchor=anchor)


def path(points: Sequence[Point], class_: str) -> Markup:
    """A polyline through points in user units; points nearer than 0.7 to the one before are not drawn."""
    kept: list[Point] = []
    for place, point in enumerate(points):
        if not kept or math.dist(point, kept[-1]) >= 0.7 or place == len(points) - 1:
            kept.append(point)
    steps = " ".join(f"{_number(x)},{_number(y)}" for x, y in kept)
    return tag("polyline", points=steps, class_=class_)


def marker(shape: str, x: float, y: float, class_: str, size: float = 5.0, title: str = "") -> Markup:
    """A marker centred on (x, y), ``size`` being about its radius; ``title`` shows on hover."""
    body: str | Markup = tag("title", title) if title else ""
    if shape == "circle":
        return tag("circle", body, cx=float(x), cy=float(y), r=float(size), class_=class_)
    if shape in ("tick", "bar"):
        height = size * (1.5 if shape == "tick" else 1.15)
        half = 1.75 if shape == "tick" else 1.5
        return tag("rect", body, x=x - half, y=y - height, width=2 * half, height=2 * height, rx=1.0, class_=class_)
    outline = {
        "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
        "diamond": ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
        "triangle": ((0, -1.15), (1.1, 0.85), (-1.1, 0.85)),
        "wedge": ((0, 1.15), (1.1, -0.85), (-1.1, -0.85)),
        "cross": (
            *((-0.4, -1.1), (0.4, -1.1), (0.4, -0.4), (1.1, -0.4), (1.1, 0.4), (0.4, 0.4)),
            *((0.4, 1.1), (-0.4, 1.1), (-0.4, 0.4), (-1.1, 0.4), (-1.1, -0.4), (-0.4, -0.4)),
        ),
    }[shape]
    corners = " ".join(f"{_number(x + size * dx)},{_number(y + size * dy)}" for dx, dy in outline)
    return tag("polygon", body, points=corners, class_=class_)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions as near to the wanted ones as a gap between neighbours allows, inside [low, high]; keeps the order."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed: list[float] = []
    for i in order:
        placed.append(max(wanted[i], placed[-1] + gap if placed else low))
    ceiling = high
    for k in reversed(range(len(placed))):
        placed[k] = min(placed[k], ceiling)
        ceiling = placed[k] - gap
    result = [0.0] * len(wanted)
    for position, i in zip(placed, order, strict=True):
        result[i] = position
    return result
