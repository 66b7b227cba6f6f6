"""What hangs on the visits of a CDM: diagnosis and procedure codes, stays in units, notes."""

from __future__ import annotations

from lang1.records.readers import omop_concepts as concepts
from lang1.records.readers.mimic_codes import unit_type
from lang1.records.readers.omop_settings import OmopSettings
from lang1.records.readers.omop_source import Cdm, filtered
from lang1.records.readers.omop_sql import Times, bare_code, case, identity, version_by_shape
from lang1.records.readers.staging import Staging
from lang1.records.store import quoted

CONDITION = (
    "visit_occurrence_id", "condition_source_value", "condition_source_concept_id", "condition_type_concept_id",
    "condition_status_concept_id",
)  # fmt: skip
PROCEDURE = (
    "visit_occurrence_id", "procedure_date", "procedure_datetime", "procedure_source_value",
    "procedure_source_concept_id",
)  # fmt: skip
DETAIL = (
    "visit_occurrence_id", "visit_detail_concept_id", "visit_detail_start_date", "visit_detail_start_datetime",
    "visit_detail_end_date", "visit_detail_end_datetime", "care_site_id",
)  # fmt: skip
NOTE = (
    "note_date", "note_datetime", "note_type_concept_id", "note_class_concept_id", "note_title", "note_source_value",
    "visit_occurrence_id",
)  # fmt: skip
CODED_ELSEWHERE = ("observation", "measurement")
CPT, HCPCS = "[0-9]{4}[0-9AFTU]", "[A-V][0-9]{4}"
PCS, ICD9_PROCEDURE = "[0-9A-HJ-NP-Z]{7}", r"[0-9]{2}\.?[0-9]{1,2}"
FIRST_LOCAL_CONCEPT = 2_000_000_000  # by convention ids from here on are a site's own, not of a standard vocabulary


def create_coded(stage: Staging, cdm: Cdm, settings: OmopSettings) -> None:
    """Create ``codes`` (concept to vocabulary and code, of the vocabularies that matter) and read what is coded.

    Codes whose standard concept is no condition lie in ``observation`` (history, status), ``measurement`` (findings of
    a laboratory) and ``procedure_occurrence``; from there only those are taken that the concept table, or a prefix,
    says are diagnoses. They are picked while the file streams past: of measurements nearly all are something else.
    """
    vocabularies = [*concepts.DIAGNOSIS_VOCABULARIES, *concepts.PROCEDURE_VOCABULARIES]
    wanted = (
        f"vocabulary_id IN ({', '.join(map(quoted, vocabularies))}) OR "
        f"(vocabulary_id = 'LOINC' AND concept_code IN ({', '.join(map(quoted, concepts.NOTE_LOINC))}))"
    )
    stage.read("concept", filtered(cdm.tables["concept"], wanted), ["concept_id", "vocabulary_id", "concept_code"])
    stage.connection.execute(f"""
        CREATE TABLE codes AS
        SELECT {identity("concept_id")} AS concept_id, vocabulary_id, concept_code,
            {case("vocabulary_id", concepts.DIAGNOSIS_VOCABULARIES)} AS version,
            {case("vocabulary_id", concepts.PROCEDURE_VOCABULARIES)} AS procedure_version
        FROM concept QUALIFY row_number() OVER (PARTITION BY concept_id ORDER BY _file, _row) = 1""")
    stage.connection.execute("DROP TABLE concept")
    stage.read("condition_occurrence", cdm.tables["condition_occurrence"], ["person_id"], CONDITION)
    stage.read("procedure_occurrence", cdm.tables["procedure_occurrence"], ["person_id"], PROCEDURE)
    for table in CODED_ELSEWHERE:
        value, concept = f"{table}_source_value", f"{table}_source_concept_id"
        known = (
            f"{identity(concept)} IN (SELECT concept_id FROM codes WHERE version IS NOT NULL) "
            f"OR regexp_matches(upper({value}), '^ICD')"
        )
        there = [file for file in cdm.tables[table] if {c.lower() for c in file.columns} >= {value, concept}]
        stage.read(table, filtered(there, known), ["person_id", "visit_occurrence_id", value, concept])


def put_diagnoses(stage: Staging, settings: OmopSettings) -> None:
    """Diagnosis codes of visits, each code of a visit once."""
    status, kind = identity("condition_status_concept_id"), identity("condition_type_concept_id")
    if not settings.keep_problem_lists:
        not_coded = ", ".join(map(quoted, concepts.NOT_CODED_TYPES))
        stage.set_aside("condition_occurrence", f"{kind} IN ({not_coded})", "of a problem list (keep_problem_lists)")
        not_final = ", ".join(map(quoted, concepts.NOT_FINAL_STATUS))
        stage.set_aside(
            "condition_occurrence",
            f"{status} IN ({not_final})",
            "an admitting or preliminary diagnosis (keep_problem_lists)",
        )
    stage.set_aside("condition_occurrence", "visit_occurrence_id IS NULL", "no visit")
    principal = (
        f"coalesce({status} IN ({', '.join(map(quoted, concepts.PRINCIPAL_STATUS))}), false) OR "
        f"coalesce({kind} IN ({', '.join(map(quoted, concepts.PRINCIPAL_TYPES))}), false)"
    )
    firsts = [int(first) for first in concepts.FIRST_POSITION_TYPES[:2]]
    nth = " ".join(
        f"WHEN try_cast({kind} AS BIGINT) BETWEEN {first} AND {first + 14} "
        f"THEN try_cast({kind} AS BIGINT) - {first} + 1"
        for first in firsts
    )
    last = quoted(concepts.FIRST_POSITION_TYPES[2])
    version = settings.code_version
    untold = {"by_shape": "shape", "none": "NULL"}.get(
        version, f"CASE WHEN shape IS NOT NULL THEN {quoted(version)} END"
    )
    # Without a vocabulary of ICD codes a source concept says nothing, and the shape of the source value decides.
    explained = "EXISTS (SELECT 1 FROM codes WHERE version IS NOT NULL)"
    icd_concept = "EXISTS (SELECT 1 FROM codes k WHERE k.version IS NOT NULL AND k.concept_id = {0})"
    elsewhere = " ".join(
        f"UNION ALL SELECT visit_occurrence_id, {table}_source_value, {identity(f'{table}_source_concept_id')}, "
        f"false, NULL, false, _file, _row, '{table}' FROM {table}"
        for table in CODED_ELSEWHERE
    )
    stage.connection.execute(f"""
        CREATE TABLE diagnosis_codes AS
        WITH given AS (
            SELECT visit_occurrence_id, condition_source_value AS said,
                {identity("condition_source_concept_id")} AS source, {principal} AS principal,
                CASE {nth} WHEN {kind} = {last} THEN 1 END AS nth, true AS any_shape,
                _file, _row, 'condition_occurrence' AS relation
            FROM condition_occurrence
            {elsewhere}
            UNION ALL
            SELECT visit_occurrence_id, procedure_source_value, {identity("procedure_source_concept_id")},
                false, NULL, false, _file, _row, 'procedure_occurrence' FROM procedure_occurrence
            WHERE {icd_concept.format(identity("procedure_source_concept_id"))}
        ),
        shaped AS (
            SELECT g.*, k.version AS told, k.concept_code,
                CASE WHEN any_shape AND (coalesce(source, '0') = '0' OR NOT {explained})
                        OR regexp_matches(upper(trim(said)), '^ICD')
                    THEN {version_by_shape("upper(trim(said))")} END AS shape
            FROM given g LEFT JOIN codes k ON k.concept_id = g.source AND k.version IS NOT NULL
        )
        SELECT m.encounter_id, m.person_id, relation, said, told IS NULL AS by_shape,
            CASE WHEN told IS NOT NULL THEN concept_code ELSE {bare_code("said")} END AS code,
            coalesce(told, {untold}) AS version, principal, nth, s._file, s._row
        FROM shaped s LEFT JOIN visit_map m ON m.visit_id = {identity("s.visit_occurrence_id")}""")
    stage.set_aside("diagnosis_codes", "encounter_id IS NULL", "a visit that is not there")
    _count_without_code(stage)
    # E and V begin codes of ICD-9-CM and of ICD-10-CM; a stay is coded in one of them.
    stage.connection.execute("""
        CREATE TABLE stay_codes AS
        SELECT * REPLACE (CASE WHEN version = 'either' THEN
            mode(nullif(version, 'either')) OVER (PARTITION BY encounter_id) ELSE version END AS version)
        FROM diagnosis_codes""")
    stage.set_aside("stay_codes", "version IS NULL", "a code of ICD-9-CM or ICD-10-CM, no telling which (code_version)")
    stage.set_aside(
        "stay_codes",
        """(_file, _row) NOT IN (SELECT arg_min((_file, _row), (NOT principal, nth IS NULL, nth, _file, _row))
            FROM stay_codes GROUP BY encounter_id, version, replace(code, '.', ''))""",
        "a code of the visit that was there before (one code can map to several concepts)",
    )
    by_shape = stage.ask("SELECT count(*) FROM stay_codes WHERE by_shape")[0][0]
    if by_shape:
        stage.draft.counts["diagnosis codes whose version follows from their shape (no concept says it)"] = by_shape
    stage.put(
        "diagnoses",
        """
        SELECT encounter_id, person_id AS patient_id, code, version AS code_version,
            CASE WHEN principal THEN 1
                ELSE nth + bool_or(principal) OVER (PARTITION BY encounter_id)::INTEGER END::INTEGER AS position,
            _file, _row
        FROM stay_codes ORDER BY relation, _file, _row""",
    )


def _count_without_code(stage: Staging) -> None:
    stage.set_aside("diagnosis_codes", "version IS NULL AND said IS NULL", "no source value, only a standard concept")
    stage.set_aside(
        "diagnosis_codes", "version IS NULL", "a source value that is no ICD code (SNOMED, or the site's own)"
    )


def put_procedures(stage: Staging, settings: OmopSettings) -> None:
    """Procedure codes of visits, by vocabulary, or by shape where no concept table explains them."""
    code, source = "upper(trim(procedure_source_value))", identity("procedure_source_concept_id")
    explained = "EXISTS (SELECT 1 FROM codes WHERE procedure_version IS NOT NULL)"
    stage.connection.execute(f"""
        CREATE TABLE procedure_codes AS
        SELECT m.encounter_id, m.person_id, coalesce(k.concept_code, {code}) AS code,
            coalesce(k.procedure_version, CASE
                WHEN k.version IS NOT NULL THEN NULL
                WHEN {source} <> '0' AND {explained} THEN NULL
                WHEN try_cast({source} AS BIGINT) >= {FIRST_LOCAL_CONCEPT} THEN NULL
                WHEN regexp_full_match({code}, '{CPT}') THEN 'CPT'
                WHEN regexp_full_match({code}, '{HCPCS}') THEN 'HCPCS'
                WHEN regexp_full_match({code}, '{PCS}') AND regexp_matches({code}, '^0|[A-Z]') THEN 'ICD-10-PCS'
                WHEN regexp_full_match({code}, '{ICD9_PROCEDURE}') THEN 'ICD-9-CM' END) AS version,
            procedure_date, procedure_datetime, p._file, p._row
        FROM procedure_occurrence p LEFT JOIN codes k ON k.concept_id = {source}
            LEFT JOIN visit_map m ON m.visit_id = {identity("p.visit_occurrence_id")}""")
    stage.set_aside("procedure_codes", "version IS NULL", "no code of ICD, CPT or HCPCS")
    stage.set_aside("procedure_codes", "encounter_id IS NULL", "no visit, or one that is not there")
    at = Times(stage, settings).moment("procedure_codes", "procedure", "end_of_day")
    stage.put(
        "procedures",
        f"""
        SELECT encounter_id, person_id AS patient_id, code, version AS code_version, {at} AS performed_time, _file, _row
        FROM procedure_codes ORDER BY _file, _row""",
    )


def put_units(stage: Staging, cdm: Cdm, settings: OmopSettings) -> None:
    """Stays in units: the visit details that name a care site or a kind of unit, of other than outpatient visits."""
    stage.read("visit_detail", cdm.tables["visit_detail"], ["person_id"], DETAIL)
    kinds = concepts.UNIT_TYPES | settings.unit_types
    kind = case(identity("visit_detail_concept_id"), kinds)
    stage.connection.execute(f"""
        CREATE TABLE visit_details AS
        SELECT d.*, m.encounter_id, m.class, coalesce(s.care_site_name, s.care_site_source_value) AS unit,
            {kind} AS told
        FROM visit_detail d LEFT JOIN visit_map m ON m.visit_id = {identity("d.visit_occurrence_id")}
            LEFT JOIN sites s ON s.care_site_id = {identity("d.care_site_id")}""")
    stage.set_aside("visit_details", "encounter_id IS NULL", "no visit, or one that is not there")
    stage.set_aside("visit_details", "class = 'outpatient'", "of an outpatient visit")
    stage.set_aside("visit_details", "unit IS NULL AND told IS NULL", "no care site and no kind of unit")
    times = Times(stage, settings)
    stage.put(
        "unit_stays",
        f"""
        SELECT encounter_id, {identity("person_id")} AS patient_id, unit,
            coalesce({case("unit", settings.unit_types)}, told, {unit_type("unit")}) AS unit_type,
            {times.moment("visit_details", "visit_detail_start", "end_of_day")} AS in_time,
            {times.moment("visit_details", "visit_detail_end", "end_of_day")} AS out_time, _file, _row
        FROM visit_details ORDER BY _file, _row""",
    )


def put_notes(stage: Staging, cdm: Cdm, settings: OmopSettings) -> None:
    """Notes, available at ``note_datetime``, else at the end of ``note_date``."""
    stage.read("note", cdm.tables["note"], ["note_id", "person_id", "note_text"], NOTE)
    stage.set_aside("note", "note_text IS NULL", "no text")
    times = Times(stage, settings)
    own = {theirs.lower(): ours for theirs, ours in settings.note_types.concepts.items()}
    known = concepts.NOTE_TYPES | own
    loinc = concepts.NOTE_LOINC | own
    classed, typed = identity("note_class_concept_id"), identity("note_type_concept_id")
    at = times.moment("note", "note", "end_of_day")
    kind = f"""coalesce({_titled(settings.note_types.titles)}, {case(classed, known)}, {case("k.concept_code", loinc)},
        {case(typed, known)}, {_titled(concepts.NOTE_TITLES)}, 'other')"""
    stage.connection.execute(f"""
        CREATE TABLE notes_read AS
        SELECT n.*, {kind} AS kind, {at} AS stamp, m.encounter_id,
            m.encounter_id IS NULL AND n.visit_occurrence_id IS NOT NULL AS lost,
            coalesce(n.note_datetime, n.note_date) IS NOT NULL AND ({at}) IS NULL AS no_time
        FROM note n LEFT JOIN visit_map m ON m.visit_id = {identity("n.visit_occurrence_id")}
            LEFT JOIN codes k ON k.vocabulary_id = 'LOINC' AND k.concept_id = {classed}""")
    stage.connection.execute("DROP TABLE note")
    stage.set_aside("notes_read", "lost", "a visit that is not there")
    if settings.notes_without_visit == "by_time":
        person = identity("n.person_id")
        stage.connection.execute(f"""
            UPDATE notes_read SET encounter_id = found.encounter_id FROM (
                SELECT n._file, n._row, min(m.encounter_id) AS encounter_id
                FROM notes_read n JOIN visit_map m ON m.person_id = {person} AND m.class = 'inpatient'
                    AND n.stamp >= m.starts AND coalesce(n.stamp <= m.ends, true)
                WHERE n.encounter_id IS NULL GROUP BY 1, 2 HAVING count(DISTINCT m.encounter_id) = 1) found
            WHERE found._file = notes_read._file AND found._row = notes_read._row""")
    counts = stage.draft.counts
    alone = stage.ask("SELECT count(*) FROM notes_read WHERE encounter_id IS NULL")[0][0]
    if alone:
        counts["notes without a visit, kept and unusable (notes_without_visit)"] = alone
    untyped = stage.ask("""
        SELECT coalesce(note_title, note_source_value, note_class_concept_id, note_type_concept_id), count(*)
        FROM notes_read WHERE kind = 'other' GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 50""")
    if untyped:
        counts.setdefault("unmapped", {})["note"] = {f"{title} (taken as other)": rows for title, rows in untyped}
    filed = settings.note_time_is == "filed"
    stage.put(
        "notes",
        f"""
        SELECT {identity("note_id")} AS note_id, {identity("person_id")} AS patient_id, encounter_id, kind AS note_type,
            {"NULL::TIMESTAMP" if filed else "stamp"} AS created_time,
            {"stamp" if filed else "NULL::TIMESTAMP"} AS signed_time,
            {"stamp" if filed else "NULL::TIMESTAMP"} AS available_time, note_text AS text, _file, _row,
            CASE WHEN no_time THEN 'note_date is not a time' END AS _bad
        FROM notes_read ORDER BY _file, _row""",
    )


def _titled(titles: dict[str, str]) -> str:
    """SQL: the type that the first matching title tells, else null."""
    said = "concat_ws(' ', note_title, note_source_value)"
    whens = " ".join(
        f"WHEN regexp_matches({said}, {quoted(title)}, 'i') THEN {quoted(kind)}" for title, kind in titles.items()
    )
    return f"CASE {whens} END" if whens else "NULL::VARCHAR"
