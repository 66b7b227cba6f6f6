"""eICU Collaborative Research Database as records: hospital stays, and the first day in intensive care as a note.

Pollard et al., Scientific Data 2018;5:180178. The database has no dates: each item has an offset in minutes from the
admission to its unit, each stay a time of day and the year of its discharge. A hospital stay is an encounter; its
admission is put on 1 January 2000 at its true time of day (``time_basis: within_stay``: nothing holds between stays).
The database has no narrative notes: one note a stay is rendered (``eicu_note.py``) from what had been entered 24 hours
after the first admission to a unit, and became available then.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from lang1.common.errors import InputError
from lang1.common.settings import Settings
from lang1.records.readers.eicu_note import APACHE_HOURS, APACHE_VALUES, NOTE_TABLES, create_notes
from lang1.records.readers.source import SourceFile, find_table
from lang1.records.readers.staging import OnBadRows, Staging, staging
from lang1.records.store import RecordsMeta, VitalStatus

DAY_OF_ADMISSION = "DATE '2000-01-01'"
PATIENT = (
    "patientunitstayid", "patienthealthsystemstayid", "gender", "age", "ethnicity", "hospitalid", "apacheadmissiondx",
    "admissionheight", "admissionweight", "hospitaladmittime24", "hospitaladmitoffset", "hospitaladmitsource",
    "hospitaldischargeyear", "hospitaldischargeoffset", "hospitaldischargelocation", "hospitaldischargestatus",
    "unittype", "unitadmitsource", "unitvisitnumber", "unitstaytype", "unitdischargeoffset", "uniquepid",
)  # fmt: skip
DISPOSITION = {
    "Home": "home",
    "Skilled Nursing Facility": "skilled_nursing",
    "Nursing Home": "long_term_care",
    "Rehabilitation": "rehabilitation",
    "Other Hospital": "transfer_acute",
    "Death": "expired",
    "Other External": "other",
    "Other": "other",
}
RACE = {
    "Caucasian": "White",
    "African American": "Black",
    "Asian": "Asian",
    "Native American": "Native American",
}


class EicuSettings(Settings):
    """How eICU is read.

    Attributes:
        hours: after the first admission to a unit, when the note is closed and the questions are asked.
        prognosis_in_note: whether what staff wrote on prognosis and limits of care stands in the note. Left out by
            default: a note that says "comfort measures only" repeats a decision.
        most_items: of a section of the note, the first so many different entries in the order of time.
        on_bad_rows: ``leave_out`` counts rows that cannot be used, ``refuse`` stops at the first.
    """

    hours: int = Field(default=24, ge=1, le=168)
    prognosis_in_note: bool = False
    most_items: int = Field(default=40, ge=1)
    on_bad_rows: OnBadRows = "leave_out"
    real: bool = True
    licence: str = "ODbL 1.0 (the open demo); the full database: PhysioNet Credentialed Health Data License"


def ingest_eicu(source: Path, out: Path, settings: EicuSettings | None = None, *, overwrite: bool = False) -> Path:
    """Write a records folder from a folder of eICU tables (csv, csv.gz, csv.zst or parquet, names in any case).

    Only ``patient`` is required; tables that are absent leave their sections of the note empty, and are listed in
    ``manifest.extra.absent``.

    Raises:
        InputError: no patient table, a missing column, or (refuse) a row that cannot be used.
    """
    settings = settings or EicuSettings()
    files = {table: find_table(source, table) for table in ("patient", "diagnosis", *NOTE_TABLES)}
    if not files["patient"]:
        raise InputError(f"{source}: no patient table (patient.csv, .csv.gz, .csv.zst or .parquet); is this eICU?")
    meta = RecordsMeta(
        system="eicu",
        time_basis="within_stay",
        vital_status=VitalStatus(source="none"),
        source="eICU Collaborative Research Database",
        real=settings.real,
        licence=settings.licence,
        notes=f"Notes are rendered from what had been entered {settings.hours} hours after the first admission to a "
        "unit. Diagnosis codes are those that intensive care staff chose, not those of billing.",
    )
    paths = {table: [file.path for file in found] for table, found in files.items()}
    with staging(
        out, meta, settings=settings, files=paths, on_bad_rows=settings.on_bad_rows, overwrite=overwrite
    ) as stage:
        stage.draft.extra["absent"] = [table for table, found in files.items() if not found]
        _stays(stage, files["patient"], settings)
        _diagnoses(stage, files["diagnosis"])
        create_notes(stage, files, settings.hours, settings.prognosis_in_note, settings.most_items)
        _fields(stage, files["apacheapsvar"] if settings.hours >= APACHE_HOURS else [])
    return out


def _stays(stage: Staging, files: list[SourceFile], settings: EicuSettings) -> None:
    """Create ``units`` (a row a unit stay, minutes from hospital admission), then patients, encounters, unit stays."""
    stage.read("patient", files, PATIENT)
    for column, what in (("patientunitstayid", "unit stay"), ("patienthealthsystemstayid", "hospital stay")):
        stage.set_aside("patient", f"{column} IS NULL", f"no id of the {what}")
    whole = "regexp_full_match({0}, '-?[0-9]+')"
    for column in ("hospitaladmitoffset", "hospitaldischargeoffset"):
        stage.set_aside("patient", f"({whole.format(column)}) IS NOT TRUE", f"{column} is not a number of minutes")
    stage.set_aside(
        "patient",
        "(_file, _row) NOT IN (SELECT min((_file, _row)) FROM patient GROUP BY patientunitstayid)",
        "a unit stay that was there before",
    )
    stage.connection.execute(f"""
        CREATE TABLE units AS
        SELECT *, -hospitaladmitoffset::BIGINT AS unit_start, -hospitaladmitoffset::BIGINT
                + CASE WHEN {whole.format("unitdischargeoffset")} THEN unitdischargeoffset::BIGINT END AS unit_end,
            hospitaldischargeoffset::BIGINT - hospitaladmitoffset::BIGINT AS stay_minutes,
            {DAY_OF_ADMISSION} + coalesce(try_cast(hospitaladmittime24 AS TIME), TIME '00:00') AS admitted,
            CASE WHEN age LIKE '>%' THEN 90 ELSE try_cast(age AS DOUBLE) END AS years,
            row_number() OVER (PARTITION BY patienthealthsystemstayid
                ORDER BY -hospitaladmitoffset::BIGINT, patientunitstayid) AS nth
        FROM patient
    """)
    over89 = stage.ask("SELECT count(*) FROM units WHERE age LIKE '>%' AND nth = 1")[0][0]
    stage.draft.counts["stays of patients over 89, taken as 90 years old"] = over89
    unknown_time = stage.ask(
        "SELECT count(*) FROM units WHERE try_cast(hospitaladmittime24 AS TIME) IS NULL AND nth = 1"
    )
    if unknown_time[0][0]:
        stage.draft.counts["stays without a time of day, taken as admitted at midnight"] = unknown_time[0][0]
    stage.put(
        "patients",
        f"""
        SELECT uniquepid AS patient_id, coalesce(lower(any_value(CASE WHEN gender IN ('Male', 'Female') THEN gender END
                ORDER BY _file, _row)), 'unknown') AS sex,
            any_value({stage.coded("units", "ethnicity", RACE | {"Hispanic": "", "Other/Unknown": ""}, None)}
                ORDER BY _file, _row) AS race,
            CASE WHEN bool_or(ethnicity = 'Hispanic') THEN 'Hispanic' END AS ethnicity,
            min(_file) AS _file, min(_row) AS _row
        FROM units WHERE uniquepid IS NOT NULL GROUP BY uniquepid""".replace("THEN ''", "THEN NULL"),
    )
    conflict = "hospitaldischargestatus = 'Alive' AND hospitaldischargelocation = 'Death'"
    disposition = stage.coded("units", "hospitaldischargelocation", DISPOSITION, "other")
    stage.put(
        "encounters",
        f"""
        SELECT patienthealthsystemstayid AS encounter_id, uniquepid AS patient_id, 'inpatient' AS encounter_class,
            admitted AS admit_time, admitted + to_minutes(stay_minutes) AS discharge_time, 'unknown' AS admission_type,
            coalesce(hospitaladmitsource, unitadmitsource) AS admission_source, unittype AS department,
            hospitalid AS facility,
            -- The status says whether the patient lived; the place only where to.
            CASE WHEN hospitaldischargestatus = 'Expired' THEN 'expired' WHEN {conflict} THEN 'unknown'
                WHEN hospitaldischargestatus = 'Alive' THEN coalesce({disposition}, 'other') ELSE 'unknown' END
                AS disposition,
            years AS age_at_admission, try_cast(hospitaldischargeyear AS INTEGER) AS year_low,
            try_cast(hospitaldischargeyear AS INTEGER) AS year_high, _file, _row,
            CASE WHEN stay_minutes < 0 THEN 'discharge before admission' END AS _bad
        FROM units WHERE nth = 1""",
    )
    conflicts = stage.ask(f"SELECT count(*) FROM units WHERE nth = 1 AND {conflict}")[0][0]
    if conflicts:
        stage.draft.counts["stays whose status is alive and whose place is death: disposition unknown"] = conflicts
    stage.put(
        "unit_stays",
        """
        SELECT patienthealthsystemstayid AS encounter_id, uniquepid AS patient_id, unittype AS unit,
            CASE WHEN unitstaytype ILIKE 'stepdown%' THEN 'step_down' ELSE 'intensive_care' END AS unit_type,
            admitted + to_minutes(unit_start) AS in_time, admitted + to_minutes(unit_end) AS out_time, _file, _row
        FROM units""",
    )


def _diagnoses(stage: Staging, files: list[SourceFile]) -> None:
    """Codes as staff chose them: ICD-9-CM, mostly paired with its ICD-10-CM counterpart; of a pair the first counts."""
    if not files:
        return
    stage.read("diagnosis", files, ["patientunitstayid", "icd9code", "diagnosispriority", "diagnosisoffset"])
    stage.set_aside("diagnosis", "icd9code IS NULL", "no code")
    orphans = "NOT EXISTS (SELECT 1 FROM units u WHERE u.patientunitstayid = diagnosis.patientunitstayid)"
    stage.set_aside("diagnosis", orphans, "a unit stay that is not in patient")
    # ICD-9-CM is digits, or V and E with digits only where it stands first of a pair; ICD-10-CM starts with a letter.
    stage.put(
        "diagnoses",
        """
        WITH first AS (
            SELECT d.*, trim(split_part(icd9code, ',', 1)) AS code, contains(icd9code, ',') AS paired FROM diagnosis d
        )
        SELECT u.patienthealthsystemstayid AS encounter_id, u.uniquepid AS patient_id, f.code,
            CASE WHEN regexp_matches(f.code, '^[0-9]') OR (f.paired AND regexp_matches(f.code, '^[VE][0-9]'))
                THEN 'ICD-9-CM' ELSE 'ICD-10-CM' END AS code_version,
            CASE WHEN diagnosispriority = 'Primary' THEN 1 END AS position, f._file, f._row
        FROM first f JOIN units u USING (patientunitstayid)""",
    )


def _fields(stage: Staging, files: list[SourceFile]) -> None:
    """Structured values known when the question is asked: those of admission, and APACHE's once the day is over."""
    known: list[tuple[str, str, bool]] = [
        ("age", "years", True),
        ("sex", "gender", False),
        ("ethnicity", "ethnicity", False),
        ("unit_type", "unittype", False),
        ("hospital_admit_source", "hospitaladmitsource", False),
        ("unit_admit_source", "unitadmitsource", False),
        ("apache_admission_diagnosis", "apacheadmissiondx", False),
        ("height", "try_cast(admissionheight AS DOUBLE)", True),
        ("weight", "try_cast(admissionweight AS DOUBLE)", True),
        ("hours_before_unit", "unit_start / 60.0", True),
    ]
    selects = [_field(name, sql, number, "units u") for name, sql, number in known]
    if files:
        stage.read("apacheapsvar", files, ["patientunitstayid"], APACHE_VALUES)
        joined = "units u JOIN apacheapsvar a USING (patientunitstayid)"
        selects += [
            _field(f"apache_{name}", f"nullif(try_cast(a.{name} AS DOUBLE), -1)", True, joined)
            for name in APACHE_VALUES
        ]
    stage.put("fields", " UNION ALL ".join(selects))


def _field(name: str, sql: str, number: bool, source: str) -> str:
    value = f"({sql})::DOUBLE AS number, NULL::VARCHAR AS text" if number else f"NULL::DOUBLE AS number, {sql} AS text"
    return (
        f"SELECT u.patienthealthsystemstayid AS encounter_id, '{name}' AS field, {value}, 'admission' AS known_at, "
        f"u._file, u._row FROM {source} WHERE u.nth = 1 AND ({sql}) IS NOT NULL"
    )


def apache_predictions(source: Path, version: str = "IVa") -> dict[str, Any]:
    """The probability of death in hospital that APACHE gave, by hospital stay: the published peer of the same 24 hours.

    Args:
        source: the folder of eICU tables.
        version: ``IV`` or ``IVa``.

    Returns:
        Encounter id to probability, only of stays whose first unit stay has a valid prediction.

    Raises:
        InputError: a table is missing.
    """
    import duckdb

    files = {table: find_table(source, table) for table in ("patient", "apachepatientresult")}
    for table, found in files.items():
        if not found:
            raise InputError(f"{source}: no {table} table, so there is no APACHE prediction.")
    with duckdb.connect(":memory:") as connection:
        for table, found in files.items():
            columns = (
                ["patientunitstayid", "patienthealthsystemstayid", "hospitaladmitoffset"]
                if table == "patient"
                else ["patientunitstayid", "apacheversion", "predictedhospitalmortality"]
            )
            parts = " UNION ALL ".join(file.select(columns) for file in found)
            connection.execute(f"CREATE TABLE {table} AS {parts}")
        rows = connection.execute(
            """
            WITH first AS (
                SELECT patienthealthsystemstayid AS stay, arg_min(patientunitstayid,
                    (-hospitaladmitoffset::BIGINT, patientunitstayid)) AS patientunitstayid
                FROM patient WHERE try_cast(hospitaladmitoffset AS BIGINT) IS NOT NULL GROUP BY 1)
            SELECT stay, try_cast(predictedhospitalmortality AS DOUBLE) FROM first
            JOIN apachepatientresult USING (patientunitstayid)
            WHERE apacheversion = ? AND try_cast(predictedhospitalmortality AS DOUBLE) BETWEEN 0 AND 1 ORDER BY 1""",
            [version],
        ).fetchall()
    return dict(rows)
