"""Do stated risks mean what they say (the paper's calibration curves and ECE)?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lang1.metrics.calibration import (
    Estimate,
    expected_calibration_error,
    in_the_large,
    reliability_curve,
    slope,
)
from lang1.reporting.numbers import fixed, plural
from lang1.reporting.study_schema import Analysis, Axis, Column, Figure, Point, Series, Value
from lang1.study.analyses import making, parties
from lang1.study.analyses.sentences import Tally, Verdict, lower_first, tally
from lang1.study.context import Context, Group, Judged


def calibration(context: Context) -> Analysis | None:
    """The main model, the first finetuned generalist and gradient boosting: one training of each."""
    main, tasks = parties.main_specialist(context), context.tasks()
    if main is None or not tasks:
        return None
    shown = [g for g in _shown(context, main) if g.about.benchmark == main.about.benchmark]
    rows: list[making.Row] = []
    figures: list[Figure] = []
    of_main: dict[str, dict[str, Value]] = {"large": {}, "slope": {}}
    errors: list[float] = []
    for task in tasks:
        series = []
        for group in shown:
            judged = context.judged(group, task)
            if not judged:
                continue
            one, name = judged[0], parties.name(group, shown)
            for row in _rows(context, task, one):
                rows.append({"model": name, "task": context.title(task), **row})
                if group is main:
                    outcome = lower_first(context.title(task)) + (f": {row['class']}" if row.get("class") else "")
                    for key in of_main:
                        if isinstance(value := row.get(key), Value):
                            of_main[key][outcome] = value
            if group is main:
                errors.append(_ece(one))
            if one.part.binary:
                series.append(_curve(one, name, parties.role(group, main)))
        if series:
            figures.append(_figure(context.title(task), task, series))
    if not rows:
        return None
    large, steep = tally(of_main["large"], 0.0), tally(of_main["slope"], 1.0)
    columns = [
        Column(key="task", label="Task"),
        Column(key="class", label="Class"),
        Column(key="model", label="Model"),
        Column(key="large", label="In the large", kind="number", help="log-odds to add so that the mean risk is right"),
        Column(key="slope", label="Slope", kind="number", help="below 1: risks are too extreme; above 1: too timid"),
        Column(key="ece", label="ECE", kind="number", help="15 bins of equal width; several classes: of the top class"),
    ]
    return Analysis(
        id="calibration",
        title="Calibration",
        question="Can the main model's risks be taken at their word?",
        sentence=_sentence(parties.name(main, shown), large, steep, errors),
        verdict=_verdict(large, steep),
        caveats=[
            *making.caveats(context, [main], tasks),
            *(
                ["Of the first seed's model: risks of several trainings are not averaged."]
                if len(main.cells) > 1
                else []
            ),
            "ECE has no interval, since resampling biases it upward; those of the other two take patients as clusters.",
        ],
        paper="Calibration curves and ECE (15 bins) are drawn; we hold no figures of them.",
        tables=[making.table("calibration", "Calibration of stated risks", columns, rows)],
        figures=figures,
    )


def _shown(context: Context, main: Group) -> list[Group]:
    boosted = [g for g in parties.baselines(context) if "gbm" in g.about.model or "lace" in g.about.model]
    return [main, *parties.finetuned(context, "generalist")[:1], *boosted[:1]]


def _rows(context: Context, task: str, one: Judged) -> list[making.Row]:
    part, table = one.part, one.answered.table
    options = context.options(task)
    made: list[making.Row] = []
    for c in part.judged:
        case = part.labels == c
        size = {"n": len(case), "events": int(case.sum())}
        found = {
            name: fit(case, table[:, c], part.subjects) for name, fit in (("large", in_the_large), ("slope", slope))
        }
        row: making.Row = {name: _value(estimate, size) for name, estimate in found.items()}
        if part.binary or c == part.judged[0]:
            row["ece"] = Value(value=_ece(one), n=len(case))
        made.append(row if part.binary else {"class": options[c], **row})
    return made


def _ece(one: Judged) -> float:
    return expected_calibration_error(one.part.labels, one.answered.table)


def _value(found: Estimate, size: dict[str, int]) -> Value:
    known = bool(np.isfinite(found.value))
    note = None if known else "cannot be fitted"
    return Value.model_validate({"value": found.value, "low": found.low, "high": found.high, "note": note, **size})


def _curve(one: Judged, name: str, role: parties.FigureRole) -> Series:
    curve = reliability_curve(one.part.labels == 1, one.answered.table[:, 1])
    return Series(name=name, role=role, points=[Point(x=x, y=y) for x, y in zip(curve.x, curve.y, strict=True)])


def _figure(title: str, task: str, series: list[Series]) -> Figure:
    top = max((max(float(p.x), p.y or 0.0) for one in series for p in one.points), default=1.0)
    ideal = Series(name="as stated", role="oracle", points=[Point(x=0.0, y=0.0), Point(x=top, y=top)])
    return Figure(
        id=f"calibration-{task}",
        kind="lines",
        title=f"{title}: what was stated and what happened",
        x=Axis(label="mean stated risk"),
        y=Axis(label="observed share"),
        series=[*series, ideal],
        note="ten bins of about as many stays each",
    )


def _verdict(large: Tally, steep: Tally) -> Verdict:
    """Clear faults are clear; without any the question stays undecided, since no interval shows perfection."""
    faults = len(large.ahead) + len(large.behind) + len(steep.ahead) + len(steep.behind)
    if not large.known + steep.known:
        return "none"
    return "undecided" if not faults else "clear" if faults == large.known + steep.known else "mixed"


def _sentence(label: str, large: Tally, steep: Tally, errors: Sequence[float]) -> str:
    text = label
    if errors:
        text += f"'s calibration error (ECE) is {fixed(min(errors))} to {fixed(max(errors))} by task"
    if large.known:
        text += (
            f"; of {plural(large.known, 'outcome')}, risks are clearly too low on the whole for {len(large.ahead)}, "
            f"clearly too high for {len(large.behind)}"
        )
    if steep.known:
        text += f"; clearly too extreme (slope under 1) for {len(steep.behind)}, too timid for {len(steep.ahead)}"
    return text + "; the others are undecided."
