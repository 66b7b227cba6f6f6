"""Records folders: one health system as Parquet tables, written once, validated, read with DuckDB.

See ``docs/records.md`` for the tables, units and time semantics, ``records/schema.py`` for the columns and
``records/rules.py`` for the rules.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, Literal, Self

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from lang1.common.artefact import Draft, Folder, InputRef, new_folder, open_folder
from lang1.common.errors import ArtefactError, InputError
from lang1.common.identity import write_patient_hashes
from lang1.common.sections import sections
from lang1.common.settings import Settings
from lang1.records.rules import ALL_TABLES, check, time_columns
from lang1.records.schema import CODED, TABLES, TimeBasis

KIND = "records"
ROW_GROUP_ROWS = 65_536
PART_ROWS = 25_000
MEMORY_LIMIT = "2GB"
MOST_THREADS = 4


class CompleteThrough(Settings):
    """Through when a table is complete, and which time of a row decides that it is in the extract."""

    through: datetime  # naive local hospital time; a date alone means the whole of that day
    key: str  # e.g. "discharge_time": stays still open at the end are missing; "admit_time": they are there

    @field_validator("through", mode="before")
    @classmethod
    def _whole_day(cls, value: Any) -> Any:
        return _end_of_day(value)


class VitalStatus(Settings):
    """Where deaths were learnt and through when deaths are known."""

    source: Literal["ehr", "registry", "both", "none"] = "none"
    through: datetime | None = None  # a date alone means the whole of that day

    @field_validator("through", mode="before")
    @classmethod
    def _whole_day(cls, value: Any) -> Any:
        return _end_of_day(value)


class Limit(Settings):
    """A task that the records cannot support, and why; for variants of the task too."""

    task: str
    reason: str


class RecordsMeta(Settings):
    """What a records folder says about itself in ``manifest.extra``."""

    system: str
    time_basis: TimeBasis
    complete_through: dict[str, CompleteThrough] = Field(default_factory=dict)
    vital_status: VitalStatus = VitalStatus()
    source: str = ""
    real: bool = False
    licence: str | None = None
    notes: str = ""
    limits: tuple[Limit, ...] = ()

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.complete_through and self.time_basis in ("ordinal", "none"):
            raise ValueError(f"complete_through needs times, and time_basis is {self.time_basis}")
        for table, complete in self.complete_through.items():
            if table not in TABLES:
                raise ValueError(f"complete_through names '{table}'; tables are {', '.join(TABLES)}")
            known = list(dict.fromkeys([*time_columns(table), *time_columns("encounters")]))
            if complete.key not in known:
                raise ValueError(f"complete_through.{table}.key is '{complete.key}'; expected {' or '.join(known)}")
        return self


def _end_of_day(value: Any) -> Any:
    if isinstance(value, str) and len(value.strip()) == len("2024-12-31"):
        try:
            value = date.fromisoformat(value.strip())
        except ValueError:
            return value
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime.combine(value, time(23, 59, 59))
    return value


def write_table_part(folder: Path, table: str, data: pa.Table, part: int) -> int:
    """Write one part of a table to ``folder/TABLE/part-NNNNN.parquet``; same rows, same bytes. Returns rows.

    Columns are cast to the schema; missing nullable columns become null. Safe to call from worker processes, each with
    part numbers of its own.

    Raises:
        InputError: an unknown table or column, a missing required column, a wrong type, a null or value not allowed.
    """
    cast = conform(table, data)
    place = folder / table
    place.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        cast.combine_chunks(),
        place / f"part-{part:05d}.parquet",
        compression="zstd",
        row_group_size=ROW_GROUP_ROWS,
        use_dictionary=[name for name in cast.column_names if name != "text"],
    )
    return int(cast.num_rows)


def conform(table: str, data: pa.Table) -> pa.Table:
    """Cast a table to its schema; see :func:`write_table_part` for what is refused."""
    schema = ALL_TABLES.get(table)
    if schema is None:
        raise InputError(f"'{table}' is not a table of records; tables are {', '.join(ALL_TABLES)}.")
    unknown = [name for name in data.column_names if name not in schema.names]
    if unknown:
        raise InputError(f"{table}: unknown column '{unknown[0]}'; columns are {', '.join(schema.names)}.")
    columns = []
    for field in schema:
        if field.name not in data.column_names:
            if not field.nullable:
                raise InputError(f"{table}: column '{field.name}' is missing and is required.")
            columns.append(pa.nulls(data.num_rows, field.type))
            continue
        try:
            column = data[field.name].cast(field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(f"{table}.{field.name}: expected {field.type}: {error}.") from error
        if not field.nullable and column.null_count:
            row = int(pc.index(column.is_null(), True).as_py()) + 1
            raise InputError(f"{table} row {row}: '{field.name}' is empty and is required.")
        allowed = CODED.get(table, {}).get(field.name)
        if allowed:
            for value in pc.unique(column).to_pylist():
                if value is not None and value not in allowed:
                    row = int(pc.index(column, value).as_py()) + 1
                    raise InputError(f"{table} row {row}: {_not_allowed(field.name, value, allowed)}.")
        columns.append(column)
    return pa.table(columns, schema=schema)


class RecordsDraft:
    """A records folder being written; see :func:`new_records`."""

    def __init__(self, draft: Draft, meta: RecordsMeta) -> None:
        self.draft, self.meta = draft, meta

    @property
    def path(self) -> Path:
        """Where the parts are written."""
        return self.draft.path

    @property
    def counts(self) -> dict[str, Any]:
        """Lands in the manifest; rows by table are added at the end."""
        return self.draft.counts

    @property
    def extra(self) -> dict[str, Any]:
        """Lands in the manifest beside the meta."""
        return self.draft.extra

    def write_part(self, table: str, data: pa.Table, part: int) -> int:
        """See :func:`write_table_part`."""
        return write_table_part(self.path, table, data, part)

    def write_stream(self, table: str, reader: pa.RecordBatchReader) -> None:
        """Write all rows of a reader in parts of :data:`PART_ROWS`, at least one part.

        Batches differ in length between machines, parts do not.
        """
        part, rows, waiting = 0, 0, []
        for batch in reader:
            waiting.append(batch)
            rows += batch.num_rows
            while rows >= PART_ROWS:
                whole = pa.Table.from_batches(waiting)
                self.write_part(table, whole.slice(0, PART_ROWS), part)
                waiting, rows, part = whole.slice(PART_ROWS).to_batches(), rows - PART_ROWS, part + 1
        if rows or part == 0:
            self.write_part(table, pa.Table.from_batches(waiting, schema=reader.schema), part)

    def leave_out(self, reason: str, rows: int = 1) -> None:
        """Count rows of the source that were not taken, by reason."""
        self.draft.leave_out(reason, rows)


@contextmanager
def new_records(
    out: Path,
    meta: RecordsMeta,
    *,
    settings: Mapping[str, Any] | BaseModel | None = None,
    inputs: Mapping[str, Folder | InputRef] | None = None,
    overwrite: bool = False,
) -> Iterator[RecordsDraft]:
    """Write a records folder: yields a :class:`RecordsDraft`, then completes and validates it and renames it.

    Required tables that were not written become empty parts. Rows by table and counted oddities land in
    ``manifest.counts``, the meta in ``manifest.extra``.

    Raises:
        ArtefactError: ``out`` exists already and ``overwrite`` is false.
        InputError: the whole breaks a rule (``records/rules.py``).
    """
    with new_folder(out, KIND, inputs=inputs, settings=settings, overwrite=overwrite) as draft:
        records = RecordsDraft(draft, meta)
        yield records
        meta = records.meta  # a reader may learn while it reads through when a table is complete
        for table, schema in TABLES.items():
            if not part_files(draft.path, table):
                write_table_part(draft.path, table, schema.empty_table(), 0)
        draft.extra.update(meta.model_dump(mode="json"))
        for table in ALL_TABLES:
            if files := part_files(draft.path, table):
                draft.counts[table] = sum(pq.read_metadata(file).num_rows for file in files)
        with _connect(draft.path, row_numbers=True) as connection:
            oddities = check(connection, meta.time_basis, "mend the source and make the records again.")
        if oddities:
            draft.counts["oddities"] = oddities
        write_patient_hashes(draft.path, _patient_ids(draft.path))


@dataclass(frozen=True)
class Records:
    """A complete records folder, opened for reading."""

    folder: Folder
    meta: RecordsMeta

    @classmethod
    def open(cls, path: Path | str) -> Records:
        """Open a records folder and check its tables' columns, types and coded values.

        Raises:
            ArtefactError: missing, half written, damaged or not a records folder.
            InputError: a table lacks a column, or holds another type or a value that is not allowed.
        """
        folder = open_folder(path, KIND)
        fields = {k: v for k, v in folder.manifest.extra.items() if k in RecordsMeta.model_fields}
        try:
            meta = RecordsMeta.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(p) for p in first["loc"])
            raise ArtefactError(
                f"{path}/manifest.json: extra.{where}: {first['msg']}; make the folder again."
            ) from error
        records = cls(folder, meta)
        _check_schema(records.path)
        return records

    @property
    def path(self) -> Path:
        return self.folder.path

    @property
    def time_basis(self) -> TimeBasis:
        return self.meta.time_basis

    def has(self, table: str) -> bool:
        """Whether the folder holds a file of this table (optional tables may be absent, and are then empty views)."""
        return bool(part_files(self.path, table))

    def connect(self, *, memory_limit: str = MEMORY_LIMIT, threads: int | None = None) -> duckdb.DuckDBPyConnection:
        """A new in-memory DuckDB connection with one view a table, absent ones empty; close it when done.

        Besides, the view ``note_sections`` (:data:`NOTE_SECTIONS`) finds the sections of notes as it is read.
        """
        connection = _connect(self.path, memory_limit=memory_limit, threads=threads)
        connection.create_function("sections_of", _sections_of, ["VARCHAR"], _SECTIONS)
        connection.execute(f"CREATE VIEW note_sections AS {NOTE_SECTIONS}")
        return connection


# A row a section, in order (``position`` from 1); together a note's sections cover its text. ``section`` is a name of
# common/sections.py, else start or other; ``text`` is what stands under the heading. Found when asked: a note is stored
# once, and the rules about headings may get better without a new ingest.
NOTE_SECTIONS = """
    SELECT note_id, parent_note_id, patient_id, encounter_id, note_type, available_time,
        generate_subscripts(found, 1) AS position, unnest(found, recursive := true)
    FROM (SELECT *, sections_of(text) AS found FROM notes)"""
_SECTIONS = "STRUCT(section VARCHAR, heading VARCHAR, text VARCHAR)[]"


def _sections_of(text: str) -> list[dict[str, str]]:
    return [
        {"section": one.name, "heading": one.heading, "text": text[one.body : one.end].strip(" \t\r\n:")}
        for one in sections(text)
    ]


def validate(records: Records) -> dict[str, int]:
    """Ask all rules of ``records/rules.py`` of a folder; returns rows by oddity.

    Raises:
        InputError: a broken rule, naming the file, the row and what was expected.
    """
    with _connect(records.path, row_numbers=True) as connection:
        return check(connection, records.time_basis, "mend the source and make the records again.")


def part_files(folder: Path, table: str) -> list[Path]:
    """The Parquet parts of a table, in order; empty where the table is absent."""
    return sorted((folder / table).glob("part-*.parquet"))


def quoted(value: str | Path) -> str:
    """A text or path as an SQL literal."""
    return "'" + str(value).replace("'", "''") + "'"


def _connect(
    folder: Path, *, row_numbers: bool = False, memory_limit: str = MEMORY_LIMIT, threads: int | None = None
) -> duckdb.DuckDBPyConnection:
    threads = threads or min(MOST_THREADS, os.cpu_count() or 1)
    connection = duckdb.connect(":memory:", config={"memory_limit": memory_limit, "threads": threads})
    for table, schema in ALL_TABLES.items():
        names = ", ".join(schema.names)
        files = part_files(folder, table)
        if files:  # listed, not globbed: a folder's own name may hold * or [
            listed = ", ".join(quoted(file) for file in files)
            if row_numbers:
                at = f"'{table}/' || parse_filename(filename) AS _file, file_row_number + 1 AS _row"
                scan = f"SELECT {names}, {at} FROM read_parquet([{listed}], filename=true, file_row_number=true)"
            else:
                scan = f"SELECT {names} FROM read_parquet([{listed}])"
        else:
            typed = ", ".join(f"NULL::{sql_type(field.type)} AS {field.name}" for field in schema)
            scan = f"SELECT {typed}{', NULL::VARCHAR AS _file, 0 AS _row' if row_numbers else ''} WHERE false"
        connection.execute(f"CREATE VIEW {table} AS {scan}")
    return connection


def sql_type(kind: pa.DataType) -> str:
    """The DuckDB name of a column type of the schema."""
    if pa.types.is_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    names = {pa.string(): "VARCHAR", pa.timestamp("us"): "TIMESTAMP", pa.int32(): "INTEGER", pa.int64(): "BIGINT"}
    return names.get(kind, "DOUBLE")


def _check_schema(folder: Path) -> None:
    for table, expected in ALL_TABLES.items():
        files = part_files(folder, table)
        if not files and table in TABLES:
            raise InputError(f"{folder / table}: no part-*.parquet; the records folder is damaged, make it again.")
        for file in files:
            try:
                found = pq.read_schema(file)
            except (pa.ArrowInvalid, OSError) as error:
                raise InputError(f"{file}: not readable as Parquet ({error}); make the records again.") from error
            for field in expected:
                if field.name not in found.names:
                    raise InputError(f"{file}: column '{field.name}' is missing; make the records again.")
                if not found.field(field.name).type.equals(field.type):
                    kind = found.field(field.name).type
                    raise InputError(f"{file}: column '{field.name}' is {kind}, expected {field.type}.")
    with _connect(folder, row_numbers=True) as connection:
        for table, columns in CODED.items():
            for column, allowed in columns.items():
                listed = ", ".join(quoted(value) for value in allowed)
                row = connection.execute(
                    f"SELECT _file, _row, {column} FROM {table} WHERE {column} NOT IN ({listed}) LIMIT 1"
                ).fetchone()
                if row is not None:
                    place = f"{folder / row[0]} row {row[1]}"
                    raise InputError(f"{place}: {_not_allowed(column, row[2], allowed)}; mend the source.")


def _not_allowed(column: str, value: Any, allowed: tuple[str, ...]) -> str:
    return f"{column} is '{value}', expected one of {', '.join(allowed)}"


def _patient_ids(folder: Path) -> Iterator[str]:
    for file in part_files(folder, "patients"):
        for batch in pq.ParquetFile(file).iter_batches(columns=["patient_id"]):
            yield from batch.column(0).to_pylist()
