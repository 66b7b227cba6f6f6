"""From text to typed columns: the SQL that turns a source's values into those of the schema, or into null."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import pyarrow as pa

from lang1.common.errors import InputError, SettingsError
from lang1.records.readers.dates import BARE_DATE, DATE_ONLY, LAST_SECOND, OFFSET
from lang1.records.readers.mapping import EVERYTHING_ELSE, TableMap, TablesMap
from lang1.records.rules import ALL_TABLES, at
from lang1.records.schema import CODED
from lang1.records.store import quoted

_TIME_PARTS = ("%H", "%I", "%c", "%X", "%M")


@dataclass(frozen=True)
class Column:
    """How a column of ``raw`` is typed: SQL that is null where it cannot be, and what was expected, in words."""

    sql: str
    expected: str


def typed_columns(
    connection: duckdb.DuckDBPyConnection, table: str, mapped: TableMap, mapping: TablesMap
) -> dict[str, Column]:
    """The typing of each mapped column of ``table``, whose values lie as text in the relation ``raw``.

    Raises:
        InputError: values without a mapping, dates and times mixed in one column, times with an offset but no zone.
        SettingsError: a time format that is not one.
    """
    found: dict[str, Column] = {}
    for field in ALL_TABLES[table]:
        if field.name not in mapped.columns and field.name not in mapped.constants:
            continue
        raw, kind = field.name, field.type
        if pa.types.is_timestamp(kind):
            found[raw] = _time(connection, table, raw, mapped, mapping)
        elif pa.types.is_list(kind):
            values = f"string_split_regex({raw}, {quoted(mapped.list_separator)})"
            found[raw] = Column(
                f"list_filter(list_transform({values}, lambda x: trim(x)), lambda x: x <> '')", "a list of values"
            )
        elif pa.types.is_integer(kind):
            most = "INTEGER" if kind.bit_width == 32 else "BIGINT"
            whole = f"regexp_full_match({raw}, '[+-]?[0-9]+(\\.0*)?')"
            found[raw] = Column(
                f"CASE WHEN {whole} THEN try_cast(split_part({raw}, '.', 1) AS {most}) END", "a whole number"
            )
        elif pa.types.is_floating(kind):
            number = f"try_cast({raw} AS DOUBLE)"
            found[raw] = Column(f"CASE WHEN isfinite({number}) THEN {number} END", "a number")
        elif raw in mapped.codes or raw in CODED.get(table, {}):
            found[raw] = _coded(connection, table, raw, mapped)
        else:
            found[raw] = Column(raw, "text")
    return found


def _coded(connection: duckdb.DuckDBPyConnection, table: str, column: str, mapped: TableMap) -> Column:
    codes = mapped.codes.get(column, {})
    allowed = CODED.get(table, {}).get(column, ())
    whens = [f"WHEN {column} = {quoted(theirs)} THEN {quoted(ours)}" for theirs, ours in codes.items()]
    # Values that are ours already need no mapping, in whatever case they are written.
    whens += [f"WHEN lower({column}) = {quoted(value.lower())} THEN {quoted(value)}" for value in allowed]
    if "" in codes:
        whens.append(f"WHEN {column} IS NULL THEN {quoted(codes[''])}")
    rest = quoted(codes[EVERYTHING_ELSE]) if EVERYTHING_ELSE in codes else ("NULL" if allowed else column)
    sql = f"CASE {' '.join(whens)} WHEN {column} IS NOT NULL THEN {rest} END"
    if allowed:
        unmapped = connection.execute(
            f"SELECT {column}, count(*) FROM raw WHERE {column} IS NOT NULL AND ({sql}) IS NULL "
            f"GROUP BY 1 ORDER BY 2 DESC, 1"
        ).fetchall()
        if unmapped:
            listed = ", ".join(f"'{value[:40]}' ({rows} rows)" for value, rows in unmapped[:5])
            more = f" and {len(unmapped) - 5} more" if len(unmapped) > 5 else ""
            raise InputError(
                f"{mapped.file}: {table}.{column} has values without a mapping: {listed}{more}; map them under "
                f"tables.{table}.codes.{column} to {', '.join(allowed)}, or give a default as '*'."
            )
    return Column(sql, f"one of {', '.join(allowed)}" if allowed else "text")


def _time(
    connection: duckdb.DuckDBPyConnection, table: str, column: str, mapped: TableMap, mapping: TablesMap
) -> Column:
    formats = mapped.time_formats if mapped.time_formats is not None else mapping.time_formats
    if formats:
        with_time = [f for f in formats if any(part in f for part in _TIME_PARTS)]
        dates = [f for f in formats if f not in with_time]
        time, date = _strptime(column, with_time), _strptime(column, dates)
        expected = f"a time written as {' or '.join(formats)}"
        try:
            connection.execute(f"SELECT {time}, {date} FROM (SELECT '' AS {column}) LIMIT 0").fetchall()
        except duckdb.Error as error:
            where = f"tables.{table}.time_formats" if mapped.time_formats is not None else "time_formats"
            raise SettingsError(f"{where} is {formats}: {str(error).splitlines()[0]}") from error
    else:
        is_date = f"regexp_full_match({column}, '{BARE_DATE}')"
        time = f"CASE WHEN NOT {is_date} THEN {_iso(connection, table, column, mapped, mapping)} END"
        date = f"CASE WHEN {is_date} THEN try_cast({column} AS TIMESTAMP) END"
        expected = "a time such as 2024-01-31 14:05 (other ways of writing: time_formats)"
    policy = mapped.dates_without_time.get(column)
    if policy is None:
        policy = DATE_ONLY[column]
        mixed = connection.execute(
            f"SELECT _file, _row, {column} FROM raw WHERE ({date}) IS NOT NULL AND ({time}) IS NULL "
            f"AND EXISTS (SELECT 1 FROM raw WHERE ({time}) IS NOT NULL) ORDER BY 1, 2 LIMIT 1"
        ).fetchall()
        if mixed:
            file, row, value = mixed[0]
            raise InputError(
                f"{at(file, row)}: {table}.{column} is '{value}', a date without a time, while other rows have times; "
                f"say what it stands for: tables.{table}.dates_without_time: {{{column}: start_of_day | end_of_day}}."
            )
    if policy == "end_of_day":
        date = f"({date}) + {LAST_SECOND}"
    return Column(f"coalesce({time}, {date})", expected)


def _strptime(column: str, formats: list[str]) -> str:
    return f"try_strptime({column}, [{', '.join(quoted(f) for f in formats)}])" if formats else "NULL::TIMESTAMP"


def _iso(connection: duckdb.DuckDBPyConnection, table: str, column: str, mapped: TableMap, mapping: TablesMap) -> str:
    """ISO 8601, with a UTC offset only where the mapping says which zone's local time is wanted."""
    offset = f"regexp_matches({column}, '{OFFSET}')"
    if mapping.time_zone is None:
        found = connection.execute(
            f"SELECT _file, _row, {column} FROM raw WHERE {offset} ORDER BY 1, 2 LIMIT 1"
        ).fetchall()
        if found:
            file, row, value = found[0]
            raise InputError(
                f"{at(file, row)}: {table}.{column} is '{value}', a time with a UTC offset; set `time_zone` (e.g. "
                f"America/New_York) so that it becomes local hospital time."
            )
        return f"try_cast({column} AS TIMESTAMP)"
    zone = quoted(mapping.time_zone)
    try:
        connection.execute(f"SELECT timezone({zone}, TIMESTAMPTZ '2024-01-01 00:00:00+00')").fetchall()
    except duckdb.Error as error:
        raise SettingsError(f"time_zone is '{mapping.time_zone}': {str(error).splitlines()[0]}") from error
    local = f"timezone({zone}, try_cast({column} AS TIMESTAMPTZ))"
    return f"CASE WHEN {offset} THEN {local} ELSE try_cast({column} AS TIMESTAMP) END"
