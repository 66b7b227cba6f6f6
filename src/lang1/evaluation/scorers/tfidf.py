"""TF-IDF of words and word pairs with logistic regression: the classic, cheap and strong text baseline."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.feature_selection import f_classif

from lang1.evaluation.examples import NOTES_AT_A_TIME, Asked, note_texts
from lang1.evaluation.scorers.boosting import fit_boosted
from lang1.evaluation.scorers.linear import Ints, fit_logistic
from lang1.evaluation.scorers.trained import TaskRows, Trained, trainable
from lang1.evaluation.settings import EvaluateSettings
from lang1.remede.benchmark import Benchmark

# Words, and numbers with their decimals: scikit-learn's own pattern would tear 1.9 apart and drop single digits.
WORD = r"(?u)\w+(?:\.\d+)?"
GRID = (0.1, 0.5, 2.0, 8.0, 32.0)
# The vocabulary is learnt on so many train notes at most: word pairs of a whole hospital would not fit in memory.
VOCABULARY_NOTES = 50_000
MOST_TERMS = 300_000
BOOSTED_TERMS = 400


def tfidf_logistic(asked: Asked, settings: EvaluateSettings) -> Trained:
    """Word 1-2-grams, sublinear tf, terms in at least 2 train notes (5 from 5,000 notes on), C chosen on validation.

    Tasks that read the same type of note share its vocabulary and document frequencies, both of train notes only;
    each classifier sees its own task's train rows. The whole note is read, however long.
    """
    trained = Trained("TF-IDF of word 1-2-grams (sublinear, whole notes) + logistic regression, C chosen on validation")
    for group in _by_note_type(asked, trained):
        space = _Space(asked.benchmark, group)
        for rows in group:
            fitted = fit_logistic(
                space.rows(rows.train["note_id"].to_pylist()),
                rows.train_labels,
                space.rows(rows.val["note_id"].to_pylist()),
                rows.val_labels,
                rows.n_classes,
                GRID,
            )
            trained.probabilities[rows.task] = fitted.probabilities(space.rows(rows.scored["note_id"].to_pylist()))
            trained.chosen[rows.task] = f"{fitted.told()}, {space.terms} terms"
    return trained


def tfidf_boosting(asked: Asked, settings: EvaluateSettings) -> Trained:
    """The same vectors, the terms that tell the classes apart best on train, and histogram gradient boosting.

    Trees need dense columns, so that only ``BOOSTED_TERMS`` terms are kept, by the F statistic of a one-way analysis of
    variance on train. Early stopping and the size of trees are decided on validation.
    """
    trained = Trained(
        f"the {BOOSTED_TERMS} TF-IDF terms that tell classes apart best on train + histogram gradient boosting, early "
        "stopping and tree size on validation"
    )
    for group in _by_note_type(asked, trained):
        space = _Space(asked.benchmark, group)
        for rows in group:
            x, y = space.rows(rows.train["note_id"].to_pylist()), rows.train_labels
            kept = _telling(x, y)
            found = fit_boosted(
                x[:, kept].toarray(),
                y,
                space.rows(rows.val["note_id"].to_pylist())[:, kept].toarray(),
                rows.val_labels,
                rows.n_classes,
                settings.seed,
            )
            scored = space.rows(rows.scored["note_id"].to_pylist())[:, kept].toarray()
            trained.probabilities[rows.task] = found.probabilities(scored)
            trained.chosen[rows.task] = f"{found.told}, {len(kept)} of {space.terms} terms"
    return trained


def _telling(features: sparse.csr_matrix, labels: Ints) -> Ints:
    """The columns with the highest F statistic, in their own order; ties go to the first."""
    there = np.flatnonzero(features.getnnz(axis=0))  # a task's rows need not hold every term of its note type
    statistic = np.full(features.shape[1], -1.0)
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Features .* are constant", category=UserWarning)
        found = f_classif(features[:, there], labels)[0]
    statistic[there] = np.nan_to_num(found, nan=0.0, posinf=np.finfo(np.float64).max)
    return np.sort(np.argsort(-statistic, kind="stable")[:BOOSTED_TERMS])


def _by_note_type(asked: Asked, trained: Trained) -> list[list[TaskRows]]:
    by_type: dict[str, list[TaskRows]] = {}
    for rows in trainable(asked, trained):
        by_type.setdefault(asked.benchmark.cards[rows.task].note_type, []).append(rows)
    return list(by_type.values())


class _Space:
    """TF-IDF vectors of every note that a group of tasks reads, each note vectorised once."""

    def __init__(self, benchmark: Benchmark, group: Sequence[TaskRows]) -> None:
        train = sorted({note for rows in group for note in rows.train["note_id"].to_pylist()})
        others = sorted(
            {note for rows in group for part in (rows.val, rows.scored) for note in part["note_id"].to_pylist()}
            - set(train)
        )
        counter = CountVectorizer(
            ngram_range=(1, 2),
            token_pattern=WORD,
            min_df=5 if len(train) >= 5_000 else min(2, len(train)),
            max_features=MOST_TERMS,
            dtype=np.float32,
        )
        # A stride over sorted ids takes notes from everywhere without a random draw.
        stride = -(-len(train) // VOCABULARY_NOTES)
        sample = train[::stride]
        counts = [counter.fit_transform(_texts(benchmark, sample))]
        rest = sorted(set(train) - set(sample))
        if rest:
            counts.append(counter.transform(_texts(benchmark, rest)))
        weigher = TfidfTransformer(sublinear_tf=True)
        trained = weigher.fit_transform(sparse.vstack(counts))
        parts = [trained]
        if others:
            parts.append(weigher.transform(counter.transform(_texts(benchmark, others))))
        self._matrix = sparse.csr_matrix(sparse.vstack(parts))
        self._row = {note: i for i, note in enumerate([*sample, *rest, *others])}
        self.terms = int(self._matrix.shape[1])

    def rows(self, notes: Sequence[str]) -> sparse.csr_matrix:
        """``[len(notes), terms]``, float32."""
        return self._matrix[np.fromiter((self._row[n] for n in notes), dtype=np.int64, count=len(notes))]


def _texts(benchmark: Benchmark, notes: Sequence[str]) -> Iterator[str]:
    for start in range(0, len(notes), NOTES_AT_A_TIME):
        yield from note_texts(benchmark, notes[start : start + NOTES_AT_A_TIME])
