"""Truncation and swapped outcomes: examples are built again from records whose future is another one.

Each sampled example becomes a patient of its own in a small records folder: its patient's rows as they stood at the
prediction time, with everything that happened, was written, signed, coded or billed later deleted. A label needs some
future, so the deleted one is replaced by an invented one, the same for all: in the first folder a quiet discharge, in
the second death, return, grave codes, denial and later notes. Both go through the builder that made the benchmark.
Whatever is read must be the same bytes in the benchmark and in both. (The test of truncation after the package
``icu-leakage-check``; the swapped outcome is a metamorphic test.)
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from lang1.common.errors import Lang1Error
from lang1.records.rules import ALL_TABLES
from lang1.records.store import CompleteThrough, Records, RecordsMeta, new_records
from lang1.remede.audit.effects import share
from lang1.remede.audit.finding import Finding, first, graded, told
from lang1.remede.audit.material import INPUTS, Material
from lang1.remede.benchmark import EXAMPLES, LEFT_OUT
from lang1.remede.build import build
from lang1.remede.card import write_card
from lang1.remede.cohort import literal
from lang1.remede.names import shipped_cards
from lang1.remede.settings import BuildSettings
from lang1.reporting.numbers import plural

TRUNCATION, SWAPPED, ELIGIBILITY = "truncation", "swapped_outcome", "eligibility"
COMPLETE_AFTER = timedelta(days=3650)


@dataclass(frozen=True)
class _Future:
    """What is invented after the prediction time."""

    days: int
    disposition: str
    codes: tuple[str, ...]
    status: str
    option: int  # of given labels, which have no table of their own
    turned: bool


QUIET = _Future(4, "home", ("Z00.00",), "paid", 0, False)
TURNED = _Future(11, "expired", ("C78.00", "K70.40", "I50.9", "E11.21", "B20"), "denied_upheld", -1, True)

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


def check(material: Material) -> list[Finding]:
    """Findings a task: truncation, swapped outcome, and whether who is asked depends on the future."""
    if not material.timed:
        said = "The records have no times, so nothing can be cut off after the question."
        return [
            Finding(guard, (number,), None, "not_applicable", said)
            for guard, number in ((TRUNCATION, 4), (SWAPPED, 5), (ELIGIBILITY, 9))
        ] + _linted(material)
    _choose(material)
    with tempfile.TemporaryDirectory(prefix="lang1-audit-") as place:
        try:
            found = [_rebuilt(material, Path(place) / name, f) for name, f in (("quiet", QUIET), ("turned", TURNED))]
        except Lang1Error as error:
            said = f"The examples could not be built again: {error}"
            return [Finding(TRUNCATION, (4, 5, 9), None, "warn", said), *_linted(material)]
    now = _current(material)
    findings: list[Finding] = []
    for task in material.cards:
        asked = {key: read for key, read in now.items() if key[0] == task}
        findings += [*_compare(material, task, asked, found[0], found[1])]
    return [*findings, *_linted(material)]


Key = tuple[str, str]  # task, and the number of the chosen example with its encounter
Read = tuple[Any, ...]  # question, prediction time, and the notes that are read with their texts


@dataclass(frozen=True)
class _Rebuilt:
    read: dict[Key, Read]
    left_out: dict[Key, str]


def _choose(material: Material) -> None:
    """``chosen(k, task, example_id, encounter_id, patient_id, t, apart)``: the examples that are built again."""
    apart = "true" if material.records.time_basis == "within_stay" else "false"
    material.connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE chosen AS
        SELECT printf('%05d:', row_number() OVER (ORDER BY task, example_id)) AS k, task, example_id, encounter_id,
            patient_id, prediction_time AS t, {apart} AS apart
        FROM (
            SELECT * FROM examples WHERE prediction_time IS NOT NULL
            QUALIFY row_number() OVER (
                PARTITION BY task ORDER BY md5('{material.settings.seed}/rebuilt/' || encounter_id)
            ) <= {material.settings.rebuilt})""")
    given = [
        f"SELECT k, encounter_id, task, {literal(card.options[0])} AS first, {literal(card.options[-1])} AS last "
        f"FROM chosen WHERE task = {literal(task)} AND EXISTS (SELECT 1 FROM given_labels WHERE task = {literal(task)})"
        for task, card in material.cards.items()
    ]
    material.connection.execute(f"CREATE OR REPLACE TEMP TABLE chosen_given AS {' UNION ALL '.join(given)}")


def _rebuilt(material: Material, place: Path, future: _Future) -> _Rebuilt:
    """Write the truncated records with an invented future, build them, and read what each example would show."""
    tables = _tables(material, future)
    place.mkdir()
    with new_records(place / "records", _meta(material)) as draft:
        for name, table in tables.items():
            if table.num_rows:
                draft.write_part(name, table, 0)
    cards = place / "cards"
    cards.mkdir()
    for task, card in material.cards.items():
        write_card(cards / f"{task}.yaml", card)
        if task in shipped_cards():
            _without_base(cards / f"{task}.yaml")
        if card.sql is not None and card.query is not None:
            (cards / card.sql).write_text(card.query, encoding="utf-8")
    # The few rows may lack what the whole records support.
    settings = BuildSettings(tasks=tuple(material.cards), calendar=None, card_dir=cards, mark_unsupported="all")
    build(place / "records", place / "benchmark", settings)
    return _read(place / "benchmark", place / "records")


def _without_base(file: Path) -> None:
    """A shipped card, written whole, is taken as an edit of itself, which may not name a base."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(line for line in lines if not line.startswith("based_on:")), encoding="utf-8")


def _meta(material: Material) -> RecordsMeta:
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


def _tables(material: Material, future: _Future) -> dict[str, pa.Table]:
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


def _current(material: Material) -> dict[Key, Read]:
    """What each chosen example shows in the benchmark."""
    keys = {name: k for k, name in material.sql("SELECT k, example_id FROM chosen")}
    wanted = ", ".join(literal(name) for name in keys) or "NULL"
    read = _texts(material.connection, f"SELECT * FROM examples WHERE example_id IN ({wanted})", "inputs", "notes")
    questions = {task: card.question() for task, card in material.cards.items()}
    return {
        (task, keys[f"{task}:{encounter}"] + encounter): (questions[task], time, *notes)
        for (task, encounter), (time, notes) in read.items()
        if f"{task}:{encounter}" in keys
    }


def _read(benchmark: Path, records: Path) -> _Rebuilt:
    """What each example of a rebuilt benchmark shows, ids of notes without their number; why others are not asked."""
    from lang1.remede.benchmark import Benchmark

    opened = Benchmark.open(benchmark)
    with Records.open(records).connect() as connection:
        connection.register("examples", pq.read_table(benchmark / EXAMPLES))
        if (benchmark / INPUTS).is_file():
            connection.register(
                "composed", pq.read_table(benchmark / INPUTS, columns=["input_id", "position", "note_id"])
            )
        else:
            connection.execute("CREATE TEMP TABLE composed (input_id VARCHAR, position INTEGER, note_id VARCHAR)")
        connection.execute("""
            CREATE TEMP TABLE inputs AS SELECT * FROM composed UNION ALL
            SELECT DISTINCT note_id, 0, note_id FROM examples WHERE note_id NOT IN (SELECT input_id FROM composed)""")
        read = _texts(connection, "SELECT * FROM examples", "inputs", "notes")
        connection.register("left_out", pq.read_table(benchmark / LEFT_OUT))
        left = connection.execute("SELECT task, encounter_id, rule FROM left_out").fetchall()
    questions = opened.questions()
    return _Rebuilt(
        {
            key: (questions[key[0]], time, *((note[6:], text) for note, text in notes))
            for key, (time, notes) in read.items()
        },
        {(task, encounter): rule for task, encounter, rule in left},
    )


def _texts(
    connection: duckdb.DuckDBPyConnection, examples: str, inputs: str, notes: str
) -> dict[Key, tuple[Any, list[tuple[str, str]]]]:
    found: dict[Key, tuple[Any, list[tuple[str, str]]]] = {}
    for task, encounter, time, note, text in connection.execute(f"""
            SELECT x.task, x.encounter_id, x.prediction_time, i.note_id, n.text
            FROM ({examples}) x JOIN {inputs} i ON i.input_id = x.note_id LEFT JOIN {notes} n ON n.note_id = i.note_id
            ORDER BY 1, 2, i.position""").fetchall():
        found.setdefault((task, encounter), (time, []))[1].append((note, text))
    return found


def _compare(material: Material, task: str, asked: dict[Key, Read], quiet: _Rebuilt, turned: _Rebuilt) -> list[Finding]:
    if not asked:
        said = "No example of the task has a time at which it is asked."
        return [Finding(TRUNCATION, (4,), task, "not_applicable", said)]
    example = {key: f"{task}:{key[1][6:]}" for key in asked}
    gone = [key for key in asked if key not in quiet.read]
    other = [key for key in asked if key in quiet.read and quiet.read[key] != asked[key]]
    both = [key for key in asked if key in quiet.read and key in turned.read]
    swayed = [key for key in both if quiet.read[key] != turned.read[key]]
    limit = material.threshold("not_asked_again", task)
    lost = share(len(gone), len(asked), material.settings.confidence)
    why = sorted({quiet.left_out.get(key, "not among the candidates") for key in gone})
    findings = []
    figures = {"rebuilt": len(asked), "differ": len(other), "not_asked_again": len(gone), "left_out_by": why}
    if other:
        said = (
            f"{plural(len(other), 'example')} of {len(asked)} read otherwise once everything after the question is "
            "deleted."
        )
        findings.append(
            Finding(TRUNCATION, (2, 4), task, "fail", said, len(other), first([example[k] for k in other]), figures)
        )
    else:
        said = (
            f"With everything after the question deleted, {len(asked) - len(gone)} of {len(asked)} examples read the "
            "same, byte by byte."
        )
        findings.append(Finding(TRUNCATION, (2, 4), task, "pass", said, 0, (), figures))
    if len(gone) == len(asked):
        said = f"No example is asked once the future is another one ({'; '.join(why)}), so this could not be checked."
        findings.append(Finding(ELIGIBILITY, (9,), task, "warn", said, len(gone), (), figures))
    elif gone:
        verdict = graded(lost.low > limit.value, "fail", "warn")
        said = (
            f"{plural(len(gone), 'example')} of {len(asked)} are no longer asked once the future is another one: "
            f"{'; '.join(why)}."
        )
        ids = first([example[k] for k in gone])
        findings.append(
            Finding(
                ELIGIBILITY,
                (9, 2),
                task,
                verdict,
                said,
                len(gone),
                ids,
                figures | lost.figures("share"),
                told("not_asked_again", limit),
            )
        )
    else:
        said = f"All {len(asked)} examples are asked again when their future is another one."
        findings.append(Finding(ELIGIBILITY, (9,), task, "pass", said, 0, (), figures))
    if not both:
        said = "No example is asked under both invented futures."
        findings.append(Finding(SWAPPED, (5,), task, "not_applicable", said))
    elif swayed:
        said = f"{plural(len(swayed), 'example')} of {len(both)} read otherwise when only the outcome is turned round."
        findings.append(
            Finding(
                SWAPPED,
                (5,),
                task,
                "fail",
                said,
                len(swayed),
                first([example[k] for k in swayed]),
                {"compared": len(both)},
            )
        )
    else:
        said = (
            f"{len(both)} examples read the same under opposite outcomes (death, return, codes, denial, later notes)."
        )
        findings.append(Finding(SWAPPED, (5,), task, "pass", said, 0, (), {"compared": len(both), "asked": len(asked)}))
    return findings


def _linted(material: Material) -> list[Finding]:
    """The cards' own rules, read by the linter of cards."""
    from lang1.remede.lint import lint

    findings = []
    for task, card in material.cards.items():
        wrong = lint(card)
        if wrong:
            said = f"{plural(len(wrong), 'rule')} of the card read the future: {'; '.join(str(w) for w in wrong[:3])}"
            findings.append(Finding(ELIGIBILITY, (9,), task, "fail", said, len(wrong)))
    return findings
