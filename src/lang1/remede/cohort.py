"""The machinery of cohorts: shared facts as tables, rules as SQL predicates, and the attrition ledger.

A task makes a table ``candidates`` with one row a possible example::

    encounter_id, patient_id, note_id, prediction_time, index_time, end_time, horizon_end, value, given_class, …

``end_time`` places the row in the calendar, ``horizon_end`` says when its outcome is known, ``value`` is the number
from which the class follows (0/1, or what the cut-points bin) and is null where the outcome cannot be observed. Then
each rule keeps the rows for which its predicate is true. Which rule left a row out is kept in ``left_out``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, TypedDict

import duckdb

from lang1.common.errors import InputError, SettingsError
from lang1.records.schema import DISPOSITIONS
from lang1.records.store import Records, RecordsMeta
from lang1.remede.card import Card

# A time at midnight sharp is a bare date: the source knows the day only. As input it counts from the end of that day.
END_OF_DAY = "CASE WHEN {t} = date_trunc('day', {t}) THEN {t} + INTERVAL 1 DAY - INTERVAL 1 MICROSECOND ELSE {t} END"

# Dispositions that say that the patient left alive; "other" and "unknown" do not.
LIVING = tuple(name for name in DISPOSITIONS if name not in ("expired", "other", "unknown"))


class Unsupported(InputError):
    """The records cannot support a task: an error where it was asked for, else it is left aside with a notice."""


class Mark(TypedDict):
    """A task that was built although the records do not support it, and what they lack."""

    task: str
    reason: str


# What a rule may read. ``eligibility``: only what is available at the prediction time, as ``lint.py`` proves. The
# others look ahead and say so. ``censoring``: the anchor alone, so that it treats all outcomes alike.
# ``observability``: whether the label can be known (no codes, an unresolved claim). ``policy``: a named way with a
# competing event (a death in hospital under length of stay). For the last two each row left out is counted and compared
# with those that stay.
Reads = Literal["eligibility", "censoring", "observability", "policy"]

# When a column is known: on admission, when the question is asked, at discharge, or only afterwards.
Known = Literal["admission", "prediction", "discharge", "after"]


@dataclass(frozen=True)
class Rule:
    """One rule: in plain words, and as an SQL predicate on ``candidates`` that is true for the rows that stay.

    In the predicate, ``asked`` names the row where a subquery needs to.
    """

    words: str
    keep: str
    reads: Reads = "eligibility"


@dataclass
class Facts:
    """What is known of the records while a benchmark is built.

    Attributes:
        records: the records.
        connection: where the tables of the build live.
        mark_unsupported: tasks that are built, and marked, although the records do not support them.
        notices: lines for the user that belong to the benchmark (kept in its manifest).
        marks: what the records lack, of tasks that are built all the same.
        observability: by task, what ``observability.compare`` found.
    """

    records: Records
    connection: duckdb.DuckDBPyConnection
    mark_unsupported: tuple[str, ...] | Literal["all"] = ()
    notices: list[str] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    observability: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def meta(self) -> RecordsMeta:
        return self.records.meta

    @property
    def timed(self) -> bool:
        """Whether rows have times at all, be they only true within one stay."""
        return self.meta.time_basis in ("calendar", "shifted", "within_stay")

    def note(self, text: str) -> None:
        """Keep a notice once."""
        if text not in self.notices:
            self.notices.append(text)

    def lacks(self, card: Card, reason: str) -> None:
        """Refuse a task for what the records lack, or mark it where the user wants it all the same.

        Raises:
            Unsupported: it is not to be marked.
        """
        if self.mark_unsupported != "all" and card.task not in self.mark_unsupported:
            raise Unsupported(
                f"{self.records.path}: task '{card.task}' is not supported: {reason}. To build it all the same, marked "
                f"in every report, set mark_unsupported=[{card.task}]."
            )
        if Mark(task=card.task, reason=reason) not in self.marks:
            self.marks.append(Mark(task=card.task, reason=reason))
        self.note(f"Task '{card.task}' is not supported by these records: {reason}.")

    def last_complete(self, card: Card) -> datetime | None:
        """The latest anchor (admission or discharge) that a counted stay may have; null where there is no calendar.

        Raises:
            Unsupported: a calendar without the declaration that the rule needs.
        """
        if self.meta.time_basis != "calendar":
            whose = "stay" if self.meta.time_basis == "within_stay" else "patient"
            self.note(f"Dates are shifted by {whose}, so censoring at the end of the data cannot be applied.")
            return None
        censoring, limits = card.censoring, []
        for position, table in enumerate(censoring.tables):
            complete = self.meta.complete_through.get(table)
            if complete is None:
                if position == 0:
                    self.lacks(
                        card,
                        f"the manifest does not say through when '{table}' is complete; declare "
                        f"complete_through.{table} when the records are made",
                    )
                continue
            days = censoring.observation_days
            if complete.key == "discharge_time" and table == "encounters":
                days += censoring.open_stay_allowance_days
            limits.append(complete.through - timedelta(days=days))
        return min(limits, default=None)


def prepare(facts: Facts) -> None:
    """Create ``stays`` (inpatient encounters and their patient's death) and ``first_versions`` (notes, no addenda)."""
    living = ", ".join(literal(name) for name in LIVING)
    # Days are compared with days where the death or the discharge is a bare date.
    facts.connection.execute(f"""
        CREATE TEMP TABLE stays AS
        WITH joined AS (
            SELECT e.encounter_id, e.patient_id, e.admit_time, e.discharge_time, e.disposition, e.department,
                e.facility, e.admission_type, e.admission_source, e.payer, e.age_at_admission,
                p.death_time, p.death_time::DATE AS death_day, e.admit_time::DATE AS admit_day,
                e.discharge_time::DATE AS discharge_day,
                coalesce(e.disposition IN ({living}), false) AS left_alive,
                coalesce(p.death_time = date_trunc('day', p.death_time)
                    OR e.discharge_time = date_trunc('day', e.discharge_time), false) AS by_day
            FROM encounters e LEFT JOIN patients p USING (patient_id)
            WHERE e.encounter_class = 'inpatient'
        )
        SELECT *,
            coalesce(disposition = 'expired', false) OR coalesce(CASE
                WHEN by_day THEN death_day BETWEEN admit_day AND discharge_day
                    AND NOT (left_alive AND death_day = discharge_day)
                ELSE death_time BETWEEN admit_time AND discharge_time END, false) AS died_in_hospital,
            -- A death known by its day only is taken at the start of that day, or at discharge if that is what it was.
            CASE WHEN disposition = 'expired' AND (death_time IS NULL OR death_day = discharge_day AND by_day)
                THEN discharge_time ELSE death_time END AS died_at
        FROM joined
    """)
    facts.connection.execute(f"""
        CREATE TEMP TABLE first_versions AS
        SELECT note_id, encounter_id, note_type, {END_OF_DAY.format(t="available_time")} AS available_time,
            {END_OF_DAY.format(t="signed_time")} AS signed_time
        FROM notes
        WHERE encounter_id IS NOT NULL AND parent_note_id IS NULL
    """)
    ((bare,),) = rows(
        facts.connection,
        "SELECT count(*) FROM notes WHERE available_time = date_trunc('day', available_time) "
        "OR signed_time = date_trunc('day', signed_time)",
    )
    if bare:
        facts.note(
            f"{bare} notes became available or were signed at midnight: read as a day, which counts from its end."
        )


def first_note(card: Card, timed: bool) -> str:
    """SQL: ``encounter_id, note_id, usable_at`` of each encounter's first note of the card's type.

    Addenda are not first notes, nor, with ``timed``, notes without a known availability or outside the hours after
    admission that the card sets. A note that must be signed is usable from its signing.
    """
    signed = card.note_signed and timed
    usable = "greatest(available_time, signed_time)" if signed else "available_time"
    known = ("AND available_time IS NOT NULL " if timed else "") + ("AND signed_time IS NOT NULL" if signed else "")
    asked = card.prediction
    bounds = ((">=", asked.from_hours), ("<", asked.before_hours))
    hours = [f"{usable} {sign} admit_time + INTERVAL {n} HOUR" for sign, n in bounds if n is not None and timed]
    within = " AND ".join(["", *hours])
    of = "first_versions JOIN (SELECT encounter_id, admit_time FROM stays) USING (encounter_id)"
    return f"""
        SELECT encounter_id, note_id, {usable} AS usable_at FROM {of if hours else "first_versions"}
        WHERE note_type = {literal(card.note_type)} {known} {within}
        QUALIFY row_number() OVER (PARTITION BY encounter_id ORDER BY usable_at NULLS LAST, note_id) = 1
    """


def prediction_time(card: Card, note: str = "n", stay: str = "s") -> str:
    """SQL: when the task is asked, null without a note."""
    earliest = f"{stay}.admit_time" if card.prediction.earliest == "admission" else f"{stay}.discharge_time"
    return f"CASE WHEN {note}.usable_at IS NOT NULL THEN greatest({note}.usable_at, {earliest}) END"


def note_rules(card: Card, facts: Facts) -> list[Rule]:
    """The rules about the note and the prediction time, from the card."""
    if not facts.timed:
        return [Rule(f"has a {card.note_type.replace('_', ' ')} note", "note_id IS NOT NULL")]
    return timed_note_rules(card)


def timed_note_rules(card: Card) -> list[Rule]:
    """The rules about the note and the prediction time where records have times."""
    kind = card.note_type.replace("_", " ")
    signed = "signed " if card.note_signed else ""
    bounds = (("at least", card.prediction.from_hours), ("less than", card.prediction.before_hours))
    bounded = " and ".join(f"{said} {number} hours" for said, number in bounds if number is not None)
    when = f", available {bounded} after admission" if bounded else ""
    words = f"has a {signed}{kind} note (no addendum) with a known time of availability{when}"
    rules = [Rule(words, "note_id IS NOT NULL")]
    hours = card.prediction.latest_hours_after_discharge
    if hours is not None:
        rules.append(
            Rule(
                f"the note was available at most {hours} hours after discharge",
                f"usable_at <= discharge_time + INTERVAL {hours} HOUR",
            )
        )
    if card.prediction.in_hospital:
        rules.append(
            Rule(
                "alive and in hospital when the note became available",
                "coalesce(discharge_time > prediction_time, true) AND coalesce(died_at > prediction_time, true)",
            )
        )
    return rules


def exclusion_rules(card: Card) -> list[Rule]:
    """The card's exclusions by disposition and department."""
    rules = []
    if card.exclusions.dispositions:
        names = ", ".join(card.exclusions.dispositions)
        listed = ", ".join(literal(name) for name in card.exclusions.dispositions)
        rules.append(Rule(f"not discharged to: {names}", f"coalesce(disposition NOT IN ({listed}), true)"))
    if card.exclusions.departments:
        names = ", ".join(card.exclusions.departments)
        rules.append(Rule(f"department is none of: {names}", f"NOT {in_departments(card.exclusions.departments)}"))
    return rules


def own_rules(card: Card) -> list[Rule]:
    """The rules that the card states in SQL."""
    return [
        *(Rule(one.words, one.keep) for one in card.eligibility),
        *(Rule(one.words, one.keep, reads="observability") for one in card.observability),
        *(Rule(one.words, one.keep, reads="policy") for one in card.policies),
    ]


def in_departments(words: Iterable[str], column: str = "department") -> str:
    """SQL: whether a department's name contains one of the words, case ignored; unknown departments do not."""
    asked = " OR ".join(f"contains(lower({column}), {literal(word.lower())})" for word in words)
    return f"coalesce({asked or 'false'}, false)"


def censoring_rules(card: Card, facts: Facts) -> list[Rule]:
    """The symmetric rule: whether a stay counts depends on its anchor only, never on what happened."""
    last = facts.last_complete(card)
    if last is None:
        return []
    anchor = "admit_time" if card.censoring.anchor == "admission" else "discharge_time"
    kind = card.censoring.anchor
    words = f"{kind} and the observation after it inside the complete data ({kind} by {last:%Y-%m-%d %H:%M})"
    return [Rule(words, f"{anchor} <= {literal(last.isoformat(sep=' '))}::TIMESTAMP", reads="censoring")]


def rows(connection: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[Any, ...]]:
    """All rows of a query; a result that is not read to its end would block the connection."""
    return list(connection.execute(sql).fetchall())


def literal(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def label_sql(card: Card) -> str:
    """SQL: the class index from ``given_class`` or ``value``; null where the outcome is not observable."""
    if card.cut_points is None:
        return "coalesce(given_class, value::INTEGER)"
    binned = " + ".join(f"(value > {point})::INTEGER" for point in card.cut_points)
    return f"coalesce(given_class, {binned})"


class Ledger:
    """The attrition ledger: what remains after each rule. Outcomes are rows of class 1, or of the highest class."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.connection = connection
        self.rows: list[dict[str, Any]] = []
        connection.execute(
            'CREATE OR REPLACE TEMP TABLE left_out (task VARCHAR, encounter_id VARCHAR, "order" INTEGER)'
        )

    def start(self, card: Card, words: str) -> None:
        """Begin a task's ledger with all of ``candidates``; they are copied to ``remaining``."""
        self.connection.execute("CREATE OR REPLACE TEMP TABLE remaining AS SELECT * FROM candidates")
        self.rows = [row for row in self.rows if row["task"] != card.task]
        self.connection.execute("DELETE FROM left_out WHERE task = ?", [card.task])
        self._count(card, words)

    def apply(self, card: Card, rules: Iterable[Rule]) -> None:
        """Keep in ``remaining`` the rows for which each rule in turn is true; a null is not true."""
        for rule in rules:
            order = self._next(card.task)
            try:
                self._leave_out(card, rule, order)
            except (duckdb.ProgrammingError, duckdb.DataError) as error:
                why = str(error).splitlines()[0]
                raise SettingsError(f"{card.task}.yaml: rule '{rule.words}': {why}.") from error
            self._count(card, rule.words)

    def _leave_out(self, card: Card, rule: Rule, order: int) -> None:
        self.connection.execute(
            f"INSERT INTO left_out SELECT '{card.task}', encounter_id, {order} FROM remaining AS asked "
            f"WHERE ({rule.keep}) IS NOT TRUE"
        )
        self.connection.execute(f"DELETE FROM remaining AS asked WHERE ({rule.keep}) IS NOT TRUE")

    def _next(self, task: str) -> int:
        return sum(row["task"] == task for row in self.rows)

    def _count(self, card: Card, words: str) -> None:
        ((kept, patients, outcomes),) = rows(
            self.connection,
            f"SELECT count(*), count(DISTINCT patient_id), count(*) FILTER ({label_sql(card)} = {card.classes - 1}) "
            "FROM remaining",
        )
        order = self._next(card.task)
        self.rows.append(
            {"task": card.task, "order": order, "rule": words, "rows": kept, "patients": patients, "outcomes": outcomes}
        )
