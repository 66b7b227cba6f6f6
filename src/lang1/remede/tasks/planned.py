"""Planned returns, after the structure of the US hospital-wide readmission measure (version 4 of its algorithm).

A return is planned if it has an always planned procedure or principal diagnosis, or a potentially planned procedure and
a principal diagnosis that is not acute. The tables that put codes into categories and categories on these lists are the
user's: the measure publishes its own each year, and none is shipped.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from lang1.common.errors import SettingsError
from lang1.records.schema import CODE_VERSIONS, PROCEDURE_VERSIONS
from lang1.remede.charlson import normalise
from lang1.remede.cohort import Facts, rows

DIAGNOSES, PROCEDURES, LISTS = "diagnosis_categories.csv", "procedure_categories.csv", "lists.csv"
# By list: the file whose categories it names.
LIST_NAMES = {
    "always_planned_procedure": PROCEDURES,
    "potentially_planned_procedure": PROCEDURES,
    "always_planned_diagnosis": DIAGNOSES,
    "acute_diagnosis": DIAGNOSES,
    "excluded_index_diagnosis": DIAGNOSES,
}
Categories = Mapping[tuple[str, str], tuple[str, ...]]


@dataclass(frozen=True)
class PlannedTables:
    """The user's tables.

    Attributes:
        diagnoses: ``(code_version, code or prefix)`` → its categories; of several prefixes the longest counts.
        procedures: the same for procedures.
        lists: list → its categories; the lists are those of ``LIST_NAMES``.
        sha256: of the three files, so that a benchmark can say which tables made it.
    """

    diagnoses: Categories
    procedures: Categories
    lists: Mapping[str, frozenset[str]]
    sha256: str


def read_planned_tables(folder: Path) -> PlannedTables:
    """Read ``diagnosis_categories.csv`` and ``procedure_categories.csv`` (code_version, code, category), ``lists.csv``
    (list, category).

    Raises:
        SettingsError: a file, column or value that is missing, an unknown code version or list, or a category on a list
            that no code has.
    """
    said = hashlib.sha256()
    for name in (DIAGNOSES, PROCEDURES, LISTS):
        if not (folder / name).is_file():
            raise SettingsError(
                f"constants.planned_tables: {folder / name} is missing; expected {DIAGNOSES}, {PROCEDURES}, {LISTS}."
            )
        said.update((folder / name).read_bytes())
    diagnoses = _categories(folder / DIAGNOSES, CODE_VERSIONS)
    procedures = _categories(folder / PROCEDURES, PROCEDURE_VERSIONS)
    known = {
        name: {category for found in table.values() for category in found}
        for name, table in ((DIAGNOSES, diagnoses), (PROCEDURES, procedures))
    }
    lists: dict[str, set[str]] = {name: set() for name in LIST_NAMES}
    for number, (name, category) in _rows(folder / LISTS, ("list", "category")):
        where = f"{folder / LISTS}, row {number}"
        if name not in lists:
            raise SettingsError(f"{where}: list is '{name}', expected one of {', '.join(lists)}.")
        if category not in known[LIST_NAMES[name]]:
            raise SettingsError(f"{where}: no code of {LIST_NAMES[name]} has category '{category}'.")
        lists[name].add(category)
    return PlannedTables(diagnoses, procedures, {k: frozenset(v) for k, v in lists.items()}, said.hexdigest())


def categories_of(table: Categories, version: str, plain: str) -> tuple[str, ...]:
    """The categories of a plain code: those of its longest prefix in the table, none where it has no prefix there."""
    return next((table[version, plain[:n]] for n in range(len(plain), 0, -1) if (version, plain[:n]) in table), ())


def plain_code(version: str, code: str, *, procedure: bool) -> str:
    """A code without dots, in upper case; ICD-9-CM gets lost leading zeros back (its procedures have two digits)."""
    if not procedure:
        return normalise(version, code)
    category, dot, rest = code.strip().upper().partition(".")
    return (category.zfill(2) if dot and version == "ICD-9-CM" else category) + rest.replace(".", "")


def create_plans(facts: Facts, tables: PlannedTables | None, *, urgent_overrides: bool) -> None:
    """Create ``plans``: inpatient ``encounter_id``, ``principal`` (categories of the principal diagnosis, or null),
    ``planned`` and ``excluded`` (the principal diagnosis is on the list of excluded index diagnoses).

    Without tables the category of a diagnosis is its first three characters, and a stay is planned if its admission
    type is elective. With ``urgent_overrides`` an emergency or urgent admission is not planned, whatever its codes say.
    """
    without = [
        _create_categories(facts, "diagnoses", "WHERE position = 1", tables.diagnoses if tables else None),
        _create_categories(facts, "procedures", "", tables.procedures if tables else {}),
    ]
    if tables is not None:
        facts.note(
            f"Planned returns: tables with sha256 {tables.sha256[:12]}; {without[0]:,} different principal diagnosis "
            f"codes and {without[1]:,} procedure codes of the records are in none of their categories."
        )
    lists = [(name, category) for name, found in (tables.lists if tables else {}).items() for category in found]
    _create(facts, "planned_lists", ("on_list", "category"), sorted(lists))
    planned = "coalesce(e.admission_type = 'elective', false)"
    if tables is not None:
        planned = """coalesce(p.always, false) OR coalesce(d.always, false)
                OR (coalesce(p.potentially, false) AND d.encounter_id IS NOT NULL AND NOT coalesce(d.acute, false))"""
    if urgent_overrides:
        planned = f"({planned}) AND NOT coalesce(e.admission_type IN ('emergency', 'urgent'), false)"
    facts.connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE plans AS
        WITH of_diagnoses AS (  -- stays with a principal diagnosis; in no category, it is on no list
            SELECT encounter_id, list_sort(list(DISTINCT category) FILTER (category IS NOT NULL)) AS principal,
                bool_or(on_list = 'always_planned_diagnosis') AS always, bool_or(on_list = 'acute_diagnosis') AS acute,
                bool_or(on_list = 'excluded_index_diagnosis') AS excluded
            FROM diagnoses LEFT JOIN diagnoses_in_categories USING (code_version, code)
                LEFT JOIN planned_lists USING (category)
            WHERE position = 1 GROUP BY encounter_id
        ),
        of_procedures AS (
            SELECT encounter_id, bool_or(on_list = 'always_planned_procedure') AS always,
                bool_or(on_list = 'potentially_planned_procedure') AS potentially
            FROM procedures JOIN procedures_in_categories USING (code_version, code)
                JOIN planned_lists USING (category)
            GROUP BY encounter_id
        )
        SELECT e.encounter_id, d.principal, {planned} AS planned, coalesce(d.excluded, false) AS excluded
        FROM encounters e LEFT JOIN of_diagnoses d USING (encounter_id) LEFT JOIN of_procedures p USING (encounter_id)
        WHERE e.encounter_class = 'inpatient'
    """)


def _create_categories(facts: Facts, name: str, where: str, table: Categories | None) -> int:
    """Create ``NAME_in_categories(code_version, code, category)`` for the codes that occur, by their first three
    characters without a table; returns how many codes have no category."""
    found, without = [], 0
    for version, code in rows(facts.connection, f"SELECT DISTINCT code_version, code FROM {name} {where} ORDER BY ALL"):
        plain = plain_code(version, code, procedure=name == "procedures")
        categories = (plain[:3],) if table is None else categories_of(table, version, plain)
        found += [(version, code, category) for category in categories]
        without += not categories
    _create(facts, f"{name}_in_categories", ("code_version", "code", "category"), found)
    return without


def _create(facts: Facts, name: str, columns: tuple[str, ...], found: Sequence[tuple[str, ...]]) -> None:
    values = list(zip(*found, strict=True)) if found else [()] * len(columns)
    table = pa.table({c: pa.array(v, pa.string()) for c, v in zip(columns, values, strict=True)})
    facts.connection.register("planned_rows", table)
    facts.connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT * FROM planned_rows")
    facts.connection.unregister("planned_rows")


def _categories(file: Path, versions: tuple[str, ...]) -> Categories:
    found: dict[tuple[str, str], set[str]] = {}
    for number, (version, code, category) in _rows(file, ("code_version", "code", "category")):
        if version not in versions:
            raise SettingsError(
                f"{file}, row {number}: code_version is '{version}', expected one of {', '.join(versions)}."
            )
        plain = plain_code(version, code, procedure=file.name == PROCEDURES)
        found.setdefault((version, plain), set()).add(category)
    return {key: tuple(sorted(categories)) for key, categories in found.items()}


def _rows(file: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """The rows of a CSV file, counted below the header from 1, every value there and trimmed."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            missing = [c for c in columns if c not in (reader.fieldnames or ())]
            if missing:
                raise SettingsError(f"{file}: column '{missing[0]}' is missing; expected {', '.join(columns)}.")
            for number, row in enumerate(reader, 1):
                values = tuple((row[c] or "").strip() for c in columns)
                if not all(values):
                    raise SettingsError(f"{file}, row {number}: '{columns[values.index('')]}' is empty.")
                yield number, values
    except (UnicodeDecodeError, csv.Error) as error:
        raise SettingsError(f"{file}: cannot be read as CSV in UTF-8 ({error}).") from error
