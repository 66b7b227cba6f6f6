"""Do predicted probabilities mean what they say: ECE, calibration in the large, slope, reliability curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lang1.metrics.auroc import Floats, checked_scores, checked_table

ECE_BINS = 15  # the paper's
CURVE_BINS = 10
SPLINE_KNOTS = 5
# Harrell's places for knots.
SPLINE_QUANTILES = {3: (0.1, 0.5, 0.9), 4: (0.05, 0.35, 0.65, 0.95), 5: (0.05, 0.275, 0.5, 0.725, 0.95)}
CLIP = 1e-6  # probabilities nearer to 0 or 1 than this are drawn in before the logit
Z95 = 1.959963984540054


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; NaN where it cannot be told."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Points:
    """A curve: ``x`` and ``y`` ``[K]``, and how many rows each point stands for (empty where that means nothing)."""

    x: list[float]
    y: list[float]
    n: list[int]


def expected_calibration_error(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    bins: int = ECE_BINS,
    *,
    weights: npt.ArrayLike | None = None,
    equal_mass: bool = False,
) -> float:
    """Mean absolute gap between predicted and observed over bins, weighted by rows.

    With two classes the probability of class 1 against its observed share; with more the confidence in the top
    class against its accuracy (Guo et al., ICML 2017).

    Args:
        labels: class indices, ``[N]``.
        probabilities: ``[N, C]``.
        bins: how many.
        weights: non-negative weight of each row, ``[N]``; None weighs all alike.
        equal_mass: bins of about equally many rows in place of equal width; equal scores stay together.

    Raises:
        InputError: as for :func:`lang1.metrics.auroc.task_auroc`.
    """
    index, table = checked_table(labels, probabilities)
    if not len(index):
        return float("nan")
    if table.shape[1] == 2:
        said, happened = table[:, 1], index == 1
    else:
        top = table.argmax(axis=1)
        said, happened = table[np.arange(len(top)), top], index == top
    weight = np.ones(len(index)) if weights is None else checked_scores(weights, len(index), "weights")
    if equal_mass:
        edges = np.unique(np.quantile(said, np.linspace(0, 1, bins + 1)[1:-1]))
        bin_of = np.searchsorted(edges, said, side="left")
    else:
        bin_of = np.clip((said * bins).astype(np.int64), 0, bins - 1)
    gaps = np.bincount(bin_of, weight * (said - happened), minlength=bins)
    return float(np.abs(gaps).sum() / weight.sum()) if weight.sum() > 0 else float("nan")


@dataclass(frozen=True)
class SmoothErrors:
    """Gaps between stated risks and a smooth curve of what happened: mean, 90th percentile, largest."""

    mean: float
    p90: float
    largest: float


def smooth_errors(labels: npt.ArrayLike, scores: npt.ArrayLike, knots: int = SPLINE_KNOTS) -> SmoothErrors:
    """Eavg (the integrated calibration index), E90 and Emax: no bins (Austin & Steyerberg, Stat. Med. 2019).

    The smooth curve is a logistic regression on a restricted cubic spline of logit(score), its knots at quantiles
    (Harrell, Regression Modeling Strategies 2015, section 2.4.5); a straight line where scores have few values. NaN
    where it cannot be fitted.
    """
    case, logit = _logits(labels, scores)
    nothing = SmoothErrors(float("nan"), float("nan"), float("nan"))
    if len(case) < 2 or not 0 < case.sum() < len(case):
        return nothing
    at = np.unique(np.quantile(logit, SPLINE_QUANTILES[knots]))
    spread = float(logit.std())
    columns = [np.ones(len(case))]
    if spread > 1e-9:
        columns += [(logit - logit.mean()) / spread, *(_spline(logit, at) if len(at) >= 3 else [])]
    design = np.stack(columns, axis=1)
    beta = _newton(design, case, np.zeros(len(case)))
    if beta is None:
        return nothing
    happened = 1 / (1 + np.exp(-np.clip(design @ beta, -500, 500)))
    gaps = np.abs(happened - 1 / (1 + np.exp(-logit)))
    return SmoothErrors(float(gaps.mean()), float(np.quantile(gaps, 0.9)), float(gaps.max()))


def _spline(x: Floats, knots: Floats) -> list[Floats]:
    """The non-linear columns of a restricted cubic spline, scaled to standard deviation 1."""
    last, before = knots[-1], knots[-2]

    def cube(at: float) -> Floats:
        return np.maximum(x - at, 0.0) ** 3

    made = []
    for knot in knots[:-2]:
        column = (
            cube(knot) - cube(before) * (last - knot) / (last - before) + cube(last) * (before - knot) / (last - before)
        )
        spread = float(column.std())
        if spread > 0:
            made.append(column / spread)
    return made


def reliability_curve(labels: npt.ArrayLike, scores: npt.ArrayLike, bins: int = CURVE_BINS) -> Points:
    """Mean predicted (x) against observed share (y) in bins of about equally many rows, equal scores kept together."""
    case = np.asarray(labels).astype(bool)
    said = checked_scores(scores, len(case))
    if not len(case):
        return Points([], [], [])
    edges = np.unique(np.quantile(said, np.linspace(0, 1, bins + 1)[1:-1]))
    bin_of = np.searchsorted(edges, said, side="left")
    rows = np.bincount(bin_of)
    used = rows > 0
    x = np.bincount(bin_of, said)[used] / rows[used]
    y = np.bincount(bin_of, case)[used] / rows[used]
    return Points(x.tolist(), y.tolist(), rows[used].tolist())


def in_the_large(labels: npt.ArrayLike, scores: npt.ArrayLike, clusters: npt.ArrayLike | None = None) -> Estimate:
    """Calibration in the large: the intercept, in log-odds, of outcome on logit(score) with the slope held at 1.

    0 is perfect; above 0 the predictions are too low on the whole.

    Args:
        labels: bool or 0/1, ``[N]``.
        scores: probabilities of a case, ``[N]``.
        clusters: the patient of each row, for a cluster-robust (sandwich) 95 % interval; None: rows independent.
    """
    case, logit = _logits(labels, scores)
    found = _fit(np.ones((len(case), 1)), case, logit, clusters)
    return found[0]


def slope(labels: npt.ArrayLike, scores: npt.ArrayLike, clusters: npt.ArrayLike | None = None) -> Estimate:
    """Calibration slope: logistic regression of outcome on logit(score) (Cox 1958).

    1 is perfect, below 1 overconfident. Arguments as for :func:`in_the_large`. NaN where all scores are alike.
    """
    case, logit = _logits(labels, scores)
    if len(case) < 2 or np.ptp(logit) < 1e-9:
        return Estimate(float("nan"), float("nan"), float("nan"))
    centre = float(logit.mean())  # centring keeps the two columns apart numerically and leaves the slope as it is
    found = _fit(np.stack([np.ones(len(case)), logit - centre], axis=1), case, np.zeros(len(case)), clusters)
    return found[1]


def logits(scores: Floats) -> Floats:
    """Log-odds of probabilities, drawn in from 0 and 1 by ``CLIP``."""
    said = np.clip(scores, CLIP, 1 - CLIP)
    return np.asarray(np.log(said / (1 - said)))


def fit_logit(case: Floats, logit: Floats) -> tuple[float, float] | None:
    """Intercept and slope of a logistic regression of ``case`` (0/1, ``[N]``) on ``logit``, or None."""
    if len(case) < 2 or np.ptp(logit) < 1e-9 or not 0 < case.sum() < len(case):
        return None
    centre = float(logit.mean())
    beta = _newton(np.stack([np.ones(len(case)), logit - centre], axis=1), case, np.zeros(len(case)))
    return None if beta is None else (float(beta[0] - beta[1] * centre), float(beta[1]))


def _logits(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[Floats, Floats]:
    case = np.asarray(labels).astype(np.float64)
    return case, logits(checked_scores(scores, len(case)))


def _newton(design: Floats, case: Floats, offset: Floats) -> Floats | None:
    """Newton's method for a logistic regression of few columns; None where it has no finite answer."""
    if not 0 < case.sum() < len(case):
        return None
    beta = np.zeros(design.shape[1])

    def loss(at: Floats) -> float:
        eta = design @ at + offset
        return float((np.logaddexp(0.0, eta) - case * eta).sum())

    current = loss(beta)
    for _ in range(100):
        mean = 1 / (1 + np.exp(-np.clip(design @ beta + offset, -500, 500)))
        gradient = design.T @ (case - mean)
        hessian = (design * (mean * (1 - mean))[:, None]).T @ design
        try:
            step = np.linalg.solve(hessian, gradient)
        except np.linalg.LinAlgError:
            return None
        while loss(beta + step) > current + 1e-12 * abs(current) and np.abs(step).max() > 1e-10:
            step = step / 2  # plain Newton overshoots where the scores are far off
        beta = beta + step
        current = loss(beta)
        if np.abs(step).max() < 1e-9:
            break
    else:
        return None
    # The scores separate cases from non-cases: no finite estimate.
    return None if current < 1e-6 * len(case) else beta


def _fit(design: Floats, case: Floats, offset: Floats, clusters: npt.ArrayLike | None) -> list[Estimate]:
    """A logistic regression of few columns, with sandwich intervals."""
    beta = _newton(design, case, offset)
    if beta is None:
        return [Estimate(float("nan"), float("nan"), float("nan"))] * design.shape[1]
    mean = 1 / (1 + np.exp(-(design @ beta + offset)))
    inverse = np.linalg.inv((design * (mean * (1 - mean))[:, None]).T @ design)
    score_rows = design * (case - mean)[:, None]
    _, group = np.unique(np.arange(len(case)) if clusters is None else np.asarray(clusters), return_inverse=True)
    groups = int(group.max()) + 1
    scores = np.stack([np.bincount(group, column) for column in score_rows.T], axis=1)
    spread = inverse @ (scores.T @ scores) @ inverse * (groups / max(groups - 1, 1))
    errors = Z95 * np.sqrt(np.diag(spread))
    return [Estimate(float(b), float(b - e), float(b + e)) for b, e in zip(beta, errors, strict=True)]
