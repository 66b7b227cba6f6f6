"""Several health systems: trained at one, tested at each other; pooled; leave-one-out; on as many labels."""

from __future__ import annotations

from collections.abc import Sequence

from lang1.reporting.numbers import join
from lang1.reporting.study_schema import Analysis, Axis, Column, Figure, Point, Series, Value
from lang1.study.analyses import making, parties
from lang1.study.analyses.sentences import Tally, Verdict, moved, names_of, tally
from lang1.study.context import MEAN, Context, Group

OWN, AWAY, POOLED, LEFT_OUT, MATCHED = "home", "away", "pooled", "leave-one-out", "size-matched"
WORDS = {
    AWAY: "trained at another alone",
    POOLED: "trained at all together",
    LEFT_OUT: "trained at all others",
    MATCHED: "home's, on as many labels",
}


def systems(context: Context) -> Analysis | None:
    """The matrix of health systems, and each way of training against one's own at every system tested."""
    groups = [g for g in context.select(design="systems", role="specialist") if g.about.tasks]
    places = list(dict.fromkeys(g.about.tested_on for g in groups))
    if not groups or not places:
        return None
    tasks = list(dict.fromkeys(t for g in groups for t in context.benchmarks[g.about.benchmark].tasks))
    rows: list[making.Row] = []
    points: list[Point] = []
    for group in groups:
        row = making.aurocs(context, group, _tasks(context, group))
        rows.append({"trained": _trained(group), "tested": group.about.tested_on, "notes": _notes(group), **row})
        found = _main(row, tasks)
        if found is not None and group.about.variant != MATCHED:
            points.append(Point(x=group.about.tested_on, y=found.value, low=found.low, high=found.high,
                                label=_trained(group)))  # fmt: skip
    for place in places:
        best = parties.oracle(context, next(g.about.benchmark for g in groups if g.about.tested_on == place))
        if best is not None:
            row = making.aurocs(context, best, _tasks(context, best))
            rows.append({"trained": "best possible", "tested": place, **row})
    against = {
        (place, group.about.variant, _trained(group)): making.differences(context, group, own, _tasks(context, own))
        for place in places
        if (own := _own(context, groups, place)) is not None
        for group in groups
        if group.about.tested_on == place and group.about != own.about
    }
    held, family = making.corrected({key: found for key, found in against.items() if found})
    shown: list[making.Row] = [
        {"tested": place, "trained": trained, "how": WORDS.get(variant, variant), **found}
        for (place, variant, trained), found in held.items()
    ]
    heads = [Column(key="trained", label="Trained at"), Column(key="tested", label="Tested at")]
    columns = [*heads, Column(key="notes", label="Finetuned on"), *making.task_columns(context, tasks)]
    tables = [making.table("systems", "AUROC by where a model was trained and tested", columns, rows)]
    if shown:
        heads = [heads[1], heads[0], Column(key="how", label="How")]
        columns = [*heads, *making.task_columns(context, tasks, "difference")]
        told = f"On the patients of the system tested, paired; Holm over {family} comparisons of single tasks."
        tables.append(making.table("systems-against-own", "Against the model trained there", columns, shown, told))
    sides = {
        variant: tally(
            {f"{where} at {at}": _main(found, tasks) for (at, v, where), found in held.items() if v == variant}
        )
        for variant in WORDS
    }
    return Analysis(
        id="systems",
        title="Several health systems",
        question="How does a model do at other health systems than it was trained at, and does pooling them help?",
        sentence=_sentence({k: v for k, v in sides.items() if v.known}, held, tasks),
        verdict=_verdict(list(sides.values())),
        caveats=[
            *making.caveats(context, groups, tasks),
            *([] if any(g.about.variant == LEFT_OUT for g in groups) else [
                "Leave-one-out needs three health systems or more; with two it is training at the other one."
            ]),
            "Trained at one, at others or at all, models differ in their number of labels too, but where said.",
        ],
        paper="Left open by the paper, which tests at one other hospital (MIMIC-III) and trains at no two.",
        tables=tables,
        figures=[_matrix(points, places)] if len(places) > 1 else [],
    )  # fmt: skip


def _tasks(context: Context, group: Group) -> list[str]:
    return list(context.benchmarks[group.about.benchmark].tasks)


def _trained(group: Group) -> str:
    where = join(list(group.about.trained_on))
    return f"{where}, {MATCHED}" if group.about.variant == MATCHED else where


def _notes(group: Group) -> str:
    return parties.notes(group.about.notes)


def _own(context: Context, groups: Sequence[Group], place: str) -> Group | None:
    """The model trained at the system tested: that of this design, else that of the main tables."""
    mine = [g for g in groups if g.about.tested_on == place and g.about.trained_on == (place,)]
    found = [g for g in mine if g.about.variant == OWN] or [g for g in mine if g.about.variant != MATCHED]
    if found:
        return found[0]
    if place == context.home:
        return parties.main_specialist(context)
    return next(iter(context.select(design="grid", tested_on=place, role="specialist", trained_on=(place,))), None)


def _main(found: making.Row | dict[str, Value], tasks: Sequence[str]) -> Value | None:
    """The mean over tasks, or the only task's figure."""
    value = found.get(MEAN) or (found.get(tasks[0]) if len(tasks) == 1 else None)
    return value if isinstance(value, Value) else None


def _matrix(points: list[Point], places: list[str]) -> Figure:
    rows = list(dict.fromkeys(point.label for point in points))
    return Figure(
        id="systems",
        kind="matrix",
        title="Mean AUROC over tasks",
        x=Axis(label="Tested at", scale="names", names=places),
        y=Axis(label="Trained at", scale="names", names=rows),
        series=[Series(name="mean AUROC", role="specialist", points=points)],
    )


def _sentence(sides: dict[str, Tally], held: dict[tuple[str, str, str], dict[str, Value]], tasks: Sequence[str]) -> str:
    parts = []
    for variant, found in sides.items():
        one = [_main(values, tasks) for (_, v, _), values in held.items() if v == variant]
        if len(one) == 1:
            parts.append(f"{WORDS[variant]}: {moved(one[0], 'clearly ahead', 'clearly behind')}")
            continue
        said = [f"{side} in {len(names)}{names_of(names)}" for side, names in _named(found) if names]
        parts.append(f"{WORDS[variant]}: of {found.known} comparisons {', '.join(said)}")
    if not parts:
        return "No model trained at a health system stands beside one trained elsewhere there."
    what = "mean AUROC over tasks" if len(tasks) > 1 else "AUROC"
    return f"Against the model trained at the system tested ({what}): {'; '.join(parts)}."


def _named(found: Tally) -> list[tuple[str, list[str]]]:
    return [("clearly ahead", found.ahead), ("clearly behind", found.behind), ("undecided", found.undecided)]


def _verdict(sides: Sequence[Tally]) -> Verdict:
    """clear where every way of training is on one side by itself."""
    found = [side.verdict for side in sides if side.known]
    if not found:
        return "none"
    return found[0] if len(set(found)) == 1 else "mixed"
