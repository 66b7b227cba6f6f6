"""AUROC by the number of labelled notes, specialist beside generalist, and how many labels the one saves."""

from __future__ import annotations

import math

import numpy as np

from lang1.metrics.auroc import Floats
from lang1.reporting.numbers import count, percent
from lang1.reporting.study_schema import Analysis, Axis, Column, Figure, Series, Value
from lang1.study.analyses import making, parties
from lang1.study.analyses.sentences import gap, lower_first, moved, said, standing, tally, together
from lang1.study.context import MEAN, Context, Group

Curve = dict[int, Group]


def curves(context: Context, **fields: object) -> dict[str, Curve]:
    """By model, its groups by the number of notes that they were finetuned on; one size alone is no curve."""
    found: dict[str, Curve] = {}
    for group in context.select(tested_on=context.home, **{"design": "efficiency", **fields}):
        if group.about.tasks:
            found.setdefault(group.label, {})[notes_of(context, group)] = group
    return {label: dict(sorted(curve.items())) for label, curve in found.items() if len(curve) > 1}


def notes_of(context: Context, group: Group) -> int:
    """On how many notes a group was finetuned; for all of them, those that train holds for its tasks."""
    about = group.about
    if about.notes is not None:
        return about.notes
    bench = context.benchmarks[about.benchmark]
    train = bench.examples([t for t in about.tasks if t in bench.tasks], ["train"])
    return max(len(set(train["note_id"].to_pylist())), 1)


def efficiency(context: Context) -> Analysis | None:
    """Curves, paired differences by size, labels saved."""
    found, tasks = curves(context), context.tasks()
    own = {label: c for label, c in found.items() if _role(c) in parties.OWN}
    others = {label: c for label, c in found.items() if _role(c) == "generalist"}
    if not own or not tasks:
        return None
    main = _main(context, own)
    names = making.titles(context, making.with_mean(tasks))
    rows: list[making.Row] = []
    lines: dict[str, list[Series]] = {task: [] for task in names}
    for label, curve in found.items():
        made = {size: making.aurocs(context, group, tasks) for size, group in curve.items()}
        rows += [{"model": label, "notes": Value(value=float(size)), **row} for size, row in made.items()]
        for task in names:
            points = [
                making.point(float(size), v) for size, row in made.items() if isinstance(v := row.get(task), Value)
            ]
            if points:
                role = parties.role(next(iter(curve.values())), next(iter(own[main].values())))
                lines[task].append(Series(name=label, role=role, points=points))
    heads = [Column(key="model", label="Model"), Column(key="notes", label="Notes", kind="count")]
    tables = [
        making.table("efficiency", "AUROC by notes finetuned on", [*heads, *making.task_columns(context, tasks)], rows)
    ]
    gaps = {
        (label, size): making.differences(context, own[main][size], curve[size], tasks)
        for label, curve in others.items()
        for size in curve
        if size in own[main]
    }
    held, family = making.corrected(gaps)
    if held:
        columns = [heads[0].model_copy(update={"label": "Generalist"}), heads[1]]
        columns += making.task_columns(context, tasks, "difference")
        ahead: list[making.Row] = [
            {"model": label, "notes": Value(value=float(size)), **row} for (label, size), row in held.items()
        ]
        told = f"{main} minus the generalist on the same notes, same patients; Holm over {family} comparisons."
        tables.append(making.table("efficiency-differences", "Ahead or behind by notes", columns, ahead, told))
    saved = {label: labels_saved(context, own[main], curve) for label, curve in others.items()}
    figures = [
        Figure(
            id="efficiency" if task == MEAN or len(tasks) == 1 else f"efficiency-{task}",
            kind="lines",
            title=f"{names[task]}: AUROC by notes finetuned on",
            x=Axis(label="notes finetuned on", scale="log"),
            y=Axis(label="AUROC"),
            series=lines[task],
        )
        for task in ([MEAN, *tasks] if len(tasks) > 1 else tasks)
        if lines[task]
    ]
    grown = context.difference(own[main][max(own[main])], own[main][min(own[main])], MEAN)
    sides = [
        tally({"labels": grown} if not held else {}),
        tally({f"{label}, {count(size)}": row.get(MEAN) for (label, size), row in held.items()}),
        *(tally(_tasks(row)) for (_, size), row in held.items() if size == min(own[main])),
    ]
    return Analysis(
        id="efficiency",
        title="How many labels it takes",
        question="With how few labelled notes does the specialist do as well as a generalist?",
        sentence=_sentence(context, main, own[main], others, held, saved, grown),
        verdict=together(sides),
        caveats=[
            *making.caveats(context, [g for c in found.values() for g in c.values()], tasks),
            "Smaller sets of notes lie inside the larger ones: one draw of notes, whose luck no interval holds.",
        ],
        paper="The paper draws such curves from 100 notes to all, against generalists; we hold no figures of them.",
        tables=tables,
        figures=figures,
    )


def labels_saved(context: Context, mine: Curve, theirs: Curve, task: str = MEAN) -> Value | None:
    """Notes with which one model reaches what the other does with its most, by the curve between sizes (log scale).

    None where the curve does not allow it: it falls somewhere, or does not reach so far. ``high`` is null where too
    many resamples do not reach, and so is ``low`` where the fewest notes are enough in too many of them.
    """
    most = max(theirs)
    sizes = [size for size in mine if size <= most]
    found = [context.judged(mine[size], task) for size in sizes]
    aim = context.judged(theirs[most], task)
    if len(sizes) < 2 or not aim or not all(found):
        return None
    x = np.log(np.array(sizes, dtype=np.float64))
    curve = np.array([np.mean([j.auroc for j in one]) for one in found])
    target = float(np.mean([j.auroc for j in aim]))
    if (np.diff(curve) < 0).any() or not curve[0] <= target <= curve[-1]:
        return None
    draws = np.stack([np.mean([j.draws for j in one], axis=0) for one in found])
    targets = np.mean([j.draws for j in aim], axis=0)
    places = np.array([_crossing(x, draws[:, r], targets[r]) for r in range(draws.shape[1])])
    low, high = np.quantile(places, [0.025, 0.975])
    return Value(
        value=float(np.exp(_crossing(x, curve, target))),
        low=None if low <= x[0] else float(np.exp(low)),
        high=None if math.isinf(high) else float(np.exp(high)),
        seeds=min(len(one) for one in found),
        note="patients' luck alone; that of trainings and of the draw of notes comes on top",
    )


def _crossing(x: Floats, curve: Floats, target: float) -> float:
    """Where a curve first reaches a target: its first place where it is there from the start, infinity if never."""
    reached = np.flatnonzero(curve >= target)
    if not len(reached):
        return math.inf
    k = int(reached[0])
    if k == 0:
        return float(x[0])
    share = (target - curve[k - 1]) / (curve[k] - curve[k - 1])
    return float(x[k - 1] + share * (x[k] - x[k - 1]))


def _tasks(found: dict[str, Value]) -> dict[str, Value]:
    return {task: value for task, value in found.items() if task != MEAN}


def _role(curve: Curve) -> str:
    return next(iter(curve.values())).about.role


def _main(context: Context, own: dict[str, Curve]) -> str:
    named = parties.main_model(context)
    first = {label: next(iter(curve.values())).about for label, curve in own.items()}
    return next((label for label, about in first.items() if (about.corpus, about.model) == named), next(iter(own)))


def _sentence(
    context: Context,
    main: str,
    mine: Curve,
    others: dict[str, Curve],
    held: dict[tuple[str, int], dict[str, Value]],
    saved: dict[str, Value | None],
    grown: Value | None,
) -> str:
    sizes = sorted(mine)
    if not held:
        words = moved(grown, "clearly higher", "clearly lower")
        return f"From {count(sizes[0])} to {count(sizes[-1])} notes, the mean AUROC of {main} is {words}."
    parts = []
    for label in others:
        at = sorted(size for name, size in held if name == label)
        if not at:
            continue
        few = held[label, at[0]]
        text = f"{main} against {label}, mean over tasks: finetuned on {count(at[0])} notes {_mean(few)}"
        if len(at) > 1:
            text += f", on {count(at[-1])} notes {_mean(held[label, at[-1]])}"
        names = {lower_first(context.title(t)): v for t, v in _tasks(few).items()}
        text += f"; by task, on {count(at[0])} notes, {said(tally(names))}"
        found = saved[label]
        if found is not None and found.value is not None:
            most = max(others[label])
            text += (
                f". It reaches {label}'s mean AUROC on {count(most)} notes with about {count(found.value)} "
                f"({_span(found)}), {percent(found.value / most)} of the labels"
            )
        elif (
            standing(already := context.difference(mine[sizes[0]], others[label][max(others[label])], MEAN)) == "ahead"
        ):
            text += (
                f". On {count(sizes[0])} notes, the fewest tried, it is already clearly ahead of {label} on "
                f"{count(max(others[label]))}: {gap(already)}"
            )
        parts.append(text)
    whole = ". ".join(part[:1].upper() + part[1:] for part in parts)
    return whole + "."


def _mean(found: dict[str, Value]) -> str:
    one = found.get(MEAN) or next(iter(found.values()))
    return moved(one, "clearly ahead", "clearly behind")


def _span(found: Value) -> str:
    low = "fewer than the fewest tried" if found.low is None else count(found.low)
    high = "more than were tried" if found.high is None else count(found.high)
    return f"{low} to {high}"
