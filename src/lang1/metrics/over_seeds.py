"""A figure over several trainings of one model: its mean, with an interval for patients and trainings together.

The trainings (seeds) are judged on the same patients, so their figures share the patients' luck. The variance of
their mean has two parts: of the patients (the spread of the mean over bootstrap resamples) and of the trainings (the
spread between seeds over their number). The second also holds a little of the first, which makes the interval wider
rather than narrower. Degrees of freedom are Satterthwaite's (Biometrics Bulletin 1946).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from lang1.common.errors import InputError
from lang1.metrics.auroc import Floats
from lang1.metrics.intervals import usable


@dataclass(frozen=True)
class OverSeeds:
    """Mean, interval and two-sided p-value that it is 0; ``between`` is the standard deviation between trainings."""

    value: float
    low: float
    high: float
    p: float
    seeds: int
    between: float | None


def over_seeds(
    values: npt.ArrayLike, draws: npt.ArrayLike, df: float, *, share: bool = False, level: float = 0.95
) -> OverSeeds:
    """Combine the figures of several trainings.

    Args:
        values: each training's figure, ``[S]``.
        draws: the same in each bootstrap resample of the patients, ``[S, R]``; the same resamples for all.
        df: degrees of freedom of the patients' part (patients of the rarer class, less one).
        share: the figure lies in (0, 1), as an AUROC does: the interval is made in log-odds. False for differences.
        level: nominal coverage.

    Raises:
        InputError: shapes that do not fit.
    """
    each, table = np.asarray(values, dtype=np.float64), np.asarray(draws, dtype=np.float64)
    if each.ndim != 1 or not len(each) or table.ndim != 2 or len(table) != len(each):
        raise InputError(f"over_seeds: {each.shape} figures for draws of shape {table.shape}; expected [S] and [S, R].")
    value, size = float(each.mean()), len(each)
    between = float(each.std(ddof=1)) if size > 1 else None
    kept = usable(table.mean(axis=0))
    nothing = OverSeeds(value, float("nan"), float("nan"), float("nan"), size, between)
    if len(kept) < 2 or not math.isfinite(value):
        return nothing
    inside = share and 0 < value < 1 and bool((each > 0).all() and (each < 1).all())
    if inside and kept.min() > 0 and kept.max() < 1:
        centre, parts = float(_log_odds(value)), _log_odds(kept)
        trainings = _log_odds(each)
    elif share:
        return nothing
    else:
        centre, parts, trainings = value, kept, each
    of_patients = float(np.var(parts, ddof=1))
    of_trainings = float(np.var(trainings, ddof=1)) / size if size > 1 else 0.0
    error = math.sqrt(of_patients + of_trainings)
    if error == 0:
        return OverSeeds(value, value, value, 1.0 if value == 0 else 0.0, size, between)
    weight = of_patients**2 / max(df, 1.0) + (of_trainings**2 / (size - 1) if size > 1 else 0.0)
    freedom = (of_patients + of_trainings) ** 2 / weight
    reach = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    low, high = centre - reach, centre + reach
    p = float(2 * stats.t.sf(abs(value) / error, freedom)) if not share else float("nan")
    if share:
        low, high = 1 / (1 + math.exp(-low)), 1 / (1 + math.exp(-high))
    return OverSeeds(value, low, high, p, size, between)


def _log_odds(x: float | Floats) -> Floats:
    found = np.asarray(x, dtype=np.float64)
    return np.asarray(np.log(found / (1 - found)))
