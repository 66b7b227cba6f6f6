"""Effect sizes with intervals that hold for small counts: shares, differences, ratios, AUROCs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from lang1.metrics.auroc import Floats, auroc
from lang1.metrics.bootstrap import rank_draws, resample_counts

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Estimate:
    """A number and its interval."""

    value: float
    low: float
    high: float

    def figures(self, name: str) -> dict[str, float]:
        """As entries of a finding's figures."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def corrected(confidence: float, looked_at: int) -> float:
    """The confidence of each of several intervals that together hold with ``confidence`` (Bonferroni)."""
    return 1 - (1 - confidence) / max(looked_at, 1)


def normal_quantile(level: float) -> float:
    """How many standard errors a two-sided interval of this confidence spans on each side."""
    return float(stats.norm.ppf(0.5 + level / 2))


def share(hits: int, of: int, level: float) -> Estimate:
    """A share with its Wilson interval (Wilson, JASA 1927;22:209-12)."""
    if of == 0:
        return Estimate(float("nan"), 0.0, 1.0)
    low, high = wilson(np.array([hits]), np.array([of]), level)
    return Estimate(hits / of, float(low[0]), float(high[0]))


def wilson(hits: npt.ArrayLike, of: npt.ArrayLike, level: float) -> tuple[Floats, Floats]:
    """Wilson bounds of many shares; 0 and 1 where nothing was counted."""
    n = np.asarray(of, dtype=np.float64)
    safe = np.maximum(n, 1)
    p, z = np.asarray(hits, dtype=np.float64) / safe, normal_quantile(level)
    middle = (p + z**2 / (2 * safe)) / (1 + z**2 / safe)
    half = z * np.sqrt(p * (1 - p) / safe + z**2 / (4 * safe**2)) / (1 + z**2 / safe)
    return np.where(n > 0, np.maximum(middle - half, 0), 0.0), np.where(n > 0, np.minimum(middle + half, 1), 1.0)


def exact_low(hits: npt.ArrayLike, of: npt.ArrayLike, level: float) -> Floats:
    """Lower bounds of many shares, two-sided, exact (Clopper and Pearson, Biometrika 1934;26:404-13)."""
    k, n = np.asarray(hits, dtype=np.float64), np.asarray(of, dtype=np.float64)
    found = stats.beta.ppf((1 - level) / 2, np.maximum(k, 1), n - k + 1)
    return np.asarray(np.where(k > 0, found, 0.0))


def difference_low(
    hits: npt.ArrayLike, of: npt.ArrayLike, other_hits: npt.ArrayLike, other_of: npt.ArrayLike, level: float
) -> Floats:
    """Lower bounds of differences of two shares, from their Wilson bounds (Newcombe, Stat Med 1998;17:873-90)."""
    one, two = _ratio(hits, of), _ratio(other_hits, other_of)
    low, _ = wilson(hits, of, level)
    _, high = wilson(other_hits, other_of, level)
    return np.asarray(one - two - np.sqrt((one - low) ** 2 + (high - two) ** 2))


def hit_auroc(hits: npt.ArrayLike, of: npt.ArrayLike, other_hits: npt.ArrayLike, other_of: npt.ArrayLike) -> Floats:
    """AUROC of a yes-or-no sign, from how many cases and how many others have it."""
    return np.asarray(0.5 + (_ratio(hits, of) - _ratio(other_hits, other_of)) / 2)


def rate_ratio(rows: int, days: float, other_rows: int, other_days: float, level: float) -> Estimate:
    """Ratio of two Poisson rates, exact given the total of both (Przyborowski, Wilenski 1940)."""
    total = rows + other_rows
    if other_rows == 0:
        return Estimate(float("nan"), 0.0, math.inf)
    tail = (1 - level) / 2
    low = float(stats.beta.ppf(tail, rows, other_rows + 1)) if rows else 0.0
    high = float(stats.beta.ppf(1 - tail, rows + 1, other_rows)) if other_rows else 1.0
    scale = other_days / days
    assert total > 0
    return Estimate(rows / other_rows * scale, _odds(low) * scale, _odds(high) * scale)


def share_ratio(hits: int, of: int, other_hits: int, other_of: int, level: float) -> Estimate:
    """Ratio of two shares, bounded by the bounds of their exact intervals: on the safe side where counts are small."""
    if not of or not other_of:
        return Estimate(float("nan"), 0.0, math.inf)
    low, other_low = exact_low([hits, other_hits], [of, other_of], level)
    high, other_high = 1 - exact_low([of - hits, other_of - other_hits], [of, other_of], level)
    value = hits / of / (other_hits / other_of) if other_hits else float("nan")
    return Estimate(value, float(low / other_high), float(high / other_low) if other_low > 0 else math.inf)


def area(case: npt.ArrayLike, scores: npt.ArrayLike, patients: npt.ArrayLike, level: float, resamples: int) -> Estimate:
    """AUROC with a normal interval; its standard error is the larger of the patient bootstrap's and Hanley-McNeil's.

    Percentiles of a bootstrap would need tens of thousands of resamples at the corrected levels. Hanley and McNeil,
    Radiology 1982;143:29-36.
    """
    cases = np.asarray(case, dtype=bool)
    value = auroc(cases, scores)
    if not math.isfinite(value):
        return Estimate(value, 0.0, 1.0)
    draws = rank_draws(cases, scores, resample_counts(patients, resamples)).auroc
    usable = draws[np.isfinite(draws)]
    error = max(float(usable.std()) if len(usable) > 1 else 0.5, _hanley_mcneil(value, int(cases.sum()), len(cases)))
    half = normal_quantile(level) * error
    return Estimate(value, max(value - half, 0.0), min(value + half, 1.0))


def area_loss(
    case: npt.ArrayLike, before: npt.ArrayLike, after: npt.ArrayLike, patients: npt.ArrayLike, level: float, n: int
) -> Estimate:
    """How much AUROC is lost from one score to another, paired by resamples of patients."""
    resamples = resample_counts(patients, n)
    draws = rank_draws(case, before, resamples).auroc - rank_draws(case, after, resamples).auroc
    usable = draws[np.isfinite(draws)]
    value = auroc(case, before) - auroc(case, after)
    half = normal_quantile(level) * (float(usable.std()) if len(usable) > 1 else 0.5)
    return Estimate(value, value - half, value + half)


def _hanley_mcneil(value: float, cases: int, rows: int) -> float:
    others = rows - cases
    q1, q2 = value / (2 - value), 2 * value**2 / (1 + value)
    spread = value * (1 - value) + (cases - 1) * (q1 - value**2) + (others - 1) * (q2 - value**2)
    return math.sqrt(max(spread, 0.0) / (cases * others))


def _ratio(top: npt.ArrayLike, bottom: npt.ArrayLike) -> Floats:
    below = np.asarray(bottom, dtype=np.float64)
    above = np.asarray(top, dtype=np.float64)
    return np.asarray(np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below > 0))


def _odds(probability: float) -> float:
    return probability / (1 - probability) if probability < 1 else math.inf
