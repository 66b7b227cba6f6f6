"""Leaks that can be planted in a simulated system, so that it can be shown that an audit finds them.

Each is one flaw that real extracts have had, planted in the finished tables by SQL, at a strength that is written here.
Who is touched follows from a hash of ids and the leak's name: the same settings plant the same rows. The truth about
risks is not touched, so what a model gains from a leak shows as an AUROC beyond the oracle's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from lang1.records.rules import ALL_TABLES
from lang1.records.store import part_files, quoted, write_table_part


@dataclass(frozen=True)
class Leak:
    """One flaw: the table it changes, and SQL that yields that table's rows anew.

    ``rows`` may use the tables of the records, and ``outcomes`` (``encounter_id, died, back, days, denied, codes``).
    """

    words: str
    table: str
    rows: str


def _some(share: float, name: str, key: str = "n.encounter_id") -> str:
    """SQL: true for about a share of the keys."""
    return f"hash({key}, '{name}') % 1000 < {int(share * 1000)}"


def _note_text(name: str, kind: str, when: str, text: str, share: float) -> str:
    """SQL: all notes; first versions of a type get ``text`` where ``when`` is true, for a share of the stays."""
    return f"""
        SELECT n.* REPLACE (CASE WHEN n.note_type = '{kind}' AND n.parent_note_id IS NULL AND ({when})
            AND {_some(share, name)} THEN {text} ELSE n.text END AS text)
        FROM notes n LEFT JOIN outcomes o USING (encounter_id)"""


_HP, _DC = "history_and_physical", "discharge_summary"
LEAKS: dict[str, Leak] = {
    "death_in_note": Leak(
        "half of the admission notes of patients who die in hospital say so",
        "notes",
        _note_text("death", _HP, "o.died", "n.text || chr(10) || 'The patient expired during this admission.'", 0.5),
    ),
    "return_in_note": Leak(
        "half of the discharge summaries of patients who come back say so",
        "notes",
        _note_text("return", _DC, "o.back", "n.text || chr(10) || 'Readmitted since with the same problem.'", 0.5),
    ),
    "stay_in_note": Leak(
        "half of the admission notes state the length of stay",
        "notes",
        _note_text(
            "stay", _HP, "o.days IS NOT NULL", "n.text || chr(10) || 'Length of stay: ' || o.days || ' days.'", 0.5
        ),
    ),
    "discharge_date_in_note": Leak(
        "half of the admission notes carry the date of discharge",
        "notes",
        _note_text(
            "date",
            _HP,
            "o.left_on IS NOT NULL",
            "'Discharge date: ' || strftime(o.left_on, '%Y-%m-%d') || chr(10) || n.text",
            0.5,
        ),
    ),
    "codes_in_note": Leak(
        "half of the admission notes end with the codes that coders gave after discharge",
        "notes",
        _note_text(
            "codes", _HP, "o.codes IS NOT NULL", "n.text || chr(10) || 'Final diagnosis codes: ' || o.codes || '.'", 0.5
        ),
    ),
    "denial_in_note": Leak(
        "half of the admission notes of stays whose claim is denied hold the payer's letter",
        "notes",
        _note_text(
            "denial",
            _HP,
            "o.denied",
            "n.text || chr(10) || 'Letter of the payer: authorization denied, an appeal may be filed.'",
            0.5,
        ),
    ),
    "edited_later": Leak(
        "a fifth of the admission notes were signed two days after they are said to have been available",
        "notes",
        f"""
        SELECT n.* REPLACE (CASE WHEN n.note_type = '{_HP}' AND n.parent_note_id IS NULL AND {_some(0.2, "edit")}
            THEN n.available_time + INTERVAL 2 DAY ELSE n.signed_time END AS signed_time) FROM notes n""",
    ),
    "backdated": Leak(
        "a fifth of the admission notes are said to have been available a day before they were begun",
        "notes",
        f"""
        SELECT n.* REPLACE (CASE WHEN n.note_type = '{_HP}' AND n.parent_note_id IS NULL AND {_some(0.2, "backdate")}
            THEN n.created_time - INTERVAL 1 DAY ELSE n.available_time END AS available_time) FROM notes n""",
    ),
    "copied_notes": Leak(
        "a twentieth of the admission notes are another patient's, but for a few words",
        "notes",
        f"""
        WITH firsts AS (
            SELECT note_id, text, row_number() OVER (ORDER BY hash(note_id, 'copy')) - 1 AS place, count(*) OVER () AS n
            FROM notes WHERE note_type = '{_HP}' AND parent_note_id IS NULL
        ),
        copies AS (
            SELECT taker.note_id, 'Seen and examined today. ' || giver.text || ' Plan as discussed.' AS text
            FROM firsts taker JOIN firsts giver ON giver.place = taker.place + taker.n // 2
            WHERE taker.place < taker.n // 20
        )
        SELECT n.* REPLACE (coalesce(c.text, n.text) AS text) FROM notes n LEFT JOIN copies c USING (note_id)""",
    ),
    "second_patient_id": Leak(
        "some six in a hundred patients have a second id, under which their later stays stand with copied notes",
        "encounters",
        "",  # touches several tables, see _second_ids
    ),
    "missing_tail": Leak(
        "seven in ten admissions of the last four months are missing, though the extract is said to be complete",
        "encounters",
        f"""
        SELECT e.* FROM encounters e
        WHERE e.admit_time < (SELECT max(admit_time) FROM encounters) - INTERVAL 4 MONTH
            OR NOT ({_some(0.7, "tail", "e.encounter_id")})""",
    ),
    "department_tells_death": Leak(
        "four in ten of those who die are booked on a ward of their own from admission",
        "encounters",
        f"""
        SELECT e.* REPLACE (CASE WHEN o.died AND {_some(0.4, "ward", "e.encounter_id")} THEN 'end of life'
            ELSE e.department END AS department) FROM encounters e LEFT JOIN outcomes o USING (encounter_id)""",
    ),
    "payer_tells_denial": Leak(
        "four in ten of the denied stays are registered under another plan, entered after the denial",
        "encounters",
        f"""
        SELECT e.* REPLACE (CASE WHEN o.denied AND {_some(0.4, "payer", "e.encounter_id")} THEN 'self-pay (appeal)'
            ELSE e.payer END AS payer) FROM encounters e LEFT JOIN outcomes o USING (encounter_id)""",
    ),
    "site_tells_death": Leak(
        "six in ten of those who die are moved in the data to one facility",
        "encounters",
        f"""
        SELECT e.* REPLACE (CASE WHEN o.died AND {_some(0.6, "site", "e.encounter_id")} THEN 'annex'
            ELSE e.facility END AS facility) FROM encounters e LEFT JOIN outcomes o USING (encounter_id)""",
    ),
    "length_tells_death": Leak(
        "the admission notes of those who die were copied twice over",
        "notes",
        _note_text("length", _HP, "o.died", "n.text || chr(10) || n.text", 0.6),
    ),
    "delay_tells_death": Leak(
        "the admission notes of those who die were filed half a day later",
        "notes",
        f"""
        SELECT n.* REPLACE (n.created_time + d.by AS created_time, n.signed_time + d.by AS signed_time,
            n.available_time + d.by AS available_time)
        FROM notes n LEFT JOIN outcomes o USING (encounter_id), LATERAL (
            SELECT CASE WHEN n.note_type = '{_HP}' AND o.died AND o.days > 1 THEN INTERVAL 12 HOUR
                ELSE INTERVAL 0 HOUR END AS by) d""",
    ),
}  # fmt: skip


def plant(folder: Path, leaks: Iterable[str]) -> dict[str, int]:
    """Plant leaks in the tables of a records folder that is being written; returns the rows each has changed."""
    changed: dict[str, int] = {}
    for name in leaks:
        with _opened(folder) as connection:
            if name == "second_patient_id":
                changed[name] = _second_ids(connection, folder)
            else:
                leak = LEAKS[name]
                names = ", ".join(ALL_TABLES[leak.table].names)
                connection.execute(f"CREATE TEMP TABLE anew AS SELECT {names} FROM ({leak.rows})")
                changed[name] = _differing(connection, leak.table)
                if leak.table == "encounters":
                    _without_orphans(connection, folder)
                _rewrite(connection, folder, leak.table)
    return changed


def _opened(folder: Path) -> duckdb.DuckDBPyConnection:
    """Tables in memory, since their files are written anew, and what happened to each stay."""
    connection = duckdb.connect(":memory:", config={"threads": 2})
    for table in ALL_TABLES:
        files = ", ".join(quoted(file) for file in part_files(folder, table))
        if files:
            connection.execute(f"CREATE TABLE {table} AS SELECT * FROM read_parquet([{files}])")
    connection.execute("""
        CREATE TABLE outcomes AS
        WITH stays AS (
            SELECT *,
                lead(admit_time) OVER (PARTITION BY patient_id ORDER BY admit_time, encounter_id) AS next_admission
            FROM encounters WHERE encounter_class = 'inpatient'
        ),
        coded AS (
            SELECT encounter_id, string_agg(code, ', ' ORDER BY position, code) AS codes FROM diagnoses GROUP BY 1),
        claimed AS (
            SELECT encounter_id, bool_or(final_status LIKE 'denied%') AS denied FROM claims WHERE coverage_order = 1
            GROUP BY 1)
        SELECT s.encounter_id, s.disposition = 'expired' AS died, s.discharge_time AS left_on,
            s.next_admission <= s.discharge_time + INTERVAL 30 DAY AS back,
            date_diff('day', s.admit_time, s.discharge_time) AS days, c.denied, d.codes
        FROM stays s LEFT JOIN coded d USING (encounter_id) LEFT JOIN claimed c USING (encounter_id)""")
    return connection


def _second_ids(connection: duckdb.DuckDBPyConnection, folder: Path) -> int:
    """Give some patients a second id for their later stays; each of these repeats the admission note before it."""
    connection.execute("""
        CREATE TABLE moved AS
        WITH ordered AS (
            SELECT patient_id, encounter_id, row_number() OVER w AS nth,
                count(*) OVER (PARTITION BY patient_id) AS stays, lag(encounter_id) OVER w AS before
            FROM encounters WHERE encounter_class = 'inpatient'
            WINDOW w AS (PARTITION BY patient_id ORDER BY admit_time, encounter_id)
        )
        SELECT encounter_id, before, nth, patient_id || '-2' AS new_id FROM ordered
        WHERE stays >= 2 AND nth > stays // 2 AND hash(patient_id, 'second') % 1000 < 150""")
    number = (
        "CASE WHEN {0}.encounter_id IN (SELECT encounter_id FROM moved) THEN {0}.patient_id || '-2' "
        "ELSE {0}.patient_id END"
    )
    for table in ("encounters", "diagnoses", "claims"):
        connection.execute(
            f"CREATE TEMP TABLE anew AS SELECT t.* REPLACE ({number.format('t')} AS patient_id) FROM {table} t"
        )
        _rewrite(connection, folder, table)
        connection.execute("DROP TABLE anew")
    connection.execute(f"""
        CREATE TEMP TABLE anew AS
        SELECT n.* REPLACE ({number.format("n")} AS patient_id,
            CASE WHEN n.note_type = '{_HP}' AND n.parent_note_id IS NULL THEN coalesce(old.text, n.text)
                ELSE n.text END AS text)
        FROM notes n LEFT JOIN moved m USING (encounter_id)
        LEFT JOIN (SELECT encounter_id, any_value(text ORDER BY note_id) AS text FROM notes WHERE note_type = '{_HP}'
            AND parent_note_id IS NULL GROUP BY 1) old ON old.encounter_id = m.before""")
    _rewrite(connection, folder, "notes")
    connection.execute("""
        CREATE OR REPLACE TEMP TABLE anew AS
        SELECT * FROM patients UNION ALL
        SELECT p.* REPLACE (p.patient_id || '-2' AS patient_id) FROM patients p
        WHERE p.patient_id || '-2' IN (SELECT new_id FROM moved)""")
    _rewrite(connection, folder, "patients")
    return int(connection.execute("SELECT count(*) FROM moved").fetchall()[0][0])


def _without_orphans(connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
    """Leave out of the other tables what belongs to encounters that are no longer there."""
    for table in ("notes", "diagnoses", "claims"):
        connection.execute(f"CREATE TEMP TABLE kept AS SELECT * FROM {table} SEMI JOIN anew USING (encounter_id)")
        if connection.execute(f"SELECT (SELECT count(*) FROM kept) < (SELECT count(*) FROM {table})").fetchall()[0][0]:
            _write(folder, table, connection.sql("SELECT * FROM kept").to_arrow_table())
        connection.execute("DROP TABLE kept")


def _rewrite(connection: duckdb.DuckDBPyConnection, folder: Path, table: str) -> None:
    names = ", ".join(ALL_TABLES[table].names)
    key = {"patients": "patient_id", "encounters": "encounter_id", "notes": "note_id", "claims": "claim_id"}.get(table)
    rows = connection.sql(f"SELECT {names} FROM anew ORDER BY {key or 'ALL'}").to_arrow_table()
    _write(folder, table, rows)


def _write(folder: Path, table: str, rows: pa.Table) -> None:
    for file in part_files(folder, table):
        file.unlink()
    write_table_part(folder, table, rows, 0)


def _differing(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    gone = f"SELECT count(*) FROM (SELECT * FROM {table} EXCEPT ALL SELECT * FROM anew)"
    return int(connection.execute(gone).fetchall()[0][0])
