"""eICU: offsets become times within a stay, and the first day becomes a note that knows nothing later."""

from __future__ import annotations

import csv
import gzip
from datetime import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from lang1.common.errors import InputError
from lang1.records.readers.eicu import EicuSettings, apache_predictions, ingest_eicu
from lang1.records.store import Records

SMALL = Path(__file__).parent / "data" / "eicu"
DEMO = Path(__file__).parents[2] / "shared" / "data" / "eicu-demo"


def ask(records: Records, sql: str) -> list[tuple[Any, ...]]:
    with records.connect() as connection:
        return connection.execute(sql).fetchall()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Records:
    return Records.open(ingest_eicu(SMALL, tmp_path_factory.mktemp("eicu") / "records"))


def test_offsets_become_times_within_a_stay(small: Records) -> None:
    columns = "encounter_id, admit_time, discharge_time, disposition, facility, year_low"
    assert ask(small, f"SELECT {columns} FROM encounters ORDER BY 1") == [
        ("10", dt(2000, 1, 1, 22), dt(2000, 1, 3, 11), "home", "7", 2014),
        ("20", dt(2000, 1, 1, 8), dt(2000, 1, 2, 14), "expired", "8", 2015),
        ("30", dt(2000, 1, 1, 8), dt(2000, 1, 1, 20), "home", "8", 2015),
        ("40", dt(2000, 1, 1, 12), dt(2000, 1, 8, 20, 40), "unknown", "7", 2015),
    ]  # fmt: skip
    assert ask(small, "SELECT unit_type, in_time, out_time FROM unit_stays WHERE encounter_id = '10' ORDER BY 2") == [
        ("intensive_care", dt(2000, 1, 1, 23), dt(2000, 1, 2, 23)),
        ("step_down", dt(2000, 1, 2, 23), dt(2000, 1, 3, 10)),
    ]
    assert small.folder.manifest.left_out == {
        "diagnosis: a unit stay that is not in patient": 1,
        "diagnosis: no code": 1,
        "patient: hospitaladmitoffset is not a number of minutes": 1,
    }
    assert small.folder.manifest.counts["stays of patients over 89, taken as 90 years old"] == 1
    assert "physicalexam" not in small.folder.manifest.extra["absent"]
    assert "treatment" in small.folder.manifest.extra["absent"]


def test_the_note_holds_what_was_entered_by_its_hour_and_nothing_of_the_end(small: Records) -> None:
    notes = dict(ask(small, "SELECT encounter_id, text FROM notes"))
    assert "COPD: COPD - severe" in notes["10"] and "pneumonia" in notes["10"]
    # Entered 33 hours and 35 hours after admission; the history of the stroke was filed late under an early offset.
    assert "stroke" not in notes["10"] and "heart failure" not in notes["10"]
    assert "HR Current 118" in notes["20"] and "Weight (kg) Current 71.5" in notes["20"]
    assert "septic shock" not in notes["20"]  # entered at hour 25
    assert "Comfort" not in notes["20"] and "Intubated" in notes["20"]
    assert not any(word in text for text in notes.values() for word in ("486", "J18.9", "Death", "Expired", "0.61"))
    assert ask(small, "SELECT available_time FROM notes WHERE encounter_id = '20'") == [(dt(2000, 1, 2, 8),)]


def test_codes_and_fields(small: Records) -> None:
    found = ask(small, "SELECT encounter_id, code, code_version, position FROM diagnoses ORDER BY ALL")
    assert found == [
        ("10", "428.0", "ICD-9-CM", None),
        ("10", "486", "ICD-9-CM", 1),
        ("20", "785.52", "ICD-9-CM", 1),
        ("20", "V45.1", "ICD-9-CM", None),
        ("30", "T50.901", "ICD-10-CM", None),
    ]
    fields = ask(
        small, "SELECT field, number, text FROM fields WHERE encounter_id = '10' AND field LIKE 'apache%' ORDER BY 1"
    )
    assert ("apache_creatinine", -1.0, None) not in fields and ("apache_heartrate", 80.0, None) in fields
    assert apache_predictions(SMALL) == {"20": 0.61}


def test_worst_values_stand_in_the_note_once_the_day_is_over(small: Records, tmp_path: Path) -> None:
    notes = dict(ask(small, "SELECT encounter_id, text FROM notes"))
    assert "Worst values of the first day: intubated; heart rate 118 (high); creatinine 2.5 (high)." in notes["20"]
    assert "Worst values of the first day: heart rate 80." in notes["10"]  # -1 is no value
    half = Records.open(ingest_eicu(SMALL, tmp_path / "r", EicuSettings(hours=12)))
    assert not any("Worst values" in text for (text,) in ask(half, "SELECT text FROM notes"))
    assert not ask(half, "SELECT 1 FROM fields WHERE field = 'apache_heartrate'")


def test_prognosis_is_an_explicit_choice(tmp_path: Path) -> None:
    records = Records.open(ingest_eicu(SMALL, tmp_path / "r", EicuSettings(prognosis_in_note=True)))
    assert "Comfort measures only" in dict(ask(records, "SELECT encounter_id, text FROM notes"))["20"]


def test_a_folder_that_is_not_eicu(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no patient table"):
        ingest_eicu(tmp_path, tmp_path / "r")
    (tmp_path / "patient.csv").write_text("patientunitstayid,uniquepid\n1,2\n")
    with pytest.raises(InputError, match="column 'patienthealthsystemstayid'"):
        ingest_eicu(tmp_path, tmp_path / "r")


@pytest.mark.skipif(not DEMO.exists(), reason="the open eICU demo is not here")
def test_the_demo_as_counted_by_hand(tmp_path: Path) -> None:
    with gzip.open(DEMO / "patient.csv.gz", "rt") as stream:
        rows = list(csv.DictReader(stream))
    stays = {row["patienthealthsystemstayid"]: row for row in rows}
    records = Records.open(ingest_eicu(DEMO, tmp_path / "r"))
    assert records.folder.manifest.counts["patients"] == len({row["uniquepid"] for row in rows}) == 1841
    assert records.folder.manifest.counts["encounters"] == len(stays) == 2174
    assert records.folder.manifest.counts["unit_stays"] == len(rows) == 2520
    died = {stay for stay, row in stays.items() if row["hospitaldischargestatus"] == "Expired"}
    assert len(died) == 182
    assert {row[0] for row in ask(records, "SELECT encounter_id FROM encounters WHERE disposition = 'expired'")} == died
    # The clock time of discharge that the source gives is the one that the offsets come to, to the minute.
    clock = dict(ask(records, "SELECT encounter_id, strftime(discharge_time, '%H:%M') FROM encounters"))
    assert all(clock[stay] == row["hospitaldischargetime24"][:5] for stay, row in stays.items())
