"""Pretraining checkpoint × finetuning notes: where a fixed budget is spent best (the paper's heat matrix)."""

from __future__ import annotations

from collections.abc import Sequence

from lang1.reporting.numbers import compact
from lang1.reporting.study_schema import Analysis, Axis, Column, Figure, Point, Series, Value
from lang1.study.analyses import making, parties
from lang1.study.analyses.sentences import moved, tally
from lang1.study.context import MEAN, Context, Group

Square = dict[tuple[int, int | None], Group]


def square(context: Context) -> Square:
    """Groups by pretraining tokens and finetuning notes, of the model that has most of them."""
    found: dict[tuple[str, str], Square] = {}
    for group in context.select(design="budget", tested_on=context.home):
        about = group.about
        if about.tokens is not None and about.tasks:
            found.setdefault((about.corpus, about.model), {})[about.tokens, about.notes] = group
    return max(found.values(), key=len, default={})


def sizes(cells: Square) -> list[int | None]:
    """Finetuning notes, fewest first; all of them (null) last."""
    return sorted({notes for _, notes in cells}, key=lambda n: float("inf") if n is None else n)


def more_pretraining(context: Context, cells: Square, task: str = MEAN) -> dict[int | None, Value | None]:
    """By finetuning notes: the latest checkpoint minus the earliest that both have that many."""
    made: dict[int | None, Value | None] = {}
    for notes in sizes(cells):
        tokens = sorted(t for t, n in cells if n == notes)
        if len(tokens) > 1:
            made[notes] = context.difference(cells[tokens[-1], notes], cells[tokens[0], notes], task)
    return made


def budget(context: Context) -> Analysis | None:
    """The matrix for the mean over tasks, and for each task."""
    cells, tasks = square(context), context.tasks()
    tokens, notes = sorted({t for t, _ in cells}), sizes(cells)
    if not tasks or len(tokens) < 2 or not notes:
        return None
    names = making.titles(context, making.with_mean(tasks))
    rows: list[making.Row] = []
    figures = []
    for task in [MEAN, *tasks] if len(tasks) > 1 else tasks:
        points = []
        for checkpoint in tokens:
            row: making.Row = {"task": names[task], "tokens": Value(value=float(checkpoint))}
            for size in notes:
                group = cells.get((checkpoint, size))
                found = context.auroc(group, task) if group is not None else None
                row[_key(size)] = found
                if found is not None:
                    points.append(making.point(parties.notes(size), found, compact(checkpoint)))
            rows.append(row)
        if points:
            figures.append(_figure(task, names[task], points, tokens, notes))
    heads = [Column(key="task", label="Task"), Column(key="tokens", label="Pretraining tokens", kind="count")]
    heads += [Column(key=_key(size), label=parties.notes(size), kind="auroc") for size in notes]
    added = {t: more_pretraining(context, cells, t) for t in dict.fromkeys([*tasks, MEAN])}
    by_notes = {n: {t: v for t, of in added.items() if (v := of.get(n)) is not None} for n in notes}
    held, family = making.corrected(by_notes)
    gained = {n: of[MEAN] for n, of in held.items() if MEAN in of}
    gains: list[making.Row] = [
        {"task": names[t], **{_key(n): of.get(t) for n, of in held.items()}} for t in making.with_mean(tasks)
    ]
    columns = [heads[0], *(Column(key=_key(n), label=parties.notes(n), kind="difference") for n in notes)]
    labels = _more_labels(context, cells, tokens[-1], sizes({key: g for key, g in cells.items() if key[1] in gained}))
    told = f"The latest checkpoint minus the earliest, on as many notes, same patients; Holm over {family}."
    return Analysis(
        id="budget",
        title="Pretraining against labels",
        question="At a given number of labels, what does longer pretraining add, and what do more labels?",
        sentence=_sentence(cells, tokens, gained, labels),
        verdict=tally({**{parties.notes(n): v for n, v in gained.items()}, "labels": labels}).verdict,
        caveats=making.caveats(context, list(cells.values()), tasks),
        paper="Every checkpoint is finetuned on 100 to 362,259 notes; the paper concludes that pretraining makes "
        "finetuning need fewer labels. We hold no figures of its matrix.",
        tables=[
            making.table("budget", "AUROC by pretraining tokens and finetuning notes", heads, rows),
            making.table("budget-gains", "What longer pretraining adds", columns, gains, told),
        ],
        figures=figures,
    )


def _key(notes: int | None) -> str:
    return "all" if notes is None else f"notes-{notes}"


def _figure(task: str, name: str, points: list[Point], tokens: Sequence[int], notes: Sequence[int | None]) -> Figure:
    return Figure(
        id="budget" if task == MEAN else f"budget-{task}",
        kind="matrix",
        title=f"{name}: AUROC by pretraining and labels",
        x=Axis(label="finetuned on", scale="names", names=[parties.notes(n) for n in notes]),
        y=Axis(label="pretraining tokens", scale="names", names=[compact(t) for t in tokens]),
        series=[Series(name=name, role="specialist", points=points)],
    )


def _more_labels(context: Context, cells: Square, tokens: int, notes: Sequence[int | None]) -> Value | None:
    few, many = (cells.get((tokens, n)) for n in (notes[0], notes[-1])) if len(notes) > 1 else (None, None)
    return context.difference(many, few, MEAN) if few is not None and many is not None else None


def _sentence(cells: Square, tokens: Sequence[int], gained: dict[int | None, Value], labels: Value | None) -> str:
    if not gained:
        return "No number of labels has two checkpoints to compare."
    sizes_known = sizes({key: g for key, g in cells.items() if key[1] in gained})
    fewest, most = sizes_known[0], sizes_known[-1]
    up, down = "clearly higher", "clearly lower"
    text = (
        f"From {compact(tokens[0])} to {compact(tokens[-1])} pretraining tokens, the mean AUROC after finetuning on "
        f"{parties.notes(fewest)} is {moved(gained[fewest], up, down)}"
    )
    if most != fewest:
        text += f"; on {parties.notes(most)}, {moved(gained[most], up, down)}"
    if labels is not None:
        text += f". More labels at the last checkpoint: {moved(labels, up, down)}"
    return text + "."
