"""Admission notes and discharge summaries of MIMIC stays, rendered from the tables in fixed sentences.

For extracts without such notes (the open demos have none, MIMIC-IV has no admission notes). They show that the path
works on real stays, not how a model reads clinicians. An admission note says only what was there when it was closed; a
discharge summary says what was done. Neither says a diagnosis code, where the patient went, or a death.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import duckdb

from lang1.common.errors import InputError
from lang1.records.readers import mimic_codes as codes
from lang1.records.readers.source import SourceFile
from lang1.records.readers.staging import Staging
from lang1.records.store import quoted

RENDERED_TABLES = ("labevents", "d_icd_procedures")
RENDERED = "Notes of types that the source lacks are rendered from the tables in fixed sentences (counts.rendered)."

_ON_ADMISSION = """concat_ws(chr(10),
    concat_ws(', ', 'Patient: ' || coalesce(s.sex, 'sex not recorded'), round(s.age)::INTEGER || ' years',
        'race ' || lower(coalesce(s.said_race, 'not recorded'))) || '.',
    'Admission: ' || lower(s.admission_type) || ', from '
        || lower(coalesce(s.admission_location, 'not recorded')) || '.',
    'Reason: ' || lower(s.diagnosis) || '.',
    'Insurance: ' || lower(s.insurance) || '.',
    'Marital status: ' || lower(s.marital_status) || '.',
    CASE WHEN s.ed_in <= s.admit THEN 'Hours in the emergency department before admission: '
        || date_diff('hour', s.ed_in, s.admit) || '.' END,
    'Inpatient stays in the year before: ' || p.stays || coalesce(', the last ended ' || p.days || ' days before', '')
        || '.')"""


def render_notes(
    stage: Staging, files: Mapping[str, Sequence[SourceFile]], *, hours: int, lab_result_hours: int = 0
) -> None:
    """Add a note of each type that ``notes`` has none of, for every inpatient stay; counted in ``counts.rendered``.

    Args:
        stage: with ``stays``, ``prior``, ``services``, ``unit_stays`` and the table of procedures.
        files: of :data:`RENDERED_TABLES`.
        hours: after admission, when the admission note is closed and becomes available.
        lab_result_hours: after its drawing a laboratory value counts as known, where the source has no storetime.

    Raises:
        InputError: the laboratory file is not readable.
    """
    there = stage.ask("SELECT 1 FROM duckdb_tables() WHERE table_name = 'notes' AND NOT temporary")
    types = {row[0] for row in stage.ask("SELECT DISTINCT note_type FROM notes")} if there else set()
    rendered = stage.draft.counts.setdefault("rendered", {})
    if "history_and_physical" not in types:
        _values(stage, files["labevents"], hours, lab_result_hours)
        closes = f"s.admit + INTERVAL {hours} HOUR"
        sections = {
            "Units so far": _units(f"u.in_time <= {closes}"),
            "Services so far": _services(f"v.at <= {closes}"),
            "Laboratory, last values": _LABS,
        }
        rendered["history_and_physical"] = _put(stage, "hp", "history_and_physical", closes, sections)
    if "discharge_summary" not in types:
        _results(stage, files["labevents"])
        _titles(stage, files["d_icd_procedures"])
        sections = {
            "Days in hospital": "SELECT hadm_id, date_diff('day', admit, ends)::VARCHAR AS words FROM stays "
            "WHERE bad IS NULL",
            "Units": _units("true"),
            "Services": _services("true"),
            "Laboratory results": "SELECT hadm_id, words FROM results",
            "Procedures": _PROCEDURES,
        }
        rendered["discharge_summary"] = _put(stage, "ds", "discharge_summary", "s.ends", sections)


def _put(stage: Staging, suffix: str, note_type: str, at: str, sections: Mapping[str, str]) -> int:
    """One note an inpatient stay, available ``at``; a section is its title and SQL for ``hadm_id, words``."""
    joins = " ".join(
        f"LEFT JOIN ({sql}) section_{n} ON section_{n}.hadm_id = s.hadm_id" for n, sql in enumerate(sections.values())
    )
    lines = ", ".join(f"{quoted(f'{title}: ')} || section_{n}.words || '.'" for n, title in enumerate(sections))
    asked = "s.bad IS NULL AND s.encounter_class = 'inpatient'"
    stage.put(
        "notes",
        f"""
        SELECT s.hadm_id || '-rendered-{suffix}' AS note_id, s.subject_id AS patient_id, s.hadm_id AS encounter_id,
            '{note_type}' AS note_type, s.service AS department, {at} AS created_time, {at} AS signed_time,
            {at} AS available_time,
            concat_ws(chr(10), {quoted(note_type.replace("_", " ").upper())}, {_ON_ADMISSION}, {lines}) AS text,
            s._file, s._row
        FROM stays s JOIN prior p ON p.hadm_id = s.hadm_id {joins}
        WHERE {asked} AND {at} IS NOT NULL ORDER BY s._file, s._row""",
    )
    return int(stage.ask(f"SELECT count(*) FROM stays s WHERE {asked} AND {at} IS NOT NULL")[0][0])


def _units(when: str) -> str:
    """Units in the order of entry, without waiting places such as the discharge lounge."""
    return f"""
        SELECT s.hadm_id, string_agg(u.unit, ', ' ORDER BY u.in_time, u.unit) AS words
        FROM stays s JOIN unit_stays u ON u.encounter_id = s.hadm_id
        WHERE s.bad IS NULL AND u.unit IS NOT NULL AND u.unit_type <> 'other' AND {when} GROUP BY s.hadm_id"""


def _services(when: str) -> str:
    return f"""
        SELECT s.hadm_id, string_agg(v.service, ', ' ORDER BY v.at, v.service) AS words
        FROM stays s JOIN (
            SELECT hadm_id, try_cast(transfertime AS TIMESTAMP) AS at,
                {codes.renamed("curr_service", codes.SERVICES)} AS service FROM services
        ) v ON v.hadm_id = s.hadm_id
        WHERE s.bad IS NULL AND v.service IS NOT NULL AND {when} GROUP BY s.hadm_id"""


_LABS = """
    SELECT hadm_id, string_agg(item || ' ' || CASE WHEN last.value = floor(last.value) THEN last.value::BIGINT::VARCHAR
        ELSE round(last.value, 2)::VARCHAR END || CASE WHEN last.abnormal THEN ' (abnormal)' ELSE '' END, '; '
        ORDER BY place) AS words
    FROM lab_values GROUP BY hadm_id"""
_PROCEDURES = """
    SELECT encounter_id AS hadm_id, string_agg(lower(t.title), '; ' ORDER BY position, t.title) AS words
    FROM procedures p JOIN titles t USING (code, code_version) GROUP BY encounter_id"""


def _values(stage: Staging, files: Sequence[SourceFile], hours: int, lab_result_hours: int) -> None:
    """Create ``lab_values``: the last value of each of :data:`mimic_codes.LABS` that was known when the note closed."""
    stage.connection.execute(
        "CREATE TABLE lab_values_read (hadm_id VARCHAR, place INTEGER, item VARCHAR, "
        "last STRUCT(drawn TIMESTAMP, value DOUBLE, abnormal BOOLEAN))"
    )
    items = ", ".join(
        f"({quoted(code)}, {place}, {quoted(item)})" for place, (code, item) in enumerate(codes.LABS.items())
    )
    for file in files:
        stored = "storetime" in [column.lower() for column in file.columns]
        known = "greatest(l.drawn, try_cast(l.storetime AS TIMESTAMP))" if stored else "l.drawn"
        wait = 0 if stored else lab_result_hours
        columns = ["subject_id", "itemid", "charttime", "valuenum", "flag", *(["storetime"] if stored else [])]
        # Joined by patient and time: samples of the emergency department carry no hadm_id.
        _stream(stage, file, columns, f"""
            INSERT INTO lab_values_read
            SELECT s.hadm_id, i.place, i.item,
                max({{'drawn': l.drawn, 'value': l.number, 'abnormal': l.flag IS NOT NULL}})
            FROM (SELECT *, try_cast(charttime AS TIMESTAMP) AS drawn, try_cast(valuenum AS DOUBLE) AS number
                FROM arriving_labs) l
            JOIN (VALUES {items}) i(itemid, place, item) ON i.itemid = l.itemid
            JOIN stays s ON s.subject_id = l.subject_id AND s.bad IS NULL AND s.encounter_class = 'inpatient'
                AND l.drawn >= coalesce(least(s.ed_in, s.admit), s.admit)
                AND {known} + INTERVAL {wait} HOUR <= s.admit + INTERVAL {hours} HOUR
            WHERE isfinite(l.number) AND {known.replace("greatest(l.drawn, ", "(") if stored else known} IS NOT NULL
            GROUP BY s.hadm_id, i.place, i.item""")  # fmt: skip
    stage.connection.execute("""
        CREATE TABLE lab_values AS
        SELECT hadm_id, place, item, max(last) AS last FROM lab_values_read GROUP BY 1, 2, 3;
        DROP TABLE lab_values_read""")


def _results(stage: Staging, files: Sequence[SourceFile]) -> None:
    """Create ``results``: how many laboratory results an admission has."""
    stage.connection.execute("CREATE TABLE results_read (hadm_id VARCHAR, results BIGINT)")
    for file in files:
        _stream(stage, file, ["hadm_id"], """
            INSERT INTO results_read
            SELECT hadm_id, count(*) FROM arriving_labs WHERE hadm_id IS NOT NULL GROUP BY 1""")  # fmt: skip
    stage.connection.execute("""
        CREATE TABLE results AS SELECT hadm_id, sum(results)::VARCHAR AS words FROM results_read GROUP BY 1;
        DROP TABLE results_read""")


def _titles(stage: Staging, files: Sequence[SourceFile]) -> None:
    """Create ``titles`` of procedure codes; empty where the dictionary is absent."""
    third = any("icd9_code" in [column.lower() for column in file.columns] for file in files)
    code, columns = ("icd9_code", []) if third else ("icd_code", ["icd_version"])
    stage.read("dictionary", files, [code, "long_title", *columns])
    version = "'ICD-9-CM'" if third else "CASE icd_version WHEN '9' THEN 'ICD-9-CM' WHEN '10' THEN 'ICD-10-PCS' END"
    stage.connection.execute(f"""
        CREATE TABLE titles AS
        SELECT {code} AS code, {version} AS code_version, min(long_title) AS title FROM dictionary GROUP BY 1, 2;
        DROP TABLE dictionary""")


def _stream(stage: Staging, file: SourceFile, columns: Sequence[str], query: str) -> None:
    """Run a query on ``arriving_labs``, a file of any size that is read once and not kept; malformed lines are counted.

    Raises:
        InputError: the file is not readable, or (refuse) a line is malformed.
    """
    for column in columns:
        if column not in [c.lower() for c in file.columns]:
            file.need(column, "for labevents")
    given = [next(c for c in file.columns if c.lower() == column) for column in columns]
    values = ", ".join(f"{stage.value(ours, c)} AS {ours}" for ours, c in zip(columns, given, strict=True))
    tolerant = stage.leaves_out and file.kind == "csv"
    try:
        stage.connection.execute(
            f"CREATE OR REPLACE TEMP VIEW arriving_labs AS SELECT {values} "
            f"FROM ({file.select(given, rejects=tolerant)}); {query}; DROP VIEW arriving_labs"
        )
    except (duckdb.InvalidInputException, duckdb.IOException, duckdb.ConversionException) as error:
        raise InputError(f"{file.path}: {str(error).splitlines()[0]}; copy the file again.") from error
    if tolerant:
        bad = stage.ask("SELECT count(DISTINCT line), min(line) FROM reject_errors")[0]
        stage.leave_out(f"{file.shown}: a line that is not well-formed", bad[0], f"{file.shown} line {bad[1]}")
        stage.connection.execute("DROP TABLE reject_errors; DROP TABLE reject_scans")
