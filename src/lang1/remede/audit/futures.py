"""Records of sampled examples as they stood at their prediction time, with an invented future, the same for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import pyarrow as pa

from lang1.records.rules import ALL_TABLES
from lang1.records.store import CompleteThrough, RecordsMeta
from lang1.remede.audit.material import Material
from lang1.remede.cohort import literal

COMPLETE_AFTER = timedelta(days=3650)


@dataclass(frozen=True)
class Future:
    """What is invented after the prediction time."""

    days: int
    disposition: str
    codes: tuple[str, ...]
    status: str
    turned: bool


QUIET = Future(4, "home", ("Z00.00",), "paid", False)
TURNED = Future(11, "expired", ("C78.00", "K70.40", "I50.9", "E11.21", "B20"), "denied_upheld", True)

# The tables of each example's patient as they stood at its time `t`; `k` is the number of the example, which stands
# before every id. Rows of another encounter are left out where times are true within one encounter only.
_TRUNCATED = {
    "patients": """
        SELECT p.* REPLACE (k || p.patient_id AS patient_id,
            CASE WHEN p.death_time <= t THEN p.death_time END AS death_time,
            CASE WHEN p.death_time <= t THEN p.death_source END AS death_source)
        FROM chosen JOIN patients p USING (patient_id)""",
    "encounters": """
        SELECT e.* REPLACE (k || e.encounter_id AS encounter_id, k || e.patient_id AS patient_id,
            CASE WHEN e.discharge_time <= t THEN e.discharge_time END AS discharge_time,
            CASE WHEN e.discharge_time <= t THEN e.disposition END AS disposition)
        FROM chosen c JOIN encounters e ON e.patient_id = c.patient_id
        WHERE (e.admit_time <= t OR e.encounter_id = c.encounter_id)
            AND (NOT apart OR e.encounter_id = c.encounter_id)""",
    "notes": """
        SELECT n.* REPLACE (k || n.note_id AS note_id, k || n.parent_note_id AS parent_note_id,
            k || n.patient_id AS patient_id, k || n.encounter_id AS encounter_id)
        FROM chosen c JOIN notes n ON n.patient_id = c.patient_id
        WHERE (NOT apart OR n.encounter_id = c.encounter_id) AND coalesce(n.available_time <= t, true)
            AND coalesce(n.created_time <= t, true) AND coalesce(n.signed_time <= t, true)""",
    "diagnoses": """
        SELECT d.* REPLACE (k || d.encounter_id AS encounter_id, k || d.patient_id AS patient_id)
        FROM chosen c JOIN diagnoses d ON d.patient_id = c.patient_id
        JOIN encounters e ON e.encounter_id = d.encounter_id
        WHERE e.discharge_time <= t AND (NOT apart OR e.encounter_id = c.encounter_id)""",
    "claims": """
        SELECT m.* REPLACE (k || m.claim_id AS claim_id, k || m.encounter_id AS encounter_id,
            k || m.patient_id AS patient_id,
            CASE WHEN m.first_remit_time <= t THEN m.first_remit_time END AS first_remit_time,
            CASE WHEN m.final_time <= t THEN m.final_time END AS final_time,
            CASE WHEN m.final_time <= t THEN m.final_status ELSE 'pending' END AS final_status,
            CASE WHEN m.first_remit_time <= t THEN m.adjustment_codes END AS adjustment_codes,
            CASE WHEN m.final_time <= t THEN m.paid END AS paid)
        FROM chosen c JOIN claims m ON m.patient_id = c.patient_id
        WHERE m.submitted_time <= t AND m.encounter_id <> c.encounter_id AND NOT apart""",
    "fields": """
        SELECT f.* REPLACE (k || f.encounter_id AS encounter_id)
        FROM chosen c JOIN encounters e ON e.patient_id = c.patient_id JOIN fields f ON f.encounter_id = e.encounter_id
        WHERE (NOT apart OR e.encounter_id = c.encounter_id)
            AND CASE f.known_at WHEN 'admission' THEN e.admit_time <= t ELSE e.discharge_time <= t END""",
    "unit_stays": """
        SELECT u.* REPLACE (k || u.encounter_id AS encounter_id, k || u.patient_id AS patient_id,
            CASE WHEN u.out_time <= t THEN u.out_time END AS out_time)
        FROM chosen c JOIN unit_stays u ON u.patient_id = c.patient_id
        WHERE u.in_time <= t AND (NOT apart OR u.encounter_id = c.encounter_id)""",
    "procedures": """
        SELECT o.* REPLACE (k || o.encounter_id AS encounter_id, k || o.patient_id AS patient_id)
        FROM chosen c JOIN procedures o ON o.patient_id = c.patient_id
        WHERE o.performed_time <= t AND (NOT apart OR o.encounter_id = c.encounter_id)""",
}


def choose(material: Material, tasks: Sequence[str]) -> None:
    """Create ``chosen(k, task, example_id, encounter_id, patient_id, t, apart)``: the examples that are built again."""
    listed = ", ".join(map(literal, tasks))
    apart = "true" if material.records.time_basis == "within_stay" else "false"
    material.connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE chosen AS
        SELECT printf('%05d:', row_number() OVER (ORDER BY task, example_id)) AS k, task, example_id, encounter_id,
            patient_id, prediction_time AS t, {apart} AS apart
        FROM (
            SELECT * FROM examples WHERE prediction_time IS NOT NULL AND task IN ({listed})
            QUALIFY row_number() OVER (
                PARTITION BY task ORDER BY md5('{material.settings.seed}/rebuilt/' || encounter_id)
            ) <= {material.settings.rebuilt})""")
    given = [
        f"SELECT k, encounter_id, task, {literal(card.options[0])} AS first, {literal(card.options[-1])} AS last "
        f"FROM chosen WHERE task = {literal(task)} AND EXISTS (SELECT 1 FROM given_labels WHERE task = {literal(task)})"
        for task, card in ((task, material.cards[task]) for task in tasks)
    ]
    material.connection.execute(f"CREATE OR REPLACE TEMP TABLE chosen_given AS {' UNION ALL '.join(given)}")


def meta_of(material: Material) -> RecordsMeta:
    """What the small records say of themselves: complete for years, so that nothing is censored."""
    meta = material.records.meta
    ((last,),) = material.sql("SELECT max(t) FROM chosen")
    through = last + COMPLETE_AFTER
    if meta.time_basis == "calendar":
        complete = {
            t: CompleteThrough(through=through, key="admit_time") for t in ("encounters", "diagnoses", "claims")
        }
    else:
        complete = dict(meta.complete_through)
    vital = meta.vital_status
    return meta.model_copy(
        update={
            "complete_through": complete,
            "vital_status": vital.model_copy(update={"through": through}) if vital.source != "none" else vital,
        }
    )


def tables_of(material: Material, future: Future) -> dict[str, pa.Table]:
    """The truncated tables with the invented future of each chosen encounter."""
    connection = material.connection
    made = {}
    for name, query in _TRUNCATED.items():
        columns = ", ".join(ALL_TABLES[name].names)
        connection.execute(f"CREATE OR REPLACE TEMP TABLE cut_{name} AS SELECT {columns} FROM ({query})")
    # The invented discharge, death, return, codes, claim and notes.
    ends = f"greatest(c.t, e.admit_time) + INTERVAL {future.days} DAY + INTERVAL 3 HOUR"
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE futures AS
        SELECT c.*, k || c.encounter_id AS new_encounter, k || c.patient_id AS new_patient,
            e.discharge_time IS NULL OR e.discharge_time > c.t AS was_open, {ends} AS ends
        FROM chosen c JOIN encounters e USING (encounter_id)""")
    connection.execute(f"""
        UPDATE cut_encounters SET discharge_time = f.ends, disposition = {literal(future.disposition)}
        FROM futures f WHERE cut_encounters.encounter_id = f.new_encounter AND f.was_open""")
    codes = ", ".join(map(literal, future.codes))
    connection.execute(f"""
        INSERT INTO cut_diagnoses (encounter_id, patient_id, code, code_version, position)
        SELECT new_encounter, new_patient, code, 'ICD-10-CM', position FROM futures,
            (SELECT unnest([{codes}]) AS code, generate_subscripts([{codes}], 1) AS position)
        WHERE new_encounter NOT IN (SELECT encounter_id FROM cut_diagnoses)""")
    connection.execute(f"""
        INSERT INTO cut_claims (claim_id, encounter_id, patient_id, coverage_order, submitted_time, first_remit_time,
            final_time, final_status, charge, paid)
        SELECT new_encounter || '/claim', new_encounter, new_patient, 1, greatest(ends, t) + INTERVAL 5 DAY,
            greatest(ends, t) + INTERVAL 20 DAY, greatest(ends, t) + INTERVAL 20 DAY, {literal(future.status)}, 100,
            {0 if future.turned else 100} FROM futures""")
    if future.turned:
        connection.execute("""
            UPDATE cut_patients SET death_time = f.ends, death_source = 'ehr' FROM futures f
            WHERE cut_patients.patient_id = f.new_patient AND f.was_open AND cut_patients.death_time IS NULL""")
        connection.execute("""
            INSERT INTO cut_encounters (encounter_id, patient_id, encounter_class, admit_time, discharge_time,
                admission_type, disposition, facility, department, sequence)
            SELECT new_encounter || '/return', new_patient, 'inpatient', t + INTERVAL 5 DAY, t + INTERVAL 9 DAY,
                'emergency', 'home', e.facility, e.department, e.sequence + 1
            FROM futures JOIN encounters e USING (encounter_id) WHERE NOT was_open AND NOT apart""")
        types = " ".join(f"WHEN {literal(t)} THEN {literal(c.note_type)}" for t, c in material.cards.items())
        connection.execute(f"""
            INSERT INTO cut_notes (note_id, patient_id, encounter_id, note_type, created_time, signed_time,
                available_time, text)
            SELECT new_encounter || '/' || later, new_patient, new_encounter, CASE task {types} END, later_on,
                later_on, later_on, 'Written after the question: the outcome is known.'
            FROM futures, LATERAL (SELECT unnest([1, 2]) AS later),
                LATERAL (SELECT t + INTERVAL 1 DAY * later AS later_on)""")
    for name in _TRUNCATED:
        key = {"patients": "patient_id", "encounters": "encounter_id", "notes": "note_id", "claims": "claim_id"}.get(
            name
        )
        made[name] = connection.sql(f"SELECT * FROM cut_{name} ORDER BY {key or 'ALL'}").to_arrow_table()
    made["given_labels"] = connection.sql(
        f"SELECT k || encounter_id AS encounter_id, task, {'last' if future.turned else 'first'} AS value "
        "FROM chosen_given ORDER BY 1, 2"
    ).to_arrow_table()
    return made
