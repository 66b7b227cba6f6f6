"""MIMIC-IV and MIMIC-III: tables become records, contradictions are counted, notes know when they came."""

from __future__ import annotations

import csv
import gzip
import io
import shutil
import sys
from collections.abc import Callable
from datetime import datetime as dt
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lang1.cli.main import main
from lang1.common.errors import InputError
from lang1.records.readers import staging
from lang1.records.readers.mimic_iii import MimicIIISettings, ingest_mimic_iii
from lang1.records.readers.mimic_iv import MimicIVSettings, ingest_mimic_iv
from lang1.records.store import Records, part_files
from lang1.remede.benchmark import Benchmark
from lang1.remede.build import build
from lang1.remede.settings import BuildSettings

IV = Path(__file__).parent / "data" / "mimic_iv"
III = Path(__file__).parent / "data" / "mimic_iii"
OPEN = Path(__file__).parents[2] / "shared" / "data"
IV_DEMO, III_DEMO = OPEN / "mimic-iv-demo", OPEN / "mimic-iii-demo"
TABLES = ("patients", "encounters", "notes", "diagnoses", "procedures", "unit_stays", "fields")


def ask(records: Records, sql: str) -> list[tuple[Any, ...]]:
    with records.connect() as connection:
        return connection.execute(sql).fetchall()


def content(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    records = Records.open(path)
    return {table: ask(records, f"SELECT * FROM {table} ORDER BY ALL") for table in TABLES}


@pytest.fixture(scope="module")
def iv(tmp_path_factory: pytest.TempPathFactory) -> Records:
    return Records.open(ingest_mimic_iv(IV, tmp_path_factory.mktemp("iv") / "records"))


@pytest.fixture(scope="module")
def iii(tmp_path_factory: pytest.TempPathFactory) -> Records:
    return Records.open(ingest_mimic_iii(III, tmp_path_factory.mktemp("iii") / "records"))


@pytest.fixture(scope="module")
def iv_rendered(tmp_path_factory: pytest.TempPathFactory) -> Records:
    out = tmp_path_factory.mktemp("rendered") / "records"
    return Records.open(ingest_mimic_iv(IV, out, MimicIVSettings(render_notes=True)))


def test_stays_of_mimic_iv(iv: Records) -> None:
    columns = "encounter_id, encounter_class, admit_time, discharge_time, admission_type, disposition, age_at_admission"
    assert ask(iv, f"SELECT {columns} FROM encounters WHERE NOT starts_with(encounter_id, 'ed-') ORDER BY 1") == [
        ("1001", "inpatient", dt(2150, 3, 1, 10), dt(2150, 3, 5, 15), "emergency", "home", 60),
        ("1002", "inpatient", dt(2150, 3, 20, 9), dt(2150, 3, 22, 12), "elective", "other", 60),
        ("1003", "observation", dt(2152, 6, 1, 12), dt(2152, 6, 2, 8), "emergency", "unknown", 62),
        # Discharged "at midnight" of the day of a death at 22:15: the stay ends with the death.
        ("1004", "inpatient", dt(2140, 5, 1, 8), dt(2140, 5, 4, 22, 15), "urgent", "expired", 91),
        # The flag says dead, the place says home: neither is believed.
        ("1006", "inpatient", dt(2160, 1, 1, 10), dt(2160, 1, 10, 10), "emergency", "unknown", 45),
        ("1007", "inpatient", dt(2161, 2, 1, 10), dt(2161, 2, 3, 18, 30), "emergency", "expired", 46),
        ("1008", "inpatient", dt(2160, 1, 5, 10), dt(2160, 1, 12, 10), "emergency", "skilled_nursing", 45),
        ("1010", "inpatient", dt(2170, 5, 1, 14), dt(2170, 5, 1, 23, 59, 59), "elective", "home", 30),
        ("1012", "inpatient", dt(2180, 3, 1, 10), dt(2180, 3, 4, 10), "other", "against_advice", 50),
    ]  # fmt: skip
    assert ask(
        iv, "SELECT encounter_id, admit_time, disposition FROM encounters WHERE encounter_class = 'emergency'"
    ) == [
        ("ed-7001", dt(2150, 3, 1, 7), "other"),
        ("ed-7002", dt(2170, 5, 20, 1), "home"),
        ("ed-7003", dt(2170, 5, 25, 1), "against_advice"),
    ]
    # 101's anchor year 2150 is one of 2011 to 2013, so 2152 is one of 2013 to 2015.
    years = "SELECT year_low, year_high FROM encounters WHERE encounter_id = "
    assert ask(iv, years + "'1001'") == [(2011, 2013)] and ask(iv, years + "'1003'") == [(2013, 2015)]
    assert ask(iv, "SELECT patient_id, sex, race, ethnicity, death_time, death_source FROM patients ORDER BY 1") == [
        ("101", "female", "White", None, None, None),  # the first race that is known, not the later Hispanic
        ("102", "male", "Black", None, dt(2140, 5, 4), "both"),
        ("103", "female", None, "Hispanic", dt(2161, 2, 3), "ehr"),  # no dod: from the stay that ended in death
        ("104", "male", "Asian", None, None, None),
        ("105", "female", "White", None, dt(2180, 1, 1), "both"),
    ]


def test_every_row_that_is_not_taken_or_is_odd_is_counted(iv: Records) -> None:
    manifest = iv.folder.manifest
    assert manifest.left_out == {
        "diagnoses: encounter_id not in encounters": 1,
        "diagnoses: icd_version is neither 9 nor 10": 1,
        "diagnoses_icd: a row that was there before": 1,
        "diagnoses_icd: no code": 1,
        "encounters: a hadm_id that was there before": 1,
        "encounters: a subject_id that is not in patients": 1,
        "encounters: admittime is not a time": 1,
        "encounters: discharge before admission": 1,
        "notes: duplicate note_id": 1,
        "notes: encounter_id not in encounters": 1,
        "notes: patient_id not in patients": 1,
        "stays: admitted after a death in hospital (organ donation)": 1,
        "transfers: a row that was there before": 1,
        "transfers: the event of a discharge, which is no stay in a unit": 1,
        "unit_stays: left the unit before entering it": 1,
    }
    assert manifest.extra["left_out_examples"]["encounters: discharge before admission"] == "admissions.csv row 9"
    counts = manifest.counts
    assert counts["unmapped"] == {"admissions.discharge_location": {"MOON BASE (taken as other)": 1}}
    for what in (
        "patients over 89, taken as 91 in their anchor year",
        "stays where flag, place and time of death disagree: disposition unknown",
        "stays that ended in death without a deathtime",
        "stays that end at their death, later on the day of discharge",
        "stays discharged at midnight of the day of admission, taken as that whole day",
        "patients without dod who died in hospital: that day taken",
        "discharge: addenda whose note is not found, taken as notes of type other",
    ):
        assert counts[what] == 1, what
    assert counts["oddities"]["encounters admitted after the patient's death"] == 1
    assert counts["oddities"]["inpatient stays that overlap an earlier one of the same patient"] == 1
    assert iv.meta.time_basis == "shifted" and not iv.meta.complete_through
    assert iv.meta.vital_status.source == "both" and iv.meta.vital_status.through is None
    assert [limit.task for limit in iv.meta.limits] == ["readmission"]


def test_codes_and_units_of_mimic_iv(iv: Records) -> None:
    assert ask(iv, "SELECT encounter_id, code, code_version, position FROM diagnoses ORDER BY 1, 4") == [
        ("1001", "I10", "ICD-10-CM", 1),
        ("1001", "4280", "ICD-9-CM", 2),
        ("1010", "E119", "ICD-10-CM", 1),
    ]
    assert ask(iv, "SELECT code, code_version, performed_time::DATE::VARCHAR FROM procedures ORDER BY position") == [
        ("3722", "ICD-9-CM", "2150-03-02"),
        ("02703ZZ", "ICD-10-PCS", "2150-03-03"),
    ]
    assert ask(iv, "SELECT encounter_id, unit_type FROM unit_stays ORDER BY in_time") == [
        ("1001", "emergency"),
        ("1001", "intensive_care"),
        ("1001", "step_down"),
        ("1001", "ward"),
        ("ed-7002", "emergency"),
    ]
    fields = dict(ask(iv, "SELECT field, coalesce(text, number::VARCHAR) FROM fields WHERE encounter_id = '1002'"))
    assert fields["inpatient_stays_in_year_before"] == "1.0" and fields["days_since_discharge_in_year_before"] == "15.0"
    assert fields["service"] == "XYZ" and fields["insurance"] == "Medicare"
    at_discharge = ask(iv, "SELECT DISTINCT field FROM fields WHERE known_at = 'discharge' ORDER BY 1")
    assert at_discharge == [("days_in_hospital",), ("discharge_location",), ("intensive_care_stays",)]


def test_notes_are_available_when_they_were_stored_and_addenda_are_revisions(iv: Records, tmp_path: Path) -> None:
    columns = "note_id, parent_note_id, encounter_id, note_type, created_time, available_time"
    midnight = dt(2150, 3, 5)
    assert ask(iv, f"SELECT {columns} FROM notes ORDER BY 1") == [
        ("101-AD-2", "101-DS-1", "1001", "discharge_summary", dt(2150, 3, 7), dt(2150, 3, 8, 10)),
        ("101-AR-2", "101-RR-1", None, "radiology", dt(2150, 3, 1, 12), dt(2150, 3, 2, 8)),
        ("101-DS-1", None, "1001", "discharge_summary", midnight, dt(2150, 3, 6, 9)),
        ("101-DS-3", None, "1002", "discharge_summary", dt(2150, 3, 22), None),
        ("101-RR-1", None, "1001", "radiology", dt(2150, 3, 1, 12), dt(2150, 3, 1, 13, 30)),
        ("103-AD-1", None, "1008", "other", dt(2160, 1, 13), dt(2160, 1, 13, 10)),
        ("104-DS-2", None, "1010", "discharge_summary", dt(2170, 5, 2), dt(2170, 5, 2)),
        ("105-DS-1", None, "1012", "discharge_summary", dt(2180, 3, 4), dt(2180, 3, 5, 8)),
        ("105-DS-2", None, None, "discharge_summary", dt(2180, 3, 6), dt(2180, 3, 6, 8)),
    ]
    text = ask(iv, "SELECT text FROM notes WHERE note_id = '101-DS-1'")[0][0]
    assert text.startswith(" \nName:") and '"worse at night"' in text
    late = ingest_mimic_iv(IV, tmp_path / "late", MimicIVSettings(without_storetime="end_of_chart_day"))
    found = ask(Records.open(late), "SELECT available_time FROM notes WHERE note_id = '101-DS-3'")
    assert found == [(dt(2150, 3, 22, 23, 59, 59),)]


def test_mimic_iii(iii: Records, tmp_path: Path) -> None:
    columns = "encounter_id, encounter_class, admission_type, disposition, age_at_admission, year_low"
    assert ask(iii, f"SELECT {columns} FROM encounters ORDER BY 1") == [
        ("2001", "inpatient", "emergency", "home_health", 69, None),  # the day before a 70th birthday
        ("2002", "inpatient", "urgent", "skilled_nursing", 91, None),  # born 300 years before: over 89
        ("2003", "inpatient", "emergency", "expired", 93, None),
        ("2004", "inpatient", "emergency", "expired", 49, None),
        ("2006", "inpatient", "newborn", "home", 0, None),
        ("ed-2001", "emergency", "emergency", "other", 69, None),
    ]
    assert ask(iii, "SELECT patient_id, race, death_time, death_source FROM patients ORDER BY 1") == [
        ("201", "White", None, None),
        ("202", "Asian", dt(2122, 3, 5), "ehr"),
        ("203", "Black", dt(2150, 2, 2), "both"),
        ("204", "White", dt(2151, 1, 1), "registry"),
    ]
    assert ask(
        iii, "SELECT note_id, parent_note_id, note_type, created_time, available_time FROM notes ORDER BY 1"
    ) == [
        ("11", None, "discharge_summary", dt(2140, 6, 20, 23, 59, 59), dt(2140, 6, 20, 23, 59, 59)),
        ("12", "11", "discharge_summary", dt(2140, 6, 25, 23, 59, 59), dt(2140, 6, 25, 23, 59, 59)),
        ("13", None, "history_and_physical", dt(2140, 6, 14, 12), dt(2140, 6, 14, 14)),
        ("14", None, "progress", dt(2140, 6, 15, 7), dt(2140, 6, 15, 9)),
        ("16", None, "radiology", dt(2140, 6, 14, 11), dt(2140, 6, 14, 23, 59, 59)),
        ("17", None, "other", dt(2139, 1, 1, 23, 59, 59), dt(2139, 1, 1, 23, 59, 59)),
        ("18", None, "other", dt(2122, 3, 6, 23, 59, 59), dt(2122, 3, 6, 23, 59, 59)),
        ("19", None, "case_management", dt(2150, 7, 2, 10), dt(2150, 7, 2, 10, 1)),
        ("20", None, "other", dt(2150, 7, 2, 10), dt(2150, 7, 2, 10, 1)),
    ]
    assert ask(iii, "SELECT unit, unit_type FROM unit_stays ORDER BY in_time") == [
        ("MICU", "intensive_care"),
        ("ward 45", "ward"),
        ("NICU", "intensive_care"),
        ("NWARD", "ward"),
    ]
    assert iii.folder.manifest.left_out == {
        "admissions: an organ donor's account, opened after death": 1,
        "diagnoses: encounter_id not in encounters": 1,
        "diagnoses_icd: no code": 1,
        "noteevents: an entry that was marked as an error": 1,
        "transfers: the event of a discharge, which is no stay in a unit": 1,
    }
    strict = ingest_mimic_iii(III, tmp_path / "strict", MimicIIISettings(without_storetime="unknown"))
    assert ask(Records.open(strict), "SELECT note_id FROM notes WHERE available_time IS NOT NULL ORDER BY 1") == [
        ("13",), ("14",), ("19",), ("20",),
    ]  # fmt: skip


def _flat_gz(file: Path, out: Path) -> None:
    with gzip.open(out / f"{file.stem}.csv.gz", "wb") as target:
        target.write(file.read_bytes())


def _flat_upper(file: Path, out: Path) -> None:
    header, _, rest = file.read_text().partition("\n")
    (out / f"{file.stem.upper()}.CSV").write_text(f"{header.upper()}\n{rest}")


def _flat_upper_gz(file: Path, out: Path) -> None:
    with gzip.open(out / f"{file.stem.upper()}.CSV.GZ", "wb") as target:
        target.write(file.read_bytes())


def _by_duckdb(suffix: str, how: str, types: str = "all_varchar=true") -> Callable[[Path, Path], None]:
    def convert(file: Path, out: Path) -> None:
        source = f"SELECT * FROM read_csv('{file}', header=true, {types})"
        duckdb.sql(f"COPY ({source}) TO '{out / file.stem}{suffix}' ({how})")

    return convert


def _halves(file: Path) -> list[str]:
    """A CSV file's rows as two, each with the header."""
    with file.open(newline="") as stream:
        header, *rows = list(csv.reader(stream))
    found = []
    for some in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
        part = io.StringIO()
        csv.writer(part, lineterminator="\n").writerows([header, *some])
        found.append(part.getvalue())
    return found


def _shards(file: Path, out: Path) -> None:
    for nth, half in enumerate(_halves(file)):
        (out / f"{file.stem}-{nth:012d}.csv.gz").write_bytes(gzip.compress(half.encode()))


def _folder_of_parts(file: Path, out: Path) -> None:
    """Parts of one name, as a partitioned table has them, columns the other way round, and what Spark leaves beside."""
    for nth, half in enumerate(_halves(file)):
        place = out / f"{file.stem}.parquet" / f"year={nth}"
        place.mkdir(parents=True)
        (place.parent / "_SUCCESS").touch()
        header, *rows = list(csv.reader(io.StringIO(half)))
        columns = {name: pa.array([row[i] or None for row in rows], pa.string()) for i, name in enumerate(header)}
        pq.write_table(pa.table(dict(reversed(columns.items()))), place / "part-0.snappy.parquet")


def _float_ids(file: Path, out: Path) -> None:
    """Ids through a data frame in which some were empty: 1001 comes back as 1001.0."""
    with file.open(newline="") as stream:
        header, *rows = list(csv.reader(stream))
    floats = {"hadm_id", "subject_id", "stay_id", "seq_num", "icd_version", "hospital_expire_flag", "anchor_year"}
    for row in rows:
        row[:] = [v + ".0" if name in floats and v.isdigit() else v for name, v in zip(header, row, strict=True)]
    with (out / file.name).open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])


@pytest.mark.parametrize(
    ("convert", "module"),
    [
        (_flat_gz, False),
        (_flat_upper, False),
        (_flat_upper_gz, True),
        (_by_duckdb(".csv.zst", "FORMAT csv, COMPRESSION zstd, HEADER"), True),
        # Typed columns: ids are numbers, times are timestamps.
        (_by_duckdb(".parquet", "FORMAT parquet", "all_varchar=false"), False),
        (_shards, False),
        (_folder_of_parts, False),
        (_float_ids, False),
    ],
    ids=["gz", "upper", "upper.gz", "zst", "parquet", "shards", "folders", "floats"],
)
def test_every_layout_and_format_gives_the_same_records(
    convert: Callable[[Path, Path], None], module: bool, iv: Records, tmp_path: Path
) -> None:
    for file in sorted(IV.rglob("*.csv")):
        place = tmp_path / "in" / (f"physionet.org/files/{file.parent.name}/1.0" if module else "")
        place.mkdir(parents=True, exist_ok=True)
        convert(file, place)
    assert content(ingest_mimic_iv(tmp_path / "in", tmp_path / "out")) == content(iv.path)


def test_two_versions_side_by_side_are_refused_until_one_is_named(iv: Records, tmp_path: Path) -> None:
    shutil.copytree(IV, tmp_path / "in")
    shutil.copytree(IV / "mimic-iv-3.1", tmp_path / "in" / "mimic-iv-2.2")
    with pytest.raises(
        InputError, match=r"admissions is in mimic-iv-2\.2/hosp and in mimic-iv-3\.1/hosp; name the one"
    ):
        ingest_mimic_iv(tmp_path / "in", tmp_path / "out")
    modules = {"hosp": Path("mimic-iv-3.1/hosp"), "icu": Path("mimic-iv-3.1/icu")}
    chosen = MimicIVSettings.model_validate({"modules": modules})
    assert content(ingest_mimic_iv(tmp_path / "in", tmp_path / "out", chosen)) == content(iv.path)
    with pytest.raises(InputError, match="no edstays table here"):
        wrong = MimicIVSettings.model_validate({"modules": modules | {"ed": "."}})
        ingest_mimic_iv(tmp_path / "in", tmp_path / "no", wrong)


def test_a_table_in_two_ways_is_refused(tmp_path: Path) -> None:
    shutil.copytree(IV / "mimic-iv-3.1", tmp_path / "in")
    hosp = tmp_path / "in" / "hosp"
    shutil.copy(hosp / "admissions.csv", hosp / "admissions-000000000000.csv")
    with pytest.raises(InputError, match=r"admissions-0+\.csv and admissions\.csv are there for table admissions"):
        ingest_mimic_iv(tmp_path / "in", tmp_path / "out")


def test_modules_that_are_absent_are_made_up_for_where_the_tables_allow(tmp_path: Path) -> None:
    shutil.copytree(IV / "mimic-iv-3.1", tmp_path / "in")
    records = Records.open(ingest_mimic_iv(tmp_path / "in", tmp_path / "a"))
    emergency = "SELECT encounter_id, disposition FROM encounters WHERE encounter_class = 'emergency' ORDER BY 1"
    # From transfers: 7003 leaves before it comes, which the ed module puts right and transfers does not.
    assert ask(records, emergency) == [("ed-7001", "other"), ("ed-7002", "unknown")]
    assert {"discharge", "radiology", "edstays"} <= set(records.folder.manifest.extra["absent"])
    (tmp_path / "in" / "hosp" / "transfers.csv").unlink()
    records = Records.open(ingest_mimic_iv(tmp_path / "in", tmp_path / "b"))
    assert ask(records, emergency) == [("ed-1001", "other"), ("ed-1003", "other")]
    assert ask(records, "SELECT unit, unit_type FROM unit_stays") == [
        ("Medical Intensive Care Unit (MICU)", "intensive_care")
    ]


def test_bad_rows_can_be_refused_and_a_cut_file_is_never_taken(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"admissions\.csv row 11: encounters: a hadm_id that was there before"):
        ingest_mimic_iv(IV, tmp_path / "out", MimicIVSettings(on_bad_rows="refuse"))
    shutil.copytree(IV, tmp_path / "in")
    notes = tmp_path / "in" / "mimic-iv-note-2.2" / "note"
    whole = gzip.compress((notes / "discharge.csv").read_bytes(), mtime=0)
    (notes / "discharge.csv").unlink()
    (notes / "discharge.csv.gz").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(InputError, match=r"discharge\.csv\.gz: (not readable|.*cut short)"):
        ingest_mimic_iv(tmp_path / "in", tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))  # nothing half-made is left


def test_the_same_files_give_the_same_bytes(iv_rendered: Records, tmp_path: Path) -> None:
    again = ingest_mimic_iv(IV, tmp_path / "again", MimicIVSettings(render_notes=True))
    for part in sorted(iv_rendered.path.rglob("*.parquet")):
        assert part.read_bytes() == (again / part.relative_to(iv_rendered.path)).read_bytes(), part.name


def test_a_rendered_admission_note_says_what_was_known_when_it_was_closed(iv_rendered: Records) -> None:
    notes = dict(ask(iv_rendered, "SELECT encounter_id, text FROM notes WHERE note_type = 'history_and_physical'"))
    assert set(notes) == {"1001", "1002", "1004", "1006", "1007", "1008", "1010", "1012"}  # inpatient stays only
    assert "creatinine 1.4 (abnormal); " not in notes["1001"]  # it stands last: nothing follows it
    assert "Laboratory, last values: sodium 138; creatinine 1.4 (abnormal)." in notes["1001"]
    # Drawn within the day and stored after it, or never stored; units and services of the second day.
    assert not any(word in notes["1001"] for word in ("hemoglobin", "potassium", "Stepdown", "cardiology"))
    assert "Units so far: Emergency Department, Medical Intensive Care Unit (MICU)." in notes["1001"]
    assert "Inpatient stays in the year before: 1, the last ended 15 days before." in notes["1002"]
    closed = "SELECT available_time, signed_time FROM notes WHERE note_id = '1001-rendered-hp'"
    assert ask(iv_rendered, closed) == [(dt(2150, 3, 2, 10), dt(2150, 3, 2, 10))]
    # Discharge summaries are there in this source, so none is rendered.
    assert iv_rendered.folder.manifest.counts["rendered"] == {"history_and_physical": 8}
    assert "rendered from the tables" in iv_rendered.meta.notes


def test_a_rendered_discharge_summary_says_neither_codes_nor_death_nor_where_to(tmp_path: Path) -> None:
    shutil.copytree(IV / "mimic-iv-3.1", tmp_path / "in")
    records = Records.open(ingest_mimic_iv(tmp_path / "in", tmp_path / "out", MimicIVSettings(render_notes=True)))
    rows = ask(records, "SELECT encounter_id, text, available_time FROM notes WHERE note_type = 'discharge_summary'")
    texts = {stay: text for stay, text, _ in rows}
    assert {stay: at for stay, _, at in rows}["1004"] == dt(2140, 5, 4, 22, 15)
    assert "Days in hospital: 4." in texts["1001"] and "Laboratory results: 5." in texts["1001"]
    assert "Procedures: left heart cardiac catheterization; dilation of coronary artery" in texts["1001"]
    assert "Services: medicine, cardiology." in texts["1001"]
    for text in texts.values():
        assert not any(word in text.lower() for word in ("i10", "4280", "died", "expired", "death", "nursing", "home"))


def test_what_happens_after_the_note_does_not_change_it(iv_rendered: Records, tmp_path: Path) -> None:
    """Everything of stay 1001 after its first day is deleted, and its end turned into a death."""
    shutil.copytree(IV, tmp_path / "in")
    hosp = tmp_path / "in" / "mimic-iv-3.1" / "hosp"
    for table, keep in (
        ("transfers", ",8002,|,8003,|,8004,"),
        ("services", "CMED"),
        ("labevents", "7.7"),
        ("diagnoses_icd", "I10"),
    ):
        lines = (hosp / f"{table}.csv").read_text().splitlines(keepends=True)
        (hosp / f"{table}.csv").write_text("".join(x for x in lines if not any(k in x for k in keep.split("|"))))
    stays = (hosp / "admissions.csv").read_text()
    died = (
        stays.replace(
            "1001,2150-03-01 10:00:00,2150-03-05 15:00:00,,",
            "1001,2150-03-01 10:00:00,2150-03-05 15:00:00,2150-03-05 15:00:00,",
        )
        .replace("P1,EMERGENCY ROOM,HOME", "P1,EMERGENCY ROOM,DIED")
        .replace("11:00:00,0", "11:00:00,1")
    )
    assert sum(a != b for a, b in zip(stays.splitlines(), died.splitlines(), strict=True)) == 1
    (hosp / "admissions.csv").write_text(died)
    cut = Records.open(ingest_mimic_iv(tmp_path / "in", tmp_path / "out", MimicIVSettings(render_notes=True)))
    note = "SELECT text, available_time FROM notes WHERE note_id = '1001-rendered-hp'"
    assert ask(cut, note) == ask(iv_rendered, note)
    assert ask(cut, "SELECT disposition FROM encounters WHERE encounter_id = '1001'") == [("expired",)]


def lang1(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["lang1", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_without_notes_the_build_refuses_with_a_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(IV / "mimic-iv-3.1" / "hosp", tmp_path / "in" / "hosp")
    records, out = str(tmp_path / "records"), str(tmp_path / "out")
    assert lang1(monkeypatch, "ingest", "mimic-iv", str(tmp_path / "in"), records) == 0
    capsys.readouterr()
    assert lang1(monkeypatch, "remede", "build", records, out, "calendar=null", "tasks=[mortality]") == 2
    assert "no usable note of type 'history_and_physical'" in capsys.readouterr().err
    assert not Path(out).exists()


def test_readmission_is_refused_unless_it_is_marked(
    iv: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, asked = str(tmp_path / "out"), ("calendar=null", "tasks=[readmission]")
    assert lang1(monkeypatch, "remede", "build", str(iv.path), out, *asked) == 2
    assert "emergency department or intensive care" in capsys.readouterr().err
    assert lang1(monkeypatch, "remede", "build", str(iv.path), out, *asked, "mark_unsupported=[readmission]") == 0
    table = Benchmark.open(Path(out)).examples()
    labels = dict(zip(table["encounter_id"].to_pylist(), table["label"].to_pylist(), strict=True))
    # 1002 has a summary that nobody stored, and 105 was dead, by her dod, before she came.
    assert labels == {"1001": 1, "1010": 0}


def test_many_notes_pass_through_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(IV / "mimic-iv-3.1" / "hosp", tmp_path / "in" / "hosp")
    (tmp_path / "in" / "note").mkdir()
    rows, length = 300_000, 900
    place = tmp_path / "in" / "note" / "radiology.csv"
    with place.open("w") as target:
        target.write("note_id,subject_id,hadm_id,note_type,note_seq,charttime,storetime,text\n")
        for n in range(1, rows + 1):
            kind = "AR" if n % 50 == 0 else "RR"
            text = f"{n}" + chr(65 + n % 26) * length
            target.write(f"101-RR-{n},101,1001,{kind},{n},2150-03-01 12:00:00,2150-03-01 13:00:00,{text}\n")
    # The texts are 270 MB and stand in the database up to three times; reading CSV alone takes 280 MB of buffers.
    monkeypatch.setattr(staging, "MEMORY", "400MB")
    records = Records.open(ingest_mimic_iv(tmp_path / "in", tmp_path / "out"))
    assert ask(records, "SELECT count(*), count(parent_note_id), min(length(text)) FROM notes") == [
        (rows, rows // 50, length + 1)
    ]
    # In the order of the source, though nothing sorts them.
    parts = [pq.read_table(part, columns=["note_id"]) for part in part_files(records.path, "notes")]
    assert pa.concat_tables(parts)["note_id"].to_pylist() == [f"101-RR-{n}" for n in range(1, rows + 1)]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    row=st.integers(0, 13),
    column=st.integers(0, 15),
    value=st.one_of(
        st.sampled_from(
            ["", "2150-13-45", "9999-01-01 00:00:00", "-1", "NaN", "1e400", "é", "';--", "2150-03-01T10:00:00Z"]
        ),
        st.text(st.characters(codec="utf-8", exclude_characters="\r\n\x00"), max_size=12),
    ),
)
def test_a_spoilt_cell_is_counted_or_told_and_no_admission_is_lost(
    row: int, column: int, value: str, tmp_path: Path
) -> None:
    place, out = tmp_path / "in", tmp_path / "out"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(IV / "mimic-iv-3.1" / "hosp", place)
    with (place / "admissions.csv").open(newline="") as lines:
        table = list(csv.reader(lines))
    table[row + 1][column] = value
    with (place / "admissions.csv").open("w", newline="") as target:
        csv.writer(target, lineterminator="\n").writerows(table)
    ingest_mimic_iv(place, out, overwrite=True)
    records = Records.open(out)
    taken = ask(records, "SELECT count(*) FROM encounters WHERE encounter_class <> 'emergency'")[0][0]
    left = {why: n for why, n in records.folder.manifest.left_out.items() if "emergency visit" not in why}
    lost = sum(n for why, n in left.items() if why.startswith(("encounters:", "stays:", "admissions")))
    assert taken + lost == 14


def _rows(file: Path) -> list[dict[str, str]]:
    with gzip.open(file, "rt", newline="") as lines:
        return list(csv.DictReader(lines))


def _returns(stays: list[dict[str, str]], left_out: tuple[str, ...]) -> tuple[set[str], set[str]]:
    """Stays that count, and those of them followed by another admission of the patient within 30 days."""
    asked = [s for s in stays if s["hospital_expire_flag"] == "0" and not s["discharge_location"].startswith(left_out)]
    back = set()
    for stay in asked:
        gone = dt.fromisoformat(stay["dischtime"])
        for other in stays:
            gap = dt.fromisoformat(other["admittime"]) - gone
            if other["subject_id"] == stay["subject_id"] and timedelta(0) < gap <= timedelta(days=30):
                back.add(stay["hadm_id"])
    return {stay["hadm_id"] for stay in asked}, back


def _labels(path: Path, out: Path, task: str) -> dict[str, int]:
    made = build(
        path, out, BuildSettings.model_validate({"calendar": None, "tasks": [task], "mark_unsupported": "all"})
    )
    examples = Benchmark.open(made).examples()
    return dict(zip(examples["encounter_id"].to_pylist(), examples["label"].to_pylist(), strict=True))


@pytest.mark.skipif(not IV_DEMO.is_dir(), reason="the MIMIC-IV demo is not here")
def test_the_mimic_iv_demo(tmp_path: Path) -> None:
    """100 patients, 275 admissions, 15 deaths and 4,506 codes, as its provenance counts them."""
    records = Records.open(ingest_mimic_iv(IV_DEMO, tmp_path / "iv", MimicIVSettings(render_notes=True)))
    counts = records.folder.manifest.counts
    assert counts["patients"] == 100 and counts["diagnoses"] == 4506
    classes = dict(ask(records, "SELECT encounter_class, count(*) FROM encounters GROUP BY 1"))
    assert classes == {"inpatient": 233, "observation": 42, "emergency": 236} and 233 + 42 == 275
    assert ask(records, "SELECT count(*) FROM encounters WHERE disposition = 'expired'") == [(15,)]
    assert ask(records, "SELECT count(*) FROM patients WHERE death_time IS NOT NULL") == [(31,)]
    assert records.folder.manifest.left_out == {"transfers: the event of a discharge, which is no stay in a unit": 275}
    assert "unmapped" not in counts and "oddities" not in counts
    stays = _rows(IV_DEMO / "hosp" / "admissions.csv.gz")
    assert len(_returns(stays, ("DIED",))[1]) == 53  # every admission, visits under observation too
    observed = ("EU OBSERVATION", "DIRECT OBSERVATION", "AMBULATORY OBSERVATION")
    inpatient = [s for s in stays if s["admission_type"] not in observed]
    asked, back = _returns(inpatient, ("DIED", "HOSPICE"))
    labels = _labels(records.path, tmp_path / "readmission", "readmission")
    assert set(labels) == asked and {stay for stay, label in labels.items() if label} == back
    died = {s["hadm_id"] for s in inpatient if s["hospital_expire_flag"] == "1"}
    labels = _labels(records.path, tmp_path / "mortality", "mortality")
    assert {stay for stay, label in labels.items() if label} == died & set(labels) and len(died - set(labels)) == 1


@pytest.mark.skipif(not III_DEMO.is_dir(), reason="the MIMIC-III demo is not here")
def test_the_mimic_iii_demo(tmp_path: Path) -> None:
    """100 patients, 129 admissions, 40 deaths and 1,761 codes, as its provenance counts them."""
    records = Records.open(ingest_mimic_iii(III_DEMO, tmp_path / "iii", MimicIIISettings(render_notes=True)))
    counts = records.folder.manifest.counts
    assert counts["patients"] == 100 and counts["diagnoses"] == 1761 and "unmapped" not in counts
    assert ask(records, "SELECT encounter_class, count(*) FROM encounters GROUP BY 1 ORDER BY 1") == [
        ("emergency", 92),
        ("inpatient", 129),
    ]
    assert ask(records, "SELECT count(*) FROM encounters WHERE disposition = 'expired'") == [(40,)]
    assert records.folder.manifest.left_out == {"transfers: the event of a discharge, which is no stay in a unit": 129}
    asked, back = _returns(_rows(III_DEMO / "admissions.csv.gz"), ("DEAD", "HOSPICE"))
    labels = _labels(records.path, tmp_path / "readmission", "readmission")
    assert set(labels) == asked and {stay for stay, label in labels.items() if label} == back
