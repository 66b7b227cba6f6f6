"""Area under the ROC curve: tie-correct, weighted, and macro one-vs-rest for tasks of several classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lang1.common.errors import InputError

Floats = npt.NDArray[np.float64]
# A class with fewer cases than this is left out of a macro average, for models and oracle alike, and is named.
MIN_CASES = 20


def checked_scores(scores: npt.ArrayLike, length: int, what: str = "scores") -> Floats:
    """``scores`` as float64.

    Raises:
        InputError: not one row a label, or a NaN among them.
    """
    array = np.asarray(scores, dtype=np.float64)
    if len(array) != length:
        raise InputError(f"{what}: {len(array)} rows for {length} labels; give one row a label.")
    bad = np.isnan(array)
    if bad.any():
        rows = np.flatnonzero(bad.reshape(length, -1).any(axis=1))
        raise InputError(f"{what}: {len(rows)} of {length} are NaN, first in row {rows[0]}; a model must answer each.")
    return array


def auroc(labels: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """The probability that a case outranks a non-case, ties counting one half.

    Args:
        labels: bool or 0/1, ``[N]``.
        scores: any real numbers, infinities included, ``[N]``; higher means more likely a case.
        weights: non-negative weight of each row, ``[N]``; None weighs all alike.

    Returns:
        The AUROC in [0, 1]; NaN where cases or non-cases are missing (or weigh nothing).

    Raises:
        InputError: a score is NaN, or the lengths differ.
    """
    case = np.asarray(labels).astype(bool)
    values = checked_scores(scores, len(case))
    weight = np.ones(len(case)) if weights is None else np.asarray(weights, dtype=np.float64)
    if len(weight) != len(case):
        raise InputError(f"weights: {len(weight)} rows for {len(case)} labels; give one row a label.")
    _, group = np.unique(values, return_inverse=True)  # equal scores share a group; groups ascend
    cases = np.bincount(group, weight * case)
    others = np.bincount(group, weight * ~case)
    below = np.cumsum(others) - others
    pairs = float(cases.sum()) * float(others.sum())
    if not pairs > 0:
        return float("nan")
    return float(np.dot(cases, below + 0.5 * others) / pairs)


def kept_classes(labels: npt.NDArray[Any], n_classes: int, min_cases: int = MIN_CASES) -> list[int]:
    """The classes that have at least ``min_cases`` cases and as many non-cases among ``labels`` (ints ``[N]``)."""
    counts = np.bincount(labels, minlength=n_classes)
    return [c for c in range(n_classes) if counts[c] >= min_cases and len(labels) - counts[c] >= min_cases]


def class_aurocs(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    min_cases: int = MIN_CASES,
    weights: npt.ArrayLike | None = None,
) -> dict[int, float]:
    """One-vs-rest AUROC of each class that :func:`kept_classes` keeps, by class index.

    Args:
        labels: class indices, ``[N]``.
        probabilities: ``[N, C]``.
        min_cases: classes with fewer cases (or fewer non-cases) are left out.
        weights: as for :func:`auroc`.

    Raises:
        InputError: NaN probabilities, differing lengths, or a label outside the classes.
    """
    index, table = checked_table(labels, probabilities)
    return {c: auroc(index == c, table[:, c], weights) for c in kept_classes(index, table.shape[1], min_cases)}


def task_auroc(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    min_cases: int = MIN_CASES,
    weights: npt.ArrayLike | None = None,
) -> float:
    """A task's one number: with two classes the AUROC of class 1, with more the macro one-vs-rest AUROC.

    The macro average is the plain mean over the classes that :func:`kept_classes` keeps. With two classes no
    minimum applies: how few events there are is told beside the number.

    Args:
        labels: class indices, ``[N]``.
        probabilities: ``[N, C]``.

    Returns:
        The AUROC; NaN where no class can be judged.

    Raises:
        InputError: NaN probabilities, differing lengths, or a label outside the classes.
    """
    index, table = checked_table(labels, probabilities)
    if table.shape[1] == 2:
        return auroc(index == 1, table[:, 1], weights)
    found = list(class_aurocs(index, table, min_cases, weights).values())
    return float(np.mean(found)) if found else float("nan")


def weighted_auroc(class_values: dict[int, float], class_counts: npt.ArrayLike) -> float:
    """The mean of one-vs-rest AUROCs weighed by how often each class occurs; NaN without classes.

    Args:
        class_values: by class index, as :func:`class_aurocs` gives them.
        class_counts: cases of each class, ``[C]``.
    """
    counts = np.asarray(class_counts, dtype=np.float64)
    if not class_values:
        return float("nan")
    return float(np.average(list(class_values.values()), weights=counts[list(class_values)]))


def patient_weights(subjects: npt.ArrayLike) -> Floats:
    """Weights ``[N]`` under which every patient counts alike however many rows they have: 1 over their rows."""
    _, patient, rows = np.unique(np.asarray(subjects), return_inverse=True, return_counts=True)
    return np.asarray(1.0 / rows[patient])


def checked_table(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> tuple[npt.NDArray[np.int64], Floats]:
    """Labels as int64 ``[N]`` and probabilities as float64 ``[N, C]``, checked against each other.

    Raises:
        InputError: NaN probabilities, differing lengths, fewer than two classes, or a label outside the classes.
    """
    index = np.asarray(labels).astype(np.int64)
    table = checked_scores(probabilities, len(index), "probabilities")
    if table.ndim != 2 or table.shape[1] < 2:
        raise InputError(f"probabilities: expected one column a class (two or more), found shape {table.shape}.")
    if len(index) and (index.min() < 0 or index.max() >= table.shape[1]):
        raise InputError(f"labels: {index.min()} to {index.max()} for {table.shape[1]} classes; count them from 0.")
    return index, table
