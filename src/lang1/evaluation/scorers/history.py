"""What the records knew of a patient when the question was asked: LACE, earlier stays, codes and claims, no text.

Every column reads only what lies at or before the prediction time: earlier encounters that had ended, codes of stays
that ended at least ``CODES_KNOWN_DAYS`` before (they are assigned after discharge), units entered, claims settled. What
the row of the encounter itself says of its admission (age, sex, payer, department, type and source of admission) counts
as known from registration on.
"""

from __future__ import annotations

import duckdb
import pyarrow as pa

from lang1.records.schema import TimeBasis
from lang1.remede.charlson import code_groups, load

CODES_KNOWN_DAYS = 7
# LACE (van Walraven et al., CMAJ 2010): days of the stay, emergent admission, comorbidity, emergency visits in half a
# year. The comorbidity here is the Charlson index of 1987 over the codes of earlier stays, capped as LACE caps its own.
LACE_DAYS = 182

REGISTERED = ("age", "sex", "payer", "department", "facility", "area", "admission_type", "admission_source")
LACE = ("days_so_far", "emergent", "charlson_before", "ed_visits_6m", "lace")
EARLIER = ("stays_1y", "stays_before", "days_since_discharge", "last_stay_days", "mean_stay_days", "outpatient_1y")
CLAIMS = ("claims_before", "denied_before", "payer_claims", "payer_denied_share")
COURSE = ("intensive_care_so_far", "admission_hour", "admission_weekday")
COLUMNS = (*REGISTERED, *LACE, *EARLIER, *CLAIMS, *COURSE)

# The structured peers of NYUTron (Jiang et al., Nature 2023, Methods), from what records of this schema hold.
OF_RULE: dict[str, tuple[str, ...]] = {
    "readmission": LACE,
    "mortality": ("age", "sex", "admission_type", "admission_source", *LACE[:3], *COURSE),
    "length_of_stay": (*REGISTERED, "emergent", "charlson_before", *EARLIER, *COURSE),
    "comorbidity": ("age", "sex", "days_so_far", "charlson_before", "stays_before"),
    "insurance_denial": (*REGISTERED, *CLAIMS),
}


def history(connection: duckdb.DuckDBPyConnection, examples: pa.Table, basis: TimeBasis) -> pa.Table:
    """The columns ``COLUMNS``, one row an example in the order given; null where the records cannot say.

    Args:
        connection: with the tables of the records as views.
        examples: ``encounter_id, prediction_time``.
        basis: of the records' times. Shifted times count within a patient only; ordinal records give the number of
            earlier stays and nothing else that needs time.
    """
    timed = basis in ("calendar", "shifted")
    asked = examples.select(["encounter_id", "prediction_time"])
    asked = asked.append_column("position", pa.array(range(asked.num_rows), pa.int64()))
    connection.register("history_asked", asked)
    index = load()
    distinct = connection.execute("SELECT DISTINCT code_version, code FROM diagnoses ORDER BY ALL").fetchall()
    hits = [(version, code, group) for version, code in distinct for group in code_groups(index, version, code)]
    for name, columns, rows in (
        ("history_codes", ("code_version", "code", "disease"), hits),
        ("history_suppressed", ("grave", "mild"), list(index.hierarchy.items())),
    ):
        values = list(zip(*rows, strict=True)) if rows else [()] * len(columns)
        table = {column: pa.array(found, pa.string()) for column, found in zip(columns, values, strict=True)}
        connection.register(name, pa.table(table))
    points = {"disease": list(index.weight), "points": pa.array(index.weight.values(), pa.int32())}
    connection.register("history_points", pa.table(points))
    return connection.sql(_query(basis, timed)).to_arrow_table().select(list(COLUMNS))


def _query(basis: str, timed: bool) -> str:
    birth = "year(e.admit_time) - p.birth_year" if basis == "calendar" else "NULL"
    ended = "o.discharge_time <= a.t" if timed else "false"
    before = "o.sequence < a.sequence" if basis == "ordinal" else ended
    weekday = "dayofweek(a.admit_time)" if basis == "calendar" else "NULL"
    return f"""
        WITH asked AS (
            SELECT h.position, h.prediction_time AS t, e.*, p.sex, p.area,
                coalesce(e.age_at_admission, {birth})::DOUBLE AS age
            FROM history_asked h JOIN encounters e USING (encounter_id) LEFT JOIN patients p USING (patient_id)
        ), earlier AS (
            SELECT a.position,
                count(*) FILTER (o.encounter_class = 'inpatient' AND {before}) AS stays_before,
                count(*) FILTER (o.encounter_class = 'inpatient' AND {ended}
                    AND o.discharge_time > a.t - INTERVAL 365 DAY) AS stays_1y,
                count(*) FILTER (o.encounter_class = 'outpatient' AND {ended}
                    AND o.discharge_time > a.t - INTERVAL 365 DAY) AS outpatient_1y,
                count(*) FILTER (o.encounter_class = 'emergency' AND {ended}
                    AND o.admit_time > a.admit_time - INTERVAL {LACE_DAYS} DAY
                    AND o.admit_time < a.admit_time) AS ed_visits_6m,
                min(date_diff('minute', o.discharge_time, a.admit_time) / 1440.0)
                    FILTER (o.encounter_class = 'inpatient' AND {ended} AND o.discharge_time <= a.admit_time)
                    AS days_since_discharge,
                arg_max(date_diff('minute', o.admit_time, o.discharge_time) / 1440.0, o.discharge_time)
                    FILTER (o.encounter_class = 'inpatient' AND {ended}) AS last_stay_days,
                avg(date_diff('minute', o.admit_time, o.discharge_time))
                    FILTER (o.encounter_class = 'inpatient' AND {ended}) / 1440.0 AS mean_stay_days
            FROM asked a LEFT JOIN encounters o ON o.patient_id = a.patient_id AND o.encounter_id <> a.encounter_id
            GROUP BY a.position
        ), diseases AS (
            SELECT DISTINCT a.position, g.disease
            FROM asked a JOIN encounters o ON o.patient_id = a.patient_id AND o.encounter_id <> a.encounter_id
            JOIN diagnoses d ON d.encounter_id = o.encounter_id
            JOIN history_codes g USING (code_version, code)
            WHERE {ended} AND o.discharge_time <= a.t - INTERVAL {CODES_KNOWN_DAYS} DAY
        ), comorbid AS (
            SELECT d.position, sum(w.points) AS points FROM diseases d JOIN history_points w USING (disease)
            WHERE NOT EXISTS (
                SELECT 1 FROM history_suppressed s JOIN diseases grave ON grave.disease = s.grave
                WHERE s.mild = d.disease AND grave.position = d.position)
            GROUP BY d.position
        ), units AS (
            SELECT a.position, bool_or(u.unit_type = 'intensive_care' AND u.in_time <= a.t) AS intensive_care_so_far
            FROM asked a JOIN unit_stays u USING (encounter_id) GROUP BY a.position
        ), own_claims AS (
            SELECT a.position, count(*) AS claims_before,
                count(*) FILTER (starts_with(c.final_status, 'denied')) AS denied_before
            FROM asked a JOIN claims c ON c.patient_id = a.patient_id AND c.encounter_id <> a.encounter_id
            WHERE {"c.final_time <= a.t" if timed else "false"} GROUP BY a.position
        ), settled AS (
            SELECT payer, final_time, sum(count(*)) OVER w AS n,
                sum(count(*) FILTER (starts_with(final_status, 'denied'))) OVER w AS denied
            FROM claims WHERE final_time IS NOT NULL AND payer IS NOT NULL AND coverage_order = 1
                AND final_status <> 'pending'
            GROUP BY payer, final_time
            WINDOW w AS (PARTITION BY payer ORDER BY final_time)
        ), of_payer AS (
            SELECT a.position, max_by(p.n, p.final_time) AS payer_claims,
                max_by(p.denied, p.final_time) AS payer_denied
            FROM asked a ASOF JOIN settled p ON a.payer = p.payer AND a.t >= p.final_time
            WHERE {"true" if basis == "calendar" else "false"} GROUP BY a.position
        ), joined AS (
            SELECT a.position, a.age, a.sex, a.payer, a.department, a.facility, a.area, a.admission_type,
                a.admission_source,
                date_diff('minute', a.admit_time, least(a.t, coalesce(a.discharge_time, a.t))) / 1440.0 AS days_so_far,
                a.admission_type IN ('emergency', 'urgent') AS emergent,
                {"coalesce(k.points, 0)" if timed else "NULL"}::DOUBLE AS charlson_before,
                {"h.ed_visits_6m" if timed else "NULL"}::DOUBLE AS ed_visits_6m,
                {"h.stays_1y" if timed else "NULL"}::DOUBLE AS stays_1y,
                {"h.stays_before" if timed or basis == "ordinal" else "NULL"}::DOUBLE AS stays_before,
                h.days_since_discharge, h.last_stay_days, h.mean_stay_days,
                {"h.outpatient_1y" if timed else "NULL"}::DOUBLE AS outpatient_1y,
                {"coalesce(c.claims_before, 0)" if timed else "NULL"}::DOUBLE AS claims_before,
                {"coalesce(c.denied_before, 0)" if timed else "NULL"}::DOUBLE AS denied_before,
                q.payer_claims::DOUBLE AS payer_claims, q.payer_denied / q.payer_claims AS payer_denied_share,
                coalesce(u.intensive_care_so_far, false) AS intensive_care_so_far,
                {"hour(a.admit_time)" if timed else "NULL"}::DOUBLE AS admission_hour,
                {weekday}::DOUBLE AS admission_weekday
            FROM asked a LEFT JOIN earlier h USING (position) LEFT JOIN comorbid k USING (position)
            LEFT JOIN units u USING (position) LEFT JOIN own_claims c USING (position)
            LEFT JOIN of_payer q USING (position)
        )
        SELECT {", ".join(c for c in COLUMNS if c != "lace")},
            (CASE WHEN days_so_far < 1 THEN 0 WHEN days_so_far < 4 THEN floor(days_so_far)
                WHEN days_so_far < 7 THEN 4 WHEN days_so_far < 14 THEN 5 ELSE 7 END
            + CASE WHEN emergent THEN 3 ELSE 0 END + CASE WHEN charlson_before >= 4 THEN 5 ELSE charlson_before END
            + least(ed_visits_6m, 4))::DOUBLE AS lace
        FROM joined ORDER BY position"""
