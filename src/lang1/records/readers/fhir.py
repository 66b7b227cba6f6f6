"""FHIR R4 bulk exports (NDJSON) as records; elements of STU3 and R5 are read where their names differ.

``fhir_lines.py`` streams the files, ``fhir_resources.py`` turns resources into rows of a staging database; here and in
``fhir_events.py``, ``fhir_notes.py``, ``fhir_claims.py`` one query a table makes records of them. Sources:
hl7.org/fhir/R4, the Bulk Data Access and US Core implementation guides of HL7.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

from lang1.common.errors import InputError
from lang1.common.progress import say
from lang1.records.readers.fhir_claims import NO_CLAIMS, put_claims
from lang1.records.readers.fhir_events import put_diagnoses, put_procedures, put_units
from lang1.records.readers.fhir_lines import Export, Lines, find_export
from lang1.records.readers.fhir_notes import put_notes
from lang1.records.readers.fhir_resources import WANTED, Reader
from lang1.records.readers.fhir_settings import FhirSettings
from lang1.records.readers.fhir_sql import IN_UTC, ZONE_HINT, create_moment, drop_copies, listed, refuse_utc, resolve
from lang1.records.readers.staging import Staging, staging
from lang1.records.store import Limit, RecordsMeta, VitalStatus, quoted

__all__ = ["FhirSettings", "ingest_fhir"]

# No true date lies beyond this year; dates that are shifted on purpose do.
NEVER_BEFORE = 2100
LOOK_LINES = 50
GONE = ("entered-in-error", "cancelled", "planned")
OPEN = ("in-progress", "arrived", "triaged", "onleave", "on-hold")
NO_CODES = (
    "no condition of an encounter carries an ICD code (SNOMED CT alone is not mapped); export the billing diagnoses, "
    "or set code_systems for a system of your own"
)


def ingest_fhir(source: Path, out: Path, settings: FhirSettings | None = None, *, overwrite: bool = False) -> Path:
    """Write a records folder from a bulk export: a folder of NDJSON files (also gzipped or zstd), or one file.

    Raises:
        InputError: no NDJSON, a file that is cut short or missing, calendar dates without a declaration of what is
            complete, times in UTC without a zone, no patients or encounters, or (refuse) a line that cannot be used.
        SettingsError: a time zone that is none.
    """
    settings = settings or FhirSettings()
    export = find_export(source)
    _refuse_missing(export, settings)
    lines = Lines(export, WANTED)
    with duckdb.connect(":memory:") as connection:
        create_moment(connection, settings.time_zone)
    _look(source, lines, export, settings)
    meta = RecordsMeta(
        system=settings.system,
        time_basis=settings.time_basis or "calendar",
        complete_through=settings.complete_through or {},
        source=settings.source or f"FHIR bulk export{f' of {export.made}' if export.made else ''}",
        real=settings.real,
        licence=settings.licence,
        notes="Ids are those of the FHIR resources.",
    )
    files: dict[str, list[Path]] = {}
    for path in export.files:
        files.setdefault(path.parent.relative_to(export.root).as_posix(), []).append(path)
    with staging(
        out, meta, settings=settings, files=files, on_bad_rows=settings.on_bad_rows, overwrite=overwrite
    ) as stage:
        create_moment(stage.connection, settings.time_zone)
        reader = Reader(stage, settings, export.root)
        for kind, file, line, resource in lines.resources(stage):
            reader.take(kind, file, line, resource)
        reader.load()
        if settings.time_zone is None:
            refuse_utc(stage)
        _tell(stage, lines, reader, export)
        stage.draft.meta = stage.meta = _learnt(source, stage, export, settings)
        _put_patients(stage)
        _put_encounters(stage, settings)
        put_diagnoses(stage, settings)
        put_procedures(stage)
        put_units(stage, settings)
        put_notes(stage, settings)
        put_claims(stage, settings)
        _limit(stage)
    return out


def _refuse_missing(export: Export, settings: FhirSettings) -> None:
    needed = [name for kind, name in export.missing if kind in WANTED]
    if needed and settings.missing_files == "refuse":
        raise InputError(
            f"{export.root}: its manifest lists '{needed[0]}', which is not there"
            f"{f' (and {len(needed) - 1} more)' if len(needed) > 1 else ''}; without it stays or notes may be missing. "
            "Fetch it, or set missing_files=leave_out."
        )


def _look(source: Path, lines: Lines, export: Export, settings: FhirSettings) -> None:
    """Ask for what must be declared before all is read, as far as the first lines of the files tell."""
    starts = []
    for resource in lines.first(LOOK_LINES):
        period = resource.get("period") or resource.get("actualPeriod")
        if resource["resourceType"] == "Encounter" and isinstance(period, dict):
            starts += [start for start in [period.get("start")] if isinstance(start, str)]
    if starts:
        with duckdb.connect(":memory:") as connection:
            utc = connection.execute(
                f"SELECT v FROM (SELECT unnest(?) AS v) WHERE regexp_matches(v, '{IN_UTC}') LIMIT 1", [starts]
            ).fetchall()
        _declared(source, max(starts), export, settings, utc[0][0] if utc else None)


def _declared(source: Path, last: str, export: Export, settings: FhirSettings, utc: str | None = None) -> str:
    """The time basis.

    Raises:
        InputError: what labels depend on is not declared.
    """
    year = int(last[:4]) if last[:4].isdigit() else 0
    made = int(export.made[:4]) if export.made and export.made[:4].isdigit() else NEVER_BEFORE
    beyond = year > made
    basis = settings.time_basis or ("shifted" if beyond else "calendar")
    if settings.time_basis == "calendar" and beyond:
        raise InputError(
            f"{source}: time_basis is calendar, but encounters begin as late as {last[:10]}, after "
            f"{f'the export was made ({export.made})' if export.made else NEVER_BEFORE}; set time_basis=shifted."
        )
    wanted = []
    if utc is not None and settings.time_zone is None:
        wanted.append(f"'{utc}' is a time in UTC; {ZONE_HINT}")
    if basis == "calendar" and settings.complete_through is None:
        wanted.append(
            "complete_through is not set, so what came after the end of the export cannot be told from what never "
            f"came ({f'the manifest says {export.made}' if export.made else 'there is no manifest'}, encounters begin "
            f"as late as {last[:10]}); set 'complete_through.encounters={{through: "
            f"{min(last[:10], (export.made or last)[:10])}, key: admit_time}}' (key: discharge_time if stays that were "
            "still open are not there; the same for notes and claims), or time_basis=shifted for shifted dates."
        )
    if wanted:
        raise InputError(f"{source}: {' Also: '.join(wanted)}")
    return basis


def _learnt(source: Path, stage: Staging, export: Export, settings: FhirSettings) -> RecordsMeta:
    ((last, deaths),) = stage.ask(
        "SELECT (SELECT max(starts) FROM encounters_read WHERE starts < 'A'), (SELECT count(*) FROM patients_read "
        "WHERE died IS NOT NULL OR dead) + (SELECT count(*) FROM encounters_read WHERE disposition = 'expired')"
    )
    basis = _declared(source, last or "", export, settings)
    vital = settings.vital_status or VitalStatus(source="ehr" if deaths else "none")
    return stage.meta.model_copy(update={"time_basis": basis, "vital_status": vital})


def _tell(stage: Staging, lines: Lines, reader: Reader, export: Export) -> None:
    """Keep in the manifest what was read, what was not, and what was not understood."""
    counts = stage.draft.counts
    counts["resources read"] = dict(sorted(lines.read.items()))
    counts["resources that records have no place for"] = dict(sorted(lines.unread.items()))
    if reader.meanings.unmapped:
        counts.setdefault("unmapped", {}).update(
            {what: dict(found.most_common(50)) for what, found in sorted(reader.meanings.unmapped.items())}
        )
    if reader.odd.counts:
        counts["elements of a wrong type, read as absent"] = dict(sorted(reader.odd.counts.items()))
        stage.draft.extra["odd_elements_first"] = dict(sorted(reader.odd.first.items()))
    if export.missing:
        stage.draft.extra["missing_files"] = [name for _, name in export.missing]
    for what in ("Patient", "Encounter"):
        if not lines.read[what]:
            raise InputError(f"{export.root}: no resource of type {what} in its files; export it too.")


def _put_patients(stage: Staging) -> None:
    drop_copies(stage, "patients_read")
    source = stage.meta.vital_status.source
    calendar = stage.meta.time_basis == "calendar"
    undated = stage.ask("SELECT count(*) FROM patients_read WHERE dead AND died IS NULL")[0][0]
    if undated:
        stage.draft.counts["patients dead at an unknown time"] = undated
    year = "try_cast(regexp_extract(born, '^([0-9]{4})(-|$)', 1) AS INTEGER)"
    odd = stage.ask(f"SELECT count(*) FROM patients_read WHERE born IS NOT NULL AND ({year}) IS NULL")[0][0]
    if odd:
        stage.draft.counts["birth dates that are none"] = odd
    stage.put(
        "patients",
        f"""
        SELECT id AS patient_id, {year if calendar else "NULL::INTEGER"} AS birth_year,
            CASE WHEN gender IN ('male', 'female', 'other') THEN gender ELSE 'unknown' END AS sex, race, ethnicity,
            area,
            moment(died, false) AS death_time,
            CASE WHEN died IS NOT NULL THEN {quoted(source if source in ("registry", "both") else "ehr")} END
                AS death_source,
            _file, _row,
            CASE WHEN died IS NOT NULL AND moment(died, false) IS NULL THEN 'deceasedDateTime is not a time' END AS _bad
        FROM patients_read ORDER BY _file, _row""",
    )


def _put_encounters(stage: Staging, settings: FhirSettings) -> None:
    """Encounters. Creates ``visits`` (times typed), ``encounter_map`` (to the encounter that one is part of)."""
    drop_copies(stage, "encounters_read")
    for relation in ("cited", "encounter_locations"):
        stage.connection.execute(
            f"DELETE FROM {relation} WHERE (_file, _row) NOT IN (SELECT (_file, _row) FROM encounters_read)"
        )
    for status in GONE:
        stage.set_aside("encounters_read", f"status = '{status}'", f"status {status}")
    for column, kind in (("patient", "Patient"), ("part_of", "Encounter"), ("organization", "Organization")):
        resolve(stage, "encounters_read", column, kind)
    stage.connection.execute(f"""
        CREATE TABLE visits AS
        SELECT *, moment(starts, false) AS begins, moment_of_end(starts, ends) AS finishes,
            status IN ({listed(OPEN)}) OR coalesce(disposition = 'still_patient', false) AS open,
            CASE class WHEN 'inpatient' THEN 3 WHEN 'observation' THEN 2 WHEN 'emergency' THEN 1 ELSE 0 END AS rank,
            CASE WHEN starts IS NOT NULL AND moment(starts, false) IS NULL THEN 'period.start is not a time'
                WHEN ends IS NOT NULL AND moment(ends, false) IS NULL THEN 'period.end is not a time' END AS bad
        FROM encounters_read""")
    _map_parts(stage, settings)
    words = {
        "encounters still open": "open",
        "encounters still open that state an end (not taken)": "open AND finishes IS NOT NULL",
        "inpatient encounters finished without an end": "class = 'inpatient' AND NOT open AND finishes IS NULL",
        "inpatient encounters without a disposition": "class = 'inpatient' AND NOT open AND disposition IS NULL",
    }
    found = stage.ask(f"SELECT {', '.join(f'count(*) FILTER ({sql})' for sql in words.values())} FROM visits")[0]
    stage.draft.counts.update({what: rows for what, rows in zip(words, found, strict=True) if rows})
    if not settings.keep_outpatient:
        stage.set_aside("visits", "class = 'outpatient'", "an outpatient encounter (keep_outpatient=false)")
    _create_places(stage)
    stage.put(
        "encounters",
        """
        SELECT v.id AS encounter_id, v.patient AS patient_id, v.class AS encounter_class, v.begins AS admit_time,
            CASE WHEN NOT v.open THEN v.finishes END AS discharge_time,
            coalesce(v.admission_type, 'unknown') AS admission_type, v.admission_source,
            coalesce(v.department, CASE WHEN f.facility <> v.organization THEN f.own_name END) AS department,
            coalesce(f.name, v.organization_name, v.organization) AS facility,
            CASE WHEN NOT v.open THEN coalesce(v.disposition, 'unknown') END AS disposition,
            CASE WHEN length(p.born) >= 10 AND moment(p.born, false) <= v.begins
                    THEN round(date_diff('day', moment(p.born, false)::DATE, v.begins::DATE) / 365.25, 2)
                WHEN moment(p.born, false) IS NOT NULL THEN year(v.begins) - year(moment(p.born, false))
                END::DOUBLE AS age_at_admission,
            c.payer, v._file, v._row, v.bad AS _bad
        FROM visits v LEFT JOIN facilities f ON f.id = v.organization LEFT JOIN patients_read p ON p.id = v.patient
            LEFT JOIN payers c ON c.id = v.id
        ORDER BY v._file, v._row""",
    )


def _map_parts(stage: Staging, settings: FhirSettings) -> None:
    """``encounter_map``: a part of a stay (a unit, an operation) is no stay of its own; what it holds is the stay's."""
    merge = settings.part_of == "merge"
    stage.connection.execute(f"""
        CREATE TABLE encounter_map AS
        WITH RECURSIVE parts AS (
            SELECT c.id, p.id AS whole FROM visits c JOIN visits p ON p.id = c.part_of AND p.patient = c.patient
            WHERE {merge} AND p.rank >= 1 AND c.rank <= p.rank AND c.id <> p.id AND c.begins >= p.begins
                AND coalesce(c.begins <= p.finishes, true) AND NOT (coalesce(p.part_of = c.id, false) AND c.id < p.id)
        ),
        up AS (
            SELECT id, id AS top, 0 AS steps FROM visits
            UNION ALL SELECT u.id, p.whole, u.steps + 1 FROM up u JOIN parts p ON p.id = u.top WHERE u.steps < 8
        )
        SELECT id, arg_max(top, steps) AS encounter_id FROM up GROUP BY id""")
    stage.set_aside(
        "visits",
        "id IN (SELECT id FROM encounter_map WHERE id <> encounter_id)",
        "part of another encounter (its notes, codes and units are that one's)",
    )


def _create_places(stage: Staging) -> None:
    """``facilities`` (the organization above a department) and ``payers`` (the coverage at admission)."""
    drop_copies(stage, "organizations")
    drop_copies(stage, "locations")
    drop_copies(stage, "coverages")
    for relation, column, kind in (
        ("organizations", "part_of", "Organization"),
        ("coverages", "organization", "Organization"),
        ("coverages", "patient", "Patient"),
    ):
        resolve(stage, relation, column, kind)
    stage.connection.execute("""
        CREATE TABLE facilities AS
        WITH RECURSIVE up AS (
            SELECT id, id AS top, 0 AS steps FROM organizations
            UNION ALL
            SELECT u.id, o.part_of, u.steps + 1 FROM up u JOIN organizations o ON o.id = u.top
            WHERE u.steps < 8 AND list_has_any(string_split(o.kind, ' '), ['dept', 'team'])
                AND o.part_of IN (SELECT id FROM organizations)
        ),
        tops AS (SELECT id, arg_max(top, steps) AS facility FROM up GROUP BY id)
        SELECT t.id, t.facility, coalesce(o.name, o.id) AS name, s.name AS own_name
        FROM tops t JOIN organizations o ON o.id = t.facility JOIN organizations s ON s.id = t.id""")
    # Of several coverages the first in order counts, then the one that began last.
    stage.connection.execute("""
        CREATE TABLE payers AS
        SELECT v.id, coalesce(o.name, c.payer, c.organization) AS payer
        FROM visits v JOIN coverages c ON c.patient = v.patient AND coalesce(moment(c.starts, false) <= v.begins, true)
                AND coalesce(moment(c.ends, true) >= v.begins, true)
            LEFT JOIN organizations o ON o.id = c.organization
        WHERE coalesce(lower(c.status), 'active') = 'active'
        QUALIFY row_number() OVER (PARTITION BY v.id ORDER BY c.place NULLS LAST,
            moment(c.starts, false) DESC NULLS LAST, c.id) = 1""")


def _limit(stage: Staging) -> None:
    """Say which tasks the records cannot support."""
    limits = list(stage.meta.limits)
    if not stage.rows("claims"):
        limits.append(Limit(task="insurance_denial", reason=NO_CLAIMS))
    if not stage.rows("diagnoses"):
        limits.append(Limit(task="comorbidity", reason=NO_CODES))
    stage.draft.meta = stage.meta = stage.meta.model_copy(update={"limits": tuple(limits)})
    for limit in limits:
        say(f"task '{limit.task}' is not supported: {limit.reason}")
