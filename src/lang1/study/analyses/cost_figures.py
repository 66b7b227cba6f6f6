"""Figures of the cost analysis: cost by volume, cost against benefit, one figure moved at a time, decision curves."""

from __future__ import annotations

import numpy as np

from lang1.metrics.auroc import Floats
from lang1.metrics.operating import net_benefit, net_benefit_of_all
from lang1.reporting.study_schema import Axis, Figure, Point, Series
from lang1.study.acting import Acted
from lang1.study.context import MEAN, Context
from lang1.study.options import KINDS, Option
from lang1.study.reckoning import Reckoned

RISKS = 25
SHOWN = "Of each kind the largest joint option and the largest of single models; the tables hold all."
# Net benefit for 100 encounters below which a decision curve is not drawn: acting so does harm.
FLOOR = -5.0
# What the price file's figures are called on an axis.
NAMES = {
    "encounters_a_year": "encounters",
    "years_used": "years of use",
    "accelerator.hour": "accelerator-hour",
    "share_kept": "training rate",
    "inference_mfu": "scoring rate",
    "runs_for_one_kept": "runs thrown away",
    "idle_hours_a_day": "idle hours",
    "cpu_hour": "machine-hour",
    "api.million_in": "prompt tokens",
    "api.million_out": "answer tokens",
    "staff.hour": "staff's hour",
    "staff.upkeep_hours": "upkeep hours",
    "staff.retrained_a_year": "retrainings",
    "staff.retraining_hours": "retraining hours",
    "staff.share_of_further_models": "further models",
}


def figures(context: Context, reckoned: Reckoned, acted: Acted, option: Option) -> list[Figure]:
    """All of them; those without points are left out."""
    made = [_by_volume(reckoned), _against(context, reckoned, acted), _tornado(reckoned, option)]
    made += [_curve(context, reckoned, task) for task in acted.tasks()]
    return [one for one in made if any(series.points for series in one.series)]


def _shown(reckoned: Reckoned) -> list[Option]:
    """Of each kind the largest joint option and the largest of single models; the tables hold all."""
    found = []
    for kind in KINDS:
        mine = [one for one in reckoned.every if one.kind == kind]
        for some in ([one for one in mine if one.joint], [one for one in mine if not one.joint]):
            found += some if kind == "baseline" else [max(some, key=lambda one: one.parameters)] if some else []
    return found


def _above(risks: Floats, benefit: Floats) -> list[Point]:
    pairs = [(float(x), 100 * float(y)) for x, y in zip(risks, benefit, strict=True)]
    return [Point(x=x, y=y) for x, y in pairs if y >= FLOOR]


def _by_volume(reckoned: Reckoned) -> Figure:
    years, here = reckoned.typical["years_used"], reckoned.volume.encounters
    volumes = np.geomspace(min(1e3, here / 4), max(1e6, here * 4), 25)
    series = [
        Series(
            name=one.label,
            role=one.role,
            points=[Point(x=float(v), y=reckoned.costs[one.label].a_year(float(v), years)) for v in volumes],
        )
        for one in _shown(reckoned)
    ]
    unit = reckoned.prices.currency
    return Figure(
        id="cost-by-volume", kind="lines", title="Cost of a year by encounters",
        x=Axis(label="encounters a year", scale="log"), y=Axis(label=f"{unit} a year", scale="log"), series=series,
        note=f"Assumed prices. Here: {here:,.0f} encounters a year. {SHOWN}",
    )  # fmt: skip


def _against(context: Context, reckoned: Reckoned, acted: Acted) -> Figure:
    """Cost of a year against net benefit, the mean over tasks that all shown options answer."""
    at = reckoned.typical
    tasks = acted.tasks()
    series = []
    for one in reckoned.every:
        found = acted.value(one, MEAN, "net_benefit", at, scale=100.0)
        if found is not None and found.value is not None:
            point = Point(x=reckoned.a_year(one), y=found.value, low=found.low, high=found.high, label=one.label)
            series.append(Series(name=one.label, role=one.role, points=[point]))
    titles = ", ".join(context.title(task) for task in tasks)
    return Figure(
        id="cost-benefit", kind="scatter", title="Cost against net benefit",
        x=Axis(label=f"{reckoned.prices.currency} a year", scale="log"),
        y=Axis(label="net benefit per 100 encounters, mean over tasks"), series=series,
        note=f"Mean over {titles}; options that do not answer all of them are left out.",
    )  # fmt: skip


def _tornado(reckoned: Reckoned, option: Option) -> Figure:
    base = reckoned.a_year(option)
    bars = []
    for path, low, high in reckoned.prices.one_way():
        ends = sorted((reckoned.a_year(option, low), reckoned.a_year(option, high)))
        if ends[1] - ends[0] > 1e-9 * max(base, 1.0):
            bars.append(Point(x=NAMES.get(path, "setting-up hours"), y=base, low=ends[0], high=ends[1]))
    bars.sort(key=lambda bar: (bar.low or 0.0) - (bar.high or 0.0))
    return Figure(
        id="tornado", kind="forest", title=f"What moves the cost of {option.label}",
        x=Axis(label="figure of the price file", scale="names", names=[str(bar.x) for bar in bars]),
        y=Axis(label=f"{reckoned.prices.currency} a year"),
        series=[Series(name=option.label, role=option.role, points=bars)],
        note="Each figure moved from its low to its high end, the others typical: assumptions, not intervals.",
    )  # fmt: skip


def _curve(context: Context, reckoned: Reckoned, task: str) -> Figure:
    """Decision curves: net benefit of acting where the stated risk reaches a threshold, the mean over seeds."""
    risks = np.linspace(*context.settings.decision_range, RISKS)
    series: list[Series] = []
    for one in _shown(reckoned):
        group = one.groups.get(task)
        judged = context.judged(group, task) if group is not None else []
        if not judged:
            continue
        curves = [net_benefit(j.part.labels == 1, np.clip(j.answered.table[:, 1], 0, 1), risks) for j in judged]
        mean = np.mean(curves, axis=0)
        if not series:
            everybody = net_benefit_of_all(float((judged[0].part.labels == 1).mean()), risks)
            series.append(Series(name="acting on everybody", role="oracle", points=_above(risks, everybody)))
        series.append(Series(name=one.label, role=one.role, points=_above(risks, mean)))
    return Figure(
        id=f"decision-curve-{task}", kind="lines", title=f"Decision curve: {context.title(task)}",
        x=Axis(label="stated risk from which on one acts"), y=Axis(label="net benefit per 100 encounters"),
        series=series, lines={"acting on nobody": 0.0},
        note=f"On the risks as stated, not recalibrated; below {FLOOR:g} no curve is drawn. {SHOWN}",
    )  # fmt: skip
