"""The Charlson comorbidity index of the stay's own codes, binned by the card's cut-points."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lang1.common.settings import Settings
from lang1.remede.card import Card
from lang1.remede.charlson import CodeVariant, Weights, create_scores
from lang1.remede.cohort import Facts, Rule, Unsupported, rows
from lang1.remede.tasks.cohort_of import Cohort, constants, need_rows, stay_candidates, stay_cohort


class Constants(Settings):
    """Which codes count, and for how much.

    Attributes:
        weights: 1987 or 2011.
        code_variant: ``us_cm`` adds the prefixes that only ICD-10-CM has (``cards/charlson.yaml`` lists them).
        present_on_admission: ``only`` counts codes marked Y (yes) or W (clinically undetermined), not N (no) or U
            (documentation insufficient), as US payers read the four letters.
        without_indicator: under ``only``, whether codes without any mark count. In the US the codes exempt from marking
            are those of lasting states (transplant, dialysis, old infarction).
        age_points: one point more a decade, from ``age_points_from`` years of age, ``age_points_most`` at most
            (Charlson et al. 1994, doi 10.1016/0895-4356(94)90129-5). Stays of unknown age are then left out.
    """

    weights: Weights
    code_variant: CodeVariant = "who"
    present_on_admission: Literal["all", "only"] = "all"
    without_indicator: Literal["count", "ignore"] = "count"
    age_points: bool = False
    age_points_from: int = Field(default=50, ge=0)
    age_points_most: int = Field(default=4, ge=1)


def cohort(card: Card, facts: Facts) -> Cohort:
    """One row an inpatient stay; ``value`` is the index, null where the stay has no codes.

    Raises:
        Unsupported: no codes; or codes present on admission asked of records that mark none.
    """
    need_rows(card, facts, "diagnoses")
    own = constants(card, Constants)
    create_scores(facts.connection, own.weights, own.code_variant, _counted(card, facts, own))
    outcome = [Rule("has at least one diagnosis code", "score IS NOT NULL", reads="observability")]
    value = "c.score"
    if own.age_points:
        decade = f"floor((a.age_at_admission - {own.age_points_from}) / 10) + 1"
        value = f"c.score + least(greatest({decade}, 0), {own.age_points_most})"
        # In SQL least and greatest pass over nulls, and an unknown age is not a young one.
        value = f"CASE WHEN a.age_at_admission IS NOT NULL THEN {value} END"
        outcome.append(Rule("the age at admission is known", "value IS NOT NULL", reads="observability"))
    stay_candidates(
        card,
        facts,
        value,
        join="""LEFT JOIN charlson_scores c USING (encounter_id)
            LEFT JOIN (SELECT encounter_id, age_at_admission FROM encounters) a USING (encounter_id)""",
        columns="c.score",
    )
    return stay_cohort(card, facts, outcome)


def _counted(card: Card, facts: Facts, own: Constants) -> str:
    """SQL over ``diagnoses``: the codes that may count."""
    if own.present_on_admission == "all":
        return "true"
    ((codes, marked),) = rows(facts.connection, "SELECT count(*), count(present_on_admission) FROM diagnoses")
    if not marked:
        raise Unsupported(
            f"{facts.records.path}: no diagnosis says whether it was present on admission, which task '{card.task}' "
            f"asks; set cards.{card.task}.constants.present_on_admission=all, or map diagnoses.present_on_admission."
        )
    if marked < codes:
        does = "count" if own.without_indicator == "count" else "do not count"
        facts.note(
            f"Task '{card.task}': {codes - marked:,} of {codes:,} diagnoses do not say whether they were present on "
            f"admission; they {does} (constants.without_indicator)."
        )
    unmarked = "true" if own.without_indicator == "count" else "false"
    return f"coalesce(present_on_admission IN ('Y', 'W'), {unmarked})"
