"""The words of daily and clinic notes: one line, every sign with its movement, in an order of the author's."""

from __future__ import annotations

from collections.abc import Sequence

from lang1.simulator.daily_signs import (
    CLINIC,
    CLINIC_FILLER,
    CLINIC_LINES,
    DAY,
    DAY_FILLER,
    DAY_LINES,
    MOVES,
    SHIFT,
    SHIFT_FILLER,
    SHIFT_LINES,
    DailySign,
)
from lang1.simulator.filler import pick
from lang1.simulator.signs import Sign


def day(style: int, number: int, hour: int, said: Sequence[int], author: int, u: float) -> str:
    """The doctors' note of day ``number`` after an admission in the hour ``hour``."""
    signs = _signs(DAY, style, said, 2 * author + number)
    return DAY_LINES[style].format(day=number, hour=hour, filler=pick(DAY_FILLER, u), signs=signs)


def shift(style: int, said: Sequence[int], author: int, u: float) -> str:
    """The nurses' note of a shift."""
    return SHIFT_LINES[style].format(signs=_signs(SHIFT, style, said, author), filler=pick(SHIFT_FILLER, u))


def clinic(style: int, said: Sequence[int], u: float) -> str:
    """The note of a clinic visit."""
    signs = _signs(CLINIC, style, said, int(u * 1000))
    return CLINIC_LINES[style].format(signs=signs, filler=pick(CLINIC_FILLER, u))


def _signs(signs: Sequence[DailySign | Sign], style: int, said: Sequence[int], start: int) -> str:
    n = len(signs)
    order = [(k + start) % n for k in range(n)]
    return ", ".join(f"{signs[k].names[style]} {MOVES[style][said[k] + 1]}" for k in order)
