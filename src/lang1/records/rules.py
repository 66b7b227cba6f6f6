"""The rules that every records folder keeps, one SQL query a rule, so that an analyst can read them.

A rule is asked of relations named as the tables, each with two columns more: ``_file`` (where the row was read) and
``_row`` (its number there, the first data row being 1). A reader asks them of the source rows before it writes, the
store asks them of the Parquet afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from lang1.common.errors import InputError
from lang1.records.schema import OPTIONAL_TABLES, TABLES, TimeBasis

ALL_TABLES: dict[str, pa.Schema] = {**TABLES, **OPTIONAL_TABLES}

# Years that a time may lie in. Shifted data sets (MIMIC) reach past 2200 on purpose.
TIME_YEARS: dict[TimeBasis, tuple[int, int]] = {
    "calendar": (1900, 2200),
    "shifted": (1800, 2400),
    "within_stay": (1800, 2400),
}


@dataclass(frozen=True)
class Rule:
    """One rule of one table: ``source`` yields ``_file, _row`` and what ``where`` (bad) and ``says`` need."""

    table: str
    reason: str
    source: str
    where: str
    says: str

    @property
    def bad_rows(self) -> str:
        """SQL: ``_file, _row, says`` of the rows that break the rule."""
        return f"SELECT t._file, t._row, concat({self.says}) AS says FROM {self.source} t WHERE {self.where}"


def _duplicate(table: str, key: str) -> Rule:
    source = (
        f"(SELECT _file, _row, {key}, row_number() OVER (PARTITION BY {key} ORDER BY _file, _row) AS nth FROM {table})"
    )
    return Rule(table, f"duplicate {key}", source, "t.nth > 1", f"'{key} ''', t.{key}, ''' was there before'")


def _orphan(table: str, parent: str, key: str) -> Rule:
    return Rule(
        table,
        f"{key} not in {parent}",
        table,
        f"t.{key} IS NOT NULL AND NOT EXISTS (SELECT 1 FROM {parent} p WHERE p.{key} = t.{key})",
        f"'{key} ''', t.{key}, ''' is not in {parent}'",
    )


def _other_patient(table: str) -> Rule:
    return Rule(
        table,
        "patient differs from the encounter's",
        f"(SELECT c._file, c._row, c.encounter_id, c.patient_id, e.patient_id AS theirs "
        f"FROM {table} c JOIN encounters e USING (encounter_id))",
        "t.patient_id <> t.theirs",
        "'patient_id ''', t.patient_id, ''' differs from ''', t.theirs, ''' of encounter ''', t.encounter_id, ''''",
    )


def _order(table: str, first: str, then: str, reason: str, key: str) -> Rule:
    return Rule(
        table,
        reason,
        table,
        f"t.{then} < t.{first}",
        f"'{reason} ({key} ''', t.{key}, ''': {then} ', t.{then}, ', {first} ', t.{first}, ')'",
    )


def _range(table: str, column: str, bad: str, expected: str) -> Rule:
    return Rule(table, f"{column} out of range", table, bad, f"'{column} is ', t.{column}, ', expected {expected}'")


def time_columns(table: str) -> list[str]:
    """The names of a table's columns that hold times."""
    return [f.name for f in ALL_TABLES[table] if pa.types.is_timestamp(f.type)]


def _time_rules(time_basis: TimeBasis) -> Iterator[Rule]:
    for table in ALL_TABLES:
        for column in time_columns(table):
            if time_basis in ("ordinal", "none"):
                says = f"'{column} is ', t.{column}, ', but times are unknown under time_basis {time_basis}'"
                yield Rule(table, f"{column} given without a calendar", table, f"t.{column} IS NOT NULL", says)
            else:
                low, high = TIME_YEARS[time_basis]
                bad = f"year(t.{column}) < {low} OR year(t.{column}) >= {high}"
                says = f"'{column} is ', t.{column}, ', expected a year in {low} to {high - 1}'"
                yield Rule(table, f"{column} absurd", table, bad, says)


def rules(time_basis: TimeBasis) -> list[Rule]:
    """All rules whose breach makes a row unusable, parents before children, so that leaving rows out can cascade."""
    found = list(_time_rules(time_basis))
    found += [
        _duplicate("patients", "patient_id"),
        Rule(
            "patients",
            "death before birth",
            "patients",
            "year(t.death_time) < t.birth_year",
            "'death before birth (patient_id ''', t.patient_id, ''': death_time ', t.death_time, "
            "', birth_year ', t.birth_year, ')'",
        ),
        _duplicate("encounters", "encounter_id"),
        _orphan("encounters", "patients", "patient_id"),
        _order("encounters", "admit_time", "discharge_time", "discharge before admission", "encounter_id"),
        _range("encounters", "age_at_admission", "NOT t.age_at_admission BETWEEN 0 AND 130", "0 to 130 years"),
        _range("encounters", "year_high", "t.year_high < t.year_low", "no earlier than year_low"),
    ]
    if time_basis == "ordinal":
        says = "'sequence is empty; under time_basis ordinal it gives the order of encounters'"
        found.append(Rule("encounters", "sequence empty", "encounters", "t.sequence IS NULL", says))
    for table, key in (("notes", "note_id"), ("diagnoses", None), ("claims", "claim_id")):
        if key:
            found.append(_duplicate(table, key))
        found += [_orphan(table, "patients", "patient_id"), _orphan(table, "encounters", "encounter_id")]
        found.append(_other_patient(table))
    found += [
        _range("diagnoses", "position", "t.position < 1", "1 or more (1 is the principal diagnosis)"),
        _range("claims", "coverage_order", "t.coverage_order < 1", "1 or more (1 is the primary payer)"),
        _order("claims", "submitted_time", "first_remit_time", "remittance before submission", "claim_id"),
        _order("claims", "first_remit_time", "final_time", "final status before the first remittance", "claim_id"),
        _orphan("given_labels", "encounters", "encounter_id"),
        Rule(
            "given_labels",
            "two labels for one task and encounter",
            "(SELECT _file, _row, task, encounter_id, row_number() OVER (PARTITION BY task, encounter_id "
            "ORDER BY _file, _row) AS nth FROM given_labels)",
            "t.nth > 1",
            "'encounter ''', t.encounter_id, ''' has a label for task ''', t.task, ''' already'",
        ),
        _orphan("fields", "encounters", "encounter_id"),
        _order("unit_stays", "in_time", "out_time", "left the unit before entering it", "encounter_id"),
        _range("procedures", "position", "t.position < 1", "1 or more (1 is the principal procedure)"),
    ]
    for table in ("unit_stays", "procedures"):
        found += [_orphan(table, "encounters", "encounter_id"), _other_patient(table)]
    return found


# Oddities that real extracts hold and that leave the row usable: counted in the manifest, never refused.
WARNINGS: dict[str, str] = {
    # Dates are compared with dates: many sources know only the day of a death.
    "encounters admitted after the patient's death": """
        SELECT count(*) FROM encounters e JOIN patients p USING (patient_id)
        WHERE e.admit_time::DATE > p.death_time::DATE""",
    "notes created after the patient's death": """
        SELECT count(*) FROM notes n JOIN patients p USING (patient_id)
        WHERE n.created_time::DATE > p.death_time::DATE""",
    "inpatient stays that overlap an earlier one of the same patient": """
        SELECT count(*) FROM (
            SELECT admit_time, max(discharge_time) OVER (PARTITION BY patient_id ORDER BY admit_time, encounter_id
                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS earlier
            FROM encounters WHERE encounter_class = 'inpatient' AND admit_time IS NOT NULL)
        WHERE admit_time < earlier""",
    "encounters without an admission time": "SELECT count(*) FROM encounters WHERE admit_time IS NULL",
    "notes without an available time (unusable where time matters)": """
        SELECT count(*) FROM notes WHERE available_time IS NULL""",
    "notes available before they were created": "SELECT count(*) FROM notes WHERE available_time < created_time",
    # Ends at the first letter; trimming every text took two thirds of the time of all rules together.
    "notes with no text": "SELECT count(*) FROM notes WHERE regexp_full_match(text, '\\s*')",
    "notes that amend a note that is not there": """
        SELECT count(*) FROM notes n WHERE n.parent_note_id IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM notes p WHERE p.note_id = n.parent_note_id)""",
}
TIMELESS_WARNINGS = ("notes with no text", "notes that amend a note that is not there")
# Where nothing holds between stays, these would compare what cannot be compared.
BETWEEN_STAYS = (
    "encounters admitted after the patient's death",
    "notes created after the patient's death",
    "inpatient stays that overlap an earlier one of the same patient",
)


def check(connection: duckdb.DuckDBPyConnection, time_basis: TimeBasis, hint: str) -> dict[str, int]:
    """Ask every rule; the first breach is an error, oddities are counted.

    Args:
        connection: where relations named as the tables carry ``_file`` and ``_row``.
        time_basis: as the records declare it.
        hint: what the user can do about a bad row; ends the error's line.

    Returns:
        Rows by oddity, only those that occur.

    Raises:
        InputError: no patients or no encounters, or a broken rule: names the file, the row and what was expected.
    """
    for table in ("patients", "encounters"):
        if _one(connection, f"SELECT count(*) FROM {table}") == 0:
            raise InputError(f"{table}: no rows. An extract needs at least one; check the source and its filters.")
    for rule in rules(time_basis):
        row = connection.execute(f"{rule.bad_rows} ORDER BY t._file, t._row LIMIT 1").fetchone()
        if row is not None:
            more = _one(connection, f"SELECT count(*) FROM ({rule.bad_rows})") - 1
            raise InputError(f"{at(row[0], row[1])}: {row[2]}{f' ({more} more such rows)' if more else ''}; {hint}")
    return warnings(connection, time_basis)


def warnings(connection: duckdb.DuckDBPyConnection, time_basis: TimeBasis) -> dict[str, int]:
    """Rows by oddity, only those that occur; see :data:`WARNINGS`."""
    timeless = time_basis in ("ordinal", "none")
    asked = {name: sql for name, sql in WARNINGS.items() if not timeless or name in TIMELESS_WARNINGS}
    if time_basis == "within_stay":
        asked = {name: sql for name, sql in asked.items() if name not in BETWEEN_STAYS}
    counted = {name: _one(connection, sql) for name, sql in asked.items()}
    return {name: rows for name, rows in counted.items() if rows}


def at(file: str, row: int) -> str:
    """How an error names a source row."""
    return f"{file} row {row}"


def _one(connection: duckdb.DuckDBPyConnection, sql: str) -> int:
    return int(connection.execute(sql).fetchall()[0][0])
