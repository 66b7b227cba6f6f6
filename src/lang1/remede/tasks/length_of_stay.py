"""Length of stay in days: discharge date minus admission date, binned by the card's cut-points."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lang1.common.settings import Settings
from lang1.remede.card import Card
from lang1.remede.cohort import Facts, Rule
from lang1.remede.tasks.cohort_of import Cohort, constants, need_times, stay_candidates, stay_cohort


class Constants(Settings):
    """Which stays have a label.

    Attributes:
        in_hospital_death: ``include`` labels a death in hospital with the days to death; ``exclude`` leaves it out.
        longest_days: stays of more days are taken for errors of the record and left out; null for no limit.
    """

    in_hospital_death: Literal["include", "exclude"]
    longest_days: int | None = Field(default=None, ge=1)


def cohort(card: Card, facts: Facts) -> Cohort:
    """One row an inpatient stay; ``value`` is the number of days, the same day being 0."""
    need_times(card, facts, across=False)
    own = constants(card, Constants)
    stay_candidates(card, facts, "date_diff('day', s.admit_day, s.discharge_day)")
    outcome = []
    if own.in_hospital_death == "exclude":
        outcome.append(Rule("did not die in hospital", "NOT died_in_hospital", reads="policy"))
    if own.longest_days is not None:
        outcome.append(
            Rule(
                f"at most {own.longest_days} days (longer stays are taken for errors)",
                f"value <= {own.longest_days}",
                reads="policy",
            )
        )
    return stay_cohort(card, facts, outcome)
