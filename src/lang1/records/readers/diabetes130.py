"""The Diabetes 130-US hospitals data as records: 101,766 real stays without dates, notes rendered from the fields.

Source: Strack et al., BioMed Research International 2014; UCI Machine Learning Repository 296, CC BY 4.0. What is done
with each field, and why, is in ``docs/records.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import duckdb

from lang1.common.artefact import InputRef, file_sha256
from lang1.common.errors import InputError
from lang1.common.identity import unit_hash
from lang1.common.progress import Meter
from lang1.common.settings import Settings
from lang1.records.readers import diabetes130_codes as codes
from lang1.records.readers.source import SourceFile, name, open_source, read_into
from lang1.records.store import RecordsMeta, new_records, quoted

LICENCE = "CC BY 4.0"
DATA_FILES = ("diabetic_data.csv.gz", "diabetic_data.csv")
STAYS_A_PART = 25_000

NUMBERS_AT_ADMISSION = ("number_outpatient", "number_emergency", "number_inpatient")
NUMBERS_AT_DISCHARGE = (
    "time_in_hospital",
    "num_lab_procedures",
    "num_procedures",
    "num_medications",
    "number_diagnoses",
)
DIAGNOSES = ("diag_1", "diag_2", "diag_3")
COLUMNS = (
    *("encounter_id", "patient_nbr", "race", "gender", "age", "admission_type_id", "discharge_disposition_id"),
    *("admission_source_id", "payer_code", "medical_specialty", "max_glu_serum", "A1Cresult", "change", "diabetesMed"),
    *("readmitted", *NUMBERS_AT_ADMISSION, *NUMBERS_AT_DISCHARGE, *DIAGNOSES, *codes.DRUGS),
)
WHOLE = ("encounter_id", "patient_nbr", "admission_type_id", "discharge_disposition_id", "admission_source_id")


class Diabetes130Settings(Settings):
    """Settings of :func:`ingest_diabetes130`."""

    source: Path | None = None  # a folder with diabetic_data.csv; None: the copy that ships with the package
    # Whole patients are taken in the order of a hash of their id until at least so many stays are in; None: all.
    sample_encounters: int | None = None
    seed: int = 0


def ingest_diabetes130(out: Path, settings: Diabetes130Settings | None = None, *, overwrite: bool = False) -> Path:
    """Write the data set as a records folder with ``time_basis: ordinal``; see ``docs/records.md``.

    Returns:
        ``out``.

    Raises:
        InputError: the source lacks a file or column, or holds a value that is not known.
    """
    settings = settings or Diabetes130Settings()
    source = _source(settings)
    sampled = settings.sample_encounters is not None
    meta = RecordsMeta(
        system="diabetes-130",
        time_basis="ordinal",
        source="Diabetes 130-US Hospitals for Years 1999-2008 (Strack et al. 2014), doi:10.24432/C5230J",
        real=True,
        licence=LICENCE,
        notes="Notes are rendered from structured fields; three diagnosis codes a stay, cut to their category."
        + (f" Sample of whole patients by hash, seed {settings.seed}." if sampled else ""),
    )
    data = InputRef(path=source.path.name, kind="file", fingerprint=file_sha256(source.path))
    with (
        new_records(out, meta, settings=settings, inputs={"data": data}, overwrite=overwrite) as draft,
        duckdb.connect(":memory:", config={"memory_limit": "2GB", "threads": 2}) as connection,
    ):
        _load(connection, source)
        if settings.sample_encounters is not None:
            left = _sample(connection, settings.sample_encounters, settings.seed)
            draft.leave_out("stays of patients outside the sample", left)
        connection.execute(_STAYS)
        stays = _count(connection, "stays")
        draft.write_part("patients", connection.sql(_PATIENTS).to_arrow_table(), 0)
        with Meter("diabetes-130", stays, "stays") as meter:
            for part, start in enumerate(range(0, stays, STAYS_A_PART)):
                connection.execute(
                    f"CREATE OR REPLACE TEMP VIEW chunk AS SELECT * FROM stays "
                    f"WHERE nth > {start} AND nth <= {start + STAYS_A_PART} ORDER BY nth"
                )
                for table, query in _QUERIES.items():
                    draft.write_part(table, connection.sql(query).to_arrow_table(), part)
                meter.add(min(STAYS_A_PART, stays - start))
        draft.counts["labels"] = dict(
            connection.execute(f"SELECT task, count(*) FROM ({_labels('stays')}) GROUP BY 1 ORDER BY 1").fetchall()
        )
        draft.counts["not_labelled"] = {
            "readmission: stay ended in death or hospice": _count(
                connection, f"stays WHERE disposition_id IN {codes.NOT_ELIGIBLE_FOR_READMISSION}"
            ),
            "mortality: death under hospice, place unsure": _count(
                connection, f"stays WHERE disposition_id IN {codes.DEATH_PLACE_UNSURE}"
            ),
        }
        draft.counts["stays_after_in_hospital_death"] = _count(
            connection,
            "stays s WHERE EXISTS (SELECT 1 FROM stays d WHERE d.patient_id = s.patient_id "
            "AND d.disposition_id = 11 AND d.sequence < s.sequence)",
        )
    return out


def _source(settings: Diabetes130Settings) -> SourceFile:
    folder = settings.source or Path(str(files("lang1") / "data" / "diabetes-130"))
    found = [folder / file for file in DATA_FILES if (folder / file).is_file()]
    if not found:
        raise InputError(f"{folder}: no {DATA_FILES[1]} or {DATA_FILES[0]} there; expected the UCI data set's file.")
    source = open_source(found[0])
    for column in COLUMNS:
        source.need(column, "the Diabetes 130-US data")
    return source


def _load(connection: duckdb.DuckDBPyConnection, source: SourceFile) -> None:
    """Read the file into ``raw`` as text, '?' as null, and refuse what is not the data set's vocabulary."""
    connection.execute(f"CREATE TABLE raw ({', '.join(f'{name(c)} VARCHAR' for c in COLUMNS)}, _row BIGINT)")
    select = ", ".join(f"nullif({name(c)}, '?')" for c in COLUMNS)
    read_into(connection, "raw", f"{select}, _row", [source], COLUMNS)
    if _count(connection, "raw") == 0:
        raise InputError(f"{source.path}: no rows below the header.")
    known: dict[str, list[str]] = {
        "admission_type_id": [str(code) for code in codes.ADMISSION_TYPES],
        "admission_source_id": [str(code) for code in codes.ADMISSION_SOURCES],
        "discharge_disposition_id": [str(code) for code in codes.DISPOSITIONS],
        "max_glu_serum": list(codes.GLUCOSE),
        "A1Cresult": list(codes.A1C),
        "readmitted": ["NO", "<30", ">30"],
        "age": [f"[{low}-{low + 10})" for low in range(0, 100, 10)],
        **{drug: ["No", *codes.DRUG_CHANGES] for drug in codes.DRUGS},
    }
    checks = [
        (column, f"{name(column)} IS NULL OR {name(column)} NOT IN ({', '.join(map(quoted, values))})")
        for column, values in known.items()
    ]
    whole = (*WHOLE, *NUMBERS_AT_ADMISSION, *NUMBERS_AT_DISCHARGE)
    checks += [(column, f"try_cast({column} AS BIGINT) IS NULL") for column in whole]
    for column, bad in checks:
        row = connection.execute(f"SELECT _row, {name(column)} FROM raw WHERE {bad} ORDER BY 1 LIMIT 1").fetchone()
        if row is not None:
            expected = f"one of {', '.join(known[column])}" if column in known else "a whole number"
            raise InputError(f"{source.path} row {row[0]}: {column} is '{row[1] or '?'}', expected {expected}.")


def _sample(connection: duckdb.DuckDBPyConnection, encounters: int, seed: int) -> int:
    """Keep whole patients, by hash, until ``encounters`` stays are in; returns the stays left out."""
    stays = connection.execute("SELECT patient_nbr, count(*) FROM raw GROUP BY 1").fetchall()
    kept: list[str] = []
    total = 0
    for patient, number in sorted(stays, key=lambda row: (unit_hash(row[0], f"diabetes-130:{seed}"), row[0])):
        if total >= encounters:
            break
        kept.append(patient)
        total += number
    before = _count(connection, "raw")
    connection.execute("CREATE TEMP TABLE kept AS SELECT unnest(?::VARCHAR[]) AS patient_nbr", [kept])
    connection.execute("DELETE FROM raw WHERE patient_nbr NOT IN (SELECT patient_nbr FROM kept)")
    return before - total


def _count(connection: duckdb.DuckDBPyConnection, relation: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {relation}").fetchall()[0][0])


def _case(
    column: str, values: Mapping[int, str | None] | Mapping[int, str] | Mapping[str, str], otherwise: str = "NULL"
) -> str:
    whens = " ".join(
        f"WHEN {key if isinstance(key, int) else quoted(key)} THEN {quoted(value)}"
        for key, value in values.items()
        if value is not None
    )
    return f"CASE {column} {whens} ELSE {otherwise} END"


def _icd9(column: str) -> str:
    """A code as ICD-9-CM writes it: the file lost leading zeros ('38' is 038) and trailing ones ('250' is 250.00)."""
    whole, digits = f"split_part({column}, '.', 1)", f"split_part({column}, '.', 2)"
    numeric = f"regexp_matches({column}, '^[0-9]')"
    padded = f"CASE WHEN {numeric} THEN lpad({whole}, 3, '0') ELSE {whole} END"
    # Only diabetes kept its digits in this data: a bare 250 is 250.00, 250.6 is 250.60. Elsewhere they are unknown.
    kept = f"WHEN {whole} = '250' THEN '.' || rpad({digits}, 2, '0') WHEN {digits} <> '' THEN '.' || {digits}"
    decimals = f"CASE {kept} ELSE '' END"
    return f"({padded}) || ({decimals})"


def _chapter(column: str) -> str:
    whens = " ".join(
        f"WHEN try_cast(left({column}, 3) AS INT) <= {last} THEN {quoted(w)}" for last, w in codes.CHAPTERS
    )
    return (
        f"CASE WHEN {column} LIKE 'V%' THEN {quoted(codes.CHAPTER_V)} "
        f"WHEN {column} LIKE 'E%' THEN {quoted(codes.CHAPTER_E)} {whens} END"
    )


# InternalMedicine -> internal medicine; ObstetricsandGynecology -> obstetrics and gynecology; and so on.
_SPECIALTY = (
    "trim(regexp_replace(lower(regexp_replace(regexp_replace(nullif(medical_specialty, 'PhysicianNotFound'), "
    "'([a-z])(and|with|within)([A-Z])', '\\1 \\2 \\3', 'g'), '([a-z])([A-Z])', '\\1 \\2', 'g')), '[^a-z]+', ' ', 'g'))"
)
_DRUGS = ", ".join(
    f"CASE {name(drug)} "
    + " ".join(f"WHEN '{change}' THEN '{drug} {words}'" for change, words in codes.DRUG_CHANGES.items())
    + " END"
    for drug in codes.DRUGS
)

_STAYS = f"""
CREATE TABLE stays AS
WITH coded AS (
    SELECT *, encounter_id::BIGINT AS sequence,
        {", ".join(f"CASE WHEN {d} IS NOT NULL THEN {_icd9(d)} END AS code_{d}" for d in DIAGNOSES)}
    FROM raw
)
SELECT row_number() OVER (ORDER BY sequence) AS nth, encounter_id, patient_nbr AS patient_id, sequence,
    CASE gender WHEN 'Female' THEN 'female' WHEN 'Male' THEN 'male' ELSE 'unknown' END AS sex,
    {_case("race", codes.RACES)} AS race,
    regexp_extract(age, '[0-9]+')::INT AS age_from,
    {_case("admission_type_id::INT", {k: v[0] for k, v in codes.ADMISSION_TYPES.items()})} AS admission_type,
    {_case("admission_type_id::INT", {k: v[1] for k, v in codes.ADMISSION_TYPES.items()})} AS admission_words,
    {_case("admission_source_id::INT", codes.ADMISSION_SOURCES)} AS admission_source,
    {_case("payer_code", codes.PAYERS, "payer_code")} AS payer,
    {_SPECIALTY} AS specialty,
    discharge_disposition_id::INT AS disposition_id,
    {_case("discharge_disposition_id::INT", {k: v[0] for k, v in codes.DISPOSITIONS.items()})} AS disposition,
    {_case("discharge_disposition_id::INT", {k: v[1] for k, v in codes.DISPOSITIONS.items()})} AS disposition_words,
    {", ".join(f"{n}::INT AS {n}" for n in (*NUMBERS_AT_ADMISSION, *NUMBERS_AT_DISCHARGE))},
    {", ".join(f"code_{d}" for d in DIAGNOSES)},
    {", ".join(f"{_chapter(f'code_{d}')} AS chapter_{d[-1]}" for d in DIAGNOSES)},
    {_case("A1Cresult", codes.A1C)} AS a1c, {_case("max_glu_serum", codes.GLUCOSE)} AS glucose,
    concat_ws(', ', {_DRUGS}) AS drugs,
    {", ".join(name(d) for d in codes.DRUGS)},
    change, diabetesMed AS diabetes_med, readmitted
FROM coded
"""

_PATIENTS = """
SELECT patient_id, coalesce(arg_min(nullif(sex, 'unknown'), sequence), 'unknown') AS sex,
    arg_min(race, sequence) AS race
FROM stays GROUP BY patient_id ORDER BY min(sequence)
"""

_ENCOUNTERS = """
SELECT encounter_id, patient_id, sequence, 'inpatient' AS encounter_class, admission_type, admission_source,
    specialty AS department, disposition, age_from + 5.0 AS age_at_admission, payer
FROM chunk
"""

_ON_ADMISSION = """
'Patient: ' || sex || ' aged ' || age_from || ' to ' || (age_from + 9)
|| ', race ' || coalesce(race, 'not recorded') || '.\n'
|| 'Admission: ' || coalesce(admission_words, 'type not recorded') || ', source '
|| coalesce(admission_source, 'not recorded') || '.\n'
|| 'Specialty: ' || coalesce(specialty, 'not recorded') || '. Payer: ' || coalesce(payer, 'not recorded') || '.\n'
|| 'Year before admission: inpatient stays ' || number_inpatient || ', emergency visits ' || number_emergency
|| ', outpatient visits ' || number_outpatient || '.'
"""

# Neither the label nor the diagnosis codes; no word on death or hospice, whose stays get no readmission label anyway.
_AT_DISCHARGE = """
'Stay: ' || time_in_hospital || ' days. Laboratory tests ' || num_lab_procedures || ', procedures ' || num_procedures
|| ', medications ' || num_medications || ', diagnoses recorded ' || number_diagnoses || '.\n'
|| 'Principal diagnosis group: ' || coalesce(chapter_1, 'not recorded') || '. Other groups: '
|| coalesce(nullif(concat_ws(', ', chapter_2, chapter_3), ''), 'none') || '.\n'
|| 'Hemoglobin A1c ' || a1c || '. Glucose ' || glucose || '.\n'
|| 'Diabetes medicines: ' || coalesce(nullif(drugs, ''), 'none') || '.'
|| CASE change WHEN 'Ch' THEN ' Treatment changed.' ELSE ' Treatment not changed.' END
|| coalesce('\nDischarged to: ' || disposition_words || '.', '')
"""

_NOTES = f"""
SELECT note_id, patient_id, encounter_id, note_type, specialty AS department, text FROM (
    SELECT encounter_id || '-hp' AS note_id, *, 'history_and_physical' AS note_type,
        'HISTORY AND PHYSICAL\n' || {_ON_ADMISSION} AS text FROM chunk
    UNION ALL
    SELECT encounter_id || '-ds' AS note_id, *, 'discharge_summary' AS note_type,
        'DISCHARGE SUMMARY\n' || {_ON_ADMISSION} || '\n' || {_AT_DISCHARGE} AS text FROM chunk
) ORDER BY nth, note_type DESC
"""

_DIAGNOSES = " UNION ALL ".join(
    f"SELECT nth, encounter_id, patient_id, code_{d} AS code, {d[-1]} AS position FROM chunk WHERE code_{d} IS NOT NULL"
    for d in DIAGNOSES
)


def _labels(stays: str) -> str:
    return f"""
    SELECT nth, encounter_id, 'readmission' AS task, CASE readmitted WHEN '<30' THEN '1' ELSE '0' END AS value
    FROM {stays}
    WHERE disposition_id NOT IN {codes.NOT_ELIGIBLE_FOR_READMISSION}
    UNION ALL
    SELECT nth, encounter_id, 'mortality', CASE disposition WHEN 'expired' THEN '1' ELSE '0' END FROM {stays}
    WHERE disposition_id NOT IN {codes.DEATH_PLACE_UNSURE}
    UNION ALL
    SELECT nth, encounter_id, 'length_of_stay', time_in_hospital::VARCHAR FROM {stays}
    """


# Structured fields for baselines: (name, SQL, whether a number, known at). `code_` fields are what the comorbidity
# label is computed from: a comorbidity baseline leaves that prefix out.
_FIELDS: tuple[tuple[str, str, bool, str], ...] = (
    ("age", "age_from + 5", True, "admission"),
    ("sex", "sex", False, "admission"),
    ("race", "race", False, "admission"),
    ("admission_type", "admission_words", False, "admission"),
    ("admission_source", "admission_source", False, "admission"),
    ("payer", "payer", False, "admission"),
    ("specialty", "specialty", False, "admission"),
    *((n, n, True, "admission") for n in NUMBERS_AT_ADMISSION),
    *((n, n, True, "discharge") for n in NUMBERS_AT_DISCHARGE),
    *((f"code_{d}", f"code_{d}", False, "discharge") for d in DIAGNOSES),
    *((f"chapter_{d[-1]}", f"chapter_{d[-1]}", False, "discharge") for d in DIAGNOSES),
    ("a1c", "a1c", False, "discharge"),
    ("glucose", "glucose", False, "discharge"),
    *((drug, f"lower({name(drug)})", False, "discharge") for drug in codes.DRUGS),
    ("treatment_changed", "(change = 'Ch')::INT", True, "discharge"),
    ("diabetes_medicine", "(diabetes_med = 'Yes')::INT", True, "discharge"),
    ("disposition", "coalesce(disposition_words, disposition)", False, "discharge"),
)
_FIELD_ROWS = " UNION ALL ".join(
    f"SELECT nth, {order} AS place, encounter_id, {quoted(field)} AS field, "
    f"{sql if number else 'NULL'}::DOUBLE AS number, {'NULL' if number else sql}::VARCHAR AS text, "
    f"{quoted(known_at)} AS known_at FROM chunk WHERE {sql} IS NOT NULL"
    for order, (field, sql, number, known_at) in enumerate(_FIELDS)
)

_QUERIES = {
    "encounters": _ENCOUNTERS,
    "notes": _NOTES,
    "diagnoses": "SELECT encounter_id, patient_id, code, 'ICD-9-CM' AS code_version, position "
    f"FROM ({_DIAGNOSES}) ORDER BY nth, position",
    "given_labels": f"SELECT encounter_id, task, value FROM ({_labels('chunk')}) ORDER BY nth, task",
    "fields": f"SELECT encounter_id, field, number, text, known_at FROM ({_FIELD_ROWS}) ORDER BY nth, place",
}
