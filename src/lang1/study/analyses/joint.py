"""Figures of several benchmarks on one set of resamples: what their differences need, paired or not.

A context resamples the patients of one benchmark. Here all patients of several are drawn together. Those who are in
two of them are drawn alike in both, so that a difference is paired as far as patients are shared; of benchmarks
without a common patient the figures come out independent (each patient's count is drawn by itself but for their sum).
Shapes: S seeds, R resamples, N examples, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from lang1.evaluation.answered import Part
from lang1.metrics.auroc import Floats
from lang1.metrics.auroc import auroc as area
from lang1.metrics.bootstrap import Resamples, attained_share, resample_counts, task_draws
from lang1.metrics.intervals import rarer_patients
from lang1.metrics.over_seeds import over_seeds
from lang1.reporting.study_schema import Cell as Shown
from lang1.reporting.study_schema import Value
from lang1.study.analyses.contrasts import Repeats, combined
from lang1.study.cells import Cell
from lang1.study.context import MEAN, Context, Group, as_value

Key = TypeVar("Key")


@dataclass(frozen=True)
class Drawn:
    """One cell's figure with its draws ``[R]``, the patients' degrees of freedom, and how many examples it is about."""

    value: float
    draws: Floats
    df: float
    n: int
    events: int | None = None


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a model, and for its attained share the true risks on the same examples."""

    group: Group
    best: Group | None = None


@dataclass
class Joint:
    """Benchmarks of some groups, their patients resampled together.

    Attributes:
        context: the study.
        groups: every group whose figures are asked for.
        encounters: by task the encounters that count; a task that is not named: all.
    """

    context: Context
    groups: Sequence[Group]
    encounters: Mapping[str, set[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.benchmarks = list(dict.fromkeys(g.about.benchmark for g in self.groups))
        self._masks: dict[tuple[str, str], np.ndarray] = {}
        self._found: dict[tuple[str, str], Drawn | None] = {}
        parts = [p for b in self.benchmarks for t in self.context.benchmarks[b].tasks if (p := self._part(b, t))]
        self._everyone = np.unique(np.concatenate([part.subjects for part in parts] or [np.zeros(0, np.int64)]))
        settings = self.context.settings
        self._counts = (
            resample_counts(self._everyone, settings.resamples, settings.seed).counts if len(self._everyone) else None
        )

    def tasks(self, benchmarks: Sequence[str] | None = None) -> list[str]:
        """Tasks that every benchmark can judge, by the same classes."""
        asked = list(benchmarks or self.benchmarks)
        return [t for t in self.context.benchmarks[asked[0]].tasks if self.classes(t, asked)] if asked else []

    def classes(self, task: str, benchmarks: Sequence[str] | None = None) -> list[int]:
        """The classes of a task that all benchmarks can judge: an average over others could not be compared."""
        parts = [self._part(b, task) for b in benchmarks or self.benchmarks]
        if any(p is None or (p.binary and len(np.unique(p.labels)) < 2) for p in parts):
            return []
        shared = [c for c in parts[0].judged if all(p is not None and c in p.judged for p in parts)] if parts[0] else []
        return [c for c in shared if all(self._both_sides(b, task, c) for b in benchmarks or self.benchmarks)]

    def figure(self, cell: Cell, task: str) -> Drawn | None:
        """AUROC of a cell on a task, over the classes that all benchmarks with the task can judge."""
        key = (cell.step, task)
        if key not in self._found:
            self._found[key] = self._figure(cell, task)
        return self._found[key]

    def value(self, side: Side, task: str) -> Value | None:
        """A group's AUROC, or with ``best`` its attained share, with its interval; ``task`` may be ``MEAN``."""
        found = self._by_seed(side, task)
        if not found:
            return None
        pooled = None
        if len(found) > 1 and side.best is None:
            pooled = self.context.pooled(side.group, task, share=True)
        each, first = list(found.values()), next(iter(found.values()))
        values, draws = [d.value for d in each], [d.draws for d in each]
        made = over_seeds(values, draws, first.df, share=side.best is None, pooled=pooled)
        return as_value(made, n=first.n, events=first.events)

    def repeats(self, one: Side, task: str, other: Side | None = None, other_task: str | None = None) -> Repeats | None:
        """Each training's figure, or its difference to that of the same seed of another side, or on another task.

        None where a side cannot be judged or the two share no seed. For :func:`contrasts.combined`.
        """
        mine = self._by_seed(one, task)
        if other is None and other_task is None:
            if not mine:
                return None
            figures = list(mine.values())
            values, draws = np.array([d.value for d in figures]), np.stack([d.draws for d in figures])
            return Repeats(values, draws, figures[0].df)
        theirs = self._by_seed(other or one, other_task or task)
        shared = [seed for seed in mine if seed in theirs]
        if not shared:
            return None
        pairs = [(mine[seed], theirs[seed]) for seed in shared]
        values = np.array([a.value - b.value for a, b in pairs])
        return Repeats(values, np.stack([a.draws - b.draws for a, b in pairs]), min(pairs[0][0].df, pairs[0][1].df))

    def shared_patients(self, one: Group, other: Group, task: str) -> float:
        """The share of one's patients who are the other's too."""
        parts = [self._part(g.about.benchmark, task) for g in (one, other)]
        if parts[0] is None or parts[1] is None:
            return 0.0
        return float(np.mean(np.isin(np.unique(parts[0].subjects), parts[1].subjects)))

    def _part(self, benchmark: str, task: str) -> Part | None:
        if task not in self.context.benchmarks[benchmark].tasks:
            return None
        return self.context.part(benchmark, task)

    def _mask(self, benchmark: str, task: str, part: Part) -> np.ndarray:
        key = (benchmark, task)
        if key not in self._masks:
            wanted = self.encounters.get(task)
            ids = part.examples["encounter_id"].to_pylist()
            self._masks[key] = np.array([wanted is None or e in wanted for e in ids], dtype=bool)
        return self._masks[key]

    def _both_sides(self, benchmark: str, task: str, which: int) -> bool:
        part = self._part(benchmark, task)
        return part is not None and len(np.unique((part.labels == which)[self._mask(benchmark, task, part)])) == 2

    def _figure(self, cell: Cell, task: str) -> Drawn | None:
        judged = self.context.judge(cell, task) if self._part(cell.benchmark, task) is not None else None
        with_task = [b for b in self.benchmarks if task in self.context.benchmarks[b].tasks]
        classes = self.classes(task, with_task)
        if judged is None or not classes or self._counts is None:
            return None
        part = judged.part
        mask = self._mask(cell.benchmark, task, part)
        labels, table, subjects = part.labels[mask], judged.answered.table[mask], part.subjects[mask]
        resamples = Resamples(self._counts, np.searchsorted(self._everyone, subjects).astype(np.int64))
        drawn = task_draws(labels, table, resamples, classes)
        value = float(np.mean([area(labels == c, table[:, c]) for c in classes]))
        draws = np.asarray(np.mean([drawn[c].auroc for c in classes], axis=0))
        df = max(float(rarer_patients(labels, subjects, classes)), 1.0)
        return Drawn(value, draws, df, len(labels), int((labels == 1).sum()) if part.binary else None)

    def _by_seed(self, side: Side, task: str) -> dict[int | None, Drawn]:
        tasks = self.tasks() if task == MEAN else [task]
        best = [self.figure(side.best.cells[0], t) for t in tasks] if side.best is not None else [None] * len(tasks)
        found: dict[int | None, Drawn] = {}
        for cell in side.group.cells:
            each = [self.figure(cell, t) for t in tasks]
            known = [d for d in each if d is not None]
            tops = [b for b in best if b is not None]
            if not known or len(known) < len(each) or (side.best is not None and len(tops) < len(each)):
                continue
            if side.best is not None:
                known = [_share(d, b) for d, b in zip(known, tops, strict=True)]
            found[cell.seed] = _averaged(known) if task == MEAN else known[0]
        return found


def _share(one: Drawn, best: Drawn) -> Drawn:
    value = float(attained_share(one.value, best.value))
    return Drawn(value, attained_share(one.draws, best.draws), one.df, one.n, one.events)


def _averaged(found: Sequence[Drawn]) -> Drawn:
    return Drawn(
        float(np.mean([d.value for d in found])),
        np.asarray(np.mean([d.draws for d in found], axis=0)),
        min(d.df for d in found),
        max(d.n for d in found),
    )


def row_of(tasks: Sequence[str], made: Callable[[str], Value | None]) -> dict[str, Shown]:
    """A table's row: what is made of each task where something is."""
    return {task: found for task in tasks if (found := made(task)) is not None}


def combined_by_task(found: Mapping[Key, Mapping[str, Repeats | None]]) -> dict[Key, dict[str, Value]]:
    """Figures by name and task over their seeds; how far seeds lie apart is drawn towards that of all the others.

    Means over tasks lie less far apart than tasks do, so they are combined among themselves.
    """
    made: dict[Key, dict[str, Value]] = {name: {} for name in found}
    for means in (False, True):
        flat = {
            (name, task): one
            for name, by_task in found.items()
            for task, one in by_task.items()
            if one is not None and (task == MEAN) == means
        }
        for (name, task), value in combined(flat).items():
            made[name][task] = value
    return made
