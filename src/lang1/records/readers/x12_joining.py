"""Which encounter a claim is about: by its own id, by medical record number and dates, or by a crosswalk."""

from __future__ import annotations

from pathlib import Path

from lang1.common.errors import InputError
from lang1.records.readers.source import find_files, open_source
from lang1.records.readers.staging import Staging
from lang1.records.store import quoted

MEDICAL_RECORD = "REF*EA"
CROSSWALK = "crosswalk"
# Why a claim is about no encounter; ``unjoined_claims.csv`` uses the same words.
NO_KEY = "its key is not in the files"
NO_ENCOUNTER = "no such encounter in the records"
NO_DATES = "no admission or statement dates"
SEVERAL = "several encounters fit"
DIFFERENT = "the claim id stands for different encounters"
NOT_LISTED = "not in the crosswalk"


def join(stage: Staging, key: str, *, key_pattern: str | None, crosswalk: Path | None, tolerance_days: int) -> None:
    """Create ``joined``: ``claim, key_value, encounter_id, reason``, one row a claim id; the reason is null if joined.

    Wants ``submitted``, ``answers`` and ``encounters``.

    Raises:
        InputError: the crosswalk is missing, lacks a column or names two encounters for a claim.
    """
    value = f"nullif(regexp_extract(key_value, {quoted(key_pattern)}, 1), '')" if key_pattern else "key_value"
    stage.connection.execute(f"""
        CREATE TABLE keyed AS
        WITH mentions AS (
            SELECT claim, {value} AS key_value, admitted, service_from, service_to, 0 AS source, _file, _row
            FROM submissions
            UNION ALL SELECT claim, {value}, NULL, service_from, coalesce(service_to, service_from), 1, _file, _row
            FROM answers
        )
        SELECT claim, arg_min(key_value, (source, _file, _row)) AS key_value,
            count(DISTINCT key_value) > 1 AS several_keys, arg_min(admitted, (source, _file, _row)) AS admitted,
            arg_min(service_from, (source, _file, _row)) FILTER (service_to IS NOT NULL) AS service_from,
            arg_min(service_to, (source, _file, _row)) FILTER (service_from IS NOT NULL) AS service_to
        FROM mentions GROUP BY claim
    """)
    if key == CROSSWALK:
        assert crosswalk is not None
        _by_crosswalk(stage, crosswalk)
    elif key == MEDICAL_RECORD:
        _by_dates(stage, tolerance_days)
    else:
        stage.connection.execute(f"""
            CREATE TABLE joined AS
            SELECT k.claim, k.key_value, CASE WHEN NOT several_keys THEN e.encounter_id END AS encounter_id,
                CASE WHEN key_value IS NULL THEN {quoted(NO_KEY)} WHEN several_keys THEN {quoted(DIFFERENT)}
                    WHEN e.encounter_id IS NULL THEN {quoted(NO_ENCOUNTER)} END AS reason
            FROM keyed k LEFT JOIN encounters e ON e.encounter_id = k.key_value
        """)


def _by_dates(stage: Staging, tolerance_days: int) -> None:
    """The patient's stay that began on the day of admission; without one, the stay that the statement period meets."""
    stage.connection.execute(f"""
        CREATE TABLE joined AS
        WITH fitting AS (
            SELECT k.claim, e.encounter_id, rank() OVER (
                PARTITION BY k.claim
                ORDER BY e.encounter_class = 'inpatient' AND k.admitted IS NOT NULL DESC,
                    abs(date_diff('day', e.admit_time::DATE, coalesce(k.admitted, k.service_from)))) AS place
            FROM keyed k JOIN encounters e ON e.patient_id = k.key_value
            WHERE NOT k.several_keys AND CASE
                WHEN k.admitted IS NOT NULL
                    THEN abs(date_diff('day', e.admit_time::DATE, k.admitted)) <= {tolerance_days}
                ELSE e.admit_time::DATE <= k.service_to
                    AND coalesce(e.discharge_time::DATE, '9999-12-31'::DATE) >= k.service_from END
        ),
        nearest AS (
            SELECT claim, min(encounter_id) AS encounter_id, count(*) AS stays
            FROM fitting WHERE place = 1 GROUP BY claim
        )
        SELECT k.claim, k.key_value, CASE WHEN n.stays = 1 THEN n.encounter_id END AS encounter_id,
            CASE WHEN k.key_value IS NULL THEN {quoted(NO_KEY)} WHEN several_keys THEN {quoted(DIFFERENT)}
                WHEN k.admitted IS NULL AND (k.service_from IS NULL OR k.service_to IS NULL) THEN {quoted(NO_DATES)}
                WHEN n.stays IS NULL THEN {quoted(NO_ENCOUNTER)}
                WHEN n.stays > 1 THEN {quoted(SEVERAL)} END AS reason
        FROM keyed k LEFT JOIN nearest n USING (claim)
    """)


def _by_crosswalk(stage: Staging, crosswalk: Path) -> None:
    files = [open_source(path) for path in find_files(Path(), str(crosswalk), "crosswalk")]
    stage.read("crosswalk", files, ["claim", "encounter"])
    twice = stage.ask(
        "SELECT claim, min(_file), min(_row) FROM crosswalk GROUP BY claim HAVING count(DISTINCT encounter) > 1 "
        "ORDER BY claim LIMIT 1"
    )
    if twice:
        claim, file, row = twice[0]
        raise InputError(f"{file} row {row}: claim '{claim}' has two encounters in the crosswalk; keep one.")
    stage.connection.execute(f"""
        CREATE TABLE joined AS
        WITH listed AS (SELECT claim, min(encounter) AS encounter FROM crosswalk GROUP BY claim)
        SELECT k.claim, c.encounter AS key_value, e.encounter_id,
            CASE WHEN c.claim IS NULL THEN {quoted(NOT_LISTED)} WHEN e.encounter_id IS NULL THEN {quoted(NO_ENCOUNTER)}
                END AS reason
        FROM keyed k LEFT JOIN listed c USING (claim) LEFT JOIN encounters e ON e.encounter_id = c.encounter
    """)
