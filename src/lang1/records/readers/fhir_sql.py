"""SQL that the parts of the FHIR reader share: times, references by identifier, copies of one resource."""

from __future__ import annotations

from collections.abc import Iterable

import duckdb

from lang1.common.errors import InputError, SettingsError
from lang1.records.readers.dates import BARE_DATE, LAST_SECOND, OFFSET
from lang1.records.readers.staging import Staging
from lang1.records.store import quoted

IN_UTC = r"[0-9]T[0-9:.]+(Z|[+-]00:?00)$"
# The times whose days decide labels, by relation.
TIMES = {
    "encounters_read": ("starts", "ends"),
    "patients_read": ("died",),
    "documents": ("dated", "attested"),
    "claims_read": ("created",),
    "responses": ("created",),
    "encounter_locations": ("starts", "ends"),
}


def create_moment(connection: duckdb.DuckDBPyConnection, time_zone: str | None) -> None:
    """Create the macros ``moment(value, late)`` and ``moment_of_end(starts, ends)``: local times, else null.

    What is known to the day, month or year only stands for its first moment, or with ``late`` for its last second. A
    time with an offset is converted to ``time_zone``; without one its wall time counts.

    Raises:
        SettingsError: there is no such zone.
    """
    wall = "try_cast(regexp_replace(value, ' ?(Z|[+-][0-9]{2}(:?[0-9]{2})?)$', '') AS TIMESTAMP)"
    if time_zone is not None:
        zone = quoted(time_zone)
        try:
            connection.execute(f"SELECT timezone({zone}, TIMESTAMPTZ '2024-01-01 00:00:00+00')").fetchall()
        except duckdb.Error as error:
            raise SettingsError(f"time_zone is '{time_zone}': {str(error).splitlines()[0]}") from error
        wall = f"timezone({zone}, try_cast(value AS TIMESTAMPTZ))"
    last = {"year": "INTERVAL 1 YEAR - INTERVAL 1 SECOND", "month": "INTERVAL 1 MONTH - INTERVAL 1 SECOND"}
    early = {"year": "try_cast(value || '-01-01' AS TIMESTAMP)", "month": "try_cast(value || '-01' AS TIMESTAMP)"}
    connection.execute(f"""
        CREATE OR REPLACE MACRO moment(value, late) AS CASE
            WHEN regexp_full_match(value, '[0-9]{{4}}')
                THEN CASE WHEN late THEN {early["year"]} + {last["year"]} ELSE {early["year"]} END
            WHEN regexp_full_match(value, '[0-9]{{4}}-[0-9]{{2}}')
                THEN CASE WHEN late THEN {early["month"]} + {last["month"]} ELSE {early["month"]} END
            WHEN regexp_full_match(value, '{BARE_DATE}')
                THEN CASE WHEN late THEN try_cast(value AS TIMESTAMP) + {LAST_SECOND}
                    ELSE try_cast(value AS TIMESTAMP) END
            WHEN regexp_matches(value, '{OFFSET}') THEN {wall}
            ELSE try_cast(value AS TIMESTAMP) END""")
    # In the night when clocks go back, 01:52 may come before 01:07: the time that passed is then added to the start.
    connection.execute(f"""
        CREATE OR REPLACE MACRO moment_of_end(starts, ends) AS CASE
            WHEN moment(ends, true) < moment(starts, false)
                AND regexp_matches(starts, '{OFFSET}') AND regexp_matches(ends, '{OFFSET}')
                AND try_cast(ends AS TIMESTAMPTZ) >= try_cast(starts AS TIMESTAMPTZ)
                THEN moment(starts, false) + (try_cast(ends AS TIMESTAMPTZ) - try_cast(starts AS TIMESTAMPTZ))
            ELSE moment(ends, true) END""")


def refuse_utc(stage: Staging) -> None:
    """Refuse times in UTC whose local day is not known.

    Raises:
        InputError: names the first.
    """
    for relation, columns in TIMES.items():
        for column in columns:
            found = stage.ask(
                f"SELECT _file, _row, {column} FROM {relation} WHERE regexp_matches({column}, '{IN_UTC}') "
                "ORDER BY 1, 2 LIMIT 1"
            )
            for file, row, value in found:
                raise InputError(f"{file} line {row}: '{value}' is a time in UTC; {ZONE_HINT}")


ZONE_HINT = (
    "days in hospital need the hospital's own: set time_zone, such as time_zone=America/New_York, or time_zone=UTC if "
    "the wall time was written as UTC (as simulators do)."
)


def resolve(stage: Staging, relation: str, column: str, kind: str) -> None:
    """Put ids in place of references by identifier; what names no resource, or several, is left as it is."""
    if not stage.ask(f"SELECT 1 FROM {relation} WHERE {column} LIKE '?%' LIMIT 1"):
        return
    stage.connection.execute(f"""
        UPDATE {relation} SET {column} = known.id FROM (
            SELECT key, min(id) AS id FROM identifiers WHERE type = {quoted(kind)}
            GROUP BY key HAVING count(DISTINCT id) = 1) known
        WHERE {relation}.{column} = known.key""")


def drop_copies(stage: Staging, relation: str, *, keep: str = "last", by: str = "id") -> None:
    """Keep one line of each resource that is there more than once: the last updated, or the first."""
    updated = "updated" in [row[0] for row in stage.ask(f"DESCRIBE {relation}")]
    how = "DESC NULLS LAST" if keep == "last" else "ASC NULLS FIRST"
    order = f"try_cast(updated AS TIMESTAMPTZ) {how}, " if updated else ""
    stage.set_aside(
        relation,
        f"(_file, _row) IN (SELECT (_file, _row) FROM (SELECT DISTINCT {by}, _file, _row{', updated' * updated} "
        f"FROM {relation}) QUALIFY row_number() OVER (PARTITION BY {by} ORDER BY {order}_file, _row) > 1)",
        f"another copy of the same id (the {keep if updated else 'first'} one counts)",
    )


def listed(values: Iterable[str]) -> str:
    """Texts as SQL literals; one that nothing equals where there are none."""
    return ", ".join(quoted(value) for value in values) or "''"
