"""What acting on a score would mean: alerts, sensitivity, PPV at a rate or a threshold; net benefit.

An alert is a row whose score reaches the threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lang1.common.errors import InputError
from lang1.metrics.auroc import Floats, checked_scores


@dataclass(frozen=True)
class OperatingPoint:
    """How a threshold works; NaN where nothing is there to divide by.

    Attributes:
        threshold: rows with this score or a higher one are alerts.
        alert_rate: share of rows that are alerts; times 100 the alerts per 100 encounters.
        sensitivity: share of cases that are alerts.
        specificity: share of non-cases that are none.
        ppv: share of alerts that are cases.
        npv: share of the others that are none.
    """

    threshold: float
    alert_rate: float
    sensitivity: float
    specificity: float
    ppv: float
    npv: float


def threshold_at_rate(scores: npt.ArrayLike, rate: float, weights: npt.ArrayLike | None = None) -> float:
    """The lowest threshold at which at most ``rate`` of the rows are alerts.

    Equal scores are alerts together or not at all, so that ties may leave the rate below the one asked for; infinity
    where even the highest score would be too many.

    Raises:
        InputError: a rate outside (0, 1], or a score that is NaN.
    """
    values = np.asarray(scores, dtype=np.float64)
    values = checked_scores(values, len(values))
    if not 0 < rate <= 1:
        raise InputError(f"alert rate {rate}: expected a share above 0 and up to 1.")
    weight = np.ones(len(values)) if weights is None else checked_scores(weights, len(values), "weights")
    found, group = np.unique(-values, return_inverse=True)
    share = np.cumsum(np.bincount(group, weight, minlength=len(found)))
    total = float(share[-1]) if len(share) else 0.0
    fits = int(np.searchsorted(share, rate * total * (1 + 1e-12), side="right"))
    return float(-found[fits - 1]) if fits else float("inf")


def operating_point(
    labels: npt.ArrayLike, scores: npt.ArrayLike, threshold: float, weights: npt.ArrayLike | None = None
) -> OperatingPoint:
    """Sensitivity, specificity, PPV, NPV and alert rate at a threshold.

    Raises:
        InputError: a score is NaN, or the lengths differ.
    """
    case = np.asarray(labels).astype(bool)
    alert = checked_scores(scores, len(case)) >= threshold
    weight = np.ones(len(case)) if weights is None else checked_scores(weights, len(case), "weights")
    hit, false = float(weight[case & alert].sum()), float(weight[~case & alert].sum())
    missed, clear = float(weight[case & ~alert].sum()), float(weight[~case & ~alert].sum())
    return OperatingPoint(
        float(threshold),
        _share(hit + false, hit + false + missed + clear),
        _share(hit, hit + missed),
        _share(clear, clear + false),
        _share(hit, hit + false),
        _share(clear, clear + missed),
    )


def net_benefit(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    thresholds: Sequence[float] | Floats,
    weights: npt.ArrayLike | None = None,
) -> Floats:
    """Net benefit of acting where the stated risk reaches each threshold, ``[K]``.

    True positives per row minus false positives per row weighed by the odds of the threshold (Vickers & Elkin, Medical
    Decision Making 2006). In units of true positives: 0.02 is worth two cases found in 100 encounters without any false
    alert. Not acting has 0; acting on everybody has :func:`net_benefit_of_all`.

    Raises:
        InputError: a threshold outside (0, 1), scores that are no probabilities, or lengths that differ.
    """
    case = np.asarray(labels).astype(bool)
    said = checked_scores(scores, len(case))
    at = _thresholds(thresholds)
    if len(said) and (said.min() < 0 or said.max() > 1):
        raise InputError("net benefit: a score lies outside 0 to 1; give probabilities.")
    weight = np.ones(len(case)) if weights is None else checked_scores(weights, len(case), "weights")
    order = np.argsort(said, kind="stable")
    below = np.searchsorted(said[order], at, side="left")
    hits = np.concatenate([[0.0], np.cumsum((weight * case)[order])])
    every = np.concatenate([[0.0], np.cumsum(weight[order])])
    true = hits[-1] - hits[below]
    false = every[-1] - every[below] - true
    return np.asarray((true - false * at / (1 - at)) / every[-1]) if every[-1] > 0 else np.full(len(at), np.nan)


def net_benefit_of_all(prevalence: float, thresholds: Sequence[float] | Floats) -> Floats:
    """Net benefit of acting on everybody, ``[K]``."""
    at = _thresholds(thresholds)
    return np.asarray(prevalence - (1 - prevalence) * at / (1 - at))


def _thresholds(thresholds: Sequence[float] | Floats) -> Floats:
    at = np.asarray(thresholds, dtype=np.float64)
    if not ((at > 0) & (at < 1)).all():
        raise InputError("net benefit: a threshold lies outside 0 to 1; thresholds are stated risks.")
    return at


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else float("nan")
