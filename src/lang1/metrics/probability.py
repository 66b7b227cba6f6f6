"""Scores of predicted probabilities: average precision, Brier, log loss. NumPy in, numbers out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lang1.metrics.auroc import Floats, checked_scores, checked_table

# A probability of nought that turns out wrong would cost infinitely much; this bounds the cost of one row at 34.5.
SMALLEST = 1e-15


def average_precision(labels: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """Area under the precision-recall curve as the step-wise sum (AUPRC), ties handled as one threshold.

    Args:
        labels: bool or 0/1, ``[N]``.
        scores: ``[N]``; higher means more likely a case.
        weights: non-negative weight of each row, ``[N]``; None weighs all alike.

    Returns:
        A number in [0, 1], to be read beside the prevalence; NaN without a case.

    Raises:
        InputError: a score is NaN, or the lengths differ.
    """
    case = np.asarray(labels).astype(bool)
    values = checked_scores(scores, len(case))
    weight = np.ones(len(case)) if weights is None else np.asarray(weights, dtype=np.float64)
    _, group = np.unique(-values, return_inverse=True)  # groups from the highest score down
    cases = np.bincount(group, weight * case)
    everyone = np.bincount(group, weight)
    total = float(cases.sum())
    if not total > 0:
        return float("nan")
    flagged = np.cumsum(everyone)
    precision = np.divide(np.cumsum(cases), flagged, out=np.zeros_like(flagged), where=flagged > 0)
    return float(np.dot(cases, precision) / total)


def brier_rows(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> Floats:
    """The Brier score of each row, ``[N]``; its mean is the Brier score.

    With two classes (p of class 1 - outcome)² in [0, 1]; with more the sum of squares over the classes, in [0, 2]
    (Brier, Monthly Weather Review 1950), so that the two are not on one scale.
    """
    index, table = checked_table(labels, probabilities)
    if table.shape[1] == 2:
        return np.asarray(np.square(table[:, 1] - (index == 1)))
    hit = np.eye(table.shape[1])[index]
    return np.asarray(np.square(table - hit).sum(axis=1))


def log_loss_rows(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> Floats:
    """Minus the natural logarithm of the probability given to what happened, a row, ``[N]``."""
    index, table = checked_table(labels, probabilities)
    return np.asarray(-np.log(np.clip(table[np.arange(len(index)), index], SMALLEST, 1.0)))


def scaled_brier(brier: npt.ArrayLike, reference: npt.ArrayLike) -> Floats:
    """1 - Brier/reference, elementwise: 1 is perfect, 0 no better than stating the class shares, below 0 worse.

    Args:
        brier: of the model, on the data or in each resample.
        reference: of stating the class shares of the same rows (:func:`brier_of_shares`).
    """
    top, bottom = np.asarray(brier, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    return np.asarray(
        1 - np.divide(top, bottom, out=np.full(np.broadcast(top, bottom).shape, np.nan), where=bottom > 0)
    )


def brier_of_shares(shares: npt.ArrayLike) -> Floats:
    """The Brier score of stating the class shares to everybody, on the scale of :func:`brier_rows`.

    Args:
        shares: ``[C, ...]``, summing to 1 over the first axis.
    """
    share = np.asarray(shares, dtype=np.float64)
    spread = 1 - np.square(share).sum(axis=0)  # summed over the classes
    return np.asarray(spread / 2 if len(share) == 2 else spread)
