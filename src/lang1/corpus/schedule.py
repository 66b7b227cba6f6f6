"""From which source each row of a training comes: weights that may change over the training, and caps on epochs.

The rows of a training are cut into segments in which the shares do not change. A segment has a pattern, whole rows by
largest remainder, which repeats until the segment ends; with constant weights and no cap there is one segment without
end. Everything is worked out from the settings before the first step, so that any row can be placed by itself.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from pydantic import Field

from lang1.common.errors import SettingsError
from lang1.common.settings import Settings

# Rows after which a pattern repeats: constant weights are met to one in this many.
PERIOD = 10_000
# Changing weights are followed in about this many segments, none longer than a period.
_SEGMENTS = 1_000
_KEPT_PATTERNS = 4

Ints = npt.NDArray[np.int64]


class MixturePoint(Settings):
    """The weights of the sources at one point of a training; between two points they change linearly."""

    at: float = Field(ge=0, le=1, description="how much of the training is done, 0 to 1")
    weights: dict[str, float]


@dataclass(frozen=True)
class _Segment:
    """Rows from ``first`` on: ``quota`` rows of each source in every ``period``; ``taken`` rows came before.

    ``asked`` are the shares that the weights ask for, before caps moved any of them.
    """

    first: int
    period: int
    quota: tuple[int, ...]
    taken: tuple[int, ...]
    asked: tuple[float, ...]


class Schedule:
    """Which source each row comes from, and which row of that source it is.

    Args:
        points: fractions of the training, not falling, each with the shares of the K sources there, summing to 1.
            Two points at the same fraction are a jump. One point alone holds throughout.
        limits: rows that each source may give; None sets no limit. A source that has given them leaves its share to
            the others in their proportions.
        rows: of the whole training; needed where the weights change.

    Raises:
        SettingsError: fractions that fall, changing weights without ``rows``, or limits that end before ``rows``.
    """

    def __init__(
        self, points: Sequence[tuple[float, Sequence[float]]], limits: Sequence[int | None], rows: int | None
    ) -> None:
        self._points = [(at, tuple(shares)) for at, shares in points]
        if any(later[0] < earlier[0] for earlier, later in pairwise(points)):
            raise SettingsError("mixture: the points' `at` must not fall from one to the next.")
        self._limits, self.rows = tuple(limits), rows
        self._constant = all(shares == self._points[0][1] for _, shares in self._points)
        if not self._constant and rows is None:
            raise SettingsError("mixture: weights that change over a training need its length in steps.")
        self._segments: list[_Segment] = []
        # One past the last row that can be given; None where there is no end.
        self.end: int | None = None if self._constant else rows
        self._plan()
        self._starts = [segment.first for segment in self._segments]
        self._patterns: OrderedDict[tuple[int, tuple[int, ...]], tuple[Ints, Ints]] = OrderedDict()
        if rows is not None and self.end is not None and self.end < rows:
            raise SettingsError(
                f"epochs_cap: the sources end after {self.end} of {rows} rows; raise a cap or train on fewer tokens."
            )

    def place(self, at: Ints) -> tuple[Ints, Ints]:
        """Number of the source, and the row's number within it, of rows ``at``, shape (n,), int64 each.

        Raises:
            SettingsError: a row past the end of the training, or of all sources.
        """
        if len(at) and self.end is not None and int(at.max()) >= self.end:
            raise SettingsError(f"row {int(at.max())} lies past the last row {self.end - 1} of this mixture.")
        sources, rows = np.empty(len(at), dtype=np.int64), np.empty(len(at), dtype=np.int64)
        segment_of = np.searchsorted(self._starts, at, side="right") - 1
        for number in np.unique(segment_of):
            here, segment = segment_of == number, self._segments[number]
            pattern, before = self._pattern(segment)
            period, place = np.divmod(at[here] - segment.first, segment.period)
            found = pattern[place]
            sources[here] = found
            rows[here] = np.array(segment.taken)[found] + period * before[-1, found] + before[place, found]
        return sources, rows

    def taken(self, rows: int) -> Ints:
        """Rows of each source among the first ``rows``, shape (K,)."""
        segment = self._segments[bisect_right(self._starts, rows) - 1]
        _, before = self._pattern(segment)
        period, place = divmod(rows - segment.first, segment.period)
        total: Ints = np.array(segment.taken) + period * before[-1] + before[place]
        return total

    def asked(self, rows: int) -> npt.NDArray[np.float64]:
        """Mean share that the weights ask for over the first ``rows``, caps aside, shape (K,)."""
        total = np.zeros(len(self._limits))
        for number, segment in enumerate(self._segments):
            stop = self._starts[number + 1] if number + 1 < len(self._starts) else rows
            total += np.array(segment.asked) * max(0, min(stop, rows) - segment.first)
        return total / max(rows, 1)

    def _plan(self) -> None:
        start, taken, carry = 0, [0] * len(self._limits), [0.0] * len(self._limits)
        for stop, asked in self._intervals():
            while stop is None or start < stop:
                shares = self._shared(asked, taken)
                if shares is None:
                    self.end = start
                    return
                period = PERIOD if stop is None else stop - start
                exact = [share * period + late for share, late in zip(shares, carry, strict=True)]
                quota = _whole(exact, period, shares)
                segment = _Segment(start, period, tuple(quota), tuple(taken), asked)
                self._segments.append(segment)
                cut = self._exhausted(segment, stop)
                if cut is None:
                    if stop is None:
                        return
                    # What rounding left over goes into the next segment, or a small share would never get its row.
                    carry = [a - b for a, b in zip(exact, quota, strict=True)]
                    taken = [a + b for a, b in zip(taken, quota, strict=True)]
                    start = stop
                else:
                    carry = [0.0] * len(taken)
                    _, before = _pattern(period, segment.quota)
                    periods, place = divmod(cut - start, period)
                    taken = [t + periods * q + int(b) for t, q, b in zip(taken, quota, before[place], strict=True)]
                    start = cut

    def _intervals(self) -> list[tuple[int | None, tuple[float, ...]]]:
        """Ends of the stretches with constant weights, and their weights; None is without end."""
        if self._constant:
            return [(None, self._points[0][1])]
        assert self.rows is not None
        step = min(PERIOD, max(1, self.rows // _SEGMENTS))
        found: list[tuple[int | None, tuple[float, ...]]] = []
        for begin in range(0, self.rows, step):
            stop = min(begin + step, self.rows)
            found.append((stop, self._shares((begin + stop) / 2 / self.rows)))
        return found

    def _shares(self, at: float) -> tuple[float, ...]:
        """Shares at a fraction of the training. Plain Python floats: the same on every machine."""
        after = bisect_right([point for point, _ in self._points], at)
        if after == 0:
            return self._points[0][1]
        if after == len(self._points):
            return self._points[-1][1]
        (low, first), (high, second) = self._points[after - 1], self._points[after]
        part = (at - low) / (high - low)
        return tuple(a * (1 - part) + b * part for a, b in zip(first, second, strict=True))

    def _shared(self, asked: Sequence[float], taken: Sequence[int]) -> list[float] | None:
        """Shares of the sources that have rows left; None where none that is asked for has."""
        live = [limit is None or rows < limit for limit, rows in zip(self._limits, taken, strict=True)]
        if all(live):
            return list(asked)
        kept = [share if there else 0.0 for share, there in zip(asked, live, strict=True)]
        total = sum(kept)
        return [share / total for share in kept] if total > 0 else None

    def _exhausted(self, segment: _Segment, stop: int | None) -> int | None:
        """The row of a segment before ``stop`` from which on a source has nothing left; None if there is none."""
        first: int | None = None
        for source, (limit, quota) in enumerate(zip(self._limits, segment.quota, strict=True)):
            left = limit - segment.taken[source] if limit is not None else None
            if left is None or not quota or (stop is not None and left >= quota):
                continue
            pattern, _ = _pattern(segment.period, segment.quota)
            periods, rest = divmod(left - 1, quota)
            row = segment.first + periods * segment.period + int(np.flatnonzero(pattern == source)[rest]) + 1
            first = row if first is None else min(first, row)
        return first

    def _pattern(self, segment: _Segment) -> tuple[Ints, Ints]:
        key = (segment.period, segment.quota)
        if key not in self._patterns:
            self._patterns[key] = _pattern(*key)
            if len(self._patterns) > _KEPT_PATTERNS:
                self._patterns.popitem(last=False)
        return self._patterns[key]


def normalised_weights(weights: Mapping[str, float], sources: Sequence[str]) -> dict[str, float]:
    """Weights by source, summing to 1, in the order of ``sources``.

    Raises:
        SettingsError: an unknown source, one without a weight, a negative weight, or nothing but zeros.
    """
    for name, weight in weights.items():
        if name not in sources:
            raise SettingsError(f"weights.{name}: there is no such source; sources are {', '.join(sources)}.")
        if not (weight >= 0 and np.isfinite(weight)):
            raise SettingsError(f"weights.{name}: expected a number of at least 0, got {weight}.")
    missing = [name for name in sources if name not in weights]
    if missing:
        raise SettingsError(f"weights.{missing[0]} is missing: give every source a weight (0 leaves it out).")
    total = sum(weights.values())
    if total <= 0:
        raise SettingsError("weights: at least one source needs a weight above 0.")
    return {name: weights[name] / total for name in sources}


def _whole(exact: Sequence[float], period: int, shares: Sequence[float]) -> list[int]:
    """Whole rows that add up to ``period``, by largest remainder; none to a source without a share."""
    quota = [max(0, int(value // 1)) if share > 0 else 0 for value, share in zip(exact, shares, strict=True)]
    wanted = [source for source, share in enumerate(shares) if share > 0]
    short = period - sum(quota)
    for source in sorted(wanted, key=lambda k: quota[k] - exact[k])[: max(short, 0)]:
        quota[source] += 1
    while sum(quota) > period:  # a source that was given too many rows before cannot give any back
        quota[max((k for k in wanted if quota[k]), key=lambda k: quota[k] - exact[k])] -= 1
    while sum(quota) < period:  # a source that is owed rows has run out
        quota[min(wanted, key=lambda k: quota[k] - exact[k])] += 1
    return quota


def _pattern(period: int, quota: Sequence[int]) -> tuple[Ints, Ints]:
    """Which source each row of a period comes from, (P,), and rows of each source before each place, (P + 1, K).

    Each row goes to the source that lags most behind its share: at any place the rows of a source differ from its
    share by little more than one. A source never lags by a period or more, so that all quotas are met at the end.
    """
    lag = [0] * len(quota)
    pattern = np.empty(period, dtype=np.int64)
    for place in range(period):
        lag = [late + more for late, more in zip(lag, quota, strict=True)]
        chosen = lag.index(max(lag))
        lag[chosen] -= period
        pattern[place] = chosen
    before = np.zeros((period + 1, len(quota)), dtype=np.int64)
    np.cumsum(pattern[:, None] == np.arange(len(quota)), axis=0, out=before[1:])
    return pattern, before
