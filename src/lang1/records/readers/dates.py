"""What a date without a time of day stands for, and ISO 8601 times as SQL."""

from __future__ import annotations

from typing import Literal

DayPart = Literal["start_of_day", "end_of_day"]

# Inputs of a model count as late as they can, so that nothing is read too soon; outcomes as early as they can.
DATE_ONLY: dict[str, DayPart] = {
    "admit_time": "start_of_day",
    "discharge_time": "end_of_day",
    "death_time": "start_of_day",
    "created_time": "end_of_day",
    "signed_time": "end_of_day",
    "available_time": "end_of_day",
    "submitted_time": "start_of_day",
    "first_remit_time": "start_of_day",
    "final_time": "start_of_day",
    "in_time": "end_of_day",
    "out_time": "end_of_day",
    "performed_time": "end_of_day",
}

BARE_DATE = r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}"
# A time of day with a UTC offset at its end.
OFFSET = r"[0-9]{2}:?[0-9]{2}(:[0-9.]+)? ?(Z|[+-][0-9]{2}(:?[0-9]{2})?)$"
LAST_SECOND = "INTERVAL 86399 SECONDS"


def iso_time(column: str, part: DayPart) -> str:
    """SQL: an ISO 8601 text as local time, a bare date as the start or the end of its day; null for anything else.

    A time with a UTC offset is null too: it is not known to be local hospital time.
    """
    day = f"try_cast({column} AS TIMESTAMP)" + (f" + {LAST_SECOND}" if part == "end_of_day" else "")
    return (
        f"CASE WHEN regexp_full_match({column}, '{BARE_DATE}') THEN {day} "
        f"WHEN NOT regexp_matches({column}, '{OFFSET}') THEN try_cast({column} AS TIMESTAMP) END"
    )
