"""Any CSV or Parquet files as records, by a YAML mapping (``lang1 ingest tables --map FILE``).

Every value is read as text and typed here, so that the row and value that fail can be named. Rows go through a DuckDB
database on disk whose cache is bounded, so an extract may be larger than memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lang1.common.errors import InputError
from lang1.common.progress import Meter
from lang1.common.settings import load_settings
from lang1.records.readers.draft_mapping import init_mapping
from lang1.records.readers.mapping import TablesMap
from lang1.records.readers.source import SourceFile, distinctly_named, find_files, name, open_source, read_into
from lang1.records.readers.staging import LEAVE_OUT_HINT, Staging, staging
from lang1.records.readers.values import Column, typed_columns
from lang1.records.rules import ALL_TABLES, at
from lang1.records.store import quoted, sql_type

__all__ = ["ingest_tables", "init_mapping"]


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
        table: distinctly_named(
            [
                open_source(path, mapped.delimiter)
                for path in find_files(map_file.parent, mapped.file, f"tables.{table}.file of {map_file.name}")
            ],
            map_file.parent,
        )
        for table, mapped in mapping.tables.items()
    }
    for table, files in sources.items():
        for ours, theirs in mapping.tables[table].columns.items():
            for file in files:
                file.need(theirs, f"for {table}.{ours}")
    paths = {table: [file.path for file in files] for table, files in sources.items()}
    with (
        staging(
            out, mapping.meta(), settings=mapping, files=paths, on_bad_rows=mapping.on_bad_rows, overwrite=overwrite
        ) as stage,
        Meter("ingest tables", len(sources), "tables") as meter,
    ):
        tables = _Tables(stage, mapping)
        for table in sources:
            tables.table(table, sources[table])
            meter.add(1, table)
    return out


class _Tables:
    """Tables by a mapping, on their way into the staging database."""

    def __init__(self, stage: Staging, mapping: TablesMap) -> None:
        self.stage, self.mapping, self.connection = stage, mapping, stage.connection

    def table(self, table: str, files: list[SourceFile]) -> None:
        """Read one table's files into a typed relation of its name with ``_file`` and ``_row``."""
        schema = ALL_TABLES[table]
        mapped = self.mapping.tables[table]
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
        read_into(
            self.connection,
            "raw",
            f"{select}_file, _row",
            files,
            list(dict.fromkeys(mapped.columns.values())),
            malformed=self.stage.leave_out if self.stage.leaves_out else None,
        )
        if table in ("patients", "encounters") and not self.stage.rows("raw"):
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
        self.connection.execute(f"CREATE VIEW typed AS SELECT {typed}, _file, _row, {bad} AS _bad FROM raw")
        found = self.connection.execute("SELECT DISTINCT _bad FROM typed WHERE _bad IS NOT NULL").fetchall()
        for column in [c for c in columns if (c,) in found]:
            self._clear(table, column, columns[column])
        keep = ", ".join([*schema.names, "_file", "_row"])
        self.connection.execute(f"CREATE TABLE {table} AS SELECT {keep} FROM typed WHERE _bad IS NULL")
        self.connection.execute("DROP VIEW typed; DROP TABLE raw")

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
            if not self.stage.leaves_out:
                raise InputError(f"{at(file, row)}: {called} {problem}; {LEAVE_OUT_HINT}")
            reason = f"{table}: {column} {'is not ' + told.expected if value is not None else 'empty'}"
            self.stage.count(reason, rows, at(file, row))


_SPACES = "' ' || chr(9) || chr(10) || chr(13) || chr(160)"


def _short(value: str, most: int = 60) -> str:
    return value if len(value) <= most else value[:most] + "…"
