"""Matched twins: general text alone against general and clinical text, all else equal (the paper's question)."""

from __future__ import annotations

from lang1.reporting.study_schema import Analysis, Axis, Column, Figure, Series, Value
from lang1.study.analyses import making, parties
from lang1.study.analyses.efficiency import notes_of
from lang1.study.analyses.sentences import lower_first, moved, said, tally, together
from lang1.study.context import MEAN, Context, Group

# By size of the model and notes finetuned on: general text alone, general and clinical text.
Pairs = dict[tuple[str, int], tuple[Group, Group]]


def pairs(context: Context) -> Pairs:
    """The twins that both were finetuned on as many notes, fewest first; general text alone has the role ``twin``."""
    found = context.select(design="twins", tested_on=context.home)
    general = {_key(context, g): g for g in found if g.about.role == "twin"}
    clinical = {_key(context, g): g for g in found if g.about.role == "specialist"}
    both = sorted(general.keys() & clinical.keys(), key=lambda key: (key[0], key[1]))
    return {key: (general[key], clinical[key]) for key in both}


def _key(context: Context, group: Group) -> tuple[str, int]:
    return group.about.model, notes_of(context, group)


def gains(context: Context, found: Pairs) -> tuple[dict[tuple[str, int], dict[str, Value]], int]:
    """Clinical minus general by size of model and notes, corrected (Holm) over all single tasks; how many these are."""
    tasks = context.tasks()
    return making.corrected({key: making.differences(context, two, one, tasks) for key, (one, two) in found.items()})


def twins(context: Context) -> Analysis | None:
    """Paired differences by number of labels, task by task and on the mean."""
    found, tasks = pairs(context), context.tasks()
    if not found or not tasks:
        return None
    names = making.titles(context, making.with_mean(tasks))
    held, family = gains(context, found)
    rows: list[making.Row] = []
    ahead: list[making.Row] = []
    for (model, notes), (general, clinical) in found.items():
        size = Value(value=float(notes))
        for group in (general, clinical):
            row = making.aurocs(context, group, tasks)
            rows.append({"model": model, "notes": size, "corpus": group.about.corpus or "none", **row})
        ahead.append({"model": model, "notes": size, **held[model, notes]})
    heads = [Column(key="model", label="Size"), Column(key="notes", label="Notes", kind="count")]
    columns = [*heads, Column(key="corpus", label="Pretrained on"), *making.task_columns(context, tasks)]
    told = f"With clinical text minus general text alone: same notes, patients and seeds; Holm over {family}."
    gained = [*heads, *making.task_columns(context, tasks, "difference")]
    tables = [
        making.table("twins-differences", "What clinical text adds", gained, ahead, told),
        making.table("twins", "AUROC of both", columns, rows),
    ]
    model = next(reversed(found))[0]
    of_model = {notes: pair for (m, notes), pair in found.items() if m == model}
    figures = [_curves(context, task, names[task], of_model) for task in ([MEAN, *tasks] if len(tasks) > 1 else tasks)]
    marks = [(parties.notes(notes), parties.role(of_model[notes][1]), held[model, notes]) for notes in of_model]
    figures.insert(
        1,
        making.by_task(
            context, "twins-differences", "What clinical text adds, by notes finetuned on", marks,
            making.with_mean(tasks), y="difference in AUROC", lines={"no difference": 0.0},
        ),
    )  # fmt: skip
    fewest, most = min(of_model), max(of_model)
    sentence = (
        f"Same architecture and tokens ({model}), finetuned on the same {fewest:,} notes: with clinical text in "
        f"pretraining the mean AUROC is {_mean(held[model, fewest])}"
    )
    if most != fewest:
        sentence += f"; on {most:,} notes, {_mean(held[model, most])}"
    by_task = tally({lower_first(names[t]): v for t, v in held[model, most].items() if t != MEAN})
    sentence += f". By task, on {most:,} notes, it is {said(by_task)}."
    means = {str(key): v.get(MEAN) or next(iter(v.values()), None) for key, v in held.items()}
    return Analysis(
        id="twins",
        title="Matched twins",
        question="Is a model better for having read clinical text, if architecture, tokens and labels are the same?",
        sentence=sentence,
        verdict=together([tally(means), by_task]),
        caveats=[*making.caveats(context, [g for pair in found.values() for g in pair], tasks), *_matched(found)],
        paper="The paper compares with third-party models of other data, tokenizers and lengths; it has no such twins.",
        tables=tables,
        figures=figures,
    )


def _mean(found: dict[str, Value]) -> str:
    one = found.get(MEAN) or next(iter(found.values()), None)
    return moved(one, "clearly higher", "clearly lower")


def _curves(context: Context, task: str, name: str, found: dict[int, tuple[Group, Group]]) -> Figure:
    series = []
    for k, role in ((1, "specialist"), (0, "self")):
        values = [(notes, context.auroc(pair[k], task)) for notes, pair in found.items()]
        points = [making.point(float(notes), v) for notes, v in values if v is not None]
        corpus = next(iter(found.values()))[k].about.corpus or "general text"
        series.append(Series.model_validate({"name": corpus, "role": role, "points": points}))
    return Figure(
        id="twins" if task == MEAN else f"twins-{task}",
        kind="lines",
        title=f"{name}: AUROC of the twins",
        x=Axis(label="notes finetuned on", scale="log"),
        y=Axis(label="AUROC"),
        series=series,
    )


def _matched(found: Pairs) -> list[str]:
    """What is not equal between twins, as far as it is known."""
    said = []
    if any(one.about.parameters != two.about.parameters for one, two in found.values()):
        said.append("The twins differ in their number of parameters.")
    if any({c.seed for c in one.cells} != {c.seed for c in two.cells} for one, two in found.values()):
        said.append("The twins do not have the same seeds everywhere: there their means are compared, not pairs.")
    return said
