"""Hospital stays of MIMIC, III and IV alike: what an admission row says, where it contradicts itself, and what is done.

The relation ``stays`` has a row an admission with times typed, the end of the stay and its disposition decided, and
``bad`` (why it cannot be used, else null). The readers fill ``persons`` before and the tables of the records after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lang1.records.readers import mimic_codes as codes
from lang1.records.readers.dates import LAST_SECOND, iso_time
from lang1.records.readers.source import SourceFile
from lang1.records.readers.staging import Staging
from lang1.records.store import quoted

REQUIRED = ("subject_id", "hadm_id", "admittime", "dischtime", "admission_type")
OPTIONAL = (
    "deathtime", "admission_location", "discharge_location", "insurance", "language", "marital_status", "race",
    "ethnicity", "edregtime", "edouttime", "hospital_expire_flag", "diagnosis",
)  # fmt: skip
PRIOR_DAYS = 365


@dataclass(frozen=True)
class Clock:
    """SQL on a row ``p`` of ``persons`` and a time ``{t}``: the age then, and between which true years it lies."""

    age: str
    year_low: str = "NULL::INTEGER"
    year_high: str = "NULL::INTEGER"

    def at(self, admitted: str, left: str) -> str:
        """Columns ``age`` at admission, ``low`` and ``high`` of the discharge."""
        low, high = self.year_low.format(t=left), self.year_high.format(t=left)
        return f"{self.age.format(t=admitted)} AS age, {low} AS low, {high} AS high"


def read_stays(
    stage: Staging,
    admissions: Sequence[SourceFile],
    services: Sequence[SourceFile],
    observation_types: Sequence[str],
    clock: Clock,
) -> None:
    """Create ``stays``, ``prior`` (earlier stays of each) and ``first_service``; needs ``persons`` (one row a patient).

    The true years are those of the discharge.
    """
    stage.read("admissions", admissions, REQUIRED, OPTIONAL)
    stage.set_aside("admissions", "diagnosis ILIKE '%organ donor%'", "an organ donor's account, opened after death")
    stage.read("services", services, ["hadm_id", "transfertime", "curr_service"])
    stage.connection.execute(f"""
        CREATE TABLE first_service AS
        SELECT hadm_id, arg_min({codes.renamed("curr_service", codes.SERVICES)},
            (try_cast(transfertime AS TIMESTAMP), _file, _row)) AS service
        FROM services WHERE curr_service IS NOT NULL GROUP BY hadm_id""")
    died = ", ".join(quoted(place) for place in codes.DIED)
    observed = ", ".join(quoted(kind.upper()) for kind in observation_types) or "''"
    stage.connection.execute(f"""
        CREATE TABLE stays AS
        WITH timed AS (
            SELECT *, {iso_time("admittime", "start_of_day")} AS admit,
                {iso_time("dischtime", "end_of_day")} AS left_at,
                {iso_time("deathtime", "start_of_day")} AS death, {iso_time("edregtime", "start_of_day")} AS ed_in,
                coalesce(race, ethnicity) AS said_race,
                coalesce(hospital_expire_flag = '1', false) AS flagged,
                coalesce(upper(discharge_location) IN ({died}), false) AS placed,
                row_number() OVER (PARTITION BY hadm_id ORDER BY _file, _row) AS nth
            FROM admissions
        ),
        ended AS (
            SELECT *,
                -- A discharge at midnight sharp is a bare date, and the hour of a death on that day is the better end.
                CASE WHEN death > left_at AND death::DATE = left_at::DATE THEN death
                    WHEN left_at < admit AND left_at = admit::DATE THEN left_at + {LAST_SECOND}
                    ELSE left_at END AS ends,
                -- Three columns may say that the stay ended in death, two that it did not.
                flagged::INTEGER + placed::INTEGER + (death IS NOT NULL)::INTEGER AS says_dead,
                coalesce(hospital_expire_flag = '0', false)::INTEGER
                    + (discharge_location IS NOT NULL AND NOT placed)::INTEGER AS says_alive
            FROM timed
        )
        SELECT e.* EXCLUDE (race, ethnicity), p.sex, f.service, {codes.race_group("said_race")} AS race_group,
            CASE WHEN upper(admission_type) IN ({observed}) THEN 'observation' ELSE 'inpatient' END AS encounter_class,
            {stage.coded("admissions", "admission_type", codes.ADMISSION_TYPES, "other")} AS our_type,
            CASE WHEN says_dead > says_alive THEN 'expired' WHEN says_dead > 0 THEN 'unknown'
                ELSE coalesce({stage.coded("admissions", "discharge_location", codes.DISPOSITIONS, "other")}, 'unknown')
                END AS disposition,
            {clock.at("admit", "coalesce(ends, admit)")},
            CASE WHEN e.hadm_id IS NOT NULL AND nth > 1 THEN 'a hadm_id that was there before'
                WHEN admittime IS NULL THEN 'no admittime'
                WHEN admit IS NULL THEN 'admittime is not a time'
                WHEN dischtime IS NOT NULL AND left_at IS NULL THEN 'dischtime is not a time'
                WHEN deathtime IS NOT NULL AND death IS NULL THEN 'deathtime is not a time'
                WHEN p.subject_id IS NULL THEN 'a subject_id that is not in patients'
                WHEN ends < admit THEN 'discharge before admission' END AS bad
        FROM ended e LEFT JOIN persons p USING (subject_id) LEFT JOIN first_service f ON f.hadm_id = e.hadm_id
        ORDER BY e._file, e._row""")
    stage.set_aside(
        "stays",
        """bad IS NULL AND EXISTS (
            SELECT 1 FROM stays d WHERE d.subject_id = stays.subject_id AND d.hadm_id <> stays.hadm_id
            AND d.bad IS NULL AND d.disposition = 'expired' AND coalesce(d.death, d.ends) <= stays.admit)""",
        "admitted after a death in hospital (organ donation)",
    )
    _count_conflicts(stage)
    stage.connection.execute(f"""
        CREATE TABLE prior AS
        SELECT s.hadm_id, count(p.hadm_id) AS stays, date_diff('day', max(p.ends), any_value(s.admit)) AS days
        FROM stays s LEFT JOIN stays p ON p.subject_id = s.subject_id AND p.bad IS NULL AND p.hadm_id <> s.hadm_id
            AND p.encounter_class = 'inpatient' AND p.ends <= s.admit
            AND p.ends > s.admit - INTERVAL {PRIOR_DAYS} DAY
        WHERE s.bad IS NULL GROUP BY s.hadm_id""")


def _count_conflicts(stage: Staging) -> None:
    words = {
        "stays where flag, place and time of death disagree: death taken": "disposition = 'expired' AND says_alive > 0",
        "stays where flag, place and time of death disagree: disposition unknown": "says_dead BETWEEN 1 AND says_alive",
        "stays that ended in death without a deathtime": "disposition = 'expired' AND death IS NULL",
        "stays that end at their death, later on the day of discharge": "ends > left_at AND ends = death",
        "stays discharged at midnight of the day of admission, taken as that whole day": "left_at < admit AND "
        "ends > left_at AND ends IS DISTINCT FROM death",
        "stays whose deathtime is on a day outside the stay": "death::DATE NOT BETWEEN admit::DATE AND ends::DATE",
    }
    counted = stage.ask(
        f"SELECT {', '.join(f'count(*) FILTER ({sql})' for sql in words.values())} FROM stays WHERE bad IS NULL"
    )[0]
    stage.draft.counts.update({what: rows for what, rows in zip(words, counted, strict=True) if rows})


def put_patients(stage: Staging) -> None:
    """Patients, with race as first recorded, and the day of death from ``persons.dod``, else from a stay that ended so.

    Needs ``persons_read`` (every row of the source, with ``dod``, ``death_source`` and ``_bad``) and ``stays``.
    """
    stage.put(
        "patients",
        f"""
        WITH said AS (
            SELECT subject_id, arg_min({{'race': race_group, 'hispanic': {codes.is_hispanic("said_race")}}},
                    (admit, hadm_id)) FILTER (race_group IS NOT NULL OR {codes.is_hispanic("said_race")}) AS first,
                min(coalesce(death, ends)::DATE) FILTER (disposition = 'expired') AS died_on
            FROM stays WHERE bad IS NULL GROUP BY subject_id
        )
        SELECT p.subject_id AS patient_id, coalesce(p.sex, 'unknown') AS sex, s.first.race AS race,
            CASE WHEN s.first.hispanic THEN 'Hispanic' END AS ethnicity,
            -- The day alone, as MIMIC gives it.
            date_trunc('day', coalesce(p.dod, s.died_on))::TIMESTAMP AS death_time,
            CASE WHEN p.dod IS NOT NULL THEN p.death_source WHEN s.died_on IS NOT NULL THEN 'ehr' END AS death_source,
            p._file, p._row, p._bad
        FROM persons_read p LEFT JOIN said s USING (subject_id) ORDER BY p._file, p._row""",
    )
    facts = stage.ask("""
        SELECT count(*) FILTER (p.dod IS NULL), count(*) FILTER (p.dod::DATE <> coalesce(s.death, s.ends)::DATE)
        FROM stays s JOIN persons p USING (subject_id) WHERE s.bad IS NULL AND s.disposition = 'expired'""")[0]
    words = ("patients without dod who died in hospital: that day taken", "patients whose dod is another day than that")
    stage.draft.counts.update({what: rows for what, rows in zip(words, facts, strict=True) if rows})


def put_stays(stage: Staging) -> None:
    """Hospital admissions as encounters."""
    stage.put(
        "encounters",
        f"""
        SELECT hadm_id AS encounter_id, subject_id AS patient_id, encounter_class, admit AS admit_time,
            ends AS discharge_time, our_type AS admission_type, admission_location AS admission_source,
            service AS department, {quoted(codes.FACILITY)} AS facility,
            CASE WHEN ends IS NOT NULL OR disposition <> 'unknown' THEN disposition END AS disposition,
            age AS age_at_admission, insurance AS payer, low AS year_low, high AS year_high, _file, _row, bad AS _bad
        FROM stays ORDER BY _file, _row""",
    )


def put_emergency(stage: Staging, visits: str, clock: Clock) -> None:
    """Visits to the emergency department as encounters, whether an admission followed or not.

    Args:
        stage: with ``persons``.
        clock: ages and years.
        visits: SQL that yields ``visit, subject_id, came, gone`` (text), ``disposition``, ``_file`` and ``_row``.
    """
    stage.put(
        "encounters",
        f"""
        SELECT 'ed-' || visit AS encounter_id, subject_id AS patient_id, 'emergency' AS encounter_class,
            arrived AS admit_time, departed AS discharge_time, 'emergency' AS admission_type,
            'emergency' AS department, {quoted(codes.FACILITY)} AS facility, disposition,
            age AS age_at_admission, low AS year_low, high AS year_high, _file, _row,
            CASE WHEN arrived IS NULL THEN 'an emergency visit without a time of arrival'
                WHEN gone IS NOT NULL AND departed IS NULL THEN 'an emergency visit whose end is not a time'
                WHEN departed < arrived THEN 'an emergency visit that ends before it begins' END AS _bad
        FROM (
            SELECT v.*, {clock.at("arrived", "arrived")}
            FROM (
                SELECT *, {iso_time("came", "start_of_day")} AS arrived, {iso_time("gone", "end_of_day")} AS departed
                FROM ({visits})
            ) v LEFT JOIN persons p USING (subject_id)
        ) ORDER BY _file, _row""",
    )


def put_fields(stage: Staging) -> None:
    """Structured values for baselines: what was known on admission, and what was at discharge. Needs ``unit_stays``."""
    known = [
        ("age", "s.age", True, "admission"),
        ("sex", "s.sex", False, "admission"),
        ("race", "s.said_race", False, "admission"),
        ("admission_type", "s.admission_type", False, "admission"),
        ("admission_location", "s.admission_location", False, "admission"),
        ("insurance", "s.insurance", False, "admission"),
        ("language", "s.language", False, "admission"),
        ("marital_status", "s.marital_status", False, "admission"),
        ("service", "s.service", False, "admission"),
        ("admission_diagnosis", "s.diagnosis", False, "admission"),
        ("inpatient_stays_in_year_before", "p.stays", True, "admission"),
        ("days_since_discharge_in_year_before", "p.days", True, "admission"),
        (
            "hours_in_emergency_department",
            "CASE WHEN s.ed_in <= s.admit THEN date_diff('minute', s.ed_in, s.admit) / 60.0 END",
            True,
            "admission",
        ),
        ("days_in_hospital", "date_diff('day', s.admit, s.ends)", True, "discharge"),
        ("intensive_care_stays", "coalesce(u.intensive, 0)", True, "discharge"),
        ("discharge_location", "s.discharge_location", False, "discharge"),
    ]
    selects = [
        f"SELECT s.hadm_id AS encounter_id, {quoted(field)} AS field, "
        f"({sql if number else 'NULL'})::DOUBLE AS number, ({'NULL' if number else sql})::VARCHAR AS text, "
        f"{quoted(known_at)} AS known_at, s._file, s._row, {place} AS place FROM stays s JOIN prior p USING (hadm_id) "
        "LEFT JOIN (SELECT encounter_id AS hadm_id, count(*) FILTER (unit_type = 'intensive_care') AS intensive "
        f"FROM unit_stays GROUP BY 1) u USING (hadm_id) WHERE s.bad IS NULL AND ({sql}) IS NOT NULL"
        for place, (field, sql, number, known_at) in enumerate(known)
    ]
    stage.put("fields", f"SELECT * EXCLUDE (place) FROM ({' UNION ALL '.join(selects)}) ORDER BY _file, _row, place")


def drop_repeats(stage: Staging, relation: str, key: str) -> None:
    """Set rows aside whose ``key`` (columns) stood in an earlier row."""
    stage.set_aside(
        relation,
        f"rowid NOT IN (SELECT min(rowid) FROM {relation} GROUP BY {key})",
        "a row that was there before",
    )


def parent_of(note: str) -> str:
    """SQL: ``heads`` (``hadm_id, addendum, place`` and the id of the note) with ``parent``.

    The parent is the note before it, by ``place``, of the same admission, else the first one; null where there is none.
    """
    window = "PARTITION BY hadm_id ORDER BY place ROWS BETWEEN UNBOUNDED PRECEDING AND"
    whole = f"CASE WHEN hadm_id IS NOT NULL AND NOT addendum THEN {note} END"
    return f"""SELECT {note}, addendum, coalesce(
            last_value({whole} IGNORE NULLS) OVER ({window} CURRENT ROW),
            first_value({whole} IGNORE NULLS) OVER ({window} UNBOUNDED FOLLOWING)) AS parent
        FROM heads"""
