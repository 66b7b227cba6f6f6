"""Mortality: in hospital, within so many days of admission, or within so many days of the prediction time.

The anchor is the card's: a death in hospital follows from the stay; the other two need to know who died outside, and
through when, which the records' vital status declares.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lang1.common.errors import SettingsError
from lang1.common.settings import Settings
from lang1.remede.card import Card
from lang1.remede.cohort import Facts, Rule, Unsupported, censoring_rules, exclusion_rules, note_rules
from lang1.remede.tasks.cohort_of import Cohort, constants, need_times, stay_candidates, stay_cohort


class Constants(Settings):
    """Which deaths count.

    Attributes:
        anchor: ``stay`` (death in hospital), ``admission`` (within ``horizon_days`` of the date of admission, in
            hospital or not), or ``prediction`` (within ``horizon_days`` of the moment the task is asked).
        death_known_days_after_last_discharge: deaths are known so many days after a patient's last discharge and no
            further (MIMIC-IV: 365); null where the records declare one date for all.
    """

    anchor: Literal["stay", "admission", "prediction"] = "stay"
    death_known_days_after_last_discharge: int | None = Field(default=None, ge=0)


def cohort(card: Card, facts: Facts) -> Cohort:
    """One row an inpatient stay; ``value`` is 1 for a death by the card's anchor, null where it cannot be known.

    Raises:
        SettingsError: a horizon and an anchor that do not go together.
        Unsupported: an anchor other than the stay without times, or without a source of deaths.
    """
    own = constants(card, Constants)
    if (own.anchor == "stay") != (card.horizon_days is None):
        raise SettingsError(
            f"{card.task}.yaml: constants.anchor is '{own.anchor}' and horizon_days {card.horizon_days}; the anchors "
            "admission and prediction need a horizon, and stay has none."
        )
    return _in_hospital(card, facts) if own.anchor == "stay" else _within_days(card, facts, own)


def _in_hospital(card: Card, facts: Facts) -> Cohort:
    vital = facts.meta.vital_status
    deaths_known = "false"
    if vital.source != "none":
        through = f"s.discharge_time <= '{vital.through:%Y-%m-%d %H:%M:%S}'::TIMESTAMP" if vital.through else "true"
        deaths_known = through if facts.timed else "true"
    open_stay = "s.discharge_time IS NULL" if facts.timed else "false"
    value = f"""CASE
        WHEN {open_stay} THEN NULL
        WHEN s.died_in_hospital THEN 1
        WHEN coalesce(s.disposition, 'unknown') <> 'unknown' OR {deaths_known} THEN 0 END"""
    stay_candidates(card, facts, value)
    outcome = Rule(
        "life or death at discharge is known (a disposition, or a source of deaths)",
        "value IS NOT NULL",
        reads="observability",
    )
    return stay_cohort(card, facts, [outcome])


def _within_days(card: Card, facts: Facts, own: Constants) -> Cohort:
    """Death within the horizon, wherever it happened. The stay may still be open: vital status decides alone."""
    need_times(card, facts)
    known = vital_rules(card, facts, own.death_known_days_after_last_discharge)
    create_deaths(facts)
    days = card.horizon_days
    if own.anchor == "admission":
        died = f"d.died_day BETWEEN s.admit_day AND s.admit_day + {days}"
        horizon_end = f"s.admit_day + INTERVAL {days} DAY + INTERVAL 1 DAY - INTERVAL 1 MICROSECOND"
    else:
        horizon_end = f"s.prediction_time + INTERVAL {days} DAY"
        died = f"""CASE
            WHEN d.by_day THEN d.died_day BETWEEN s.prediction_time::DATE AND s.prediction_time::DATE + {days}
            ELSE d.dead_at > s.prediction_time AND d.dead_at <= {horizon_end} END"""
    stay_candidates(
        card,
        facts,
        f"CASE WHEN d.undated THEN NULL ELSE coalesce({died}, false)::INTEGER END",
        join="LEFT JOIN deaths d USING (patient_id)",
        columns="d.dead_at, d.died_day, d.last_discharge",
        horizon_end=horizon_end,
        # An open stay has no end to place it by; its outcome is known when the horizon is over.
        end_time=f"coalesce(s.discharge_time, {horizon_end})",
    )
    rules = [
        Rule("the time of admission is known", "admit_time IS NOT NULL"),
        *note_rules(card, facts),
        Rule("no death was recorded, in any encounter, by then", "coalesce(dead_at > prediction_time, true)"),
        *exclusion_rules(card),
        *censoring_rules(card, facts),
        *known,
        Rule("the day of death is known, where there is one", "value IS NOT NULL", reads="observability"),
        Rule(
            "not discharged alive on a day after the recorded death (vital status inconsistent)",
            "NOT coalesce(left_alive AND discharge_day > died_day, false)",
            reads="observability",
        ),
    ]
    return Cohort("inpatient encounters", rules, {"dead_at": "prediction"})


def vital_rules(card: Card, facts: Facts, days_after_last_discharge: int | None) -> list[Rule]:
    """The rules that keep stays whose ``horizon_end`` lies within what is known of deaths, whatever happened.

    They ask ``horizon_end`` and, with ``days_after_last_discharge``, ``last_discharge``.

    Raises:
        Unsupported: no source of deaths, or nothing says through when they are known.
    """
    vital, days = facts.meta.vital_status, days_after_last_discharge
    if vital.source == "none":
        raise Unsupported(
            f"{facts.records.path}: vital_status.source is none, so task '{card.task}' cannot tell who died after "
            "discharge; declare vital_status (source and through) when the records are made."
        )
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
        raise Unsupported(
            f"{facts.records.path}: nothing says through when deaths are known, which task '{card.task}' needs; "
            f"declare vital_status.through, or set cards.{card.task}.constants.death_known_days_after_last_discharge."
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
            -- A bare day stands at its first moment or, read from a discharge, at its last.
            dead_at IN (date_trunc('day', dead_at),
                date_trunc('day', dead_at) + INTERVAL 1 DAY - INTERVAL 1 MICROSECOND) AS by_day
        FROM joined
    """)
