"""Zero-shot AUROC as pretraining goes on (the paper's trajectory)."""

from __future__ import annotations

from collections.abc import Sequence

from lang1.reporting.numbers import compact
from lang1.reporting.study_schema import Analysis, Axis, Column, Figure, Point, Series, Value
from lang1.study.analyses import making
from lang1.study.analyses.sentences import lower_first, moved, said, tally, together
from lang1.study.context import MEAN, Context, Group


def milestones(context: Context, **fields: object) -> list[list[Group]]:
    """The milestones of each pretraining, each in the order of its tokens; those of one alone tell nothing."""
    found: dict[tuple[object, ...], list[Group]] = {}
    for group in context.select(tested_on=context.home, **{"design": "trajectory", **fields}):
        about = group.about
        if about.tokens is not None:
            found.setdefault((about.model, about.corpus, about.pretrained_on, about.notes), []).append(group)
    ordered = [sorted(groups, key=lambda g: g.about.tokens or 0) for groups in found.values()]
    return [groups for groups in ordered if len(groups) > 1]


def trajectory(context: Context) -> Analysis | None:
    """Every milestone on every task."""
    runs, tasks = milestones(context), context.tasks()
    if not runs or not tasks:
        return None
    names = making.titles(context, making.with_mean(tasks))
    rows: list[making.Row] = []
    ends: list[making.Row] = []
    figures = []
    for k, run in enumerate(runs):
        made = [(g, making.aurocs(context, g, tasks)) for g in run]
        for group, row in made:
            rows.append({"model": group.label, "tokens": Value(value=float(group.about.tokens or 0)), **row})
        series = [
            Series(name=names[task], role="specialist", points=_points(made, task))
            for task in names
            if any(task in row for _, row in made)
        ]
        figures.append(
            Figure(
                id=f"trajectory-{k + 1}" if len(runs) > 1 else "trajectory",
                kind="lines",
                title=f"AUROC without finetuning, {run[0].label}",
                x=Axis(label="pretraining tokens", scale="log"),
                y=Axis(label="AUROC"),
                series=series,
                lines=making.CHANCE,
            )
        )
        held, _ = making.corrected({"": making.differences(context, run[-1], run[0], tasks)})
        ends.append({"model": run[0].label, **held[""]})
    heads = [Column(key="model", label="Model"), Column(key="tokens", label="Tokens", kind="count")]
    tables = [
        making.table("trajectory", "AUROC without finetuning", [*heads, *making.task_columns(context, tasks)], rows)
    ]
    told = f"Last milestone minus first, same patients; Holm over the {len(tasks)} tasks of a pretraining."
    columns = [heads[0], *making.task_columns(context, tasks, "difference")]
    tables.append(making.table("trajectory-ends", "What pretraining changed", columns, ends, told))
    first, gained = runs[0], making.values_of(ends[0])
    sides = tally({lower_first(names[t]): gained.get(t) for t in tasks})
    span = f"From {compact(first[0].about.tokens)} to {compact(first[-1].about.tokens)} pretraining tokens"
    words = said(sides, ahead="clearly higher", behind="clearly lower")
    sentence = f"{span}, AUROC without finetuning ({first[0].label}) is {words}"
    sentence += f"; on the mean over tasks it is {moved(gained.get(MEAN), 'clearly higher', 'clearly lower')}."
    return Analysis(
        id="trajectory",
        title="As pretraining goes on",
        question="Does longer pretraining alone, without labels, make a model answer better?",
        sentence=sentence,
        verdict=together([sides, tally({MEAN: gained.get(MEAN)})]),
        caveats=[*making.caveats(context, [g for run in runs for g in run], tasks), *_one_pretraining(runs)],
        paper="The same curve for Lang1-1B; of its figures we hold the end alone (0.48 to 0.58 by task).",
        tables=tables,
        figures=figures,
    )


def _points(made: Sequence[tuple[Group, making.Row]], task: str) -> list[Point]:
    found = [(g, row.get(task)) for g, row in made]
    return [making.point(float(g.about.tokens or 0), v) for g, v in found if isinstance(v, Value)]


def _one_pretraining(runs: Sequence[Sequence[Group]]) -> list[str]:
    return [] if len(runs) > 1 else ["One pretraining: another seed could give another path."]
