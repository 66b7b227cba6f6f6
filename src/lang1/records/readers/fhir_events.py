"""What happened in an encounter: coded diagnoses, procedures, and stays in units."""

from __future__ import annotations

from lang1.records.readers.fhir_settings import FhirSettings
from lang1.records.readers.fhir_sql import drop_copies, listed, resolve
from lang1.records.readers.mimic_codes import unit_type
from lang1.records.readers.staging import Staging
from lang1.records.schema import CODE_VERSIONS, PROCEDURE_VERSIONS
from lang1.records.store import quoted


def put_diagnoses(stage: Staging, settings: FhirSettings) -> None:
    """ICD codes of encounters: conditions that name one, and conditions that an encounter cites."""
    drop_copies(stage, "conditions")
    for column, kind in (("patient", "Patient"), ("encounter", "Encounter")):
        resolve(stage, "conditions", column, kind)
    resolve(stage, "cited", "condition", "Condition")
    for status in settings.verification_left_out:
        stage.set_aside("conditions", f"verification = {quoted(status.lower())}", f"verification status {status}")
    versions = listed(CODE_VERSIONS)
    stage.set_aside(
        "conditions", f"coalesce(version NOT IN ({versions}), true)", "no ICD code (see counts.unmapped for systems)"
    )
    roles = listed(role.lower() for role in settings.roles_left_out)
    stage.connection.execute(f"""
        CREATE TABLE diagnosis_codes AS
        WITH citations AS (
            SELECT encounter, condition, min(rank) FILTER (coalesce(lower(role) NOT IN ({roles}), true)) AS rank,
                bool_and(coalesce(lower(role) IN ({roles}), false)) AS left_out, any_value(poa) AS poa
            FROM cited GROUP BY encounter, condition
        ),
        named AS (
            SELECT c.*, c.encounter AS visit FROM conditions c WHERE c.encounter IS NOT NULL
            UNION ALL
            SELECT c.*, t.encounter AS visit FROM conditions c JOIN citations t ON t.condition = c.id
            WHERE coalesce(c.encounter <> t.encounter, true)
        )
        SELECT n.* EXCLUDE (encounter, poa, patient), coalesce(m.encounter_id, n.visit) AS encounter,
            coalesce(n.patient, e.patient_id) AS patient, t.rank,
            coalesce(t.left_out, false) AS left_out, coalesce(t.poa, n.poa) AS poa,
            n.category LIKE '%problem-list-item%' AND n.category NOT LIKE '%encounter-diagnosis%'
                AND t.condition IS NULL AS problem
        FROM named n LEFT JOIN encounter_map m ON m.id = n.visit
            LEFT JOIN encounters e ON e.encounter_id = m.encounter_id
            LEFT JOIN citations t ON t.encounter = n.visit AND t.condition = n.id""")
    stage.set_aside(
        "conditions",
        "encounter IS NULL AND id NOT IN (SELECT condition FROM cited)",
        "names no encounter, and no encounter cites it",
    )
    stage.set_aside(
        "diagnosis_codes", "left_out", f"cited only as {', '.join(settings.roles_left_out)} (roles_left_out)"
    )
    if not settings.keep_problem_lists:
        stage.set_aside("diagnosis_codes", "problem", "a problem list item (keep_problem_lists)")
    stage.set_aside(
        "diagnosis_codes",
        "(_file, _row, encounter, code) IN (SELECT (_file, _row, encounter, code) FROM diagnosis_codes "
        "QUALIFY row_number() OVER (PARTITION BY encounter, code, version ORDER BY rank NULLS LAST, _file, _row) > 1)",
        "a code that the encounter has already",
    )
    stage.put(
        "diagnoses",
        """
        SELECT encounter AS encounter_id, patient AS patient_id, code, version AS code_version, rank AS position,
            poa AS present_on_admission, _file, _row
        FROM diagnosis_codes ORDER BY _file, _row, encounter, code""",
    )


def put_procedures(stage: Staging) -> None:
    drop_copies(stage, "procedures_read")
    for column, kind in (("patient", "Patient"), ("encounter", "Encounter")):
        resolve(stage, "procedures_read", column, kind)
    for status in ("entered-in-error", "not-done", "preparation"):
        stage.set_aside("procedures_read", f"status = '{status}'", f"status {status}")
    stage.set_aside("procedures_read", "encounter IS NULL", "names no encounter")
    stage.set_aside(
        "procedures_read", f"coalesce(version NOT IN ({listed(PROCEDURE_VERSIONS)}), true)", "no code of a known system"
    )
    stage.put(
        "procedures",
        """
        SELECT coalesce(m.encounter_id, p.encounter) AS encounter_id, coalesce(p.patient, v.patient) AS patient_id,
            p.code, p.version AS code_version, moment(p.starts, true) AS performed_time, p._file, p._row,
            CASE WHEN p.starts IS NOT NULL AND moment(p.starts, true) IS NULL THEN 'performed is not a time' END AS _bad
        FROM procedures_read p LEFT JOIN encounter_map m ON m.id = p.encounter
            LEFT JOIN visits v ON v.id = m.encounter_id
        ORDER BY p._file, p._row, p.code""",
    )


def put_units(stage: Staging, settings: FhirSettings) -> None:
    """Stays in units, from the encounter's locations; a bed or room counts as the ward that it is part of."""
    for status in ("planned", "reserved"):
        stage.set_aside("encounter_locations", f"status = '{status}'", f"status {status}")
    stage.set_aside(
        "encounter_locations", "encounter NOT IN (SELECT id FROM encounter_map)", "of an encounter that was not taken"
    )
    # Without times a move to another unit cannot be told from none at all.
    stage.set_aside("encounter_locations", "starts IS NULL", "no time in the unit")
    for relation, column in (("encounter_locations", "location"), ("locations", "part_of")):
        resolve(stage, relation, column, "Location")
    own = settings.unit_types
    cases = " ".join(f"WHEN {quoted(theirs)} THEN {quoted(ours)}" for theirs, ours in own.items())
    by_name = f"CASE lower(unit) {cases} END" if cases else "NULL"
    stage.connection.execute("""
        CREATE TABLE units AS
        WITH RECURSIVE up AS (
            SELECT id, id AS top, unit_type, 0 AS steps FROM locations
            UNION ALL
            SELECT u.id, p.id, coalesce(u.unit_type, p.unit_type), u.steps + 1
            FROM up u JOIN locations l ON l.id = u.top JOIN locations p ON p.id = l.part_of
            WHERE u.steps < 8 AND l.physical IN ('bd', 'ro', 'bed', 'room')
        ),
        tops AS (SELECT id, arg_max(top, steps) AS top, arg_max(unit_type, steps) AS unit_type FROM up GROUP BY id)
        SELECT t.id, coalesce(l.name, l.id) AS unit, t.unit_type FROM tops t JOIN locations l ON l.id = t.top""")
    stage.put(
        "unit_stays",
        f"""
        WITH moved AS (
            SELECT m.encounter_id, v.patient AS patient_id, coalesce(u.unit, p.name, p.location) AS unit, u.unit_type,
                moment(p.starts, true) AS in_time, moment_of_end(p.starts, p.ends) AS out_time, p._file, p._row,
                CASE WHEN moment(p.starts, true) IS NULL THEN 'period.start is not a time'
                    WHEN p.ends IS NOT NULL AND moment(p.ends, true) IS NULL THEN 'period.end is not a time'
                    WHEN moment_of_end(p.starts, p.ends) < moment(p.starts, false)
                        THEN 'left the unit before entering it' END AS bad
            FROM encounter_locations p JOIN encounter_map m ON m.id = p.encounter JOIN visits v ON v.id = m.encounter_id
                LEFT JOIN units u ON u.id = p.location
            WHERE v.class <> 'outpatient'
        )
        SELECT DISTINCT encounter_id, patient_id, unit,
            coalesce({by_name}, unit_type, {unit_type("unit")}) AS unit_type, in_time, out_time,
            _file, _row, bad AS _bad
        FROM moved ORDER BY _file, _row, in_time, unit""",
    )
