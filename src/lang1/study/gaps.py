"""Gaps between groups of patients in discrimination, calibration, alert rate and sensitivity.

Every figure of a group and of its reference comes from the same resamples. Shapes: N rows, R resamples, S seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from lang1.evaluation.subgroups import LEAST_CASES, Names
from lang1.metrics.auroc import Floats, auroc
from lang1.metrics.bootstrap import Resamples, rank_draws, sum_draws
from lang1.metrics.intervals import rarer_patients
from lang1.metrics.multiple import holm
from lang1.metrics.over_seeds import Pooled, over_seeds, spread
from lang1.reporting.study_schema import Value

Metric = Literal["auroc", "calibration", "alert_rate", "sensitivity"]
METRICS: dict[Metric, str] = {
    "auroc": "AUROC",
    "calibration": "stated less observed risk",
    "alert_rate": "alert rate",
    "sensitivity": "sensitivity",
}


@dataclass(frozen=True)
class Stratum:
    """A group of patients within an attribute; ``df`` is of its rarer class."""

    name: str
    n: int
    events: int
    df: float


@dataclass(frozen=True)
class LeftOut:
    """A group too small to be judged."""

    name: str
    n: int
    events: int
    reason: str


@dataclass(frozen=True)
class Gap:
    """A figure of a stratum less that of its reference, by seed: values ``[S]`` and draws ``[S, R]``."""

    task: str
    attribute: str
    stratum: Stratum
    reference: Stratum
    metric: Metric
    values: Floats
    draws: Floats
    levels: tuple[float, float]  # the stratum's and the reference's own figure, means over seeds

    @property
    def key(self) -> tuple[str, str, str, Metric]:
        """What it is of."""
        return self.task, self.attribute, self.stratum.name, self.metric


def split_up(
    case: npt.NDArray[np.bool_], subjects: npt.NDArray[np.int64], names: Names
) -> tuple[list[Stratum], list[LeftOut]]:
    """The strata of an attribute that can be judged, the largest first, and those that are too small."""
    kept: list[Stratum] = []
    left: list[LeftOut] = []
    for name in np.unique(names.astype(str)):
        inside = names == name
        n, events = int(inside.sum()), int(case[inside].sum())
        if min(events, n - events) < LEAST_CASES:
            left.append(LeftOut(str(name), n, events, f"fewer than {LEAST_CASES} of a class"))
        else:
            kept.append(Stratum(str(name), n, events, rarer_patients(case[inside].astype(int), subjects[inside])))
    return sorted(kept, key=lambda one: -one.n), left


Figure = tuple[float, Floats]


def figures_of(
    case: npt.NDArray[np.bool_],
    versions: Sequence[tuple[Floats, Floats]],
    names: Names,
    strata: Sequence[Stratum],
    resamples: Resamples,
) -> list[dict[tuple[str, Metric], Figure]]:
    """By stratum and metric, value and draws of one training, for several versions of its risks.

    Args:
        case: ``[N]``.
        versions: risks and how far each row is an alert, ``[N]`` each. Within every stratum they must rank alike, so
            that AUROC is that of the first.
        names: the stratum of each row, ``[N]``.
        strata: those that are judged.
        resamples: of the rows.
    """
    made: list[dict[tuple[str, Metric], Figure]] = [{} for _ in versions]
    columns = [np.ones(len(case)), case.astype(np.float64)]
    for risk, alert in versions:
        columns += [risk - case, alert, alert * case]
    masks = [names == one.name for one in strata]
    sums = sum_draws(np.stack([column * inside for inside in masks for column in columns]), resamples)
    for number, (one, inside) in enumerate(zip(strata, masks, strict=True)):
        mine = sums[number * len(columns) : (number + 1) * len(columns)]
        whole = [float(column[inside].sum()) for column in columns]
        patients, rows = np.unique(resamples.row_patient[inside], return_inverse=True)
        inner = Resamples(resamples.counts[patients], rows.astype(np.int64))
        risk = versions[0][0][inside]
        ranked = auroc(case[inside], risk), rank_draws(case[inside], risk, inner).auroc
        for version, figures in enumerate(made):
            first = 2 + 3 * version
            ratios: dict[Metric, tuple[int, int]] = {
                "calibration": (first, 0),
                "alert_rate": (first + 1, 0),
                "sensitivity": (first + 2, 1),
            }
            figures[one.name, "auroc"] = ranked
            for metric, (top, bottom) in ratios.items():
                draws = np.divide(mine[top], mine[bottom], out=np.full(resamples.n, np.nan), where=mine[bottom] > 0)
                figures[one.name, metric] = whole[top] / whole[bottom], draws
    return made


def gaps_of(
    task: str, attribute: str, strata: Sequence[Stratum], by_seed: Sequence[Mapping[tuple[str, Metric], Figure]]
) -> list[Gap]:
    """Each stratum against the first one, over seeds."""
    reference = strata[0]
    made = []
    for one in strata[1:]:
        for metric in METRICS:
            pairs = [(found[one.name, metric], found[reference.name, metric]) for found in by_seed]
            levels = float(np.mean([a[0] for a, _ in pairs])), float(np.mean([b[0] for _, b in pairs]))
            values = np.array([a[0] - b[0] for a, b in pairs])
            draws = np.stack([a[1] - b[1] for a, b in pairs])
            made.append(Gap(task, attribute, one, reference, metric, values, draws, levels))
    return made


def valued(gaps: Sequence[Gap]) -> list[Value]:
    """Each gap with its interval for patients and seeds, p corrected (Holm) over all of ``gaps`` as one family.

    The spread between seeds is drawn towards that of the other gaps in the same metric.
    """
    spreads = [spread(gap.values, gap.draws) for gap in gaps]
    found = []
    for gap in gaps:
        alike = [s for s, other in zip(spreads, gaps, strict=True) if other.metric == gap.metric and other is not gap]
        known = [s for s in alike if s is not None]
        pooled = Pooled(float(np.mean(known)), float(len(known) * (len(gap.values) - 1))) if known else None
        df = max(min(gap.stratum.df, gap.reference.df), 1.0)
        found.append(over_seeds(gap.values, gap.draws, df, pooled=pooled))
    adjusted = holm([one.p for one in found])
    return [
        Value.model_validate(
            {
                "value": one.value,
                "low": one.low,
                "high": one.high,
                "p": one.p,
                "p_adjusted": float(corrected),
                "n": gap.stratum.n,
                "events": gap.stratum.events,
                "seeds": one.seeds,
            }
        )
        for gap, one, corrected in zip(gaps, found, adjusted, strict=True)
    ]
