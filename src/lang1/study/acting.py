"""What acting on options' risks at a capacity brings: alerts, sensitivity, PPV, true alerts a year, net benefit.

The risks of the test split are ranked, the highest become alerts, as many as the capacity allows. Intervals hold
patients and seeds; differences are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from lang1.evaluation.operating import span
from lang1.metrics.auroc import Floats
from lang1.metrics.capacity import AtCapacity, at_capacities
from lang1.metrics.multiple import holm
from lang1.metrics.over_seeds import OverSeeds, Pooled, difference_over_seeds, over_seeds, spread
from lang1.reporting.study_schema import Value
from lang1.study.context import MEAN, Context, Judged, as_value
from lang1.study.costing import DAYS, Figures
from lang1.study.options import Option
from lang1.study.prices import Prices

FIGURES = ("sensitivity", "ppv", "hits", "net_benefit")


@dataclass(frozen=True)
class Drawn:
    """A figure of one training: its value, that of each resample, and what it was judged on (the first of several)."""

    value: float
    draws: Floats  # [R]
    judged: Judged
    df: float


BySeed = Mapping[int | None, Drawn]


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
    every: Sequence[Option]
    _found: dict[tuple[str, str, float], AtCapacity] = field(default_factory=dict)
    _spreads: dict[tuple[Any, ...], list[tuple[str, str, float, float]]] = field(default_factory=dict)

    @cached_property
    def _sides(self) -> list[Figures]:
        """Figures at whose capacities the options are looked at."""
        return [self.prices.figures(side) for side in ("low", "typical", "high")]

    def tasks(self) -> list[str]:
        """Tasks of two classes that some option answers: those on which one acts."""
        asked = [t for t in self.context.tasks() if any(t in one.groups for one in self.every)]
        return [t for t in asked if t in self.volume.by_task and self._binary(t)]

    def _binary(self, task: str) -> bool:
        cells = [one.groups[task].cells[0] for one in self.every if task in one.groups]
        part = self.context.part(cells[0].benchmark, task)
        return part is not None and part.binary and 0 < int((part.labels == 1).sum()) < len(part.labels)

    def rate(self, task: str, at: Figures) -> float:
        """Alerts for each encounter that the team of a task can handle, at most 1."""
        if "acting.alerts_a_day" in at:
            return min(at["acting.alerts_a_day"] * DAYS / self.volume.by_task[task], 1.0)
        return at["acting.alerts_per_100"] / 100

    def drawn(self, option: Option, task: str, what: str, at: Figures) -> dict[int | None, Drawn]:
        """A figure (of ``FIGURES``) by seed; empty where the option was not asked. ``task`` may be ``MEAN``."""
        if task == MEAN:
            return self._mean(option, what, at)
        group, rate = option.groups.get(task), self.rate(task, at)
        made: dict[int | None, Drawn] = {}
        for cell in group.cells if group is not None else ():
            judged = self.context.judge(cell, task)
            if judged is None:
                continue
            key = (cell.step, task, rate)
            if key not in self._found:
                rates = sorted({rate, *(self.rate(task, other) for other in self._sides)})
                case, risk = judged.part.labels == 1, judged.answered.table[:, 1]
                every = at_capacities(case, risk, rates, judged.part.resamples)  # one pass for all
                self._found |= {(cell.step, task, r): one for r, one in zip(rates, every, strict=True)}
            made[cell.seed] = Drawn(*_figure(self._found[key], what, at["acting.threshold_risk"]), judged, judged.df)
        return made

    def _mean(self, option: Option, what: str, at: Figures) -> dict[int | None, Drawn]:
        """The mean over tasks, of those seeds that answer all of them; tasks are drawn with the same patients."""
        each = [self.drawn(option, task, what, at) for task in self.tasks()]
        seeds = [seed for seed in each[0] if all(seed in one for one in each)] if each else []
        return {
            seed: Drawn(
                float(np.mean([one[seed].value for one in each])),
                np.asarray(np.mean([one[seed].draws for one in each], axis=0)),
                each[0][seed].judged,
                min(one[seed].df for one in each),
            )
            for seed in seeds
        }

    def _pooled(self, option: Option, task: str, what: str, at: Figures, share: bool) -> Pooled | None:
        """How far trainings of all other options and tasks lie apart in this figure; two seeds alone tell little."""
        names = [MEAN] if task == MEAN else self.tasks()
        key = (what, share, at["acting.threshold_risk"], task == MEAN, *(self.rate(name, at) for name in self.tasks()))
        if key not in self._spreads:
            found = []
            for other, name in product(self.every, names):
                each = list(self.drawn(other, name, what, at).values())
                apart = spread([o.value for o in each], [o.draws for o in each], share=share) if len(each) > 1 else None
                found += [(other.label, name, apart, len(each) - 1.0)] if apart is not None else []
            self._spreads[key] = found
        known = [(apart, df) for label, name, apart, df in self._spreads[key] if (label, name) != (option.label, task)]
        if not known:
            return None
        weights = [df for _, df in known]
        return Pooled(float(np.average([apart for apart, _ in known], weights=weights)), float(sum(weights)))

    def value(self, option: Option, task: str, what: str, at: Figures, scale: float = 1.0) -> Value | None:
        """A figure with its interval for patients and seeds, times ``scale``.

        The number of alerts is the same in every resample, so that right alerts and net benefit of one task are PPV on
        another scale: their intervals are PPV's, which stay possible where no alert, or every one, is right.
        """
        of_ppv = what in ("hits", "net_benefit") and task != MEAN
        each = list(self.drawn(option, task, "ppv" if of_ppv else what, at).values())
        if not each:
            return None
        share = of_ppv or what in ("sensitivity", "ppv")
        prior = self._pooled(option, task, "ppv" if of_ppv else what, at, share) if len(each) > 1 else None
        found = over_seeds([o.value for o in each], [o.draws for o in each], each[0].df, share=share, pooled=prior)
        slope, shift = scale, 0.0
        if of_ppv:
            rate, risk = self.rate(task, at), at["acting.threshold_risk"]
            odds = risk / (1 - risk) if what == "net_benefit" else 0.0
            slope, shift = scale * rate * (1 + odds), -scale * rate * odds
        bounds = {name: slope * getattr(found, name) + shift for name in ("value", "low", "high")}
        return as_value(replace(found, **bounds), each[0].judged if task != MEAN else None, p=None)

    def difference(self, one: Option, other: Option, task: str, at: Figures) -> OverSeeds | None:
        """Net benefit of ``one`` less that of ``other`` for each encounter, on the same patients."""
        mine, theirs = (self.drawn(option, task, "net_benefit", at) for option in (one, other))
        if not mine or not theirs:
            return None
        df = next(iter(mine.values())).df
        priors = [
            self._pooled(option, task, "net_benefit", at, False) if len(drawn) > 1 else None
            for option, drawn in ((one, mine), (other, theirs))
        ]
        return difference_over_seeds(_figures(mine), _figures(theirs), df, pooled=(priors[0], priors[1]))

    def mean_hits(self, option: Option, task: str, at: Figures) -> float | None:
        """Right alerts for each encounter, the mean over seeds."""
        each = self.drawn(option, task, "hits", at).values()
        return sum(one.value for one in each) / len(each) if each else None


@dataclass(frozen=True)
class Leader:
    """Who has the most net benefit on a task (or the mean over tasks), how far the others are behind, and who cannot be
    told apart from it."""

    task: str
    best: Option
    behind: Mapping[str, Value]  # by label: net benefit of the best less the option's, for 100 encounters
    level: tuple[str, ...]


def leaders(acted: Acted, at: Figures) -> list[Leader]:
    """By task, and over their mean where there are several, the option of the highest net benefit.

    Differences are corrected (Holm) over all tasks and options together, those of the mean apart.
    """
    tasks = acted.tasks()
    made = _led(acted, tasks, at)
    return made + (_led(acted, [MEAN], at) if len(tasks) > 1 else [])


def _led(acted: Acted, tasks: Sequence[str], at: Figures) -> list[Leader]:
    raw: list[tuple[str, Option, dict[str, OverSeeds]]] = []
    for task in tasks:
        valued = [(acted.value(one, task, "net_benefit", at), one) for one in acted.every]
        ranked = [(value.value, one) for value, one in valued if value is not None and value.value is not None]
        if not ranked:
            continue
        best = max(ranked, key=lambda pair: pair[0])[1]
        gaps = {
            one.label: gap
            for _, one in ranked
            if one is not best and (gap := acted.difference(best, one, task, at)) is not None
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


def _figures(by_seed: BySeed) -> tuple[list[float], list[Floats]]:
    return [one.value for one in by_seed.values()], [one.draws for one in by_seed.values()]


def _figure(point: AtCapacity, what: str, risk: float) -> tuple[float, Floats]:
    if what == "sensitivity":
        return point.sensitivity
    if what == "ppv":
        return point.ppv
    if what == "hits":
        return point.hits, point.hits_draws
    assert what == "net_benefit"
    return point.net_benefit(risk)
