"""The closing table of a run, for a person at a terminal of 80 to 100 columns."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lang1.reporting.index import Index
from lang1.reporting.numbers import DASH, THIN, fixed, interval, percent, percent_interval
from lang1.reporting.schema import Row, validate_results

_STYLES = {"specialist": "bold cyan", "self": "cyan", "generalist": "magenta", "baseline": "", "oracle": "dim"}


def closing_table(results: dict[str, Any] | Path) -> Table:
    """Models × tasks as a :class:`rich.table.Table`: AUROC [low–high], then the attained share.

    Five tasks fit 80 columns. Raises :class:`ArtefactError` where the results are damaged.
    """
    index = Index(validate_results(results))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), collapse_padding=True, show_edge=False, pad_edge=False)
    table.title = "AUROC, 95 % interval beneath"
    table.title_justify, table.title_style = "left", "bold"
    table.add_column("", overflow="fold", min_width=13)
    for task in index.tasks:
        table.add_column(Text(task.title), justify="right", overflow="fold", min_width=11, max_width=13)
    for entry in index.entries:
        rows = [index.auroc(task, entry) for task in index.tasks]
        if any(row is not None and row.value is not None for row in rows):
            cells = [_cell(row) for row in rows]
            table.add_row(Text(entry.short), *cells, style=_STYLES[entry.role])
    first = True
    for entry in index.entries:
        rows = [index.row(task, entry, "attained_share") for task in index.tasks]
        if entry.role in ("specialist", "self", "baseline") and any(r is not None and r.value for r in rows):
            if first:
                table.add_section()
                first = False
            table.add_row(Text(f"attained: {entry.short}"), *[_share(r) for r in rows], style=_STYLES[entry.role])
    return table


def closing_text(results: dict[str, Any] | Path, width: int = 100) -> str:
    """The closing table as plain text without colours, for logs and pipes."""
    stream = io.StringIO()
    Console(file=stream, width=width, no_color=True, force_terminal=False, highlight=False).print(
        closing_table(results)
    )
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def _cell(row: Row | None) -> Text:
    if row is None or row.value is None:
        return Text(DASH)
    between = interval(row.low, row.high)
    return Text(fixed(row.value) + (f"\n{between}" if between else ""))


def _share(row: Row | None) -> Text:
    if row is None or row.value is None:
        return Text(DASH)
    between = percent_interval(row.low, row.high)
    return Text((percent(row.value) + (f"\n{between}" if between else "")).replace(THIN, " "))
