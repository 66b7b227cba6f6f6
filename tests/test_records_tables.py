"""The tables reader: a site's own files by a mapping; every kind of bad input is one line that says what to do."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import io
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lang1.common.errors import InputError, Lang1Error, SettingsError
from lang1.records.readers.mapping import TablesMap
from lang1.records.readers.tables import ingest_tables, init_mapping
from lang1.records.store import Records

FIXTURE = Path(__file__).parent / "data" / "tables"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A copy of the fixture's files that a test may spoil."""
    return Path(shutil.copytree(FIXTURE, tmp_path / "site"))


def edit(file: Path, row: int, column: str, value: str, delimiter: str = ",") -> None:
    """Change one value; row 1 is the first below the header."""
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream, delimiter=delimiter))
    rows[row][rows[0].index(column)] = value
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, delimiter=delimiter, lineterminator="\n").writerows(rows)


def ingest(site: Path, *overrides: str) -> Records:
    out = site / "records"
    ingest_tables(site / "map.yaml", out, overrides, overwrite=True)
    return Records.open(out)


def refused(site: Path, *overrides: str, kind: type[Lang1Error] = InputError) -> str:
    with pytest.raises(kind) as caught:
        ingest(site, *overrides)
    assert "\n" not in str(caught.value)
    assert not (site / "records").exists() and not (site / ".records.partial").exists()
    return str(caught.value)


def test_all_five_tables(site: Path) -> None:
    records = ingest(site)
    counts = records.folder.manifest.counts
    assert {t: counts[t] for t in ("patients", "encounters", "notes", "diagnoses", "claims")} == {
        "patients": 12, "encounters": 16, "notes": 45, "diagnoses": 18, "claims": 10
    }  # fmt: skip
    assert records.folder.manifest.left_out == {}
    assert not (records.path / ".staging").exists()
    with records.connect() as connection:
        ask = lambda sql: connection.execute(sql).fetchall()  # noqa: E731
        assert ask("SELECT * FROM encounters WHERE encounter_id = 'E009'") == [
            ("E009", "P07", None, "inpatient", dt.datetime(2021, 2, 2, 12), dt.datetime(2021, 2, 6, 12, 30), "urgent",
             "Clinic", "Surgery", "main", "transfer_acute", 39.6, "Aetna", None, None)
        ]  # fmt: skip
        assert ask("SELECT DISTINCT disposition FROM encounters WHERE discharge_time IS NULL") == [(None,)]
        assert ask("SELECT race FROM patients WHERE patient_id = 'P05'") == [("not recorded",)]  # codes: {"": ...}
        assert ask("SELECT adjustment_codes FROM claims WHERE claim_id = 'C05'") == [(["CO-50", "CO-197"],)]
        assert ask("SELECT final_status FROM claims WHERE claim_id = 'C10'") == [("other",)]
        assert ask("SELECT text FROM notes WHERE note_id = 'N002'")[0][0].endswith('"stable"; plan unchanged.')
        assert "\n" in ask("SELECT text FROM notes WHERE note_id = 'N001'")[0][0]


def test_two_runs_give_the_same_bytes(site: Path, tmp_path: Path) -> None:
    again = Path(shutil.copytree(FIXTURE, tmp_path / "elsewhere"))
    assert ingest(site).folder.fingerprint == ingest(again).folder.fingerprint


def test_parquet_gzip_and_globs_read_the_same(site: Path) -> None:
    plain = ingest(site).folder.fingerprint
    notes = list(csv.DictReader((site / "notes.csv").open(newline="", encoding="utf-8")))
    for part, rows in enumerate((notes[:20], notes[20:])):
        pq.write_table(pa.Table.from_pylist(rows), site / f"notes-{part}.parquet")
    with gzip.open(site / "patients.csv.gz", "wb") as packed:
        packed.write(b"\xef\xbb\xbf" + (site / "patients.csv").read_bytes())  # with a byte order mark, as Excel writes
    assert (
        ingest(site, "tables.notes.file=notes-*.parquet", "tables.patients.file=patients.csv.gz").folder.fingerprint
        == plain
    )


def test_typed_parquet_columns(site: Path) -> None:
    rows = list(csv.DictReader((site / "encounters.csv").open(newline="", encoding="utf-8")))
    time = lambda text: dt.datetime.fromisoformat(text) if text else None  # noqa: E731
    typed = [
        {**r, "ADMIT_DT": time(r["ADMIT_DT"]), "DISCH_DT": time(r["DISCH_DT"]), "AGE": float(r["AGE"])} for r in rows
    ]
    plain = ingest(site).folder.fingerprint
    pq.write_table(pa.Table.from_pylist(typed), site / "e.parquet")
    assert ingest(site, "tables.encounters.file=e.parquet").folder.fingerprint == plain


def test_line_endings_inside_and_between_rows(site: Path) -> None:
    """A Windows export: rows end in CRLF, notes hold LF."""
    notes = (site / "notes.csv").read_text(encoding="utf-8")
    rows = list(csv.reader(notes.splitlines(keepends=True)))
    with (site / "notes.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\r\n").writerows(rows)
    with ingest(site).connect() as connection:
        assert connection.execute("SELECT count(*) FROM notes WHERE contains(text, chr(10))").fetchall()[0][0] > 20
    (site / "patients.csv").write_bytes((site / "patients.csv").read_bytes().replace(b"\n", b"\r\n", 3))
    assert "one kind of line ending" in refused_again(site)


def refused_again(site: Path, *overrides: str) -> str:
    shutil.rmtree(site / "records", ignore_errors=True)
    return refused(site, *overrides)


def test_missing_file_and_column(site: Path) -> None:
    said = refused(site, "tables.notes.file=noted.csv")
    assert "noted.csv: no such file (tables.notes.file of map.yaml)" in said
    said = refused(site, "tables.encounters.columns.admit_time=ADMIT_DATE")
    assert (
        "encounters.csv: column 'ADMIT_DATE' (for encounters.admit_time) is missing; did you mean 'ADMIT_DT'?" in said
    )


def test_wrong_type_names_file_row_and_value(site: Path) -> None:
    edit(site / "encounters.csv", 5, "AGE", "forty")
    assert "encounters.csv row 5: encounters.age_at_admission ('AGE') is 'forty', expected a number;" in refused(site)
    edit(site / "encounters.csv", 5, "AGE", "nan")
    assert "is 'nan', expected a number" in refused(site)
    edit(site / "encounters.csv", 5, "AGE", "40")
    edit(site / "encounters.csv", 5, "ADMIT_DT", "2020-02-30 10:00")
    assert "encounters.csv row 5: encounters.admit_time ('ADMIT_DT') is '2020-02-30 10:00'" in refused(site)
    edit(site / "encounters.csv", 5, "ADMIT_DT", "2020-03-01 22:40")
    edit(site / "diagnoses.csv", 2, "SEQ", "1.5")
    assert "diagnoses.position ('SEQ') is '1.5', expected a whole number" in refused(site)


def test_discharge_before_admission(site: Path) -> None:
    edit(site / "encounters.csv", 3, "DISCH_DT", "2020-02-09 10:15")
    said = refused(site)
    assert said.startswith("encounters.csv row 3: discharge before admission (encounter_id 'E003'")
    assert "set `on_bad_rows: leave_out`" in said
    records = ingest(site, "on_bad_rows=leave_out")
    # What hangs on the stay goes with it, and every row is counted with its reason.
    assert records.folder.manifest.left_out == {
        "encounters: discharge before admission": 1,
        "notes: encounter_id not in encounters": 3,
        "diagnoses: encounter_id not in encounters": 2,
        "claims: encounter_id not in encounters": 1,
    }
    examples = records.folder.manifest.extra["left_out_examples"]
    assert examples["encounters: discharge before admission"] == "encounters.csv row 3"
    assert records.folder.manifest.counts["encounters"] == 15


def test_leaving_out_counts_by_reason(site: Path) -> None:
    edit(site / "patients.csv", 2, "YOB", "old")
    edit(site / "patients.csv", 3, "MRN", "")
    edit(site / "patients.csv", 5, "MRN", "P04")
    records = ingest(site, "on_bad_rows=leave_out")
    left = records.folder.manifest.left_out
    assert left["patients: birth_year is not a whole number"] == 1
    assert left["patients: patient_id empty"] == 1
    assert left["patients: duplicate patient_id"] == 1
    assert left["encounters: patient_id not in patients"] == 4  # two stays of P02, one each of P03 and P05
    kept = records.folder.manifest.counts
    assert kept["patients"] + 3 == 12 and kept["encounters"] + 4 == 16


def test_parts_of_one_name_in_several_folders_are_told_apart(site: Path) -> None:
    whole = (site / "notes.csv").read_text(encoding="utf-8")
    for year in ("2020", "2021"):
        (site / "notes" / f"year={year}").mkdir(parents=True)
    first, second = (site / "notes" / f"year={year}" / "part-0.csv" for year in ("2020", "2021"))
    first.write_text(whole, encoding="utf-8")
    header, _, _ = whole.partition("\n")
    row = next(csv.DictReader(io.StringIO(whole)))
    with second.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, header.split(","))
        writer.writeheader()
        # An id that is in the first file, and one that is new: only the repeated row is left out.
        writer.writerows([row, row | {"NOTE_ID": "new"}])
    found = ingest(site, "tables.notes.file=notes/*/part-0.csv", "on_bad_rows=leave_out").folder.manifest
    alone = ingest(site, "on_bad_rows=leave_out").folder.manifest
    assert found.counts["notes"] == alone.counts["notes"] + 1
    assert found.left_out == alone.left_out | {"notes: duplicate note_id": 1}
    assert found.extra["left_out_examples"]["notes: duplicate note_id"] == "notes/year=2021/part-0.csv row 1"
    assert {"notes/part-0.csv", "notes/year=2021/part-0.csv"} <= set(found.inputs)


def test_unmapped_codes_say_how_to_map(site: Path) -> None:
    for row in (1, 3):
        edit(site / "encounters.csv", row, "DISP", "MORGUE")
    said = refused(site)
    assert "encounters.csv: encounters.disposition has values without a mapping: 'MORGUE' (2 rows)" in said
    assert "tables.encounters.codes.disposition" in said and "expired" in said
    with ingest(site, "tables.encounters.codes.disposition.*=unknown").connect() as connection:
        sql = "SELECT count(*) FROM encounters WHERE disposition = 'unknown'"
        assert connection.execute(sql).fetchall() == [(2,)]


def test_duplicates_and_empty_extract(site: Path) -> None:
    edit(site / "notes.csv", 7, "NOTE_ID", "N001")
    assert "notes.csv row 7: note_id 'N001' was there before" in refused(site)
    header = (site / "patients.csv").read_text(encoding="utf-8").splitlines()[0]
    (site / "patients.csv").write_text(header + "\n", encoding="utf-8")
    assert "patients.csv: no rows below the header" in refused(site)
    (site / "patients.csv").write_text("", encoding="utf-8")
    assert "patients.csv: empty; expected a header" in refused(site)


def test_malformed_csv_names_the_line(site: Path) -> None:
    good = (site / "patients.csv").read_text(encoding="utf-8")
    (site / "patients.csv").write_text(good + "P13,1950,F,White,,surplus\n", encoding="utf-8")
    assert "malformed CSV, line: 14" in refused(site)
    (site / "patients.csv").write_text(good + 'P13,1950,F,"White,\n', encoding="utf-8")
    assert "malformed CSV" in refused(site)
    (site / "patients.csv").write_bytes(good.encode() + b"P13,1950,F,Wei\xdf,\n")
    assert "utf-8" in refused(site).lower()
    (site / "p.parquet").write_bytes(b"not parquet")
    assert "not readable as Parquet" in refused(site, "tables.patients.file=p.parquet")
    (site / "p.csv.gz").write_bytes(b"not gzip")
    assert "not readable as CSV" in refused(site, "tables.patients.file=p.csv.gz")


def test_dates_without_times(site: Path) -> None:
    edit(site / "notes.csv", 1, "FILED", "2020-01-03")
    said = refused(site)
    assert "notes.csv row 1: notes.available_time is '2020-01-03', a date without a time" in said
    with ingest(site, "tables.notes.dates_without_time.available_time=end_of_day").connect() as connection:
        sql = "SELECT available_time FROM notes WHERE note_id = 'N001'"
        assert connection.execute(sql).fetchall() == [(dt.datetime(2020, 1, 3, 23, 59, 59),)]


def test_a_column_of_dates_counts_as_late_for_notes_and_early_for_outcomes(site: Path) -> None:
    rows = list(csv.DictReader((site / "notes.csv").open(newline="", encoding="utf-8")))
    for number, row in enumerate(rows, 1):
        edit(site / "notes.csv", number, "FILED", row["FILED"][:10])
    with ingest(site).connect() as connection:
        late = connection.execute("SELECT DISTINCT available_time::TIME FROM notes WHERE available_time IS NOT NULL")
        assert late.fetchall() == [(dt.time(23, 59, 59),)]
        early = connection.execute("SELECT DISTINCT submitted_time::TIME FROM claims")
        assert early.fetchall() == [(dt.time(0),)]


def test_other_ways_of_writing_times(site: Path) -> None:
    plain = ingest(site).folder.fingerprint
    for number, row in enumerate(list(csv.DictReader((site / "encounters.csv").open(newline="", encoding="utf-8"))), 1):
        for column in ("ADMIT_DT", "DISCH_DT"):
            if row[column]:
                american = dt.datetime.fromisoformat(row[column]).strftime("%m/%d/%Y %I:%M %p")
                edit(site / "encounters.csv", number, column, american)
    assert "is '01/03/2020 02:20 PM', expected a time such as" in refused_again(site)
    formats = "tables.encounters.time_formats=['%m/%d/%Y %I:%M %p']"
    assert ingest(site, formats).folder.fingerprint == plain
    assert "time_formats" in refused_settings(site, "tables.encounters.time_formats=['%Q']")


def test_times_with_an_offset_need_a_zone(site: Path) -> None:
    edit(site / "encounters.csv", 1, "ADMIT_DT", "2020-01-03T19:20:00Z")
    assert "a time with a UTC offset; set `time_zone`" in refused(site)
    with ingest(site, "time_zone=America/New_York").connect() as connection:
        sql = "SELECT admit_time FROM encounters WHERE encounter_id = 'E001'"
        assert connection.execute(sql).fetchall() == [(dt.datetime(2020, 1, 3, 14, 20),)]
    assert "time_zone is 'Mars/Base'" in refused_settings(site, "time_zone=Mars/Base")


def refused_settings(site: Path, *overrides: str) -> str:
    shutil.rmtree(site / "records", ignore_errors=True)
    return refused(site, *overrides, kind=SettingsError)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("tables.encounters.columns.admitted=ADMIT_DT", "not a column of encounters; did you mean 'admit_time'"),
        ("tables.visits={file: x.csv}", "tables names 'visits'"),
        ("tables.notes.columns={note_id: NOTE_ID}", "tables.notes.columns lacks 'patient_id', which is required"),
        ("tables.encounters.codes.encounter_class.IP=ward", "'IP' is mapped to 'ward', expected one of inpatient"),
        ("tables.patients.codes.sex={yes: female}", "put yes, no, on, off and the like in quotes"),
        ("complete_through={}", "complete_through lacks 'encounters'"),
        ("on_bad_row=refuse", "unknown setting 'on_bad_row'; did you mean 'on_bad_rows'"),
        ("time_basis=lunar", "time_basis"),
        ("tables.claims.list_separator='['", "not a regular expression"),
        ("tables.patients.constants={patient_id: x}", "both a column and a constant"),
    ],
)
def test_mappings_that_cannot_be(site: Path, override: str, expected: str) -> None:
    assert expected in refused(site, override, kind=SettingsError)


def test_init_writes_a_mapping_that_loads_once_filled_in(site: Path) -> None:
    text = init_mapping([site / f for f in ("patients.csv", "encounters.csv", "notes.csv", "diagnoses.csv")])
    value = yaml.safe_load(text)
    assert list(value["tables"]) == ["patients", "encounters", "notes", "diagnoses"]
    encounters = value["tables"]["encounters"]["columns"]
    assert encounters["encounter_id"] == "CSN" and encounters["discharge_time"] == "DISCH_DT"
    assert value["tables"]["diagnoses"]["columns"]["code_version"] == "NAME_OF_THE_COLUMN"
    del value["tables"]["diagnoses"]["columns"]["code_version"]
    value["tables"]["diagnoses"]["constants"] = {"code_version": "ICD-10-CM"}
    fixture = yaml.safe_load((site / "map.yaml").read_text(encoding="utf-8"))
    for table, mapped in value["tables"].items():
        assert mapped["columns"] == fixture["tables"][table]["columns"]
        mapped["codes"] = fixture["tables"][table]["codes"]
    value["complete_through"] = fixture["complete_through"]
    TablesMap.model_validate(value)
    (site / "drafted.yaml").write_text(yaml.safe_dump(value), encoding="utf-8")
    ingest_tables(site / "drafted.yaml", site / "again")
    assert Records.open(site / "again").folder.manifest.counts["notes"] == 45


# Values that break readers: empties, quotes, separators, other alphabets, control characters, numbers out of range.
AWKWARD = st.one_of(
    st.sampled_from(["", " ", "NULL", "0", "-1", "1e400", "nan", "2020-01-01", "9999-99-99", "2020-01-01 10:00",
                     "infinity", "'", '"', '"",', ";", "P01", "E001", "\u00a0", "inpatient", "yes", "9" * 20,
                     "2020-01-01T10:00:00Z", "\\", "{", "%", "1.0"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12),
)  # fmt: skip
TARGETS = [
    ("patients.csv", ","),
    ("encounters.csv", ","),
    ("notes.csv", ","),
    ("diagnoses.csv", ","),
    ("claims.psv", "|"),
]


@given(data=st.data(), lenient=st.booleans())
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_values_give_records_or_one_line(data: Any, lenient: bool) -> None:
    with tempfile.TemporaryDirectory() as place:
        site = Path(shutil.copytree(FIXTURE, Path(place) / "site"))
        for _ in range(data.draw(st.integers(1, 4))):
            file, delimiter = data.draw(st.sampled_from(TARGETS))
            with (site / file).open(newline="", encoding="utf-8") as stream:
                rows = list(csv.reader(stream, delimiter=delimiter))
            row = data.draw(st.integers(0, len(rows) - 1))
            column = data.draw(st.integers(0, len(rows[0]) - 1))
            rows[row][column] = data.draw(AWKWARD)
            with (site / file).open("w", newline="", encoding="utf-8") as stream:
                csv.writer(stream, delimiter=delimiter, lineterminator="\n").writerows(rows)
        try:
            records = ingest(site, f"on_bad_rows={'leave_out' if lenient else 'refuse'}")
        except Lang1Error as error:
            assert str(error) and "\n" not in str(error)
            return
        manifest = records.folder.manifest
        read = sum(manifest.counts[t] for t in ("patients", "encounters", "notes", "diagnoses", "claims"))
        assert read + sum(manifest.left_out.values()) == 12 + 16 + 45 + 18 + 10  # nothing dropped uncounted


@given(st.binary(max_size=400))
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_bytes_give_records_or_one_line(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        site = Path(shutil.copytree(FIXTURE, Path(place) / "site"))
        with (site / "claims.psv").open("ab") as stream:
            stream.write(content)
        try:
            ingest(site, "on_bad_rows=leave_out")
        except Lang1Error as error:
            assert str(error) and "\n" not in str(error)
