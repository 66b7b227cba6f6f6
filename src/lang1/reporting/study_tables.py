"""Tables of a study as the page shows them: each number with its interval, and the paper's figure beneath it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from lang1.reporting.numbers import (
    DASH,
    MINUS,
    count,
    fixed,
    interval,
    p_value,
    percent,
    percent_interval,
    plural,
    signed,
    signed_interval,
)
from lang1.reporting.study_schema import Cell, Column, Table, Value

LONG = 24  # rows from which on a table is folded
ABOVE, BELOW, OPEN = "▲", "▼", "◆"


@dataclass(frozen=True)
class Shown:
    """A cell: main text, interval, the paper's figure, remarks; ``mark`` tells a difference's side."""

    main: str = ""
    small: str = ""
    paper: str = ""
    more: Sequence[str] = ()
    mark: str = ""
    text: bool = False


@dataclass(frozen=True)
class Row:
    """A row: its head, what is said beneath it, and the cells after it."""

    head: str
    about: str
    cells: Sequence[Shown]


@dataclass(frozen=True)
class Block:
    """Rows that share their first column, under it."""

    title: str
    rows: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class View:
    """A table, ready for the template. ``heads``: label, help, what is said beneath, whether it is text."""

    title: str
    note: str
    heads: Sequence[tuple[str, str, str, bool]]
    blocks: Sequence[Block]
    marks: bool
    papers: bool
    rows: int

    @property
    def long(self) -> bool:
        """Whether it is folded."""
        return self.rows > LONG


def view(table: Table) -> View:
    """The table as rows of shown cells. Counts that all numbers of a column share stand in its head, once.

    Rows whose first column repeats are put under it as a heading, where a second column of text tells them apart.
    """
    columns = table.columns
    grouped = _grouped(table)
    shown = columns[1:] if grouped else columns
    per_column = {column.key: _shared_size(table, column) for column in shown}
    seeds = _shared_seeds([cell for row in table.rows for cell in row.values()])
    heads = [(c.label, c.help, per_column[c.key] or "", c.kind == "text") for c in shown]
    blocks: list[Block] = []
    for row in table.rows:
        title = _words(row.get(columns[0].key)) if grouped else ""
        if not blocks or (grouped and blocks[-1].title != title):
            blocks.append(Block(title))
        said = [] if seeds else [_trainings(_shared_seeds(list(row.values())))]
        if not any(per_column.values()):
            said.append(_size([cell for cell in row.values() if isinstance(cell, Value)]) or "")
        head = _shown(row.get(shown[0].key), shown[0], table.unit)
        cells = [_shown(row.get(c.key), c, table.unit) for c in shown[1:]]
        about = " · ".join(x for x in [head.small, *head.more, *said] if x)
        blocks[-1].rows.append(Row(head.main or DASH, about, cells))
    numbers = [cell for row in table.rows for cell in row.values() if isinstance(cell, Value)]
    marks = any(c.kind == "difference" for c in columns)
    parts = [table.note.strip()]
    if any(v.low is not None for v in numbers):
        parts.append("Beneath each figure its 95 % interval.")
    if seeds:
        parts.append(f"Each figure is a mean over {plural(seeds, 'training')}." if seeds > 1 else "One training each.")
    if table.unit and any(c.kind == "money" for c in columns):
        parts.append(f"Money in {table.unit}.")
    return View(
        table.title,
        " ".join(part for part in parts if part),
        heads,
        blocks,
        marks,
        any(v.paper is not None for v in numbers),
        len(table.rows),
    )


def _grouped(table: Table) -> bool:
    if len(table.columns) < 3 or table.columns[0].kind != "text" or table.columns[1].kind != "text":
        return False
    firsts = [_words(row.get(table.columns[0].key)) for row in table.rows]
    changes = 1 + sum(a != b for a, b in itertools.pairwise(firsts))
    return len(firsts) >= 2 * changes and len(set(firsts)) == changes and all(firsts)


def _words(cell: Cell) -> str:
    return cell if isinstance(cell, str) else "" if cell is None else fixed(cell.value)


def _size(values: Sequence[Value]) -> str | None:
    """``n = 1,204 · 98 events`` where all agree; None otherwise."""
    found = {(v.n, v.events) for v in values if v.value is not None}
    if len(found) != 1:
        return None
    n, events = found.pop()
    if n is None:
        return None
    return f"n = {count(n)}" + (f" · {count(events)} events" if events is not None else "")


def _shared_size(table: Table, column: Column) -> str | None:
    cells = [row.get(column.key) for row in table.rows]
    values = [cell for cell in cells if isinstance(cell, Value)]
    return _size(values) if len(values) > 1 or len(table.rows) == 1 else None


def _shared_seeds(cells: Sequence[Cell]) -> int | None:
    found = {cell.seeds for cell in cells if isinstance(cell, Value) and cell.value is not None}
    return found.pop() if len(found) == 1 else None


def _trainings(seeds: int | None) -> str:
    return "" if seeds is None else "one training" if seeds == 1 else f"{seeds} trainings"


def _shown(cell: Cell, column: Column, unit: str) -> Shown:
    if cell is None:
        return Shown(DASH if column.kind != "text" else "", text=column.kind == "text")
    if isinstance(cell, str):
        return Shown(cell, text=column.kind == "text")
    more = [cell.note] if cell.note else []
    if cell.value is None:
        return Shown(DASH, paper=_paper(cell, column, unit), more=more)
    if column.kind == "difference":
        p = [] if cell.p is None else [_p("p", cell.p)]
        p += [] if cell.p_adjusted is None else [_p("corrected", cell.p_adjusted)]
        between = signed_interval(cell.low, cell.high)
        return Shown(
            signed(cell.value), between, _paper(cell, column, unit), [x for x in (", ".join(p), *more) if x], side(cell)
        )
    return Shown(*_number(cell, column, unit), _paper(cell, column, unit), more)


def side(value: Value) -> str:
    """Whether a difference's interval lies above 0, below 0, or holds it."""
    if value.low is None or value.high is None:
        return ""
    return ABOVE if value.low > 0 else BELOW if value.high < 0 else OPEN


def _p(name: str, p: float) -> str:
    text = p_value(f"p = {p:.3g}")
    return f"{name} {text}"


def _paper(cell: Value, column: Column, unit: str) -> str:
    if cell.paper is None:
        return ""
    if column.kind == "difference":
        return signed(cell.paper)
    return _number(Value(value=cell.paper), column, unit)[0]


def _number(cell: Value, column: Column, unit: str) -> tuple[str, str]:
    """Main text and interval of a number by its column's kind."""
    value, low, high = cell.value, cell.low, cell.high
    if column.kind == "share":
        return percent(value), percent_interval(low, high)
    if column.kind == "count":
        return count(value), _between(low, high, count)
    if column.kind == "money":
        return _money(value, unit), _between(low, high, lambda v: _money(v, unit))
    if column.kind in ("number", "text"):
        return plain(value), _between(low, high, plain)
    return fixed(value), interval(low, high)


def _between(low: float | None, high: float | None, text: object) -> str:
    assert callable(text)
    if low is None or high is None or low == high:
        return ""
    return f"{text(low)}{' to ' if low < 0 else DASH}{text(high)}"


def plain(value: float | None) -> str:
    """A number of any size with three significant digits; whole thousands in full."""
    if value is None:
        return DASH
    if abs(value) >= 1000 or value == int(value):
        return count(value)
    if 0 < abs(value) < 0.001:
        return f"{value:.2e}".replace("-", MINUS)
    return f"{value:.3g}".replace("-", MINUS)


def _money(value: float | None, unit: str) -> str:
    """``$1,204``; below 100 with cents; letters for a currency stand in the caption and not in each cell."""
    if value is None:
        return DASH
    text = count(value) if abs(value) >= 100 or value == int(value) else fixed(value, 2)
    sign = unit if unit in ("$", "€", "£") else ""
    return f"{MINUS}{sign}{text[1:]}" if text.startswith(MINUS) else f"{sign}{text}"
