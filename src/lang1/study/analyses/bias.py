"""Bias across groups: gaps in discrimination, calibration, alert rate and sensitivity, and what recalibration does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lang1.reporting.study_schema import Analysis, Axis, Column, Figure, Point, Series, Table, Value
from lang1.study.acting import Acted, volume
from lang1.study.context import Context
from lang1.study.gaps import METRICS, Gap, Metric, valued
from lang1.study.mitigated import SEEN, Bias, Named, bias_of
from lang1.study.options import options, representative
from lang1.study.prices import read_prices

Row = dict[str, Value | str | None]
ALPHA = 0.05
# Groups that a figure shows: those of the widest gaps.
SHOWN = 14
WORDS = {
    "age": "age",
    "sex": "sex",
    "race": "race",
    "ethnicity": "ethnicity",
    "area": "area",
    "payer": "payer",
    "department": "department",
    "history": "earlier encounters",
    SEEN: "text trained on",
}
CAVEATS = [
    "A gap is a group's figure less that of the attribute's largest group, on the same resamples of patients. That "
    "none is shown does not show that there is none: small groups have wide intervals.",
    "A gap is not yet an injustice: groups may differ in how sick they are and in how much their notes tell. Gaps in "
    "alert rate and sensitivity follow from such differences even where every stated risk is right.",
    "Recalibration by group gives each group its own rising map of the risk. Within a group it leaves the ranking, so "
    "that AUROC there cannot change; over all groups together it can, either way, since groups are shifted against "
    "each other. For the same reason it moves alerts between groups: a gap in alert rate or sensitivity may grow.",
    "Maps are fitted on validation alone and drawn towards the map of all; groups of few cases there keep that map. To "
    "use such maps a hospital must use the attribute itself when it scores, which may not be permitted.",
]


@dataclass(frozen=True)
class Judged:
    """One option's gaps with their values, in the order of ``bias.before``."""

    bias: Bias
    before: list[Value]
    common: dict[tuple[str, str, str, Metric], Value]
    after: dict[tuple[str, str, str, Metric], Value]

    @property
    def label(self) -> str:
        return self.bias.option.label


def bias_across_groups(context: Context) -> Analysis | None:
    """The analysis; None where no main model is there or no group can be judged."""
    every = options(context)
    chosen = [representative(every, *kinds) for kinds in (("specialist", "continued"), ("finetuned",), ("baseline",))]
    models = [one for one in chosen if one is not None]
    prices = read_prices(context.grid.get("prices"), "grid")
    found = volume(context, prices) if models else None
    if found is None:
        return None
    acted, at = Acted(context, found, prices, models), prices.figures()
    rates = {task: acted.rate(task, at) for task in found.by_task}
    named: Named = {}
    judged = [_judged(bias) for one in models if (bias := bias_of(context, one, rates, named)).before]
    if not judged:
        return None
    return Analysis(
        id="bias",
        title="Bias across groups",
        question="Do models rank, state and alert alike for all groups, and does recalibration by group help?",
        sentence=_sentence(context, judged[0]),
        verdict=_verdict(judged[0]),
        caveats=_caveats(context, judged),
        paper="The paper gives AUROC by group, names bias among its limits and tries no mitigation.",
        tables=_tables(context, judged),
        figures=[_forest(context, judged[0], metric) for metric in ("calibration", "sensitivity")],
    )


def _judged(bias: Bias) -> Judged:
    common = {gap.key: value for gap, value in zip(bias.common, valued(bias.common), strict=True)}
    after = {gap.key: value for gap, value in zip(bias.after, valued(bias.after), strict=True)}
    return Judged(bias, valued(bias.before), common, after)


def _holds(value: Value | None) -> bool:
    return value is not None and value.p_adjusted is not None and value.p_adjusted < ALPHA


def _event(context: Context, task: str) -> str:
    """A task's title, with the class that is taken for the event where there are several."""
    for bench in context.benchmarks.values():
        if task in bench.cards and len(bench.cards[task].options) > 2:
            return f"{context.title(task)}: {bench.cards[task].options[-1]}"
    return context.title(task)


def _tables(context: Context, judged: Sequence[Judged]) -> list[Table]:
    made = [_summary(judged), *_held(context, judged)]
    made += [_all(context, one, number) for number, one in enumerate(judged, 1)]
    made += _pooled(context, judged)
    rows: list[Row] = [
        {
            "task": _event(context, task),
            "attribute": WORDS.get(attribute, attribute),
            "group": one.name,
            "n": Value(value=float(one.n)),
            "events": Value(value=float(one.events)),
            "reason": one.reason,
        }
        for task, attribute, one in dict.fromkeys(entry for model in judged for entry in model.bias.left_out)
    ]
    columns = [Column(key=key, label=key.capitalize()) for key in ("task", "attribute", "group")]
    columns += [Column(key="n", label="Examples", kind="count"), Column(key="events", label="Events", kind="count")]
    columns.append(Column(key="reason", label="Why"))
    made += (
        [Table(id="bias-left-out", title="Groups too small to be judged", columns=columns, rows=rows)] if rows else []
    )
    return made


def _summary(judged: Sequence[Judged]) -> Table:
    columns = [
        Column(key="model", label="Model"),
        Column(key="metric", label="Gap in"),
        Column(key="gaps", label="Gaps", kind="count"),
        Column(
            key="before", label="Hold before", kind="count", help="p below 0.05 after Holm over all gaps of the model"
        ),
        Column(key="after", label="Hold after", kind="count", help="the same after recalibration by group"),
        Column(
            key="mean_before",
            label="Mean size before",
            kind="number",
            help="of the gaps, signs left off; not noise-free",
        ),
        Column(key="mean_common", label="With one map for all", kind="number"),
        Column(key="mean_after", label="Mean size after", kind="number"),
    ]
    rows: list[Row] = []
    for one in judged:
        for metric, name in METRICS.items():
            mine = [(g, v) for g, v in zip(one.bias.before, one.before, strict=True) if g.metric == metric]
            paired = [g for g, _ in mine if g.key in one.after]
            row: Row = {
                "model": one.label,
                "metric": name,
                "gaps": Value(value=float(len(mine))),
                "before": Value(value=float(sum(_holds(v) for _, v in mine))),
                "mean_before": _size([v for g, v in mine if not one.after or g.key in one.after]),
            }
            if paired:
                row["after"] = Value(value=float(sum(_holds(one.after[g.key]) for g in paired)))
                row["mean_after"] = _size([one.after[g.key] for g in paired])
                row["mean_common"] = _size([one.common[g.key] for g in paired if g.key in one.common])
            rows.append(row)
    note = "Mean sizes are of the gaps that have both; noise alone gives small groups a gap of some size."
    return Table(id="bias-summary", title="Gaps that hold", columns=columns, rows=rows, note=note)


def _size(values: Sequence[Value]) -> Value | None:
    known = [abs(value.value) for value in values if value.value is not None]
    return Value(value=sum(known) / len(known)) if known else None


COLUMNS = [
    Column(key="task", label="Task"),
    Column(key="attribute", label="Attribute"),
    Column(key="group", label="Group"),
    Column(key="reference", label="Against"),
    Column(key="n", label="Examples", kind="count"),
    Column(key="events", label="Events", kind="count"),
    Column(key="metric", label="Gap in"),
    Column(key="own", label="Group's", kind="number"),
    Column(key="theirs", label="Reference's", kind="number"),
    Column(key="before", label="Before", kind="difference"),
    Column(key="common", label="One map for all", kind="difference", help="calibration alone: the rest stays"),
    Column(key="after", label="After", kind="difference", help="recalibrated by group on validation"),
]


def _row(context: Context, one: Judged, gap: Gap, value: Value) -> Row:
    return {
        "task": _event(context, gap.task),
        "attribute": WORDS.get(gap.attribute, gap.attribute),
        "group": gap.stratum.name,
        "reference": gap.reference.name,
        "n": Value(value=float(gap.stratum.n)),
        "events": Value(value=float(gap.stratum.events)),
        "metric": METRICS[gap.metric],
        "own": Value(value=gap.levels[0]),
        "theirs": Value(value=gap.levels[1]),
        "before": value,
        "common": one.common.get(gap.key),
        "after": one.after.get(gap.key),
    }


def _held(context: Context, judged: Sequence[Judged]) -> list[Table]:
    rows: list[Row] = [
        {"model": one.label, **_row(context, one, gap, value)}
        for one in judged
        for gap, value in zip(one.bias.before, one.before, strict=True)
        if _holds(value) or _holds(one.after.get(gap.key))
    ]
    columns = [Column(key="model", label="Model"), *COLUMNS]
    title = "Gaps that hold before or after recalibration by group"
    return [Table(id="bias-held", title=title, columns=columns, rows=rows)] if rows else []


def _all(context: Context, one: Judged, number: int) -> Table:
    rows = [_row(context, one, gap, value) for gap, value in zip(one.bias.before, one.before, strict=True)]
    note = f"p corrected (Holm) over the {len(rows)} gaps of this model, before and after apart."
    return Table(id=f"bias-gaps-{number}", title=f"All gaps: {one.label}", columns=COLUMNS, rows=rows, note=note)


def _pooled(context: Context, judged: Sequence[Judged]) -> list[Table]:
    rows: list[Row] = [
        {
            "model": one.label,
            "task": _event(context, found.task),
            "attribute": WORDS.get(found.attribute, found.attribute),
            "before": Value(value=found.before),
            "change": Value.model_validate(
                {"value": found.change.value, "low": found.change.low, "high": found.change.high, "p": found.change.p}
            ),
        }
        for one in judged
        for found in one.bias.pooled
    ]
    columns = [
        Column(key="model", label="Model"),
        Column(key="task", label="Task"),
        Column(key="attribute", label="Recalibrated by"),
        Column(key="before", label="AUROC before", kind="auroc"),
        Column(key="change", label="After less before", kind="difference"),
    ]
    title = "AUROC over all groups: what recalibration by group does to it"
    return [Table(id="bias-pooled", title=title, columns=columns, rows=rows)] if rows else []


def _forest(context: Context, one: Judged, metric: Metric) -> Figure:
    mine = [
        (g, v) for g, v in zip(one.bias.before, one.before, strict=True) if g.metric == metric and v.value is not None
    ]
    mine.sort(key=lambda pair: -abs(pair[1].value or 0.0))
    names, before, after = [], [], []
    for gap, value in mine[:SHOWN]:
        name = f"{gap.stratum.name}: {_event(context, gap.task)}"
        if name in names:  # groups of two attributes may be called alike
            name = f"{name} ({WORDS.get(gap.attribute, gap.attribute)})"
        names.append(name)
        before.append(Point(x=name, y=value.value, low=value.low, high=value.high))
        later = one.after.get(gap.key)
        if later is not None:
            after.append(Point(x=name, y=later.value, low=later.low, high=later.high))
    series = [Series(name="as stated", role="self", points=before)]
    series += [Series(name="recalibrated by group", role="specialist", points=after)] if after else []
    return Figure(
        id=f"bias-{metric}", kind="forest", title=f"Gaps in {METRICS[metric]}: {one.label}",
        x=Axis(label="group", scale="names", names=names), y=Axis(label=f"gap in {METRICS[metric]}"), series=series,
        lines={"no gap": 0.0},
        note=f"The {len(names)} widest of {len(mine)} gaps before; the widest are so by luck too.",
    )  # fmt: skip


def _sentence(context: Context, one: Judged) -> str:
    pairs = list(zip(one.bias.before, one.before, strict=True))
    held = [(gap, value) for gap, value in pairs if _holds(value)]
    if not held:
        said = (
            f"Of {len(pairs)} gaps between groups of patients under {one.label} none holds after correction for as "
            "many comparisons, which does not show that there is none"
        )
    else:
        gap, value = max(held, key=lambda pair: abs(pair[1].value or 0.0))
        by = {name: sum(g.metric == metric for g, _ in held) for metric, name in METRICS.items()}
        parts = ", ".join(f"{count} in {name}" for name, count in by.items() if count)
        said = (
            f"Of {len(pairs)} gaps between groups of patients under {one.label} {len(held)} hold after correction "
            f"({parts}); the widest is in {METRICS[gap.metric]} for {_event(context, gap.task)}, {gap.stratum.name} "
            f"against {gap.reference.name}: {value.value:+.3f} ({value.low:+.3f} to {value.high:+.3f})"
        )
    if not one.after:
        return f"{said}. No validation is answered, so that recalibration by group could not be tried."
    calibration = [(v, one.after[g.key]) for g, v in pairs if g.metric == "calibration" and g.key in one.after]
    was, now = (sum(_holds(pair[place]) for pair in calibration) for place in (0, 1))
    rest = [(v, one.after[g.key]) for g, v in pairs if g.metric in ("alert_rate", "sensitivity") and g.key in one.after]
    others = [sum(_holds(pair[place]) for pair in rest) for place in (0, 1)]
    if not (was or now or any(others)):
        return f"{said}; recalibration by group neither mends one that holds nor makes one."
    said += f". Recalibration by group leaves {now} of {len(calibration)} gaps in calibration that hold ({was} before)"
    return f"{said} and {others[1]} of {len(rest)} in alert rate and sensitivity ({others[0]} before)."


def _verdict(one: Judged) -> Literal["clear", "undecided"]:
    return "clear" if any(_holds(value) for value in one.before) else "undecided"


def _caveats(context: Context, judged: Sequence[Judged]) -> list[str]:
    found = list(CAVEATS)
    several = sorted(
        {gap.task for one in judged for gap in one.bias.before if _event(context, gap.task) != context.title(gap.task)}
    )
    if several:
        found.append(
            "Of tasks with several classes the last class is the event: "
            + "; ".join(_event(context, t) for t in several)
            + "."
        )
    for one in judged:
        tasks = [context.title(task) for task in dict.fromkeys(one.bias.without_validation)]
        if tasks:
            found.append(f"{one.label} answers no validation rows of {', '.join(tasks)}: only gaps before are shown.")
    lost = sorted({context.title(task) for one in judged for task, _ in one.bias.undetermined})
    if lost:
        found.append(f"Validation is too small to tell a map of the risk for some models: {', '.join(lost)}.")
    kept = len({(task, attribute, name) for one in judged for task, attribute, name in one.bias.fallen_back})
    if kept:
        found.append(f"{kept} groups (task by task) keep the map of all, for want of cases in validation.")
    return found
