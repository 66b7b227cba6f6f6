"""Options with their costs at the price file's figures, and what acting on their alerts is worth in money."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lang1.study.acting import Acted, Volume
from lang1.study.costing import Cost, Figures, cost
from lang1.study.options import Option
from lang1.study.prices import Prices


@dataclass(frozen=True)
class Reckoned:
    """Options with their costs at typical figures."""

    prices: Prices
    volume: Volume
    every: tuple[Option, ...]
    costs: Mapping[str, Cost]
    typical: Figures

    def a_year(self, option: Option, at: Figures | None = None) -> float:
        """Cost of a year at this or other figures."""
        used = self.typical if at is None else at
        encounters = used.get("encounters_a_year", self.volume.encounters)
        return cost(option.footprint, self.prices, used).a_year(encounters, used["years_used"])

    def extremes(self, option: Option) -> tuple[float, float]:
        """Cost of a year with every figure at its favourable, and with every one at its dear end."""
        cheap, dear = dict(self.typical), dict(self.typical)
        for path, low, high in self.prices.one_way():
            falling = self.a_year(option, low) > self.a_year(option, high)
            cheap[path], dear[path] = (high[path], low[path]) if falling else (low[path], high[path])
        return self.a_year(option, cheap), self.a_year(option, dear)

    @property
    def cheapest(self) -> Option:
        """At typical figures."""
        return self.cheapest_at(self.typical)

    def cheapest_at(self, at: Figures) -> Option:
        """Of the options that were asked, at these figures; of equals the first."""
        asked = [one for one in self.every if one.groups]
        return min(asked, key=lambda one: self.a_year(one, at))


def worth_for_one(reckoned: Reckoned, acted: Acted, option: Option, at: Figures) -> float | None:
    """Money that acting on an option's alerts is worth for each encounter, alerts' cost taken off; None where no task
    that it answers has a worth, or a task that has one is not answered."""
    acting = reckoned.prices.acting
    total, known = 0.0, False
    for task in acting.true_alert_worth:
        if task not in acted.volume.by_task:
            continue
        rate = acted.rate(task, at)
        hits = acted.mean_hits(option, task, at)
        if hits is None:
            return None
        share = acted.volume.by_task[task] / acted.volume.encounters
        total += share * (hits * at[f"acting.true_alert_worth.{task}"] - rate * at["acting.alert_cost"])
        known = True
    return total if known else None
