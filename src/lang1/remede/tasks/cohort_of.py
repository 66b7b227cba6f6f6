"""What the task files share: the shape of their answer, and candidates that are inpatient stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from lang1.common.settings import Settings, validate_settings
from lang1.remede.card import Card
from lang1.remede.cohort import (
    Facts,
    Known,
    Rule,
    Unsupported,
    censoring_rules,
    exclusion_rules,
    first_note,
    literal,
    note_rules,
    prediction_time,
    rows,
)

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Cohort:
    """What the rows of ``candidates`` are, and the rules to apply to them in order.

    Attributes:
        start: what the rows are, in plain words.
        rules: in the order in which they are applied.
        columns: when the columns that this task alone adds to ``candidates`` are known, those that an eligibility rule
            reads at least; ``lint.KNOWN`` holds the columns of all tasks.
    """

    start: str
    rules: list[Rule]
    columns: Mapping[str, Known] = field(default_factory=dict)


class NoConstants(Settings):
    """Of tasks whose rule has no constants of its own."""


def constants(card: Card, model: type[S]) -> S:
    """The card's ``constants`` as the task's settings.

    Raises:
        SettingsError: an unknown constant or a value that it cannot take.
    """
    return validate_settings(model, card.constants, f"{card.task}.yaml constants")


def stay_candidates(
    card: Card,
    facts: Facts,
    value: str,
    *,
    join: str = "",
    columns: str = "",
    horizon_end: str = "s.discharge_time",
    end_time: str = "s.discharge_time",
) -> None:
    """Create ``candidates`` with one row an inpatient stay ``s``.

    ``value``, ``horizon_end``, ``end_time`` and ``columns`` are SQL over ``s`` and what ``join`` joins.
    """
    facts.connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE candidates AS
        WITH first_note AS ({first_note(card, facts.timed)}),
        asked AS (
            SELECT s.*, n.note_id, n.usable_at, {prediction_time(card)} AS prediction_time
            FROM stays s LEFT JOIN first_note n USING (encounter_id)
        )
        SELECT s.*, s.admit_time AS index_time, {end_time} AS end_time, {horizon_end} AS horizon_end,
            ({value})::DOUBLE AS value, NULL::INTEGER AS given_class {", " + columns if columns else ""}
        FROM asked s {join}
    """)


def stay_cohort(card: Card, facts: Facts, outcome: list[Rule], *, columns: Mapping[str, Known] | None = None) -> Cohort:
    """The rules of tasks that ask about a stay: note, exclusions, censoring, discharge, then the outcome's own.

    ``columns`` are those of :class:`Cohort`.
    """
    if not facts.timed:
        rules = [*note_rules(card, facts), *exclusion_rules(card), *outcome]
        return Cohort("inpatient encounters", rules, columns or {})
    rules = [
        Rule("the time of admission is known", "admit_time IS NOT NULL"),
        *note_rules(card, facts),
        *exclusion_rules(card),
        *censoring_rules(card, facts),
        Rule(
            "discharged by the end of the data (else the outcome is not observable)",
            "discharge_time IS NOT NULL",
            reads="observability",
        ),
        *outcome,
    ]
    return Cohort("inpatient encounters", rules, columns or {})


def need_rows(card: Card, facts: Facts, table: str) -> None:
    """Refuse records whose table is empty.

    Raises:
        Unsupported: it has no rows.
    """
    if not rows(facts.connection, f"SELECT 1 FROM {table} LIMIT 1"):
        raise Unsupported(f"{facts.records.path}: table '{table}' is empty, so task '{card.task}' has no outcome.")


def need_times(card: Card, facts: Facts, *, across: bool = True) -> None:
    """Refuse records without times; with ``across``, also those whose times mean nothing between two encounters.

    Raises:
        Unsupported: time basis ordinal, none, or (``across``) within_stay.
    """
    if not facts.timed or (across and facts.meta.time_basis == "within_stay"):
        raise Unsupported(
            f"{facts.records.path}: task '{card.task}' needs times or given labels, and time_basis is "
            f"{facts.meta.time_basis}; give its label in given_labels."
        )


def need_notes(card: Card, facts: Facts) -> None:
    """Refuse records without a single note of the card's type.

    Raises:
        Unsupported: there is none; names the types that there are.
    """
    asked = f"SELECT 1 FROM first_versions WHERE note_type = {literal(card.note_type)} LIMIT 1"
    if not rows(facts.connection, asked):
        found = rows(facts.connection, "SELECT DISTINCT note_type FROM first_versions ORDER BY 1")
        kinds = ", ".join(kind for (kind,) in found) or "none at all"
        raise Unsupported(
            f"{facts.records.path}: no usable note of type '{card.note_type}', which task '{card.task}' reads "
            f"(there are: {kinds}); map the notes to that type, or set cards.{card.task}.note_type."
        )
