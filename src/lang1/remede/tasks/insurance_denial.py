"""Insurance denial: what became of one claim to the primary payer."""

from __future__ import annotations

from lang1.remede.card import Card
from lang1.remede.cohort import Facts, Rule, literal
from lang1.remede.denial import Constants, create_primary_claims, days_to_decision
from lang1.remede.tasks.cohort_of import Cohort, constants, need_rows, stay_candidates, stay_cohort

# By target, SQL over the claim ``c``; null where the outcome is not observable.
VALUES = {
    "initial": "CASE WHEN c.denied THEN 1 WHEN c.final_status = 'paid' THEN 0 END",
    "final": """CASE WHEN c.final_status = 'denied_upheld' THEN 1
        WHEN c.final_status IN ('paid', 'denied_overturned') THEN 0 END""",
}


def cohort(card: Card, facts: Facts) -> Cohort:
    """One row an inpatient stay; ``value`` is 1 if its primary claim was denied (at first, or for good), else 0.

    Raises:
        Unsupported: the records hold no claims, or not what the card's buckets or lag need.
        SettingsError: constants that are not understood.
    """
    own = constants(card, Constants)
    need_rows(card, facts, "claims")
    create_primary_claims(card, facts, own)
    days = card.censoring.observation_days
    since, horizon_end = "discharge", f"s.discharge_time + INTERVAL {days} DAY"
    enough_time: list[Rule] = []
    if own.lag == "p95" and facts.timed:
        days = days_to_decision(card, facts, own) + own.appeal_days
        since, horizon_end = "submission", f"c.submitted_time + INTERVAL {days} DAY"
        through = facts.meta.complete_through["claims"].through
        enough_time.append(
            Rule(
                f"submitted at least {days} days before the end of the claims ({through:%Y-%m-%d %H:%M})",
                f"horizon_end <= {literal(through.isoformat(sep=' '))}::TIMESTAMP",
                reads="censoring",
            )
        )
        # The discharge need only lie inside the claims: the observation is counted from submission.
        card = card.model_copy(update={"censoring": card.censoring.model_copy(update={"observation_days": 0})})
    stay_candidates(
        card,
        facts,
        VALUES[own.target],
        join="LEFT JOIN primary_claims c USING (encounter_id)",
        columns="c.claim_id, c.first_remit_time, c.final_time, c.answered, c.denied, c.in_buckets",
        horizon_end=horizon_end,
    )
    outcome = [Rule("has a claim to the primary payer", "claim_id IS NOT NULL", reads="observability"), *enough_time]
    if own.buckets != "all":
        # A final 0 that was denied on the way needs no reason.
        denial = "denied" if own.target == "initial" else "coalesce(value = 1, false)"
        outcome.append(
            Rule(
                f"if it was denied, then for a reason of: {', '.join(own.buckets)} (others are not observable)",
                f"in_buckets OR NOT {denial}",
                reads="observability",
            )
        )
    outcome.append(
        Rule(
            "the claim was paid or denied (pending and other are not observable)",
            "value IS NOT NULL",
            reads="observability",
        )
    )
    if facts.timed:
        outcome += [
            Rule(
                "the claim was not answered when the note became available",
                "coalesce(first_remit_time > prediction_time, true)",
            ),
            Rule(
                f"the claim was settled within {days} days of {since}"
                + (" (its first answer, which decides here)" if own.target == "initial" else ""),
                "coalesce(answered <= horizon_end, true)",
                reads="observability",
            ),
        ]
        if own.appeal_days:
            outcome.append(
                Rule(
                    f"its first answer came {own.appeal_days} days before that, so that an appeal could be seen",
                    f"coalesce(first_remit_time <= horizon_end - INTERVAL {own.appeal_days} DAY, true)",
                    reads="observability",
                )
            )
    return stay_cohort(card, facts, outcome, columns={"first_remit_time": "after"})
