"""The Charlson comorbidity index of the stay's own codes, binned by the card's cut-points."""

from __future__ import annotations

from lang1.common.settings import Settings
from lang1.remede.card import Card
from lang1.remede.charlson import Weights, create_scores
from lang1.remede.cohort import Facts, Rule
from lang1.remede.tasks.cohort_of import Cohort, constants, need_rows, stay_candidates, stay_cohort


class Constants(Settings):
    """Which weights: 1987 or 2011."""

    weights: Weights


def cohort(card: Card, facts: Facts) -> Cohort:
    """One row an inpatient stay; ``value`` is the index, null where the stay has no codes."""
    need_rows(card, facts, "diagnoses")
    create_scores(facts.connection, constants(card, Constants).weights)
    stay_candidates(card, facts, "c.score", join="LEFT JOIN charlson_scores c USING (encounter_id)")
    return stay_cohort(card, facts, [Rule("has at least one diagnosis code", "value IS NOT NULL")])
