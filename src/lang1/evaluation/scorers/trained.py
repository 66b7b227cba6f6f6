"""What every baseline starts from and hands back: train, validation and scored rows a task; probabilities a task."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from lang1.evaluation.examples import Asked, labels_of
from lang1.evaluation.scorers.linear import Ints
from lang1.metrics.auroc import Floats


@dataclass
class Trained:
    """A baseline's answers.

    Attributes:
        about: what it is, in a sentence.
        probabilities: by task ``[N, C]``, in the order of ``Asked.of(task)``.
        chosen: by task, what validation chose, for the manifest.
        left_out: rows that could not be answered, by reason.
    """

    about: str
    probabilities: dict[str, Floats] = field(default_factory=dict)
    chosen: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskRows:
    """One task's rows: exactly the train rows that the models get, validation, and what is scored."""

    task: str
    n_classes: int
    train: pa.Table
    val: pa.Table
    scored: pa.Table

    @property
    def train_labels(self) -> Ints:
        """``[rows]`` class indices."""
        return labels_of(self.train)

    @property
    def val_labels(self) -> Ints:
        """``[rows]`` class indices."""
        return labels_of(self.val)


def trainable(asked: Asked, trained: Trained, least_classes: int = 2) -> Iterator[TaskRows]:
    """The tasks that have something to learn from; the others are counted in ``trained.left_out``."""
    for task, n_classes in asked.n_options().items():
        train, val = (asked.benchmark.examples([task], [split]).sort_by("example_id") for split in ("train", "val"))
        rows = TaskRows(task, n_classes, train, val, asked.of(task))
        found = len(np.unique(rows.train_labels))
        if found < least_classes:
            what = "no rows" if not found else "one class only"
            trained.left_out[f"{task}: train holds {what}"] = rows.scored.num_rows
            continue
        yield rows
