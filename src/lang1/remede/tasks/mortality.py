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
from lang1.remede.cohort import Facts, Rule, censoring_rules, exclusion_rules, note_rules
from lang1.remede.tasks.cohort_of import Cohort, constants, need_times, stay_candidates, stay_cohort
from lang1.remede.tasks.deaths import create_deaths, vital_rules


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
        horizon_end = f"s.admit_day + INTERVAL {days} DAY + INTERVAL 1 DAY - INTERVAL 1 SECOND"
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
    return Cohort("inpatient encounters", rules, {"dead_at": "after"})
