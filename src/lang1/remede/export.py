"""A benchmark's labels and splits as MEDS 0.4 tables (``docs/splits.md``), for tools that know that format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lang1.common.artefact import new_folder
from lang1.common.errors import InputError
from lang1.remede.benchmark import SPLITS_FILE, Benchmark
from lang1.remede.card import Card

KIND = "meds"
# The names of MEDS where it has one (train, tuning, held_out), and what they leave open.
SPLIT_NAMES = {
    "train": "train",
    "val": "tuning",
    "test": "held_out",
    "test_older": "held_out_temporal_older",
    "test_newest": "held_out_temporal",
    "held_out_site": "held_out_site",
}
# ``LabelSchema`` of MEDS 0.4: no other columns are allowed.
KEYS = [
    pa.field("subject_id", pa.int64(), nullable=False),
    pa.field("prediction_time", pa.timestamp("us"), nullable=False),
]
BOOLEAN_LABELS = pa.schema([*KEYS, pa.field("boolean_value", pa.bool_(), nullable=False)])
INTEGER_LABELS = pa.schema([*KEYS, pa.field("integer_value", pa.int64(), nullable=False)])
SUBJECT_SPLITS = pa.schema([KEYS[0], pa.field("split", pa.string(), nullable=False)])
# What MEDS has no place for; same rows in the same order as the labels.
EXTRAS = ("example_id", "encounter_id", "note_id", "split", "index_time", "horizon_end", "label")
ORDER = [("subject_id", "ascending"), ("prediction_time", "ascending"), ("example_id", "ascending")]


def export_meds(benchmark: Path, out: Path, tasks: Sequence[str] | None = None) -> Path:
    """Write a benchmark's labels in the schemas of MEDS 0.4.

    ``labels/TASK/SPLIT.parquet`` holds ``subject_id, prediction_time`` and ``boolean_value`` (binary tasks) or
    ``integer_value`` (the class index), ``extras/TASK/SPLIT.parquet`` the same two keys, row by row, with encounter,
    note, index and horizon, and ``metadata/subject_splits.parquet`` the split of every patient of the records.

    Args:
        benchmark: benchmark folder.
        out: folder to write.
        tasks: which tasks; None for all.

    Raises:
        ArtefactError: a folder that is damaged or in the way.
        InputError: an unknown task, or an example without a prediction time.
    """
    opened = Benchmark.open(benchmark)
    examples = timed(opened, opened.examples(tasks))
    with new_folder(out, KIND, inputs={"benchmark": opened.folder}, settings={"tasks": tasks}) as draft:
        rows: dict[str, dict[str, int]] = {}
        for (task, split), part in parts(examples, opened):
            card, name = opened.cards[task], SPLIT_NAMES[split]
            write(draft.path / "labels" / task / f"{name}.parquet", labels(part, card))
            keys = [field.name for field in KEYS]
            texts = pc.take(pa.array(card.options), part["label"])
            extras = part.select([*keys, *EXTRAS]).append_column("label_text", texts)
            write(draft.path / "extras" / task / f"{name}.parquet", extras)
            rows.setdefault(task, {})[name] = part.num_rows
        folds = pq.read_table(opened.folder.path / SPLITS_FILE, columns=["subject_id", "fold"])
        split_of = pa.array([SPLIT_NAMES[fold] for fold in folds["fold"].to_pylist()], pa.string())
        subjects = pa.table([folds["subject_id"], split_of], schema=SUBJECT_SPLITS).sort_by("subject_id")
        write(draft.path / "metadata" / "subject_splits.parquet", subjects)
        draft.counts.update({"labels": rows, "subjects": subjects.num_rows})
        draft.extra.update(format="MEDS 0.4", splits=SPLIT_NAMES)
    return Path(out)


def timed(benchmark: Benchmark, examples: pa.Table) -> pa.Table:
    """Examples in the order of every exported table.

    Raises:
        InputError: one has no prediction time.
    """
    bare = examples.filter(examples["prediction_time"].is_null())
    if bare.num_rows:
        first = bare["example_id"][0].as_py()
        raise InputError(
            f"{benchmark.folder.path}: {bare.num_rows} of {examples.num_rows} examples have no prediction time, first "
            f"'{first}'. MEDS demands one and none is invented: records without dates cannot be exported; name only "
            "tasks whose examples have times."
        )
    return examples.sort_by(ORDER)


def parts(examples: pa.Table, benchmark: Benchmark) -> list[tuple[tuple[str, str], pa.Table]]:
    """The examples of each task and split that has some, in the order of the benchmark's tasks and of splits."""
    found = []
    for task in benchmark.tasks:
        of_task = examples.filter(pc.equal(examples["task"], task))
        for split in SPLIT_NAMES:
            part = of_task.filter(pc.equal(of_task["split"], split))
            if part.num_rows:
                found.append(((task, split), part))
    return found


def labels(examples: pa.Table, card: Card) -> pa.Table:
    """The label table of one task: a Boolean for two classes, else the class index."""
    keys = [examples[field.name] for field in KEYS]
    if card.kind == "binary":
        return pa.table([*keys, pc.equal(examples["label"], 1)], schema=BOOLEAN_LABELS)
    return pa.table([*keys, examples["label"].cast(pa.int64())], schema=INTEGER_LABELS)


def write(file: Path, table: pa.Table) -> None:
    """Write one Parquet file, folders above it included; same rows, same bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.combine_chunks(), file, compression="zstd")
