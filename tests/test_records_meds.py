"""MEDS: events paired into encounters with and without an encounter id, by templates that a user can change."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from datetime import datetime as dt
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lang1.common.errors import InputError, Lang1Error, SettingsError
from lang1.common.settings import load_settings
from lang1.records.readers.meds import MedsSettings, ingest_meds
from lang1.records.readers.meds_codes import MedsCodes, classify
from lang1.records.store import CompleteThrough, Records

SMALL = Path(__file__).parent / "data" / "meds" / "events.json"
COMPLETE = {"encounters": CompleteThrough(through=dt(2024, 12, 31), key="discharge_time")}
TYPES = {"subject_id": pa.int64(), "time": pa.timestamp("us"), "code": pa.string(), "numeric_value": pa.float32()}
Event = dict[str, Any]


def dataset(folder: Path, events: Iterable[Event], made: str = "2025-01-15T00:00:00") -> Path:
    """A MEDS dataset in two shards; columns beyond the schema are text."""
    rows = [event | {"time": event.get("time") and dt.fromisoformat(event["time"])} for event in events]
    columns = list(dict.fromkeys([*TYPES, "text_value", *(key for row in rows for key in row)]))
    schema = pa.schema([(c, TYPES.get(c, pa.timestamp("us") if c == "end" else pa.string())) for c in columns])
    half = (len(rows) + 1) // 2
    for place, part in (("train", rows[:half]), ("held_out", rows[half:])):
        (folder / "data" / place).mkdir(parents=True)
        filled = [{c: row.get(c) for c in columns} for row in part]
        pq.write_table(pa.Table.from_pylist(filled, schema=schema), folder / "data" / place / "0.parquet")
    (folder / "metadata").mkdir()
    about = {"dataset_name": "St Elsewhere", "dataset_version": "1", "meds_version": "0.4.1", "created_at": made}
    (folder / "metadata" / "dataset.json").write_text(json.dumps(about))
    return folder


def ask(records: Records, sql: str) -> list[tuple[Any, ...]]:
    with records.connect() as connection:
        return connection.execute(sql).fetchall()


def ingest(source: Path, out: Path, **given: Any) -> Records:
    return Records.open(ingest_meds(source, out, MedsSettings(**{"complete_through": COMPLETE} | given)))


def events() -> list[Event]:
    found: list[Event] = json.loads(SMALL.read_text())
    return found


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Records:
    place = tmp_path_factory.mktemp("meds")
    return ingest(dataset(place / "source", events()), place / "records")


def test_patients(small: Records) -> None:
    columns = "patient_id, birth_year, sex, race, ethnicity, death_time, death_source"
    assert ask(small, f"SELECT {columns} FROM patients ORDER BY 1") == [
        ("1", 1950, "female", "White", None, None, None),
        ("2", 1960, "male", None, "Hispanic", dt(2024, 4, 3, 2), "ehr"),
        ("3", None, "unknown", None, None, None, None),
    ]
    assert small.meta.system == "St Elsewhere" and small.meta.vital_status.source == "ehr"


def test_admissions_pair_by_id_and_by_time(small: Records) -> None:
    columns = "encounter_id, encounter_class, admit_time, discharge_time, admission_type, disposition, payer"
    assert ask(small, f"SELECT {columns} FROM encounters ORDER BY admit_time") == [
        ("100", "inpatient", dt(2024, 1, 1, 10), dt(2024, 1, 5, 12), "emergency", "home", "Medicare"),
        ("101", "observation", dt(2024, 2, 1, 10), dt(2024, 2, 1, 20), "emergency", "unknown", None),
        # Without an id: the next discharge, unless another admission comes first.
        ("2-inpatient-0-1", "inpatient", dt(2024, 3, 1, 8), None, "unknown", None, None),
        ("2-inpatient-0-2", "inpatient", dt(2024, 4, 1, 8), dt(2024, 4, 3, 2), "urgent", "expired", None),
        ("3-emergency-2-1", "emergency", dt(2024, 5, 1, 8), dt(2024, 5, 1, 12), "unknown", "unknown", None),
    ]
    assert ask(small, "SELECT age_at_admission FROM encounters WHERE encounter_id = '100'") == [(74.0,)]
    counts = small.folder.manifest.counts
    assert counts["inpatient stays without an end"] == 1
    assert counts["unmapped"] == {"disposition": {"?? (taken as unknown)": 1}}


def test_what_hangs_on_an_encounter(small: Records) -> None:
    found = ask(small, "SELECT encounter_id, code, code_version FROM diagnoses ORDER BY 1, 2")
    assert found == [
        ("100", "4280", "ICD-9-CM"),
        ("100", "I509", "ICD-10-CM"),
        ("2-inpatient-0-2", "N18.6", "ICD-10-CM"),  # by its time, which is that of the discharge
    ]
    assert ask(small, "SELECT code, code_version, performed_time FROM procedures") == [
        ("0DTJ4ZZ", "ICD-10-PCS", dt(2024, 1, 1))  # a day without an hour, on the day of admission
    ]
    columns = "unit, unit_type, in_time, out_time"
    assert ask(small, f"SELECT {columns} FROM unit_stays ORDER BY in_time") == [
        ("Medicine", "ward", dt(2024, 1, 1, 10), dt(2024, 1, 2, 9)),
        ("Medical Intensive Care Unit (MICU)", "intensive_care", dt(2024, 1, 2, 9), dt(2024, 1, 5, 12)),
    ]


def test_notes(small: Records) -> None:
    columns = "note_id, encounter_id, note_type, available_time, signed_time = available_time, text"
    assert ask(small, f"SELECT {columns} FROM notes ORDER BY available_time") == [
        ("n1", "100", "discharge_summary", dt(2024, 1, 5, 11), True, "Went home"),
        ("n2", "2-inpatient-0-2", "discharge_summary", dt(2024, 4, 4, 9), True, "Filed a day after the end"),
        ("held_out/0.parquet:16", None, "nursing", dt(2024, 6, 1, 9), True, "No stay holds it"),
    ]
    counts = small.folder.manifest.counts
    assert counts["notes without an encounter, kept and unusable"] == 1
    assert counts["texts of 200 characters and more whose code is no note's (codes.notes)"] == {"LAB": 1}


def test_choices_about_notes(tmp_path: Path) -> None:
    source = dataset(tmp_path / "source", events())
    records = ingest(source, tmp_path / "r", notes_after_discharge_hours=24, note_time_is="written")
    rows = ask(records, "SELECT note_id, encounter_id, available_time, created_time FROM notes ORDER BY created_time")
    assert rows[1] == ("n2", None, None, dt(2024, 4, 4, 9))


def test_every_event_left_out_is_counted(small: Records) -> None:
    assert small.folder.manifest.left_out == {
        "diagnosis_events: a code version that is not known": 1,
        "diagnosis_events: no encounter holds it": 1,
        "events: a code that no template takes": 2,
        "events: no subject_id": 1,
        "events: no time, of a code that needs one": 1,
        "events: the end of an encounter that has no beginning": 1,
        "note_events: no text": 1,
        "stays: part of an admission (an emergency visit that led to it)": 1,
        "unit_events: told again by another kind of event": 1,
    }
    assert small.folder.manifest.extra["left_out_examples"]["events: no subject_id"] == "held_out/0.parquet row 19"
    assert small.folder.manifest.counts["codes that no template takes, by their first part"] == {"HCPCS": 1, "LAB": 1}


def test_an_end_column_and_the_codes_of_another_etl(tmp_path: Path) -> None:
    source = dataset(
        tmp_path / "source",
        [
            {"subject_id": 7, "code": "Gender/F"},
            {
                "subject_id": 7,
                "time": "2024-01-01T10:00:00",
                "code": "Visit/IP",
                "end": dt(2024, 1, 4),
                "visit_id": "5.0",
            },
            {"subject_id": 7, "time": "2024-01-03T00:00:00", "code": "ICD9CM/428.0", "visit_id": "5"},
            {
                "subject_id": 7,
                "time": "2024-01-03T00:00:00",
                "code": "Notiz: Arztbrief",
                "text_value": "Text",
                "visit_id": "5",
            },
        ],
    )
    codes = {"notes": {"Notiz: {note_type}": "{note_type}"}, "note_types": {"arztbrief": "discharge_summary"}}
    records = ingest(source, tmp_path / "r", codes=codes)
    assert ask(records, "SELECT encounter_id, admit_time, discharge_time FROM encounters") == [
        ("5", dt(2024, 1, 1, 10), dt(2024, 1, 4))
    ]
    assert ask(records, "SELECT encounter_id, code FROM diagnoses") == [("5", "428.0")]
    assert ask(records, "SELECT encounter_id, note_type FROM notes") == [("5", "discharge_summary")]
    assert records.folder.manifest.extra["columns"] == {"encounter id": "visit_id", "end": "end", "note id": None}


def test_templates() -> None:
    shipped = MedsCodes.model_validate({})
    (one,) = classify(["HOSPITAL_ADMISSION//EW EMER.//WALK-IN/SELF REFERRAL"], shipped)
    assert (one.fields["our_type"], one.fields["admission_source"]) == ("emergency", "WALK-IN/SELF REFERRAL")
    assert not classify(["HCPCS//Radiology", "HOSPITAL_ADMISSIONS", "X//MEDS_BIRTH"], shipped)
    assert [k.fields["code"] for k in classify(["ICD10CM/I50.9", "ICD10CM//I50.9"], shipped)] == ["I50.9", "I50.9"]
    own = load_settings(MedsSettings, overrides=["codes.dispositions.HOME=home_health"])
    assert own.codes.dispositions["HOME"] == "home_health" and own.codes.dispositions["REHAB"] == "rehabilitation"
    with pytest.raises(SettingsError, match="'HOME' is mapped to 'gone', expected one of home"):
        load_settings(MedsSettings, overrides=["codes.dispositions.HOME=gone"])
    with pytest.raises(SettingsError, match="unknown field 'who'"):
        load_settings(MedsSettings, overrides=["codes.birth=['BORN//{who}']"])


def test_true_times_need_a_declaration_and_shifted_ones_are_found_out(tmp_path: Path) -> None:
    source = dataset(tmp_path / "a", events())
    with pytest.raises(InputError, match=r"complete_through is not set.*the last encounter begins 2024-05-01"):
        ingest(source, tmp_path / "r", complete_through=None)
    shifted = dataset(tmp_path / "b", events(), made="2019-01-01T00:00:00")
    records = ingest(shifted, tmp_path / "s", complete_through=None)
    assert records.meta.time_basis == "shifted" and ask(records, "SELECT count(birth_year) FROM patients") == [(0,)]
    with pytest.raises(InputError, match="set time_basis=shifted"):
        ingest(shifted, tmp_path / "t", time_basis="calendar")


def test_what_is_no_meds(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        ingest(tmp_path / "nowhere", tmp_path / "r")
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError, match=r"no \*.parquet"):
        ingest(tmp_path, tmp_path / "r")
    (tmp_path / "data" / "0.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="not readable as Parquet"):
        ingest(tmp_path, tmp_path / "r")
    pq.write_table(pa.table({"patient_id": [1], "time": [None], "code": ["A"]}), tmp_path / "data" / "0.parquet")
    with pytest.raises(InputError, match=r"'subject_id' is missing.*before 0.4"):
        ingest(tmp_path, tmp_path / "r")
    pq.write_table(
        pa.table({"subject_id": [1], "time": [dt(2024, 1, 1)], "code": ["A//B"]}), tmp_path / "data" / "0.parquet"
    )
    with pytest.raises(InputError, match=r"no code begins an encounter.*Codes begin with: A \(1\)"):
        ingest(tmp_path, tmp_path / "r")


def test_the_command_line(tmp_path: Path) -> None:
    source = dataset(tmp_path / "source", events())
    command = [sys.executable, "-m", "lang1.cli.main", "ingest", "meds", str(source), str(tmp_path / "r")]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "complete_through" in refused.stderr and "Traceback" not in refused.stderr
    subprocess.run([*command, "complete_through={}", "system=elsewhere"], capture_output=True, check=True)
    assert Records.open(tmp_path / "r").meta.system == "elsewhere"


@settings(max_examples=3, deadline=None)
@given(
    stays=st.lists(
        st.tuples(st.integers(0, 20), st.integers(1, 400), st.integers(0, 50)),
        min_size=1,
        max_size=60,
        unique_by=lambda s: s[1],
    )
)
def test_pairing_by_time_is_pairing_by_id_where_stays_do_not_overlap(
    tmp_path_factory: pytest.TempPathFactory, stays: list[tuple[int, int, int]]
) -> None:
    """Stays of a subject one after another, told with ids and without: the same times."""
    place = tmp_path_factory.mktemp("pairs")
    told: list[Event] = []
    clock = {subject: dt(2024, 1, 1) for subject in range(21)}
    for number, (subject, gap, hours) in enumerate(sorted(stays, key=lambda stay: stay[1])):
        admitted = clock[subject] + timedelta(hours=gap)
        clock[subject] = admitted + timedelta(hours=hours)
        for code, at in (("HOSPITAL_ADMISSION", admitted), ("HOSPITAL_DISCHARGE//HOME", clock[subject])):
            told.append({"subject_id": subject, "time": at.isoformat(), "code": code, "hadm_id": str(number)})
    sql = "SELECT patient_id, admit_time, discharge_time, disposition FROM encounters ORDER BY ALL"
    with_ids = ingest(dataset(place / "a", told), place / "ra")
    without = ingest(dataset(place / "b", [{k: v for k, v in e.items() if k != "hadm_id"} for e in told]), place / "rb")
    assert ask(with_ids, sql) == ask(without, sql)
    assert len(ask(with_ids, sql)) == len(stays)


@settings(max_examples=4, deadline=None)
@given(
    odd=st.lists(
        st.fixed_dictionaries(
            {
                "subject_id": st.one_of(st.none(), st.integers(-1, 3)),
                "code": st.one_of(
                    st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20),
                    st.sampled_from(
                        ["HOSPITAL_ADMISSION//", "DIAGNOSIS//ICD//10//", "MEDS_DEATH", "NOTE//", "HOSPITAL_DISCHARGE"]
                    ),
                ),
            },
            optional={
                "time": st.datetimes(dt(1, 1, 1), dt(9999, 1, 1)).map(lambda t: t.isoformat()),
                "hadm_id": st.sampled_from(["", "100", "x"]),
                "text_value": st.sampled_from(["", " ", "text"]),
            },
        ),
        max_size=6,
    )
)
def test_no_event_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, odd: list[Event]) -> None:
    place = tmp_path_factory.mktemp("odd")
    try:
        records = ingest(dataset(place / "source", [*events(), *odd]), place / "r")
    except Lang1Error:
        return
    # A stay that no odd event names is there, unless its patient is not: a death before the birth, an absurd one.
    left_out = records.folder.manifest.left_out
    kept = {row[0] for row in ask(records, "SELECT encounter_id FROM encounters")}
    assert "101" in kept or any(reason.startswith("patients: ") for reason in left_out)
