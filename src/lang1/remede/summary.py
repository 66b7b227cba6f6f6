"""What ``lang1 remede build`` prints: the attrition ledger, class shares, and what a user should know."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from lang1.remede.benchmark import Benchmark
from lang1.remede.observability import chance, imbalances
from lang1.remede.settings import SPLITS

# How many unbalanced covariates a line names; the manifest holds all.
MOST_DIFFERENCES = 4


def summary_lines(benchmark: Benchmark) -> list[str]:
    """The benchmark in plain lines: a ledger and a table of class shares by task, then the notices."""
    extra = benchmark.manifest.extra
    lines: list[str] = []
    for task, card in benchmark.cards.items():
        top = card.options[-1] if card.kind == "multiclass" else "yes"
        lines += [f"{card.title} ({task}), from the {card.note_type.replace('_', ' ')}", ""]
        ledger = [row for row in benchmark.ledger if row["task"] == task]
        table = [[row["rule"], f"{row['rows']:,}", f"{row['patients']:,}", f"{row['outcomes']:,}"] for row in ledger]
        lines += _table(["what remains", "rows", "patients", f"outcome: {top}"], table)
        lines += ["", *_shares(benchmark, task), ""]
        lines += _apart(ledger)
        if died := extra.get("died_without_return", {}).get(task):
            counts = ", ".join(f"{split} {n:,}" for split, n in died.items())
            as_what = "Yes" if card.constants.get("death_without_return") == "composite" else "No"
            lines += [f"Died within the horizon without a return, counted as {as_what}: {counts}.", ""]
        lines += _unlike(entry for entry in extra.get("observability", []) if entry["task"] == task)
    lines.append(f"Policy: {extra['policy']}. Headline split: {benchmark.headline_split}.")
    if benchmark.pretraining_cut is not None:
        lines.append(f"Text from {benchmark.pretraining_cut:%Y-%m-%d} on stays out of pretraining.")
    lines += [f"Note: {notice}" for notice in benchmark.notices]
    return lines


def _shares(benchmark: Benchmark, task: str) -> list[str]:
    rows = [row for row in benchmark.shares if row["task"] == task]
    present = [split for split in SPLITS if any(row["split"] == split for row in rows)]
    cells = {(row["split"], row["class"]): f"{row['n']:,} ({100 * row['share']:.1f} %)" for row in rows}
    options = benchmark.cards[task].options
    table = [[text, *(cells[split, label] for split in present)] for label, text in enumerate(options)]
    return _table(["class", *present], table)


def _unlike(entries: Iterable[dict[str, Any]]) -> list[str]:
    """What the rows left out for want of a label, or by a policy, do not share with those that stay."""
    lines = []
    for entry in entries:
        apart = imbalances(entry)
        if not apart:
            continue
        shown = [_difference(row) for row in apart[:MOST_DIFFERENCES]]
        more = f", and {len(apart) - len(shown)} more" if len(apart) > len(shown) else ""
        few = " So few rows differ by chance, too." if chance(entry) else ""
        lines.append(
            f"Left out by '{entry['rule']}': {entry['n_left']:,} rows that could have been asked, unlike the "
            f"{entry['n_kept']:,} kept: {'; '.join(shown)}{more}.{few}"
        )
    return [*lines, ""] if lines else []


def _difference(row: dict[str, Any]) -> str:
    left, kept = row["share_or_mean_left"], row["share_or_mean_kept"]
    smd = "" if row["smd"] is None else f" (SMD {row['smd']:+.2f})"
    name = row["name"].replace("_", " ")
    if row["level"] is None:
        return f"mean {name} {left:,.1f} against {kept:,.1f}{smd}"
    return f"{name} {row['level']} {100 * left:.0f} % against {100 * kept:.0f} %{smd}"


def _apart(ledger: Sequence[dict[str, object]]) -> list[str]:
    for before, row in itertools.pairwise(ledger):
        if str(row["rule"]).startswith("patients kept apart"):
            lost = int(str(before["rows"])) - int(str(row["rows"]))
            return [f"Cost of keeping patients apart: {lost:,} rows of the temporal tests.", ""]
    return []


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns under a head, the first to the left and the others to the right."""
    wide = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return [
        "  ".join([row[0].ljust(wide[0]), *(cell.rjust(w) for cell, w in zip(row[1:], wide[1:], strict=True))]).rstrip()
        for row in (head, *rows)
    ]
