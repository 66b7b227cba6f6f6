"""What the pretraining mixture and the model's size are worth (the paper's ablation of data mix and scale)."""

from __future__ import annotations

from collections.abc import Sequence

from lang1.reporting.numbers import plural
from lang1.reporting.study_schema import Analysis, Axis, Column, Figure, Point, Series, Value
from lang1.study import paper
from lang1.study.analyses import making, parties
from lang1.study.analyses.sentences import moved, said, tally, together
from lang1.study.context import MEAN, Context, Group

KINDS = {"zero-shot": "without finetuning", "finetuned": "finetuned"}


def mixture(context: Context) -> Analysis | None:
    """Own models by corpus and size, without finetuning and finetuned; differences of the mean over tasks."""
    tasks, named = context.tasks(), parties.main_model(context)
    groups = context.select(design="grid", tested_on=context.home, role="specialist")
    by_kind = {"zero-shot": _square(groups, ["zero-shot"]), "finetuned": _square(groups, parties.TRAINED)}
    corpora = list(dict.fromkeys(g.about.corpus for g in groups))
    models = sorted({g.about.model for g in groups}, key=lambda m: _size(groups, m))
    if not tasks or named is None or (len(corpora) < 2 and len(models) < 2):
        return None
    corpus, model = named
    rows: list[making.Row] = []
    figures = []
    gains: dict[str, dict[str, Value]] = {}
    asked: dict[tuple[str, str], list[str]] = {}
    for kind, cells in by_kind.items():
        points: list[Point] = []
        for (c, m), group in cells.items():
            row = making.aurocs(context, group, tasks)
            size = making.parameters(group)
            rows.append({"kind": KINDS[kind], "corpus": c, "model": m, "parameters": size, **row})
            if isinstance(found := row.get(MEAN), Value):
                points.append(making.point(m, found, c))
        if len(points) > 1:
            figures.append(_figure(kind, points, corpora, models))
        mixes = {
            f"{corpus} minus {c}, {m}": making.differences(context, cells[corpus, m], group, tasks)
            for (c, m), group in cells.items()
            if c != corpus and (corpus, m) in cells
        }
        scales = {
            f"{model} minus {m}, {c}": making.differences(context, cells[c, model], group, tasks)
            for (c, m), group in cells.items()
            if m != model and (c, model) in cells
        }
        gains |= {f"{KINDS[kind]}: {name}": found for name, found in {**mixes, **scales}.items()}
        asked[kind, "mix"], asked[kind, "size"] = (
            [f"{KINDS[kind]}: {name}" for name in named_so] for named_so in (mixes, scales)
        )
    held, family = making.corrected(gains)
    if not held:
        return None
    sides = {key: tally({name: _mean(held[name]) for name in pairs}) for key, pairs in asked.items()}
    heads = [
        Column(key="kind", label=""),
        Column(key="corpus", label="Pretrained on"),
        Column(key="model", label="Size"),
        Column(key="parameters", label="Parameters", kind="count"),
        *making.task_columns(context, tasks),
    ]
    columns = [Column(key="pair", label="Compared"), *making.task_columns(context, tasks, "difference")]
    compared: list[making.Row] = [{"pair": name, **found} for name, found in held.items()]
    told = f"Same patients, same labels; Holm over {family} comparisons of single tasks."
    text = []
    for kind, words in KINDS.items():
        for about, what, other in (("mix", f"mixture '{corpus}'", "mixtures"), ("size", f"size '{model}'", "sizes")):
            side = sides[kind, about]
            if side.known:
                text.append(f"{words}, the {what} is {said(side, 'comparison', named=False)} with other {other}")
    one = _mean(next(iter(held.values())))
    if len(held) == 1:
        text = [f"{next(iter(held))}: {moved(one, 'clearly higher', 'clearly lower')}"]
    sentence = "; ".join(text) + f" (mean over tasks; {plural(len(held), 'comparison')})."
    return Analysis(
        id="mixture",
        title="Mixture and size",
        question="What do the pretraining mixture and the model's size change?",
        sentence=sentence[:1].upper() + sentence[1:],
        verdict=together(sides.values()),
        caveats=[
            *making.caveats(context, groups, tasks),
            "One pretraining of each mixture and size, unless said otherwise.",
        ],
        paper="Finetuned on all labels, the 100-million, 1-billion and 7-billion models of the mixed corpus reach "
        + "; ".join(_published(task, context.title(task)) for task in tasks if task in paper.TASKS)
        + ". Its figures by mixture are not held here.",
        tables=[
            making.table("mixture", "AUROC by mixture and size", heads, rows),
            making.table("mixture-differences", "What mixture and size change", columns, compared, told),
        ],
        figures=figures,
    )


def _square(groups: Sequence[Group], regimes: Sequence[str]) -> dict[tuple[str, str], Group]:
    """By corpus and size; of several numbers of notes the one that most models share."""
    found = [g for g in groups if g.about.regime in regimes]
    counts = [g.about.notes for g in found]
    common = max(set(counts), key=lambda n: (counts.count(n), n is None), default=None)
    return {(g.about.corpus, g.about.model): g for g in found if g.about.notes == common}


def _size(groups: Sequence[Group], model: str) -> int:
    return max((g.about.parameters or 0 for g in groups if g.about.model == model), default=0)


def _mean(found: dict[str, Value]) -> Value | None:
    return found.get(MEAN) or next(iter(found.values()), None)


def _published(task: str, title: str) -> str:
    values = [paper.FINETUNED[name][task].value for name in ("Lang1-100M", "Lang1-1B", "Lang1-7B")]
    return f"{title} {', '.join(f'{v:.3f}' for v in values)}"


def _figure(kind: str, points: list[Point], corpora: Sequence[str], models: Sequence[str]) -> Figure:
    return Figure(
        id=f"mixture-{kind}",
        kind="matrix",
        title=f"Mean AUROC over tasks, {KINDS[kind]}",
        x=Axis(label="size", scale="names", names=list(models)),
        y=Axis(label="pretrained on", scale="names", names=list(corpora)),
        series=[Series(name=KINDS[kind], role="specialist", points=points)],
    )
