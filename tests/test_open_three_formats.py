"""The same hundred patients three times: MIMIC-IV demo as PhysioNet gives it, in OMOP and in MEDS.

All three are ingested, each stay gets the same two short notes at the same times (the demo has none), and the real
builder labels them. Every difference is one that ``docs/three-formats.md`` explains, with the numbers asserted here.
"""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lang1.records.readers.meds import ingest_meds
from lang1.records.readers.mimic_iv import ingest_mimic_iv
from lang1.records.readers.omop import OmopSettings, ingest_omop
from lang1.records.store import Records, new_records, part_files
from lang1.remede.build import BuildSettings, build

DATA = Path(__file__).parents[2] / "shared" / "data"
NATIVE, OMOP, MEDS = DATA / "mimic-iv-demo", DATA / "mimic-iv-demo-omop", DATA / "mimic-iv-demo-meds"
TASKS = ("mortality", "length_of_stay", "comorbidity", "readmission")

pytestmark = pytest.mark.skipif(
    not all(folder.exists() for folder in (NATIVE, OMOP, MEDS)), reason="the open MIMIC-IV demo is not here in full"
)

# The concepts of this CDM that are hospital admissions; 2000001801, 1803 and 1805 are visits under observation.
OMOP_SETTINGS = OmopSettings(
    visit_classes={
        **dict.fromkeys(
            ("2000001802", "2000001804", "2000001806", "2000001807", "2000001808", "2000001809"), "inpatient"
        ),
        **dict.fromkeys(("2000001803", "2000001805"), "observation"),
    },
    dispositions={"HOME HEALTH CARE": "home_health"},
)


def read(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", newline="") as stream:
        return list(csv.DictReader(stream))


def ask(records: Records, sql: str) -> list[tuple[Any, ...]]:
    with records.connect() as connection:
        return connection.execute(sql).fetchall()


@dataclass(frozen=True)
class Source:
    """One format: its records, the hospital's id of each encounter, and labels by task and that id."""

    records: Records
    stay_of: dict[str, str]
    labels: dict[str, dict[str, int]]

    def encounters(self) -> dict[str, dict[str, Any]]:
        columns = "encounter_id, encounter_class, admit_time, discharge_time, disposition, admission_type, payer"
        rows = ask(self.records, f"SELECT {columns} FROM encounters")
        names = columns.split(", ")
        return {self.stay_of[row[0]]: dict(zip(names, row, strict=True)) for row in rows if row[0] in self.stay_of}


def with_notes(records: Records, out: Path, stay_of: dict[str, str], admissions: dict[str, dict[str, str]]) -> Path:
    """A copy of the records in which each stay has an admission note and a discharge summary, at native times."""
    rows: list[dict[str, Any]] = []
    for encounter, patient in ask(records, "SELECT encounter_id, patient_id FROM encounters ORDER BY 1"):
        if encounter not in stay_of:
            continue
        stay = admissions[stay_of[encounter]]
        times = {
            "history_and_physical": datetime.fromisoformat(stay["admittime"]) + timedelta(hours=1),
            "discharge_summary": datetime.fromisoformat(stay["dischtime"]),
        }
        for kind, at in times.items():
            note = {"note_id": f"{encounter}-{kind}", "patient_id": patient, "encounter_id": encounter}
            note |= {"note_type": kind, "signed_time": at, "available_time": at, "text": "A note of a test."}
            rows.append(note)
    with new_records(out, records.meta) as draft:
        for table in ("patients", "encounters", "diagnoses"):
            draft.write_part(table, pa.concat_tables(pq.read_table(f) for f in part_files(records.path, table)), 0)
        draft.write_part("notes", pa.Table.from_pylist(rows), 0)
    return out


def labelled(records: Path, out: Path, stay_of: dict[str, str]) -> dict[str, dict[str, int]]:
    build(records, out, BuildSettings(tasks=TASKS, calendar=None, mark_unsupported="all"))
    found: dict[str, dict[str, int]] = {task: {} for task in TASKS}
    for row in pq.read_table(out / "examples.parquet").to_pylist():
        found[row["task"]][stay_of[row["encounter_id"]]] = row["label"]
    return found


@pytest.fixture(scope="module")
def admissions() -> dict[str, dict[str, str]]:
    return {row["hadm_id"]: row for row in read(NATIVE / "hosp" / "admissions.csv.gz")}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, admissions: dict[str, dict[str, str]]) -> dict[str, Source]:
    place = tmp_path_factory.mktemp("three")
    folders = {
        "native": ingest_mimic_iv(NATIVE, place / "native"),
        "omop": ingest_omop(OMOP, place / "omop", OMOP_SETTINGS),
        "meds": ingest_meds(MEDS, place / "meds"),
    }
    # The ETL made new ids; visit_source_value is "subject|hadm" where the visit is an admission, "subject|date" else.
    rewritten = {
        row["visit_occurrence_id"]: row["visit_source_value"].split("|")[1]
        for row in read(OMOP / "visit_occurrence.csv.gz")
    }
    found = {}
    for name, folder in folders.items():
        records = Records.open(folder)
        if name == "omop":
            stay_of = {visit: stay for visit, stay in rewritten.items() if stay in admissions}
        else:
            stay_of = {stay: stay for stay in admissions}
        noted = with_notes(records, place / f"{name}-noted", stay_of, admissions)
        found[name] = Source(records, stay_of, labelled(noted, place / f"{name}-benchmark", stay_of))
    return found


def test_the_same_patients_and_admissions(sources: dict[str, Source], admissions: dict[str, dict[str, str]]) -> None:
    people = {row["subject_id"] for row in read(NATIVE / "hosp" / "patients.csv.gz")}
    rewritten = {row["person_id"]: row["person_source_value"] for row in read(OMOP / "person.csv.gz")}
    for name, source in sources.items():
        ids = {row[0] for row in ask(source.records, "SELECT patient_id FROM patients")}
        assert {rewritten[i] for i in ids} if name == "omop" else ids == people
        assert len(ids) == len(people) == 100
        assert set(source.encounters()) == set(admissions) and len(admissions) == 275
    # 852 visits: the 275 admissions and 577 days on which something happened outside a stay.
    assert Counter(
        row["visit_source_value"].split("|")[1] in admissions for row in read(OMOP / "visit_occurrence.csv.gz")
    ) == {
        True: 275,
        False: 577,
    }
    totals = {name: source.records.folder.manifest.counts["encounters"] for name, source in sources.items()}
    assert totals == {"native": 275 + 236, "omop": 852, "meds": 275}
    # The native reader also keeps the visits to the emergency department; MEDS takes them for part of the admission.
    classes = {
        name: Counter(e["encounter_class"] for e in source.encounters().values()) for name, source in sources.items()
    }
    assert classes["native"] == classes["meds"] == {"inpatient": 233, "observation": 42}
    # The concept of the five AMBULATORY OBSERVATION stays is also that of the 577 days.
    assert classes["omop"] == {"inpatient": 233, "observation": 37, "outpatient": 5}
    assert sources["meds"].records.folder.manifest.left_out[
        "stays: part of an admission (an emergency visit that led to it)"
    ] == len({(row["subject_id"], row["edregtime"]) for row in admissions.values() if row["edregtime"]})


def test_times_differ_only_where_a_source_moved_them(
    sources: dict[str, Source], admissions: dict[str, dict[str, str]]
) -> None:
    encounters = {name: source.encounters() for name, source in sources.items()}
    earlier, other_day = 0, 0
    for stay, row in admissions.items():
        admitted, left = datetime.fromisoformat(row["admittime"]), datetime.fromisoformat(row["dischtime"])
        assert encounters["native"][stay]["admit_time"] == encounters["meds"][stay]["admit_time"] == admitted
        assert encounters["meds"][stay]["discharge_time"] == encounters["omop"][stay]["discharge_time"] == left
        # The OMOP ETL begins a visit at registration in the emergency department, where there was one before.
        began = encounters["omop"][stay]["admit_time"]
        registered = [datetime.fromisoformat(row["edregtime"])] if row["edregtime"] else []
        if began != admitted:
            assert began == min([*registered, admitted])
            earlier, other_day = earlier + 1, other_day + (began.date() < admitted.date())
        # A discharge just after midnight, hours before the death of that day: the native reader takes that hour.
        native = encounters["native"][stay]["discharge_time"]
        assert native == left or (native == datetime.fromisoformat(row["deathtime"]) and native.date() == left.date())
    assert (earlier, other_day) == (180, 45)
    inpatient = [stay for stay, e in encounters["native"].items() if e["encounter_class"] == "inpatient"]
    assert (
        sum(
            encounters["omop"][s]["admit_time"].date() < encounters["native"][s]["admit_time"].date() for s in inpatient
        )
        == 36
    )
    assert (
        sum(encounters["native"][s]["discharge_time"] != encounters["meds"][s]["discharge_time"] for s in admissions)
        == 4
    )


def test_deaths(sources: dict[str, Source], admissions: dict[str, dict[str, str]]) -> None:
    deaths = {
        name: dict(ask(source.records, "SELECT patient_id, death_time FROM patients WHERE death_time IS NOT NULL"))
        for name, source in sources.items()
    }
    assert {name: len(found) for name, found in deaths.items()} == {"native": 31, "meds": 31, "omop": 15}
    rewritten = {row["person_id"]: row["person_source_value"] for row in read(OMOP / "person.csv.gz")}
    # OMOP was made from a release whose dates of death were those in hospital only.
    in_hospital = {row["subject_id"] for row in admissions.values() if row["deathtime"]}
    assert {rewritten[person] for person in deaths["omop"]} == in_hospital
    assert {p: t.date() for p, t in deaths["native"].items()} == {p: t.date() for p, t in deaths["meds"].items()}
    for name, found in deaths.items():
        at_midnight = sum(time.hour == time.minute == 0 for time in found.values())
        assert at_midnight == {"native": 31, "meds": 16, "omop": 3}[name]  # known by the day, or written so
    # The OMOP ETL took the discharge for the death where it came first.
    stated = {
        row["subject_id"]: min(row["deathtime"], row["dischtime"]) for row in admissions.values() if row["deathtime"]
    }
    assert {rewritten[p]: str(t) for p, t in deaths["omop"].items()} == stated
    for source in sources.values():
        assert sum(e["disposition"] == "expired" for e in source.encounters().values()) == 15


def test_codes(sources: dict[str, Source]) -> None:
    codes = {}
    for name, source in sources.items():
        rows = ask(source.records, "SELECT encounter_id, replace(code, '.', ''), code_version FROM diagnoses")
        codes[name] = Counter((source.stay_of[stay], code, version) for stay, code, version in rows)
    assert codes["native"] == codes["meds"] and codes["native"].total() == 4506
    # The versions in OMOP follow from the shapes of the codes alone, and all are right.
    assert codes["omop"] <= codes["native"] and codes["omop"].total() == 3640
    # Codes whose standard concept is no condition went to the observation table, which this copy lacks.
    missing = codes["native"] - codes["omop"]
    assert missing.total() == 866
    assert Counter(code[0] for _, code, _ in missing.elements()).most_common(2) == [("Z", 373), ("V", 323)]
    left_out = sources["omop"].records.folder.manifest.left_out
    repeated = "stay_codes: a code of the visit that was there before (one code can map to several concepts)"
    assert left_out[repeated] == 193
    assert "observation" in sources["omop"].records.folder.manifest.extra["absent"]


def test_labels_are_those_of_the_admissions_file(
    sources: dict[str, Source], admissions: dict[str, dict[str, str]]
) -> None:
    native = sources["native"].labels
    inpatient = {s for s, e in sources["native"].encounters().items() if e["encounter_class"] == "inpatient"}
    died = {stay: int(admissions[stay]["hospital_expire_flag"]) for stay in inpatient}
    assert native["mortality"] == died and sum(died.values()) == 15
    days = {
        stay: (
            datetime.fromisoformat(admissions[stay]["dischtime"]).date()
            - datetime.fromisoformat(admissions[stay]["admittime"]).date()
        ).days
        for stay in inpatient
    }
    assert native["length_of_stay"] == {stay: (n > 2) + (n > 3) + (n > 5) for stay, n in days.items()}


def test_meds_labels_are_those_of_the_native_files(sources: dict[str, Source]) -> None:
    assert sources["meds"].labels == sources["native"].labels
    assert {task: len(rows) for task, rows in sources["meds"].labels.items()} == {
        "mortality": 233,
        "length_of_stay": 233,
        "comorbidity": 233,
        "readmission": 213,
    }
    assert sum(sources["meds"].labels["readmission"].values()) == 47


def test_what_only_some_formats_carry(sources: dict[str, Source]) -> None:
    encounters = {name: source.encounters() for name, source in sources.items()}
    for column in ("admission_type", "disposition", "payer"):
        assert all(e[column] == encounters["native"][stay][column] for stay, e in encounters["meds"].items())
    assert all(e["disposition"] == encounters["native"][stay]["disposition"] for stay, e in encounters["omop"].items())
    other = [
        s for s, e in encounters["omop"].items() if e["admission_type"] != encounters["native"][s]["admission_type"]
    ]
    assert len(other) == 156 and {e["payer"] for e in encounters["omop"].values()} == {None}
    principal = {
        name: ask(s.records, "SELECT count(*) FROM diagnoses WHERE position = 1")[0][0] for name, s in sources.items()
    }
    assert principal == {"native": 275, "meds": 0, "omop": 0}


def test_omop_labels_differ_where_the_etl_moved_facts(
    sources: dict[str, Source], admissions: dict[str, dict[str, str]]
) -> None:
    native, omop = sources["native"].labels, sources["omop"].labels
    assert {task: set(rows) for task, rows in omop.items()} == {task: set(rows) for task, rows in native.items()}
    differ = {
        task: {stay for stay, label in rows.items() if omop[task][stay] != label} for task, rows in native.items()
    }
    assert not differ["mortality"] and not differ["readmission"]
    # Each began in the emergency department on a day before the admission, and so is longer.
    assert len(differ["length_of_stay"]) == 14
    for stay in differ["length_of_stay"]:
        assert omop["length_of_stay"][stay] > native["length_of_stay"][stay]
        assert admissions[stay]["edregtime"][:10] < admissions[stay]["admittime"][:10]
    # One stay loses points with the codes that lie in the observation table.
    (fewer,) = differ["comorbidity"]
    lost = {
        name: {
            code
            for code, stay in ask(source.records, "SELECT code, encounter_id FROM diagnoses")
            if source.stay_of[stay] == fewer
        }
        for name, source in (("native", sources["native"]), ("omop", sources["omop"]))
    }
    assert "Z992" in lost["native"] - lost["omop"]
    assert omop["comorbidity"][fewer] < native["comorbidity"][fewer]
