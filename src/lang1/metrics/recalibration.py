"""Maps from stated to corrected probabilities, fitted on validation and applied to test: Platt, isotonic, temperature.

None of them is fitted on what it is judged by: the caller hands validation rows to ``fit_*`` and test rows to the map.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import optimize

from lang1.common.errors import InputError
from lang1.metrics.auroc import Floats, checked_table
from lang1.metrics.calibration import CLIP, fit_logit, logits
from lang1.metrics.probability import SMALLEST

Map = Callable[[Floats], Floats]  # probabilities [N, C] to probabilities [N, C]
METHODS = ("platt", "isotonic", "temperature")


def fit_recalibration(method: str, labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> Map | None:
    """A map fitted on validation rows, or None where they do not determine one.

    Args:
        method: ``platt`` (logistic regression of the outcome on the logit, Platt 1999), ``isotonic`` (pool adjacent
            violators; it ties scores, so AUROC may move) or ``temperature`` (one factor on the log-probabilities, Guo
            et al. 2017). With more than two classes the first two work on each class against the rest and the rows
            are scaled to sum to 1.
        labels: class indices, ``[N]``.
        probabilities: ``[N, C]``.

    Raises:
        InputError: an unknown method, or input that :func:`lang1.metrics.auroc.checked_table` refuses.
    """
    index, table = checked_table(labels, probabilities)
    if method == "temperature":
        return _temperature(index, table)
    if method not in METHODS:
        raise InputError(f"recalibration '{method}': expected one of {', '.join(METHODS)}.")
    one = _platt if method == "platt" else _isotonic
    if table.shape[1] == 2:
        found = one(index == 1, table[:, 1])
        if found is None:
            return None
        fitted = found

        def of_two(said: Floats) -> Floats:
            corrected = fitted(said[:, 1])
            return np.stack([1 - corrected, corrected], axis=1)

        return of_two
    maps = [one(index == c, table[:, c]) for c in range(table.shape[1])]
    if any(each is None for each in maps):
        return None
    kept = [each for each in maps if each is not None]

    def of_many(said: Floats) -> Floats:
        corrected = np.stack([each(said[:, c]) for c, each in enumerate(kept)], axis=1)
        total = corrected.sum(axis=1, keepdims=True)
        # Isotonic maps may give every class 0: such a row keeps what was said.
        return np.asarray(np.where(total > 0, corrected / np.where(total > 0, total, 1.0), said))

    return of_many


def _platt(case: npt.NDArray[np.bool_], said: Floats) -> Callable[[Floats], Floats] | None:
    found = fit_logit(case.astype(np.float64), logits(said))
    if found is None or found[1] <= 0:  # a falling map would turn the ranking round: validation says nothing usable
        return None
    intercept, slope = found
    return lambda scores: np.asarray(1 / (1 + np.exp(-np.clip(intercept + slope * logits(scores), -500, 500))))


def _isotonic(case: npt.NDArray[np.bool_], said: Floats) -> Callable[[Floats], Floats] | None:
    if not 0 < case.sum() < len(case):
        return None
    values, group = np.unique(said, return_inverse=True)
    fitted = optimize.isotonic_regression(
        np.bincount(group, case) / np.bincount(group), weights=np.bincount(group).astype(np.float64)
    ).x
    return lambda scores: np.interp(scores, values, fitted)


def _temperature(index: npt.NDArray[np.int64], table: Floats) -> Map | None:
    if len(np.unique(index)) < 2:
        return None
    logs = np.log(np.clip(table, CLIP, None))

    def loss(log_factor: float) -> float:
        scaled = _scaled(logs, float(np.exp(log_factor)))
        return float(-np.log(np.clip(scaled[np.arange(len(index)), index], SMALLEST, None)).mean())

    found = optimize.minimize_scalar(loss, bounds=(-5.0, 5.0), method="bounded", options={"xatol": 1e-7})
    factor = float(np.exp(found.x))
    return lambda said: _scaled(np.log(np.clip(said, CLIP, None)), factor)


def _scaled(logs: Floats, factor: float) -> Floats:
    top = factor * logs
    top = np.exp(top - top.max(axis=1, keepdims=True))
    return np.asarray(top / top.sum(axis=1, keepdims=True))
