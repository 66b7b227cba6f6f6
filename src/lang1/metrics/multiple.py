"""Many p-values at once: Holm for a family of claims, Benjamini-Hochberg for an exploratory grid."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lang1.common.errors import InputError
from lang1.metrics.auroc import Floats


def holm(p_values: npt.ArrayLike) -> Floats:
    """Adjusted p-values that bound the chance of any false claim in the family (Holm, Scand. J. Statistics 1979).

    Args:
        p_values: ``[K]`` in [0, 1]; NaN stays NaN and does not count.

    Raises:
        InputError: a value outside [0, 1].
    """
    values, known = _checked(p_values)
    found = np.full(len(values), np.nan)
    ranked = values[known]
    order = np.argsort(ranked, kind="stable")
    size = len(ranked)
    stepped = np.maximum.accumulate(ranked[order] * (size - np.arange(size)))
    adjusted = np.empty(size)
    adjusted[order] = np.minimum(stepped, 1.0)
    found[known] = adjusted
    return found


def benjamini_hochberg(p_values: npt.ArrayLike) -> Floats:
    """Adjusted p-values that bound the expected share of false claims (Benjamini & Hochberg, JRSS B 1995).

    Arguments and errors as for :func:`holm`.
    """
    values, known = _checked(p_values)
    found = np.full(len(values), np.nan)
    ranked = values[known]
    order = np.argsort(-ranked, kind="stable")
    size = len(ranked)
    stepped = np.minimum.accumulate(ranked[order] * (size / (size - np.arange(size))))
    adjusted = np.empty(size)
    adjusted[order] = np.minimum(stepped, 1.0)
    found[known] = adjusted
    return found


CORRECTIONS = {"holm": holm, "bh": benjamini_hochberg}


def _checked(p_values: npt.ArrayLike) -> tuple[Floats, npt.NDArray[np.bool_]]:
    values = np.asarray(p_values, dtype=np.float64)
    if values.ndim != 1:
        raise InputError(f"p-values: expected one list, found shape {values.shape}.")
    if (values < 0).any() or (values > 1).any():
        raise InputError("p-values: one lies outside 0 to 1.")
    return values, ~np.isnan(values)
