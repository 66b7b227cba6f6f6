"""Axes of a study's figures: where a number or a name lies, which ticks are drawn, and how they are written."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lang1.reporting import svg
from lang1.reporting.numbers import compact, fixed
from lang1.reporting.study_schema import Axis, Series

PAD = 0.05  # of the axis's length, on either side of the data


@dataclass(frozen=True)
class Numbers:
    """An axis of numbers. On a logarithmic one, what is not above 0 stands at ``zero``, a place of its own."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    zero: float | None = None

    def __call__(self, value: float) -> float:
        if not self.log:
            return svg.Scale(self.low, self.high, self.start, self.end)(value)
        if value <= 0:
            return self.start if self.zero is None else self.zero
        return svg.Scale(math.log10(self.low), math.log10(self.high), self.start, self.end)(math.log10(value))

    def ticks(self, wanted: int = 5) -> list[tuple[float, str]]:
        """Places in user units with their texts."""
        if self.log:
            first = [] if self.zero is None else [(self.zero, "0")]
            return first + [(self(v), compact(v)) for v in log_ticks(self.low, self.high)]
        values = svg.ticks(self.low, self.high, wanted)
        return [(self(v), text) for v, text in zip(values, tick_texts(values), strict=True)]


@dataclass(frozen=True)
class Names:
    """An axis of names, each with a slot of its own."""

    names: Sequence[str]
    start: float
    end: float

    @property
    def pitch(self) -> float:
        """Width of a slot."""
        return (self.end - self.start) / max(len(self.names), 1)

    def __call__(self, name: float | str) -> float:
        return self.start + self.pitch * (list(self.names).index(str(name)) + 0.5)


def numbers(values: Iterable[float], start: float, end: float, log: bool = False) -> Numbers:
    """An axis that holds the values with a little room. Shares (all in [0, 1]) get no room beyond 0 and 1."""
    found = [v for v in values if math.isfinite(v)]
    if log:
        above = [v for v in found if v > 0]
        low, high = (min(above), max(above)) if above else (1.0, 10.0)
        room = max((math.log10(high) - math.log10(low)) * PAD, 0.08)
        low, high = 10 ** (math.log10(low) - room), 10 ** (math.log10(high) + room)
        if len(above) == len(found):
            return Numbers(low, high, start, end, True)
        return Numbers(low, high, start + 0.14 * (end - start), end, True, start + 0.04 * (end - start))
    low, high = (min(found), max(found)) if found else (0.0, 1.0)
    room = (high - low) * PAD or abs(high) * 0.1 or 1.0
    inside = low >= 0 and high <= 1
    low, high = (max(low - room, 0.0), min(high + room, 1.0)) if inside else (low - room, high + room)
    return Numbers(low, high, start, end)


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, with 2 and 5 (or 3) between them where there are few."""
    decades = math.log10(high) - math.log10(low)
    steps: tuple[int, ...] = (1,) if decades > 3.2 else (1, 3) if decades > 1.8 else (1, 2, 5)
    found = []
    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        found += [step * 10.0**power for step in steps if low <= step * 10.0**power <= high]
    return found or [low]


def tick_texts(values: Sequence[float]) -> list[str]:
    """Ticks written with as many decimals as their step needs; large ones as 3 k, 3 M."""
    if max((abs(v) for v in values), default=0) >= 10_000:
        return [compact(v) if v else "0" for v in values]
    step = min((b - a for a, b in itertools.pairwise(values)), default=0.1)
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 2
    return [fixed(v, digits) for v in values]


def names_of(axis: Axis, series: Sequence[Series]) -> list[str]:
    """The names of an axis: those that it declares, then those that only points bring, in their order."""
    found = [str(point.x) for one in series for point in one.points]
    return list(dict.fromkeys([*axis.names, *found]))


def is_names(axis: Axis, series: Sequence[Series]) -> bool:
    """Whether an axis shows names: declared so, or a point's place is a word."""
    return axis.scale == "names" or any(isinstance(point.x, str) for one in series for point in one.points)


def values_of(series: Sequence[Series]) -> list[float]:
    """Every value and bound that points bring."""
    return [v for one in series for p in one.points if p.y is not None for v in (p.y, p.low, p.high) if v is not None]


def readable(value: float | None) -> str:
    """A value on a figure: three decimals where it is below 10, else as short as it can be."""
    if value is None or abs(value) < 10:
        return fixed(value)
    return fixed(value, 1) if abs(value) < 1000 else compact(value)


def wrap(text: str, size: float, width: float, lines: int = 3) -> list[str]:
    """A text in at most so many lines of a width in user units; what does not fit ends in an ellipsis."""
    most = max(int(width / (size * svg.AVERAGE_GLYPH)), 4)
    made: list[str] = []
    for word in text.split():
        for place, piece in enumerate(_pieces(word, most)):
            joint = "" if place else " "
            if made and len(made[-1]) + len(joint) + len(piece) <= most:
                made[-1] += joint + piece
            else:
                made.append(piece)
    if len(made) > lines:
        made = [*made[: lines - 1], made[lines - 1][: most - 1] + "…"]
    return made or [""]


def _pieces(word: str, most: int) -> list[str]:
    """A word that is too long for a line, taken apart after dots, dashes and underscores, or anywhere at worst."""
    if len(word) <= most:
        return [word]
    parts = [part for part in re.split(r"(?<=[._/+-])", word) if part]
    return [part[k : k + most] for part in parts for k in range(0, len(part), most)]
