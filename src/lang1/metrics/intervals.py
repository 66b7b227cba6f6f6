"""Intervals from bootstrap draws: percentile, bias-corrected and accelerated, and normal in log-odds.

Which one covers what it promises was measured (docs/statistics.md, ``benchmarks/eval_coverage.py``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import stats

from lang1.metrics.auroc import Floats

# A number that exists in fewer of the resamples than this has no interval.
LEAST_SHARE = 0.9


Method = Literal["student", "percentile", "bca", "log-odds"]
METHODS: tuple[str, ...] = get_args(Method)


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


def student_p(draws: npt.ArrayLike, value: float, df: float | None = None) -> float:
    """Two-sided p-value that a number is 0, from its draws' spread: fits :func:`around`."""
    kept = usable(draws)
    if len(kept) < 2 or not math.isfinite(value):
        return float("nan")
    error = float(np.std(kept, ddof=1))
    if error == 0:
        return 1.0 if value == 0 else float("nan")
    ratio = abs(value) / error
    return float(2 * (stats.norm.sf(ratio) if df is None else stats.t.sf(ratio, df)))


def percentile_p(differences: npt.ArrayLike) -> float:
    """Two-sided p-value that a paired difference is 0, from its resamples: twice the smaller tail, (k + 1)/(R + 1)."""
    found = np.asarray(differences, dtype=np.float64)
    found = found[np.isfinite(found)]
    if not len(found):
        return float("nan")
    tail = min(int((found <= 0).sum()), int((found >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (len(found) + 1))


@dataclass(frozen=True)
class Interval:
    """How draws become an interval: one rule for a whole evaluation.

    Attributes:
        method: ``student`` (the default: symmetric in log-odds for shares and plain for differences and errors, as wide
            as the draws' spread times Student's t), ``log-odds`` (the same with the normal quantile), ``percentile``
            or ``bca``.
        df: degrees of freedom of Student's t: patients of the rarer class, less one.
    """

    method: Method = "student"
    df: float | None = None

    @property
    def _df(self) -> float | None:
        return max(self.df, 1.0) if self.df is not None and self.method == "student" else None

    def share(self, draws: npt.ArrayLike, value: float, influence: npt.ArrayLike | None = None) -> tuple[float, float]:
        """Of a number in [0, 1]: AUROC, AUPRC, a share of rows. ``influence`` serves ``bca`` alone."""
        if self.method == "percentile":
            return percentile(draws)
        if self.method == "bca":
            return bca(draws, value, influence)
        if value in (0.0, 1.0) and self.df is not None and self.df >= 0:
            # No spread to measure: the exact binomial bound of as many independent patients.
            bound = 0.025 ** (1 / (self.df + 1))
            return (bound, 1.0) if value == 1.0 else (0.0, 1 - bound)
        return in_log_odds(draws, value, df=self._df)

    def difference(
        self, draws: npt.ArrayLike, value: float, influence: npt.ArrayLike | None = None
    ) -> tuple[float, float]:
        """Of a difference, or of a number without bounds."""
        if self.method == "percentile":
            return percentile(draws)
        if self.method == "bca":
            return bca(draws, value, influence)
        return around(draws, value, df=self._df)

    def p_value(self, draws: npt.ArrayLike, value: float) -> float:
        """That a difference is 0, by the same rule."""
        return percentile_p(draws) if self.method in ("percentile", "bca") else student_p(draws, value, self._df)


def rarer_patients(labels: npt.ArrayLike, subjects: npt.ArrayLike, classes: list[int] | None = None) -> float:
    """Patients of the rarest side, less one: the degrees of freedom of ``Interval``.

    Args:
        labels: class indices, ``[N]``.
        subjects: the patient of each row, ``[N]``.
        classes: those that are judged, each against the rest; None: class 1.
    """
    index, who = np.asarray(labels), np.asarray(subjects)
    sides = [who[(index == c) == side] for c in classes or [1] for side in (True, False)]
    return float(min((len(np.unique(side)) for side in sides), default=0) - 1)
