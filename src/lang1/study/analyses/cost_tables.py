"""Tables of the cost analysis: costs, what was measured, benefit at a capacity, break-even, one figure moved."""

from __future__ import annotations

from collections.abc import Sequence

from lang1.reporting.study_schema import Column, Table, Value
from lang1.study.acting import Acted, Leader
from lang1.study.context import MEAN, Context
from lang1.study.costing import (
    DAYS,
    BreakEven,
    Figures,
    break_even,
    cost,
    measured_money,
    scoring_hours,
    training_hours,
)
from lang1.study.options import Option
from lang1.study.prices import Prices, read_prices
from lang1.study.reckoning import Reckoned, worth_for_one

# No hospital has more encounters in a year; a volume above it is not given as a number.
MOST_ENCOUNTERS = 10_000_000
ALIKE = "no difference"
Row = dict[str, Value | str | None]


def costs_table(reckoned: Reckoned) -> Table:
    columns = [
        Column(key="option", label="Option"),
        Column(key="kind", label="Kind"),
        Column(key="models", label="Models kept", kind="count"),
        Column(key="setup", label="Setting up", kind="money", help="staff, once"),
        Column(key="training", label="Training", kind="money", help="computing, once, runs thrown away included"),
        Column(key="fixed", label="Fixed a year", kind="money", help="upkeep, retraining, idle accelerators"),
        Column(key="thousand", label="1,000 encounters", kind="money", help="computing or tokens"),
        Column(key="year", label="A year", kind="money", help="one-off costs spread over the years of use"),
        Column(key="least", label="At least", kind="money", help="every figure at its favourable end"),
        Column(key="most", label="At most", kind="money", help="every figure at its dear end"),
    ]
    rows: list[Row] = []
    for one in reckoned.every:
        found = reckoned.costs[one.label]
        least, most = reckoned.extremes(one)
        lost = bool(one.unknown & {"lost", "training"})
        rows.append(
            {
                "option": one.label,
                "kind": one.shown_kind,
                "models": Value(value=float(one.footprint.models)),
                "setup": Value(value=found.setup),
                "training": Value(value=None, note="not recorded") if lost else Value(value=found.training),
                "fixed": Value(value=found.fixed),
                "thousand": Value(value=1000 * found.for_one),
                "year": Value(value=reckoned.a_year(one)),
                "least": Value(value=least),
                "most": Value(value=most),
            }
        )
    years = reckoned.typical["years_used"]
    note = (
        f"At {reckoned.volume.encounters:,.0f} encounters a year ({reckoned.volume.told}), one-off costs spread over "
        f"{years:g} years, on {reckoned.prices.accelerator.name} where accelerators are needed. Assumed prices."
    )
    return Table(id="costs", title="Costs", columns=columns, rows=rows, unit=reckoned.prices.currency, note=note)


def measured_table(reckoned: Reckoned) -> Table:
    columns = [
        Column(key="option", label="Option"),
        Column(key="stage", label="Stage"),
        Column(key="tokens", label="Tokens", kind="count"),
        Column(key="hours", label="Hours measured", kind="number"),
        Column(key="device", label="Device here"),
        Column(
            key="money", label="Money there", kind="money", help="time measured at the price of that kind of device"
        ),
        Column(key="flops", label="PFLOP", kind="number", help="10^15 operations, from the model's shape and tokens"),
        Column(key="assumed_hours", label="Hours assumed", kind="number", help="of one accelerator, by FLOP and MFU"),
        Column(key="assumed_money", label="Money assumed", kind="money"),
    ]
    at, prices, hour = reckoned.typical, reckoned.prices, reckoned.typical["accelerator.hour"]
    rows: list[Row] = []
    for one in reckoned.every:
        for stage in one.footprint.stages:
            hours = training_hours(stage, prices, at)
            rows.append(
                {
                    "option": one.label,
                    "stage": f"{stage.kind} ({stage.name})",
                    "tokens": Value(value=float(stage.tokens)),
                    "hours": Value(value=stage.seconds / 3600),
                    "device": stage.device,
                    "money": Value(value=measured_money(stage.device, stage.seconds, at)),
                    "flops": None if stage.flops is None else Value(value=stage.flops / 1e15),
                    "assumed_hours": Value(value=hours),
                    "assumed_money": Value(value=hours * hour),
                }
            )
        seconds = 1000 * sum(s.seconds for s in one.footprint.scorings)
        tokens = [s.tokens for s in one.footprint.scorings]
        flops = [s.flops for s in one.footprint.scorings]
        billed = [s.money for s in one.footprint.scorings]
        device = one.footprint.scorings[0].device
        there = sum(m or 0.0 for m in billed) * 1000 if device == "server" else measured_money(device, seconds, at)
        own, timed = one.footprint.on_accelerators, device not in ("not asked", "unknown")
        thousand = 1000 * sum(scoring_hours(s, prices, at) for s in one.footprint.scorings)
        rows.append(
            {
                "option": one.label,
                "stage": "fitting and scoring 1,000 encounters"
                if one.kind == "baseline"
                else "scoring 1,000 encounters",
                "tokens": None if None in tokens else Value(value=1000 * sum(t or 0.0 for t in tokens)),
                "hours": Value(value=seconds / 3600) if timed else None,
                "device": device,
                "money": Value(value=there) if timed else None,
                "flops": None if None in flops else Value(value=1000 * sum(f or 0.0 for f in flops) / 1e15),
                "assumed_hours": Value(value=thousand) if own else None,
                "assumed_money": Value(value=1000 * reckoned.costs[one.label].for_one),
            }
        )
    note = (
        "Measured: tokens, seconds and device as the steps recorded them. Assumed: the same work on "
        f"{prices.accelerator.name} at the measured training rate (typical: {at['share_kept']:.0%} of it kept) and at "
        f"{at['inference_mfu']:.0%} of its peak for scoring, which we have not measured there."
    )
    return Table(
        id="measured", title="As measured here, and at the assumed hardware", columns=columns, rows=rows,
        unit=prices.currency, note=note,
    )  # fmt: skip


def benefit_tables(context: Context, reckoned: Reckoned, acted: Acted, leading: Sequence[Leader]) -> list[Table]:
    if not leading:
        return []
    at = reckoned.typical
    risk = at["acting.threshold_risk"]
    columns = [
        Column(key="task", label="Task"),
        Column(key="option", label="Option"),
        Column(key="alerts", label="Alerts per 100", kind="number"),
        Column(key="alerts_day", label="Alerts a day", kind="number"),
        Column(key="sensitivity", label="Sensitivity", kind="share", help="share of cases that are alerts"),
        Column(key="ppv", label="PPV", kind="share", help="share of alerts that are cases"),
        Column(key="true", label="Right alerts a year", kind="number"),
        Column(key="net", label="Net benefit per 100", kind="number", help="right alerts less weighed false ones"),
        Column(key="behind", label="Behind the best", kind="difference", help="net benefit per 100, paired; Holm"),
    ]
    rows: list[Row] = []
    other: list[Row] = []
    best = {one.task: one for one in leading}
    sides = _sides(reckoned.prices)
    for task, leader in best.items():
        for one in reckoned.every:
            row = _acting_row(context, acted, one, task, at)
            if row is None:
                continue
            row["behind"] = "the best" if one is leader.best else leader.behind.get(one.label)
            rows.append(row)
            for name, moved in sides:
                same = all(acted.rate(each, moved) == acted.rate(each, at) for each in acted.tasks())
                if same and moved["acting.threshold_risk"] == risk:
                    continue
                changed = _acting_row(context, acted, one, task, moved)
                other += [{"moved": name, **changed}] if changed is not None else []
    note = (
        f"Alerts are the highest risks of the test split, as many as the capacity; net benefit weighs a false alert "
        f"{risk / (1 - risk):.3g} of a right one (acting from a risk of {risk:g} on). Intervals: patients and seeds."
    )
    made = [Table(id="benefit", title="What acting on it brings", columns=columns, rows=rows, note=note)]
    if other:
        head = [Column(key="moved", label="Moved"), *columns[:-1]]
        made.append(Table(id="capacities", title="The same at other capacities and risks", columns=head, rows=other))
    return made


def _sides(prices: Prices) -> list[tuple[str, dict[str, float]]]:
    """Figures with the capacity, or the risk from which acting is worth it, at one of its ends."""
    typical, made = prices.figures(), []
    for side in ("low", "high"):
        moved = {k: float(getattr(v, side)) for k, v in prices.spans().items() if k.startswith("acting.alerts_")}
        made.append((f"{side} capacity", typical | moved))
    for side in ("low", "high"):
        risk = float(getattr(prices.acting.threshold_risk, side))
        made.append((f"acting from a risk of {risk:g}", typical | {"acting.threshold_risk": risk}))
    return made


def _acting_row(context: Context, acted: Acted, one: Option, task: str, at: Figures) -> Row | None:
    net = acted.value(one, task, "net_benefit", at, scale=100.0)
    if net is None:
        return None
    if task == MEAN:
        return {"task": MEAN, "option": one.label, "net": net}
    rate, yearly = acted.rate(task, at), acted.volume.by_task[task]
    return {
        "task": context.title(task),
        "option": one.label,
        "alerts": Value(value=100 * rate),
        "alerts_day": Value(value=rate * yearly / DAYS),
        "sensitivity": acted.value(one, task, "sensitivity", at),
        "ppv": acted.value(one, task, "ppv", at),
        "true": acted.value(one, task, "hits", at, scale=yearly),
        "net": net,
    }


def break_even_table(reckoned: Reckoned, acted: Acted, special: Option) -> Table:
    columns = [
        Column(key="against", label="Against"),
        Column(key="one_off", label="One-off more", kind="money"),
        Column(key="fixed", label="Fixed a year more", kind="money"),
        Column(key="saved", label="Saved on 1,000 encounters", kind="money"),
        Column(key="volume", label="Repaid from encounters a year", kind="count"),
        Column(key="ranges", label="With one figure moved", help="over the ranges of the price file, one at a time"),
        Column(key="year", label="More a year here", kind="money", help="at the hospital's volume"),
    ]
    priced = bool(reckoned.prices.acting.true_alert_worth)
    if priced:
        columns.append(Column(key="worth", label="The same, alerts' worth counted", kind="count"))
    rows: list[Row] = []
    mine = reckoned.costs[special.label]
    for one in reckoned.every:
        if one is special:
            continue
        theirs = reckoned.costs[one.label]
        years = reckoned.typical["years_used"]
        # Money that would round to nothing decides nothing, whatever its sign.
        alike = all(abs(mine.a_year(v, years) - theirs.a_year(v, years)) < 0.5 for v in (0.0, 1e6))
        row: Row = {
            "against": one.label,
            "one_off": Value(value=mine.one_off - theirs.one_off),
            "fixed": Value(value=mine.fixed - theirs.fixed),
            "saved": Value(value=1000 * (theirs.for_one - mine.for_one)),
            "volume": ALIKE if alike else _shown(break_even(mine, theirs, reckoned.typical["years_used"])),
            "ranges": "" if alike else _over_ranges(reckoned, special, one),
            "year": Value(value=reckoned.a_year(special) - reckoned.a_year(one)),
        }
        if priced:
            gain = worth_for_one(reckoned, acted, special, reckoned.typical)
            lost = worth_for_one(reckoned, acted, one, reckoned.typical)
            known = gain is not None and lost is not None
            gained = (gain or 0.0) - (lost or 0.0)
            repaid = _shown(break_even(mine, theirs, reckoned.typical["years_used"], gained))
            row["worth"] = repaid if known else "not known"
        rows.append(row)
    return Table(
        id="break-even", title=f"When {special.label} is repaid", columns=columns, rows=rows,
        unit=reckoned.prices.currency,
        note="Encounters a year from which on it is no dearer: always from the first one on, never at any number. "
        f"Among ranges, never also stands for volumes above {MOST_ENCOUNTERS / 1e6:.0f} million.",
    )  # fmt: skip


def _shown(found: BreakEven) -> Value | str:
    if found.volume is None:
        return found.how
    if found.volume > MOST_ENCOUNTERS:
        return f"above {MOST_ENCOUNTERS / 1e6:.0f} million" if found.how == "from" else "always"
    return Value(value=found.volume, note="up to this number only" if found.how == "up to" else None)


def _over_ranges(reckoned: Reckoned, special: Option, one: Option) -> str:
    """The spread of the break-even volume over one-way changes."""
    volumes: list[float] = []
    hows: set[str] = set()
    for _, low, high in reckoned.prices.one_way():
        for at in (low, high):
            mine, theirs = (cost(o.footprint, reckoned.prices, at) for o in (special, one))
            found = break_even(mine, theirs, at["years_used"])
            if found.volume is None:
                hows.add(found.how)
            elif found.volume > MOST_ENCOUNTERS:
                hows.add("never" if found.how == "from" else "always")
            else:
                volumes.append(found.volume)
    parts = [str(how) for how in ("always", "never") if how in hows]
    if volumes:
        least, most = f"{min(volumes):,.0f}", f"{max(volumes):,.0f}"
        parts.append(least if least == most else f"{least} to {most}")
    return "; ".join(parts)


def money_table(context: Context, reckoned: Reckoned, acted: Acted) -> Table | None:
    """Worth of alerts less all costs, a year, as a range; None where the hospital put no money on alerts."""
    acting = reckoned.prices.acting
    if not acting.true_alert_worth:
        return None
    columns = [
        Column(key="option", label="Option"),
        Column(key="worth", label="Alerts' worth a year", kind="money", help="handling them taken off"),
        Column(key="net", label="Less its cost", kind="money"),
        Column(key="least", label="At least", kind="money", help="worth low, cost of an alert high"),
        Column(key="most", label="At most", kind="money", help="worth high, cost of an alert low"),
    ]
    moved = {side: dict(reckoned.typical) for side in ("least", "most")}
    for path, span in reckoned.prices.spans().items():
        if path.startswith("acting.true_alert_worth."):
            moved["least"][path], moved["most"][path] = span.low, span.high
        elif path == "acting.alert_cost":
            moved["least"][path], moved["most"][path] = span.high, span.low
    rows: list[Row] = []
    for one in reckoned.every:
        each = {k: worth_for_one(reckoned, acted, one, at) for k, at in {"": reckoned.typical, **moved}.items()}
        yearly = {k: None if v is None else v * reckoned.volume.encounters for k, v in each.items()}
        if yearly[""] is None:
            continue
        spent = reckoned.a_year(one)
        rows.append({"option": one.label, "worth": Value(value=yearly[""])})
        for key, name in (("", "net"), ("least", "least"), ("most", "most")):
            rows[-1][name] = Value(value=(yearly[key] or 0.0) - spent)
    titles = ", ".join(context.title(task) for task in acting.true_alert_worth)
    return Table(
        id="money", title="In money, as the hospital's settings put it", columns=columns, rows=rows,
        unit=reckoned.prices.currency,
        note=f"Worth of alerts set for: {titles}. No statistical interval is in this range.",
    )  # fmt: skip


def sensitivity_table(reckoned: Reckoned, option: Option) -> Table:
    columns = [
        Column(key="figure", label="Figure"),
        Column(key="low", label="Low", kind="number"),
        Column(key="high", label="High", kind="number"),
        Column(key="at_low", label="A year at low", kind="money"),
        Column(key="at_high", label="A year at high", kind="money"),
        Column(key="first_low", label="Cheapest at low"),
        Column(key="first_high", label="Cheapest at high"),
    ]
    rows: list[Row] = []
    left = 0
    for path, low, high in reckoned.prices.one_way():
        years = [reckoned.a_year(option, at) for at in (low, high)]
        first = [reckoned.cheapest_at(at).label for at in (low, high)]
        if years[0] == years[1] and set(first) == {reckoned.cheapest.label}:
            left += 1
            continue
        row: Row = {"figure": path, "low": Value(value=low[path]), "high": Value(value=high[path])}
        row |= {"at_low": Value(value=years[0]), "at_high": Value(value=years[1])}
        rows.append(row | {"first_low": first[0], "first_high": first[1]})
    return Table(
        id="sensitivity", title=f"One figure moved at a time: {option.label}", columns=columns, rows=rows,
        unit=reckoned.prices.currency,
        note=f"{left} figures that change neither this cost nor which option is cheapest are left out." if left else "",
    )  # fmt: skip


def prices_table(prices: Prices) -> Table:
    """Every figure that was reckoned with, and whether the study set it."""
    package = read_prices().spans()
    rows: list[Row] = [
        {
            "figure": path,
            "low": Value(value=span.low),
            "typical": Value(value=span.typical),
            "high": Value(value=span.high),
            "from": "the package's assumption" if package.get(path) == span else "set in the study",
        }
        for path, span in prices.spans().items()
    ]
    columns = [Column(key="figure", label="Figure")]
    columns += [Column(key=key, label=key.capitalize(), kind="number") for key in ("low", "typical", "high")]
    columns.append(Column(key="from", label="Where it is from"))
    rates = "; ".join(f"{one.mfu:.2%} at {one.parameters / 1e6:,.0f} million weights" for one in prices.measured)
    note = f"None of it was measured. Measured: training reached {rates} of the peak of {prices.accelerator.name}."
    title = "Prices, hours and capacities reckoned with"
    return Table(id="prices", title=title, columns=columns, rows=rows, unit=prices.currency, note=note)
