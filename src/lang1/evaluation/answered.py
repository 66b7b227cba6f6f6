"""One model's answers on the examples at hand, and the rows that are written about them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from lang1.common.errors import InputError
from lang1.evaluation.predictions import Predictions, place_of, probability_matrix
from lang1.evaluation.scorers.linear import Ints
from lang1.metrics.auroc import Floats
from lang1.metrics.bootstrap import Resamples
from lang1.metrics.intervals import Interval, usable


@dataclass
class Answered:
    """One model's probabilities on the examples at hand, and its AUROC in each resample."""

    one: Predictions
    table: Floats  # [N, C]
    option_mass: Floats | None  # [N]
    truncated: Ints | None  # [N]
    auroc: float = float("nan")
    draws: Floats = field(default_factory=lambda: np.empty(0))  # [R]
    # By metric: value and draws of what is compared beside AUROC.
    others: dict[str, tuple[float, Floats]] = field(default_factory=dict)


@dataclass
class Scored:
    """What is known about one task and split."""

    task: str
    split: str
    n: int
    patients: int
    class_counts: list[int]
    judged: list[int]  # classes with enough cases
    rows: list[dict[str, Any]]
    curves: list[dict[str, Any]]
    truncated: dict[str, float]  # share of notes that were cut, by model|regime
    operating: list[dict[str, Any]] = field(default_factory=list)
    recalibration: list[dict[str, Any]] = field(default_factory=list)
    strata_left_out: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Part:
    """The examples of one task and split, with what every model's numbers are drawn from.

    Attributes:
        examples: the benchmark's columns, ``N`` rows.
        labels: class indices, ``[N]``.
        subjects: patient hashes, ``[N]``.
        n_classes: of the task.
        judged: classes with enough cases; ``[1]`` of a binary task.
        resamples: shared by all models.
        interval: how draws become intervals.
    """

    examples: pa.Table
    labels: Ints
    subjects: Ints
    n_classes: int
    judged: list[int]
    resamples: Resamples
    interval: Interval

    @property
    def binary(self) -> bool:
        """Whether the task has two classes."""
        return self.n_classes == 2


class Writer:
    """Appends rows that share task, split and model."""

    def __init__(self, result: Scored, one: Predictions, binary: bool) -> None:
        self.result, self.one, self.binary = result, one, binary
        seed = one.folder.manifest.extra.get("training_seed")
        self.seed = seed if isinstance(seed, int) else None

    def add(
        self,
        metric: str,
        value: float,
        draws: Floats | None = None,
        *,
        bounds: tuple[float, float] = (float("nan"), float("nan")),
        class_: int | None = None,
        versus: str | None = None,
        note: str | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """``sd`` is the draws', since the paper gives ± 1.96 SD; ``more`` may set n, events, stratum and p."""
        kept = usable(draws) if draws is not None else np.empty(0)
        events: int | None = None
        if class_ is not None:
            events = self.result.class_counts[class_]
        elif self.binary:
            events = self.result.class_counts[1]
        row = {
            "task": self.result.task,
            "model": self.one.model,
            "regime": self.one.regime,
            "metric": metric,
            "value": number(value),
            "low": number(bounds[0]),
            "high": number(bounds[1]),
            "sd": float(kept.std(ddof=1)) if len(kept) > 1 else None,
            "n": self.result.n,
            "events": events,
            "split": self.result.split,
            "stratum": None,
            "class": None if class_ is None else str(class_),
            "versus": versus,
            "seed": self.seed,
            "note": note,
            **more,
        }
        self.result.rows.append(row)
        return row


def answers_of(one: Predictions, ids: Sequence[str], n_classes: int, task: str, split: str) -> Answered | None:
    """A model's answers to examples in their order; None where it answers none of them.

    Raises:
        InputError: it answers some and not others, or its probabilities are malformed.
    """
    if not ids:
        return None
    place = place_of(one.table, ids)
    lacking = np.flatnonzero(place < 0)
    if len(lacking) == len(ids):
        return None
    if len(lacking):
        raise InputError(
            f"{one.folder.path}: {len(lacking)} of {len(ids)} examples of {task}, {split} are missing, first "
            f"{ids[lacking[0]]}; make the predictions with the same tasks, splits and limit."
        )
    rows = one.table.take(place)
    mass = rows["option_mass"]
    cut = rows["truncated"]
    return Answered(
        one,
        probability_matrix(rows["probabilities"], n_classes, ids, str(one.folder.path)),
        None if mass.null_count else np.asarray(mass.to_numpy(zero_copy_only=False), dtype=np.float64),
        None if cut.null_count else np.asarray(cut.to_numpy(zero_copy_only=False), dtype=np.int64),
    )


def number(value: float) -> float | None:
    """A float for JSON: None where it is not finite."""
    return float(value) if math.isfinite(value) else None


def p_note(p: float) -> str | None:
    """``p = 0.012``."""
    return None if math.isnan(p) else f"p = {p:.3g}"
