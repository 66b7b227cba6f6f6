"""Acting at a capacity: as many alerts as a team can handle, the highest risks first.

Shapes: N rows, R resamples. Every share is of all rows. Equal scores at the edge of the capacity are handled in random
order: the expected number of cases among them counts, so that coarse scores are neither favoured nor punished.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from lang1.common.errors import InputError
from lang1.metrics.auroc import Floats, checked_scores
from lang1.metrics.bootstrap import CHUNK, Resamples


@dataclass(frozen=True)
class AtCapacity:
    """Of all rows, the share that are alerts (``rate``), cases (``prevalence``) and both (``hits``); draws are ``[R]``.

    In each resample the highest risks are found anew, so that the number of alerts is what the team can handle.
    """

    rate: float
    prevalence: float
    hits: float
    prevalence_draws: Floats
    hits_draws: Floats

    @property
    def sensitivity(self) -> tuple[float, Floats]:
        """Share of cases that are alerts."""
        return _over(self.hits, self.prevalence), _over_all(self.hits_draws, self.prevalence_draws)

    @property
    def ppv(self) -> tuple[float, Floats]:
        """Share of alerts that are cases."""
        return self.hits / self.rate, self.hits_draws / self.rate

    def net_benefit(self, threshold_risk: float) -> tuple[float, Floats]:
        """Right alerts less false ones weighed by the odds of ``threshold_risk``, a row (Vickers & Elkin 2006)."""
        odds = threshold_risk / (1 - threshold_risk)
        return self.hits - (self.rate - self.hits) * odds, self.hits_draws - (self.rate - self.hits_draws) * odds


def at_capacity(labels: npt.ArrayLike, scores: npt.ArrayLike, rate: float, resamples: Resamples) -> AtCapacity:
    """:func:`at_capacities` at one capacity."""
    return at_capacities(labels, scores, [rate], resamples)[0]


def at_capacities(
    labels: npt.ArrayLike, scores: npt.ArrayLike, rates: Sequence[float], resamples: Resamples
) -> list[AtCapacity]:
    """What the highest share of the rows by score hold, on the data and in each resample, for several shares at once.

    Args:
        labels: bool or 0/1, ``[N]``.
        scores: ``[N]``.
        rates: alerts over rows; above 1 every row is an alert.
        resamples: drawn for the same rows in the same order.

    Raises:
        InputError: a rate that is not above 0, a score that is NaN, or lengths that differ.
    """
    case = np.asarray(labels).astype(bool)
    values = checked_scores(scores, len(case))
    for rate in rates:
        if not rate > 0:
            raise InputError(f"capacity {rate}: expected a share above 0.")
    if len(case) != len(resamples.row_patient):
        raise InputError(f"capacity: {len(case)} labels for resamples of {len(resamples.row_patient)} rows.")
    shares = np.minimum(np.asarray(rates, dtype=np.float64), 1.0)
    found, group = np.unique(-values, return_inverse=True)
    total, cases = (_sums(rows, resamples) for rows in (np.ones(len(case)), case.astype(np.float64)))
    # Only the top of the ranking matters: as much of it as fills the largest capacity in every resample.
    filled = np.cumsum(np.bincount(group, minlength=len(found)))
    top = int(np.searchsorted(filled, 1.3 * shares.max() * len(case) + 50)) + 1
    while (hits := _top(case, group, min(top, len(found)), resamples, shares[:, None] * total)) is None:
        top *= 2
    prevalence = _over_all(cases, total)
    made = []
    for rate, hit in zip(shares, hits, strict=True):
        share = _over_all(hit, total)
        made.append(AtCapacity(float(rate), float(prevalence[0]), float(share[0]), prevalence[1:], share[1:]))
    return made


def alert_shares(scores: npt.ArrayLike, rate: float) -> Floats:
    """How far each row is an alert when the highest ``rate`` of them are, ``[N]``: 1 above the threshold, 0 below, and
    on it the share of those rows that the capacity still holds.

    Raises:
        InputError: a rate that is not above 0, or a score that is NaN.
    """
    values = np.asarray(scores, dtype=np.float64)
    values = checked_scores(values, len(values))
    if not rate > 0:
        raise InputError(f"capacity {rate}: expected a share above 0.")
    found, group = np.unique(-values, return_inverse=True)
    size = np.bincount(group, minlength=len(found)).astype(np.float64)
    before = np.cumsum(size) - size
    held = np.clip(min(rate, 1.0) * len(values) - before, 0.0, size)
    return np.asarray((held / size)[group])


def _pieces(resamples: Resamples, kind: type) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
    """Patients' counts by chunks, ``[P, …]``: the data first, where each patient counts once, then the resamples."""
    yield slice(0, 1), np.ones((len(resamples.counts), 1), dtype=kind)
    for start in range(0, resamples.n, CHUNK):
        counts = resamples.counts[:, start : start + CHUNK]
        yield slice(1 + start, 1 + start + counts.shape[1]), np.ascontiguousarray(counts, dtype=kind)


def _sums(rows: Floats, resamples: Resamples) -> Floats:
    """The sum of ``rows`` (``[N]``) on the data and in each resample, ``[1 + R]``."""
    each = np.bincount(resamples.row_patient, rows, minlength=len(resamples.counts))
    return np.concatenate([each @ counts for _, counts in _pieces(resamples, np.float64)])


def _top(
    case: npt.NDArray[np.bool_], group: npt.NDArray[np.int64], top: int, resamples: Resamples, wanted: Floats
) -> Floats | None:
    """Cases among the first ``wanted`` rows (``[K, 1 + R]``), of which only the ``top`` groups of equal scores are
    looked at; None where these are too few."""
    inside = group < top
    place, shape = (group[inside], resamples.row_patient[inside]), (top, len(resamples.counts))
    # Counts are whole: int32 sums are exact as long as a resample holds fewer than 2^31 rows.
    rows = sparse.csr_matrix((np.ones(int(inside.sum()), np.int32), place), shape=shape)
    hits = sparse.csr_matrix((case[inside].astype(np.int32), place), shape=shape)
    found = np.empty(wanted.shape)
    for piece, counts in _pieces(resamples, np.int32):
        size, got = rows @ counts, hits @ counts
        filled, seen = np.cumsum(size, axis=0, dtype=np.int32), np.cumsum(got, axis=0, dtype=np.int32)
        column = np.arange(size.shape[1])
        for number, want in enumerate(wanted[:, piece]):
            if (filled[-1] < want - 1e-6).any():
                return None
            edge = (filled < want - 1e-6).sum(axis=0)
            at_edge = size[edge, column].astype(np.float64)
            room = np.minimum(want - (filled[edge, column] - at_edge), at_edge)
            part = np.divide(room, at_edge, out=np.zeros_like(room), where=at_edge > 0)
            found[number, piece] = seen[edge, column] - (1 - part) * got[edge, column]
    return found


def _over(part: float, whole: float) -> float:
    return part / whole if whole > 0 else float("nan")


def _over_all(part: Floats, whole: Floats) -> Floats:
    return np.asarray(np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0))
