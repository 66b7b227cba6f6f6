"""Which examples an evaluation asks: tasks, splits and limit resolved once, for every scorer alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lang1.common.errors import InputError, SettingsError
from lang1.evaluation.settings import EvaluateSettings
from lang1.remede.benchmark import Benchmark
from lang1.text.chart import Chart

# Beside the headline split, these are scored where they exist.
DEFAULT_SPLITS = ("test", "test_older", "held_out_site")
# Notes whose text is read at a time: each read scans the notes table, and memory holds so many notes.
NOTES_AT_A_TIME = 16_384


@dataclass(frozen=True)
class Item:
    """One question asked of a note. ``label`` is always 0: scorers are not told what happened."""

    example_id: str
    task: str
    label: int = 0


@dataclass(frozen=True)
class Group:
    """One note, or an input of several (``chart``), and the questions asked of it."""

    note_id: str
    text: str
    items: tuple[Item, ...]
    chart: Chart | None = None


Noted = tuple[str, list[Item]]


@dataclass(frozen=True)
class Asked:
    """The examples of an evaluation, ordered by split, note and task.

    Attributes:
        benchmark: where they come from.
        tasks: in the benchmark's order.
        splits: the headline split first.
        examples: the benchmark's columns, ``N`` rows.
    """

    benchmark: Benchmark
    tasks: tuple[str, ...]
    splits: tuple[str, ...]
    examples: pa.Table

    def questions(self) -> dict[str, str]:
        """The rendered question of each task."""
        every = self.benchmark.questions()
        return {task: every[task] for task in self.tasks}

    def n_options(self) -> dict[str, int]:
        """How many options each task has."""
        return {task: len(self.benchmark.cards[task].options) for task in self.tasks}

    def of(self, task: str, split: str | None = None) -> pa.Table:
        """The examples of one task, and of one split if given."""
        keep = pc.equal(self.examples["task"], task)
        if split is not None:
            keep = pc.and_(keep, pc.equal(self.examples["split"], split))
        return self.examples.filter(keep)

    def notes(self) -> list[Noted]:
        """Each note with the questions asked of it, ordered by note id."""
        columns = [self.examples[n].to_pylist() for n in ("note_id", "example_id", "task")]
        rows = sorted(zip(*columns, strict=True))
        return [(note, [Item(e, t) for _, e, t in found]) for note, found in groupby(rows, key=lambda row: row[0])]

    def read(self, notes: Sequence[Noted]) -> Iterator[Group]:
        """Some of :meth:`notes` with their texts, read a few thousand at a time."""
        for start in range(0, len(notes), NOTES_AT_A_TIME):
            block = notes[start : start + NOTES_AT_A_TIME]
            charts = self.benchmark.charts(note for note, _ in block)
            texts = self.benchmark.texts(note for note, _ in block if note not in charts)
            for note, items in block:
                chart = charts.get(note)
                yield Group(note, texts[note] if chart is None else chart.text, tuple(items), chart)

    def groups(self) -> Iterator[Group]:
        """Notes with all questions asked of them, one after another; text is read a few thousand notes at a time."""
        return self.read(self.notes())


def asked(benchmark: Benchmark, settings: EvaluateSettings) -> Asked:
    """Resolve which examples are scored.

    Raises:
        SettingsError: an unknown task or split, or a split without examples that was asked for by name.
        InputError: nothing is left to score.
    """
    known = tuple(benchmark.tasks)
    tasks = known if settings.tasks is None else tuple(settings.tasks)
    for task in tasks:
        if task not in known:
            raise SettingsError(f"unknown task '{task}'; the benchmark has {', '.join(known)}.")
    tasks = tuple(task for task in known if task in tasks)
    everything = benchmark.examples(list(tasks))
    present = set(pc.unique(everything["split"]).to_pylist())
    if settings.splits is None:
        wanted = [benchmark.headline_split, *DEFAULT_SPLITS]
        splits = tuple(dict.fromkeys(s for s in wanted if s in present))
    else:
        splits = tuple(dict.fromkeys(settings.splits))
        for split in splits:
            if split not in present:
                raise SettingsError(f"split '{split}' has no examples; the benchmark has {', '.join(sorted(present))}.")
    if settings.recalibrate and "val" in present:
        splits = tuple(dict.fromkeys([*splits, "val"]))
    examples = everything.filter(pc.is_in(everything["split"], pa.array(splits, pa.string())))
    if not examples.num_rows:
        raise InputError(
            f"{benchmark.folder.path}: no examples in {' or '.join(splits) or 'any test split'}; build it anew."
        )
    order = [("split", "ascending"), ("note_id", "ascending"), ("task", "ascending"), ("example_id", "ascending")]
    examples = limited(examples, settings.limit).sort_by(order)
    return Asked(benchmark, tasks, splits, examples)


def limited(examples: pa.Table, limit: int | None) -> pa.Table:
    """At most ``limit`` rows a task and split: patients in the order of their hash, so that tasks share notes."""
    if limit is None:
        return examples
    ordered = examples.sort_by([("subject_id", "ascending"), ("encounter_id", "ascending")])
    seen: dict[tuple[str, str], int] = {}
    keep = np.zeros(ordered.num_rows, dtype=bool)
    for i, cell in enumerate(zip(ordered["task"].to_pylist(), ordered["split"].to_pylist(), strict=True)):
        seen[cell] = seen.get(cell, 0) + 1
        keep[i] = seen[cell] <= limit
    return ordered.filter(pa.array(keep))


def labels_of(examples: pa.Table) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The labels of examples as class indices, ``[N]``."""
    return np.asarray(examples["label"].to_numpy(zero_copy_only=False), dtype=np.int64)


def note_texts(benchmark: Benchmark, note_ids: Sequence[str]) -> list[str]:
    """Texts in the order of ``note_ids``, each read once however often it is asked for."""
    found = benchmark.texts(list(dict.fromkeys(note_ids)))
    return [found[note] for note in note_ids]
