"""Numbers as a reader meets them: AUROC to three decimals, intervals, percentages, counts, durations."""

from __future__ import annotations

import math
import re

DASH = "–"
MINUS = "−"
THIN = "\u202f"  # narrow no-break space: keeps a number and its unit on one line


def fixed(value: float | None, digits: int = 3) -> str:
    """``0.812``; a dash where the value is unknown. Never ``-0.000``."""
    if value is None or not math.isfinite(value):
        return DASH
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def signed(value: float | None, digits: int = 3) -> str:
    """``+0.012`` or ``−0.012``; zero has no sign."""
    text = fixed(value, digits)
    return f"+{text}" if value is not None and text != DASH and text[0] != MINUS and float(text) != 0 else text


def interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """``0.790–0.833``; with "to" where a bound is negative, since a dash would read as a sign.

    Empty where it is unknown or a single point (a constant has no spread to show).
    """
    if low is None or high is None or low == high:
        return ""
    joint = " to " if low < 0 or high < 0 else DASH
    return f"{fixed(low, digits)}{joint}{fixed(high, digits)}"


def signed_interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """``+0.010 to +0.034``. Empty if unknown."""
    return "" if low is None or high is None else f"{signed(low, digits)} to {signed(high, digits)}"


def with_interval(value: float | None, low: float | None, high: float | None, digits: int = 3) -> str:
    """``0.812 (0.790–0.833)``; the value alone where there is no interval."""
    between = interval(low, high, digits)
    return f"{fixed(value, digits)} ({between})" if between else fixed(value, digits)


def signed_with_interval(value: float | None, low: float | None, high: float | None, digits: int = 3) -> str:
    """``+0.022 (+0.010 to +0.034)``."""
    between = signed_interval(low, high, digits)
    return f"{signed(value, digits)} ({between})" if between else signed(value, digits)


def percent(share: float | None) -> str:
    """A share in [0, 1] as ``63 %``, under ten percent with one decimal (``2.4 %``)."""
    if share is None or not math.isfinite(share):
        return DASH
    value = 100 * share
    digits = 1 if 0 < abs(value) < 9.95 else 0
    return f"{fixed(value, digits)}{THIN}%"


def percent_interval(low: float | None, high: float | None) -> str:
    """``58–68 %``. Empty if unknown or a single point."""
    if low is None or high is None or low == high:
        return ""
    joint = " to " if low < 0 else DASH
    return f"{fixed(100 * low, 0)}{joint}{fixed(100 * high, 0)}{THIN}%"


def count(value: float | None) -> str:
    """``1,204``."""
    return DASH if value is None or not math.isfinite(value) else f"{value:,.0f}".replace("-", MINUS)


def compact(value: float | None) -> str:
    """``3.4 M``, ``120 k``: for axes and costs."""
    if value is None or not math.isfinite(value):
        return DASH
    for scale, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale:
            scaled = value / scale
            return f"{scaled:.0f}{THIN}{suffix}" if scaled >= 99.5 else f"{scaled:.3g}{THIN}{suffix}"
    return f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """``4 min 12 s``, ``2 h 05 min``."""
    if seconds is None or not math.isfinite(seconds):
        return DASH
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{seconds:.1f}{THIN}s" if seconds < 10 else f"{whole}{THIN}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}{THIN}min {rest:02d}{THIN}s"
    return f"{minutes // 60}{THIN}h {minutes % 60:02d}{THIN}min"


def p_value(note: str | None) -> str:
    """The p-value out of a paired row's note: ``0.004``, ``<0.001``; other text as it stands."""
    if not note:
        return DASH
    match = re.search(r"(?:^|p\s*)([=<≤]?)\s*(\d*\.?\d+(?:[eE][-+]?\d+)?)", note.strip())
    if match is None:
        return note
    value = float(match.group(2))
    if value > 1:
        return note
    if value < 0.001:
        return "<0.001"
    sign = "<" if match.group(1) in ("<", "≤") else ""
    return f"{sign}{value:.3f}" if value < 0.0995 else f"{sign}{value:.2f}"


def join(names: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""


def plural(number: int, noun: str) -> str:
    """``1 task``, ``5 tasks``."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"
