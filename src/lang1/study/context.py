"""What the analyses of a study read: its cells, judged on the same examples and the same resamples.

Shapes: N examples of a task and split, C classes, S seeds, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from lang1.common.errors import InputError
from lang1.evaluation.answered import Answered, Part, answers_of
from lang1.evaluation.examples import Asked, asked, labels_of, limited
from lang1.evaluation.predictions import Predictions, open_predictions
from lang1.evaluation.settings import EvaluateSettings
from lang1.metrics.auroc import Floats, class_aurocs, kept_classes
from lang1.metrics.auroc import auroc as area
from lang1.metrics.bootstrap import Resamples, resample_counts, task_draws
from lang1.metrics.intervals import Interval, rarer_patients
from lang1.metrics.over_seeds import WEIGHT, OverSeeds, Pooled, difference_over_seeds, over_seeds, spread
from lang1.remede.benchmark import Benchmark
from lang1.reporting.study_schema import Value
from lang1.study.cells import Cell

Mask = npt.NDArray[np.bool_]
# A name, and which examples of a part: one name, one mask.
Where = tuple[str, Callable[[Part], Mask]]
# In place of a task: the mean over all tasks that can be judged, patients who are in several resampled together.
MEAN = "mean over tasks"
# Of a predictions table; the others repeat what the benchmark knows.
COLUMNS = ("example_id", "task", "encounter_id", "probabilities", "option_mass", "truncated")


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
    """One cell on the examples of a task and split: its AUROC and that of each resample.

    Of a mean over tasks ``answered`` and ``part`` are those of its first task, and ``over`` holds all of them.
    """

    answered: Answered
    part: Part
    auroc: float
    draws: Floats  # [R]
    over: tuple[Judged, ...] = ()

    @property
    def df(self) -> float:
        """Degrees of freedom of the patients' part: patients of the rarest side, less one."""
        return min((one.df for one in self.over), default=max(self.part.interval.df or 1.0, 1.0))

    @property
    def events(self) -> int | None:
        """Cases of the positive class; None for tasks of several classes."""
        return int((self.part.labels == 1).sum()) if self.part.binary else None


# What trainings must share for their spread to be alike: ours or not, notes, whether they learned the task and whether
# at the health system that they are tested on; and whether it is a task's figure or a mean over tasks.
Kind = tuple[bool, int | None, bool, bool, bool]


@dataclass(frozen=True)
class Spread:
    """How far the trainings of a group lie apart on a task beyond what patients explain, in log-odds and plainly."""

    about: Cell
    task: str
    df: float
    odds: float | None
    plain: float | None


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
        models: model folder by step, of every training and import of the study.
    """

    cells: Sequence[Cell]
    folders: Mapping[str, Path]
    benchmarks: Mapping[str, Benchmark]
    settings: EvaluateSettings
    home: str
    grid: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, Path] = field(default_factory=dict)
    _predictions: dict[str, Predictions] = field(default_factory=dict)
    _asked: dict[str, Asked] = field(default_factory=dict)
    _resamples: dict[str, tuple[npt.NDArray[np.int64], Resamples]] = field(default_factory=dict)
    _parts: dict[tuple[str, str, str, str], Part | None] = field(default_factory=dict)
    _judged: dict[tuple[str, str, str, str], Judged | None] = field(default_factory=dict)
    _spreads: dict[Kind, list[Spread]] = field(default_factory=dict)

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

    def options(self, task: str, benchmark: str | None = None) -> list[str]:
        """The texts of a task's options."""
        cards = [
            bench.cards[task]
            for name, bench in self.benchmarks.items()
            if benchmark in (None, name) and task in bench.cards
        ]
        return [str(option) for option in cards[0].options] if cards else []

    def predictions(self, cell: Cell) -> Predictions:
        """The opened predictions of a cell, with ``COLUMNS`` alone."""
        if cell.step not in self._predictions:
            opened = open_predictions(self.folders[cell.step])
            # A study holds hundreds open at once: without the columns that nothing here reads.
            self._predictions[cell.step] = replace(opened, table=opened.table.select(COLUMNS))
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
        where: Where | None = None,
    ) -> Part | None:
        """The examples of a task and split (null: the headline split) with their resamples; None where there are none.

        ``where`` is a name and a function from a part to a mask ``[N]``: only those examples. The resamples are drawn
        once for the whole split, so that figures of different parts of it are paired. What is found is kept by the
        name: one name, one mask.
        """
        bench = self.benchmarks[benchmark]
        split = split or bench.headline_split
        key = (benchmark, task, split, where[0] if where else "")
        if key not in self._parts:
            self._parts[key] = self._subset(benchmark, task, split, where) if where else self._whole(*key[:3])
        return self._parts[key]

    def asked(self, benchmark: str) -> Asked:
        """The examples of a benchmark that the study is judged on."""
        if benchmark not in self._asked:
            every = self.settings.model_copy(update={"splits": None, "tasks": None})
            self._asked[benchmark] = asked(self.benchmarks[benchmark], every)
        return self._asked[benchmark]

    def _whole(self, benchmark: str, task: str, split: str) -> Part | None:
        chosen = self.asked(benchmark)
        if task not in chosen.tasks:
            return None
        examples = chosen.of(task, split)
        if not examples.num_rows:
            return None
        subjects = np.asarray(examples["subject_id"].to_numpy(zero_copy_only=False))
        resamples = self._drawn(benchmark, subjects)
        return _part(examples, subjects, chosen.n_options()[task], self.settings, resamples)

    def _drawn(self, benchmark: str, subjects: npt.NDArray[np.int64]) -> Resamples:
        """All patients of the benchmark are resampled together, so that figures of its tasks and splits are paired."""
        if benchmark not in self._resamples:
            everyone = np.unique(self.asked(benchmark).examples["subject_id"].to_numpy())
            self._resamples[benchmark] = (
                everyone,
                resample_counts(everyone, self.settings.resamples, self.settings.seed),
            )
        everyone, drawn = self._resamples[benchmark]
        rows = np.searchsorted(everyone, subjects).astype(np.int64)
        present, place = np.unique(rows, return_inverse=True)
        if 2 * len(present) >= len(everyone):
            return Resamples(drawn.counts, rows)  # shared, not copied
        return Resamples(drawn.counts[present], place.astype(np.int64))

    def _subset(self, benchmark: str, task: str, split: str, where: Where) -> Part | None:
        whole = self.part(benchmark, task, split)
        if whole is None:
            return None
        inside = where[1](whole)
        if not inside.any():
            return None
        examples = whole.examples.filter(inside)
        resamples = Resamples(whole.resamples.counts, whole.resamples.row_patient[inside])  # counts shared, not copied
        return _part(examples, whole.subjects[inside], whole.n_classes, self.settings, resamples)

    def judge(
        self,
        cell: Cell,
        task: str,
        split: str | None = None,
        where: Where | None = None,
    ) -> Judged | None:
        """A cell on the examples of a task; None where it or the benchmark has none, or one class alone is there.

        A cell with a ``limit`` of its own is judged on what it was asked.
        """
        where = within([cell], where)
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
        """The group's cells that can be judged; ``task`` may be ``MEAN``."""
        return list(self._by_seed(group, task, split, where).values())

    def judgeable(self, benchmark: str, split: str | None = None, where: Any = None) -> list[str]:
        """Tasks of a benchmark whose examples have what an AUROC needs: two classes, or one with enough cases."""
        found = {task: self.part(benchmark, task, split, where) for task in self.benchmarks[benchmark].tasks}
        return [task for task, part in found.items() if part is not None and _can_be_ranked(part)]

    def _mean(self, cell: Cell, split: str | None, where: Any) -> Judged | None:
        where = within([cell], where)
        found = [self.judge(cell, task, split, where) for task in self.judgeable(cell.benchmark, split, where)]
        known = [one for one in found if one is not None]
        if not known or len(known) < len(found):
            return None
        draws = np.asarray(np.mean([one.draws for one in known], axis=0))
        value = float(np.mean([one.auroc for one in known]))
        return Judged(known[0].answered, known[0].part, value, draws, tuple(known))

    def auroc(self, group: Group, task: str, split: str | None = None, where: Any = None) -> Value | None:
        """The group's AUROC (mean over seeds) with its interval; None where it cannot be judged.

        ``task`` may be ``MEAN``, for the mean over all tasks that can be judged.
        """
        found = self.judged(group, task, split, where)
        if not found:
            return None
        pooled = self.pooled(group, task, share=True) if _drawn_by_lot(group) else None
        made = over_seeds([j.auroc for j in found], [j.draws for j in found], found[0].df, share=True, pooled=pooled)
        return as_value(made, found[0], **_trained(group))

    def difference(
        self, one: Group, other: Group, task: str, split: str | None = None, where: Any = None
    ) -> Value | None:
        """AUROC of ``one`` minus that of ``other`` on the same patients: those that both were asked about.

        Seeds are paired where both have the same ones; else the means are compared.

        Raises:
            InputError: the two answer different benchmarks, so that nothing is paired.
        """
        if one.about.benchmark != other.about.benchmark:
            raise InputError(f"'{one.label}' and '{other.label}' answer different benchmarks: no paired difference.")
        where = within([one.about, other.about], where)
        mine, theirs = self._by_seed(one, task, split, where), self._by_seed(other, task, split, where)
        if not mine or not theirs:
            return None
        first = next(iter(mine.values()))
        priors = (
            self.pooled(one, task) if _drawn_by_lot(one) else None,
            self.pooled(other, task) if _drawn_by_lot(other) else None,
        )
        if mine.keys() == theirs.keys():
            gaps = [mine[seed].auroc - theirs[seed].auroc for seed in mine]
            draws = [mine[seed].draws - theirs[seed].draws for seed in mine]
            return as_value(over_seeds(gaps, draws, first.df, pooled=_of_both(*priors)), first, **_trained(one, other))
        made = difference_over_seeds(_figures(mine), _figures(theirs), first.df, pooled=priors)
        return as_value(made, first, **_trained(one, other))

    def pooled(self, group: Group, task: str, share: bool = False) -> Pooled | None:
        """How far like trainings lie apart, over all other groups and tasks of the study on the headline split.

        Like are those of the same kind; where these are too few, generalists for ours and the other way round, and
        single tasks for their mean, which lies less far apart. None where no other thing was trained with several
        seeds. ``share``: in log-odds, as :meth:`auroc` needs it.
        """
        own, notes, learned, at_home, mean = self._kind(group.about, task)
        kinds = [(own, mean), (not own, mean), *([(own, False), (not own, False)] if mean else [])]
        best = None
        for role, averaged in kinds:
            found = self._pooled((role, notes, learned, at_home, averaged), group.about, task, share)
            if found is not None and (best is None or found.df > best.df):
                best = found
            if best is not None and best.df >= WEIGHT:
                break
        return best

    def _pooled(self, kind: Kind, about: Cell, task: str, share: bool) -> Pooled | None:
        if kind not in self._spreads:
            self._spreads[kind] = self._spreads_of(kind)
        known = [
            (found, one.df)
            for one in self._spreads[kind]
            if (one.about, one.task) != (about, task) and (found := one.odds if share else one.plain) is not None
        ]
        if not known:
            return None
        weights = [df for _, df in known]
        return Pooled(float(np.average([found for found, _ in known], weights=weights)), float(sum(weights)))

    def _spreads_of(self, kind: Kind) -> list[Spread]:
        made = []
        for group in self.select():
            for task in [*self.benchmarks[group.about.benchmark].tasks, MEAN] if len(group.cells) > 1 else ():
                found = self.judged(group, task) if self._kind(group.about, task) == kind else []
                if len(found) > 1:
                    values, draws = [j.auroc for j in found], [j.draws for j in found]
                    odds, plain = spread(values, draws, share=True), spread(values, draws)
                    made.append(Spread(group.about, task, float(len(found) - 1), odds, plain))
        return made

    def _kind(self, about: Cell, task: str) -> Kind:
        own = about.role in ("specialist", "twin")
        asked = self.benchmarks[about.benchmark].tasks if task == MEAN else [task]
        learned = set(asked) <= set(about.tasks)
        return own, about.notes, learned, about.tested_on in about.trained_on, task == MEAN

    def _by_seed(self, group: Group, task: str, split: str | None, where: Any) -> dict[int | None, Judged]:
        found = {
            c.seed: self._mean(c, split, where) if task == MEAN else self.judge(c, task, split, where)
            for c in group.cells
        }
        return {seed: one for seed, one in found.items() if one is not None}


def within(cells: Sequence[Cell], where: Where | None = None) -> Where | None:
    """``where``, narrowed to the examples that all of the cells were asked; see ``Cell.limit``."""
    limits = [cell.limit for cell in cells if cell.limit is not None]
    if not limits:
        return where
    most = min(limits)
    name = f"the first {most}"
    if where is None:
        return name, lambda part: _first(part, most)
    other, mask = where
    if other.endswith(name):  # narrowed before
        return where
    return f"{other}, {name}", lambda part: mask(part) & _first(part, most)


def _first(part: Part, most: int) -> Mask:
    """The examples ``[N]`` that a limit lets through."""
    kept = limited(part.examples, most)["example_id"].combine_chunks()
    return np.asarray(pc.is_in(part.examples["example_id"], value_set=kept).to_numpy(), dtype=bool)


def _part(
    examples: Any,
    subjects: npt.NDArray[np.int64],
    n_classes: int,
    settings: EvaluateSettings,
    resamples: Resamples,
) -> Part:
    labels = labels_of(examples)
    judged = [1] if n_classes == 2 else kept_classes(labels, n_classes)
    interval = Interval(settings.interval, rarer_patients(labels, subjects, judged or None))
    return Part(examples, labels, subjects, n_classes, judged, resamples, interval)


def _can_be_ranked(part: Part) -> bool:
    return len(np.unique(part.labels)) == 2 if part.binary else bool(part.judged)


def _of_both(one: Pooled | None, other: Pooled | None) -> Pooled | None:
    """Of paired differences: the two trainings of a pair are independent, so their variances add up."""
    if one is None or other is None:
        return None
    return Pooled(max(one.variance, 0.0) + max(other.variance, 0.0), min(one.df, other.df))


def _figures(by_seed: Mapping[int | None, Judged]) -> tuple[list[float], list[Floats]]:
    return [found.auroc for found in by_seed.values()], [found.draws for found in by_seed.values()]


def _drawn_by_lot(group: Group) -> bool:
    """Whether a group is trainings with seeds, whose luck counts; an oracle, a baseline, a model as it is are not."""
    return any(cell.seed is not None for cell in group.cells)


def _trained(*groups: Group) -> dict[str, None]:
    """What takes the number of trainings from a value where nothing was trained with a seed."""
    return {} if any(_drawn_by_lot(group) for group in groups) else {"seeds": None}


def as_value(found: OverSeeds, judged: Judged | None = None, **more: Any) -> Value:
    """An estimate as a table's cell."""
    bounds = {"low": found.low, "high": found.high, "p": found.p, "seeds": found.seeds}
    size = {"n": len(judged.part.labels), "events": judged.events} if judged is not None and not judged.over else {}
    return Value.model_validate({"value": found.value, **bounds, **size, **more})
