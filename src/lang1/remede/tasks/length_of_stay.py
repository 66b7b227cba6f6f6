"""Length of stay in days: discharge date minus admission date, binned by the card's cut-points."""

from __future__ import annotations

from typing import Literal

from lang1.common.settings import Settings
from lang1.remede.card import Card
from lang1.remede.cohort import Facts, Rule
from lang1.remede.tasks.cohort_of import Cohort, constants, need_times, stay_candidates, stay_cohort


class Constants(Settings):
    """``include`` labels a death in hospital with the days to death; ``exclude`` leaves it out, counted."""

    in_hospital_death: Literal["include", "exclude"]


def cohort(card: Card, facts: Facts) -> Cohort:
    """One row an inpatient stay; ``value`` is the number of days, the same day being 0."""
    need_times(card, facts, across=False)
    policy = constants(card, Constants).in_hospital_death
    stay_candidates(card, facts, "date_diff('day', s.admit_day, s.discharge_day)")
    left_alive = Rule("did not die in hospital", "NOT died_in_hospital", reads="policy")
    return stay_cohort(card, facts, [left_alive] if policy == "exclude" else [])
