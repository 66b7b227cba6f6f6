"""From MEDS events to the tables of the records: admissions paired with discharges, and what belongs to each."""

from __future__ import annotations

from lang1.records.readers.meds_codes import MedsCodes
from lang1.records.readers.mimic_codes import is_hispanic, race_group, unit_type
from lang1.records.readers.staging import Staging

_UNKNOWN = "(UNK|UNABLE|PATIENT DECLINED|DECLINED|NOT SPECIFIED|NO MATCHING)"


def create_encounters(stage: Staging, codes: MedsCodes, part_of_admission_hours: float) -> None:
    """Create ``stays``: ``encounter_id, subject_id, key, rule, starts, ends`` and what the two events say.

    With an encounter id, the first beginning and the last end of that id make the stay. Without one, a beginning goes
    with the next end of its kind, if that comes before the next beginning.
    """
    said = "encounter_class, our_type, admission_source, department, facility, stated_end, _file, _row"
    with_end = ", ".join(str(n) for n, kind in enumerate(codes.encounters) if kind.ends) or "-1"
    stage.set_aside(
        "events",
        "kind IN ('start', 'end') AND key IS NULL AND (_file, _row) NOT IN (SELECT min((_file, _row)) FROM events "
        "WHERE kind IN ('start', 'end') AND key IS NULL GROUP BY subject_id, kind, rule, time)",
        "the same beginning or end of an encounter again",
    )
    stage.connection.execute(f"""
        CREATE TABLE stays AS
        WITH keyed_start AS (
            SELECT subject_id, key, rule, min(time) AS starts,
                arg_min({{'encounter_class': encounter_class, 'our_type': our_type, 'source': admission_source,
                    'department': department, 'facility': facility, 'stated_end': stated_end, 'f': _file, 'r': _row}},
                    (time, _file, _row)) AS said
            FROM events WHERE kind = 'start' AND key IS NOT NULL GROUP BY ALL
        ),
        keyed_end AS (
            SELECT subject_id, key, rule, max(time) AS ends,
                arg_max(our_disposition, (time, _file, _row)) AS disposition
            FROM events WHERE kind = 'end' AND key IS NOT NULL GROUP BY ALL
        ),
        started AS (
            SELECT subject_id, rule, time AS starts, {said},
                lead(time) OVER (PARTITION BY subject_id, rule ORDER BY time, _file, _row) AS next_start,
                row_number() OVER (PARTITION BY subject_id, rule ORDER BY time, _file, _row) AS nth
            FROM events WHERE kind = 'start' AND key IS NULL
        ),
        ended AS (
            SELECT subject_id, rule, time AS ends, our_disposition AS disposition
            FROM events WHERE kind = 'end' AND key IS NULL
        ),
        paired AS (
            SELECT s.*, e.ends, e.disposition FROM started s ASOF LEFT JOIN ended e
                ON s.subject_id = e.subject_id AND s.rule = e.rule AND s.starts <= e.ends
        )
        SELECT s.key AS encounter_id, s.subject_id, s.key, s.rule, s.starts,
            CASE WHEN s.rule IN ({with_end}) THEN e.ends ELSE s.said.stated_end END AS ends, e.disposition,
            s.said.encounter_class, s.said.our_type, s.said.source AS admission_source, s.said.department,
            s.said.facility, s.said.f AS _file, s.said.r AS _row
        FROM keyed_start s LEFT JOIN keyed_end e USING (subject_id, key, rule)
        UNION ALL BY NAME
        SELECT subject_id || '-' || encounter_class || '-' || rule || '-' || nth AS encounter_id, subject_id,
            NULL::VARCHAR AS key, rule, starts,
            CASE WHEN rule NOT IN ({with_end}) THEN stated_end
                WHEN coalesce(ends <= next_start, true) THEN ends END AS ends,
            CASE WHEN coalesce(ends <= next_start, true) THEN disposition END AS disposition,
            encounter_class, our_type, admission_source, department, facility, _file, _row
        FROM paired""")
    lonely = """kind = 'end' AND NOT EXISTS (SELECT 1 FROM stays s WHERE s.subject_id = events.subject_id
        AND s.rule = events.rule AND (s.key = events.key OR (events.key IS NULL AND s.ends = events.time)))"""
    stage.set_aside("events", lonely, "the end of an encounter that has no beginning")
    parts = ", ".join(str(n) for n, kind in enumerate(codes.encounters) if kind.part_of_admission) or "-1"
    gap = f"to_microseconds({round(part_of_admission_hours * 3_600_000_000)})"
    stage.set_aside(
        "stays",
        f"""rule IN ({parts}) AND EXISTS (SELECT 1 FROM stays a WHERE a.subject_id = stays.subject_id
            AND a.rule NOT IN ({parts}) AND a.encounter_class IN ('inpatient', 'observation')
            AND a.starts <= coalesce(stays.ends, stays.starts) + {gap} AND coalesce(a.ends >= stays.starts, true))""",
        "part of an admission (an emergency visit that led to it)",
    )


def put_patients(stage: Staging) -> None:
    """One row a subject who has any event that was taken; race and ethnicity as first recorded, where known."""
    calendar = stage.meta.time_basis == "calendar"
    source = stage.meta.vital_status.source
    said = f"""arg_min(value, (time IS NOT NULL, time, _file, _row))
        FILTER (kind = '{{0}}' AND NOT regexp_matches(upper(value), '^{_UNKNOWN}'))"""
    stage.put(
        "patients",
        f"""
        WITH subjects AS (
            SELECT subject_id, min(time) FILTER (kind = 'birth') AS born, min(time) FILTER (kind = 'death') AS died,
                arg_min(value, (_file, _row)) FILTER (kind = 'sex') AS sex, {said.format("race")} AS race,
                {said.format("ethnicity")} AS ethnicity, arg_min({{'f': _file, 'r': _row}}, (_file, _row)) AS place
            FROM events GROUP BY subject_id
        )
        SELECT subject_id AS patient_id, {"year(born)::INTEGER" if calendar else "NULL::INTEGER"} AS birth_year,
            coalesce(sex, 'unknown') AS sex,
            CASE WHEN NOT {is_hispanic("race")} THEN coalesce({race_group("race")}, race) END AS race,
            CASE WHEN {is_hispanic("race")} THEN 'Hispanic' ELSE ethnicity END AS ethnicity, died AS death_time,
            CASE WHEN died IS NOT NULL THEN '{"ehr" if source == "none" else source}' END AS death_source,
            place.f AS _file, place.r AS _row
        FROM subjects ORDER BY place.f, place.r""",
    )


def put_encounters(stage: Staging) -> None:
    """Encounters, with the age from the birth and the payer stated with the admission."""
    _link(stage, "kind = 'payer'", "payers", 0)
    still = stage.ask("SELECT count(*) FROM stays WHERE ends IS NULL AND encounter_class = 'inpatient'")[0][0]
    if still:
        stage.draft.counts["inpatient stays without an end"] = still
    stage.put(
        "encounters",
        """
        WITH births AS (SELECT subject_id, min(time) AS born FROM events WHERE kind = 'birth' GROUP BY 1),
        payer_of AS (SELECT encounter_id, arg_min(value, (time, _file, _row)) AS payer FROM payers GROUP BY 1)
        SELECT s.encounter_id, s.subject_id AS patient_id, s.encounter_class, s.starts AS admit_time,
            s.ends AS discharge_time, s.our_type AS admission_type, s.admission_source, s.department, s.facility,
            CASE WHEN s.ends IS NOT NULL THEN coalesce(s.disposition, 'unknown') END AS disposition,
            CASE WHEN b.born <= s.starts THEN round(date_diff('day', b.born, s.starts) / 365.25, 2) END
                AS age_at_admission, p.payer, s._file, s._row
        FROM stays s LEFT JOIN births b USING (subject_id) LEFT JOIN payer_of p USING (encounter_id)
        ORDER BY s._file, s._row""",
    )


def put_linked(stage: Staging, filed: bool, hours_after: float) -> None:
    """Diagnoses, procedures, unit stays and notes, each with its encounter."""
    _put_codes(stage)
    _put_units(stage)
    _link(stage, "kind = 'notes'", "note_events", hours_after)
    stage.set_aside("note_events", "trim(coalesce(note_text, '')) = ''", "no text")
    alone = stage.ask("SELECT count(*) FROM note_events WHERE encounter_id IS NULL")[0][0]
    if alone:
        stage.draft.counts["notes without an encounter, kept and unusable"] = alone
    stage.put(
        "notes",
        f"""
        SELECT coalesce(note_key, _file || ':' || _row) AS note_id, subject_id AS patient_id, encounter_id,
            our_note_type AS note_type, {"NULL::TIMESTAMP" if filed else "time"} AS created_time,
            {"time" if filed else "NULL::TIMESTAMP"} AS signed_time,
            {"time" if filed else "NULL::TIMESTAMP"} AS available_time, note_text AS text, _file, _row
        FROM note_events ORDER BY _file, _row""",
    )


def _link(stage: Staging, where: str, relation: str, hours_after: float) -> None:
    """Create ``relation``: events with ``encounter_id``, by the encounter id, else by time; null where there is none.

    An event without an hour of the day belongs to the stay that holds its day. Of several the stay that began last.
    """
    gap = f"to_microseconds({round(hours_after * 3_600_000_000)})"
    stage.connection.execute(f"""
        CREATE TABLE {relation} AS
        WITH mine AS (SELECT * FROM events WHERE {where}),
        keys AS (SELECT subject_id, key, arg_min(encounter_id, (starts, encounter_id)) AS by_key
            FROM stays WHERE key IS NOT NULL GROUP BY ALL),
        -- A stay without an end holds what comes before the next stay.
        spans AS (SELECT *, coalesce(ends + {gap}, lead(starts) OVER (PARTITION BY subject_id ORDER BY starts),
            'infinity'::TIMESTAMP) AS until FROM stays),
        by_time AS (
            SELECT m._file, m._row, arg_max(s.encounter_id,
                    (s.encounter_class IN ('inpatient', 'observation'), s.starts, s.encounter_id)) AS encounter_id
            FROM mine m JOIN spans s ON s.subject_id = m.subject_id AND m.time <= s.until
                AND m.time >= CASE WHEN m.time = date_trunc('day', m.time) THEN date_trunc('day', s.starts)
                    ELSE s.starts END
            WHERE m.key IS NULL GROUP BY ALL
        )
        SELECT m.*, coalesce(k.by_key, t.encounter_id) AS encounter_id FROM mine m
            LEFT JOIN keys k ON k.subject_id = m.subject_id AND k.key = m.key
            LEFT JOIN by_time t ON t._file = m._file AND t._row = m._row""")


def _put_codes(stage: Staging) -> None:
    for kind, relation, columns in (
        ("diagnoses", "diagnosis_events", ""),
        ("procedures", "procedure_events", "time AS performed_time, "),
    ):
        _link(stage, f"kind = '{kind}'", relation, 0)
        stage.set_aside(relation, "encounter_id IS NULL", "no encounter holds it")
        stage.set_aside(relation, "our_version = ''", "a code version that is not known")
        stage.put(
            kind,
            f"""
            SELECT encounter_id, subject_id AS patient_id, bare_code AS code, our_version AS code_version, {columns}
                _file, _row FROM {relation} ORDER BY _file, _row""",
        )


def _put_units(stage: Staging) -> None:
    """Of the kinds of unit events the first that there is; a move lasts until the next one, or the encounter's end."""
    _link(stage, "kind IN ('unit_start', 'unit_end')", "unit_events", 0)
    stage.set_aside("unit_events", "encounter_id IS NULL", "no encounter holds it")
    stage.set_aside(
        "unit_events",
        "rule > (SELECT min(rule) FROM unit_events WHERE kind = 'unit_start')",
        "told again by another kind of event",
    )
    stage.put(
        "unit_stays",
        f"""
        WITH in_order AS (
            SELECT *, lead(time) OVER (PARTITION BY encounter_id ORDER BY time, _file, _row) AS next_time
            FROM unit_events
        )
        SELECT i.encounter_id, i.subject_id AS patient_id, i.unit, {unit_type("coalesce(i.unit, 'intensive care')")}
                AS unit_type, i.time AS in_time, coalesce(i.next_time, s.ends) AS out_time, i._file, i._row
        FROM in_order i JOIN stays s USING (encounter_id)
        -- The last move of a stay is the discharge itself.
        WHERE kind = 'unit_start' AND coalesce(event, '') <> 'discharge' ORDER BY i._file, i._row""",
    )
