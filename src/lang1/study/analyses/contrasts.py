"""One model against itself: on two parts of the test, resampled together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from lang1.metrics.auroc import Floats
from lang1.metrics.over_seeds import Pooled, over_seeds, spread
from lang1.reporting.study_schema import Value
from lang1.study.context import Context, Group, Judged, Where, as_value

Key = TypeVar("Key")


@dataclass(frozen=True)
class Place:
    """A part of a benchmark's examples: a split (null: the headline one), and within it those that a mask keeps."""

    split: str | None = None
    where: Where | None = None


@dataclass(frozen=True)
class Repeats:
    """A figure of each training ``[S]`` with its draws ``[S, R]``, and the degrees of freedom of its patients."""

    values: Floats
    draws: Floats
    df: float


def combined(found: Mapping[Key, Repeats]) -> dict[Key, Value]:
    """Each figure over its trainings; how far trainings lie apart is drawn towards that of the other figures."""
    made = {}
    apart = {name: spread(one.values, one.draws) for name, one in found.items()}
    for name, one in found.items():
        like = [(s, len(found[other].values) - 1) for other, s in apart.items() if other != name and s is not None]
        pooled = Pooled(float(np.mean([s for s, _ in like])), float(sum(n for _, n in like))) if like else None
        made[name] = as_value(over_seeds(one.values, one.draws, one.df, pooled=pooled))
    return made


def contrast(context: Context, group: Group, task: str, one: Place, other: Place) -> Repeats | None:
    """AUROC at one place minus that at another; None where either cannot be judged.

    Several classes: None too where the places do not have the same ones to judge, since these are other averages.
    """
    mine, theirs = by_seed(context, group, task, one), by_seed(context, group, task, other)
    shared = [seed for seed in mine if seed in theirs]
    if not shared or classes(mine[shared[0]]) != classes(theirs[shared[0]]):
        return None
    pairs = [(mine[seed], theirs[seed]) for seed in shared]
    values = np.array([a.auroc - b.auroc for a, b in pairs])
    draws = np.stack([a.draws - b.draws for a, b in pairs])
    return Repeats(values, draws, min(pairs[0][0].df, pairs[0][1].df))


def by_seed(context: Context, group: Group, task: str, place: Place) -> dict[int | None, Judged]:
    """The trainings that can be judged at a place."""
    found = {c.seed: context.judge(c, task, place.split, place.where) for c in group.cells}
    return {seed: one for seed, one in found.items() if one is not None}


def classes(found: Judged) -> tuple[int, ...]:
    """The classes that an AUROC averages over."""
    return tuple(found.part.judged)


def slopes(found: Sequence[dict[int | None, Judged]], at: Sequence[float]) -> Repeats | None:
    """The slope of AUROC over places that lie at ``at``, by least squares weighed by the cases of the rarer side.

    None where fewer than three places can be judged, or where these do not judge the same classes.
    """
    known = [(judged, x) for judged, x in zip(found, at, strict=True) if judged]
    seeds = [s for s in known[0][0] if all(s in judged for judged, _ in known)] if known else []
    if len(known) < 3 or not seeds or len({classes(judged[seeds[0]]) for judged, _ in known}) > 1:
        return None
    weight = np.array([judged[seeds[0]].df + 1 for judged, _ in known])
    x = np.array([place for _, place in known])
    centred = weight * (x - np.average(x, weights=weight))
    lever = centred / float(np.sum(centred * x))
    values = np.array([np.dot(lever, [judged[s].auroc for judged, _ in known]) for s in seeds])
    draws = np.stack([np.einsum("p,pr->r", lever, np.stack([judged[s].draws for judged, _ in known])) for s in seeds])
    # Every place's patients count towards the slope.
    return Repeats(values, draws, float(weight.sum() - len(known)))
