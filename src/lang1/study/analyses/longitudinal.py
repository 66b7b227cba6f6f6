"""One note against the chart, by token budget; and the same question asked again as a stay goes on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from lang1.reporting.numbers import count, fixed
from lang1.reporting.study_schema import Analysis, Axis, Column, Figure, Series, Table, Value
from lang1.study.analyses import making
from lang1.study.analyses.contrasts import Repeats
from lang1.study.analyses.joint import Joint, Side, combined_by_task, row_of
from lang1.study.analyses.sentences import Tally, gap, lower_first, moved, said, tally
from lang1.study.context import MEAN, Context, Group

NOTE = "note"
_DAY = re.compile(r"^(?P<of>.+)_day_(?P<day>\d+)$")


@dataclass(frozen=True)
class Read:
    """Models of one design that read one input, by budget of tokens, and the true risks given it."""

    name: str
    by_budget: dict[int, Group]
    best: Group | None

    @property
    def widest(self) -> int:
        return max(self.by_budget)

    def at(self, budget: int) -> Group:
        """The model of that budget, or of the next smaller one: an input that is short needs no more."""
        fits = [b for b in self.by_budget if b <= budget]
        return self.by_budget[max(fits) if fits else min(self.by_budget)]


def longitudinal(context: Context) -> Analysis | None:
    """AUROC by input and budget, each longer input against the one note on the same examples, and updates by day."""
    reads = _reads(context)
    note = next((one for one in reads if one.name == NOTE), None)
    longer = [one for one in reads if one.name != NOTE]
    if note is None or not longer:
        return None
    baselines = context.select(design="longitudinal", role="baseline")
    groups = [g for one in reads for g in (*one.by_budget.values(), one.best) if g is not None]
    joint = Joint(context, [*groups, *baselines])
    tasks = joint.tasks()
    if not tasks:
        return None
    wanted = making.with_mean(tasks)
    chart = max((one for one in longer if one.best is not None), key=partial(_height, joint, wanted[-1]), default=None)
    best = chart.best if chart is not None else None
    against = combined_by_task(
        {
            (one.name, budget): {
                task: joint.repeats(Side(one.at(budget)), task, Side(note.at(budget))) for task in wanted
            }
            for one in longer
            for budget in sorted(one.by_budget)
        }
    )
    held, family = making.corrected({key: found for key, found in against.items() if found})
    tables = [
        making.table(
            "longitudinal", "AUROC by what is read", [*_heads(), *making.task_columns(context, tasks)],
            _levels(joint, reads, baselines, wanted),
            "Best possible: the true risks given that input, where they are known.",
        ),
        making.table(
            "longitudinal-against-note", "Against the model that reads one note",
            [*_heads(), *making.task_columns(context, tasks, "difference")],
            [{"input": name, "budget": Value(value=float(b)), **found} for (name, b), found in held.items()],
            f"The same examples and budget, paired; Holm over {family} comparisons of single tasks.",
        ),
    ]  # fmt: skip
    if best is not None:
        tables.append(_shares(context, joint, reads, best, tasks))
    days, text, day_caveats = _updates(context, reads)
    widest = {one.name: held.get((one.name, one.widest), {}) for one in longer}
    first = max(longer, key=lambda one: (one is chart, one.widest))
    sides = tally({lower_first(context.title(t)): v for t, v in widest[first.name].items() if t != MEAN})
    return Analysis(
        id="longitudinal",
        title="A chart over time",
        question="Does reading several notes of a patient beat reading one, and does a prediction get better as a stay "
        "goes on?",
        sentence=" ".join([_sentence(first, sides, widest[first.name], wanted[-1], joint, best), *text]),
        verdict=sides.verdict,
        caveats=[
            *making.caveats(context, [g for one in reads for g in one.by_budget.values()], tasks),
            "Notes leave a chart from the oldest on where it is longer than its budget.",
            *day_caveats,
        ],
        paper="Left open by the paper, whose tasks each read one note.",
        tables=[*tables, *days],
        figures=[_figure(context, joint, reads, best, task) for task in tasks],
    )


def _reads(context: Context) -> list[Read]:
    found = context.select(design="longitudinal", role="specialist")
    tuned = [g for g in found if g.about.tasks and g.about.budget is not None]
    oracles = context.select(design="longitudinal", role="oracle")
    made = []
    for name in dict.fromkeys(g.about.variant for g in tuned):
        mine = {g.about.budget: g for g in tuned if g.about.variant == name and g.about.budget is not None}
        made.append(Read(name, mine, next((g for g in oracles if g.about.variant == name), None)))
    return made


def _height(joint: Joint, task: str, one: Read) -> float:
    found = joint.value(Side(one.best), task) if one.best is not None else None
    return found.value if found is not None and found.value is not None else 0.0


def _heads() -> list[Column]:
    return [
        Column(key="input", label="Reads"),
        Column(key="model", label="Model"),
        Column(key="budget", label="Tokens", kind="count"),
    ]


def _levels(joint: Joint, reads: list[Read], baselines: list[Group], tasks: list[str]) -> list[making.Row]:
    rows: list[making.Row] = []
    for one in reads:
        for budget, group in sorted(one.by_budget.items()):
            row = row_of(tasks, partial(joint.value, Side(group)))
            rows.append({"input": one.name, "model": group.label, "budget": Value(value=float(budget)), **row})
        others = [(g.label, g) for g in baselines if g.about.variant == one.name]
        for label, plain in [*others, *([("best possible", one.best)] if one.best is not None else [])]:
            rows.append({"input": one.name, "model": label, **row_of(tasks, partial(joint.value, Side(plain)))})
    return rows


def _shares(context: Context, joint: Joint, reads: list[Read], best: Group, tasks: list[str]) -> Table:
    wanted = making.with_mean(tasks)
    trained = {
        (one.name, budget): {task: joint.repeats(Side(group, best), task) for task in wanted}
        for one in reads
        for budget, group in sorted(one.by_budget.items())
    }
    rows: list[making.Row] = [
        {"input": name, "budget": Value(value=float(budget)), **found}
        for (name, budget), found in combined_by_task(trained).items()
    ]
    for one in reads:
        if one.best is not None and one.best.about != best.about and _differs(joint, one.best, best, tasks):
            row = row_of(wanted, partial(joint.value, Side(one.best, best)))
            rows.append({"input": one.name, "model": "best possible", **row})
    return making.table(
        "longitudinal-share", "Attained share of what the chart allows",
        [*_heads(), *making.task_columns(context, tasks, "share")], rows,
        "(AUROC - 0.5)/(that of the true risks given the chart - 0.5).",
    )  # fmt: skip


def _differs(joint: Joint, one: Group, other: Group, tasks: list[str]) -> bool:
    """Whether two oracles are two: the truth given the chart may stand beside the one note as well."""
    pairs = [(joint.figure(one.cells[0], t), joint.figure(other.cells[0], t)) for t in tasks]
    return any(a is not None and b is not None and a.value != b.value for a, b in pairs)


def _sentence(first: Read, sides: Tally, found: dict[str, Value], mean: str, joint: Joint, best: Group | None) -> str:
    text = f"Reading {first.name} instead of one note, at {count(first.widest)} tokens, is {said(sides)}"
    if mean in found:
        text += f" (mean {gap(found[mean])})" if mean == MEAN else f" ({gap(found[mean])})"
    if best is not None:
        share = joint.value(Side(first.by_budget[first.widest], best), mean)
        if share is not None and share.value is not None:
            text += f"; it attains {fixed(share.value, 2)} of what the chart allows"
    return text + "."


def _updates(context: Context, reads: list[Read]) -> tuple[list[Table], list[str], list[str]]:
    """The same question by day, on the stays that every day asks."""
    rows: list[making.Row] = []
    changes: dict[int, dict[str, Repeats | None]] = {}  # by row
    told: dict[int, tuple[str, str]] = {}  # by row, the question and the input, of the widest budgets
    days: set[int] = set()
    for one in reads:
        bench = one.by_budget[one.widest].about.benchmark
        for base, by_day in _families(context.benchmarks[bench].tasks).items():
            parts = {d: context.part(bench, t) for d, t in by_day.items()}
            asked = [set(p.examples["encounter_id"].to_pylist()) for p in parts.values() if p is not None]
            if len(asked) < 2:
                continue
            models = [(group.label, budget, group) for budget, group in sorted(one.by_budget.items())]
            others = [] if one.best is None else [("best possible", None, one.best)]
            groups = [group for _, _, group in [*models, *others]]
            joint = Joint(context, groups, dict.fromkeys(by_day.values(), set.intersection(*asked)))
            for who, budget, model in [*models, *others]:
                found = {d: v for d, t in by_day.items() if (v := joint.value(Side(model), t)) is not None}
                days |= set(found)
                about: making.Row = {"task": context.title(base), "input": one.name, "model": who}
                tokens: making.Row = {} if budget is None else {"budget": Value(value=float(budget))}
                if budget == one.widest:
                    told[len(rows)] = (lower_first(context.title(base)), one.name)
                first, *_, last = by_day.values()
                changes[len(rows)] = {base: joint.repeats(Side(model), last, other_task=first)}
                rows.append({**about, **tokens, **{f"day{d}": v for d, v in found.items()}})
    for number, change in combined_by_task(changes).items():
        rows[number] |= {"change": next(iter(change.values()), None)}
    if not rows:
        return [], [], []
    columns = [Column(key="task", label="Task"), *_heads()]
    columns += [Column(key=f"day{d}", label=f"Day {d}", kind="auroc") for d in sorted(days)]
    columns.append(Column(key="change", label="Last day against first", kind="difference"))
    table = making.table(
        "longitudinal-updates", "The same question asked again", columns, rows,
        "On the stays that are asked on every day; each day's input ends with that day's note.",
    )  # fmt: skip
    text = []
    for number, (title, name) in told.items():
        moves = rows[number]["change"]
        if isinstance(moves, Value):
            better = moved(moves, "clearly better on the last day than on the first", "clearly worse")
            text.append(f"Asked again of the same stays, {title} reading {name}: {better}.")
    return [table], text, ["Days are compared on stays long enough to be asked on all of them; short ones are not in."]


def _families(tasks: Sequence[str]) -> dict[str, dict[int, str]]:
    """By the question that is asked again, its tasks by day; day 0 is the task of that name."""
    found: dict[str, dict[int, str]] = {}
    for task in tasks:
        match = _DAY.match(task)
        if match:
            found.setdefault(match["of"], {})[int(match["day"])] = task
    for base, by_day in found.items():
        if base in tasks:
            by_day[0] = base
    return {base: dict(sorted(by_day.items())) for base, by_day in found.items()}


def _figure(context: Context, joint: Joint, reads: list[Read], best: Group | None, task: str) -> Figure:
    series = []
    for one in reads:
        points = [
            making.point(float(budget), value)
            for budget, group in sorted(one.by_budget.items())
            if (value := joint.value(Side(group), task)) is not None
        ]
        series.append(Series(name=one.name, role="self" if one.name == NOTE else "specialist", points=points))
    lines = dict(making.CHANCE)
    top = joint.value(Side(best), task) if best is not None else None
    if top is not None and top.value is not None:
        lines["best possible given the chart"] = top.value
    return Figure(
        id=f"longitudinal-{task}",
        kind="lines",
        title=context.title(task),
        x=Axis(label="Tokens of the input", scale="log"),
        y=Axis(label="AUROC"),
        series=[one for one in series if one.points],
        lines=lines,
    )
