"""OMOP CDM 5.3 and 5.4 as records: visits become encounters, ids of the standard vocabularies become our words.

Table and field names: the OMOP Common Data Model specifications (ohdsi.github.io/CommonDataModel). Where 5.4 renamed a
field, either name is read. ``omop_source.py`` finds the tables, ``omop_events.py`` reads diagnoses, procedures, units
and notes, ``omop_concepts.py`` holds the concept ids.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

from lang1.common.errors import InputError
from lang1.records.readers import omop_concepts as concepts
from lang1.records.readers.omop_events import create_coded, put_diagnoses, put_notes, put_procedures, put_units
from lang1.records.readers.omop_settings import OmopSettings
from lang1.records.readers.omop_source import Cdm, find_cdm
from lang1.records.readers.omop_sql import Times, case, column_of, has_icd, identity, unmapped
from lang1.records.readers.staging import MEMORY, THREADS, Staging, staging
from lang1.records.store import Limit, RecordsMeta, VitalStatus

TABLES = (
    "person", "visit_occurrence", "visit_detail", "death", "condition_occurrence", "procedure_occurrence",
    "observation", "measurement", "note", "care_site", "location", "payer_plan_period", "observation_period",
    "cdm_source", "concept", "cost",
)  # fmt: skip
PERSON = (
    "gender_concept_id", "year_of_birth", "month_of_birth", "day_of_birth", "birth_datetime", "race_concept_id",
    "ethnicity_concept_id", "location_id", "gender_source_value", "race_source_value", "ethnicity_source_value",
)  # fmt: skip
VISIT = (
    "visit_start_date", "visit_start_datetime", "visit_end_date", "visit_end_datetime",
    "visit_source_value", "visit_source_concept_id",
    "care_site_id", "preceding_visit_occurrence_id", "admitted_from_concept_id", "admitted_from_source_value",
    "admitting_source_concept_id", "admitting_source_value", "discharged_to_concept_id", "discharged_to_source_value",
    "discharge_to_concept_id", "discharge_to_source_value",
)  # fmt: skip
PAYER = (
    "payer_plan_period_start_date", "payer_plan_period_start_datetime", "payer_plan_period_end_date",
    "payer_plan_period_end_datetime", "payer_concept_id", "payer_source_value", "plan_source_value",
)  # fmt: skip
# No date of a real extract lies beyond this year; MIMIC's do on purpose.
NEVER_BEFORE = 2100
NO_CLAIMS = (
    "OMOP has no claim statuses (cost holds amounts without denials); add claims from X12 files with `lang1 ingest x12`"
)
NO_CODES = (
    "no condition carries an ICD code, only standard concepts; give the source codes (condition_source_value, or the "
    "concept table of the vocabularies ICD9CM and ICD10CM)"
)


def ingest_omop(source: Path, out: Path, settings: OmopSettings | None = None, *, overwrite: bool = False) -> Path:
    """Write a records folder from a folder of CDM tables (CSV or Parquet) or a DuckDB file.

    ``person`` and ``visit_occurrence`` are required; absent tables are listed in ``manifest.extra.absent``.

    Raises:
        InputError: no CDM, a missing column, calendar dates without a declaration of what is complete, times with an
            offset but no zone, or (refuse) a row that cannot be used.
    """
    settings = settings or OmopSettings()
    cdm = find_cdm(source, TABLES, schema=settings.schema_name, encoding=settings.encoding)
    if not cdm.tables["visit_occurrence"]:
        raise InputError(f"{source}: no visit_occurrence table; without visits there are no encounters.")
    meta = _meta(source, cdm, settings)
    with staging(
        out, meta, settings=settings, files=cdm.paths(), on_bad_rows=settings.on_bad_rows, overwrite=overwrite
    ) as stage:
        cdm.attach(stage.connection)
        stage.draft.extra["absent"] = [table for table, files in cdm.tables.items() if not files]
        _put_patients(stage, cdm, settings)
        _create_visits(stage, cdm, settings)
        _put_encounters(stage, cdm, settings)
        create_coded(stage, cdm, settings)
        put_diagnoses(stage, settings)
        put_procedures(stage, settings)
        put_units(stage, cdm, settings)
        put_notes(stage, cdm, settings)
    return out


def _meta(source: Path, cdm: Cdm, settings: OmopSettings) -> RecordsMeta:
    """What the records say about themselves, from the settings and a first look at the source.

    Raises:
        InputError: what labels depend on is not declared.
    """
    with duckdb.connect(":memory:", config={"memory_limit": MEMORY, "threads": THREADS}) as connection:
        cdm.attach(connection)
        system, release = _about(connection, cdm)
        try:
            starts = " UNION ALL ".join(
                f"SELECT try_cast({column_of(file, 'visit_start_date')} AS DATE) AS day FROM "
                f"({file.select([column_of(file, 'visit_start_date')], rejects=file.kind == 'csv')})"
                for file in cdm.tables["visit_occurrence"]
            )
            ((half, last),) = connection.execute(f"SELECT quantile_disc(day, 0.5), max(day) FROM ({starts})").fetchall()
            deaths = any(
                connection.execute(f"SELECT 1 FROM ({file.select([])}) LIMIT 1").fetchall()
                for file in cdm.tables["death"]
            )
            coded = has_icd(connection, cdm)
        except duckdb.Error:  # what is wrong is told by file and row when the rows are read
            half, last, deaths, coded = None, None, bool(cdm.tables["death"]), True
    # Half of them, since a single wrong year is no shift.
    beyond = half is not None and half.year > (int(release[:4]) if release else NEVER_BEFORE)
    basis = settings.time_basis or ("shifted" if beyond else "calendar")
    if basis == "calendar" and beyond:
        raise InputError(
            f"{source}: time_basis is calendar, but half of the visits start on {half} or later, after "
            f"{f'the release of the CDM ({release})' if release else NEVER_BEFORE}; set time_basis=shifted."
        )
    if basis == "calendar" and settings.complete_through is None:
        through = release or last or "2024-12-31"
        raise InputError(
            f"{source}: complete_through is not set, so what came after the end of the extract cannot be told from "
            f"what never came (cdm_source says {release or 'nothing'}, the last visit starts {last or 'at no date'}); "
            f"set 'complete_through.encounters={{through: {through}, key: discharge_time}}' (key: admit_time if visits "
            "that were still open are there), or time_basis=shifted for shifted dates."
        )
    limits = [Limit(task="insurance_denial", reason=NO_CLAIMS)]
    if not coded:
        limits.append(Limit(task="comorbidity", reason=NO_CODES))
    return RecordsMeta(
        system=settings.system or system or "omop",
        time_basis=basis,
        complete_through=settings.complete_through or {},
        vital_status=settings.vital_status or VitalStatus(source="ehr" if deaths else "none"),
        source=settings.source or f"OMOP CDM{f', released {release}' if release else ''}",
        real=settings.real,
        licence=settings.licence,
        notes="Diagnosis codes are those that the source gave beside the standard concepts.",
        limits=tuple(limits),
    )


def _about(connection: duckdb.DuckDBPyConnection, cdm: Cdm) -> tuple[str | None, str | None]:
    """The system's abbreviation and the day on which the CDM was released (at the latest), from ``cdm_source``."""
    for file in cdm.tables["cdm_source"]:
        asked = ("cdm_source_abbreviation", "source_release_date", "cdm_release_date")
        there = [column for column in asked if column in [c.lower() for c in file.columns]]
        if not there:
            continue
        given = ", ".join(f"{column_of(file, column)} AS {column}" for column in there)
        rows = connection.execute(
            f"SELECT {given} FROM ({file.select([column_of(file, column) for column in there])}) LIMIT 1"
        ).fetchall()
        if rows:
            found = dict(zip(there, rows[0], strict=True))
            days = [str(found[c])[:10] for c in asked[1:] if found.get(c) and str(found[c])[:4].isdigit()]
            return found.get("cdm_source_abbreviation") or None, max(days, default=None)
    return None, None


def _put_patients(stage: Staging, cdm: Cdm, settings: OmopSettings) -> None:
    """Patients with their deaths. Creates ``births``: year of birth, and the day where month and day are known."""
    times = Times(stage, settings)
    stage.read("person", cdm.tables["person"], ["person_id"], PERSON)
    stage.read("location", cdm.tables["location"], ["location_id"], ["county", "city", "state"])
    stage.read("death", cdm.tables["death"], ["person_id"], ["death_date", "death_datetime", "death_type_concept_id"])
    stage.set_aside("person", "person_id IS NULL", "no person_id")
    died = times.moment("death", "death", "start_of_day")
    stage.set_aside("death", f"({died}) IS NULL", "no death_date that is a date")
    stage.set_aside(
        "death",
        f"(_file, _row) NOT IN (SELECT arg_min((_file, _row), ({died}, _file, _row)) FROM death "
        f"GROUP BY {identity('person_id')})",
        "another death of the same person (the first counts)",
    )
    born = times.iso("birth_datetime")
    stage.connection.execute(f"""
        CREATE TABLE births AS
        SELECT {identity("person_id")} AS person_id,
            coalesce(try_cast({identity("year_of_birth")} AS INTEGER), year(try_cast({born} AS TIMESTAMP)))
                AS born_year,
            coalesce(try_cast({born} AS TIMESTAMP)::DATE, try_cast(concat_ws('-', {identity("year_of_birth")},
                {identity("month_of_birth")}, {identity("day_of_birth")}) AS DATE)) AS born_on
        FROM person""")
    sources = concepts.DEATH_SOURCES | settings.death_sources
    unmapped(stage, "death", "death_type_concept_id", sources, "unknown")
    calendar = stage.meta.time_basis == "calendar"
    stage.put(
        "patients",
        f"""
        WITH first_birth AS (SELECT person_id, any_value(born_year) AS born_year FROM births GROUP BY 1)
        SELECT {identity("p.person_id")} AS patient_id, {"b.born_year" if calendar else "NULL::INTEGER"} AS birth_year,
            coalesce({case(identity("p.gender_concept_id"), concepts.SEX)},
                CASE upper(left(p.gender_source_value, 1)) WHEN 'F' THEN 'female' WHEN 'M' THEN 'male' END,
                'unknown') AS sex,
            coalesce({case(identity("p.race_concept_id"), concepts.RACE)}, p.race_source_value) AS race,
            coalesce({case(identity("p.ethnicity_concept_id"), concepts.ETHNICITY)}, p.ethnicity_source_value)
                AS ethnicity,
            coalesce(l.county, l.city, l.state) AS area,
            {times.moment("death", "d.death", "start_of_day")} AS death_time,
            {case(identity("d.death_type_concept_id"), sources)} AS death_source, p._file, p._row
        FROM person p LEFT JOIN first_birth b ON b.person_id = {identity("p.person_id")}
            LEFT JOIN (SELECT * FROM location QUALIFY row_number() OVER (PARTITION BY location_id) = 1) l
                ON {identity("l.location_id")} = {identity("p.location_id")}
            LEFT JOIN death d ON {identity("d.person_id")} = {identity("p.person_id")}
        ORDER BY p._file, p._row""",
    )


def _create_visits(stage: Staging, cdm: Cdm, settings: OmopSettings) -> None:
    """Create ``visits`` (times typed, class and disposition decided) and ``visit_map`` (visit to encounter)."""
    times = Times(stage, settings)
    stage.read(
        "visit_occurrence",
        cdm.tables["visit_occurrence"],
        ["visit_occurrence_id", "person_id", "visit_concept_id"],
        VISIT,
    )
    stage.set_aside("visit_occurrence", "visit_occurrence_id IS NULL", "no visit_occurrence_id")
    stage.set_aside(
        "visit_occurrence",
        f"(_file, _row) NOT IN (SELECT min((_file, _row)) FROM visit_occurrence GROUP BY "
        f"{identity('visit_occurrence_id')})",
        "a visit_occurrence_id that was there before",
    )
    own = settings.visit_classes
    their_class = (
        f"coalesce({case(identity('visit_source_concept_id'), own)}, {case('visit_source_value', own)}, "
        f"{case(identity('visit_concept_id'), concepts.VISIT_CLASSES | own)})"
    )
    left_to = "coalesce(discharged_to_source_value, discharge_to_source_value)"
    left_concept = identity("coalesce(discharged_to_concept_id, discharge_to_concept_id)")
    came_from = "coalesce(admitted_from_source_value, admitting_source_value)"
    came_concept = identity("coalesce(admitted_from_concept_id, admitting_source_concept_id)")
    disposition = (
        f"coalesce({case(left_to, settings.dispositions)}, "
        f"{case(left_concept, concepts.DISPOSITIONS | settings.dispositions)})"
    )
    starts = times.moment("visit_occurrence", "visit_start", "start_of_day")
    ends = times.moment("visit_occurrence", "visit_end", "end_of_day")
    stage.connection.execute(f"""
        CREATE TABLE visits AS
        WITH read AS (
            SELECT {identity("visit_occurrence_id")} AS visit_id, {identity("person_id")} AS person_id,
                {identity("preceding_visit_occurrence_id")} AS preceding, {identity("care_site_id")} AS care_site_id,
                coalesce({their_class}, 'outpatient') AS class, ({their_class}) IS NULL AS unclassed,
                {starts} AS starts, {ends} AS ends, {disposition} AS disposition,
                {left_concept} AS left_concept, {left_to} AS left_to,
                coalesce({came_from}, {case(came_concept, concepts.DISPOSITIONS)}) AS came_from,
                coalesce({case(identity("visit_source_concept_id"), settings.admission_types)},
                    {case("visit_source_value", settings.admission_types)},
                    {case(identity("visit_concept_id"), dict.fromkeys(concepts.EMERGENCY_ADMISSION, "emergency"))},
                    'unknown') AS admission_type,
                CASE WHEN coalesce(visit_start_datetime, visit_start_date) IS NULL THEN 'no visit_start_date'
                    WHEN ({starts}) IS NULL THEN 'visit_start is not a time'
                    WHEN coalesce(visit_end_datetime, visit_end_date) IS NOT NULL AND ({ends}) IS NULL
                        THEN 'visit_end is not a time' END AS bad,
                {identity("visit_concept_id")} AS visit_concept_id, _file, _row
            FROM visit_occurrence
        )
        SELECT *, coalesce(left_concept = '{concepts.STILL_PATIENT}', false){_open_by_date(settings)} AS open
        FROM read""")
    stage.connection.execute("UPDATE visits SET ends = NULL, disposition = NULL WHERE open")
    _count_visits(stage, settings)
    if not settings.keep_outpatient:
        stage.set_aside("visits", "class = 'outpatient'", "an outpatient visit (keep_outpatient=false)")
    _merge(stage, settings)


def _open_by_date(settings: OmopSettings) -> str:
    if settings.open_visits_end is None:
        return ""
    return (
        f" OR (class = 'inpatient' AND ends::DATE >= DATE '{settings.open_visits_end}' AND disposition IS NULL "
        "AND coalesce(left_concept, '0') = '0' AND left_to IS NULL)"
    )


def _count_visits(stage: Staging, settings: OmopSettings) -> None:
    counts = stage.draft.counts
    by_concept = stage.ask(
        "SELECT visit_concept_id, class, count(*) FROM visits GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT 50"
    )
    counts["visits by visit_concept_id"] = {f"{concept} (taken as {kind})": rows for concept, kind, rows in by_concept}
    words = {
        "visits of a kind without a class, taken as outpatient": "unclassed",
        "visits still open at the end of the data": "open AND class = 'inpatient'",
        "inpatient visits without a disposition": "class = 'inpatient' AND NOT open AND disposition IS NULL",
    }
    found = stage.ask(f"SELECT {', '.join(f'count(*) FILTER ({sql})' for sql in words.values())} FROM visits")[0]
    counts.update({what: rows for what, rows in zip(words, found, strict=True) if rows})
    strange = stage.ask(
        "SELECT coalesce(left_to, left_concept), count(*) FROM visits WHERE disposition IS NULL AND NOT open AND "
        "coalesce(left_to, nullif(left_concept, '0')) IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 50"
    )
    if strange:
        counts.setdefault("unmapped", {})["visit_occurrence.discharged_to"] = {
            f"{value} (taken as unknown)": rows for value, rows in strange
        }
    if settings.no_disposition == "home":
        stage.connection.execute(
            "UPDATE visits SET disposition = 'home' WHERE disposition IS NULL AND NOT open AND "
            "coalesce(left_to, nullif(left_concept, '0')) IS NULL"
        )


def _merge(stage: Staging, settings: OmopSettings) -> None:
    """Create ``visit_map``: which encounter each visit belongs to, the first of a chain giving its id."""
    if settings.merge_visits == "none":
        stage.connection.execute(
            "CREATE TABLE visit_map AS "
            "SELECT visit_id, visit_id AS encounter_id, person_id, class, starts, ends FROM visits"
        )
        return
    gap = f"to_microseconds({round(settings.merge_gap_hours * 3_600_000_000)})"
    linked = "AND preceding = before_id" if settings.merge_visits == "linked" else ""
    stage.connection.execute(f"""
        CREATE TABLE visit_map AS
        WITH in_order AS (
            SELECT *, max(ends) OVER earlier AS earlier_end,
                lag(visit_id) OVER (PARTITION BY person_id ORDER BY starts, visit_id) AS before_id
            FROM visits WHERE class = 'inpatient' AND bad IS NULL AND coalesce(ends >= starts, true)
            WINDOW earlier AS (PARTITION BY person_id ORDER BY starts, visit_id
                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
        ),
        chained AS (
            SELECT *, sum((NOT coalesce(starts <= earlier_end + {gap} {linked}, false))::INTEGER)
                OVER (PARTITION BY person_id ORDER BY starts, visit_id) AS chain
            FROM in_order
        )
        SELECT visit_id, first_value(visit_id) OVER (PARTITION BY person_id, chain ORDER BY starts, visit_id)
            AS encounter_id, person_id, class, starts, ends FROM chained
        UNION ALL
        SELECT visit_id, visit_id, person_id, class, starts, ends FROM visits
        WHERE visit_id NOT IN (SELECT visit_id FROM in_order)""")
    merged = stage.ask("SELECT count(*) FROM visit_map WHERE visit_id <> encounter_id")[0][0]
    stage.draft.counts["inpatient visits that continue an earlier one (merge_visits)"] = merged


def _put_encounters(stage: Staging, cdm: Cdm, settings: OmopSettings) -> None:
    """Encounters: what is known at the start from the first visit of a chain, what comes out from the last."""
    times = Times(stage, settings)
    stage.read("care_site", cdm.tables["care_site"], ["care_site_id"], ["care_site_name", "care_site_source_value"])
    stage.read("payer_plan_period", cdm.tables["payer_plan_period"], ["person_id"], PAYER)
    payer_from = times.moment("payer_plan_period", "payer_plan_period_start", "start_of_day")
    payer_to = times.moment("payer_plan_period", "payer_plan_period_end", "end_of_day")
    site = "coalesce(c.care_site_name, c.care_site_source_value, v.care_site_id)"
    facility, department = (site, "NULL") if settings.care_site_is == "facility" else ("NULL", site)
    stage.connection.execute(f"""
        CREATE TABLE sites AS
        SELECT {identity("care_site_id")} AS care_site_id, any_value(care_site_name) AS care_site_name,
            any_value(care_site_source_value) AS care_site_source_value FROM care_site GROUP BY 1""")
    # Of several plans the one that began last counts.
    stage.connection.execute(f"""
        CREATE TABLE payers AS
        SELECT v.visit_id, arg_max(coalesce(p.payer_source_value, p.plan_source_value, 'payer concept '
            || nullif({identity("p.payer_concept_id")}, '0')), ({payer_from}, p._file, p._row)) AS payer
        FROM visits v JOIN payer_plan_period p ON {identity("p.person_id")} = v.person_id
            AND v.starts >= {payer_from} AND coalesce(v.starts <= {payer_to}, true)
        GROUP BY v.visit_id""")
    stage.put(
        "encounters",
        f"""
        WITH chained AS (
            SELECT m.encounter_id, max(v.ends) AS last_end, bool_or(v.ends IS NULL) AS open,
                arg_max(v.disposition, (v.ends, v.visit_id)) FILTER (v.disposition IS NOT NULL) AS disposition
            FROM visits v JOIN visit_map m USING (visit_id) GROUP BY m.encounter_id
        ),
        births_once AS (SELECT person_id, min(born_year) AS born_year, min(born_on) AS born_on FROM births GROUP BY 1)
        SELECT v.visit_id AS encounter_id, v.person_id AS patient_id, v.class AS encounter_class,
            v.starts AS admit_time, CASE WHEN NOT g.open THEN g.last_end END AS discharge_time, v.admission_type,
            v.came_from AS admission_source, {department} AS department, {facility} AS facility,
            CASE WHEN NOT g.open THEN coalesce(g.disposition, 'unknown') END AS disposition,
            CASE WHEN b.born_on <= v.starts::DATE THEN round(date_diff('day', b.born_on, v.starts::DATE) / 365.25, 2)
                ELSE year(v.starts) - b.born_year END::DOUBLE AS age_at_admission,
            p.payer, v._file, v._row, v.bad AS _bad
        FROM visits v JOIN chained g ON g.encounter_id = v.visit_id LEFT JOIN births_once b USING (person_id)
            LEFT JOIN sites c USING (care_site_id) LEFT JOIN payers p USING (visit_id)
        ORDER BY v._file, v._row""",
    )
