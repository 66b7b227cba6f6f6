"""30-day readmission, asked when the first signed discharge note is available.

Contiguous transfers are merged into one episode, whose last leg is the index (clinical measures merge the same way; the
thresholds are the card's). The horizon is counted from discharge, the outcome window opens at the prediction time, and
the first return alone decides. The variants (every return in hours, or unplanned returns in calendar days) are cards.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from lang1.common.settings import Settings
from lang1.remede.card import Card
from lang1.remede.cohort import (
    Facts,
    Known,
    Rule,
    censoring_rules,
    exclusion_rules,
    first_note,
    in_departments,
    note_rules,
    prediction_time,
)
from lang1.remede.tasks.cohort_of import Cohort, constants, need_times
from lang1.remede.tasks.deaths import create_deaths, vital_rules
from lang1.remede.tasks.planned import create_plans, read_planned_tables


class Constants(Settings):
    """What makes two stays one episode, which admissions are returns, and what a death does.

    Attributes:
        clock: ``hours`` compares times, ``days`` dates, as measures on claims do; the horizon then ends with a day.
        transfer_hours: most hours between a discharge to another acute hospital and the next admission (clock hours).
        contiguous_hours: most hours between a discharge and an admission at another facility, whatever the disposition
            (clock hours). With clock days, the same or the next day at another facility continues the episode, and so
            does the same day at the same facility for a principal diagnosis of the same category.
        returns_ignore_departments: admissions to departments with these words are no returns (none in the paper).
        not_acute_departments: stays in departments with these words are no index, no leg and no return.
        returns: ``all``, or ``unplanned``: where the first return is planned there is no outcome, whatever follows.
        planned_tables: folder of the user's tables (``planned.py``); null takes elective admissions for planned.
        urgent_overrides_planned: an emergency or urgent admission is unplanned, whatever its codes say.
        impossible_dates: ``leave_out`` an index whose stay overlaps another one by a day or more, or whose patient is
            admitted again on a day after the recorded death; ``keep`` takes both as they come.
        death_without_return: ``negative`` counts a death within the horizon and without a return as 0, ``exclude``
            leaves it out, ``composite`` counts death within the horizon like a return.
        death_known_days_after_last_discharge: as in the card of mortality; asked by ``exclude`` and ``composite`` only.
    """

    clock: Literal["hours", "days"] = "hours"
    transfer_hours: int | None = Field(default=None, ge=0)
    contiguous_hours: int | None = Field(default=None, ge=0)
    returns_ignore_departments: tuple[str, ...] = ()
    not_acute_departments: tuple[str, ...] = ()
    returns: Literal["all", "unplanned"] = "all"
    planned_tables: Path | None = None
    urgent_overrides_planned: bool = False
    impossible_dates: Literal["keep", "leave_out"] = "keep"
    death_without_return: Literal["negative", "exclude", "composite"] = "negative"
    death_known_days_after_last_discharge: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _of_one_clock(self) -> Self:
        hours = (self.transfer_hours, self.contiguous_hours)
        if self.clock == "hours" and None in hours:
            raise ValueError("clock hours needs transfer_hours and contiguous_hours")
        if self.clock == "days" and hours != (None, None):
            raise ValueError("clock days compares dates: leave out transfer_hours and contiguous_hours")
        return self


def cohort(card: Card, facts: Facts) -> Cohort:
    """One row an inpatient encounter; ``value`` is 1 for a return in (prediction time, horizon end] that counts.

    Raises:
        Unsupported: records without times; or a policy on deaths that needs a source of them.
        SettingsError: unknown constants, or tables of planned returns that cannot be used.
    """
    need_times(card, facts, across=True)
    assert card.horizon_days is not None
    own = constants(card, Constants)
    deaths_known = []
    if own.death_without_return != "negative":
        deaths_known = vital_rules(card, facts, own.death_known_days_after_last_discharge)
    create_deaths(facts)
    _create_plans(card, facts, own)
    _create_episodes(facts, own)
    # A stay that begins at or before the prediction time is not ahead of it: the first later return decides both rules.
    # Before the note rules, rows without a note are counted with the discharge in its place.
    if own.clock == "hours":
        horizon_end = f"s.discharge_time + INTERVAL {card.horizon_days} DAY"
    else:
        horizon_end = f"s.discharge_day + INTERVAL {card.horizon_days + 1} DAY - INTERVAL 1 SECOND"
    died = "OR died_in_horizon" if own.death_without_return == "composite" else ""
    facts.connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE candidates AS
        WITH first_note AS ({first_note(card, facts.timed)}),
        asked AS (
            SELECT s.*, n.note_id, n.usable_at, {prediction_time(card)} AS prediction_time,
                {horizon_end} AS horizon_end, d.dead_at, d.died_day, d.last_discharge,
                -- A death before the discharge that the stay itself does not know is an error of some other row.
                CASE WHEN d.dead_at > s.discharge_time THEN d.dead_at END AS died_after_stay
            FROM legs s LEFT JOIN first_note n USING (encounter_id) LEFT JOIN deaths d USING (patient_id)
        ),
        followed AS (
            SELECT *, coalesce(next_admission > coalesce(prediction_time, discharge_time)
                    AND next_admission <= horizon_end, false) AS returned,
                coalesce(dead_at > prediction_time AND dead_at <= horizon_end, false) AS died_in_horizon
            FROM asked
        )
        SELECT *, discharge_time AS index_time, discharge_time AS end_time, NULL::INTEGER AS given_class,
            CASE WHEN discharge_time IS NOT NULL AND last_leg
                THEN ((returned AND NOT next_planned) {died})::INTEGER END::DOUBLE AS value,
            died_in_horizon AND coalesce(next_admission > horizon_end, true) AS died_without_return
        FROM followed
    """)
    rules = [Rule("the time of admission is known", "admit_time IS NOT NULL")]
    if own.not_acute_departments:
        rules.append(Rule(f"an acute stay: department is none of {', '.join(own.not_acute_departments)}", "acute"))
    rules += [
        # Whether the care goes on elsewhere shows only afterwards; a leg that is not the last has no return of its own.
        Rule(f"the last leg of its episode ({_episode_words(own)})", "last_leg", reads="observability"),
        Rule("discharged by the end of the data", "discharge_time IS NOT NULL"),
        Rule("discharged alive", "NOT died_in_hospital"),
        *exclusion_rules(card),
        *_censoring(card, facts, own),
        *note_rules(card, facts),
        Rule("not back in hospital before the note was available", "coalesce(next_admission > prediction_time, true)"),
        Rule(
            "alive when the note became available",
            "coalesce(died_at > prediction_time, true) AND coalesce(died_after_stay > prediction_time, true)",
        ),
        *deaths_known,
    ]
    if own.impossible_dates == "leave_out":
        rules += [
            Rule("no leg overlaps another stay by a day or more (impossible dates)", "NOT overlapping"),
            Rule(
                "no return on a day after the recorded death (impossible dates)",
                "NOT (returned AND coalesce(next_admission::DATE > died_day, false))",
                reads="observability",
            ),
        ]
    if own.planned_tables is not None:
        rules.append(
            Rule("principal diagnosis in no excluded category (coded later)", "NOT excluded", reads="observability")
        )
    if own.death_without_return == "exclude":
        rules.append(Rule("did not die within the horizon without a return", "NOT died_without_return", reads="policy"))
    known: dict[str, Known] = {"acute": "admission", "overlapping": "discharge"}
    return Cohort("inpatient encounters", rules, known | {"next_admission": "after", "died_after_stay": "after"})


def _episode_words(own: Constants) -> str:
    if own.clock == "hours":
        return f"contiguous stays, or transfers within {own.transfer_hours} hours, are one"
    return "the same or next day elsewhere, or the same day and diagnosis category at the same facility, are one"


def _censoring(card: Card, facts: Facts, own: Constants) -> list[Rule]:
    """The symmetric rule of the card; with clock days the last day of the horizon must be complete to its end."""
    if own.clock == "hours":
        return censoring_rules(card, facts)
    last = facts.last_complete(card)
    if last is None:
        return []
    return [
        Rule(
            f"discharge day and the observation after it inside the complete data (day over by {last:%Y-%m-%d %H:%M})",
            f"discharge_day + INTERVAL 1 DAY - INTERVAL 1 SECOND <= TIMESTAMP '{last}'",
            reads="censoring",
        )
    ]


def _create_plans(card: Card, facts: Facts, own: Constants) -> None:
    """Create ``plans``; it stays empty where the card asks neither for planned returns nor for diagnosis categories."""
    if own.returns == "all" and own.clock == "hours":
        facts.connection.execute("""
            CREATE OR REPLACE TEMP TABLE plans
            (encounter_id VARCHAR, principal VARCHAR[], planned BOOLEAN, excluded BOOLEAN)
        """)
        return
    tables = read_planned_tables(own.planned_tables) if own.planned_tables is not None else None
    if tables is None and own.returns == "unplanned":
        facts.note(
            f"Task '{card.task}': no constants.planned_tables, so a return counts as planned if its admission type is "
            "elective, and diagnosis categories are the first three characters of a code."
        )
    create_plans(facts, tables, urgent_overrides=own.urgent_overrides_planned)
    if own.returns == "all":
        facts.connection.execute("UPDATE plans SET planned = false")


def _create_episodes(facts: Facts, own: Constants) -> None:
    """Create ``legs``: stays with ``last_leg``, and ``next_admission`` and ``next_planned`` of the next episode.

    ``acute`` is false for stays in departments that are no acute care, ``overlapping`` true where legs of the episode
    overlap by a day or more, ``excluded`` where the principal diagnosis is on that list.
    """
    facts.connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE stays_with_plans AS
        SELECT s.*, p.principal, coalesce(p.planned, false) AS planned, coalesce(p.excluded, false) AS excluded,
            NOT {in_departments(own.not_acute_departments)} AS acute
        FROM stays s LEFT JOIN plans p USING (encounter_id)
    """)
    # Of all earlier stays the one that ended last: over all of them, since extracts hold nested stays. A struct's
    # maximum compares its fields in turn, so that ties have one answer. A stay without a discharge binds no later one.
    facts.connection.execute("""
        CREATE OR REPLACE TEMP TABLE stays_in_order AS
        WITH numbered AS (
            SELECT *, row_number() OVER (
                PARTITION BY patient_id ORDER BY admit_time, discharge_time NULLS LAST, encounter_id) AS nth
            FROM stays_with_plans WHERE acute AND admit_time IS NOT NULL
        )
        SELECT *, max({'ends': discharge_time, 'nth': nth, 'disposition': disposition, 'facility': facility,
                'principal': principal}) FILTER (discharge_time IS NOT NULL)
            OVER (PARTITION BY patient_id ORDER BY nth ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS earlier
        FROM numbered
    """)
    # The transfer rule: the stay continues the one before it.
    if own.clock == "hours":
        continues = f"""
                admit_time <= earlier.ends
                OR (earlier.disposition = 'transfer_acute'
                    AND admit_time <= earlier.ends + INTERVAL {own.transfer_hours} HOUR)
                OR (facility <> earlier.facility
                    AND admit_time <= earlier.ends + INTERVAL {own.contiguous_hours} HOUR)"""
    else:
        continues = """
                admit_day < earlier.ends::DATE
                -- the same or the next day, elsewhere; where a facility is unknown the disposition says so
                OR (admit_day <= earlier.ends::DATE + 1 AND (facility <> earlier.facility
                    OR (earlier.disposition = 'transfer_acute' AND (facility IS NULL OR earlier.facility IS NULL))))
                -- the same day at the same facility for the same condition
                OR (admit_day = earlier.ends::DATE AND coalesce(facility = earlier.facility, true)
                    AND list_has_any(principal, earlier.principal))"""
    facts.connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE stays_in_episodes AS
        SELECT *, sum((NOT continues)::INTEGER) OVER (PARTITION BY patient_id ORDER BY nth) AS episode
        FROM (
            SELECT *, coalesce({continues}, false) AS continues,
                coalesce(admit_day < earlier.ends::DATE, false) AS begins_inside
            FROM stays_in_order)
    """)
    ignored = in_departments(own.returns_ignore_departments)
    facts.connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE legs AS
        WITH episodes AS (
            SELECT patient_id, episode, bool_or(begins_inside) AS overlapping,
                min({{'at': admit_time, 'nth': nth, 'planned': planned}}) FILTER (NOT {ignored}) AS starts
            FROM stays_in_episodes GROUP BY patient_id, episode
        ),
        followed AS (
            SELECT patient_id, episode, overlapping, min(starts) OVER (PARTITION BY patient_id ORDER BY episode
                ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING) AS next
            FROM episodes
        )
        SELECT s.* EXCLUDE (earlier, continues, begins_inside), f.next.at AS next_admission,
            coalesce(f.next.planned, false) AS next_planned, f.overlapping,
            row_number() OVER (PARTITION BY s.patient_id, s.episode
                ORDER BY s.discharge_time DESC NULLS FIRST, s.nth DESC) = 1 AS last_leg
        FROM stays_in_episodes s JOIN followed f USING (patient_id, episode)
        UNION ALL BY NAME
        SELECT *, false AS last_leg, false AS overlapping, false AS next_planned
        FROM stays_with_plans WHERE NOT acute OR admit_time IS NULL
    """)
