"""What the analyses of a study read: its cells, judged on the same examples and the same resamples.

Shapes: N examples of a task and split, C classes, S seeds, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lang1.common.errors import InputError
from lang1.evaluation.answered import Answered, Part, answers_of
from lang1.evaluation.examples import Asked, asked, labels_of
from lang1.evaluation.predictions import Predictions, open_predictions
from lang1.evaluation.settings import EvaluateSettings
from lang1.metrics.auroc import Floats, class_aurocs, kept_classes
from lang1.metrics.auroc import auroc as area
from lang1.metrics.bootstrap import resample_counts, task_draws
from lang1.metrics.intervals import Interval, rarer_patients
from lang1.metrics.over_seeds import OverSeeds, over_seeds
from lang1.remede.benchmark import Benchmark
from lang1.reporting.study_schema import Value
from lang1.study.cells import Cell

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Group:
    """Repeats of one thing: cells that differ in their seed alone."""

    about: Cell
    cells: tuple[Cell, ...]

    @property
    def label(self) -> str:
        """As a reader sees it."""
        return self.about.label


@dataclass(frozen=True)
class Judged:
    """One cell on the examples of a task and split: its AUROC and that of each resample."""

    answered: Answered
    part: Part
    auroc: float
    draws: Floats  # [R]

    @property
    def events(self) -> int | None:
        """Cases of the positive class; None for tasks of several classes."""
        return int((self.part.labels == 1).sum()) if self.part.binary else None


@dataclass
class Context:
    """A study's cells and benchmarks, and the figures drawn from them, each computed once.

    Attributes:
        cells: every predictions folder that the study made.
        folders: predictions folder by step.
        benchmarks: opened benchmark by step.
        settings: which examples, how many resamples.
        home: the health system that the main tables are about.
        grid: the study's design as written, for analyses that need settings of it.
    """

    cells: Sequence[Cell]
    folders: Mapping[str, Path]
    benchmarks: Mapping[str, Benchmark]
    settings: EvaluateSettings
    home: str
    grid: Mapping[str, Any] = field(default_factory=dict)
    _predictions: dict[str, Predictions] = field(default_factory=dict)
    _asked: dict[str, Asked] = field(default_factory=dict)
    _parts: dict[tuple[str, str, str, str], Part | None] = field(default_factory=dict)
    _judged: dict[tuple[str, str, str, str], Judged | None] = field(default_factory=dict)

    def tasks(self, system: str | None = None) -> list[str]:
        """Tasks of a health system's main benchmark (null: the home's), in the benchmark's order."""
        named = [c.benchmark for c in self.cells if c.tested_on == (system or self.home) and c.design == "grid"]
        return list(self.benchmarks[named[0]].tasks) if named else []

    def title(self, task: str, benchmark: str | None = None) -> str:
        """A task's title."""
        for name, bench in self.benchmarks.items():
            if benchmark in (None, name) and task in bench.cards:
                return bench.cards[task].title
        return task

    def predictions(self, cell: Cell) -> Predictions:
        """The opened predictions of a cell."""
        if cell.step not in self._predictions:
            self._predictions[cell.step] = open_predictions(self.folders[cell.step])
        return self._predictions[cell.step]

    def select(self, **fields: Any) -> list[Group]:
        """Groups whose cells have these fields; a set or list stands for any of its members. In the cells' order.

        Example: ``select(design="grid", tested_on="riverside", regime=["joint", "finetuned"])``.
        """
        found: dict[Cell, list[Cell]] = {}
        for cell in self.cells:
            if all(
                getattr(cell, name) in wanted if isinstance(wanted, list | set) else getattr(cell, name) == wanted
                for name, wanted in fields.items()
            ):
                found.setdefault(cell.group, []).append(cell)
        return [Group(about, tuple(cells)) for about, cells in found.items()]

    def part(
        self,
        benchmark: str,
        task: str,
        split: str | None = None,
        where: tuple[str, Callable[[Part], Mask]] | None = None,
    ) -> Part | None:
        """The examples of a task and split (null: the headline split) with their resamples; None where there are none.

        ``where`` is a name and a function from a part to a mask ``[N]``: only those examples. The resamples are drawn
        once for the whole split, so that figures of different parts of it are paired.
        """
        bench = self.benchmarks[benchmark]
        split = split or bench.headline_split
        key = (benchmark, task, split, where[0] if where else "")
        if key not in self._parts:
            self._parts[key] = self._subset(benchmark, task, split, where) if where else self._whole(*key[:3])
        return self._parts[key]

    def _whole(self, benchmark: str, task: str, split: str) -> Part | None:
        if benchmark not in self._asked:
            every = self.settings.model_copy(update={"splits": None, "tasks": None})
            self._asked[benchmark] = asked(self.benchmarks[benchmark], every)
        chosen = self._asked[benchmark]
        if task not in chosen.tasks:
            return None
        examples = chosen.of(task, split)
        if not examples.num_rows:
            return None
        subjects = np.asarray(examples["subject_id"].to_numpy(zero_copy_only=False))
        return _part(examples, subjects, chosen.n_options()[task], self.settings)

    def _subset(self, benchmark: str, task: str, split: str, where: tuple[str, Callable[[Part], Mask]]) -> Part | None:
        whole = self.part(benchmark, task, split)
        if whole is None:
            return None
        inside = where[1](whole)
        if not inside.any():
            return None
        examples = whole.examples.filter(inside)
        made = _part(examples, whole.subjects[inside], whole.n_classes, self.settings)
        kept, rows = np.unique(whole.resamples.row_patient[inside], return_inverse=True)
        resamples = type(whole.resamples)(whole.resamples.counts[kept], rows.astype(np.int64))
        return Part(made.examples, made.labels, made.subjects, made.n_classes, made.judged, resamples, made.interval)

    def judge(
        self,
        cell: Cell,
        task: str,
        split: str | None = None,
        where: tuple[str, Callable[[Part], Mask]] | None = None,
    ) -> Judged | None:
        """A cell on the examples of a task; None where it or the benchmark has none, or one class alone is there."""
        part = self.part(cell.benchmark, task, split, where)
        key = (cell.step, task, split or "", where[0] if where else "")
        if key not in self._judged:
            self._judged[key] = None if part is None else self._rank(cell, part, task, split or "headline")
        return self._judged[key]

    def _rank(self, cell: Cell, part: Part, task: str, split: str) -> Judged | None:
        if part.binary and len(np.unique(part.labels)) < 2:
            return None
        ids = part.examples["example_id"].to_pylist()
        answered = answers_of(self.predictions(cell), ids, part.n_classes, task, split)
        if answered is None:
            return None
        drawn = task_draws(part.labels, answered.table, part.resamples, part.judged)
        if part.binary:
            value, draws = area(part.labels == 1, answered.table[:, 1]), drawn[1].auroc
        else:
            each = class_aurocs(part.labels, answered.table)
            if not each:
                return None
            value = float(np.mean(list(each.values())))
            draws = np.asarray(np.mean([drawn[c].auroc for c in each], axis=0))
        return Judged(answered, part, value, draws)

    def judged(self, group: Group, task: str, split: str | None = None, where: Any = None) -> list[Judged]:
        """The group's cells that can be judged."""
        return [found for cell in group.cells if (found := self.judge(cell, task, split, where)) is not None]

    def auroc(self, group: Group, task: str, split: str | None = None, where: Any = None) -> Value | None:
        """The group's AUROC (mean over seeds) with its interval; None where it cannot be judged."""
        found = self.judged(group, task, split, where)
        if not found:
            return None
        made = over_seeds(
            [j.auroc for j in found], [j.draws for j in found], found[0].part.interval.df or 1, share=True
        )
        return as_value(made, found[0])

    def difference(
        self, one: Group, other: Group, task: str, split: str | None = None, where: Any = None
    ) -> Value | None:
        """AUROC of ``one`` minus that of ``other`` on the same patients; seeds are paired where both have the same.

        Raises:
            InputError: the two answer different benchmarks, so that nothing is paired.
        """
        if one.about.benchmark != other.about.benchmark:
            raise InputError(f"'{one.label}' and '{other.label}' answer different benchmarks: no paired difference.")
        mine, theirs = self._by_seed(one, task, split, where), self._by_seed(other, task, split, where)
        if not mine or not theirs:
            return None
        shared = [seed for seed in mine if seed in theirs]
        if len(shared) == len(mine) == len(theirs) and shared:
            pairs = [(mine[seed], theirs[seed]) for seed in shared]
        elif len(theirs) == 1 or len(mine) == 1:
            pairs = [(a, b) for a in mine.values() for b in theirs.values()]
        else:
            pairs = list(zip(mine.values(), theirs.values(), strict=False))
        first = pairs[0][0]
        made = over_seeds(
            [a.auroc - b.auroc for a, b in pairs], [a.draws - b.draws for a, b in pairs], first.part.interval.df or 1
        )
        return as_value(made, first)

    def _by_seed(self, group: Group, task: str, split: str | None, where: Any) -> dict[int | None, Judged]:
        return {c.seed: found for c in group.cells if (found := self.judge(c, task, split, where)) is not None}


def _part(examples: Any, subjects: npt.NDArray[np.int64], n_classes: int, settings: EvaluateSettings) -> Part:
    labels = labels_of(examples)
    judged = [1] if n_classes == 2 else kept_classes(labels, n_classes)
    interval = Interval(settings.interval, rarer_patients(labels, subjects, judged or None))
    resamples = resample_counts(subjects, settings.resamples, settings.seed)
    return Part(examples, labels, subjects, n_classes, judged, resamples, interval)


def as_value(found: OverSeeds, judged: Judged | None = None, **more: Any) -> Value:
    """An estimate as a table's cell."""
    bounds = {"low": found.low, "high": found.high, "p": found.p, "seeds": found.seeds}
    size = {"n": len(judged.part.labels), "events": judged.events} if judged is not None else {}
    return Value.model_validate({"value": found.value, **bounds, **size, **more})
