"""AUROC by period: does a model age (the paper's AUROC over time)?"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from lang1.reporting.study_schema import Analysis, Axis, Column, Figure, Series, Table, Value
from lang1.study.analyses import contrasts, making, parties, strata
from lang1.study.analyses.contrasts import Place
from lang1.study.analyses.sentences import Tally, lower_first, said, tally, together
from lang1.study.context import MEAN, Context, Group

SPLITS = {
    "test": "test of the training's period",
    "test_older": "older test",
    "test_newest": "newest test",
    "held_out_site": "held-out sites",
}
STEPS = ("quarter", "year")
LEAST_ROWS = 0.75  # of a test that its periods must hold: a trend over the few that are large enough would be chosen
Period = tuple[str, float, Place]  # its name, its middle in years, its rows
Points = Sequence[tuple[str, float, Value]]


def periods(context: Context) -> Analysis | None:
    """By split, and by quarter of the newest test (year where quarters hold too little)."""
    main, tasks = parties.main_specialist(context), context.tasks()
    if main is None or not tasks:
        return None
    bench = main.about.benchmark
    headline = context.benchmarks[bench].headline_split
    splits = [s for s in SPLITS if s in context.asked(bench).splits and any(context.judged(main, t, s) for t in tasks)]
    shown = [g for g in (main, *_rivals(context)) if g.about.benchmark == bench]
    names = making.titles(context, tasks)
    rows: list[making.Row] = []
    for group in shown:
        for split in splits:
            row = making.aurocs(context, group, tasks, split=split)
            row.pop(MEAN, None)  # over the tasks that can be judged there, so not one mean
            if row:
                rows.append({"model": parties.name(group, shown), "split": SPLITS[split], **row})
    changed: dict[str, dict[str, Value]] = {}
    for split in splits:
        if split != headline:
            found = {
                t: made
                for t in tasks
                if (made := contrasts.contrast(context, main, t, Place(headline), Place(split))) is not None
            }
            if found:
                changed[SPLITS[split]] = contrasts.combined(found)
    held, family = making.corrected(changed)
    quarters = {task: _by_period(context, main, bench, task) for task in tasks}
    by_quarter = _by_quarter(context, main, quarters)
    trends = _trends(context, main, quarters)
    if not changed and not trends:
        return None
    heads = [
        Column(key="model", label="Model"),
        Column(key="split", label="Part"),
        *making.task_columns(context, tasks),
    ]
    tables = [making.table("periods", "AUROC by test", heads, rows)]
    label = parties.name(main, shown)
    if held:
        columns = [Column(key="split", label="Newest minus"), *_columns(names, "difference")]
        told = f"{label}; patients in both count in both; Holm over {family}."
        lines: list[making.Row] = [{"split": split, **found} for split, found in held.items()]
        tables.append(making.table("periods-change", "What time changed", columns, lines, told))
    if trends:
        columns = _columns(names, "difference")
        told = f"{label}, headline test; change in AUROC a year; Holm over {len(trends)} tasks."
        tables.append(making.table("periods-trend", "Trend within the headline test", columns, [dict(trends)], told))
        tables.append(_quarter_table(names, by_quarter))
    text = [
        f"from the {split} to the {SPLITS.get(headline, headline)}, AUROC is "
        + said(_sides(found, names), ahead="clearly higher", behind="clearly lower")
        for split, found in held.items()
    ]
    if trends:
        words = said(_sides(trends, names), ahead="clearly rising", behind="clearly falling")
        text.append(f"within the headline test it is {words}")
    return Analysis(
        id="periods",
        title="By period",
        question="Does the main model do as well on later encounters as on those of its training's time?",
        sentence=f"{label}: {'; '.join(text)}.",
        verdict=together([_sides(found, names) for found in [*held.values(), *([trends] if trends else [])]]),
        caveats=[
            *making.caveats(context, [main], tasks),
            "Patients change between periods as well as time; a difference tells both.",
        ],
        paper="The paper shows AUROC by time period; we hold no figures of it.",
        tables=tables,
        figures=_figures(names, by_quarter, label),
    )


def _rivals(context: Context) -> list[Group]:
    boosted = [g for g in parties.baselines(context) if g.about.model.startswith(("gbm", "lace"))]
    best = parties.oracle(context)
    return [*parties.finetuned(context, "generalist")[:1], *boosted[:1], *([best] if best else [])]


def _sides(found: Mapping[str, Value], names: Mapping[str, str]) -> Tally:
    return tally({lower_first(names[t]): v for t, v in found.items() if t in names})


def _by_period(context: Context, main: Group, benchmark: str, task: str) -> list[Period]:
    """Periods that can be judged as the whole is, in the finest steps of which three do and hold most of the rows."""
    whole = context.part(benchmark, task)
    if whole is None or not whole.judged:
        return []
    for step in STEPS:
        every = strata.named(context, benchmark, task, step).get("period", {})
        found = [
            (name, _years(name), Place(None, where))
            for name, where in every.items()
            if re.match(r"^\d{4}", name) and strata.too_small(whole, context.part(benchmark, task, None, where)) is None
        ]
        kept = [
            one
            for one in found
            if (judged := contrasts.by_seed(context, main, task, one[2]))
            and tuple(next(iter(judged.values())).part.judged) == tuple(whole.judged)
        ]
        rows = sum(len(part.labels) for _, _, p in kept if (part := context.part(benchmark, task, None, p.where)))
        if len(kept) >= 3 and rows >= LEAST_ROWS * len(whole.labels):
            return sorted(kept, key=lambda one: one[1])
    return []


def _years(name: str) -> float:
    year, _, quarter = name.partition("-Q")
    return int(year) + ((int(quarter) - 0.5) / 4 if quarter else 0.5)


def _trends(context: Context, main: Group, quarters: Mapping[str, Sequence[Period]]) -> dict[str, Value]:
    found = {}
    for task, places in quarters.items():
        judged = [contrasts.by_seed(context, main, task, place) for _, _, place in places]
        made = contrasts.slopes(judged, [x for _, x, _ in places])
        if made is not None:
            found[task] = made
    return making.corrected({"": contrasts.combined(found)})[0][""] if found else {}


def _by_quarter(
    context: Context, main: Group, quarters: Mapping[str, Sequence[Period]]
) -> dict[str, list[tuple[str, float, Value]]]:
    return {
        task: [
            (name, x, v)
            for name, x, place in places
            if (v := context.auroc(main, task, place.split, place.where)) is not None
        ]
        for task, places in quarters.items()
    }


def _quarter_table(names: Mapping[str, str], found: Mapping[str, Points]) -> Table:
    when = sorted({(x, name) for points in found.values() for name, x, _ in points})
    rows: list[making.Row] = []
    for _, name in when:
        cells = {task: next((v for n, _, v in points if n == name), None) for task, points in found.items()}
        rows.append({"period": name, **cells})
    columns = [Column(key="period", label="Period"), *(Column(key=t, label=names[t], kind="auroc") for t in found)]
    return making.table("periods-quarters", "AUROC by period of the headline test", columns, rows)


def _figures(names: Mapping[str, str], found: Mapping[str, Points], label: str) -> list[Figure]:
    series = [
        Series(name=names[task], role="specialist", points=[making.point(x, v, name) for name, x, v in points])
        for task, points in found.items()
        if points
    ]
    if not series:
        return []
    title = f"AUROC by period of the headline test, {label}"
    x, y = Axis(label="year"), Axis(label="AUROC")
    return [Figure(id="periods", kind="lines", title=title, x=x, y=y, series=series, lines=making.CHANCE)]


def _columns(names: Mapping[str, str], kind: Literal["auroc", "difference"]) -> list[Column]:
    return [Column(key=task, label=name, kind=kind) for task, name in names.items()]
