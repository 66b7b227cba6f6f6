"""Patient-level bootstrap: the same resamples for every model, so that differences are paired.

A resample draws as many patients as there are, with replacement; a patient drawn twice brings all rows twice. Counts
act as weights, so nothing is copied, and scores are sorted once for all resamples. Shapes: P patients, R resamples,
N rows, C classes. How draws become intervals, and what those cover, is told in ``intervals.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from lang1.common.errors import InputError
from lang1.metrics.auroc import Floats, checked_scores, checked_table

RESAMPLES = 1000
# Resamples handled together: 50 columns of 10,000 patients fit the second-level cache.
CHUNK = 50


@dataclass(frozen=True)
class Resamples:
    """How often each patient was drawn in each resample, and whose each row is.

    Attributes:
        counts: ``[P, R]``, uint8: more than 255 of one patient come about once in 10^500 resamples.
        row_patient: index into the patients, ``[N]``.
    """

    counts: npt.NDArray[np.uint8]
    row_patient: npt.NDArray[np.int64]

    @property
    def n(self) -> int:
        """How many resamples there are."""
        return int(self.counts.shape[1])

    def weights(self) -> Floats:
        """The weight of each row in each resample, ``[N, R]``; for checks, at full memory."""
        return self.counts[self.row_patient].astype(np.float64)


def resample_counts(
    subject_ids: npt.ArrayLike, n: int = RESAMPLES, seed: int = 0, stratify: npt.ArrayLike | None = None
) -> Resamples:
    """Draw ``n`` resamples of the patients behind ``subject_ids`` (``[N]``, any sortable ids).

    The counts depend on the set of patients, ``n``, ``seed`` and the strata, and not on the order of the rows.

    Args:
        subject_ids: the patient of each row.
        n: how many resamples.
        seed: of the draws.
        stratify: bool or 0/1, ``[N]``: patients with such a row and patients without are drawn apart, so that every
            resample holds as many of each as the data do.

    Raises:
        InputError: there are no rows.
    """
    patients, row_patient = np.unique(np.asarray(subject_ids), return_inverse=True)
    if not len(patients):
        raise InputError("bootstrap: there are no rows to resample; give predictions for at least one example.")
    groups = [np.arange(len(patients))]
    if stratify is not None:
        marked = np.bincount(row_patient, np.asarray(stratify).astype(bool), minlength=len(patients)) > 0
        groups = [members for members in (np.flatnonzero(marked), np.flatnonzero(~marked)) if len(members)]
    counts = np.empty((len(patients), n), dtype=np.uint8)
    random = np.random.default_rng(seed)
    for start in range(0, n, CHUNK):
        width = min(CHUNK, n - start)
        for members in groups:
            size = len(members)
            found = np.empty((width, size), dtype=np.uint8)
            # One resample at a time: its counts fit the cache, those of all together do not (3 times as slow).
            for place, drawn in enumerate(random.integers(0, size, (width, size))):
                found[place] = np.bincount(drawn, minlength=size)
            if len(groups) == 1:
                counts[:, start : start + width] = found.T
            else:
                counts[members, start : start + width] = found.T
    return Resamples(counts, row_patient.astype(np.int64))


def mean_draws(values: npt.ArrayLike, resamples: Resamples, weights: npt.ArrayLike | None = None) -> Floats:
    """The mean of ``values`` (``[N]``), weighted by ``weights`` (``[N]``) if given, in each resample, ``[R]``."""
    rows = checked_scores(values, len(resamples.row_patient), "values")
    if weights is None:
        return ratio_draws(rows, np.ones(len(rows)), resamples)
    weight = checked_scores(weights, len(rows), "weights")
    return ratio_draws(rows * weight, weight, resamples)


def ratio_draws(tops: npt.ArrayLike, bottoms: npt.ArrayLike, resamples: Resamples) -> Floats:
    """The sum of ``tops`` over the sum of ``bottoms`` (``[N]`` each) in each resample, ``[R]``; NaN where that is 0."""
    whose = resamples.row_patient
    found = sum_draws(np.stack([checked_scores(rows, len(whose), "values") for rows in (tops, bottoms)]), resamples)
    return _ratio(found[0], found[1])


def sum_draws(columns: Floats, resamples: Resamples) -> Floats:
    """The sums of several columns (``[K, N]``, no NaN) in each resample, ``[K, R]``."""
    whose, size = resamples.row_patient, len(resamples.counts)
    sums = np.stack([np.bincount(whose, rows, minlength=size) for rows in columns])
    found = np.empty((len(columns), resamples.n))
    for start in range(0, resamples.n, CHUNK):
        found[:, start : start + CHUNK] = sums @ resamples.counts[:, start : start + CHUNK].astype(np.float64)
    return found


@dataclass(frozen=True)
class RankDraws:
    """Rank metrics in each resample, ``[R]`` each; NaN where a resample lacks cases (or, for AUROC, non-cases)."""

    auroc: Floats
    average_precision: Floats


def rank_draws(
    labels: npt.ArrayLike, scores: npt.ArrayLike, resamples: Resamples, weights: npt.ArrayLike | None = None
) -> RankDraws:
    """Weighted AUROC and average precision in every resample, ties handled as in the point estimates.

    Rows between two neighbouring scores of cases matter only by how many they are. So a sparse matrix sums patients'
    counts over such stretches (2G + 1 of non-cases around and on the G scores that cases have, then G of cases), and
    only those sums are run through.

    Args:
        labels: bool or 0/1, ``[N]``.
        scores: ``[N]``.
        resamples: drawn for the same rows in the same order.
        weights: non-negative weight of each row, ``[N]``; None weighs all alike.

    Raises:
        InputError: a score is NaN, or the lengths differ.
    """
    case = np.asarray(labels).astype(bool)
    values = checked_scores(scores, len(case))
    if len(case) != len(resamples.row_patient):
        raise InputError(f"bootstrap: {len(case)} labels for resamples of {len(resamples.row_patient)} rows.")
    none = np.full(resamples.n, np.nan)
    if not case.any():
        return RankDraws(none, none)
    held = np.unique(values[case])  # the scores that cases have
    groups = len(held)
    above = np.searchsorted(held, values, side="left")
    tied = above < groups
    tied[tied] = held[above[tied]] == values[tied]
    stretch = np.where(case, 2 * groups + 1 + above, 2 * above + tied)
    # Counts are whole: int32 sums are exact as long as a resample holds fewer than 2^31 rows.
    kind: type = np.int32 if weights is None else np.float64
    data = np.ones(len(case), dtype=kind) if weights is None else checked_scores(weights, len(case), "weights")
    matrix = sparse.csr_matrix(
        (data, (stretch, resamples.row_patient)), shape=(3 * groups + 1, len(resamples.counts)), dtype=kind
    )
    area, precision = np.empty(resamples.n), np.empty(resamples.n)
    for start in range(0, resamples.n, CHUNK):
        piece = slice(start, min(start + CHUNK, resamples.n))
        sums = matrix @ np.ascontiguousarray(resamples.counts[:, piece], dtype=kind)
        cases = sums[2 * groups + 1 :].astype(np.float64)
        running = np.cumsum(sums[: 2 * groups + 1], axis=0, dtype=np.float64)
        below, through = running[0 : 2 * groups : 2], running[1 : 2 * groups : 2]
        cases_before = np.cumsum(cases, axis=0) - cases
        total_cases, total_others = cases.sum(axis=0), running[-1]
        flagged = (total_others - below) + (total_cases - cases_before)
        # Rounding of weighted sums may leave a trace where nothing is flagged.
        hit = np.divide(total_cases - cases_before, flagged, out=np.zeros_like(flagged), where=cases > 0)
        area[piece] = _ratio(0.5 * np.einsum("gr,gr->r", cases, below + through), total_cases * total_others)
        precision[piece] = _ratio(np.einsum("gr,gr->r", cases, hit), total_cases)
    return RankDraws(area, precision)


def task_draws(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    resamples: Resamples,
    classes: Sequence[int],
    weights: npt.ArrayLike | None = None,
) -> dict[int, RankDraws]:
    """:func:`rank_draws` one-vs-rest for each of ``classes``; the macro AUROC in each resample is their plain mean."""
    index, table = checked_table(labels, probabilities)
    return {c: rank_draws(index == c, table[:, c], resamples, weights) for c in classes}


def attained_share(value: npt.ArrayLike, oracle: npt.ArrayLike) -> Floats:
    """(AUROC - 0.5)/(oracle's AUROC - 0.5), elementwise; NaN where the oracle is no better than chance.

    Given the draws of both from the same resamples (``[R]``) it yields the share's draws.
    """
    top = np.asarray(value, dtype=np.float64) - 0.5
    best = np.asarray(oracle, dtype=np.float64) - 0.5
    return np.asarray(np.divide(top, best, out=np.full(np.broadcast(top, best).shape, np.nan), where=best > 0))


def _ratio(top: Floats, bottom: Floats) -> Floats:
    return np.asarray(np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0))
