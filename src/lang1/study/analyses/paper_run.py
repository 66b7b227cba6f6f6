"""The price of the Lang1 paper's pretraining run, recomputed from a training rate that was measured."""

from __future__ import annotations

from lang1.reporting.study_schema import Analysis, Column, Table, Value
from lang1.study.context import Context
from lang1.study.costing import Recomputed, paper_run
from lang1.study.prices import Prices, read_prices


def paper_run_again(context: Context) -> Analysis:
    """The analysis: it needs no cells."""
    prices = read_prices(context.grid.get("prices"), "grid")
    measured = paper_run(prices)
    kept = {side: paper_run(prices, getattr(prices.share_kept, side)) for side in ("low", "typical", "high")}
    run, at = prices.paper, prices.accelerator
    sentence = (
        f"At the training rate measured on one {at.name}, {run.tokens / 1e9:,.1f} billion tokens through "
        f"{run.parameters / 1e9:.1f} billion parameters take {measured.hours:,.0f} accelerator-hours "
        f"({24 * measured.days:,.1f} hours on {run.accelerators}), {measured.money:,.0f} dollars at the "
        f"{measured.implied_hour:.2f} an hour that the paper's figures come to; its {run.dollars:,.0f} dollars for "
        f"{run.days:g} days on {run.accelerators} mean {measured.implied_mfu:.1%} of the peak."
    )
    return Analysis(
        id="paper-run",
        title="The paper's pretraining, its price recomputed",
        question="What would the paper's pretraining run take at a training rate that was measured?",
        sentence=sentence,
        verdict="none",
        caveats=[
            "Our rate is of one accelerator over a few steps, with whole rows of tokens; many machines together, "
            "checkpoints and evaluations take some of it: the rows with a share kept show that.",
            "The paper's days may hold more than the one run: data work, evaluations, failures, waiting. It does not "
            "say, so the share of the peak is what its figures come to and not what its training reached.",
        ],
        paper=f"About {run.days:g} days on {run.accelerators} H100, some ${run.dollars:,.0f} (arXiv 2511.13703).",
        tables=[_table(prices, measured, kept)],
    )


def _table(prices: Prices, measured: Recomputed, kept: dict[str, Recomputed]) -> Table:
    run = prices.paper
    columns = [
        Column(key="what", label="Reckoned"),
        Column(key="mfu", label="Share of the peak", kind="share", help="of dense bf16, attention counted uncausally"),
        Column(key="rate", label="Tokens a second", kind="count", help="on one accelerator"),
        Column(key="hours", label="Accelerator-hours", kind="count"),
        Column(key="days", label=f"Days on {run.accelerators}", kind="number"),
        Column(key="money", label="Dollars", kind="money", help=f"at {measured.implied_hour:.2f} an accelerator-hour"),
    ]

    def row(what: str, hours: float, money: float) -> dict[str, Value | str | None]:
        return {
            "what": what,
            "mfu": Value(value=measured.implied_mfu * measured.paper_hours / hours),
            "rate": Value(value=run.tokens / hours / 3600),
            "hours": Value(value=hours),
            "days": Value(value=hours / run.accelerators / 24),
            "money": Value(value=money),
        }

    rows = [
        row("the paper's own figures", measured.paper_hours, run.dollars),
        row("at the rate measured", measured.hours, measured.money),
    ]
    for side in ("high", "typical", "low"):
        share = getattr(prices.share_kept, side)
        if share < 1:
            rows.append(row(f"{share:.0%} of that rate kept (assumed)", kept[side].hours, kept[side].money))
    return Table(
        id="paper-run", title="Hours and dollars", columns=columns, rows=rows, unit="USD",
        note="The dollars an hour are the paper's $ over its accelerators' hours; at another price they scale with it.",
    )  # fmt: skip
