"""Tables to design matrices for the baselines: fitted on train rows, unknown and missing values given a place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from lang1.metrics.auroc import Floats

# A category seen less often in train shares a place with the other rare ones.
MIN_CATEGORY_ROWS = 20
# Hist gradient boosting bins at most 255 values of a category.
MOST_CATEGORIES = 254
KNOTS = (0.1, 0.3, 0.5, 0.7, 0.9)  # quantiles of train at which a number's effect may bend


def is_number(column: pa.ChunkedArray) -> bool:
    """Whether a column counts as a number (booleans do)."""
    kind = column.type
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def numbers(column: pa.ChunkedArray) -> Floats:
    """A column as float64, null as NaN."""
    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)


def texts(column: pa.ChunkedArray) -> npt.NDArray[np.object_]:
    """A column as strings, null as the empty string."""
    filled = pc.fill_null(column.cast(pa.string()), "")
    return np.asarray(filled.to_numpy(zero_copy_only=False), dtype=object)


@dataclass(frozen=True)
class _Category:
    values: dict[str, int]  # frequent values of train, to columns 1..K; column 0 is all that is rare or unknown

    @classmethod
    def fit(cls, column: pa.ChunkedArray, least: int, most: int) -> _Category:
        found, counts = np.unique(texts(column), return_counts=True)
        ranked = sorted(zip(-counts, found, strict=True))
        kept = sorted(value for count, value in ranked[:most] if -count >= least)
        return cls({str(value): i + 1 for i, value in enumerate(kept)})

    def codes(self, column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
        return np.fromiter((self.values.get(v, 0) for v in texts(column)), dtype=np.int64, count=len(column))


@dataclass(frozen=True)
class _Spread:
    centre: float
    scale: float
    knots: tuple[float, ...]
    missing: bool

    @classmethod
    def fit(cls, column: pa.ChunkedArray) -> _Spread:
        values = numbers(column)
        known = values[np.isfinite(values)]
        if not len(known):
            return cls(0.0, 1.0, (), False)
        centre, scale = float(known.mean()), float(known.std()) or 1.0
        knots = np.unique(np.quantile((known - centre) / scale, KNOTS))
        return cls(centre, scale, tuple(knots.tolist()) if len(knots) > 2 else (), len(known) < len(values))

    def columns(self, column: pa.ChunkedArray) -> Floats:
        values = (numbers(column) - self.centre) / self.scale
        unknown = ~np.isfinite(values)
        values = np.clip(np.where(unknown, 0.0, values), -10, 10)
        parts = [values, *(np.maximum(values - knot, 0.0) for knot in self.knots)]
        if self.missing:
            parts.append(unknown.astype(np.float64))
        return np.stack(parts, axis=1)


class LinearEncoder:
    """For linear models: numbers scaled, with piecewise-linear bends and a flag where missing; categories one-hot."""

    def __init__(self, train: pa.Table) -> None:
        self._spreads = {n: _Spread.fit(train[n]) for n in train.column_names if is_number(train[n])}
        self._categories = {
            n: _Category.fit(train[n], MIN_CATEGORY_ROWS, 10_000) for n in train.column_names if n not in self._spreads
        }

    def encode(self, table: pa.Table) -> sparse.csr_matrix:
        """``[rows, features]``, sparse."""
        parts = [sparse.csr_matrix(spread.columns(table[name])) for name, spread in self._spreads.items()]
        rows = np.arange(table.num_rows)
        for name, category in self._categories.items():
            codes = category.codes(table[name])
            shape = (table.num_rows, len(category.values) + 1)
            parts.append(sparse.csr_matrix((np.ones(len(codes)), (rows, codes)), shape=shape))
        return sparse.csr_matrix(sparse.hstack(parts))


class TreeEncoder:
    """For boosted trees: numbers as they are, categories as codes; NaN is missing, rare or unknown."""

    def __init__(self, train: pa.Table) -> None:
        self.names = list(train.column_names)
        self._categories = {
            n: _Category.fit(train[n], MIN_CATEGORY_ROWS, MOST_CATEGORIES)
            for n in self.names
            if not is_number(train[n])
        }
        self.categorical = [name in self._categories for name in self.names]

    def encode(self, table: pa.Table) -> Floats:
        """``[rows, columns]``."""
        columns = []
        for name in self.names:
            category = self._categories.get(name)
            if category is None:
                columns.append(numbers(table[name]))
            else:
                codes = category.codes(table[name])
                columns.append(np.where(codes == 0, np.nan, codes - 1.0))
        return np.stack(columns, axis=1)
