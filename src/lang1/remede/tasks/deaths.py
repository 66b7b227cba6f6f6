"""Who died, where that is known from, and through when: what every outcome beyond the stay has to ask."""

from __future__ import annotations

from lang1.remede.card import Card
from lang1.remede.cohort import Facts, Rule


def vital_rules(card: Card, facts: Facts, days_after_last_discharge: int | None) -> list[Rule]:
    """The rules that keep stays whose ``horizon_end`` lies within what is known of deaths, whatever happened.

    They ask ``horizon_end`` and, with ``days_after_last_discharge``, ``last_discharge``.

    Raises:
        Unsupported: no source of deaths, or nothing says through when they are known, unless the task is to be marked.
    """
    vital, days = facts.meta.vital_status, days_after_last_discharge
    if vital.source == "none":
        facts.lacks(
            card,
            f"vital_status.source is none, so task '{card.task}' cannot tell who died after discharge; declare "
            "vital_status (source and through) when the records are made.",
        )
        return []
    if vital.source == "ehr":
        facts.note(
            f"Task '{card.task}': deaths are known from the health record alone (vital_status.source is ehr); deaths "
            "outside the hospital are missed and counted as survival."
        )
    rules = []
    if vital.through is not None:
        rules.append(
            Rule(
                f"the whole horizon lies inside the time for which deaths are known (through {vital.through:%Y-%m-%d})",
                f"horizon_end <= TIMESTAMP '{vital.through}'",
                reads="censoring",
            )
        )
    if days is not None:
        rules.append(
            Rule(
                f"the whole horizon lies within {days} days of the patient's last discharge, so long deaths are known",
                f"horizon_end <= last_discharge + INTERVAL {days} DAY",
                reads="observability",
            )
        )
    if not rules:
        facts.lacks(
            card,
            f"nothing says through when deaths are known, which task '{card.task}' needs; declare "
            f"vital_status.through, or set cards.{card.task}.constants.death_known_days_after_last_discharge.",
        )
    return rules


def create_deaths(facts: Facts) -> None:
    """Create ``deaths``: one row a patient who ever had an encounter, with ``dead_at`` null for those not known dead.

    The disposition of any encounter tells of a death as well as the patient's own row does, and to the minute where
    that row has the day only. ``by_day`` marks deaths of which only the day is known, ``undated`` those without even
    that.
    """
    facts.connection.execute("""
        CREATE OR REPLACE TEMP TABLE deaths AS
        WITH seen AS (
            SELECT patient_id, max(discharge_time) AS last_discharge,
                min(discharge_time) FILTER (disposition = 'expired') AS expired,
                coalesce(bool_or(disposition = 'expired' AND discharge_time IS NULL), false) AS expired_undated
            FROM encounters GROUP BY patient_id
        ),
        joined AS (
            SELECT patient_id, last_discharge, expired_undated AND expired IS NULL AND death_time IS NULL AS undated,
                CASE WHEN expired IS NOT NULL AND (death_time IS NULL
                    OR death_time = date_trunc('day', death_time) AND expired::DATE = death_time::DATE)
                    THEN expired ELSE death_time END AS dead_at
            FROM seen LEFT JOIN patients USING (patient_id)
        )
        SELECT *, dead_at::DATE AS died_day,
            -- A bare day stands at its first moment or, read from a discharge, in its last second.
            dead_at = date_trunc('day', dead_at)
                OR dead_at >= date_trunc('day', dead_at) + INTERVAL 1 DAY - INTERVAL 1 SECOND AS by_day
        FROM joined
    """)
