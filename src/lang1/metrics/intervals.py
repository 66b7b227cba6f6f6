"""Intervals from bootstrap draws: percentile, bias-corrected and accelerated, and normal in log-odds.

Which one covers what it promises was measured (docs/statistics.md, ``benchmarks/eval_coverage.py``).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import stats

from lang1.metrics.auroc import Floats

# A number that exists in fewer of the resamples than this has no interval.
LEAST_SHARE = 0.9


def usable(draws: npt.ArrayLike) -> Floats:
    """The resamples in which the number exists; none where it exists in fewer than 9 of 10."""
    found = np.asarray(draws, dtype=np.float64)
    kept = found[np.isfinite(found)]
    return kept if len(kept) and len(kept) >= LEAST_SHARE * len(found) else np.empty(0)


def percentile(draws: npt.ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval; NaN where :func:`usable` leaves nothing."""
    kept = usable(draws)
    if not len(kept):
        return float("nan"), float("nan")
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bca(
    draws: npt.ArrayLike, value: float, influence: npt.ArrayLike | None = None, level: float = 0.95
) -> tuple[float, float]:
    """Bias-corrected and accelerated percentile interval (Efron, JASA 1987).

    Args:
        draws: ``[R]``.
        value: the estimate on the data.
        influence: each patient's deviation (``AreaParts.influence``), whose skewness gives the acceleration; None
            leaves the acceleration at 0 (bias-corrected only).
        level: nominal coverage.
    """
    kept = usable(draws)
    if not len(kept) or not math.isfinite(value):
        return float("nan"), float("nan")
    below = float((kept < value).mean() + 0.5 * (kept == value).mean())
    if not 0 < below < 1:
        return percentile(kept, level)
    shift = float(stats.norm.ppf(below))
    acceleration = 0.0
    if influence is not None:
        parts = np.asarray(influence, dtype=np.float64)
        spread = float((parts**2).sum())
        acceleration = float((parts**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    moved = shift + stats.norm.ppf([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(kept, stats.norm.cdf(shift + moved / (1 - acceleration * moved)))
    return float(low), float(high)


def in_log_odds(
    draws: npt.ArrayLike, value: float, level: float = 0.95, df: float | None = None
) -> tuple[float, float]:
    """Symmetric about ``value`` in log-odds, as wide as the draws' spread there; for numbers in (0, 1).

    ``df`` takes Student's t in place of the normal. Percentile where a draw or the value is 0 or 1.
    """
    kept = usable(draws)
    if not len(kept) or not math.isfinite(value):
        return float("nan"), float("nan")
    if not (0 < value < 1 and kept.min() > 0 and kept.max() < 1) or len(kept) < 2:
        return percentile(kept, level)
    spread = float(np.std(np.log(kept / (1 - kept)), ddof=1))
    quantile = float(stats.norm.ppf((1 + level) / 2) if df is None else stats.t.ppf((1 + level) / 2, df))
    centre = math.log(value / (1 - value))
    low, high = 1 / (1 + np.exp(-np.array([centre - quantile * spread, centre + quantile * spread])))
    return float(low), float(high)


def around(draws: npt.ArrayLike, value: float, level: float = 0.95, df: float | None = None) -> tuple[float, float]:
    """Symmetric about ``value``, as wide as the draws' standard deviation; for differences and means."""
    kept = usable(draws)
    if len(kept) < 2 or not math.isfinite(value):
        return float("nan"), float("nan")
    quantile = float(stats.norm.ppf((1 + level) / 2) if df is None else stats.t.ppf((1 + level) / 2, df))
    reach = quantile * float(np.std(kept, ddof=1))
    return value - reach, value + reach
