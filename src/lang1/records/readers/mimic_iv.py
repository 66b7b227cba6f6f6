"""MIMIC-IV 2.x and 3.x as records: the hosp, icu, note and ed modules as PhysioNet gives them.

Johnson et al., Scientific Data 2023;10:1. Dates are shifted by patient (``time_basis: shifted``); the group of true
years of each patient's anchor year says between which true years a stay lies. What each column becomes, and what is
done where columns contradict each other, is in ``docs/readers/mimic.md``.
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

HOSP = ("patients", "admissions", "transfers", "services", "diagnoses_icd", "procedures_icd")
NOTE = ("discharge", "discharge_detail", "radiology", "radiology_detail")
CLOCK = Clock(
    age="p.anchor_age + year({t}) - p.anchor_year",
    year_low="p.first_year + (year({t}) - p.anchor_year)",
    year_high="p.last_year + (year({t}) - p.anchor_year)",
)
OLDEST = 91  # anchor_age of every patient over 89


class MimicIVSettings(Settings):
    """How MIMIC-IV is read.

    Attributes:
        modules: folders of ``hosp``, ``icu``, ``note`` and ``ed``, from the source folder, where they cannot be found.
        observation_types: admission types that are visits under observation, not inpatient stays.
        without_storetime: when a note without a storetime counts as available: never (``unknown``), or from the
            ``end_of_chart_day``.
        render_notes: whether notes are rendered from the tables for the note types that the source lacks.
        hours: after admission, when a rendered admission note is closed.
        on_bad_rows: ``leave_out`` counts rows that cannot be used, ``refuse`` stops at the first.
    """

    modules: dict[Literal["hosp", "icu", "note", "ed"], Path] = Field(default_factory=dict)
    observation_types: tuple[str, ...] = codes.OBSERVATION_TYPES
    without_storetime: Literal["unknown", "end_of_chart_day"] = "unknown"
    render_notes: bool = False
    hours: int = Field(default=24, ge=1, le=168)
    on_bad_rows: OnBadRows = "leave_out"
    real: bool = True
    licence: str = "PhysioNet Credentialed Health Data License 1.5.0; the open demo: ODbL 1.0"


def ingest_mimic_iv(
    source: Path, out: Path, settings: MimicIVSettings | None = None, *, overwrite: bool = False
) -> Path:
    """Write a records folder from MIMIC-IV (csv, csv.gz, csv.zst or parquet, names in any case).

    Only the hosp module is required, and in it ``patients`` and ``admissions``.

    Args:
        source: a folder with the modules in it, at most six folders deep.
        out: the records folder to write.
        settings: how.
        overwrite: replace ``out``.

    Raises:
        InputError: no admissions or patients, two versions side by side, a missing column, or (refuse) a bad row.
    """
    settings = settings or MimicIVSettings()
    given = {str(name): path for name, path in settings.modules.items()}
    hosp = find_module(source, "hosp", ["admissions"], given, required=True)
    wanted = (*HOSP, *RENDERED_TABLES) if settings.render_notes else HOSP
    files = tables_in(hosp, wanted)
    files |= tables_in(find_module(source, "icu", ["icustays"], given), ["icustays"])
    files |= tables_in(find_module(source, "note", ["discharge", "radiology"], given), NOTE)
    files |= tables_in(find_module(source, "ed", ["edstays"], given), ["edstays"])
    if not files["patients"]:
        find_module(hosp or source, "hosp", ["patients"], {}, required=True)
    meta = RecordsMeta(
        system="mimic-iv",
        time_basis="shifted",
        vital_status=VitalStatus(source="both"),
        source="MIMIC-IV",
        real=settings.real,
        licence=settings.licence,
        notes=_about(files, settings),
        limits=(
            Limit(
                task="readmission",
                reason="MIMIC-IV holds only patients who were in the emergency department or intensive care of one "
                "hospital at some time, so returns are not those of a hospital's discharges",
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
        read_stays(stage, files["admissions"], files["services"], settings.observation_types, CLOCK)
        put_patients(stage)
        put_stays(stage)
        _emergency_and_units(stage, files)
        _codes(stage, files)
        put_fields(stage)
        _notes(stage, "discharge", files["discharge"], files["discharge_detail"], settings)
        _notes(stage, "radiology", files["radiology"], files["radiology_detail"], settings)
        if settings.render_notes:
            render_notes(stage, files, hours=settings.hours)
    return out


def _about(files: dict[str, list[SourceFile]], settings: MimicIVSettings) -> str:
    said = [
        "Deaths are known from hospital records and the state registry for one year after a patient's last discharge; "
        "dod is a day."
    ]
    if settings.render_notes:
        said.append(RENDERED)
    elif not files["discharge"]:
        said.append("There are no discharge summaries: the note module is not there.")
    return " ".join(said)


def _persons(stage: Staging, files: Sequence[SourceFile]) -> None:
    """Create ``persons_read`` (every row of patients) and ``persons`` (the first of each)."""
    stage.read(
        "patients_read", files, ["subject_id", "gender", "anchor_age", "anchor_year"], ["anchor_year_group", "dod"]
    )
    dod = iso_time("dod", "start_of_day")
    stage.connection.execute(f"""
        CREATE TABLE persons_read AS
        SELECT subject_id, {stage.coded("patients_read", "gender", codes.SEX, "unknown")} AS sex,
            try_cast(anchor_age AS DOUBLE) AS anchor_age, try_cast(anchor_year AS INTEGER) AS anchor_year,
            try_cast(regexp_extract(anchor_year_group, '([0-9]{{4}}) *- *([0-9]{{4}})', 1) AS INTEGER) AS first_year,
            try_cast(regexp_extract(anchor_year_group, '([0-9]{{4}}) *- *([0-9]{{4}})', 2) AS INTEGER) AS last_year,
            {dod} AS dod, 'both' AS death_source,
            CASE WHEN dod IS NOT NULL AND ({dod}) IS NULL THEN 'dod is not a date' END AS _bad, _file, _row
        FROM patients_read ORDER BY _file, _row;
        CREATE TABLE persons AS
        SELECT * FROM persons_read WHERE _bad IS NULL
        QUALIFY row_number() OVER (PARTITION BY subject_id ORDER BY _file, _row) = 1""")
    oldest = stage.ask(f"SELECT count(*) FROM persons WHERE anchor_age >= {OLDEST}")[0][0]
    if oldest:
        stage.draft.counts[f"patients over 89, taken as {OLDEST} in their anchor year"] = oldest


def _emergency_and_units(stage: Staging, files: dict[str, list[SourceFile]]) -> None:
    """Emergency visits from the best source that is there, and stays in units from transfers, else from icustays."""
    stage.read(
        "transfers",
        files["transfers"],
        ["subject_id", "hadm_id", "transfer_id", "eventtype", "careunit", "intime"],
        ["outtime"],
    )
    drop_repeats(stage, "transfers", "transfer_id")
    if files["edstays"]:
        stage.read(
            "edstays", files["edstays"], ["subject_id", "stay_id", "intime", "outtime"], ["hadm_id", "disposition"]
        )
        disposition = stage.coded("edstays", "disposition", codes.ED_DISPOSITIONS, "other")
        visits = f"""SELECT stay_id AS visit, subject_id, intime AS came, outtime AS gone,
            coalesce({disposition}, 'unknown') AS disposition, _file, _row FROM edstays"""
    elif files["transfers"]:
        visits = """SELECT transfer_id AS visit, subject_id, intime AS came, outtime AS gone,
            CASE WHEN hadm_id IS NULL THEN 'unknown' ELSE 'other' END AS disposition, _file, _row
            FROM transfers WHERE upper(eventtype) = 'ED'"""
    else:
        visits = """SELECT hadm_id AS visit, subject_id, edregtime AS came, edouttime AS gone, 'other' AS disposition,
            _file, _row FROM stays WHERE bad IS NULL AND edregtime IS NOT NULL"""
    put_emergency(stage, visits, CLOCK)
    stage.set_aside(
        "transfers", "lower(eventtype) = 'discharge'", "the event of a discharge, which is no stay in a unit"
    )
    stage.put(
        "unit_stays",
        f"""SELECT coalesce(hadm_id, 'ed-' || transfer_id) AS encounter_id, subject_id AS patient_id, careunit AS unit,
            CASE WHEN upper(eventtype) = 'ED' THEN 'emergency' ELSE {codes.unit_type("careunit")} END AS unit_type,
            intime AS in_time, outtime AS out_time, _file, _row FROM transfers""",
    )
    if files["transfers"]:
        return
    stage.read(
        "icustays", files["icustays"], ["subject_id", "hadm_id", "stay_id", "first_careunit", "intime", "outtime"]
    )
    drop_repeats(stage, "icustays", "stay_id")
    stage.put(
        "unit_stays",
        f"""SELECT hadm_id AS encounter_id, subject_id AS patient_id, first_careunit AS unit,
            {codes.unit_type("first_careunit")} AS unit_type, intime AS in_time, outtime AS out_time, _file, _row
        FROM icustays""",
    )


def _codes(stage: Staging, files: dict[str, list[SourceFile]]) -> None:
    for table, columns in (("diagnoses_icd", ()), ("procedures_icd", ("chartdate",))):
        stage.read(table, files[table], ["subject_id", "hadm_id", "seq_num", "icd_code", "icd_version"], columns)
        stage.set_aside(table, "icd_code IS NULL", "no code")
        drop_repeats(stage, table, "hadm_id, seq_num, icd_code, icd_version")
    select = """SELECT hadm_id AS encounter_id, subject_id AS patient_id, icd_code AS code,
        CASE icd_version WHEN '9' THEN 'ICD-9-CM' WHEN '10' THEN '{tenth}' END AS code_version, seq_num AS position,
        CASE WHEN icd_version NOT IN ('9', '10') THEN 'icd_version is neither 9 nor 10' END AS _bad, _file, _row{more}
        FROM {table}"""
    stage.put("diagnoses", select.format(tenth="ICD-10-CM", more="", table="diagnoses_icd"))
    more = ", split_part(chartdate, ' ', 1) AS performed_time"
    stage.put("procedures", select.format(tenth="ICD-10-PCS", more=more, table="procedures_icd"))


def _notes(
    stage: Staging,
    table: str,
    files: Sequence[SourceFile],
    details: Sequence[SourceFile],
    settings: MimicIVSettings,
) -> None:
    """One table of the note module; an addendum is a revision of its parent. No query sorts or joins the texts."""
    if not files:
        return
    relation = f"{table}_notes"
    stage.read(
        relation,
        files,
        ["note_id", "subject_id", "text"],
        ["hadm_id", "note_type", "note_seq", "charttime", "storetime"],
    )
    _parents(stage, relation, details)
    day = "split_part(charttime, ' ', 1)"  # a bare date counts from the end of its day
    stored = "storetime" if settings.without_storetime == "unknown" else f"coalesce(storetime, {day})"
    kind = stage.coded(relation, "note_type", codes.NOTE_TYPES, "other")
    orphan = f"{_addendum()} AND parent IS NULL"
    orphans = stage.ask(f"SELECT count(*) FROM {relation} WHERE {orphan}")[0][0]
    if orphans:
        stage.draft.counts[f"{table}: addenda whose note is not found, taken as notes of type other"] = orphans
    stage.put(
        "notes",
        f"""SELECT note_id, parent AS parent_note_id, subject_id AS patient_id, hadm_id AS encounter_id,
            CASE WHEN {orphan} THEN 'other' ELSE coalesce({kind}, 'other') END AS note_type,
            charttime AS created_time, {stored} AS signed_time, {stored} AS available_time, text, _file, _row
        FROM {relation}""",
    )
    stage.connection.execute(f"DROP TABLE {relation}")


def _addendum() -> str:
    return "coalesce(upper(note_type) IN ('AD', 'AR'), false)"


def _parents(stage: Staging, relation: str, details: Sequence[SourceFile]) -> None:
    """Add ``parent``: as the detail table says, else the note before the addendum in its admission, else the first."""
    stage.connection.execute(f"ALTER TABLE {relation} ADD COLUMN parent VARCHAR")
    stage.read("details", details, ["note_id", "field_name", "field_value"])
    order = (
        "(coalesce(try_cast(charttime AS TIMESTAMP), TIMESTAMP '1800-01-01'), try_cast(note_seq AS BIGINT), note_id)"
    )
    stage.connection.execute(f"""
        CREATE TEMP TABLE heads AS
        SELECT note_id, hadm_id, {_addendum()} AS addendum, {order} AS place FROM {relation};
        CREATE TEMP TABLE said AS
        SELECT note_id, min(field_value) AS parent FROM details
        WHERE lower(field_name) = 'parent_note_id' AND field_value IS NOT NULL GROUP BY note_id;
        CREATE TEMP TABLE parents AS
        SELECT a.note_id, coalesce(s.parent, CASE WHEN a.addendum THEN a.parent END) AS parent
        FROM ({parent_of("note_id")}) a LEFT JOIN said s USING (note_id)
        WHERE a.addendum OR s.parent IS NOT NULL;
        UPDATE {relation} SET parent = p.parent FROM parents p WHERE {relation}.note_id = p.note_id;
        DROP TABLE heads; DROP TABLE said; DROP TABLE parents; DROP TABLE details""")
