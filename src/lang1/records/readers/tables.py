"""Any CSV or Parquet files as records, by a YAML mapping (``lang1 ingest tables --map FILE``).

Every value is read as text and typed here, so that the row and value that fail can be named. Rows go through a DuckDB
database on disk whose cache is bounded, so an extract may be larger than memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import duckdb
import pyarrow as pa

from lang1.common.artefact import InputRef, file_sha256
from lang1.common.errors import InputError
from lang1.common.progress import Meter
from lang1.common.settings import load_settings
from lang1.records.readers.draft_mapping import init_mapping
from lang1.records.readers.mapping import TablesMap
from lang1.records.readers.source import SourceFile, find_files, name, open_source, read_into
from lang1.records.readers.values import Column, typed_columns
from lang1.records.rules import ALL_TABLES, at, check, rules
from lang1.records.store import RecordsDraft, new_records, quoted, sql_type

__all__ = ["ingest_tables", "init_mapping"]

LEAVE_OUT_HINT = "mend it, or set `on_bad_rows: leave_out` to leave such rows out, counted."


def ingest_tables(map_file: Path, out: Path, overrides: Iterable[str] = (), *, overwrite: bool = False) -> Path:
    """Write a records folder from the files that a mapping names.

    Args:
        map_file: YAML, see :class:`~lang1.records.readers.mapping.TablesMap`; files are relative to its folder.
        out: the folder to write.
        overrides: ``section.field=value`` changes to the mapping.

    Returns:
        ``out``.

    Raises:
        SettingsError: the mapping is not understood.
        InputError: a missing file or column, or a row that breaks a rule: one line that names file, row and value.
    """
    mapping = load_settings(TablesMap, map_file, overrides)
    sources = {
        table: [
            open_source(path, mapped.delimiter)
            for path in find_files(map_file.parent, mapped.file, f"tables.{table}.file of {map_file.name}")
        ]
        for table, mapped in mapping.tables.items()
    }
    for table, files in sources.items():
        for ours, theirs in mapping.tables[table].columns.items():
            for file in files:
                file.need(theirs, f"for {table}.{ours}")
    inputs = {
        f"{table}/{file.path.name}": InputRef(path=str(file.path), kind="file", fingerprint=file_sha256(file.path))
        for table, files in sources.items()
        for file in files
    }
    with new_records(out, mapping.meta(), settings=mapping, inputs=inputs, overwrite=overwrite) as draft:
        staging = draft.path / ".staging"
        staging.mkdir()
        config: dict[str, str | bool | int | float | list[str]] = {"memory_limit": "2GB", "threads": 2}
        config["temp_directory"] = str(staging / "spill")
        with duckdb.connect(str(staging / "rows.duckdb"), config=config) as connection:
            stage = _Stage(connection, mapping, draft)
            with Meter("ingest tables", len(sources), "tables") as meter:
                for table in ALL_TABLES:
                    stage.table(table, sources.get(table, []))
                    if table in sources:
                        meter.add(1, table)
            stage.keep_rules()
            for table in sources:
                stage.write(table)
        shutil.rmtree(staging)
    return out


class _Stage:
    """Source rows on their way: read as text, typed, cleared of bad rows, written."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, mapping: TablesMap, draft: RecordsDraft) -> None:
        self.connection, self.mapping, self.draft = connection, mapping, draft
        self.leave_out = mapping.on_bad_rows == "leave_out"
        self.examples: dict[str, str] = {}

    def table(self, table: str, files: list[SourceFile]) -> None:
        """Read one table's files into a typed relation of its name with ``_file`` and ``_row``."""
        schema = ALL_TABLES[table]
        mapped = self.mapping.tables.get(table)
        if mapped is None:
            typed = ", ".join(f"{field.name} {sql_type(field.type)}" for field in schema)
            self.connection.execute(f"CREATE TABLE {table} ({typed}, _file VARCHAR, _row BIGINT)")
            return
        given = [field for field in schema if field.name in mapped.columns or field.name in mapped.constants]
        read = {
            f.name: name(mapped.columns[f.name]) if f.name in mapped.columns else quoted(mapped.constants[f.name])
            for f in given
        }
        self.connection.execute(
            f"CREATE TABLE raw ({''.join(f'{f.name} VARCHAR, ' for f in given)}_file VARCHAR, _row BIGINT)"
        )
        nulls = ", ".join(quoted(value.strip()) for value in ["", *self.mapping.null_values])
        select = "".join(
            # A note's text is kept to the letter; other values lose the spaces around them.
            f"coalesce({sql}, ''), "
            if column == "text" and table == "notes"
            else f"CASE WHEN trim({sql}, {_SPACES}) NOT IN ({nulls}) THEN trim({sql}, {_SPACES}) END, "
            for column, sql in read.items()
        )
        read_into(self.connection, "raw", f"{select}_file, _row", files, list(dict.fromkeys(mapped.columns.values())))
        if table in ("patients", "encounters") and not self._rows("raw"):
            raise InputError(f"{mapped.file}: no rows below the header, so {table} would be empty; check the extract.")
        columns = typed_columns(self.connection, table, mapped, self.mapping)
        self._type(table, columns)

    def _type(self, table: str, columns: dict[str, Column]) -> None:
        schema = ALL_TABLES[table]
        typed = ", ".join(
            f"{columns[f.name].sql if f.name in columns else 'NULL'}::{sql_type(f.type)} AS {f.name}" for f in schema
        )
        faults = "".join(
            f" WHEN {column} IS NOT NULL AND ({told.sql}) IS NULL THEN {quoted(column)}"
            for column, told in columns.items()
        ) + "".join(f" WHEN ({columns[f.name].sql}) IS NULL THEN {quoted(f.name)}" for f in schema if not f.nullable)
        bad = f"CASE{faults} END" if faults else "NULL"
        self.connection.execute(f"CREATE TABLE typed AS SELECT {typed}, _file, _row, {bad} AS _bad FROM raw")
        found = self.connection.execute("SELECT DISTINCT _bad FROM typed WHERE _bad IS NOT NULL").fetchall()
        for column in [c for c in columns if (c,) in found]:
            self._clear(table, column, columns[column])
        keep = ", ".join([*schema.names, "_file", "_row"])
        self.connection.execute(f"CREATE TABLE {table} AS SELECT {keep} FROM typed WHERE _bad IS NULL")
        self.connection.execute("DROP TABLE typed; DROP TABLE raw")

    def _clear(self, table: str, column: str, told: Column) -> None:
        """Refuse or count the rows whose value in a column is empty where required, or of another type."""
        found = self.connection.execute(
            f"SELECT b._file, b._row, r.{column}, count(*) OVER (PARTITION BY r.{column} IS NULL) "
            f"FROM typed b JOIN raw r ON b._file = r._file AND b._row = r._row WHERE b._bad = {quoted(column)} "
            f"QUALIFY row_number() OVER (PARTITION BY r.{column} IS NULL ORDER BY b._file, b._row) = 1 "
            f"ORDER BY b._file, b._row"
        ).fetchall()
        theirs = self.mapping.tables[table].columns.get(column)
        called = f"{table}.{column}" + (f" ('{theirs}')" if theirs else "")
        for file, row, value, rows in found:
            problem = (
                f"is '{_short(value)}', expected {told.expected}" if value is not None else "is empty and is required"
            )
            if not self.leave_out:
                raise InputError(f"{at(file, row)}: {called} {problem}; {LEAVE_OUT_HINT}")
            reason = f"{table}: {column} {'is not ' + told.expected if value is not None else 'empty'}"
            self._count(reason, rows, at(file, row))

    def keep_rules(self) -> None:
        """Refuse or leave out, with a count, the rows that break a rule of ``records/rules.py``."""
        if self.leave_out:
            for rule in rules(self.mapping.time_basis):
                found = self.connection.execute(f"{rule.bad_rows} ORDER BY t._file, t._row").fetchmany(1)
                if not found:
                    continue
                rows = self._rows(f"({rule.bad_rows})")
                self.connection.execute(
                    f"DELETE FROM {rule.table} WHERE (_file, _row) IN (SELECT (_file, _row) FROM ({rule.bad_rows}))"
                )
                self._count(f"{rule.table}: {rule.reason}", rows, at(found[0][0], found[0][1]))
        check(self.connection, self.mapping.time_basis, LEAVE_OUT_HINT)
        if self.examples:
            self.draft.extra["left_out_examples"] = self.examples

    def write(self, table: str) -> None:
        """Write a staged table, in the order of the source."""
        rows = self.connection.sql(f"SELECT {', '.join(ALL_TABLES[table].names)} FROM {table}")
        self.draft.write_stream(table, pa.RecordBatchReader.from_stream(rows))

    def _count(self, reason: str, rows: int, example: str) -> None:
        self.draft.leave_out(reason, rows)
        self.examples.setdefault(reason, example)

    def _rows(self, relation: str) -> int:
        return int(self.connection.execute(f"SELECT count(*) FROM {relation}").fetchall()[0][0])


_SPACES = "' ' || chr(9) || chr(10) || chr(13) || chr(160)"


def _short(value: str, most: int = 60) -> str:
    return value if len(value) <= most else value[:most] + "…"
