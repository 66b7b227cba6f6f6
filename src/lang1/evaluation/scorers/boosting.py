"""Gradient boosting on the structured fields that are known at prediction time: the strong peer without text."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from lang1.common.errors import InputError
from lang1.evaluation.examples import Asked
from lang1.evaluation.scorers.encode import TreeEncoder
from lang1.evaluation.scorers.linear import Ints, expand
from lang1.evaluation.scorers.trained import Trained, trainable
from lang1.evaluation.settings import EvaluateSettings
from lang1.metrics.auroc import Floats, task_auroc
from lang1.metrics.probability import log_loss_rows

# Sizes of tree tried; the learning rate is low enough that early stopping, not it, decides the fit.
LEAVES = (4, 12, 31)
LEARNING_RATE = 0.05
MOST_TREES = 1_000
PATIENCE = 30


def gradient_boosting(asked: Asked, settings: EvaluateSettings) -> Trained:
    """Histogram gradient boosting with native categories, stopped early and sized on the validation split.

    Raises:
        InputError: the records hold no structured fields.
    """
    trained = Trained("histogram gradient boosting on structured fields, early stopping and tree size on validation")
    for rows in trainable(asked, trained):
        found = asked.benchmark.fields(rows.train)
        if not found.num_rows:
            raise InputError(
                f"baseline gbm-structured: the records hold no structured fields for {rows.task}; leave it out."
            )
        columns = _Columns(found)
        train = columns.wide(found, rows.train)
        encoder = TreeEncoder(train)

        def encode(examples: pa.Table, columns: _Columns = columns, encoder: TreeEncoder = encoder) -> Floats:
            return encoder.encode(columns.wide(asked.benchmark.fields(examples), examples))

        fitted = fit_boosted(
            encoder.encode(train),
            rows.train_labels,
            encode(rows.val),
            rows.val_labels,
            rows.n_classes,
            settings.seed,
            encoder.categorical,
        )
        trained.probabilities[rows.task] = fitted.probabilities(encode(rows.scored))
        trained.chosen[rows.task] = fitted.told
    return trained


@dataclass(frozen=True)
class Boosted:
    """A fitted model and what validation chose, in words."""

    model: HistGradientBoostingClassifier
    n_classes: int
    told: str

    def probabilities(self, features: Floats) -> Floats:
        """``[rows, n_classes]``; classes that train does not hold get 0."""
        with threadpool_limits(1):
            return expand(self.model.predict_proba(features), self.model.classes_, self.n_classes)


def fit_boosted(
    x: Floats, y: Ints, x_val: Floats, y_val: Ints, n_classes: int, seed: int, categorical: list[bool] | None = None
) -> Boosted:
    """Histogram gradient boosting, stopped early and sized on validation; a fixed size where that cannot judge.

    Args:
        x: train features, ``[rows, columns]``; NaN is missing.
        y: train labels, at least two classes.
        x_val: validation features.
        y_val: validation labels.
        n_classes: of the task.
        seed: of the columns drawn a split.
        categorical: which columns are categories; None: none.
    """
    fixed: dict[str, Any] = {
        "learning_rate": LEARNING_RATE,
        "max_iter": MOST_TREES,
        "n_iter_no_change": PATIENCE,
        "l2_regularization": 1.0,
        "max_features": 0.5,
        "categorical_features": categorical,
        "random_state": seed,
    }
    # Early stopping needs validation rows of classes that train has.
    known = np.isin(y_val, np.unique(y))
    judged = known.sum() > 0 and len(np.unique(y_val[known])) > 1
    best: tuple[tuple[float, float], HistGradientBoostingClassifier, str] | None = None
    with threadpool_limits(_threads(len(y))):
        for leaves in LEAVES if judged else LEAVES[1:2]:
            model = HistGradientBoostingClassifier(max_leaf_nodes=leaves, early_stopping=judged, **fixed)
            area, rank = float("nan"), (0.0, 0.0)
            if judged:
                model.fit(x, y, X_val=x_val[known], y_val=y_val[known])
                said = expand(model.predict_proba(x_val), model.classes_, n_classes)
                area = task_auroc(y_val, said)
                rank = (0.0 if np.isnan(area) else area, -float(log_loss_rows(y_val, said).mean()))
            else:
                model.set_params(max_iter=100).fit(x, y)
            told = f"{leaves} leaves, {model.n_iter_} trees, validation AUROC {area:.4f}"
            if best is None or rank > best[0]:
                best = (rank, model, told)
    assert best is not None
    return Boosted(best[1], n_classes, best[2])


def _threads(rows: int) -> int:
    """One thread a 100,000 rows: on fewer, threads of a busy machine wait for each other longer than they work."""
    return max(1, min(os.cpu_count() or 1, rows // 100_000))


class _Columns:
    """One column a field: a number, a category, or both where train holds both."""

    def __init__(self, train: pa.Table) -> None:
        self.fields = sorted(pc.unique(train["field"]).to_pylist())
        held = {
            kind: set(pc.unique(train["field"].filter(pc.is_valid(train[kind]))).to_pylist())
            for kind in ("number", "text")
        }
        self.numbers = [field for field in self.fields if field in held["number"]]
        self.texts = [field for field in self.fields if field in held["text"]]

    def wide(self, long: pa.Table, examples: pa.Table) -> pa.Table:
        """``long`` (example_id, field, number, text) with one row an example, in the order of ``examples``."""
        ids = examples["example_id"].combine_chunks()
        row = pc.index_in(long["example_id"], value_set=ids).to_numpy(zero_copy_only=False)
        field = pc.fill_null(pc.index_in(long["field"], value_set=pa.array(self.fields)), -1).to_numpy()
        number = long["number"].to_numpy(zero_copy_only=False)
        text = np.asarray(long["text"].to_pylist(), dtype=object)
        columns: dict[str, pa.Array] = {}
        for code, name in enumerate(self.fields):
            held = field == code
            if name in self.numbers:
                values = np.full(len(ids), np.nan)
                values[row[held]] = number[held]
                columns[name] = pa.array(values)
            if name in self.texts:
                words = np.full(len(ids), None, dtype=object)
                words[row[held]] = text[held]
                columns[f"{name} (text)"] = pa.array(words.tolist(), pa.string())
        return pa.table(columns)
