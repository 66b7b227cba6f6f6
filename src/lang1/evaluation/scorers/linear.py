"""Logistic regression whose penalty is chosen on validation: the classifier behind several baselines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from lang1.metrics.auroc import Floats, task_auroc
from lang1.metrics.probability import log_loss_rows

Ints = npt.NDArray[np.int64]
DEFAULT_C = 1.0
# On the gradient of the mean loss. With a rare outcome and rare terms that gradient is small from the start: at 1e-3 a
# 2 % outcome was given up after a few steps, at AUROC 0.53 where 0.68 was there to find.
TOLERANCE = 1e-5
MOST_STEPS = 2_000


@dataclass(frozen=True)
class Fitted:
    """A fitted classifier, the inverse penalty that validation chose, and its AUROC there (NaN: not enough rows)."""

    model: LogisticRegression
    n_classes: int
    c: float
    val_auroc: float

    def told(self) -> str:
        """What validation chose, in words."""
        return f"C {self.c:g}, validation AUROC {self.val_auroc:.4f}"

    def probabilities(self, features: sparse.csr_matrix) -> Floats:
        """``[rows, n_classes]``; classes that train does not hold get 0."""
        return expand(self.model.predict_proba(features), self.model.classes_, self.n_classes)


def fit_logistic(
    train: sparse.csr_matrix,
    labels: Ints,
    val: sparse.csr_matrix,
    val_labels: Ints,
    n_classes: int,
    grid: tuple[float, ...],
) -> Fitted:
    """Logistic regression, multinomial for several classes, the penalty by AUROC on validation.

    Where validation cannot judge (one class only, or too few of each) its log loss decides, and where it has no rows
    the inverse penalty is 1. Train must hold at least two classes.
    """
    if not len(val_labels):
        grid = (DEFAULT_C,)
    best: Fitted | None = None
    best_rank: tuple[float, float] | None = None
    for c in grid:
        # lbfgs from zero: no randomness, so the same rows give the same numbers.
        # One thread: the vectors are short, and on a busy machine threads waiting for each other took 50 times as long.
        with threadpool_limits(1):
            model = LogisticRegression(C=c, max_iter=MOST_STEPS, tol=TOLERANCE).fit(train, labels)
        fitted = Fitted(model, n_classes, c, float("nan"))
        if len(val_labels):
            said = fitted.probabilities(val)
            area = task_auroc(val_labels, said)
            rank = (0.0 if np.isnan(area) else area, -float(log_loss_rows(val_labels, said).mean()))
            fitted = Fitted(model, n_classes, c, area)
        else:
            rank = (0.0, 0.0)
        if best_rank is None or rank > best_rank:
            best, best_rank = fitted, rank
    assert best is not None
    return best


def expand(probabilities: Any, classes: Any, n_classes: int) -> Floats:
    """Columns in class order, 0 for classes that were not seen, rows summing to 1 in float64."""
    table = np.zeros((len(probabilities), n_classes))
    table[:, np.asarray(classes, dtype=np.int64)] = probabilities
    return np.asarray(table / table.sum(axis=1, keepdims=True))
