"""What became of each claim: the zero-pay rule of initial denials, and when a denial is final.

The unit is a claim (patient control number and payer's place in line) with all its remittances, in the order of their
dates. The rule follows HFMA's primary-denial measure: a zero payment by the primary payer with a denial's reason. It
never asks for claim status 4, which payers use in different ways.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

import lang1
from lang1.common.settings import Settings, load_settings
from lang1.records.readers.staging import Staging
from lang1.records.store import quoted

# Package data of the benchmark, whose cards name the same buckets.
DENIAL_REASONS = Path(lang1.__file__).parent / "remede" / "cards" / "denial_reasons.yaml"

# CLP02. Those in process come from release 4010; they are no decision.
STATUSES = ("1", "2", "3", "4", "19", "20", "21", "22", "23", "25")
IN_PROCESS = ("5", "10", "13", "15", "16", "17", "27")

Number = Annotated[str, Field(pattern=r"^[A-Z]{0,2}[0-9]{1,4}$")]
Code = Annotated[str, Field(pattern=r"^(CO|PR|OA|PI|CR)-[A-Z]{0,2}[0-9]{1,4}$")]


class DenialReasons(Settings):
    """``denial_reasons.yaml``: see the file for what each list does.

    Attributes:
        list_date: of the list of codes that the numbers were taken from.
        buckets: names of reasons, with their code numbers in any group.
        settled: codes of zero payments in which nothing is refused.
        not_a_decision: codes of answers that decide nothing.
        other_payer: code numbers by which the payer says that another comes first.
    """

    list_date: date
    buckets: dict[str, tuple[Number, ...]]
    settled: tuple[Code, ...]
    not_a_decision: tuple[Code, ...]
    other_payer: tuple[Number, ...]

    @model_validator(mode="after")
    def _apart(self) -> Self:
        numbers = [number for bucket in self.buckets.values() for number in bucket]
        twice = sorted({number for number in numbers if numbers.count(number) > 1})
        if twice:
            raise ValueError(f"code {twice[0]} is in two buckets")
        both = sorted(set(numbers) & set(self.other_payer))
        if both:
            raise ValueError(f"code {both[0]} is in a bucket and under other_payer")
        return self

    @property
    def numbers(self) -> tuple[str, ...]:
        """All code numbers of all buckets."""
        return tuple(number for bucket in self.buckets.values() for number in bucket)


def load_reasons(file: Path | None = None) -> DenialReasons:
    """The denial reasons of a file, or those shipped.

    Raises:
        SettingsError: missing or not understood.
    """
    return load_settings(DenialReasons, file or DENIAL_REASONS)


def adjudicate(
    stage: Staging, reasons: DenialReasons, feed_end: date | None, appeal_days: int, *, count_forwarded: bool
) -> None:
    """Create ``submitted``, ``decisions`` and ``outcomes`` from ``submissions`` and ``remits``.

    ``outcomes`` has one row a claim and payer's place in line: ``claim, coverage_order, final_status, why, first_remit,
    final_date, codes, charge, paid``.
    """
    _first_submissions(stage)
    _payers_in_line(stage)
    _decisions(stage, reasons, count_forwarded)
    _outcomes(stage, feed_end, appeal_days)


def _first_submissions(stage: Staging) -> None:
    """``submitted``: each claim as it was first sent, with the frequency code that it was last sent with."""
    stage.connection.execute("""
        CREATE TABLE submitted AS
        SELECT *, last_value(frequency) OVER (
            PARTITION BY claim, coverage_order ORDER BY submitted NULLS FIRST, _file, _row
            ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS last_frequency
        FROM submissions
        QUALIFY row_number() OVER (
            PARTITION BY claim, coverage_order ORDER BY submitted NULLS LAST, _file, _row) = 1
    """)
    again = """
        SELECT _file, _row, frequency IN ('6', '7', '8') AS replaces FROM submissions
        ANTI JOIN submitted USING (_file, _row)"""
    for replaces, reason in (
        (True, "837: a claim sent again as a replacement or to take it back (its first submission counts)"),
        (False, "837: duplicate claim id (the first submission counts)"),
    ):
        ((rows, file, segment),) = stage.ask(
            "SELECT count(*), arg_min(_file, (_file, _row)), arg_min(_row, (_file, _row)) "
            f"FROM ({again}) WHERE replaces = {replaces}"
        )
        stage.count(reason, rows, f"{file} segment {segment}")


def _payers_in_line(stage: Staging) -> None:
    """``answers``: remittances with the payer's place in line, from the status, else by payer, else by the claim."""
    names = "upper(regexp_replace(payer, '[^A-Za-z0-9]', '', 'g'))"
    keys = f"unnest(list_filter(['id ' || upper(payer_id), 'name ' || {names}], lambda k: k IS NOT NULL)) AS payer_key"
    stage.connection.execute(f"""
        CREATE TABLE answers AS
        WITH said AS (
            SELECT *, CASE WHEN status IN ('1', '19') THEN 1 WHEN status IN ('2', '20') THEN 2
                WHEN status IN ('3', '21') THEN 3 END AS stated
            FROM remits
        ),
        asked AS (
            SELECT claim, coverage_order, {keys} FROM submitted
            UNION SELECT claim, stated, {keys} FROM said WHERE stated IS NOT NULL
        ),
        unsaid AS (SELECT claim, _file, _row, {keys} FROM said WHERE stated IS NULL),
        by_payer AS (
            SELECT _file, _row, min(coverage_order) AS place
            FROM unsaid JOIN asked USING (claim, payer_key) GROUP BY ALL
        ),
        by_claim AS (SELECT claim, min(coverage_order) AS place FROM submitted GROUP BY claim)
        SELECT s.* EXCLUDE (stated), coalesce(s.stated, p.place, c.place, 1) AS coverage_order
        FROM said s LEFT JOIN by_payer p USING (_file, _row) LEFT JOIN by_claim c USING (claim)
    """)


def _decisions(stage: Staging, reasons: DenialReasons, count_forwarded: bool) -> None:
    """``decisions``: what each transaction set says of a claim (reversals apart), and what it amounts to (``class``).

    A payer may split a claim into several of one set; their charges and payments are added up.
    """
    forwarded = "status = '23'" + ("" if count_forwarded else " OR (status = '19' AND coalesce(paid <= 0, true))")
    stage.connection.execute(f"""
        CREATE TABLE decisions AS
        WITH kinds AS (
            SELECT *, CASE WHEN status = '22' THEN 'reversal' WHEN status = '25' THEN 'predetermination'
                WHEN status IN ({_listed(IN_PROCESS)}) THEN 'in process' WHEN {forwarded} THEN 'forwarded'
                ELSE 'adjudication' END AS kind
            FROM answers
        ),
        by_set AS (
            SELECT claim, coverage_order, set_number, kind, min(remit_date) AS remit_date, min(sent) AS sent,
                sum(charge) AS charge, sum(CASE WHEN kind = 'reversal' THEN -abs(paid) ELSE paid END) AS paid,
                list_sort(list_distinct(flatten(list(codes)))) AS codes, bool_and(readable) AS readable
            FROM kinds GROUP BY claim, coverage_order, set_number, kind
        ),
        parted AS (
            SELECT *, list_transform(codes, lambda c: split_part(c, '-', 2)) AS numbers,
                list_filter(codes, lambda c: c NOT IN ({_listed(reasons.settled)})) AS refusing
            FROM by_set
        )
        SELECT * EXCLUDE (numbers, refusing), CASE
            WHEN kind <> 'adjudication' THEN kind
            WHEN NOT readable OR paid < 0 THEN 'unreadable'
            WHEN charge <= 0 THEN 'zero charge'
            WHEN paid > 0 THEN 'paid'
            WHEN list_has_any(numbers, [{_listed(reasons.other_payer)}]) THEN 'another payer first'
            WHEN len(codes) > 0 AND len(refusing) = 0 THEN 'settled without payment'
            WHEN len(refusing) > 0 AND list_has_all([{_listed(reasons.not_a_decision)}], refusing) THEN 'duplicate'
            WHEN list_has_any(
                list_transform(
                    list_filter(refusing, lambda c: c NOT IN ({_listed(reasons.not_a_decision)})),
                    lambda c: split_part(c, '-', 2)),
                [{_listed(reasons.numbers)}]) THEN 'denied'
            ELSE 'no listed reason' END AS class
        FROM parted
    """)


def _outcomes(stage: Staging, feed_end: date | None, appeal_days: int) -> None:
    """``outcomes``: the first decision, and what the later remittances made of it."""
    through = f"'{feed_end}'::DATE" if feed_end else "NULL::DATE"
    stage.connection.execute(f"""
        CREATE TABLE outcomes AS
        WITH claims_known AS (
            SELECT claim, coverage_order FROM submitted UNION SELECT claim, coverage_order FROM decisions
        ),
        first_decisions AS (
            SELECT * FROM decisions
            WHERE kind = 'adjudication' AND class NOT IN ('another payer first', 'duplicate')
            QUALIFY row_number() OVER (
                PARTITION BY claim, coverage_order ORDER BY remit_date, sent NULLS FIRST, set_number) = 1
        ),
        sums AS (
            SELECT claim, coverage_order, min(remit_date) AS first_remit, max(remit_date) AS last_remit,
                sum(paid) AS net, max(charge) AS charge,
                arg_min(codes, (remit_date, sent, set_number)) AS first_codes
            FROM decisions WHERE kind NOT IN ('predetermination', 'in process') GROUP BY claim, coverage_order
        ),
        payments AS (
            SELECT d.claim, d.coverage_order, min(d.remit_date) AS paid_on
            FROM decisions d JOIN first_decisions f USING (claim, coverage_order)
            WHERE d.kind = 'adjudication' AND d.paid > 0
                AND (d.remit_date, d.set_number) <> (f.remit_date, f.set_number) AND d.remit_date >= f.remit_date
            GROUP BY ALL
        ),
        told AS (
            SELECT k.claim, k.coverage_order, t.first_remit, t.last_remit, t.net, p.paid_on, f.remit_date AS decided_on,
                coalesce(f.codes, t.first_codes, []) AS codes, coalesce(s.charge, f.charge, t.charge) AS charge,
                CASE
                    WHEN s.last_frequency = '8' THEN 'taken back by the hospital'
                    WHEN t.first_remit IS NULL THEN 'no answer'
                    WHEN k.coverage_order > 1 THEN CASE WHEN net > 0 THEN 'paid' ELSE 'not the primary payer' END
                    WHEN f.class IS NULL THEN 'no answer that decides'
                    WHEN f.class = 'paid' AND net <= 0 THEN 'paid, then taken back'
                    WHEN f.class <> 'denied' THEN f.class
                    WHEN net > 0 AND paid_on IS NOT NULL THEN 'denied, then paid'
                    WHEN t.last_remit + {appeal_days} <= {through} THEN 'denied, appeal window closed'
                    ELSE 'denied, appeal window open' END AS why
            FROM claims_known k
            LEFT JOIN submitted s USING (claim, coverage_order)
            LEFT JOIN first_decisions f USING (claim, coverage_order)
            LEFT JOIN sums t USING (claim, coverage_order)
            LEFT JOIN payments p USING (claim, coverage_order)
        )
        SELECT claim, coverage_order, why, first_remit, codes, charge, net AS paid,
            CASE
                WHEN why IN ('paid', 'settled without payment') THEN 'paid'
                WHEN why = 'denied, then paid' THEN 'denied_overturned'
                WHEN why = 'denied, appeal window closed' THEN 'denied_upheld'
                WHEN why IN ('no answer', 'denied, appeal window open') THEN 'pending'
                ELSE 'other' END AS final_status,
            CASE
                WHEN why = 'denied, then paid' THEN paid_on
                WHEN why = 'denied, appeal window closed' THEN last_remit
                WHEN why IN ('paid', 'settled without payment') THEN coalesce(decided_on, first_remit) END AS final_date
        FROM told
    """)


def _listed(values: tuple[str, ...]) -> str:
    """Texts as SQL literals; one that nothing equals where there are none."""
    return ", ".join(quoted(value) for value in values) or "''"
