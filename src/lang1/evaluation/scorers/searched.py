"""Gradient boosting whose settings a seeded random search chooses by three folds of train, patients apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from lang1.evaluation.scorers.linear import Ints, expand
from lang1.metrics.auroc import Floats, task_auroc
from lang1.metrics.probability import log_loss_rows

FOLDS = 3
DRAWS = 16
# The search reads so many train rows at most, whole patients in the order of a seeded draw; the fit reads them all.
SEARCH_ROWS = 20_000


@dataclass(frozen=True)
class Searched:
    """The fitted model and what the search chose, in words."""

    model: HistGradientBoostingClassifier
    n_classes: int
    told: str

    def probabilities(self, features: Floats) -> Floats:
        """``[rows, n_classes]``; classes that train does not hold get 0."""
        return expand(self.model.predict_proba(features), self.model.classes_, self.n_classes)


def search(
    features: Floats,
    labels: Ints,
    patients: Ints,
    n_classes: int,
    categorical: list[bool],
    seed: int,
    draws: int = DRAWS,
) -> Searched:
    """Draw settings, judge each by mean AUROC over folds (log loss where there is none), refit the best on all rows.

    Args:
        features: ``[rows, columns]``; NaN is missing.
        labels: class indices, ``[rows]``, at least two classes.
        patients: whose each row is, so that no patient is in two folds.
        n_classes: of the task.
        categorical: which columns are categories.
        seed: of draws, folds and the boosting.
        draws: settings tried.
    """
    rng = np.random.default_rng(seed)
    _, patient = np.unique(patients, return_inverse=True)
    order = rng.permutation(int(patient.max()) + 1)
    fold = (order % FOLDS)[patient]
    kept = np.cumsum(np.bincount(patient)[np.argsort(order)]) <= SEARCH_ROWS
    kept[0] = True
    used = kept[order[patient]]
    best: tuple[tuple[float, float], dict[str, Any]] | None = None
    fixed: dict[str, Any] = {"categorical_features": categorical, "random_state": seed, "early_stopping": False}
    with threadpool_limits(1):
        for _ in range(draws):
            tried = _drawn(rng)
            areas, losses = [], []
            for held in range(FOLDS):
                train, test = used & (fold != held), used & (fold == held)
                if len(np.unique(labels[train])) < 2 or not test.any():
                    continue
                model = HistGradientBoostingClassifier(**tried, **fixed).fit(features[train], labels[train])
                said = expand(model.predict_proba(features[test]), model.classes_, n_classes)
                areas.append(task_auroc(labels[test], said))
                losses.append(float(log_loss_rows(labels[test], said).mean()))
            area = float(np.nanmean(areas)) if np.isfinite(areas).any() else 0.0
            rank = (area, -float(np.mean(losses)) if losses else 0.0)
            if best is None or rank > best[0]:
                best = (rank, tried)
        assert best is not None
        (area, _), chosen = best
        model = HistGradientBoostingClassifier(**chosen, **fixed).fit(features, labels)
    words = ", ".join(f"{key} {value:.3g}" for key, value in chosen.items())
    return Searched(model, n_classes, f"{words}; mean AUROC of {FOLDS} folds {area:.4f}, {draws} draws")


def _drawn(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "learning_rate": float(np.exp(rng.uniform(np.log(0.02), np.log(0.3)))),
        "max_iter": int(rng.integers(30, 300)),
        "max_leaf_nodes": int(rng.integers(3, 32)),
        "min_samples_leaf": int(rng.integers(10, 100)),
        "l2_regularization": float(np.exp(rng.uniform(np.log(0.01), np.log(100)))),
    }
