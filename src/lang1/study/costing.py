"""The arithmetic of costs: one-off, fixed a year, for each encounter; break-even; the paper's run recomputed.

Cost is linear in the volume V of encounters a year, so that break-even points are exact::

    a year(V) = one-off / years used + fixed a year + V · for an encounter
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from lang1.study.footprint import Scoring, Stage
from lang1.study.prices import Measured, Prices

Kind = Literal["baseline", "api", "zero_shot", "finetuned", "specialist", "continued"]
Figures = Mapping[str, float]
DAYS = 365.25
BYTES_A_WEIGHT = 2.0
# Beside the weights: what a pass holds.
ROOM = 1.2


@dataclass(frozen=True)
class Footprint:
    """What an option takes, before prices.

    Attributes:
        kind: whose setup hours count.
        stages: training runs, each once.
        scorings: one a pass over the notes; several where each task has a model of its own.
        models: that must be kept.
        questions: asked of an encounter.
    """

    kind: Kind
    stages: tuple[Stage, ...]
    scorings: tuple[Scoring, ...]
    models: int = 1
    questions: int = 1

    @property
    def on_accelerators(self) -> bool:
        """Whether own accelerators are needed."""
        return self.kind not in ("baseline", "api")


@dataclass(frozen=True)
class Cost:
    """An option's cost in money by parts; ``for_one`` is for one encounter, the fixed parts are a year's."""

    setup: float
    training: float
    upkeep: float
    retraining: float
    idle: float
    for_one: float

    @property
    def one_off(self) -> float:
        return self.setup + self.training

    @property
    def fixed(self) -> float:
        return self.upkeep + self.retraining + self.idle

    def a_year(self, encounters: float, years: float) -> float:
        """The whole cost of a year, one-off costs spread over ``years``."""
        return self.one_off / years + self.fixed + encounters * self.for_one


def training_mfu(parameters: int, measured: Sequence[Measured]) -> float:
    """The measured share of the peak at a model's size: between two sizes by their logarithm, outside the nearest."""
    points = sorted(measured, key=lambda one: one.parameters)
    if parameters <= points[0].parameters:
        return points[0].mfu
    for small, large in pairwise(points):
        if parameters <= large.parameters:
            share = math.log(parameters / small.parameters) / math.log(large.parameters / small.parameters)
            return small.mfu + share * (large.mfu - small.mfu)
    return points[-1].mfu


def training_hours(stage: Stage, prices: Prices, at: Figures) -> float:
    """Accelerator-hours of a training run at the assumed hardware; as it was measured where its FLOPs are unknown."""
    if stage.flops is None or stage.parameters is None:
        return stage.seconds / 3600
    rate = training_mfu(stage.parameters, prices.measured) * at["share_kept"] * prices.accelerator.peak_flops
    return stage.flops / rate / 3600


def scoring_hours(one: Scoring, prices: Prices, at: Figures) -> float:
    """Accelerator-hours of scoring one encounter at the assumed hardware; as measured where FLOPs are unknown."""
    if one.flops is None:
        return one.seconds / 3600
    return one.flops / (at["inference_mfu"] * prices.accelerator.peak_flops) / 3600


def accelerators(footprint: Footprint, prices: Prices) -> int:
    """Accelerators whose memory holds all models of an option in 16 bits; 0 where it needs none of one's own."""
    if not footprint.on_accelerators:
        return 0
    weights = sum(one.parameters or 0 for one in footprint.scorings)
    return max(1, math.ceil(weights * BYTES_A_WEIGHT * ROOM / (prices.accelerator.memory_gb * 1e9)))


def api_price(tokens: float, answer_tokens: float, at: Figures) -> float:
    """Money for prompt and answer tokens."""
    return (tokens * at["api.million_in"] + answer_tokens * at["api.million_out"]) / 1e6


def cost(footprint: Footprint, prices: Prices, at: Figures) -> Cost:
    """What an option costs at the assumed hardware and these figures (``Prices.figures``)."""
    hour, wage = at["accelerator.hour"], at["staff.hour"]
    trained = footprint.kind in ("baseline", "finetuned", "specialist", "continued")
    repeated = [stage for stage in footprint.stages if stage.kind == "finetuning"]
    if footprint.kind == "baseline":
        # A baseline's seconds hold fitting and scoring together: they count in full for both.
        fitting = sum(one.seconds * one.encounters for one in footprint.scorings) / 3600 * at["cpu_hour"]
        first = again = fitting * at["runs_for_one_kept"]
        for_one = sum(one.seconds for one in footprint.scorings) / 3600 * at["cpu_hour"]
    elif footprint.kind == "api":
        first = again = 0.0
        for_one = sum(
            api_price(
                one.tokens or 0.0,
                prices.api.answer_tokens * footprint.questions if one.answer_tokens is None else one.answer_tokens,
                at,
            )
            for one in footprint.scorings
        )
    else:
        runs = at["runs_for_one_kept"]
        first = runs * hour * sum(training_hours(stage, prices, at) for stage in footprint.stages)
        again = hour * sum(training_hours(stage, prices, at) for stage in repeated)
        for_one = hour * sum(scoring_hours(one, prices, at) for one in footprint.scorings)
    times = at["staff.retrained_a_year"] if trained else 0.0
    models = 1 + (footprint.models - 1) * at["staff.share_of_further_models"]
    return Cost(
        setup=at[f"staff.setup_hours.{footprint.kind}"] * wage,
        training=first,
        upkeep=models * at["staff.upkeep_hours"] * wage,
        retraining=times * (models * at["staff.retraining_hours"] * wage + again),
        idle=accelerators(footprint, prices) * at["idle_hours_a_day"] * DAYS * hour,
        for_one=for_one,
    )


def measured_money(device: str, seconds: float, at: Figures) -> float | None:
    """Money for time on the device where it was measured; None for a server, which bills by tokens."""
    if device == "server":
        return None
    return seconds / 3600 * (at["cpu_hour"] if device.startswith("cpu") else at["accelerator.hour"])


@dataclass(frozen=True)
class BreakEven:
    """From which volume of encounters a year one option is no dearer than another.

    ``how``: always, never, from ``volume`` on, or up to ``volume`` only.
    """

    how: Literal["always", "never", "from", "up to"]
    volume: float | None = None


def break_even(one: Cost, other: Cost, years: float, gain: float = 0.0) -> BreakEven:
    """Where ``one`` is repaid against ``other``.

    Args:
        one: the option asked about.
        other: what it is held against.
        years: over which one-off costs are spread.
        gain: money that an encounter is worth more under ``one``, as acting on its alerts is better.
    """
    more = (one.one_off - other.one_off) / years + one.fixed - other.fixed
    saved = other.for_one - one.for_one + gain
    if more <= 0 and saved >= 0:
        return BreakEven("always")
    if more >= 0 and saved <= 0:
        return BreakEven("never")
    return BreakEven("from" if more > 0 else "up to", more / saved)


@dataclass(frozen=True)
class Recomputed:
    """The paper's pretraining run at a measured rate: hours of one accelerator, days on its number, money, and shares.

    ``implied_mfu`` is the share of the peak that its days and accelerators come to, ``implied_hour`` its price of an
    accelerator-hour.
    """

    paper_hours: float
    implied_hour: float
    implied_mfu: float
    implied_rate: float
    hours: float
    days: float
    money: float


def paper_run(prices: Prices, kept: float = 1.0) -> Recomputed:
    """The paper's run recomputed with the measured model nearest to its size; ``kept`` is the share of that rate."""
    paper = prices.paper
    nearest = min(prices.measured, key=lambda one: abs(math.log(one.parameters / paper.parameters)))
    paper_hours = paper.accelerators * paper.days * 24
    implied_hour = paper.dollars / paper_hours
    total = paper.tokens * nearest.flops_per_token * paper.parameters / nearest.parameters
    hours = total / (nearest.mfu * kept * prices.accelerator.peak_flops) / 3600
    return Recomputed(
        paper_hours,
        implied_hour,
        total / (paper_hours * 3600 * prices.accelerator.peak_flops),
        paper.tokens / (paper_hours * 3600),
        hours,
        hours / paper.accelerators / 24,
        hours * implied_hour,
    )
