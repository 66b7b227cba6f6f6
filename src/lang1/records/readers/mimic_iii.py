"""MIMIC-III 1.4 as records.

Johnson et al., Scientific Data 2016;3:160035. Dates are shifted by patient and nothing says in which true years a stay
lies. What each column becomes is in ``docs/readers/mimic.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from lang1.common.settings import Settings
from lang1.records.readers import mimic_codes as codes
from lang1.records.readers.dates import iso_time
from lang1.records.readers.mimic_source import WHOLE, find_module, tables_in
from lang1.records.readers.mimic_stays import (
    Clock,
    drop_repeats,
    parent_of,
    put_emergency,
    put_fields,
    put_patients,
    put_stays,
    read_stays,
)
from lang1.records.readers.render_stay import RENDERED, RENDERED_TABLES, render_notes
from lang1.records.readers.source import SourceFile
from lang1.records.readers.staging import OnBadRows, Staging, staging
from lang1.records.store import Limit, RecordsMeta, VitalStatus

TABLES = (
    "patients", "admissions", "transfers", "icustays", "services", "diagnoses_icd", "procedures_icd", "noteevents",
)  # fmt: skip
# Birth dates of patients over 89 are shifted to 300 years before their first admission; their median age was 91.
SHIFTED_AGE, OLDEST = 300, 91
YEARS = "datesub('year', p.dob, {t})"
CLOCK = Clock(age=f"CASE WHEN {YEARS} > 150 THEN {OLDEST} + greatest({YEARS} - {SHIFTED_AGE}, 0) ELSE {YEARS} END")


class MimicIIISettings(Settings):
    """How MIMIC-III is read.

    Attributes:
        modules: the folder of the tables, from the source folder, where it cannot be found (``hosp``).
        without_storetime: when a note without a STORETIME counts as available: from the ``end_of_chart_day``, or never
            (``unknown``). Discharge summaries never have one, so ``unknown`` leaves no task that reads them.
        render_notes: whether notes are rendered from the tables for the note types that the source lacks.
        hours: after admission, when a rendered admission note is closed.
        lab_result_hours: after its drawing a laboratory value counts as known; MIMIC-III has no times of results.
        on_bad_rows: ``leave_out`` counts rows that cannot be used, ``refuse`` stops at the first.
    """

    modules: dict[Literal["hosp"], Path] = Field(default_factory=dict)
    without_storetime: Literal["unknown", "end_of_chart_day"] = "end_of_chart_day"
    render_notes: bool = False
    hours: int = Field(default=24, ge=1, le=168)
    lab_result_hours: int = Field(default=6, ge=0, le=168)
    on_bad_rows: OnBadRows = "leave_out"
    real: bool = True
    licence: str = "PhysioNet Credentialed Health Data License 1.5.0; the open demo: ODbL 1.0"


def ingest_mimic_iii(
    source: Path, out: Path, settings: MimicIIISettings | None = None, *, overwrite: bool = False
) -> Path:
    """Write a records folder from MIMIC-III (csv, csv.gz, csv.zst or parquet, names in any case).

    Only ``PATIENTS`` and ``ADMISSIONS`` are required.

    Raises:
        InputError: no admissions or patients, a missing column, or (refuse) a row that cannot be used.
    """
    settings = settings or MimicIIISettings()
    given = {str(name): path for name, path in settings.modules.items()}
    place = find_module(source, "hosp", ["admissions"], given, required=True)
    files = tables_in(place, (*TABLES, *RENDERED_TABLES) if settings.render_notes else TABLES)
    if not files["patients"]:
        find_module(place or source, "hosp", ["patients"], {}, required=True)
    said = "Deaths outside the hospital are those of the Social Security files. "
    if settings.render_notes:
        said += RENDERED
    elif not files["noteevents"]:
        said += "There are no notes: NOTEEVENTS is not there."
    meta = RecordsMeta(
        system="mimic-iii",
        time_basis="shifted",
        vital_status=VitalStatus(source="both"),
        source="MIMIC-III",
        real=settings.real,
        licence=settings.licence,
        notes=said.strip(),
        limits=(
            Limit(
                task="readmission",
                reason="MIMIC-III holds only patients who were in intensive care of one hospital at some time, so "
                "returns are not those of a hospital's discharges",
            ),
        ),
    )
    paths = {table: [file.path for file in found] for table, found in files.items()}
    with staging(
        out, meta, settings=settings, files=paths, on_bad_rows=settings.on_bad_rows, overwrite=overwrite
    ) as stage:
        stage.whole_numbers = frozenset(WHOLE)
        stage.draft.extra["absent"] = [table for table, found in files.items() if not found]
        _persons(stage, files["patients"])
        read_stays(stage, files["admissions"], files["services"], (), CLOCK)
        _count_oldest(stage)
        put_patients(stage)
        put_stays(stage)
        put_emergency(
            stage,
            """SELECT hadm_id AS visit, subject_id, edregtime AS came, edouttime AS gone, 'other' AS disposition, _file,
            _row FROM stays WHERE bad IS NULL AND edregtime IS NOT NULL""",
            CLOCK,
        )
        _units(stage, files)
        _codes(stage, files)
        put_fields(stage)
        _notes(stage, files["noteevents"], settings)
        if settings.render_notes:
            render_notes(stage, files, hours=settings.hours, lab_result_hours=settings.lab_result_hours)
    return out


def _persons(stage: Staging, files: Sequence[SourceFile]) -> None:
    """Create ``persons_read`` (every row of PATIENTS) and ``persons``; the hospital's day of death counts first."""
    stage.read("patients_read", files, ["subject_id", "gender", "dob"], ["dod", "dod_hosp", "dod_ssn"])
    times = {column: iso_time(column, "start_of_day") for column in ("dob", "dod", "dod_hosp", "dod_ssn")}
    faults = " ".join(
        f"WHEN {column} IS NOT NULL AND ({sql}) IS NULL THEN '{column} is not a date'" for column, sql in times.items()
    )
    typed = ", ".join(f"{sql} AS {column}" for column, sql in times.items())
    stage.connection.execute(f"""
        CREATE TABLE persons_read AS
        SELECT subject_id, sex, dob, coalesce(dod_hosp, dod_ssn, dod) AS dod, dod_hosp, dod_ssn,
            CASE WHEN dod_hosp IS NOT NULL AND dod_ssn IS NOT NULL THEN 'both'
                WHEN dod_ssn IS NOT NULL THEN 'registry' WHEN dod_hosp IS NOT NULL THEN 'ehr' END AS death_source,
            _bad, _file, _row
        FROM (
            SELECT subject_id, {stage.coded("patients_read", "gender", codes.SEX, "unknown")} AS sex, {typed},
                CASE {faults} END AS _bad, _file, _row
            FROM patients_read
        ) ORDER BY _file, _row;
        CREATE TABLE persons AS
        SELECT * FROM persons_read WHERE _bad IS NULL
        QUALIFY row_number() OVER (PARTITION BY subject_id ORDER BY _file, _row) = 1""")
    differ = stage.ask("SELECT count(*) FROM persons WHERE dod_hosp::DATE <> dod_ssn::DATE")[0][0]
    if differ:
        stage.draft.counts["patients whose two days of death differ, the hospital's taken"] = differ


def _count_oldest(stage: Staging) -> None:
    oldest = stage.ask(f"""
        SELECT count(DISTINCT s.subject_id) FROM stays s JOIN persons p USING (subject_id)
        WHERE s.bad IS NULL AND {YEARS.format(t="s.admit")} > 150""")[0][0]
    if oldest:
        stage.draft.counts[f"patients over 89, taken as {OLDEST} at their first admission"] = oldest


def _units(stage: Staging, files: dict[str, list[SourceFile]]) -> None:
    """Stays in units from TRANSFERS, where only intensive care has a name and wards a number; else from ICUSTAYS."""
    if files["transfers"]:
        stage.read(
            "transfers",
            files["transfers"],
            ["row_id", "subject_id", "hadm_id", "eventtype", "curr_careunit", "intime"],
            ["curr_wardid", "outtime"],
        )
        drop_repeats(stage, "transfers", "row_id")
        stage.set_aside(
            "transfers", "lower(eventtype) = 'discharge'", "the event of a discharge, which is no stay in a unit"
        )
        unit, relation = "coalesce(curr_careunit, 'ward ' || curr_wardid)", "transfers"
    else:
        stage.read(
            "icustays",
            files["icustays"],
            ["subject_id", "hadm_id", "icustay_id", "first_careunit", "intime", "outtime"],
        )
        drop_repeats(stage, "icustays", "icustay_id")
        unit, relation = "first_careunit", "icustays"
    stage.put(
        "unit_stays",
        f"""SELECT hadm_id AS encounter_id, subject_id AS patient_id, {unit} AS unit,
            coalesce({codes.unit_type(unit)}, 'ward') AS unit_type, intime AS in_time, outtime AS out_time, _file, _row
        FROM {relation}""",
    )


def _codes(stage: Staging, files: dict[str, list[SourceFile]]) -> None:
    for table, source in (("diagnoses", "diagnoses_icd"), ("procedures", "procedures_icd")):
        stage.read(source, files[source], ["subject_id", "hadm_id", "seq_num", "icd9_code"])
        stage.set_aside(source, "icd9_code IS NULL", "no code")
        drop_repeats(stage, source, "hadm_id, seq_num, icd9_code")
        stage.put(
            table,
            f"""SELECT hadm_id AS encounter_id, subject_id AS patient_id, icd9_code AS code,
                'ICD-9-CM' AS code_version, seq_num AS position, _file, _row FROM {source}""",
        )


def _notes(stage: Staging, files: Sequence[SourceFile], settings: MimicIIISettings) -> None:
    """NOTEEVENTS: entries in error set aside, addenda as revisions. No query sorts or joins the texts."""
    if not files:
        return
    stage.read(
        "noteevents",
        files,
        ["row_id", "subject_id", "category", "text"],
        ["hadm_id", "chartdate", "charttime", "storetime", "description", "iserror"],
    )
    stage.set_aside("noteevents", "iserror = '1'", "an entry that was marked as an error")
    stage.connection.execute(f"""
        ALTER TABLE noteevents ADD COLUMN parent VARCHAR;
        CREATE TEMP TABLE heads AS
        SELECT row_id, hadm_id, coalesce(description ILIKE 'addendum%', false) AS addendum,
            (coalesce(try_cast(chartdate AS TIMESTAMP), TIMESTAMP '1800-01-01'), try_cast(row_id AS BIGINT)) AS place
        FROM noteevents WHERE lower(category) = 'discharge summary' AND hadm_id IS NOT NULL;
        CREATE TEMP TABLE parents AS SELECT row_id, parent FROM ({parent_of("row_id")}) WHERE addendum;
        UPDATE noteevents SET parent = p.parent FROM parents p WHERE noteevents.row_id = p.row_id;
        DROP TABLE heads; DROP TABLE parents""")
    orphan = """(parent IS NULL AND lower(category) = 'discharge summary'
        AND coalesce(description ILIKE 'addendum%', false))"""
    orphans = stage.ask(f"SELECT count(*) FROM noteevents WHERE {orphan}")[0][0]
    if orphans:
        stage.draft.counts["noteevents: addenda whose note is not found, taken as notes of type other"] = orphans
    day = "coalesce(split_part(chartdate, ' ', 1), split_part(charttime, ' ', 1))"  # a bare date: the end of its day
    stored = "storetime" if settings.without_storetime == "unknown" else f"coalesce(storetime, {day})"
    kind = stage.coded("noteevents", "category", codes.NOTE_CATEGORIES, "other")
    stage.put(
        "notes",
        f"""SELECT row_id AS note_id, parent AS parent_note_id, subject_id AS patient_id, hadm_id AS encounter_id,
            CASE WHEN {orphan} THEN 'other'
                WHEN lower(category) = 'physician' AND description ILIKE '%admission%' THEN 'history_and_physical'
                ELSE coalesce({kind}, 'other') END AS note_type,
            coalesce(charttime, {day}) AS created_time, {stored} AS signed_time,
            {stored} AS available_time, text, _file, _row
        FROM noteevents""",
    )
    stage.connection.execute("DROP TABLE noteevents")
