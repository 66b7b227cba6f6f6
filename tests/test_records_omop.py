"""OMOP: the same invented CDM in every arrangement gives the same records, and every row left out is counted."""

from __future__ import annotations

import csv
import gzip
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime as dt
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lang1.common.errors import InputError, Lang1Error, SettingsError
from lang1.common.settings import load_settings
from lang1.records.readers.omop import OmopSettings, ingest_omop
from lang1.records.readers.omop_sql import version_by_shape
from lang1.records.store import CompleteThrough, Records, part_files

SMALL = Path(__file__).parent / "data" / "omop"
COMPLETE = {"encounters": CompleteThrough(through=dt(2024, 12, 31), key="admit_time")}
TABLES = ("patients", "encounters", "notes", "diagnoses", "procedures", "unit_stays")


def ask(records: Records, sql: str) -> list[tuple[Any, ...]]:
    with records.connect() as connection:
        return connection.execute(sql).fetchall()


def ingest(source: Path, out: Path, **given: Any) -> Records:
    return Records.open(ingest_omop(source, out, OmopSettings(**{"complete_through": COMPLETE} | given)))


def content(records: Records) -> dict[str, list[dict[str, Any]]]:
    return {
        table: [r for f in part_files(records.path, table) for r in pq.read_table(f).to_pylist()] for table in TABLES
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Records:
    return ingest(SMALL, tmp_path_factory.mktemp("omop") / "records")


def test_patients_with_deaths_and_their_sources(small: Records) -> None:
    columns = "patient_id, birth_year, sex, race, ethnicity, area, death_time, death_source"
    assert ask(small, f"SELECT {columns} FROM patients ORDER BY 1") == [
        ("1", 1950, "male", "White", "Not Hispanic", "Hampden", dt(2024, 6, 1, 4), "registry"),
        ("2", 1960, "female", "Islander", "Hispanic", None, dt(2024, 2, 3), "ehr"),
        ("3", 1970, "unknown", None, None, None, None, None),
    ]
    assert small.meta.vital_status.source == "ehr" and small.meta.system == "STE"


def test_visits_become_encounters(small: Records) -> None:
    columns = "encounter_id, encounter_class, admit_time, discharge_time, admission_type, disposition"
    assert ask(small, f"SELECT {columns} FROM encounters ORDER BY 1") == [
        ("10", "inpatient", dt(2024, 1, 1, 22), dt(2024, 1, 5, 10), "emergency", "transfer_acute"),
        ("11", "inpatient", dt(2024, 1, 5, 10, 30), dt(2024, 1, 8, 12), "unknown", "skilled_nursing"),
        ("12", "outpatient", dt(2024, 3, 1, 9), dt(2024, 3, 1, 9, 30), "unknown", "unknown"),
        # Only dates are known: the stay begins with the first day and ends with the last.
        ("20", "inpatient", dt(2024, 2, 1), dt(2024, 2, 3, 23, 59, 59), "unknown", "expired"),
        ("21", "emergency", dt(2024, 1, 10, 8), dt(2024, 1, 10, 11), "emergency", "home"),
        ("30", "inpatient", dt(2024, 12, 30, 7), dt(2024, 12, 31, 23, 59, 59), "unknown", "unknown"),
        ("31", "observation", dt(2024, 5, 1, 7), dt(2024, 5, 2, 7), "unknown", "home"),
        ("32", "inpatient", dt(2024, 6, 1, 7), dt(2024, 6, 2, 7), "unknown", "unknown"),
        ("33", "outpatient", dt(2024, 7, 1, 7), dt(2024, 7, 1, 8), "unknown", "unknown"),
    ]
    facts = "encounter_id, facility, department, admission_source, age_at_admission, payer"
    assert ask(small, f"SELECT {facts} FROM encounters WHERE encounter_id IN ('10', '20') ORDER BY 1") == [
        ("10", "St Elsewhere", None, "home", 73.83, "Medicare Advantage"),
        ("20", "St Elsewhere", None, "Clinic", 64.0, "payer concept 289"),  # only the year of birth is known
    ]
    counts = small.folder.manifest.counts
    assert counts["visits of a kind without a class, taken as outpatient"] == 1
    assert counts["unmapped"]["visit_occurrence.discharged_to"] == {"Spa (taken as unknown)": 1}


def test_codes_by_concept_by_shape_and_by_the_company_they_keep(small: Records) -> None:
    assert ask(small, "SELECT encounter_id, code, code_version, position FROM diagnoses ORDER BY 1, 2") == [
        ("10", "E11.9", "ICD-10-CM", None),
        ("10", "E8801", "ICD-10-CM", None),  # either, and the others of the stay are ICD-10-CM
        ("10", "I50.9", "ICD-10-CM", 1),
        ("11", "Z99.2", "ICD-10-CM", None),  # from the observation table: dialysis is no condition
        ("20", "401.9", "ICD-9-CM", 1),
        ("20", "4280", "ICD-9-CM", 2),
        ("20", "E8801", "ICD-9-CM", 3),
    ]
    assert ask(small, "SELECT code, code_version, performed_time FROM procedures ORDER BY 1") == [
        ("0016070", "ICD-10-PCS", dt(2024, 1, 3, 23, 59, 59)),
        ("5A1D70Z", "ICD-10-PCS", dt(2024, 1, 2, 9)),
    ]


def test_every_row_left_out_is_counted(small: Records) -> None:
    assert small.folder.manifest.left_out == {
        "condition_occurrence: an admitting or preliminary diagnosis (keep_problem_lists)": 1,
        "condition_occurrence: no visit": 1,
        "condition_occurrence: of a problem list (keep_problem_lists)": 1,
        "death: another death of the same person (the first counts)": 1,
        "death: no death_date that is a date": 1,
        "diagnosis_codes: a source value that is no ICD code (SNOMED, or the site's own)": 1,
        "diagnosis_codes: a visit that is not there": 1,
        "diagnosis_codes: no source value, only a standard concept": 1,
        "encounters: discharge before admission": 1,
        "encounters: patient_id not in patients": 1,
        "encounters: visit_start is not a time": 1,
        "note: no text": 1,
        "notes_read: a visit that is not there": 1,
        "person: no person_id": 1,
        "procedure_codes: no code of ICD, CPT or HCPCS": 1,
        "procedure_codes: no visit, or one that is not there": 1,
        "stay_codes: a code of ICD-9-CM or ICD-10-CM, no telling which (code_version)": 1,
        "stay_codes: a code of the visit that was there before (one code can map to several concepts)": 1,
        "visit_details: no care site and no kind of unit": 1,
        "visit_details: of an outpatient visit": 1,
        "visit_occurrence: a visit_occurrence_id that was there before": 1,
    }
    example = small.folder.manifest.extra["left_out_examples"]["encounters: patient_id not in patients"]
    assert example == "visit_occurrence.csv row 10"


def test_notes_are_available_at_their_time_or_at_the_end_of_their_day(small: Records) -> None:
    columns = "note_id, encounter_id, note_type, available_time, signed_time = available_time, text"
    assert ask(small, f"SELECT {columns} FROM notes ORDER BY 1") == [
        ("1", "11", "discharge_summary", dt(2024, 1, 8, 11), True, "Discharge, in two\nlines"),
        ("2", "20", "history_and_physical", dt(2024, 2, 1, 23, 59, 59), True, "Admitted"),
        ("3", None, "history_and_physical", dt(2024, 1, 2, 8), True, "Without a visit"),
        ("5", "11", "other", dt(2024, 1, 9, 8), True, "Later"),  # an addendum is no discharge summary
        ("6", "10", "nursing", dt(2024, 1, 2, 8), True, "Nursing"),  # by the LOINC code of its class
    ]
    assert small.folder.manifest.counts["notes without a visit, kept and unusable (notes_without_visit)"] == 1


def test_choices_about_notes(tmp_path: Path) -> None:
    rules = {"titles": {"kardex": "consult"}, "concepts": {44814638: "emergency"}}
    records = ingest(SMALL, tmp_path / "r", notes_without_visit="by_time", note_time_is="written", note_types=rules)
    rows = ask(records, "SELECT note_id, encounter_id, note_type, available_time, created_time FROM notes ORDER BY 1")
    assert rows[2] == ("3", "10", "history_and_physical", None, dt(2024, 1, 2, 8))
    assert (rows[1][2], rows[4][2]) == ("emergency", "consult")


def test_units(small: Records) -> None:
    assert ask(small, "SELECT encounter_id, unit, unit_type, in_time FROM unit_stays ORDER BY in_time") == [
        ("10", None, "emergency", dt(2024, 1, 1, 22)),
        ("10", "Medical Intensive Care Unit (MICU)", "intensive_care", dt(2024, 1, 2, 1)),
    ]


@pytest.mark.parametrize(("how", "gap"), [("overlapping", 1), ("linked", 1)])
def test_visits_that_follow_at_once_can_be_one_encounter(tmp_path: Path, how: str, gap: float) -> None:
    records = ingest(SMALL, tmp_path / "r", merge_visits=how, merge_gap_hours=gap)
    columns = "encounter_id, admit_time, discharge_time, admission_type, disposition"
    assert ask(
        records, f"SELECT {columns} FROM encounters WHERE patient_id = '1' AND encounter_class = 'inpatient'"
    ) == [("10", dt(2024, 1, 1, 22), dt(2024, 1, 8, 12), "emergency", "skilled_nursing")]
    assert ask(records, "SELECT DISTINCT encounter_id FROM diagnoses WHERE patient_id = '1'") == [("10",)]
    assert ask(records, "SELECT encounter_id FROM notes WHERE note_id = '1'") == [("10",)]
    assert records.folder.manifest.counts["inpatient visits that continue an earlier one (merge_visits)"] == 1


def test_a_gap_or_a_missing_link_keeps_visits_apart(tmp_path: Path) -> None:
    assert ask(
        ingest(SMALL, tmp_path / "a", merge_visits="overlapping"), "SELECT 1 FROM encounters WHERE encounter_id = '11'"
    )
    source = shutil.copytree(SMALL, tmp_path / "cdm")
    text = (source / "visit_occurrence.csv").read_text().replace("8863,SNF,10", "8863,SNF,")
    (source / "visit_occurrence.csv").write_text(text)
    records = ingest(source, tmp_path / "b", merge_visits="linked", merge_gap_hours=1)
    assert ask(records, "SELECT 1 FROM encounters WHERE encounter_id = '11'")


def test_visits_still_open_get_no_end(tmp_path: Path) -> None:
    records = ingest(SMALL, tmp_path / "r", open_visits_end="2024-12-31")
    assert ask(records, "SELECT discharge_time, disposition FROM encounters WHERE encounter_id = '30'") == [
        (None, None)
    ]
    assert records.folder.manifest.counts["visits still open at the end of the data"] == 1


def test_a_site_maps_its_own_concepts(tmp_path: Path) -> None:
    records = ingest(
        SMALL,
        tmp_path / "r",
        visit_classes={2000000777: "inpatient", "OBS": "inpatient"},
        dispositions={"HOME HEALTH CARE": "home_health", "77777": "rehabilitation"},
        admission_types={"ELECTIVE": "elective"},
        no_disposition="home",
        keep_outpatient=False,
        care_site_is="department",
    )
    found = ask(
        records, "SELECT encounter_id, encounter_class, disposition FROM encounters WHERE patient_id = '3' ORDER BY 1"
    )
    assert found == [
        ("30", "inpatient", "home"),
        ("31", "inpatient", "home_health"),
        ("32", "inpatient", "rehabilitation"),
        ("33", "inpatient", "home"),
    ]
    assert ask(records, "SELECT admission_type, department FROM encounters WHERE encounter_id = '20'") == [
        ("elective", "St Elsewhere")
    ]
    assert records.folder.manifest.left_out["visits: an outpatient visit (keep_outpatient=false)"] == 1


def as_parquet(folder: Path) -> Path:
    """Tables as folders of typed parts, as other tools write them: ids as numbers, dates as dates."""
    for file in sorted(SMALL.glob("*.csv")):
        table = pacsv.read_csv(
            file,
            parse_options=pacsv.ParseOptions(newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(strings_can_be_null=True),
        )
        (folder / file.stem).mkdir()
        pq.write_table(table.slice(0, 2), folder / file.stem / "part-0.parquet")
        pq.write_table(table.slice(2), folder / file.stem / "part-1.parquet")
    return folder


def as_old_upper_case_tabs(folder: Path) -> Path:
    """CDM 5.3: the older names, upper case, tab-separated, gzipped; the vocabulary with quotes that quote nothing."""
    old = {"admitted_from_": "admitting_", "discharged_to_": "discharge_to_"}
    for file in sorted(SMALL.glob("*.csv")):
        with file.open(newline="") as stream:
            header, *rows = csv.reader(stream)
        for new, before in old.items():
            header = [
                c.replace(new, before).replace("admitting_concept_id", "admitting_source_concept_id") for c in header
            ]
        with gzip.open(folder / f"{file.stem.upper()}.csv.gz", "wt", newline="") as stream:
            if file.stem == "concept":
                stream.writelines("\t".join(row) + "\n" for row in [header, *rows])
            else:
                csv.writer(stream, delimiter="\t").writerows([[c.upper() for c in header], *rows])
    return folder


def as_database(folder: Path) -> Path:
    path = folder / "cdm.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE SCHEMA omop; CREATE SCHEMA vocab")
        for file in sorted(SMALL.glob("*.csv")):
            place = "vocab" if file.stem == "concept" else "omop"
            connection.execute(
                f"CREATE TABLE {place}.{file.stem} AS SELECT * FROM read_csv('{file}', header=true, all_varchar=true)"
            )
    return path


@pytest.mark.parametrize("arranged", [as_parquet, as_old_upper_case_tabs, as_database])
def test_every_arrangement_gives_the_same_records(
    small: Records, tmp_path: Path, arranged: Callable[[Path], Path]
) -> None:
    (tmp_path / "cdm").mkdir()
    records = ingest(arranged(tmp_path / "cdm"), tmp_path / "r")
    assert content(records) == content(small)
    assert records.folder.manifest.left_out == small.folder.manifest.left_out


def test_the_database_is_not_changed(tmp_path: Path) -> None:
    path = as_database(tmp_path)
    before = path.read_bytes()
    ingest(path, tmp_path / "r")
    assert path.read_bytes() == before
    with pytest.raises(InputError, match="no schema 'nowhere'; there are omop, vocab"):
        ingest(path, tmp_path / "s", schema_name="nowhere")


def test_datetimes_that_are_all_midnight_are_dates(tmp_path: Path) -> None:
    source = shutil.copytree(SMALL, tmp_path / "cdm")
    (source / "note.csv").write_text(
        "note_id,person_id,note_date,note_datetime,note_text,visit_occurrence_id\n"
        "1,1,2024-01-08,2024-01-08 00:00:00,Text,11\n2,1,20240102,2024-01-02 00:00:00,Text,10\n"
    )
    records = ingest(source, tmp_path / "r")
    assert [row[0] for row in ask(records, "SELECT available_time FROM notes ORDER BY 1")] == [
        dt(2024, 1, 2, 23, 59, 59),
        dt(2024, 1, 8, 23, 59, 59),
    ]
    assert "note.note" in records.folder.manifest.extra["dates_only"]


def test_times_with_an_offset_need_a_zone(tmp_path: Path) -> None:
    source = shutil.copytree(SMALL, tmp_path / "cdm")
    text = (source / "visit_occurrence.csv").read_text().replace("2024-01-01 22:00:00,", "2024-01-02T03:00:00Z,")
    (source / "visit_occurrence.csv").write_text(text)
    with pytest.raises(InputError, match=r"visit_start_datetime is '2024-01-02T03:00:00Z'.*set time_zone"):
        ingest(source, tmp_path / "a")
    records = ingest(source, tmp_path / "b", time_zone="America/New_York")
    assert ask(records, "SELECT admit_time FROM encounters WHERE encounter_id = '10'") == [(dt(2024, 1, 1, 22),)]
    with pytest.raises(SettingsError, match="time_zone"):
        ingest(source, tmp_path / "c", time_zone="Mars/Olympus")


def test_other_ways_of_writing_times(tmp_path: Path) -> None:
    source = shutil.copytree(SMALL, tmp_path / "cdm")
    text = (source / "visit_occurrence.csv").read_text().replace("2024-02-01,,2024-02-03,,", "02/01/2024,,02/03/2024,,")
    (source / "visit_occurrence.csv").write_text(text.replace("2024-01-10 08:00:00", "01/10/2024 08:00"))
    records = ingest(source, tmp_path / "r", time_formats=["%m/%d/%Y %H:%M", "%m/%d/%Y"])
    assert ask(records, "SELECT admit_time, discharge_time FROM encounters WHERE patient_id = '2' ORDER BY 1") == [
        (dt(2024, 1, 10, 8), dt(2024, 1, 10, 11)),
        (dt(2024, 2, 1), dt(2024, 2, 3, 23, 59, 59)),
    ]


def test_true_dates_need_a_declaration(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cdm_source says 2025-01-15.*through: 2025-01-15, key: discharge_time"):
        ingest(SMALL, tmp_path / "r", complete_through=None)
    assert not (tmp_path / "r").exists()
    assert ingest(SMALL, tmp_path / "r", complete_through={}).meta.complete_through == {}


def test_dates_after_the_release_are_shifted(tmp_path: Path) -> None:
    source = shutil.copytree(SMALL, tmp_path / "cdm")
    text = (source / "visit_occurrence.csv").read_text().replace("2024-", "2034-")
    (source / "visit_occurrence.csv").write_text(text)
    records = ingest(source, tmp_path / "r", complete_through=None)
    assert records.meta.time_basis == "shifted"
    assert ask(records, "SELECT count(birth_year) FROM patients") == [(0,)]
    with pytest.raises(InputError, match="time_basis is calendar, but half of the visits start on 2034-"):
        ingest(source, tmp_path / "s", time_basis="calendar")


def test_diagnoses_among_measurements_and_parts_of_one_name(tmp_path: Path) -> None:
    """Each table a folder whose one part is named alike: rows of three tables meet in the diagnoses."""
    source = shutil.copytree(SMALL, tmp_path / "cdm")
    (source / "measurement.csv").write_text(
        "measurement_id,person_id,visit_occurrence_id,measurement_source_value,measurement_source_concept_id\n"
        "1,1,10,718-7,3000963\n2,1,10,ICD10CM:R79.89,0\n3,1,10,R51,0\n4,1,10,I50.9,1001\n"
    )
    plain = ingest(source, tmp_path / "r")
    for table in ("condition_occurrence", "measurement", "observation", "procedure_occurrence"):
        (source / table.upper()).mkdir()
        (source / f"{table}.csv").rename(source / table.upper() / "part-0.csv")
    parts = ingest(source, tmp_path / "s")
    for records in (plain, parts):
        found = ask(records, "SELECT code, code_version FROM diagnoses WHERE encounter_id = '10' ORDER BY 1")
        # R51 has no concept and no prefix, I50.9 is there as a condition.
        assert found == [(code, "ICD-10-CM") for code in ("E11.9", "E8801", "I50.9", "R79.89")]
    assert ask(plain, "SELECT * FROM diagnoses ORDER BY ALL") == ask(parts, "SELECT * FROM diagnoses ORDER BY ALL")
    assert plain.folder.manifest.left_out == parts.folder.manifest.left_out


def test_standard_concepts_alone_cannot_be_comorbidity(tmp_path: Path) -> None:
    source = shutil.copytree(SMALL, tmp_path / "cdm")
    (source / "observation.csv").unlink()
    (source / "condition_occurrence.csv").write_text(
        "condition_occurrence_id,person_id,condition_concept_id,visit_occurrence_id,condition_source_value,"
        "condition_source_concept_id\n1,1,316139,10,84114007,316139\n2,1,201826,10,44054006,201826\n"
    )
    records = ingest(source, tmp_path / "r")
    assert {limit.task for limit in records.meta.limits} == {"insurance_denial", "comorbidity"}
    assert (
        records.folder.manifest.left_out[
            "diagnosis_codes: a source value that is no ICD code (SNOMED, or the site's own)"
        ]
        == 2
    )


@pytest.mark.parametrize(
    ("code", "version"),
    [
        ("428.0", "ICD-9-CM"), ("4280", "ICD-9-CM"), ("250", "ICD-9-CM"), ("E880.1", "ICD-9-CM"), ("V45.81", "either"),
        ("V4581", "either"), ("E8801", "either"), ("E88.01", "ICD-10-CM"), ("I50.9", "ICD-10-CM"),
        ("C7A1", "ICD-10-CM"), ("M1A.0110", "ICD-10-CM"), ("ICD10CM:E11.9", "ICD-10-CM"),
        ("ICD-9-CM/428.0", "ICD-9-CM"),
        ("84114007", None), ("225085", None), ("CHF", None), ("I5", None),
    ],
)  # fmt: skip
def test_the_shape_of_a_code(code: str, version: str | None) -> None:
    assert duckdb.execute(f"SELECT {version_by_shape('c')} FROM (SELECT '{code}' AS c)").fetchall() == [(version,)]


def test_what_is_no_cdm(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder or file"):
        ingest(tmp_path / "nowhere", tmp_path / "r")
    with pytest.raises(InputError, match="no person table"):
        ingest(tmp_path, tmp_path / "r")
    (tmp_path / "x.duckdb").write_text("nothing")
    with pytest.raises(InputError, match="cannot be opened as a DuckDB database"):
        ingest(tmp_path / "x.duckdb", tmp_path / "r")
    source = shutil.copytree(SMALL, tmp_path / "cdm")
    shutil.copy(source / "person.csv", source / "PERSON_0001.csv")
    with pytest.raises(InputError, match="table person is there twice"):
        ingest(source, tmp_path / "r")
    (source / "PERSON_0001.csv").unlink()
    (source / "person.csv").write_text("id,gender\n1,2\n")
    with pytest.raises(InputError, match="column 'person_id'"):
        ingest(source, tmp_path / "r")
    with pytest.raises(SettingsError, match="'9201' is mapped to 'ward', expected one of inpatient"):
        load_settings(OmopSettings, overrides=["visit_classes={9201: ward}"])


def test_the_command_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lang1.cli.main", "ingest", "omop", str(SMALL), str(tmp_path / "r")]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "complete_through" in refused.stderr and "Traceback" not in refused.stderr
    declared = "complete_through.encounters={through: 2024-12-31, key: admit_time}"
    subprocess.run([*command, declared, "visit_classes.424242=emergency"], capture_output=True, check=True)
    records = Records.open(tmp_path / "r")
    assert ask(records, "SELECT encounter_class FROM encounters WHERE encounter_id = '33'") == [("emergency",)]
    assert records.meta.complete_through["encounters"].through == dt(2024, 12, 31, 23, 59, 59)


CELLS = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12),
    st.sampled_from(
        ["", "0", "9201", "1", "2024-01-01", "2024-13-45", "9999-99-99", "-1", "1e400", "NULL", "10", "' OR 1"]
    ),
)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.lists(CELLS, min_size=11, max_size=11), min_size=1, max_size=4))
def test_no_row_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]) -> None:
    place = tmp_path_factory.mktemp("fuzz")
    source = shutil.copytree(SMALL, place / "cdm")
    for table in ("visit_occurrence", "note", "condition_occurrence"):
        with (source / f"{table}.csv").open("a", newline="") as stream:
            width = len((SMALL / f"{table}.csv").read_text().splitlines()[0].split(","))
            csv.writer(stream).writerows([(row * 2)[:width] for row in rows])
    try:
        records = ingest(source, place / "r")
    except Lang1Error:
        return
    # The sound rows are there all the same.
    assert {"10", "20", "31"} <= {row[0] for row in ask(records, "SELECT encounter_id FROM encounters")}
