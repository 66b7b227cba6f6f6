"""One option's gaps between groups, before and after recalibration by group with maps fitted on validation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lang1.evaluation.examples import labels_of
from lang1.evaluation.predictions import place_of, probability_matrix
from lang1.evaluation.subgroups import Names, strata, trained_on
from lang1.metrics.auroc import Floats, auroc
from lang1.metrics.bootstrap import Resamples, rank_draws
from lang1.metrics.capacity import alert_shares
from lang1.metrics.group_recalibration import GroupMaps, fit_group_maps
from lang1.metrics.over_seeds import OverSeeds, over_seeds
from lang1.study.context import Context, Group, Judged
from lang1.study.gaps import Figure, Gap, LeftOut, Metric, figures_of, gaps_of, split_up
from lang1.study.options import Option

VAL = "val"
SEEN = "text trained on"


@dataclass(frozen=True)
class Pooled:
    """AUROC of all patients of a task before recalibration by an attribute, and how much that adds."""

    task: str
    attribute: str
    before: float
    change: OverSeeds


@dataclass
class Bias:
    """What is found of one option.

    Attributes:
        option: whose.
        before: all gaps.
        common: gaps in calibration after one map for all, by key.
        after: gaps after recalibration by group, by key; empty where no validation is answered.
        pooled: AUROC over all groups, before and after.
        left_out: task, attribute and group too small to be judged.
        fallen_back: task, attribute and group that keep the map of all.
        without_validation: tasks whose validation rows are not answered.
        undetermined: tasks and attributes whose validation rows do not determine a rising map.
    """

    option: Option
    before: list[Gap] = field(default_factory=list)
    common: list[Gap] = field(default_factory=list)
    after: list[Gap] = field(default_factory=list)
    pooled: list[Pooled] = field(default_factory=list)
    left_out: list[tuple[str, str, LeftOut]] = field(default_factory=list)
    fallen_back: dict[tuple[str, str, str], str] = field(default_factory=dict)
    without_validation: list[str] = field(default_factory=list)
    undetermined: list[tuple[str, str]] = field(default_factory=list)


def event_of(labels: npt.NDArray[np.int64], table: Floats) -> tuple[npt.NDArray[np.bool_], Floats]:
    """The event of a task and its stated risk: the second of two classes, the last of several against the rest."""
    last = table.shape[1] - 1
    return labels == last, np.asarray(table[:, last])


Named = dict[tuple[str, str], dict[str, Names]]


def bias_of(context: Context, option: Option, rates: Mapping[str, float], named: Named) -> Bias:
    """All gaps of an option.

    Args:
        context: of the study.
        option: whose.
        rates: by task, the alerts for each encounter at one threshold for all.
        named: strata by benchmark and task, kept from one option to the next.
    """
    found = Bias(option)
    for task, group in option.groups.items():
        judged = {cell.seed: one for cell in group.cells if (one := context.judge(cell, task)) is not None}
        if task in rates and judged:
            _task(context, found, task, group, judged, rates[task], named)
    return found


def _task(
    context: Context,
    found: Bias,
    task: str,
    group: Group,
    judged: Mapping[int | None, Judged],
    rate: float,
    named: Named,
) -> None:
    part = next(iter(judged.values())).part
    asked = context.asked(group.about.benchmark)
    val = asked.benchmark.examples([task], [VAL])
    answers = _validation(context, group, val, part.n_classes)
    key = (group.about.benchmark, task)
    if key not in named:
        # Strata are named over both splits together, so that a group is called the same in both.
        whole = pa.concat_tables([part.examples.select(val.column_names), val])
        kept = [name for name in context.settings.subgroups if name != "period"]
        named[key] = strata(asked, whole, context.settings.model_copy(update={"subgroups": kept}))
    rows = part.examples.num_rows
    if set(answers) != set(judged):
        found.without_validation.append(task)
        answers = {}
    for attribute, names in named[key].items():
        held = {seed: (case, risk, names[rows:][place]) for seed, (case, risk, place) in answers.items()}
        _attribute(found, task, attribute, names[:rows], judged, rate, held)
    seen = trained_on(next(iter(judged.values())).answered, part)
    if seen is not None:
        _attribute(found, task, SEEN, seen, judged, rate, {})


Held = tuple[npt.NDArray[np.bool_], Floats, Names]


def _validation(
    context: Context, group: Group, val: pa.Table, n_classes: int
) -> dict[int | None, tuple[npt.NDArray[np.bool_], Floats, npt.NDArray[np.int64]]]:
    """By seed: events and risks of the validation rows that are answered, and which rows these are."""
    made = {}
    ids = val["example_id"].to_pylist()
    for cell in group.cells:
        table = context.predictions(cell).table
        place = place_of(table, ids)
        there = np.flatnonzero(place >= 0)
        if not len(there):
            continue
        picked = table.take(pa.array(place[there]))
        names = [ids[i] for i in there]
        risks = probability_matrix(picked["probabilities"], n_classes, names, str(context.folders[cell.step]))
        case, risk = event_of(labels_of(val)[there], risks)
        made[cell.seed] = (case, risk, there.astype(np.int64))
    return made


def _attribute(
    found: Bias,
    task: str,
    attribute: str,
    names: Names,
    judged: Mapping[int | None, Judged],
    rate: float,
    held: Mapping[int | None, Held],
) -> None:
    part = next(iter(judged.values())).part
    case, _ = event_of(part.labels, next(iter(judged.values())).answered.table)
    kept, left = split_up(case, part.subjects, names)
    found.left_out += [(task, attribute, one) for one in left]
    if len(kept) < 2:
        return
    maps: dict[int | None, GroupMaps] = {}
    for seed, (events, risks, groups) in held.items():
        made = fit_group_maps(events, risks, groups)
        if made is not None:
            maps[seed] = made
            found.fallen_back |= {(task, attribute, name): why for name, why in made.fallen_back.items()}
    if held and len(maps) < len(judged):
        found.undetermined.append((task, attribute))
    before: list[dict[tuple[str, Metric], Figure]] = []
    common: list[dict[tuple[str, Metric], Figure]] = []
    after: list[dict[tuple[str, Metric], Figure]] = []
    areas: list[tuple[float, float, Floats]] = []
    for seed, one in judged.items():
        risk = event_of(part.labels, one.answered.table)[1]
        alert = alert_shares(risk, rate)
        if seed not in maps:
            before += figures_of(case, [(risk, alert)], names, kept, part.resamples)
            continue
        # A rising map keeps the ranking: within a group AUROC stays, and under one map for all the alerts stay as well.
        for_all, by_group = maps[seed].for_all(risk), maps[seed].by_group(risk, names)
        versions = [(risk, alert), (for_all, alert), (by_group, alert_shares(by_group, rate))]
        first, second, third = figures_of(case, versions, names, kept, part.resamples)
        before.append(first)
        common.append(second)
        after.append(third)
        areas.append(_areas(case, risk, by_group, part.resamples))
    found.before += gaps_of(task, attribute, kept, before)
    if len(maps) == len(judged):
        found.common += [gap for gap in gaps_of(task, attribute, kept, common) if gap.metric == "calibration"]
        found.after += gaps_of(task, attribute, kept, after)
        change = over_seeds([b - a for a, b, _ in areas], [draws for *_, draws in areas], part.interval.df or 1)
        found.pooled.append(Pooled(task, attribute, float(np.mean([a for a, *_ in areas])), change))


def _areas(
    case: npt.NDArray[np.bool_], risk: Floats, corrected: Floats, resamples: Resamples
) -> tuple[float, float, Floats]:
    draws = rank_draws(case, corrected, resamples).auroc - rank_draws(case, risk, resamples).auroc
    return auroc(case, risk), auroc(case, corrected), draws
