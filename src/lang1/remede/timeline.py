"""Which time blocks the records can be cut into: true dates, true years where dates are shifted, or none."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from lang1.common.errors import InputError, SettingsError
from lang1.remede.card import Card
from lang1.remede.cohort import Facts, Unsupported, rows
from lang1.remede.settings import Blocks, BuildSettings, Calendar, NewestBlock

# An odd early date does not stretch the time span: it begins when this share of the stays had ended.
SPAN_FROM_QUANTILE = 0.01


@dataclass(frozen=True)
class Timeline:
    """The calendar of a benchmark, and how exactly its rows can be placed in it.

    Attributes:
        calendar: the blocks.
        by_year: rows are placed by the range of true years in which the encounter lies (``year_low, year_high``),
            since their dates are shifted; else by the end of the encounter.
    """

    calendar: Calendar
    by_year: bool

    def of(self, task: str) -> Blocks:
        """The blocks of a task."""
        return self.calendar.of(task)

    def pretraining_cut(self, tasks: Iterable[str]) -> datetime | None:
        """The first moment of the earliest temporal test of the tasks: text from before it may be pretrained on.

        None where dates are shifted: no note of theirs can be told to lie before it.
        """
        if self.by_year:
            return None
        starts = [block.begins for task in tasks for name, block in self.of(task).named().items() if name != "train"]
        return min(starts, default=None)


def timeline(facts: Facts, settings: BuildSettings, cards: Iterable[Card]) -> Timeline | None:
    """The time blocks of a build, or None where rows are split without regard to time; says why in a notice.

    Raises:
        SettingsError: ``time-only`` without dates.
        InputError: the calendar is to follow from records that span too little time.
    """
    basis = facts.meta.time_basis
    asked = settings.blocks()
    found: Timeline | None = None
    if basis == "calendar" and asked is not None:
        found = Timeline(_newest_by_date(facts, asked, cards) if isinstance(asked, NewestBlock) else asked, False)
    if settings.policy == "time-only" and found is None:
        raise SettingsError("policy time-only needs time blocks: a calendar, and records with time_basis calendar.")
    if basis in ("shifted", "within_stay") and asked is not None:
        found = _by_year(facts, asked)
    elif found is None and basis != "calendar":
        facts.note(f"No time blocks: time_basis is {basis}. Splits are by patient.")
    return found


def _by_year(facts: Facts, asked: Calendar | NewestBlock) -> Timeline | None:
    basis = facts.meta.time_basis
    stays: list[tuple[int, int, int]] = rows(
        facts.connection,
        "SELECT year_low, year_high, count(*) FROM encounters WHERE encounter_class = 'inpatient' "
        "AND year_low IS NOT NULL AND year_high IS NOT NULL GROUP BY ALL ORDER BY ALL",
    )
    ranges = [(low, high) for low, high, _ in stays]
    if not ranges:
        facts.note(f"No time blocks: time_basis is {basis}. Splits are by patient.")
        return None
    calendar = _newest_by_year(facts, asked, stays) if isinstance(asked, NewestBlock) else asked
    blocks = [block for part in (calendar, *calendar.tasks.values()) for block in list(part.named().values())[1:]]
    tests = blocks or [calendar.train]
    if not any(b.start <= date(low, 1, 1) and date(high, 12, 31) <= b.end for low, high in ranges for b in tests):
        facts.note(
            f"No time blocks: time_basis is {basis}, and no range of true years ({ranges[0][0]} to {ranges[-1][1]}) "
            "lies within a temporal test of the calendar. Splits are by patient; calendar=auto takes as many of the "
            "newest years as ranges of theirs need."
        )
        return None
    facts.note(
        f"time_basis is {basis}: rows are placed in the calendar by the true years of their encounter, and pretraining "
        "is kept from held-out patients but not from the test period, since no note's true date is known."
    )
    return Timeline(calendar, True)


def _newest_by_date(facts: Facts, asked: NewestBlock, cards: Iterable[Card]) -> Calendar:
    cards = list(cards)
    ((first, span_from, last),) = rows(
        facts.connection,
        f"SELECT min(ends)::DATE, quantile_disc(ends, {SPAN_FROM_QUANTILE})::DATE, max(ends)::DATE FROM ("
        "SELECT coalesce(discharge_time, admit_time) AS ends FROM encounters WHERE encounter_class = 'inpatient')",
    )
    if last is None:
        raise InputError(f"{facts.records.path}: no inpatient encounter has a date, so no calendar follows from them.")
    declared = facts.meta.complete_through.get("encounters")
    end: date = declared.through.date() if declared is not None else last
    if asked.last_months is not None:
        start = _months_before(end + timedelta(days=1), asked.last_months)
    else:
        share = end - (end - span_from) * asked.last_share
        latest = [end, *filter(None, (_last_labelled(facts, card) for card in cards))]
        start = min(share, _months_before(min(latest) + timedelta(days=1), asked.least_months)).replace(day=1)
    gap = max((card.horizon_days or 0 for card in cards), default=0)
    train_end = start - timedelta(days=1 + gap)
    if train_end <= first:
        raise InputError(
            f"{facts.records.path}: inpatient stays end between {first} and {end}, too short a time for a newest block "
            f"from {start} and a gap of {gap} days before it; set a smaller last_months, or calendar=null."
        )
    return Calendar.model_validate(
        {"train": {"start": first, "end": train_end}, "test_newest": {"start": start, "end": end}}
    )


def _last_labelled(facts: Facts, card: Card) -> date | None:
    try:
        last = facts.last_complete(card)
    except Unsupported:
        return None
    return last.date() if last is not None else None


def _newest_by_year(facts: Facts, asked: NewestBlock, stays: list[tuple[int, int, int]]) -> Calendar:
    """The newest years, ``stays`` being counted by the first and the last year in which they may lie.

    A share of the years alone would hold next to nothing where stays are known to three years only (the groups of
    MIMIC, moved by the patient's own years): of their newest three, one stay in hundreds surely lies within. So years
    are added until the block surely holds that share of the stays, as long as a range of years is left to train on.
    """
    first, last = min(low for low, _, _ in stays), max(high for _, high, _ in stays)
    years = last - first + 1
    if asked.last_months is not None:
        newest = -(-asked.last_months // 12)
    else:
        newest = max(-(-asked.least_months // 12), round(asked.last_share * years))
    if newest >= years:
        raise InputError(
            f"{facts.records.path}: its true years are {first} to {last}, too few for {newest} newest ones after a "
            "train block; set calendar=null."
        )
    start = last - newest + 1
    if asked.last_months is None:
        wanted = asked.last_share * sum(n for _, _, n in stays)
        for earlier in range(start, first, -1):
            if not any(high < earlier for _, high, _ in stays):
                break
            start = earlier
            if sum(n for low, _, n in stays if low >= earlier) >= wanted:
                break
    return Calendar.model_validate(
        {
            "train": {"start": date(first, 1, 1), "end": date(start - 1, 12, 31)},
            "test_newest": {"start": date(start, 1, 1), "end": date(last, 12, 31)},
        }
    )


def _months_before(day: date, months: int) -> date:
    """The same day of an earlier month, or that month's last."""
    month = day.year * 12 + day.month - 1 - months
    first = date(month // 12, month % 12 + 1, 1)
    last = (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)
    return first.replace(day=min(day.day, last.day))
