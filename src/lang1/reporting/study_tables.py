"""Tables of a study as the page shows them: each number with its interval, and the paper's figure beneath it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lang1.reporting.numbers import (
    DASH,
    MINUS,
    compact,
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
BESIDE = 24  # letters of a remark that stands in its cell
ABOVE, BELOW, OPEN = "▲", "▼", "◆"


@dataclass(frozen=True)
class Shown:
    """A cell: main text, interval, the paper's figure, remarks; ``mark`` tells a difference's side.

    ``foot`` is the letter of a remark that stands below the table.
    """

    main: str = ""
    small: str = ""
    paper: str = ""
    more: Sequence[str] = ()
    mark: str = ""
    text: bool = False
    foot: str = ""


@dataclass(frozen=True)
class Row:
    """A row: its head (None where the table has no names), what is said beneath it, and the cells after it."""

    head: str | None
    about: str
    cells: Sequence[Shown]


@dataclass(frozen=True)
class Block:
    """Rows that share their first column, under it; ``about`` are counts that all of their numbers share."""

    title: str
    about: str = ""
    rows: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class View:
    """A table, ready for the template.

    ``heads``: label, help, what is said beneath (in lines), whether it is text; ``shared`` names the first column where
    rows stand under its entries.
    """

    title: str
    note: str
    heads: Sequence[tuple[str, str, Sequence[str], bool]]
    blocks: Sequence[Block]
    marks: bool
    papers: bool
    rows: int
    feet: Sequence[tuple[str, str]]
    shared: str

    @property
    def long(self) -> bool:
        """Whether it is folded."""
        return self.rows > LONG

    @property
    def density(self) -> str:
        """A class for tables of many columns."""
        return "wide" if len(self.heads) >= 10 else "dense" if len(self.heads) >= 7 else ""


def view(table: Table) -> View:
    """The table as rows of shown cells. Counts that all numbers of a column share stand in its head, once.

    Rows whose first column repeats are put under it as a heading, where a second column tells them apart. Remarks that
    are long, or stand in several cells, are said once below the table.
    """
    columns = table.columns
    grouped = _grouped(table)
    shown = columns[1:] if grouped else columns
    named = shown[0].kind in ("text", "count")
    sizes = {column.key: _shared_size(table, column) for column in shown}
    judged = [c.key for c in columns if c.kind not in ("text", "count", "money")]
    seeds = _seeds([row.get(key) for row in table.rows for key in judged], strict=True)
    remarks = _remarks(table)
    blocks: list[Block] = []
    for row in table.rows:
        title = _words(row.get(columns[0].key)) if grouped else ""
        if not blocks or (grouped and blocks[-1].title != title):
            blocks.append(Block(title, "" if any(sizes.values()) else _size_under(table, title) if grouped else ""))
        said = [] if seeds else [_trainings(_seeds([row.get(key) for key in judged], strict=False))]
        if not any(sizes.values()) and not blocks[-1].about:
            said.append(" · ".join(_size([cell for cell in row.values() if isinstance(cell, Value)])))
        cells = [_shown(row.get(c.key), c, table, remarks) for c in shown]
        about = " · ".join(x for x in [cells[0].small, *cells[0].more, *said] if x) if named else ""
        head = (cells[0].main or DASH) if named else None
        blocks[-1].rows.append(Row(head, about, cells[1:] if named else cells))
    numbers = [cell for row in table.rows for cell in row.values() if isinstance(cell, Value)]
    return View(
        table.title,
        " ".join(_said(table, numbers, seeds)),
        [(c.label, c.help, sizes[c.key], c.kind == "text") for c in shown],
        blocks,
        any(c.kind == "difference" for c in columns),
        any(v.paper is not None for v in numbers),
        len(table.rows),
        [(letter, remark) for remark, letter in remarks.items()],
        columns[0].label if grouped else "",
    )


def _said(table: Table, numbers: Sequence[Value], seeds: int | None) -> list[str]:
    """Sentences about the whole table."""
    note = table.note.strip()
    parts = [note if not note or note[-1] in ".!?" else f"{note}."]
    if any(v.low is not None for v in numbers):
        parts.append("Beneath each figure its 95 % interval.")
    if any(v.p_adjusted is not None for v in numbers):
        parts.append("In brackets p corrected for the number of comparisons.")
    if seeds:
        parts.append(f"Each figure is a mean over {plural(seeds, 'training')}." if seeds > 1 else "One training each.")
    if table.unit and any(c.kind == "money" for c in table.columns):
        parts.append(f"Money in {table.unit}.")
    return [part for part in parts if part]


def _remarks(table: Table) -> dict[str, str]:
    """Remarks that go below the table, with their letters: said in three cells or more, or longer than a cell."""
    found = [cell.note for row in table.rows for cell in row.values() if isinstance(cell, Value) and cell.note]
    below = [note for note in dict.fromkeys(found) if found.count(note) > 2 or len(note) > BESIDE]
    return {note: _letter(place) for place, note in enumerate(below)}


def _letter(place: int) -> str:
    return chr(ord("a") + place) if place < 26 else f"{_letter(place // 26 - 1)}{_letter(place % 26)}"


def _grouped(table: Table) -> bool:
    if len(table.columns) < 3 or table.columns[0].kind != "text" or table.columns[1].kind not in ("text", "count"):
        return False
    firsts = [_words(row.get(table.columns[0].key)) for row in table.rows]
    changes = 1 + sum(a != b for a, b in itertools.pairwise(firsts))
    return len(firsts) >= 2 * changes and len(set(firsts)) == changes and all(firsts)


def _words(cell: Cell) -> str:
    return cell if isinstance(cell, str) else "" if cell is None else fixed(cell.value)


def _size(values: Sequence[Value]) -> list[str]:
    """``n = 1,204`` and ``98 events`` where all agree; nothing otherwise."""
    found = {(v.n, v.events) for v in values if v.value is not None and v.n is not None}
    if len(found) != 1:
        return []
    n, events = found.pop()
    return [f"n = {count(n)}"] + ([f"{count(events)} events"] if events is not None else [])


def _size_under(table: Table, title: str) -> str:
    first = table.columns[0].key
    rows = [row for row in table.rows if _words(row.get(first)) == title]
    return " · ".join(_size([cell for row in rows for cell in row.values() if isinstance(cell, Value)]))


def _shared_size(table: Table, column: Column) -> list[str]:
    cells = [row.get(column.key) for row in table.rows]
    values = [cell for cell in cells if isinstance(cell, Value) and cell.value is not None]
    return _size(values) if len(values) > 1 or len(table.rows) == 1 else []


def _seeds(cells: Sequence[Cell], strict: bool) -> int | None:
    """How many trainings all figures are means over; ``strict``: only if every figure says so."""
    found = {cell.seeds for cell in cells if isinstance(cell, Value) and cell.value is not None}
    found = found if strict else found - {None}
    return found.pop() if len(found) == 1 else None


def _trainings(seeds: int | None) -> str:
    return "" if seeds is None else "one training" if seeds == 1 else f"{seeds} trainings"


def _shown(cell: Cell, column: Column, table: Table, remarks: Mapping[str, str]) -> Shown:
    if cell is None:
        return Shown(DASH if column.kind != "text" else "", text=column.kind == "text")
    if isinstance(cell, str):
        return Shown(cell, text=column.kind == "text")
    foot = remarks.get(cell.note or "", "")
    more = [cell.note] if cell.note and not foot else []
    if cell.value is None:
        return Shown(DASH, paper=_paper(cell, column, table), more=more, foot=foot)
    if column.kind == "difference":
        more = [_p(cell), *more] if cell.p is not None else more
        between = signed_interval(cell.low, cell.high)
        return Shown(signed(cell.value), between, _paper(cell, column, table), more, side(cell), foot=foot)
    main, small = _number(cell, column, table)
    return Shown(main, small, _paper(cell, column, table), more, foot=foot)


def side(value: Value) -> str:
    """Whether a difference's interval lies above 0, below 0, or holds it."""
    if value.low is None or value.high is None:
        return ""
    return ABOVE if value.low > 0 else BELOW if value.high < 0 else OPEN


def _p(cell: Value) -> str:
    """``p 0.012 (0.048)``: as it is, and corrected."""
    texts = [p_value(f"p = {p:.3g}") for p in (cell.p, cell.p_adjusted) if p is not None]
    return f"p {texts[0]}" + (f" ({texts[1]})" if len(texts) > 1 else "")


def _paper(cell: Value, column: Column, table: Table) -> str:
    if cell.paper is None:
        return ""
    if column.kind == "difference":
        return signed(cell.paper)
    return _number(Value(value=cell.paper), column, table)[0]


def _number(cell: Value, column: Column, table: Table) -> tuple[str, str]:
    """Main text and interval of a number by its column's kind."""
    value, low, high = cell.value, cell.low, cell.high
    if column.kind == "share":
        return percent(value), percent_interval(low, high)
    if column.kind == "count":
        return _counted(value), _between(low, high, _counted)
    if column.kind == "money":
        return _money(value, table.unit), _between(low, high, lambda v: _money(v, table.unit))
    if column.kind in ("number", "text"):
        if _small(table, column):
            return fixed(value), interval(low, high)
        return plain(value), _between(low, high, plain)
    return fixed(value), interval(low, high)


def _small(table: Table, column: Column) -> bool:
    """Whether a column's numbers all lie below 10 and are not whole, so that each is shown with three decimals."""
    cells = [row.get(column.key) for row in table.rows]
    values = [v.value for v in cells if isinstance(v, Value) and v.value is not None]
    return all(abs(v) < 10 for v in values) and any(v != int(v) and abs(v) >= 0.001 for v in values)


def _counted(value: float | None) -> str:
    """A count: whole below a million, else as 8.44 M (the CSV has it whole)."""
    return compact(value) if value is not None and abs(value) >= 1_000_000 else count(value)


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
