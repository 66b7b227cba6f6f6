"""Where the tables of an OMOP CDM lie: a folder of CSV or Parquet files in any arrangement, or a DuckDB file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from lang1.common.errors import InputError
from lang1.records.readers.source import TABLE_PART, Encoding, SourceFile, distinctly_named, name, open_source
from lang1.records.store import quoted

DATABASE = "cdm"
_SUFFIX = re.compile(r"\.(csv|tsv|txt|parquet)(\.gz|\.zst)?$", re.IGNORECASE)
_DELIMITERS = ("\t", "|", ";")


@dataclass(frozen=True)
class DatabaseTable(SourceFile):
    """A table or view of the attached database; its rows are numbered in the order in which the database gives them."""

    relation: str = ""

    def select(self, columns: Sequence[str], *, rejects: bool = False) -> str:
        """See :meth:`SourceFile.select`."""
        read = "".join(f"CAST({name(column)} AS VARCHAR) AS {name(column)}, " for column in columns)
        return f"SELECT {read}row_number() OVER () AS _row FROM {self.relation}"


@dataclass(frozen=True)
class UnquotedFile(SourceFile):
    """A tab-separated file of a vocabulary download, whose values hold quotes that quote nothing."""

    def select(self, columns: Sequence[str], *, rejects: bool = False) -> str:
        """See :meth:`SourceFile.select`."""
        quoted_values = super().select(columns, rejects=rejects)
        select = quoted_values.replace("quote='\"', escape='\"'", "quote='', escape=''")
        assert select != quoted_values, "the parser's options are written in another way"
        return select


@dataclass(frozen=True)
class FilteredFile(SourceFile):
    """Only those rows of a file for which ``where`` (SQL over the columns that are read) is true."""

    inner: SourceFile | None = None
    where: str = "true"

    def select(self, columns: Sequence[str], *, rejects: bool = False) -> str:
        """See :meth:`SourceFile.select`."""
        assert self.inner is not None
        return f"SELECT * FROM ({self.inner.select(columns, rejects=rejects)}) WHERE {self.where}"


def filtered(files: Sequence[SourceFile], where: str) -> list[SourceFile]:
    """The files, each yielding only the rows for which ``where`` is true."""
    return [
        FilteredFile(
            file.path, file.columns, file.kind, file.delimiter, file.encoding, file.label, inner=file, where=where
        )
        for file in files
    ]


@dataclass(frozen=True)
class Cdm:
    """The tables of a CDM that are there.

    Attributes:
        tables: files by table; a table that is absent has none.
        database: the DuckDB file that holds them, or null.
    """

    tables: Mapping[str, list[SourceFile]]
    database: Path | None

    def attach(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Make the database readable from a connection, and times with an offset read the same on every machine."""
        connection.execute("SET TimeZone = 'UTC'")
        if self.database is not None:
            connection.execute(f"ATTACH {quoted(self.database)} AS {DATABASE} (READ_ONLY)")

    def paths(self) -> dict[str, list[Path]]:
        """The files that are read, to be fingerprinted."""
        if self.database is not None:
            return {"cdm": [self.database]}
        return {table: [file.path for file in files] for table, files in self.tables.items() if files}


def find_cdm(source: Path, tables: Sequence[str], *, schema: str | None, encoding: Encoding) -> Cdm:
    """Find the tables of a CDM.

    Raises:
        InputError: the source is missing, holds no ``person``, or holds a table twice.
    """
    if source.is_dir():
        return Cdm(_in_folder(source, tables, encoding), None)
    if not source.is_file():
        raise InputError(f"{source}: no such folder or file; expected a folder of OMOP tables or a DuckDB file.")
    return Cdm(_in_database(source, tables, schema), source)


def _in_folder(folder: Path, tables: Sequence[str], encoding: Encoding) -> dict[str, list[SourceFile]]:
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if _SUFFIX.search(path.name) and path.is_file() and not path.name.startswith((".", "_"))
    ]
    found = {table: _files_of(folder, table, files, encoding) for table in tables}
    if not found["person"]:
        raise InputError(
            f"{folder}: no person table (person.csv, person.parquet, person_0001.csv.gz or a folder person/); "
            "is this an OMOP CDM?"
        )
    return found


def _files_of(folder: Path, table: str, files: Sequence[Path], encoding: Encoding) -> list[SourceFile]:
    named = re.compile(rf"{table}({TABLE_PART}|\d[\w.-]*)?", re.IGNORECASE)
    mine: list[Path] = []
    places = set()
    for path in files:
        # Parts lie in a folder of the table's name, or below it by the values of a column (person/year=2020/).
        above = [p for p in path.parents if p.is_relative_to(folder) and p != folder]
        of_table = next((p for p in above if _SUFFIX.sub("", p.name).lower() == table), None)
        if of_table is not None or named.fullmatch(_SUFFIX.sub("", path.name)):
            mine.append(path)
            places.add((of_table or path.parent, _SUFFIX.search(path.name)[1].lower() == "parquet"))  # type: ignore[index]
    wholes = [path for path in mine if _SUFFIX.sub("", path.name).lower() == table]
    if len(places) > 1 or (wholes and len(mine) > 1):
        raise InputError(
            f"{folder}: table {table} is there twice ({mine[0].relative_to(folder)} and "
            f"{mine[-1].relative_to(folder)}); keep one, or name the folder that holds the right ones."
        )
    return distinctly_named([_opened(path, table, encoding) for path in mine], folder, table)


def _opened(path: Path, table: str, encoding: Encoding) -> SourceFile:
    """A file with its delimiter: the one at which the header parts into more than one column."""
    file = open_source(path, encoding=encoding)
    for delimiter in _DELIMITERS:
        if file.kind == "csv" and len(file.columns) == 1 and delimiter in file.columns[0]:
            file = open_source(path, delimiter, encoding)
    if table == "concept" and file.delimiter == "\t":
        return UnquotedFile(file.path, file.columns, file.kind, file.delimiter, file.encoding)
    return file


def _in_database(path: Path, tables: Sequence[str], schema: str | None) -> dict[str, list[SourceFile]]:
    try:
        connection = duckdb.connect(":memory:")
        connection.execute(f"ATTACH {quoted(path)} AS {DATABASE} (READ_ONLY)")
    except duckdb.Error as error:
        why = str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be opened as a DuckDB database ({why}).") from error
    with connection:
        listed = connection.execute(
            "SELECT table_schema, table_name, column_name FROM information_schema.columns WHERE table_catalog = ? "
            "ORDER BY table_schema, table_name, ordinal_position",
            [DATABASE],
        ).fetchall()
    columns: dict[tuple[str, str], list[str]] = {}
    for place, table, column in listed:
        columns.setdefault((place, table), []).append(column)
    if schema is not None and schema.lower() not in {place.lower() for place, _ in columns}:
        raise InputError(f"{path}: no schema '{schema}'; there are {', '.join(sorted({p for p, _ in columns}))}.")
    schemas = sorted({place for place, table in columns if table.lower() == "person"})
    if schema is None and len(schemas) > 1:
        raise InputError(
            f"{path}: person is there in the schemas {', '.join(schemas)}; say which: schema_name={schemas[0]}."
        )
    chosen = schema or (schemas[0] if schemas else "main")
    found: dict[str, list[SourceFile]] = {}
    for wanted in tables:
        # Vocabularies often lie in a schema of their own.
        places = [key for key in columns if key[1].lower() == wanted]
        mine = [key for key in places if key[0].lower() == chosen.lower()] or (places if wanted == "concept" else [])
        found[wanted] = [
            DatabaseTable(
                Path(f"{path.name}:{table}"),
                tuple(columns[place, table]),
                "duckdb",
                relation=f"{DATABASE}.{name(place)}.{name(table)}",
            )
            for place, table in mine[:1]
        ]
    if not found["person"]:
        raise InputError(f"{path}: no table 'person' in schema '{chosen}'; is this an OMOP CDM?")
    return found
