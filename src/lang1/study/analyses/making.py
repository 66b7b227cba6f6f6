"""Tables, figures and caveats that several analyses make alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from lang1.metrics.multiple import CORRECTIONS
from lang1.reporting.numbers import count, join
from lang1.reporting.study_schema import Axis, Cell, Column, Figure, Point, Series, Table, Value
from lang1.study.analyses.parties import FigureRole
from lang1.study.context import MEAN, Context, Group

# Fewer cases (or non-cases) than this are named beside an AUROC.
FEW = 100
# More models than this are counted in a caveat and not named.
MOST_NAMED = 3
CHANCE = {"chance": 0.5}
Row = dict[str, Cell]


def titles(context: Context, tasks: Sequence[str]) -> dict[str, str]:
    """Titles by task; that of ``MEAN`` too."""
    return {task: "Mean over tasks" if task == MEAN else context.title(task) for task in tasks}


def with_mean(tasks: Sequence[str]) -> list[str]:
    """The tasks, and their mean where there are several."""
    return [*tasks, MEAN] if len(tasks) > 1 else list(tasks)


def task_columns(
    context: Context, tasks: Sequence[str], kind: Literal["auroc", "difference", "share", "number"] = "auroc"
) -> list[Column]:
    """A column a task, and one for the mean."""
    names = titles(context, with_mean(tasks))
    told = "plain mean of the tasks, patients resampled together"
    return [Column(key=t, label=name, kind=kind, help=told if t == MEAN else "") for t, name in names.items()]


def aurocs(
    context: Context, group: Group, tasks: Sequence[str], paper: Mapping[str, float] | None = None, **at: Any
) -> Row:
    """A group's AUROC at each task and on the mean, beside the paper's where one is known."""
    made: Row = {}
    for task in with_mean(tasks):
        found = context.auroc(group, task, **at)
        if found is not None:
            made[task] = found.model_copy(update={"paper": (paper or {}).get(task)})
    return made


def differences(context: Context, one: Group, other: Group, tasks: Sequence[str], **at: Any) -> dict[str, Value]:
    """``one`` minus ``other`` at each task and on the mean, where both can be judged."""
    if one.about.benchmark != other.about.benchmark:
        return {}
    found = {task: context.difference(one, other, task, **at) for task in with_mean(tasks)}
    return {task: value for task, value in found.items() if value is not None}


def corrected(
    families: Mapping[Any, Mapping[str, Value]], by: Literal["holm", "bh"] = "holm"
) -> tuple[dict[Any, dict[str, Value]], int]:
    """The same values with p-values corrected over all single tasks, and how many comparisons these are.

    Means over tasks are a family of their own: each of them sums up tasks that are judged already.
    """
    made: dict[Any, dict[str, Value]] = {key: dict(found) for key, found in families.items()}
    sizes = []
    for means in (False, True):
        flat = [(key, task) for key, found in families.items() for task in found if (task == MEAN) == means]
        values = [families[key][task].p for key, task in flat]
        known = np.array([np.nan if p is None else p for p in values], dtype=np.float64)
        for (key, task), p in zip(flat, CORRECTIONS[by](known), strict=True):
            if np.isfinite(p):
                made[key][task] = families[key][task].model_copy(update={"p_adjusted": float(p)})
        sizes.append(int(np.isfinite(known).sum()))
    return made, sizes[0]


def point(x: float | str, found: Value, label: str = "") -> Point:
    """A value as a point of a figure."""
    return Point(x=x, y=found.value, low=found.low, high=found.high, label=label)


def by_task(
    context: Context,
    id: str,
    title: str,
    rows: Iterable[tuple[str, FigureRole, Mapping[str, Value | None]]],
    tasks: Sequence[str],
    *,
    y: str = "AUROC",
    kind: Literal["bars", "forest"] = "forest",
    lines: Mapping[str, float] | None = None,
    note: str = "",
) -> Figure:
    """A figure with tasks down the side and a mark for each model."""
    names = titles(context, tasks)
    series = [
        Series(name=name, role=role, points=[point(names[t], v) for t in tasks if (v := found.get(t)) is not None])
        for name, role, found in rows
    ]
    axis = Axis(label="", scale="names", names=list(names.values()))
    shown = [one for one in series if one.points]
    return Figure(
        id=id, kind=kind, title=title, x=axis, y=Axis(label=y), series=shown, lines=dict(lines or {}), note=note
    )


def values_of(row: Row) -> dict[str, Value | None]:
    """The numbers of a table's row."""
    return {key: cell for key, cell in row.items() if isinstance(cell, Value)}


def table(id: str, title: str, columns: list[Column], rows: list[Row], note: str = "") -> Table:
    """A table without the columns that no row fills."""
    used = [c for c in columns if any(row.get(c.key) is not None for row in rows)]
    keys = {c.key for c in used}
    return Table(
        id=id, title=title, columns=used, rows=[{k: v for k, v in row.items() if k in keys} for row in rows], note=note
    )


def caveats(context: Context, groups: Sequence[Group], tasks: Sequence[str], split: str | None = None) -> list[str]:
    """What must be known before believing: simulated records, few cases, single trainings, fewer examples."""
    said = []
    used = list(dict.fromkeys(g.about.benchmark for g in groups))
    simulated = [name for name in used if not context.benchmarks[name].records.meta.real]
    if simulated:
        said.append(
            "The records are simulated: the figures tell how methods compare there, not how well they would do at a "
            "real hospital."
            if len(simulated) == len(used)
            else "Some of the records are simulated."
        )
    few = {task: least for task in tasks if (least := _fewest(context, used, task, split)) is not None and least < FEW}
    if few:
        named = join([f"{context.title(task)} ({count(least)})" for task, least in few.items()])
        said.append(f"Fewer than {FEW} cases or non-cases, so wide intervals: {named}.")
    trained = [g for g in groups if g.about.tasks and g.about.role not in ("baseline", "oracle")]
    single = list(dict.fromkeys(g.label for g in trained if len(g.cells) == 1))
    if single:
        number = len({g.label for g in trained})
        told = "all finetuned models" if len(single) == number else join(single)
        if MOST_NAMED < len(single) < number:
            told = f"{len(single)} of {number} finetuned models"
        luck = (
            "no interval holds" if len(single) == number and not _repeated(context) else "intervals take from like ones"
        )
        said.append(f"One training each (one seed), whose luck {luck}: {told}.")
    fewer = {g.label: g.about.limit for g in groups if g.about.limit is not None}
    for label, limit in fewer.items():
        said.append(
            f"{label} was asked at most {count(limit)} examples of a task, the first of those that the others were "
            "asked; differences from it are on these alone."
        )
    return said


def _repeated(context: Context) -> bool:
    """Whether a study repeats any training, so that the luck of those that it does not can be told from like ones."""
    return any(len(group.cells) > 1 for group in context.select())


def _fewest(context: Context, benchmarks: Sequence[str], task: str, split: str | None) -> int | None:
    """Rows of the rarest side of a task over benchmarks; of several classes the rarest that counts."""
    found = []
    for name in benchmarks:
        part = context.part(name, task, split)
        if part is not None:
            counts = np.bincount(part.labels, minlength=part.n_classes)
            found += [min(int(counts[c]), len(part.labels) - int(counts[c])) for c in part.judged]
    return min(found, default=None)


def parameters(group: Group) -> Value | None:
    """A group's number of weights, for a column of counts."""
    return None if group.about.parameters is None else Value(value=float(group.about.parameters))


def mean_value(values: Sequence[Value | None]) -> float | None:
    """The plain mean of what is known."""
    known = [v.value for v in values if v is not None and v.value is not None]
    return float(np.mean(known)) if known else None
