"""In-hospital mortality: the discharge disposition is expired, or the patient died between admission and discharge."""

from __future__ import annotations

from lang1.remede.card import Card
from lang1.remede.cohort import Facts, Rule
from lang1.remede.tasks.cohort_of import Cohort, NoConstants, constants, stay_candidates, stay_cohort


def cohort(card: Card, facts: Facts) -> Cohort:
    """One row an inpatient stay; ``value`` is 1 for death in hospital, null where neither life nor death is known."""
    constants(card, NoConstants)
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
    outcome = Rule("life or death at discharge is known (a disposition, or a source of deaths)", "value IS NOT NULL")
    return stay_cohort(card, facts, [outcome])
