"""30-day all-cause readmission, asked when the first signed discharge note is available.

Contiguous transfers are merged into one episode, whose last leg is the index (clinical measures merge the same way; the
thresholds are the card's). The horizon is counted from discharge, the outcome window opens at the prediction time.
"""

from __future__ import annotations

from pydantic import Field

from lang1.common.settings import Settings
from lang1.remede.card import Card
from lang1.remede.cohort import (
    Facts,
    Rule,
    censoring_rules,
    exclusion_rules,
    first_note,
    in_departments,
    note_rules,
    prediction_time,
)
from lang1.remede.tasks.cohort_of import Cohort, constants, need_times


class Constants(Settings):
    """What makes two stays one episode, and which admissions are no returns.

    Attributes:
        transfer_hours: most hours between a discharge to another acute hospital and the next admission.
        contiguous_hours: most hours between a discharge and an admission at another facility, whatever the disposition.
        returns_ignore_departments: admissions to departments with these words are no returns (none in the paper).
    """

    transfer_hours: int = Field(ge=0)
    contiguous_hours: int = Field(ge=0)
    returns_ignore_departments: tuple[str, ...] = ()


def cohort(card: Card, facts: Facts) -> Cohort:
    """One row an inpatient encounter; ``value`` is 1 for a return in (prediction time, discharge + horizon]."""
    need_times(card, facts, across=True)
    assert card.horizon_days is not None
    own = constants(card, Constants)
    _create_episodes(facts, own)
    # A stay that begins at or before the prediction time is not ahead of it: the first later return decides both rules.
    # Before the note rules, rows without a note are counted with the discharge in its place.
    facts.connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE candidates AS
        WITH first_note AS ({first_note(card, facts.timed)}),
        asked AS (
            SELECT s.*, n.note_id, n.usable_at, {prediction_time(card)} AS prediction_time,
                s.discharge_time + INTERVAL {card.horizon_days} DAY AS horizon_end
            FROM legs s LEFT JOIN first_note n USING (encounter_id)
        )
        SELECT *, discharge_time AS index_time, discharge_time AS end_time, NULL::INTEGER AS given_class,
            CASE WHEN discharge_time IS NULL OR NOT last_leg THEN NULL
                ELSE coalesce(next_admission > coalesce(prediction_time, discharge_time)
                    AND next_admission <= horizon_end, false)::INTEGER END::DOUBLE AS value,
            coalesce(died_at > prediction_time AND died_at <= horizon_end
                AND (next_admission IS NULL OR next_admission > horizon_end), false) AS died_without_return
        FROM asked
    """)
    rules = [
        Rule("the time of admission is known", "admit_time IS NOT NULL"),
        Rule(
            f"the last leg of its episode (contiguous stays, or transfers within {own.transfer_hours} hours, are one)",
            "last_leg",
            reads="observability",
        ),
        Rule("discharged by the end of the data", "discharge_time IS NOT NULL"),
        Rule("discharged alive", "NOT died_in_hospital"),
        *exclusion_rules(card),
        *censoring_rules(card, facts),
        *note_rules(card, facts),
        Rule("not back in hospital before the note was available", "coalesce(next_admission > prediction_time, true)"),
        Rule("alive when the note became available", "coalesce(died_at > prediction_time, true)"),
    ]
    return Cohort("inpatient encounters", rules, {"next_admission": "after"})


def _create_episodes(facts: Facts, own: Constants) -> None:
    """Create ``legs``: stays with ``last_leg`` and ``next_admission``, the start of the patient's next episode."""
    # Of all earlier stays the one that ended last: over all of them, since extracts hold nested stays. A struct's
    # maximum compares its fields in turn, so that ties have one answer. A stay without a discharge binds no later one.
    facts.connection.execute("""
        CREATE OR REPLACE TEMP TABLE stays_in_order AS
        WITH numbered AS (
            SELECT *, row_number() OVER (
                PARTITION BY patient_id ORDER BY admit_time, discharge_time NULLS LAST, encounter_id) AS nth
            FROM stays WHERE admit_time IS NOT NULL
        )
        SELECT *, max({'ends': discharge_time, 'nth': nth, 'disposition': disposition, 'facility': facility})
            FILTER (discharge_time IS NOT NULL)
            OVER (PARTITION BY patient_id ORDER BY nth ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS earlier
        FROM numbered
    """)
    # The transfer rule: the stay continues the one before it.
    facts.connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE stays_in_episodes AS
        SELECT *, sum((NOT continues)::INTEGER) OVER (PARTITION BY patient_id ORDER BY nth) AS episode
        FROM (
            SELECT *, coalesce(
                admit_time <= earlier.ends
                OR (earlier.disposition = 'transfer_acute'
                    AND admit_time <= earlier.ends + INTERVAL {own.transfer_hours} HOUR)
                OR (facility <> earlier.facility
                    AND admit_time <= earlier.ends + INTERVAL {own.contiguous_hours} HOUR), false) AS continues
            FROM stays_in_order)
    """)
    ignored = in_departments(own.returns_ignore_departments)
    facts.connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE legs AS
        WITH episodes AS (
            SELECT patient_id, episode, min(admit_time) FILTER (NOT {ignored}) AS starts
            FROM stays_in_episodes GROUP BY patient_id, episode
        ),
        followed AS (
            SELECT patient_id, episode, min(starts) OVER (PARTITION BY patient_id ORDER BY episode
                ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING) AS next_admission
            FROM episodes
        )
        SELECT s.* EXCLUDE (earlier, continues), f.next_admission,
            row_number() OVER (PARTITION BY s.patient_id, s.episode
                ORDER BY s.discharge_time DESC NULLS FIRST, s.nth DESC) = 1 AS last_leg
        FROM stays_in_episodes s JOIN followed f USING (patient_id, episode)
        UNION ALL BY NAME
        SELECT *, false AS last_leg FROM stays WHERE admit_time IS NULL
    """)
