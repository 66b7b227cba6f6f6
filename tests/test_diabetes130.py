"""The Diabetes 130-US reader on the shipped data: its known figures, its traps, and what each note may say."""

from __future__ import annotations

import csv
import gzip
import hashlib
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from lang1.common.errors import InputError
from lang1.common.identity import unit_hash
from lang1.records.readers import diabetes130_codes as codes
from lang1.records.readers.diabetes130 import COLUMNS, Diabetes130Settings, ingest_diabetes130
from lang1.records.store import Records

DATA = Path(str(files("lang1") / "data" / "diabetes-130"))


@pytest.fixture(scope="module")
def source() -> list[dict[str, str]]:
    with gzip.open(DATA / "diabetic_data.csv.gz", "rt", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Records:
    out = tmp_path_factory.mktemp("diabetes") / "records"
    return Records.open(ingest_diabetes130(out))


def ask(records: Records, sql: str) -> list[tuple[Any, ...]]:
    with records.connect() as connection:
        return connection.execute(sql).fetchall()


def test_figures_of_the_publication(whole: Records, source: list[dict[str, str]]) -> None:
    counts = whole.folder.manifest.counts
    assert (counts["patients"], counts["encounters"], counts["notes"]) == (71_518, 101_766, 203_532)
    assert whole.time_basis == "ordinal" and whole.meta.real and whole.meta.licence == "CC BY 4.0"
    # Readmission: everyone's own count of the file, deaths and hospice apart.
    ended = {"11", "13", "14", "19", "20", "21"}
    eligible = [row for row in source if row["discharge_disposition_id"] not in ended]
    back = sum(row["readmitted"] == "<30" for row in eligible)
    sql = "SELECT count(*), count(*) FILTER (value = '1') FROM given_labels WHERE task = 'readmission'"
    assert ask(whole, sql) == [(len(eligible), back)] == [(99_343, 11_314)]
    assert counts["not_labelled"]["readmission: stay ended in death or hospice"] == 101_766 - 99_343
    sql = "SELECT count(*), count(*) FILTER (value = '1') FROM given_labels WHERE task = 'mortality'"
    assert ask(whole, sql) == [(101_756, 1_642)]
    assert ask(whole, "SELECT count(*) FROM encounters WHERE disposition = 'expired'") == [(1_642,)]
    sql = (
        "SELECT value::INT > 7 AS long, count(*) FROM given_labels WHERE task = 'length_of_stay' GROUP BY 1 ORDER BY 1"
    )
    assert ask(whole, sql) == [(False, 86_476), (True, 15_290)]


def test_codes_regain_the_zeros_that_the_file_lost(whole: Records, source: list[dict[str, str]]) -> None:
    codes_of = dict(ask(whole, "SELECT encounter_id, code FROM diagnoses WHERE position = 1"))
    written = {
        "38": "038",
        "8": "008",
        "250": "250.00",
        "250.6": "250.60",
        "250.83": "250.83",
        "428": "428",
        "V57": "V57",
    }
    seen = set()
    for row in source:
        if row["diag_1"] in written:
            assert codes_of[row["encounter_id"]] == written[row["diag_1"]]
            seen.add(row["diag_1"])
        elif row["diag_1"] == "?":
            assert row["encounter_id"] not in codes_of
    assert seen == set(written)
    shape = r"^([0-9]{3}|V[0-9]{2}|E[0-9]{3})(\.[0-9]{1,2})?$"
    shapes = ask(whole, f"SELECT count(*) FROM diagnoses WHERE NOT regexp_matches(code, '{shape}')")
    assert shapes == [(0,)]
    assert ask(whole, "SELECT DISTINCT code_version FROM diagnoses") == [("ICD-9-CM",)]


def test_the_admission_note_knows_admission_only(whole: Records, source: list[dict[str, str]]) -> None:
    """Two stays with the same facts on admission have the same note, whatever happened later."""
    notes = dict(ask(whole, "SELECT encounter_id, text FROM notes WHERE note_type = 'history_and_physical'"))
    by_facts: dict[tuple[str, ...], str] = {}
    known = ("race", "gender", "age", "admission_type_id", "admission_source_id", "payer_code", "medical_specialty",
             "number_outpatient", "number_emergency", "number_inpatient")  # fmt: skip
    repeats = 0
    for row in source:
        facts = tuple(row[c] for c in known)
        repeats += facts in by_facts
        assert by_facts.setdefault(facts, notes[row["encounter_id"]]) == notes[row["encounter_id"]]
    assert repeats > 10_000
    assert ask(whole, "SELECT DISTINCT known_at FROM fields WHERE field IN ('time_in_hospital', 'disposition', "
                      "'num_medications', 'code_diag_1', 'insulin', 'a1c')") == [("discharge",)]  # fmt: skip
    admission = {row[0] for row in ask(whole, "SELECT DISTINCT field FROM fields WHERE known_at = 'admission'")}
    assert admission == {"age", "sex", "race", "admission_type", "admission_source", "payer", "specialty",
                         "number_outpatient", "number_emergency", "number_inpatient"}  # fmt: skip


def test_the_discharge_note_gives_no_answer_away(whole: Records, source: list[dict[str, str]]) -> None:
    """It depends neither on the label nor on a code within its chapter, and has no word of death or hospice."""
    notes = dict(ask(whole, "SELECT encounter_id, text FROM notes WHERE note_type = 'discharge_summary'"))
    assert not [
        t
        for t in notes.values()
        if re.search(r"expired|died|death|hospice(?<!from hospice)|readmi(?!ssion to the same home)", t)
    ]
    allowed = r"aged \d+ to \d+|(stays|visits|tests|procedures|medications|recorded) \d+|Stay: \d+|above \d+|A1c"
    for text in list(notes.values())[::500]:
        assert not re.search(r"\d", re.sub(allowed, "", text)), text  # no code hides among the numbers
    words = max(len(text.split()) for text in notes.values())
    assert words <= 150


def test_label_and_codes_do_not_reach_the_notes(tmp_path: Path, source: list[dict[str, str]]) -> None:
    """Metamorphic: flip every label and move every code within its chapter; the notes stay as they are."""
    swap = {"<30": "NO", ">30": "<30", "NO": "<30"}
    rows = [dict(row) for row in source[:400]]
    changed = [{**row, "readmitted": swap[row["readmitted"]]} for row in rows]
    for row in changed:
        for diagnosis in ("diag_1", "diag_2", "diag_3"):
            if re.fullmatch(r"4[0-5]\d", row[diagnosis]):
                row[diagnosis] = "401"
    found = []
    for name, table in (("before", rows), ("after", changed)):
        write_source(tmp_path / name, table)
        records = Records.open(
            ingest_diabetes130(tmp_path / f"{name}-records", Diabetes130Settings(source=tmp_path / name))
        )
        found.append(ask(records, "SELECT note_id, text FROM notes ORDER BY 1"))
        assert len(found[-1]) == 800
    assert found[0] == found[1]


def write_source(folder: Path, rows: list[dict[str, str]], columns: list[str] | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "diabetic_data.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns or list(rows[0]), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def test_samples_are_whole_patients_by_hash(tmp_path: Path, source: list[dict[str, str]]) -> None:
    settings = Diabetes130Settings(sample_encounters=3_000, seed=5)
    sample = Records.open(ingest_diabetes130(tmp_path / "a", settings))
    kept = {row[0] for row in ask(sample, "SELECT patient_id FROM patients")}
    of_kept = sum(row["patient_nbr"] in kept for row in source)
    counts = sample.folder.manifest.counts
    assert counts["encounters"] == of_kept >= 3_000 and of_kept < 3_100
    assert sample.folder.manifest.left_out == {"stays of patients outside the sample": 101_766 - of_kept}
    hashes = {row["patient_nbr"]: unit_hash(row["patient_nbr"], "diabetes-130:5") for row in source}
    bound = max(hashes[p] for p in kept)
    assert kept == {p for p, value in hashes.items() if value <= bound}
    again = Records.open(ingest_diabetes130(tmp_path / "b", settings))
    assert again.folder.fingerprint == sample.folder.fingerprint
    other = Records.open(ingest_diabetes130(tmp_path / "c", settings.model_copy(update={"seed": 6})))
    assert other.folder.fingerprint != sample.folder.fingerprint


def test_every_published_code_has_a_meaning() -> None:
    tables: list[dict[int, Any]] = [codes.ADMISSION_TYPES, codes.DISPOSITIONS, codes.ADMISSION_SOURCES]
    lines = (DATA / "IDs_mapping.csv").read_text(encoding="utf-8").splitlines()
    table = -1
    for line in lines:
        code, _, words = line.partition(",")
        if code.endswith("_id"):
            table += 1
        elif code:
            assert int(code) in tables[table], (code, words)
            if table == 1 and re.search(r"expired|hospice", words, re.IGNORECASE):
                assert int(code) in codes.NOT_ELIGIBLE_FOR_READMISSION and tables[1][int(code)][1] is None
    assert table == 2


def test_the_shipped_files_are_those_of_the_provenance() -> None:
    said = (DATA / "PROVENANCE.md").read_text(encoding="utf-8")
    for name in ("IDs_mapping.csv", "diabetic_data.csv.gz"):
        assert hashlib.sha256((DATA / name).read_bytes()).hexdigest() in said
    assert "CC BY 4.0" in said and "10.24432/C5230J" in said


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("discharge_disposition_id", "99", "row 2: discharge_disposition_id is '99', expected one of 1, 2, 3"),
        ("age", "71", r"row 2: age is '71', expected one of \[0-10\)"),
        ("time_in_hospital", "long", "row 2: time_in_hospital is 'long', expected a whole number"),
        ("patient_nbr", "?", r"row 2: patient_nbr is '\?', expected a whole number"),
        ("encounter_id", "2278392", "encounter_id '2278392' was there before"),
    ],
)
def test_bad_sources_are_one_line(
    tmp_path: Path, source: list[dict[str, str]], column: str, value: str, expected: str
) -> None:
    rows = [dict(row) for row in source[:3]]
    rows[1][column] = value
    write_source(tmp_path / "in", rows)
    with pytest.raises(InputError, match=expected) as caught:
        ingest_diabetes130(tmp_path / "out", Diabetes130Settings(source=tmp_path / "in"))
    assert "\n" not in str(caught.value)


def test_missing_source(tmp_path: Path, source: list[dict[str, str]]) -> None:
    with pytest.raises(InputError, match=r"no diabetic_data\.csv"):
        ingest_diabetes130(tmp_path / "out", Diabetes130Settings(source=tmp_path))
    write_source(tmp_path, source[:3], [c for c in COLUMNS if c != "insulin"])
    with pytest.raises(InputError, match=r"column 'insulin' \(the Diabetes 130-US data\) is missing"):
        ingest_diabetes130(tmp_path / "out", Diabetes130Settings(source=tmp_path))
