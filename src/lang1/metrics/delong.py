"""AUROC intervals and tests in closed form: DeLong, and Obuchowski's version for several rows a patient.

A row's *placement* is the share of rows of the other class that it stands on the right side of, ties counting one half.
The AUROC is the mean placement, and the spread of the placements gives its variance (DeLong, DeLong & Clarke-Pearson,
Biometrics 1988; placements by ranking as in Sun & Xu, IEEE Signal Processing Letters 2014). Rows of one patient
are not independent: their deviations are summed before they are squared (Obuchowski, Biometrics 1997). With one row a
patient the two are the same number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from lang1.common.errors import InputError
from lang1.metrics.auroc import Floats, checked_scores


@dataclass(frozen=True)
class AreaParts:
    """What each patient contributes to an AUROC's deviation from the truth.

    Attributes:
        value: the AUROC.
        case_part: summed deviations of each patient's cases, ``[P]``.
        other_part: likewise of the non-cases, ``[P]``; the two parts of all patients sum to 0 each.
        case_patients: how many patients have a case.
        other_patients: how many have a non-case.
    """

    value: float
    case_part: Floats
    other_part: Floats
    case_patients: int
    other_patients: int

    def variance_with(self, other: AreaParts) -> float:
        """Covariance of two AUROCs on the same rows; with itself the variance. NaN with fewer than two patients a side.

        Cases and non-cases get small-sample corrections of their own, as in Obuchowski's formula (7).
        """
        patients = len(self.case_part)
        if min(self.case_patients, self.other_patients) < 2:
            return float("nan")
        within_cases = self.case_patients / (self.case_patients - 1) * float(self.case_part @ other.case_part)
        within_others = self.other_patients / (self.other_patients - 1) * float(self.other_part @ other.other_part)
        across = float(self.case_part @ other.other_part) + float(self.other_part @ other.case_part)
        return within_cases + within_others + patients / (patients - 1) * across

    @property
    def influence(self) -> Floats:
        """Each patient's whole deviation, ``[P]``."""
        return self.case_part + self.other_part


@dataclass(frozen=True)
class AreaEstimate:
    """An AUROC, or a difference of two, with its standard error, 95 % interval and two-sided p-value.

    ``p`` tests AUROC = 0.5 for one model, no difference for two. ``method`` says whether patients were
    clusters.
    """

    value: float
    error: float
    low: float
    high: float
    z: float
    p: float
    method: str


def area_parts(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    subjects: npt.ArrayLike | None = None,
    weights: npt.ArrayLike | None = None,
) -> AreaParts:
    """The AUROC and what each patient contributes to its deviation.

    Args:
        labels: bool or 0/1, ``[N]``.
        scores: ``[N]``.
        subjects: the patient of each row, ``[N]``; None takes every row for a patient of its own.
        weights: non-negative weight of each row, ``[N]``; None weighs all alike.

    Raises:
        InputError: a score is NaN, or the lengths differ.
    """
    case = np.asarray(labels).astype(bool)
    values = checked_scores(scores, len(case))
    weight = np.ones(len(case)) if weights is None else checked_scores(weights, len(case), "weights")
    if subjects is None:
        patient, size = np.arange(len(case)), len(case)
    else:
        ids = np.asarray(subjects)
        if len(ids) != len(case):
            raise InputError(f"subjects: {len(ids)} rows for {len(case)} labels; give one row a label.")
        found, patient = np.unique(ids, return_inverse=True)
        size = len(found)
    _, group = np.unique(values, return_inverse=True)
    cases, others = np.bincount(group, weight * case), np.bincount(group, weight * ~case)
    all_cases, all_others = float(cases.sum()), float(others.sum())
    if not all_cases * all_others > 0:
        return AreaParts(float("nan"), np.zeros(size), np.zeros(size), 0, 0)
    others_below = (np.cumsum(others) - 0.5 * others) / all_others
    cases_above = (all_cases - np.cumsum(cases) + 0.5 * cases) / all_cases
    value = float(cases @ others_below) / all_cases
    deviation = np.where(case, (others_below[group] - value) / all_cases, (cases_above[group] - value) / all_others)
    deviation = deviation * weight
    counted = weight > 0
    return AreaParts(
        value,
        np.bincount(patient, deviation * case, minlength=size).astype(np.float64),
        np.bincount(patient, deviation * ~case, minlength=size).astype(np.float64),
        len(np.unique(patient[case & counted])),
        len(np.unique(patient[~case & counted])),
    )


def delong(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    subjects: npt.ArrayLike | None = None,
    *,
    weights: npt.ArrayLike | None = None,
    level: float = 0.95,
    logit: bool = True,
) -> AreaEstimate:
    """AUROC with a closed-form interval; clustered by patient where a patient has several rows.

    The interval is symmetric in log-odds (``logit``), so that it stays inside [0, 1], or plain (DeLong's own). An AUROC
    of 1 or 0 has no spread to measure: its interval is then the widest that n perfectly ordered independent pairs
    allow, n being the patients of the smaller class (exact binomial bound, Clopper & Pearson 1934).

    Raises:
        InputError: a score is NaN, or the lengths differ.
    """
    parts = area_parts(labels, scores, subjects, weights)
    error = math.sqrt(max(parts.variance_with(parts), 0.0)) if parts.case_patients else float("nan")
    method = _method(len(np.asarray(labels)), len(parts.case_part))
    low, high = area_interval(parts, error, level=level, logit=logit)
    z = (parts.value - 0.5) / error if error > 0 else float("nan")
    return AreaEstimate(parts.value, error, low, high, z, _two_sided(z), method)


def delong_difference(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    others: npt.ArrayLike,
    subjects: npt.ArrayLike | None = None,
    *,
    weights: npt.ArrayLike | None = None,
    level: float = 0.95,
) -> AreaEstimate:
    """The AUROC of ``scores`` minus that of ``others`` on the same rows, paired, with a plain interval.

    Two models that order all rows alike differ by exactly 0: the interval is a point and p is 1.

    Raises:
        InputError: a score is NaN, or the lengths differ.
    """
    one = area_parts(labels, scores, subjects, weights)
    two = area_parts(labels, others, subjects, weights)
    value = one.value - two.value
    spread = one.variance_with(one) + two.variance_with(two) - 2 * one.variance_with(two)
    method = _method(len(np.asarray(labels)), len(one.case_part))
    if math.isnan(spread):
        return AreaEstimate(value, spread, spread, spread, spread, spread, method)
    # Variances cancel to rounding error where two models order rows alike.
    error = math.sqrt(spread) if spread > 1e-18 else 0.0
    if error == 0.0:
        same = abs(value) < 1e-12
        p = 1.0 if same else float("nan")
        bounds = (value, value) if same else (float("nan"), float("nan"))
        return AreaEstimate(value, error, *bounds, 0.0 if same else float("nan"), p, method)
    reach = float(stats.norm.ppf((1 + level) / 2)) * error
    z = value / error
    return AreaEstimate(value, error, value - reach, value + reach, z, _two_sided(z), method)


def area_interval(
    parts: AreaParts, error: float, *, level: float = 0.95, logit: bool = True, df: float | None = None
) -> tuple[float, float]:
    """The interval of an AUROC from its standard error, as :func:`delong` gives it; ``df`` takes Student's t."""
    value = parts.value
    if math.isnan(value) or math.isnan(error):
        return float("nan"), float("nan")
    if value in (0.0, 1.0):
        n = min(parts.case_patients, parts.other_patients)
        bound = ((1 - level) / 2) ** (1 / n)
        return (bound, 1.0) if value == 1.0 else (0.0, 1 - bound)
    quantile = float(stats.norm.ppf((1 + level) / 2) if df is None else stats.t.ppf((1 + level) / 2, df))
    if not logit:
        return max(0.0, value - quantile * error), min(1.0, value + quantile * error)
    centre, reach = math.log(value / (1 - value)), quantile * error / (value * (1 - value))
    low, high = 1 / (1 + np.exp(-np.clip([centre - reach, centre + reach], -700, 700)))
    return float(low), float(high)


def _method(rows: int, patients: int) -> str:
    if rows == patients:
        return "DeLong, one row a patient"
    return f"Obuchowski, {rows:,} rows of {patients:,} patients"


def _two_sided(z: float) -> float:
    return float("nan") if math.isnan(z) else float(2 * stats.norm.sf(abs(z)))
