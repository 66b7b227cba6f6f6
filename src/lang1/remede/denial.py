"""What denial tasks ask of claims: reasons by bucket, and the site's own time from submission to decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Literal

from pydantic import Field

from lang1.common.errors import SettingsError
from lang1.common.settings import Settings
from lang1.records.readers.x12_adjudication import Code, Number, load_reasons
from lang1.remede.card import Card
from lang1.remede.cohort import Facts, Unsupported, literal, rows


class Constants(Settings):
    """What counts as a denial, and by when it must be known.

    Attributes:
        target: ``initial`` asks for a first denial, whatever an appeal makes of it; ``final`` for one that stands.
        buckets: the reasons of denial that are asked about, by bucket; ``all`` for any, listed or not.
        reasons: buckets of one's own, code numbers by name; null for those of ``cards/denial_reasons.yaml``.
        lag: ``fixed`` gives every claim the card's ``censoring.observation_days`` from discharge; ``p95`` gives it the
            95th percentile of this site's own days from submission to decision, from submission.
        least_claims: claims at least from which that percentile may be taken.
        appeal_days: days of the observation that belong to appeals: the first answer must lie before them. For
            ``final``; under ``p95`` they come on top.
        forbidden_notes: types of notes that speak of the insurer's decision and are no input.
    """

    target: Literal["initial", "final"] = "initial"
    buckets: Literal["all"] | tuple[str, ...] = "all"
    reasons: dict[str, tuple[Number, ...]] | None = None
    lag: Literal["fixed", "p95"] = "fixed"
    least_claims: int = Field(default=100, ge=1)
    appeal_days: int = Field(default=0, ge=0)
    forbidden_notes: tuple[str, ...] = ()


def create_primary_claims(card: Card, facts: Facts, own: Constants) -> None:
    """Create ``primary_claims``: each encounter's first submitted claim to the primary payer (ties: by claim id).

    ``denied`` is true for a claim that was denied at least once, be it settled or still under appeal; ``in_buckets``
    for adjustment codes in the buckets that the card asks about; from ``answered`` on the label is known.

    Raises:
        SettingsError: the card asks for a bucket that is not there, or reads notes that it forbids.
        Unsupported: buckets are asked for, and no denied claim of the records carries codes.
    """
    _check_notes(card, own)
    reasons = load_reasons()
    buckets = own.reasons if own.reasons is not None else reasons.buckets
    asked = _asked(card, own.buckets, buckets)
    answered = "coalesce(first_remit_time, final_time)" if own.target == "initial" else "final_time"
    facts.connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE primary_claims AS
        WITH coded AS (
            SELECT *, list_transform(coalesce(adjustment_codes, []), lambda c: split_part(c, '-', 2)) AS numbers
            FROM claims WHERE coverage_order = 1
        )
        SELECT encounter_id, claim_id, final_status, submitted_time, first_remit_time, final_time, numbers,
            final_status IN ('denied_upheld', 'denied_overturned')
                OR (final_status = 'pending' AND {_denied_so_far(buckets, reasons.not_a_decision, reasons.other_payer)})
                AS denied,
            {"true" if asked is None else f"list_has_any(numbers, {_list(asked)})"} AS in_buckets,
            {answered} AS answered, count(*) OVER (PARTITION BY encounter_id) AS primary_claims
        FROM coded
        QUALIFY row_number() OVER (PARTITION BY encounter_id ORDER BY submitted_time NULLS LAST, claim_id) = 1
    """)
    ((several,),) = rows(facts.connection, "SELECT count(*) FROM primary_claims WHERE primary_claims > 1")
    if several:
        facts.note(f"{several} encounters have several primary claims; the first submitted counts.")
    if asked is not None:
        _tell_buckets(card, facts, buckets, asked)


def days_to_decision(card: Card, facts: Facts, own: Constants) -> int:
    """The 95th percentile of whole days from submission to ``answered``, of claims whose outcome is surely observed.

    Surely observed is a claim of an inpatient stay that was submitted the card's ``observation_days`` before the end of
    the claims; whatever became of it, it was decided by then or is counted as undecided. The figure is printed.

    Raises:
        Unsupported: no calendar, no end of the claims declared, or too few such claims.
    """
    complete = facts.meta.complete_through.get("claims")
    if facts.meta.time_basis != "calendar" or complete is None:
        raise Unsupported(
            f"{facts.records.path}: task '{card.task}' takes the lag of claims from the data, which needs true dates "
            f"and complete_through.claims; set cards.{card.task}.constants.lag=fixed."
        )
    latest = complete.through - timedelta(days=card.censoring.observation_days)
    ((days, decided, surely),) = rows(
        facts.connection,
        f"""SELECT quantile_disc(ceil(date_diff('hour', submitted_time, answered) / 24.0), 0.95),
            count(answered), count(*)
        FROM primary_claims SEMI JOIN stays USING (encounter_id)
        WHERE submitted_time <= {literal(latest.isoformat(sep=" "))}::TIMESTAMP""",
    )
    if decided < own.least_claims:
        raise Unsupported(
            f"{facts.records.path}: {decided} claims were submitted by {latest:%Y-%m-%d} and decided; task "
            f"'{card.task}' takes its lag from {own.least_claims} at least. Set cards.{card.task}.constants.lag=fixed."
        )
    facts.note(
        f"Task '{card.task}': of {surely:,} claims submitted by {latest:%Y-%m-%d}, {decided:,} were decided, 95 % of "
        f"them within {int(days)} days of submission; every claim gets so many days, whatever became of it."
    )
    return int(days)


def _check_notes(card: Card, own: Constants) -> None:
    read = {card.note_type, *(getattr(card.inputs, "note_types", None) or ())}
    forbidden = sorted(read & set(own.forbidden_notes))
    if forbidden:
        raise SettingsError(
            f"{card.task}.yaml: notes of type '{forbidden[0]}' speak of the insurer's decision "
            "(constants.forbidden_notes); ask of another type."
        )


def _asked(card: Card, names: str | Sequence[str], buckets: Mapping[str, tuple[str, ...]]) -> list[str] | None:
    """The code numbers of the buckets that a card asks about; null for any denial."""
    if isinstance(names, str):
        return None
    for name in names:
        if name not in buckets:
            raise SettingsError(
                f"{card.task}.yaml constants: unknown bucket '{name}'; buckets are {', '.join(buckets)}."
            )
    return sorted({number for name in names for number in buckets[name]})


def _denied_so_far(
    buckets: Mapping[str, tuple[str, ...]], not_a_decision: Sequence[Code], other_payer: Sequence[Number]
) -> str:
    """SQL: an unsettled claim whose first decision was a denial: nothing paid, and a reason that denies."""
    refusing = f"list_filter(coalesce(adjustment_codes, []), lambda c: c NOT IN ({_in(not_a_decision)}))"
    numbers = f"list_transform({refusing}, lambda c: split_part(c, '-', 2))"
    listed = _list([number for bucket in buckets.values() for number in bucket])
    no_other = f"NOT list_has_any(numbers, {_list(other_payer)})"
    return f"coalesce(paid, 0) <= 0 AND list_has_any({numbers}, {listed}) AND {no_other}"


def _tell_buckets(card: Card, facts: Facts, buckets: Mapping[str, tuple[str, ...]], asked: Sequence[str]) -> None:
    """Say how many denials lie outside the asked buckets, by bucket."""
    known = ", ".join(f"({literal(number)}, {literal(name)})" for name, bucket in buckets.items() for number in bucket)
    ((denied, coded),) = rows(
        facts.connection, "SELECT count(*), count(*) FILTER (len(numbers) > 0) FROM primary_claims WHERE denied"
    )
    if denied and not coded:
        raise Unsupported(
            f"{facts.records.path}: no denied claim carries adjustment codes, and task '{card.task}' asks for reasons; "
            "map claims.adjustment_codes, or ask for task 'insurance_denial'."
        )
    outside = rows(
        facts.connection,
        f"""WITH reasons(number, bucket) AS (VALUES {known}),
        denials AS (
            SELECT claim_id, numbers FROM primary_claims WHERE denied AND NOT list_has_any(numbers, {_list(asked)})
        ),
        found AS (
            SELECT d.claim_id, r.bucket FROM (SELECT claim_id, unnest(numbers) AS number FROM denials) d
            JOIN reasons r USING (number)
        )
        SELECT coalesce(bucket, 'in no bucket'), count(DISTINCT claim_id)
        FROM denials LEFT JOIN found USING (claim_id) GROUP BY 1 ORDER BY 2 DESC, 1""",
    )
    if outside:
        listed = ", ".join(f"{name} {number:,}" for name, number in outside)
        facts.note(f"Task '{card.task}': denials for other reasons, left out: {listed} (of {denied:,} denials).")


def _in(values: Sequence[str]) -> str:
    return ", ".join(literal(value) for value in values) or "''"


def _list(values: Sequence[str]) -> str:
    return f"[{_in(values)}]"
