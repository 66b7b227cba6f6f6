"""Labels that the source itself gives: data sets without dates, and labelled tables."""

from __future__ import annotations

from lang1.common.errors import InputError
from lang1.remede.card import Card
from lang1.remede.cohort import Facts, Rule, exclusion_rules, first_note, literal, rows
from lang1.remede.tasks.cohort_of import Cohort


def present(card: Card, facts: Facts) -> bool:
    """Whether the records give labels for the task."""
    return bool(rows(facts.connection, f"SELECT 1 FROM given_labels WHERE task = {literal(card.task)} LIMIT 1"))


def cohort(card: Card, facts: Facts) -> Cohort:
    """One row an encounter with a given label; exclusions by disposition and department still apply.

    A value is an option's text or, for binary tasks, 0 or 1, for binned ones the number that the cut-points bin.

    Raises:
        InputError: another value; names the encounter.
    """
    names = ", ".join(f"({literal(text.lower())}, {number})" for number, text in enumerate(card.options))
    facts.connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE given_values AS
        SELECT g.encounter_id, g.value AS said, o.number AS given_class,
            CASE WHEN o.number IS NULL THEN try_cast(g.value AS DOUBLE) END AS value
        FROM given_labels g LEFT JOIN (VALUES {names}) o(text, number) ON lower(trim(g.value)) = o.text
        WHERE g.task = {literal(card.task)}
    """)
    # An option that reads as a number (comorbidity 0) means the same either way.
    sound = "value >= 0" if card.cut_points is not None else f"value IN ({', '.join(map(str, range(card.classes)))})"
    wrong = rows(
        facts.connection,
        f"SELECT encounter_id, said FROM given_values WHERE given_class IS NULL AND ({sound}) IS NOT TRUE "
        "ORDER BY 1 LIMIT 1",
    )
    if wrong:
        encounter, said = wrong[0]
        options = ", ".join(f"'{text}'" for text in card.options)
        number = "a number of 0 or more" if card.cut_points is not None else "the number of a class, from 0"
        raise InputError(
            f"{facts.records.path}/given_labels: encounter '{encounter}', task '{card.task}': value '{said}' is not "
            f"a label; expected {number}, or one of {options}."
        )
    facts.connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE candidates AS
        WITH first_note AS ({first_note(card, timed=False)})
        SELECT e.encounter_id, e.patient_id, e.disposition, e.department, n.note_id,
            n.usable_at AS prediction_time, NULL::TIMESTAMP AS index_time,
            coalesce(e.discharge_time, e.admit_time, n.usable_at) AS end_time, NULL::TIMESTAMP AS horizon_end,
            g.value, g.given_class
        FROM given_values g JOIN encounters e USING (encounter_id) LEFT JOIN first_note n USING (encounter_id)
    """)
    # Who paired the note with the label vouches for its time, so no signature or availability is asked here.
    alive = (
        [Rule("discharged alive", "disposition IS DISTINCT FROM 'expired'")] if card.rule_name == "readmission" else []
    )
    has_note = Rule(f"has a {card.note_type.replace('_', ' ')} note", "note_id IS NOT NULL")
    return Cohort("encounters with a given label", [has_note, *alive, *exclusion_rules(card)])
