"""Insurance denial: the final status of one claim to the primary payer."""

from __future__ import annotations

from lang1.remede.card import Card
from lang1.remede.cohort import Facts, Rule, rows
from lang1.remede.tasks.cohort_of import Cohort, NoConstants, constants, need_rows, stay_candidates, stay_cohort


def cohort(card: Card, facts: Facts) -> Cohort:
    """One row an inpatient stay; ``value`` is 1 if its primary claim was denied at least once, 0 if it was paid."""
    constants(card, NoConstants)
    need_rows(card, facts, "claims")
    facts.connection.execute("""
        CREATE OR REPLACE TEMP TABLE primary_claims AS
        SELECT encounter_id, claim_id, final_status, first_remit_time, final_time,
            count(*) OVER (PARTITION BY encounter_id) AS primary_claims
        FROM claims WHERE coverage_order = 1
        QUALIFY row_number() OVER (PARTITION BY encounter_id ORDER BY submitted_time NULLS LAST, claim_id) = 1
    """)
    ((several,),) = rows(facts.connection, "SELECT count(*) FROM primary_claims WHERE primary_claims > 1")
    if several:
        facts.note(f"{several} encounters have several primary claims; the first submitted counts.")
    days = card.censoring.observation_days
    stay_candidates(
        card,
        facts,
        """CASE WHEN c.final_status IN ('denied_upheld', 'denied_overturned') THEN 1
            WHEN c.final_status = 'paid' THEN 0 END""",
        join="LEFT JOIN primary_claims c USING (encounter_id)",
        columns="c.claim_id, c.first_remit_time, c.final_time",
        horizon_end=f"s.discharge_time + INTERVAL {days} DAY",
    )
    outcome = [
        Rule("has a claim to the primary payer", "claim_id IS NOT NULL", reads="observability"),
        Rule(
            "the claim was paid or denied (pending and other are not observable)",
            "value IS NOT NULL",
            reads="observability",
        ),
    ]
    if facts.timed:
        outcome += [
            Rule(
                "the claim was not answered when the note became available",
                "coalesce(first_remit_time > prediction_time, true)",
            ),
            Rule(
                f"the claim was settled within {days} days of discharge",
                "coalesce(final_time <= horizon_end, true)",
                reads="observability",
            ),
        ]
    return stay_cohort(card, facts, outcome, columns={"first_remit_time": "after"})
