"""Predictions on disk: one row an example in the public schema, written once, checked when read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lang1.common.artefact import Folder, open_folder
from lang1.common.errors import ArtefactError, InputError
from lang1.common.predictions import PREDICTIONS, REGIMES
from lang1.metrics.auroc import Floats

KIND = "predictions"
FILE = "predictions.parquet"
SUM_TOLERANCE = 1e-6
# Columns that a file made elsewhere must hold; the others may be absent.
NEEDED = ("example_id", "probabilities")


def prediction_table(
    examples: pa.Table,
    probabilities: Sequence[Floats],
    model: str,
    regime: str,
    option_mass: Sequence[float] | Floats | None = None,
    truncated: Sequence[int] | npt.NDArray[np.int64] | None = None,
) -> pa.Table:
    """Rows of the public schema for ``examples``, in their order.

    Args:
        examples: columns ``example_id, task, encounter_id, subject_id, prediction_time``, ``N`` rows.
        probabilities: ``N`` arrays ``[C]``, each summing to 1.
        model: the model's name.
        regime: one of ``REGIMES``.
        option_mass: ``[N]``, or None for models that do not answer in words.
        truncated: ``[N]``, or None likewise.
    """
    assert regime in REGIMES and len(probabilities) == examples.num_rows
    rows = examples.num_rows
    ends = np.cumsum([0, *(len(p) for p in probabilities)])
    values = np.concatenate(probabilities) if rows else np.empty(0)
    columns = {
        **{name: examples[name] for name in ("example_id", "task", "encounter_id", "subject_id", "prediction_time")},
        "model": pa.array([model] * rows, pa.string()),
        "regime": pa.array([regime] * rows, pa.string()),
        "probabilities": pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(values, pa.float64())),
        "option_mass": pa.nulls(rows, pa.float64()) if option_mass is None else pa.array(option_mass, pa.float64()),
        "truncated": pa.nulls(rows, pa.int64()) if truncated is None else pa.array(truncated, pa.int64()),
    }
    return pa.table([columns[field.name] for field in PREDICTIONS], names=PREDICTIONS.names).cast(PREDICTIONS)


def write_predictions(folder: Path, table: pa.Table) -> None:
    """Write ``predictions.parquet``; the same rows give the same bytes."""
    pq.write_table(table.combine_chunks(), folder / FILE, compression="zstd", row_group_size=65_536)


@dataclass(frozen=True)
class Predictions:
    """A complete predictions folder of one model in one regime."""

    folder: Folder
    model: str
    regime: str
    table: pa.Table

    @property
    def key(self) -> str:
        """As a results row's ``versus`` names it."""
        return f"{self.model}|{self.regime}"


def open_predictions(path: Path) -> Predictions:
    """Open a predictions folder.

    Raises:
        ArtefactError: missing, damaged, of another kind, or without model and regime.
    """
    folder = open_folder(path, KIND)
    extra = folder.manifest.extra
    if not isinstance(extra.get("model"), str) or extra.get("regime") not in REGIMES:
        raise ArtefactError(f"{path}: its manifest names no model and regime; make the predictions again.")
    return Predictions(folder, extra["model"], extra["regime"], read_prediction_file(path / FILE))


def read_prediction_file(file: Path) -> pa.Table:
    """Read a predictions file, made here or elsewhere; absent optional columns become null.

    Raises:
        ArtefactError: it is missing or not Parquet.
        InputError: a column is missing or of a wrong type, or an example stands there twice.
    """
    if not file.is_file():
        raise ArtefactError(f"{file} is missing: expected predictions in the public schema (Parquet).")
    try:
        found = pq.read_table(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtefactError(f"{file} cannot be read as Parquet ({error}); make or copy it again.") from error
    columns = []
    for field in PREDICTIONS:
        if field.name not in found.column_names:
            if field.name in NEEDED:
                raise InputError(f"{file}: column '{field.name}' is missing; needed are {', '.join(NEEDED)}.")
            columns.append(pa.nulls(found.num_rows, field.type))
            continue
        try:
            columns.append(found[field.name].cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(f"{file}: column '{field.name}': expected {field.type} ({error}).") from error
    table = pa.table(columns, names=PREDICTIONS.names)
    if table["example_id"].null_count:
        raise InputError(f"{file}: {table['example_id'].null_count} rows have no example_id.")
    counts = pc.value_counts(table["example_id"])
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        raise InputError(f"{file}: example {twice[0]['values']} stands there {twice[0]['counts']} times; keep one row.")
    return table


def place_of(table: pa.Table, example_ids: Sequence[str]) -> npt.NDArray[np.int64]:
    """The row of each example in a predictions table, -1 where it has none, ``[len(example_ids)]``."""
    if not len(example_ids):
        return np.empty(0, dtype=np.int64)
    found = pc.index_in(pa.array(example_ids, pa.string()), value_set=table["example_id"].combine_chunks())
    return np.asarray(pc.fill_null(found, -1).to_numpy(zero_copy_only=False), dtype=np.int64)


def probability_matrix(
    column: pa.ChunkedArray | pa.Array, n_classes: int, example_ids: Sequence[str], what: str
) -> Floats:
    """Lists of probabilities as ``[N, n_classes]``, checked.

    Raises:
        InputError: a row lacks probabilities, has another number of classes, a number that is NaN or outside [0, 1],
            or does not sum to 1 within 1e-6; the message names ``what`` and the example.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    lengths = pc.fill_null(pc.list_value_length(array), -1).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(lengths != n_classes)
    if len(wrong):
        first = wrong[0]
        got = "none" if lengths[first] < 0 else f"{lengths[first]}"
        raise InputError(
            f"{what}: example {example_ids[first]} has {got} probabilities, its task has {n_classes} classes "
            f"({len(wrong)} such rows)."
        )
    flat = pc.fill_null(pc.list_flatten(array), float("nan")).to_numpy(zero_copy_only=False)
    values = np.array(flat, dtype=np.float64).reshape(-1, n_classes)
    bad = np.flatnonzero(~((values >= 0) & (values <= 1 + SUM_TOLERANCE)).all(axis=1))
    if len(bad):
        raise InputError(
            f"{what}: example {example_ids[bad[0]]} has a probability that is NaN or outside 0 to 1 "
            f"({len(bad)} such rows)."
        )
    off = np.flatnonzero(np.abs(values.sum(axis=1) - 1) > SUM_TOLERANCE)
    if len(off):
        total = values[off[0]].sum()
        raise InputError(
            f"{what}: the probabilities of example {example_ids[off[0]]} sum to {total:.6g}, expected 1 "
            f"({len(off)} such rows)."
        )
    return values
