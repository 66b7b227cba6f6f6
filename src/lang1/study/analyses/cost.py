"""What each option costs, what acting on it brings, and from which volume on a specialist is repaid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from lang1.reporting.study_schema import Analysis
from lang1.study.acting import Acted, Leader, leaders, volume
from lang1.study.analyses.cost_figures import figures
from lang1.study.analyses.cost_tables import (
    benefit_tables,
    break_even_table,
    costs_table,
    measured_table,
    money_table,
    prices_table,
    sensitivity_table,
)
from lang1.study.context import MEAN, Context
from lang1.study.costing import cost
from lang1.study.options import Unknown, options, representative, unasked_api
from lang1.study.prices import read_prices
from lang1.study.reckoning import Reckoned

QUESTION = "What would each way of answering cost a year, and how much good would acting on its answers do?"
UNKNOWN: dict[Unknown, str] = {
    "lost": "A model's folder is gone, so that what its training took is not counted:",
    "training": "No training is recorded, so that its computing is not counted:",
    "tokens": "No tokens are recorded, so that scoring is reckoned from the time it took here:",
}
ASSUMED = (
    "Every price, hour of staff and capacity is an assumption of the price file, to be replaced by the hospital's own; "
    "only tokens, seconds and training rates were measured."
)


def cost_and_benefit(context: Context) -> Analysis | None:
    """The analysis; None where the study scored nothing that could be run in place of something else."""
    prices = read_prices(context.grid.get("prices"), "grid")
    asked = options(context)
    found = volume(context, prices) if asked else None
    if found is None:
        return None
    extra = unasked_api(asked, len(context.tasks())) if prices.api.show else None
    every = (*asked, *([extra] if extra is not None else []))
    typical = prices.figures()
    costs = {one.label: cost(one.footprint, prices, typical) for one in every}
    reckoned = Reckoned(prices, found, every, costs, typical)
    acted = Acted(context, found, prices, asked)
    leading = leaders(acted, typical)
    special = representative(asked, "specialist", "continued")
    worth = money_table(context, reckoned, acted)
    tables = [costs_table(reckoned), measured_table(reckoned), *benefit_tables(context, reckoned, acted, leading)]
    tables += [break_even_table(reckoned, acted, special)] if special is not None and len(every) > 1 else []
    tables += [worth] if worth is not None else []
    tables += [sensitivity_table(reckoned, special or reckoned.cheapest), prices_table(prices)]
    return Analysis(
        id="cost",
        title="Cost and benefit",
        question=QUESTION,
        sentence=_sentence(context, reckoned, leading),
        verdict=_verdict(leading),
        caveats=_caveats(context, reckoned, acted),
        paper="The paper gives the price of one pretraining run and leaves a comparison of costs and benefits open.",
        tables=tables,
        figures=figures(context, reckoned, acted, special or reckoned.cheapest),
    )


def _sentence(context: Context, reckoned: Reckoned, leading: Sequence[Leader]) -> str:
    first = reckoned.cheapest
    unit, encounters = reckoned.prices.currency, reckoned.volume.encounters
    said = (
        f"At {encounters:,.0f} encounters a year and the assumed prices, {first.label} costs least: "
        f"{reckoned.a_year(first):,.0f} {unit} a year"
    )
    cheaper = [one for one in reckoned.every if not one.groups and reckoned.a_year(one) < reckoned.a_year(first)]
    said += "".join(f" (a paid interface, not asked here: {reckoned.a_year(one):,.0f})" for one in cheaper)
    ends = [at for _, low, high in reckoned.prices.one_way() for at in (low, high)]
    others = {reckoned.cheapest_at(at).label for at in ends} - {first.label}
    alone = "; it stays so whichever single figure is moved within its range"
    said += f"; with one figure moved {_listed(sorted(others))} can cost less" if others else alone
    held = [one for one in leading if one.behind]
    if not held:
        return f"{said}. No option's benefit can be held against another's here."
    main = held[-1]  # the mean over tasks where there are several
    over = "as the mean over tasks" if main.task == MEAN else f"for {context.title(main.task)}"
    if main.level:
        said += f". Which has the most net benefit at the capacity, {over}, is undecided between "
        said += _listed([main.best.label, *main.level])
    else:
        said += f". At the capacity {main.best.label} has the most net benefit {over}, ahead of every other option"
    clear = [context.title(one.task) for one in held[:-1] if not one.level]
    if main.task == MEAN and len(held) > 1:
        said += (
            f"; task by task one option is ahead of all others for {_listed(clear)}"
            if clear
            else ("; for no task alone is one option ahead of all others")
        )
    return said + "."


def _listed(names: Sequence[str]) -> str:
    """Labels may hold commas, so each is quoted where there are several."""
    if len(names) == 1:
        return names[0]
    shown = [f"'{name}'" for name in names]
    if len(names) > 4:
        return f"{', '.join(shown[:3])} and {len(names) - 3} others"
    return f"{', '.join(shown[:-1])} and {shown[-1]}"


def _verdict(leading: Sequence[Leader]) -> Literal["clear", "mixed", "undecided", "none"]:
    judged = [one for one in leading if one.behind]
    clear = sum(not one.level for one in judged)
    if not judged:
        return "none"
    return "clear" if clear == len(judged) else "mixed" if clear else "undecided"


def _caveats(context: Context, reckoned: Reckoned, acted: Acted) -> list[str]:
    found = [ASSUMED]
    tasks = acted.tasks()
    rest = [context.title(t) for t in context.tasks() if t not in tasks]
    if rest:
        found.append(f"Alerts are of tasks with two classes; no benefit is reckoned for {', '.join(rest)}.")
    everybody = [context.title(t) for t in tasks if acted.rate(t, reckoned.typical) >= 1]
    if everybody:
        found.append(f"The capacity covers every encounter of {', '.join(everybody)}: there all options do the same.")
    for what, said in UNKNOWN.items():
        named = [one.label for one in reckoned.every if what in one.unknown]
        found += [f"{said} {_listed(named)}."] if named else []
    if any(one.kind == "api" and not one.groups for one in reckoned.every):
        found.append("No model was asked over a paid interface: its cost stands without a benefit, on others' tokens.")
    found.append("The option of the most net benefit is chosen on the patients that judge it: its lead is flattered.")
    if any(one.kind == "baseline" for one in reckoned.every):
        found.append("A baseline's seconds hold fitting and scoring together: they are counted in full for both.")
    found.append(
        "Learning-rate searches and failed runs are in the factor for runs thrown away, not in the tokens. "
        "A generalist's own pretraining was paid by its makers and is counted as nothing."
    )
    return found
