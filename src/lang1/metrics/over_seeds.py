"""A figure over several trainings of one model: its mean, with an interval for patients and trainings together.

The trainings (seeds) are judged on the same patients, so their figures share the patients' luck. The variance of
their mean has two parts: of the patients (the spread of the mean over bootstrap resamples) and of the trainings (the
spread between seeds, less what of it the patients cause, over their number). Degrees of freedom are Satterthwaite's
(Biometrics Bulletin 1946).

Two or three seeds tell little about their own spread: alone, an interval from two covers too seldom and is at times
nine times too wide. So the spread can be drawn towards that of like trainings (``pooled``), which weighs as much as
``WEIGHT`` seeds more, as genes are in microarray analysis (Smyth, Stat. Appl. Genet. Mol. Biol. 2004), and stands for
the whole spread of a single training. What both cover was measured (docs/statistics.md,
``benchmarks/study_coverage.py``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from lang1.common.errors import InputError
from lang1.metrics.auroc import Floats
from lang1.metrics.intervals import usable

# Degrees of freedom that the spread of like trainings is worth beside a figure's own; measured, see the module's text.
WEIGHT = 4.0


@dataclass(frozen=True)
class OverSeeds:
    """Mean, interval and two-sided p-value that it is 0; ``between`` is the standard deviation between trainings."""

    value: float
    low: float
    high: float
    p: float
    seeds: int
    between: float | None


@dataclass(frozen=True)
class Pooled:
    """Variance between like trainings that patients do not explain, and the degrees of freedom it was measured with."""

    variance: float
    df: float


@dataclass(frozen=True)
class _Trainings:
    """What trainings add to the variance of their mean: the part, and what its uncertainty is told from."""

    part: float = 0.0
    measured: float = 0.0
    df: float = 1.0

    @property
    def uncertain(self) -> float:
        return self.measured**2 / self.df


def over_seeds(
    values: npt.ArrayLike,
    draws: npt.ArrayLike,
    df: float,
    *,
    share: bool = False,
    level: float = 0.95,
    pooled: Pooled | None = None,
) -> OverSeeds:
    """Combine the figures of several trainings.

    Args:
        values: each training's figure, ``[S]``.
        draws: the same in each bootstrap resample of the patients, ``[S, R]``; the same resamples for all.
        df: degrees of freedom of the patients' part (patients of the rarer class, less one).
        share: the figure lies in [0, 1], as an AUROC does: the interval is made in log-odds and stays inside. False
            for differences.
        level: nominal coverage.
        pooled: how far like trainings lie apart, as :func:`spread` gives it (with ``share`` in log-odds); None: these
            alone tell.

    Raises:
        InputError: shapes that do not fit.
    """
    each, table = _checked(values, draws)
    value, size = float(each.mean()), len(each)
    between = float(each.std(ddof=1)) if size > 1 else None
    kept = len(usable(table.mean(axis=0)))
    if kept < 2 or not math.isfinite(value):
        return OverSeeds(value, math.nan, math.nan, math.nan, size, between)
    if share and value in (0.0, 1.0):
        # No spread to measure: the exact binomial bound of as many independent patients.
        bound = ((1 - level) / 2) ** (1 / (max(df, 0.0) + 1))
        low, high = (bound, 1.0) if value == 1.0 else (0.0, 1 - bound)
        return OverSeeds(value, low, high, math.nan, size, between)
    odds = share and _inside(each, table)
    if share and not odds and pooled is not None:  # from log-odds to the plain scale (delta method)
        pooled = Pooled(pooled.variance * (value * (1 - value)) ** 2, pooled.df)
    numbers, parts = _scaled(each, table, odds)
    found = _interval(
        float(_log_odds(value)) if odds else value,
        float(np.var(parts.mean(axis=0), ddof=1)),
        df,
        [_trainings(numbers, parts, pooled)],
        level,
    )
    low, high, p = found
    if odds:
        low, high = 1 / (1 + math.exp(-low)), 1 / (1 + math.exp(-high))
    elif share:
        low, high = max(low, 0.0), min(high, 1.0)
    return OverSeeds(value, low, high, math.nan if share else p, size, between)


def difference_over_seeds(
    ones: tuple[npt.ArrayLike, npt.ArrayLike],
    others: tuple[npt.ArrayLike, npt.ArrayLike],
    df: float,
    *,
    level: float = 0.95,
    pooled: tuple[Pooled | None, Pooled | None] = (None, None),
) -> OverSeeds:
    """The mean figure of some trainings minus that of others, on the same patients; their seeds are not paired.

    Args:
        ones: values ``[S]`` and draws ``[S, R]``, as for :func:`over_seeds`.
        others: the same of the others, ``[T]`` and ``[T, R]``.
        df: of the patients' part.
        level: nominal coverage.
        pooled: how far trainings like the ones, and like the others, lie apart (plain scale).

    Raises:
        InputError: shapes that do not fit.
    """
    (mine, my_draws), (theirs, their_draws) = _checked(*ones), _checked(*others)
    if my_draws.shape[1] != their_draws.shape[1]:
        raise InputError(f"difference_over_seeds: {my_draws.shape[1]} and {their_draws.shape[1]} resamples.")
    value, size = float(mine.mean() - theirs.mean()), max(len(mine), len(theirs))
    gaps = my_draws.mean(axis=0) - their_draws.mean(axis=0)
    kept = usable(gaps)
    if len(kept) < 2 or not math.isfinite(value):
        return OverSeeds(value, math.nan, math.nan, math.nan, size, None)
    trainings = [
        _trainings(*_scaled(numbers, table, False), prior)
        for numbers, table, prior in ((mine, my_draws, pooled[0]), (theirs, their_draws, pooled[1]))
    ]
    low, high, p = _interval(value, float(np.var(kept, ddof=1)), df, trainings, level)
    return OverSeeds(value, low, high, p, size, None)


def spread(values: npt.ArrayLike, draws: npt.ArrayLike, *, share: bool = False) -> float | None:
    """The variance between trainings that patients do not explain, below 0 where luck has it so; None for one training.

    Arguments as for :func:`over_seeds`; with ``share`` in log-odds, None where a figure or a draw is 0 or 1.
    """
    each, table = _checked(values, draws)
    if len(each) < 2 or (share and not _inside(each, table)):
        return None
    numbers, parts = _scaled(each, table, share)
    if parts.shape[1] < 2:
        return None
    return float(np.var(numbers, ddof=1)) - _of_patients(parts)


def _checked(values: npt.ArrayLike, draws: npt.ArrayLike) -> tuple[Floats, Floats]:
    each, table = np.asarray(values, dtype=np.float64), np.asarray(draws, dtype=np.float64)
    if each.ndim != 1 or not len(each) or table.ndim != 2 or len(table) != len(each):
        raise InputError(f"over_seeds: {each.shape} figures for draws of shape {table.shape}; expected [S] and [S, R].")
    return each, table


def _inside(each: Floats, table: Floats) -> bool:
    known = table[np.isfinite(table)]
    return bool(((each > 0) & (each < 1)).all() and ((known > 0) & (known < 1)).all())


def _scaled(each: Floats, table: Floats, odds: bool) -> tuple[Floats, Floats]:
    whole = table[:, np.isfinite(table).all(axis=0)]
    return (_log_odds(each), _log_odds(whole)) if odds else (each, whole)


def _of_patients(parts: Floats) -> float:
    """What patients alone put between trainings: each answers them a little differently."""
    return float(np.var(parts - parts.mean(axis=0), axis=1, ddof=1).sum() / (len(parts) - 1))


def _trainings(numbers: Floats, parts: Floats, pooled: Pooled | None) -> _Trainings:
    size = len(numbers)
    if size < 2:  # one training tells nothing of others: like ones do
        known = pooled is not None and pooled.df > 0
        variance = max(pooled.variance, 0.0) if pooled is not None and known else 0.0
        return _Trainings(variance, variance, min(WEIGHT, pooled.df) if pooled is not None and known else 1.0)
    own, df = _of_patients(parts), float(size - 1)
    variance = float(np.var(numbers, ddof=1))
    if pooled is not None and pooled.df > 0:
        weight = min(WEIGHT, pooled.df)
        variance = (weight * (max(pooled.variance, 0.0) + own) + df * variance) / (weight + df)
        df += weight
    return _Trainings(max(variance - own, 0.0) / size, variance / size, df)


def _interval(
    centre: float, of_patients: float, df: float, trainings: Sequence[_Trainings], level: float
) -> tuple[float, float, float]:
    whole = of_patients + sum(part.part for part in trainings)
    if whole == 0:
        return centre, centre, 1.0 if centre == 0 else 0.0
    error = math.sqrt(whole)
    uncertain = of_patients**2 / max(df, 1.0) + sum(part.uncertain for part in trainings if part.part > 0)
    freedom = max(whole**2 / uncertain, 1.0)
    reach = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    return centre - reach, centre + reach, float(2 * stats.t.sf(abs(centre) / error, freedom))


def _log_odds(x: float | Floats) -> Floats:
    found = np.asarray(x, dtype=np.float64)
    return np.asarray(np.log(found / (1 - found)))
