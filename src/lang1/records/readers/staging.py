"""Staging: source rows of a foreign format on their way into records.

Rows are read as text into a DuckDB database that spills to disk beyond a bound (an extract may be larger than memory),
turned into the tables of the schema by one SQL query a table, typed, cleared of rows that break a rule, and written.
Every row that is not taken is counted by reason and the first of each reason is named by file and row.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow as pa
from pydantic import BaseModel

from lang1.common.artefact import InputRef, file_sha256
from lang1.common.errors import InputError
from lang1.records.readers.dates import DATE_ONLY, DayPart, iso_time
from lang1.records.readers.source import ParquetParts, SourceFile, gathered, name, read_into
from lang1.records.rules import ALL_TABLES, at, check, rules
from lang1.records.schema import CODED, OPTIONAL_TABLES
from lang1.records.store import RecordsDraft, RecordsMeta, new_records, quoted, sql_type

OnBadRows = Literal["refuse", "leave_out"]
LEAVE_OUT_HINT = "mend it, or set `on_bad_rows: leave_out` to leave such rows out, counted."
MEMORY = "2GB"
THREADS = 2


class Staging:
    """Source rows on their way: read as text, typed, cleared of bad rows, written. See :func:`staging`."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        draft: RecordsDraft,
        meta: RecordsMeta,
        on_bad_rows: OnBadRows = "leave_out",
    ) -> None:
        self.connection, self.draft, self.meta = connection, draft, meta
        self.leaves_out = on_bad_rows == "leave_out"
        self.examples: dict[str, str] = {}
        # Columns of the source that hold whole numbers, and lose the ".0" with which some tools write them.
        self.whole_numbers: frozenset[str] = frozenset()

    def read(
        self, relation: str, files: Sequence[SourceFile], columns: Sequence[str], optional: Sequence[str] = ()
    ) -> int:
        """Read columns of CSV or Parquet files as text into ``relation``, with ``_file`` and ``_row``; returns rows.

        Values lose the spaces around them and empty ones become null, ``text`` columns aside. ``optional`` columns that
        a file lacks are null. Rows that are not well-formed CSV are refused or left out, counted.

        Raises:
            InputError: a file lacks a column, is not readable, or (refuse) holds a malformed row.
        """
        typed = "".join(f"{name(column)} VARCHAR, " for column in [*columns, *optional])
        self.connection.execute(f"CREATE TABLE {relation} ({typed}_file VARCHAR, _row BIGINT)")
        for file in gathered(files):
            there = {column.lower() for column in file.columns}
            for column in columns:
                if column.lower() not in there:
                    file.need(column, f"for {relation}")
            present = [column for column in [*columns, *optional] if column.lower() in there]
            given = [next(c for c in file.columns if c.lower() == column.lower()) for column in present]
            values = "".join(
                f"{self.value(ours, theirs)} AS {name(ours)}, " for ours, theirs in zip(present, given, strict=True)
            )
            values += "".join(f"NULL AS {name(c)}, " for c in optional if c not in present)
            told = self.leave_out if self.leaves_out else None
            if file.kind == "parquet":
                parts = file.parts if isinstance(file, ParquetParts) else [file]
                read_into(self.connection, f"{relation} BY NAME", f"{values}_file, _row", parts, given)
                continue
            # Apart, since the numbers of a file's rows are put right after lines of it were left out.
            self.connection.execute(f"CREATE TEMP TABLE arriving AS SELECT * FROM {relation} LIMIT 0")
            read_into(self.connection, "arriving BY NAME", f"{values}_file, _row", [file], given, malformed=told)
            self.connection.execute(f"INSERT INTO {relation} SELECT * FROM arriving; DROP TABLE arriving")
        return self.rows(relation)

    def value(self, ours: str, theirs: str) -> str:
        """SQL: a source column ``theirs`` as :meth:`read` takes it."""
        if ours.lower() == "text":
            return name(theirs)
        if ours.lower() in self.whole_numbers:
            return f"nullif(regexp_replace(trim({name(theirs)}), '^([0-9]+)\\.0+$', '\\1'), '')"
        return f"nullif(trim({name(theirs)}), '')"

    def load(self, relation: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
        """Append a reader's own Arrow batches, ``_file`` and ``_row`` included; returns the rows there are."""
        exists = self.connection.execute(
            f"SELECT 1 FROM duckdb_tables() WHERE table_name = {quoted(relation)}"
        ).fetchall()
        first = schema.empty_table()
        self.connection.register("arriving_batch", first)
        if not exists:
            self.connection.execute(f"CREATE TABLE {relation} AS SELECT * FROM arriving_batch")
        for batch in batches:
            self.connection.register("arriving_batch", pa.Table.from_batches([batch], schema=schema))
            self.connection.execute(f"INSERT INTO {relation} BY NAME SELECT * FROM arriving_batch")
        self.connection.unregister("arriving_batch")
        return self.rows(relation)

    def coded(self, relation: str, column: str, codes: Mapping[str, str], default: str | None) -> str:
        """SQL that turns a source's values into ours, case ignored; what has no code becomes ``default``, counted.

        Values without a code are counted by value in ``manifest.counts.unmapped`` (the fifty most frequent).
        """
        listed = ", ".join(quoted(theirs.lower()) for theirs in codes) or "''"
        unmapped = self.connection.execute(
            f"SELECT {name(column)}, count(*) AS n FROM {relation} WHERE {name(column)} IS NOT NULL "
            f"AND lower({name(column)}) NOT IN ({listed}) GROUP BY 1 ORDER BY n DESC, 1 LIMIT 50"
        ).fetchall()
        if unmapped:
            self.draft.counts.setdefault("unmapped", {})[f"{relation}.{column}"] = {
                f"{value} (taken as {default})": rows for value, rows in unmapped
            }
        cases = " ".join(f"WHEN {quoted(theirs.lower())} THEN {quoted(ours)}" for theirs, ours in codes.items())
        otherwise = "NULL" if default is None else f"CASE WHEN {name(column)} IS NOT NULL THEN {quoted(default)} END"
        return f"CASE lower({name(column)}) {cases} ELSE {otherwise} END" if cases else otherwise

    def put(self, table: str, select: str, *, days: Mapping[str, DayPart] | None = None) -> int:
        """Fill a table of the records from a query; returns the rows taken.

        ``select`` yields columns named as the schema's (missing ones become null), ``_file`` and ``_row``, and
        optionally ``_bad``: why a row cannot be taken (null for good ones), in words without the row's values. Text is
        typed here: times in ISO 8601 without an offset, a bare date counting from the end of the day for inputs of a
        model and from its start for outcomes (``days`` overrides by column); typed columns are taken as they are.

        Raises:
            InputError: (refuse) a row without a required value, with a value of another type, or marked ``_bad``.
        """
        schema = ALL_TABLES[table]
        # With two threads DuckDB 2.0 now and then stores the row groups of a large table out of order (300,000 notes:
        # one run in two), and the same input would not give the same bytes.
        self.connection.execute("SET threads = 1")
        self.connection.execute(f"CREATE OR REPLACE TEMP TABLE putting AS {select}")
        kinds = {row[0]: row[1] for row in self.connection.execute("DESCRIBE putting").fetchall()}
        unknown = [c for c in kinds if c not in schema.names and c not in ("_file", "_row", "_bad")]
        assert not unknown, f"{table}: the query yields {unknown}, which the schema has not"
        columns: dict[str, str] = {}
        faults = ["WHEN _bad IS NOT NULL THEN _bad"] if "_bad" in kinds else []
        for field in schema:
            column = field.name
            if column not in kinds:
                columns[column] = f"NULL::{sql_type(field.type)}"
                assert field.nullable, f"{table}: the query yields no {column}, which is required"
                continue
            sql, expected = self._typed(table, column, field.type, kinds[column], days or {})
            columns[column] = sql
            if sql != name(column):
                faults.append(
                    f"WHEN {name(column)} IS NOT NULL AND ({sql}) IS NULL THEN {quoted(f'{column} is not {expected}')}"
                )
            if not field.nullable:
                faults.append(f"WHEN {name(column)} IS NULL THEN {quoted(f'{column} is empty')}")
        listed = ", ".join(
            f"({sql})::{sql_type(schema.field(column).type)} AS {column}" for column, sql in columns.items()
        )
        bad = f"CASE {' '.join(faults)} END" if faults else "NULL"
        self.connection.execute(
            f"CREATE OR REPLACE TEMP VIEW typed AS SELECT {listed}, _file, _row, {bad} AS _why FROM putting"
        )
        for why, rows, file, row in self.connection.execute(
            "SELECT _why, count(*), arg_min(_file, (_file, _row)), arg_min(_row, (_file, _row)) FROM typed "
            "WHERE _why IS NOT NULL GROUP BY 1 ORDER BY 1"
        ).fetchall():
            self.leave_out(f"{table}: {why}", rows, at(file, row))
        into = f"CREATE TABLE {table} AS" if not self._has(table) else f"INSERT INTO {table}"
        names = ", ".join([*schema.names, "_file", "_row"])
        self.connection.execute(f"{into} SELECT {names} FROM typed WHERE _why IS NULL")
        self.connection.execute(f"DROP VIEW typed; DROP TABLE putting; SET threads = {THREADS}")
        return self.rows(table)

    def leave_out(self, reason: str, rows: int, example: str) -> None:
        """Count rows that are not taken.

        Raises:
            InputError: rows are to be refused.
        """
        if not rows:
            return
        if not self.leaves_out:
            more = f" ({rows - 1} more such rows)" if rows > 1 else ""
            raise InputError(f"{example}: {reason}{more}; {LEAVE_OUT_HINT}")
        self.count(reason, rows, example)

    def count(self, reason: str, rows: int, example: str) -> None:
        """Count rows that a format's rules leave aside (not errors): also where bad rows are refused."""
        if rows:
            self.draft.leave_out(reason, rows)
            self.examples.setdefault(reason, example)

    def set_aside(self, relation: str, where: str, reason: str) -> int:
        """Remove the rows of a read relation for which ``where`` is true, counted under ``reason``; returns how many.

        For rows that are sound but not what records hold (an error entry, a cancelled visit); see :meth:`count`.
        """
        found = self.connection.execute(
            f"SELECT count(*), arg_min(_file, (_file, _row)), arg_min(_row, (_file, _row)) "
            f"FROM {relation} WHERE {where}"
        ).fetchall()
        rows, file, row = found[0]
        if rows:
            self.connection.execute(f"DELETE FROM {relation} WHERE {where}")
            self.count(f"{relation}: {reason}", rows, at(file, row))
        return int(rows)

    def keep_rules(self) -> None:
        """Refuse or leave out, counted, rows that break a rule of ``records/rules.py``, and what hangs on them."""
        for table, schema in ALL_TABLES.items():
            if not self._has(table):
                typed = ", ".join(f"{field.name} {sql_type(field.type)}" for field in schema)
                self.connection.execute(f"CREATE TABLE {table} ({typed}, _file VARCHAR, _row BIGINT)")
        if self.leaves_out:
            for rule in rules(self.meta.time_basis):
                self.connection.execute(f"CREATE OR REPLACE TEMP TABLE breaches AS {rule.bad_rows}")
                rows = self.rows("breaches")
                if not rows:
                    continue
                first = self.connection.execute("SELECT _file, _row FROM breaches ORDER BY ALL LIMIT 1").fetchall()[0]
                self.connection.execute(
                    f"DELETE FROM {rule.table} WHERE (_file, _row) IN (SELECT (_file, _row) FROM breaches)"
                )
                self.count(f"{rule.table}: {rule.reason}", rows, at(*first))
        check(self.connection, self.meta.time_basis, LEAVE_OUT_HINT)
        if self.examples:
            self.draft.extra["left_out_examples"] = dict(sorted(self.examples.items()))

    def write(self) -> None:
        """Write the staged tables in the order of the source; optional ones without rows are not written."""
        for table, schema in ALL_TABLES.items():
            if table in OPTIONAL_TABLES and not self.rows(table):
                continue
            rows = self.connection.sql(f"SELECT {', '.join(schema.names)} FROM {table}")
            self.draft.write_stream(table, pa.RecordBatchReader.from_stream(rows))

    def rows(self, relation: str) -> int:
        """How many rows a relation has."""
        return int(self.connection.execute(f"SELECT count(*) FROM {relation}").fetchall()[0][0])

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        return list(self.connection.execute(sql).fetchall())

    def _has(self, table: str) -> bool:
        return bool(self.ask(f"SELECT 1 FROM duckdb_tables() WHERE table_name = {quoted(table)} AND NOT temporary"))

    def _typed(
        self, table: str, column: str, kind: pa.DataType, given: str, days: Mapping[str, DayPart]
    ) -> tuple[str, str]:
        """SQL that types a column of ``putting`` (null where it cannot be), and what was expected."""
        source = name(column)
        allowed = CODED.get(table, {}).get(column)
        if allowed:
            listed = ", ".join(quoted(value) for value in allowed)
            return f"CASE WHEN {source} IN ({listed}) THEN {source} END", f"one of {', '.join(allowed)}"
        if given != "VARCHAR":
            return source, ""
        if pa.types.is_timestamp(kind):
            part = days.get(column) or DATE_ONLY.get(column, "start_of_day")
            return iso_time(source, part), "a time such as 2024-01-31 14:05"
        if pa.types.is_integer(kind):
            most = "INTEGER" if kind.bit_width == 32 else "BIGINT"
            whole = f"regexp_full_match({source}, '[+-]?[0-9]+(\\.0*)?')"
            return f"CASE WHEN {whole} THEN try_cast(split_part({source}, '.', 1) AS {most}) END", "a whole number"
        if pa.types.is_floating(kind):
            number = f"try_cast({source} AS DOUBLE)"
            return f"CASE WHEN isfinite({number}) THEN {number} END", "a number"
        return source, ""


@contextmanager
def staging(
    out: Path,
    meta: RecordsMeta,
    *,
    settings: BaseModel | Mapping[str, Any],
    files: Mapping[str, Sequence[Path]] | None = None,
    inputs: Mapping[str, Any] | None = None,
    on_bad_rows: OnBadRows = "leave_out",
    overwrite: bool = False,
) -> Iterator[Staging]:
    """Write a records folder through a staging database: yields a :class:`Staging`, then keeps the rules and writes.

    Nothing half-made is left behind when it is interrupted. ``files`` (by the name of what they hold) are fingerprinted
    into the manifest's inputs.

    Raises:
        ArtefactError: ``out`` exists already and ``overwrite`` is false.
        InputError: a row that cannot be taken (refuse), or no patients or encounters at all.
    """
    refs: dict[str, Any] = dict(inputs or {})
    for kind, paths in (files or {}).items():
        for path in paths:
            key = f"{kind}/{path.name}"
            above = iter(path.parents)
            while key in refs:  # parts of one name in several folders
                key = f"{kind}/{next(above).name}/{key.removeprefix(f'{kind}/')}"
            refs[key] = InputRef(path=str(path), kind="file", fingerprint=file_sha256(path))
    with new_records(out, meta, settings=settings, inputs=refs, overwrite=overwrite) as draft:
        place = draft.path / ".staging"
        place.mkdir()
        config: dict[str, str | bool | int | float | list[str]] = {"memory_limit": MEMORY, "threads": THREADS}
        config["temp_directory"] = str(place / "spill")
        # In memory, and spilled uncompressed to disk beyond the limit: a database file took twice as long, compressing
        # text that is read once (500,000 notes: 6.6 s against 15 s in all).
        with duckdb.connect(":memory:", config=config) as connection:
            stage = Staging(connection, draft, meta, on_bad_rows)
            yield stage
            stage.keep_rules()
            stage.write()
        shutil.rmtree(place)
