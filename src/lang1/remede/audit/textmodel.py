"""The small models of the audit: TF-IDF with logistic regression on text, and scores of registration values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from lang1.metrics.auroc import Floats
from lang1.remede.audit.material import TaskRows

Mask = npt.NDArray[np.bool_]
MOST_TERMS = 50_000
# A value in fewer rows than this counts as "rare", and shares of its classes are drawn towards those of all.
LEAST_ROWS = 5
PRIOR_ROWS = 10.0
BINS = 10
FOLDS = 5


def text_scores(rows: TaskRows, texts: Sequence[str], train: Mask | None = None) -> Floats:
    """Probabilities ``[N, classes]`` for all rows of a model of words and word pairs, fitted on train rows."""
    side = rows.train if train is None else train
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2),
        token_pattern=r"(?u)\w+(?:\.\d+)?",
        min_df=2,
        max_features=MOST_TERMS,
        sublinear_tf=True,
        dtype=np.float32,
    )
    learnt = vectorizer.fit_transform([texts[i] for i in np.flatnonzero(side).tolist()])
    return _fit(learnt, rows.labels[side], vectorizer.transform(texts), rows.card.classes, c=4.0)


def table_scores(rows: TaskRows, names: Sequence[str]) -> Floats:
    """Probabilities ``[N, classes]`` of a model of several columns, each row by a model fitted without it."""
    features = sparse.csr_matrix(sparse.hstack([_one_hot(*levels(rows.column(name))) for name in names]))
    table = np.zeros((len(rows.ids), rows.card.classes))
    for held in _folds(rows):
        learnt = ~held
        if len(np.unique(rows.labels[learnt])) > 1:
            found = _fit(features[np.flatnonzero(learnt)], rows.labels[learnt], features, rows.card.classes, c=0.3)
            table[held] = found[held]
    return table


def value_scores(rows: TaskRows, values: npt.NDArray[Any]) -> Floats:
    """Scores ``[N, classes]`` of one column: the class shares of each value (of each tenth, for numbers) in other rows.

    Each row is scored from the patients of the other four fifths, so that all rows can be judged: a screen for leaks
    needs the power of every case more than it needs the benchmark's own split.
    """
    level, names = levels(values)
    classes = rows.card.classes
    table = np.zeros((len(rows.ids), classes))
    for held in _folds(rows):
        learnt = ~held
        counts = np.zeros((len(names), classes))
        np.add.at(counts, (level[learnt], rows.labels[learnt]), 1.0)
        prior = counts.sum(axis=0) / max(float(counts.sum()), 1.0)
        shares = (counts + PRIOR_ROWS * prior) / (counts.sum(axis=1, keepdims=True) + PRIOR_ROWS)
        # Less the prior of its own fold: else the fold of a row alone would rank it.
        table[held] = (shares - prior)[level[held]]
    return table


def _folds(rows: TaskRows) -> list[Mask]:
    """Five sets of rows, patients kept together."""
    mixed = rows.patients.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    fold = (mixed >> np.uint64(32)) % np.uint64(FOLDS)
    return [np.asarray(fold == k) for k in range(FOLDS)]


def levels(values: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], list[str]]:
    """A column as level numbers and their names: texts as they are, numbers by tenths; 0 is unknown or rare."""
    if values.dtype != object:
        known = np.isfinite(values)
        inner = np.linspace(0, 1, BINS + 1)[1:-1]
        edges: Floats = np.unique(np.quantile(values[known], inner)) if known.any() else np.empty(0)
        found = np.where(known, np.searchsorted(edges, values, side="left") + 1, 0).astype(np.int64)
        return found, ["unknown", *(str(k) for k in range(len(edges) + 1))]
    counts = Counter(value for value in values if value is not None)
    names = sorted(name for name, n in counts.items() if n >= LEAST_ROWS)
    number = {name: k + 1 for k, name in enumerate(names)}
    return np.array([number.get(value, 0) for value in values], dtype=np.int64), ["unknown", *names]


def _one_hot(level: npt.NDArray[np.int64], names: list[str]) -> sparse.csr_matrix:
    ones = np.ones(len(level), dtype=np.float32)
    return sparse.csr_matrix((ones, (np.arange(len(level)), level)), shape=(len(level), len(names)))


def _fit(train: Any, labels: npt.NDArray[np.int64], everything: Any, classes: int, c: float) -> Floats:
    # One thread: the vectors are short, and threads that wait for each other cost more than they save.
    with threadpool_limits(1):
        model = LogisticRegression(C=c, max_iter=300, tol=1e-4).fit(train, labels)
    table = np.zeros((everything.shape[0], classes))
    table[:, np.asarray(model.classes_, dtype=np.int64)] = model.predict_proba(everything)
    return table
