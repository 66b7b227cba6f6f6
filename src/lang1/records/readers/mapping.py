"""The mapping file of ``lang1 ingest tables``: which file and column becomes which column of the records."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from lang1.common.settings import Settings
from lang1.records.readers.dates import DayPart
from lang1.records.readers.source import LIST_SEPARATOR
from lang1.records.rules import ALL_TABLES, time_columns
from lang1.records.schema import CODED, TABLES
from lang1.records.store import RecordsMeta

EVERYTHING_ELSE = "*"


class TableMap(Settings):
    """Where one table of the records comes from."""

    file: str  # path or glob, relative to the mapping file
    columns: dict[str, str] = Field(default_factory=dict)  # our column: their column
    constants: dict[str, str] = Field(default_factory=dict)  # our column: one value for all rows
    codes: dict[str, dict[str, str]] = Field(default_factory=dict)  # our column: {their value: our value}
    time_formats: list[str] | None = None  # strptime patterns; None: those of the whole mapping
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    list_separator: str = LIST_SEPARATOR  # regular expression that parts the values of a list column
    dates_without_time: dict[str, DayPart] = Field(default_factory=dict)  # our column: what a bare date stands for

    @field_validator("columns", "constants", mode="before")
    @classmethod
    def _text(cls, values: Any) -> Any:
        return _as_text(values) if isinstance(values, Mapping) else values

    @field_validator("codes", mode="before")
    @classmethod
    def _texts(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {k: _as_text(v) if isinstance(v, Mapping) else v for k, v in values.items()}


class TablesMap(RecordsMeta):
    """A whole mapping file: what the records say about themselves, and one entry a table."""

    real: bool = True
    on_bad_rows: Literal["refuse", "leave_out"] = "refuse"
    null_values: list[str] = Field(default_factory=lambda: ["", "NULL"])  # besides, spaces around a value are ignored
    time_formats: list[str] = Field(default_factory=list)  # strptime patterns; none: ISO 8601
    time_zone: str | None = None  # IANA name; times with a UTC offset are turned into this zone's local time
    tables: dict[str, TableMap]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for table in ("patients", "encounters"):
            if table not in self.tables:
                raise ValueError(f"tables lacks '{table}'; say which file holds it")
        for table, mapped in self.tables.items():
            if table not in ALL_TABLES:
                raise ValueError(f"tables names '{table}'; tables are {', '.join(ALL_TABLES)}")
            self._check_table(table, mapped)
            dated = self.time_basis == "calendar" and table in TABLES and table != "patients"
            if dated and table not in self.complete_through:
                raise ValueError(
                    f"complete_through lacks '{table}'; say through when the extract of it is complete, as "
                    f"{table}: {{through: 2024-12-31, key: discharge_time}}"
                )
        return self

    def _check_table(self, table: str, mapped: TableMap) -> None:
        schema = ALL_TABLES[table]
        given = [*mapped.columns, *mapped.constants]
        for column in [*given, *mapped.codes, *mapped.dates_without_time]:
            if column not in schema.names:
                near = difflib.get_close_matches(column, schema.names, n=1)
                hint = f"did you mean '{near[0]}'" if near else f"columns are {', '.join(schema.names)}"
                raise ValueError(f"tables.{table} maps to '{column}', which is not a column of {table}; {hint}")
        for column in mapped.columns:
            if column in mapped.constants:
                raise ValueError(f"tables.{table}: '{column}' has both a column and a constant; keep one")
        for field in schema:
            if not field.nullable and field.name not in given:
                raise ValueError(f"tables.{table}.columns lacks '{field.name}', which is required")
        for column in mapped.dates_without_time:
            if column not in time_columns(table):
                raise ValueError(f"tables.{table}.dates_without_time: '{column}' holds no time")
        for column, values in mapped.codes.items():
            if column not in given:
                raise ValueError(f"tables.{table}.codes has '{column}', which is not mapped")
            allowed = CODED.get(table, {}).get(column)
            for theirs, ours in values.items():
                if allowed and ours not in allowed:
                    raise ValueError(
                        f"tables.{table}.codes.{column}: '{theirs}' is mapped to '{ours}', expected one of "
                        f"{', '.join(allowed)}"
                    )
        try:
            re.compile(mapped.list_separator)
        except re.error as error:
            raise ValueError(f"tables.{table}.list_separator is not a regular expression ({error})") from error

    def meta(self) -> RecordsMeta:
        """What the records say about themselves."""
        return RecordsMeta(**{name: getattr(self, name) for name in RecordsMeta.model_fields})


def _as_text(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Keys and values as text: YAML reads 1 as a number, and an unquoted Yes, No, on or off as true or false."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        for part in (key, value):
            if isinstance(part, bool):
                raise ValueError(
                    f"'{key}: {value}' was read as true or false; put yes, no, on, off and the like in quotes"
                )
        found[str(key)] = value if isinstance(value, (str, list, dict)) else str(value)
    return found
