"""What finetuning on one task does for the others, and one model for all tasks (the paper's transfer matrix)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from lang1.reporting.numbers import count, plural
from lang1.reporting.study_schema import Analysis, Axis, Column, Figure, Point, Series, Value
from lang1.study import paper
from lang1.study.analyses import making, parties
from lang1.study.analyses.sentences import Tally, lower_first, said, tally, together
from lang1.study.context import MEAN, Context, Group


def singles(context: Context) -> dict[str, Group]:
    """Groups finetuned on one task alone by that task: those of the main model, else of the first that has any."""
    found = [
        g for g in context.select(design="single", tested_on=context.home, role="specialist") if len(g.about.tasks) == 1
    ]
    named = parties.main_model(context)
    chosen = [g for g in found if (g.about.corpus, g.about.model) == named] or [
        g for g in found if (g.about.corpus, g.about.model) == (found[0].about.corpus, found[0].about.model)
    ]
    return {g.about.tasks[0]: g for g in chosen}


def _beside(context: Context, one: Group, **fields: object) -> Group | None:
    about = one.about
    same = {"model": about.model, "corpus": about.corpus, "benchmark": about.benchmark}
    found = context.select(design="grid", role="specialist", **same, **fields)
    alike = [g for g in found if g.about.notes == about.notes]
    return next(iter([*alike, *found]), None)


def not_finetuned(context: Context, alone: Mapping[str, Group]) -> Group | None:
    """The model that the single ones were finetuned from, as it was."""
    return _beside(context, next(iter(alone.values())), regime="zero-shot") if alone else None


def joint(context: Context, alone: Mapping[str, Group]) -> Group | None:
    """The same model finetuned on all tasks, on the number of labels of a task that is nearest to the single ones'.

    Not on as many notes: a task is asked of notes of its type alone, so that of as many notes of all types fewer bear
    its label. Where the labels are not known, as many notes must do.
    """
    if not alone:
        return None
    one = next(iter(alone.values()))
    about, mine = one.about, labels(list(alone.values()))
    same = {"model": about.model, "corpus": about.corpus, "benchmark": about.benchmark}
    found = context.select(design=["grid", "efficiency"], role="specialist", regime="joint", **same)
    known = [(group, theirs) for group in found if (theirs := labels([group])) is not None]
    if mine is None or not known:
        return _beside(context, one, regime="joint")
    return min(known, key=lambda pair: abs(math.log(pair[1] / mine)))[0]


def labels(groups: Sequence[Group]) -> float | None:
    """Labels of each task that models were finetuned on, on average; None where it is not known."""
    found = [cell.labels for group in groups for cell in group.cells]
    return float(np.mean([one for one in found if one])) if found and all(found) else None


def gains(context: Context) -> tuple[dict[str, dict[str, Value]], int]:
    """By task trained on and other task: AUROC over no finetuning, corrected (Holm) over all such pairs."""
    alone = singles(context)
    none = not_finetuned(context, alone)
    if none is None:
        return {}, 0
    pairs = {
        trained: {
            t: v for t in context.tasks() if t != trained and (v := context.difference(group, none, t)) is not None
        }
        for trained, group in alone.items()
    }
    return making.corrected(pairs)


def joint_gains(context: Context) -> tuple[dict[str, Value], int]:
    """By task: the joint model minus the one finetuned on that task alone, corrected (Holm)."""
    alone = singles(context)
    every = joint(context, alone)
    if every is None:
        return {}, 0
    pairs = {t: v for t, group in alone.items() if (v := context.difference(every, group, t)) is not None}
    held, family = making.corrected({"": pairs})
    return held[""], family


def transfer(context: Context) -> Analysis | None:
    """The matrix: rows finetuned on, columns tested on."""
    alone, tasks = singles(context), context.tasks()
    if not alone or not tasks:
        return None
    names = making.titles(context, tasks)
    none, every = not_finetuned(context, alone), joint(context, alone)
    ordered = [(task, alone[task]) for task in tasks if task in alone]
    lines = [("none", none, paper.NONE), *((names[t], g, t) for t, g in ordered), ("all tasks", every, paper.ALL)]
    rows, points, theirs = [], [], []
    for name, group, key in lines:
        if group is None:
            continue
        published = {task: p.value for task, p in paper.TRANSFER.get(key, {}).items()}
        row = making.aurocs(context, group, tasks, published)
        row.pop(MEAN, None)
        rows.append({"on": name, **row})
        known = {t: v for t, v in making.values_of(row).items() if v is not None}
        points += [making.point(names[t], v, name) for t, v in known.items()]
        theirs += [Point(x=names[t], y=published[t], label=name) for t in tasks if t in published]
    held, family = gains(context)
    joined, joint_family = joint_gains(context)
    heads = [Column(key="on", label="Finetuned on"), *(Column(key=t, label=names[t], kind="auroc") for t in tasks)]
    tables = [making.table("transfer", "AUROC by task finetuned on (rows) and tested on (columns)", heads, rows)]
    gained: list[making.Row] = [{"on": names[task], **held.get(task, {})} for task, _ in ordered if held.get(task)]
    if gained:
        heads = [
            Column(key="on", label="Finetuned on"),
            *(Column(key=t, label=names[t], kind="difference") for t in tasks),
        ]
        told = f"Over no finetuning, same patients; Holm over the {family} pairs."
        tables.append(making.table("transfer-gains", "Gain on tasks that were not trained on", heads, gained, told))
    if joined:
        heads = [Column(key=t, label=names[t], kind="difference") for t in tasks]
        told = f"Finetuned on all tasks minus on that task alone, same patients; Holm over {joint_family}."
        tables.append(making.table("transfer-joint", "One model for all tasks", heads, [dict(joined)], told))
    first = next(iter(alone.values()))
    compared = [g for g in (none, *alone.values(), every) if g is not None]
    sides = {
        "pairs": tally({f"{t}→{o}": v for t, found in held.items() for o, v in found.items()}),
        "joint": tally({lower_first(names[t]): v for t, v in joined.items()}),
    }
    series = [Series(name=first.label, role="specialist", points=points)]
    if theirs:
        series.append(Series(name="paper", role="paper", points=theirs))
    figure = Figure(
        id="transfer", kind="matrix", title="AUROC by task finetuned on and tested on",
        x=Axis(label="tested on", scale="names", names=[names[t] for t in tasks]),
        y=Axis(label="finetuned on", scale="names", names=[name for name, group, _ in lines if group is not None]),
        series=series,
    )  # fmt: skip
    return Analysis(
        id="transfer",
        title="Transfer between tasks",
        question="Do labels of one task help with another, and does one model do for all?",
        sentence=_sentence(sides),
        verdict=together(sides.values()),
        caveats=[*making.caveats(context, compared, tasks), *_unequal(list(alone.values()), every)],
        paper="Labels of readmission, mortality or comorbidity lift every other task; those of length of stay lower "
        "mortality (0.56 to 0.47), and those of insurance denial lift none by more than 2 points and lower mortality "
        "to 0.30. The joint model keeps within 1 point of each single one.",
        tables=tables,
        figures=[figure],
    )


def _sentence(sides: Mapping[str, Tally]) -> str:
    pairs, every = sides["pairs"], sides["joint"]
    parts = []
    if pairs.known:
        parts.append(
            f"of {plural(pairs.known, 'pair')} of a task learned and another tested, "
            f"{_clearly(len(pairs.ahead), 'gain')} over no finetuning, {_clearly(len(pairs.behind), 'lose')} and "
            f"{len(pairs.undecided)} are undecided"
        )
    if every.known:
        words = said(every)
        parts.append(
            f"the model finetuned on all tasks at once is {words}, measured against the one for that task alone"
        )
    text = "; ".join(parts) + "." if parts else "no pair can be compared with the model before finetuning."
    return text[:1].upper() + text[1:]


def _clearly(number: int, verb: str) -> str:
    return f"{number} {verb}{'s' if number == 1 else ''} clearly"


def _unequal(alone: Sequence[Group], every: Group | None) -> list[str]:
    if every is None:
        return []
    mine, theirs = labels(alone), labels([every])
    if mine is None or theirs is None:
        if every.about.notes == alone[0].about.notes:
            return []
        said = f"{parties.notes(every.about.notes)}, each single one {parties.notes(alone[0].about.notes)}"
        return [f"The joint model saw {said}."]
    said = f"{count(round(theirs))} labels of each task on average, the single ones {count(round(mine))}"
    return [f"The joint model saw {said}."]
