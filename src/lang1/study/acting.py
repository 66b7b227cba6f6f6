"""What acting on options' risks at a capacity brings: alerts, sensitivity, PPV, true alerts a year, net benefit.

The risks of the test split are ranked, the highest become alerts, as many as the capacity allows. Intervals hold
patients and seeds; differences are paired.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lang1.evaluation.operating import span
from lang1.metrics.auroc import Floats
from lang1.metrics.capacity import AtCapacity, at_capacity
from lang1.metrics.multiple import holm
from lang1.metrics.over_seeds import OverSeeds, over_seeds
from lang1.reporting.study_schema import Value
from lang1.study.context import Context, Group, Judged, as_value, paired
from lang1.study.costing import DAYS, Figures
from lang1.study.options import Option
from lang1.study.prices import Prices

Drawn = tuple[float, Floats]


@dataclass(frozen=True)
class Volume:
    """Encounters a year: of the whole, and of each task, whose cohorts may be smaller. ``told``: where it is from."""

    encounters: float
    by_task: Mapping[str, float]
    told: str


def volume(context: Context, prices: Prices, encounters: float | None = None) -> Volume | None:
    """Encounters a year as set, else as the test split has; None where the study has no tasks at home."""
    tasks = context.tasks()
    cells = [cell for cell in context.cells if cell.design == "grid" and cell.tested_on == context.home]
    if not tasks or not cells:
        return None
    benchmark = cells[0].benchmark
    asked, split = context.asked(benchmark), context.benchmarks[benchmark].headline_split
    rates: dict[str, float] = {}
    dated = True
    for task in tasks:
        days, rows = span(asked, task, split)
        dated &= days is not None
        if rows:
            rates[task] = rows * DAYS / days if days is not None else float(rows)
    if not rates:
        return None
    most = max(rates.values())
    given = encounters if prices.encounters_a_year is None else encounters or prices.encounters_a_year.typical
    if given is not None:
        return Volume(given, {task: given * rate / most for task, rate in rates.items()}, "as set")
    told = "as in the test split" if dated else "the test split's number, which has no dates, taken for a year's"
    return Volume(most, rates, told)


@dataclass
class Acted:
    """Options acted on at a capacity, each figure computed once."""

    context: Context
    volume: Volume
    prices: Prices
    _found: dict[tuple[str, str, float], AtCapacity | None] = field(default_factory=dict)

    def tasks(self, of: Sequence[Option]) -> list[str]:
        """Tasks of two options that some option answers: those on which one acts."""
        asked = [t for t in self.context.tasks() if any(t in one.groups for one in of)]
        return [t for t in asked if t in self.volume.by_task and self._binary(t, of)]

    def _binary(self, task: str, of: Sequence[Option]) -> bool:
        cells = [one.groups[task].cells[0] for one in of if task in one.groups]
        part = self.context.part(cells[0].benchmark, task)
        return part is not None and part.binary and 0 < int((part.labels == 1).sum()) < len(part.labels)

    def rate(self, task: str, at: Figures) -> float:
        """Alerts for each encounter that the team of a task can handle, at most 1."""
        if "acting.alerts_a_day" in at:
            return min(at["acting.alerts_a_day"] * DAYS / self.volume.by_task[task], 1.0)
        return at["acting.alerts_per_100"] / 100

    def points(self, option: Option, task: str, rate: float) -> dict[int | None, tuple[Judged, AtCapacity]]:
        """By seed, how an option works at a capacity; empty where it was not asked."""
        made: dict[int | None, tuple[Judged, AtCapacity]] = {}
        group: Group | None = option.groups.get(task)
        for cell in group.cells if group is not None else ():
            judged = self.context.judge(cell, task)
            if judged is None:
                continue
            key = (cell.step, task, rate)
            if key not in self._found:
                risk = judged.answered.table[:, 1]
                self._found[key] = at_capacity(judged.part.labels == 1, risk, rate, judged.part.resamples)
            found = self._found[key]
            assert found is not None
            made[cell.seed] = (judged, found)
        return made

    def value(
        self, option: Option, task: str, rate: float, what: str, risk: float = 0.1, scale: float = 1.0
    ) -> Value | None:
        """One figure with its interval: ``sensitivity``, ``ppv``, ``hits`` or ``net_benefit``, times ``scale``."""
        each = list(self.points(option, task, rate).values())
        if not each:
            return None
        drawn = [_figure(point, what, risk) for _, point in each]
        first = each[0][0]
        share = what in ("sensitivity", "ppv") and scale == 1.0
        values, draws = [value * scale for value, _ in drawn], [draw * scale for _, draw in drawn]
        freedom = first.part.interval.df or 1
        found = over_seeds(values, draws, freedom, share=share)
        if share and math.isnan(found.low):
            # A draw of 0 or 1 has no log-odds: the plain interval, within the bounds of a share.
            found = over_seeds(values, draws, freedom)
            found = replace(found, low=max(found.low, 0.0), high=min(found.high, 1.0))
        return as_value(found, first, p=None)

    def difference(self, one: Option, other: Option, task: str, rate: float, risk: float) -> OverSeeds | None:
        """Net benefit of ``one`` less that of ``other`` for each encounter, on the same patients."""
        mine, theirs = self.points(one, task, rate), self.points(other, task, rate)
        if not mine or not theirs:
            return None
        pairs = paired(mine, theirs)
        drawn = [(_figure(a, "net_benefit", risk), _figure(b, "net_benefit", risk)) for (_, a), (_, b) in pairs]
        return over_seeds(
            [a[0] - b[0] for a, b in drawn], [a[1] - b[1] for a, b in drawn], pairs[0][0][0].part.interval.df or 1
        )

    def mean_hits(self, option: Option, task: str, rate: float) -> float | None:
        """Right alerts for each encounter, the mean over seeds."""
        each = self.points(option, task, rate)
        return sum(point.hits for _, point in each.values()) / len(each) if each else None


@dataclass(frozen=True)
class Leader:
    """Who has the most net benefit on a task, how far the others are behind, and who cannot be told apart from it."""

    task: str
    best: Option
    behind: Mapping[str, Value]  # by label: net benefit of the best less the option's, for 100 encounters
    level: tuple[str, ...]


def leaders(acted: Acted, of: Sequence[Option], at: Figures) -> list[Leader]:
    """By task, the option of the highest net benefit; differences are corrected (Holm) over all tasks and options."""
    risk = at["acting.threshold_risk"]
    raw: list[tuple[str, Option, dict[str, OverSeeds]]] = []
    for task in acted.tasks(of):
        rate = acted.rate(task, at)
        valued = [(acted.value(one, task, rate, "net_benefit", risk), one) for one in of]
        ranked = [(value.value, one) for value, one in valued if value is not None and value.value is not None]
        if not ranked:
            continue
        best = max(ranked, key=lambda pair: pair[0])[1]
        gaps = {
            one.label: gap
            for _, one in ranked
            if one is not best and (gap := acted.difference(best, one, task, rate, risk)) is not None
        }
        raw.append((task, best, gaps))
    adjusted = iter(holm([found.p for _, _, gaps in raw for found in gaps.values()]).tolist())
    made = []
    for task, best, gaps in raw:
        behind: dict[str, Value] = {}
        for label, gap in gaps.items():
            shown = {name: 100 * getattr(gap, name) for name in ("value", "low", "high")}
            behind[label] = Value.model_validate(
                {**shown, "seeds": gap.seeds, "p": gap.p, "p_adjusted": next(adjusted)}
            )
        level = tuple(k for k, v in behind.items() if not (v.p_adjusted is not None and v.p_adjusted < 0.05))
        made.append(Leader(task, best, behind, level))
    return made


def _figure(point: AtCapacity, what: str, risk: float) -> Drawn:
    if what == "sensitivity":
        return point.sensitivity
    if what == "ppv":
        return point.ppv
    if what == "hits":
        return point.hits, point.hits_draws
    assert what == "net_benefit"
    return point.net_benefit(risk)
