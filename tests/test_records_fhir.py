"""FHIR bulk exports: every situation of an invented export, every arrangement of its files, and whatever is broken."""

from __future__ import annotations

import base64
import copy
import gzip
import json
import shutil
import subprocess
import sys
from collections import Counter
from datetime import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lang1.common.errors import InputError, Lang1Error, SettingsError
from lang1.common.settings import load_settings
from lang1.records.readers.fhir import FhirSettings, ingest_fhir
from lang1.records.readers.fhir_text import cda_text, decoded, html_text, inline, rtf_text
from lang1.records.readers.fhir_values import Node, Oddities, reference
from lang1.records.store import CompleteThrough, Records

SMALL = Path(__file__).parent / "data" / "fhir"
OPEN = Path(__file__).parents[2] / "shared" / "data"
CLINOSIM, SYNTHEA = OPEN / "clinosim-fhir-sample", OPEN / "synthea-fhir-bulk-10"
THROUGH = {
    "encounters": CompleteThrough(through=dt(2024, 12, 31), key="admit_time"),
    "claims": CompleteThrough(through=dt(2024, 12, 31), key="submitted_time"),
}


def ask(records: Records, sql: str) -> list[tuple[Any, ...]]:
    with records.connect() as connection:
        return connection.execute(sql).fetchall()


def ingest(source: Path, out: Path, **given: Any) -> Records:
    return Records.open(ingest_fhir(source, out, FhirSettings(**{"complete_through": THROUGH} | given)))


def world(folder: Path, *resources: Any) -> Path:
    """A one-patient export with the given resources besides."""
    folder.mkdir(parents=True)
    lines = [{"resourceType": "Patient", "id": "p", "birthDate": "1950-01-01"}, stay("e"), *resources]
    (folder / "all.ndjson").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def stay(number: str, start: str = "2024-01-10T10:00:00", end: str | None = "2024-01-12T10:00:00", **more: Any) -> Any:
    period = {"start": start} | ({"end": end} if end else {})
    subject = {"reference": "Patient/p"}
    resource = {"resourceType": "Encounter", "id": number, "status": "finished", "class": {"code": "IMP"}}
    return resource | {"subject": subject, "period": period} | more


def document(number: str, text: str, date: str | None = "2024-01-10T12:00:00", **more: Any) -> Any:
    data = base64.b64encode(text.encode()).decode()
    resource = {
        "resourceType": "DocumentReference",
        "id": number,
        "status": "current",
        "docStatus": "final",
        "type": {"coding": [{"system": "http://loinc.org", "code": "34117-2"}]},
        "subject": {"reference": "Patient/p"},
        "context": {"encounter": [{"reference": "Encounter/e"}]},
        "content": [{"attachment": {"contentType": "text/plain", "data": data}}],
    }
    return resource | ({"date": date} if date else {}) | more


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Records:
    return ingest(SMALL, tmp_path_factory.mktemp("fhir") / "records")


def test_patients(small: Records) -> None:
    columns = "patient_id, birth_year, sex, race, ethnicity, area, death_time, death_source"
    assert ask(small, f"SELECT {columns} FROM patients ORDER BY 1") == [
        ("p1", 1950, "female", "Black", "Not Hispanic", "Hampden", None, None),
        ("p2", 1948, "male", "Other", None, None, dt(2024, 2, 6), "ehr"),  # a day only: its start
        ("p3", 1980, "unknown", None, None, None, None, None),  # dead, nobody says when
    ]
    assert small.folder.manifest.counts["patients dead at an unknown time"] == 1
    assert small.meta.vital_status.source == "ehr"


def test_encounters(small: Records) -> None:
    columns = "encounter_id, patient_id, encounter_class, admit_time, discharge_time, disposition"
    assert ask(small, f"SELECT {columns} FROM encounters ORDER BY admit_time") == [
        ("e1-ed", "p1", "emergency", dt(2024, 1, 10, 18), dt(2024, 1, 10, 22, 30), "unknown"),  # began before the stay
        ("e1", "p1", "inpatient", dt(2024, 1, 10, 22, 30), dt(2024, 1, 14, 11), "home_health"),  # the later copy
        ("e3", "p2", "inpatient", dt(2024, 2, 1, 8), dt(2024, 2, 6, 7), "expired"),
        ("e2", "p1", "inpatient", dt(2024, 2, 3, 9), None, None),  # in progress: its stated end is none
        ("e6", "p3", "observation", dt(2024, 3, 5), dt(2024, 3, 6, 23, 59, 59), "unknown"),
        ("e7", "p3", "outpatient", dt(2024, 4, 1, 9), dt(2024, 4, 1, 9, 30), "unknown"),  # patient by identifier
        ("e10", "p3", "inpatient", dt(2024, 6, 1, 10), dt(2024, 6, 5, 10), "skilled_nursing"),  # R5
    ]
    facts = "admission_type, admission_source, department, facility, age_at_admission, payer"
    assert ask(small, f"SELECT {facts} FROM encounters WHERE encounter_id = 'e1'") == [
        ("emergency", "From the emergency department", "Cardiology", "St Elsewhere", 73.57, "Acme Health")
    ]
    assert small.folder.manifest.counts["unmapped"]["Encounter.dischargeDisposition"] == {
        "Gone to sea (taken as unknown)": 1
    }


def test_codes_procedures_and_units(small: Records) -> None:
    columns = "encounter_id, code, code_version, position, present_on_admission"
    assert ask(small, f"SELECT {columns} FROM diagnoses ORDER BY ALL") == [
        ("e1", "E11.9", "ICD-10-CM", 2, None),  # a problem list item that the encounter cites
        ("e1", "I50.9", "ICD-10-CM", 1, "Y"),  # coded in ICD-9 and SNOMED CT as well
        ("e1", "J96.01", "ICD-10-CM", None, None),  # of the part in intensive care
        ("e10", "I64", "ICD-10", None, None),
        ("e3", "410.71", "ICD-9-CM", None, None),
    ]
    assert ask(small, "SELECT encounter_id, code, code_version, performed_time FROM procedures ORDER BY 2") == [
        ("e1", "31500", "CPT", dt(2024, 1, 11, 23, 59, 59)),
        ("e1", "5A1935Z", "ICD-10-PCS", dt(2024, 1, 11, 7)),
    ]
    assert ask(small, "SELECT encounter_id, unit, unit_type, in_time, out_time FROM unit_stays ORDER BY in_time") == [
        ("e1", "Ward 4W", "ward", dt(2024, 1, 10, 22, 30), dt(2024, 1, 11, 6)),  # of the bed and the ward, once
        ("e1", "4 North", "intensive_care", dt(2024, 1, 11, 6), dt(2024, 1, 12, 6)),
    ]


def test_notes(small: Records) -> None:
    columns = "split_part(note_id, '/', 2), note_type, signed_time, available_time, text"
    found = {row[0]: row[1:] for row in ask(small, f"SELECT {columns} FROM notes")}
    at = dt(2024, 1, 11, 1)
    assert found["hp"] == ("history_and_physical", at, at, "HISTORY OF PRESENT ILLNESS:\nBreathless for two days.")
    # HTML in a Binary; the PDF beside it is passed over.
    assert found["ds"][0] == "discharge_summary" and found["ds"][3] == "Hospital Course:\n\nDiuresed well.\n\nNa\t138"
    assert found["rtf"][0] == "consult" and found["rtf"][3] == "Café –\nIntubated."
    assert found["file"][2:] == (dt(2024, 1, 11, 23, 59, 59), "Central line placed.\n")
    assert found["latin"][3] == "Anasarca, naïve"
    # Composed: read from its last edit, signed when it was attested.
    assert found["c1"][1:3] == (dt(2024, 2, 6, 12), dt(2024, 2, 6, 8))
    assert found["c1"][3] == "Hospital course:\nShock & failure.\n\n- Fluids\n\nTerminal course:\nDied."
    assert found["c2"][:2] == ("nursing", None)  # preliminary
    assert found["draft"][1] is None
    assert found["r1"][0] == "radiology" and found["r1"][2] == dt(2024, 1, 11, 0, 30)
    assert "r3" not in found  # the H&P again, as a report
    # The text of an amended document was not there at its date.
    assert found["amended"][1:3] == (dt(2024, 1, 20, 15), dt(2024, 1, 20, 15))
    assert found["amended-unknown"][1:3] == (None, None)
    assert ask(small, "SELECT note_id, parent_note_id FROM notes WHERE parent_note_id IS NOT NULL ORDER BY 1") == [
        ("DocumentReference/ds2", "DocumentReference/ds"),
        ("DocumentReference/hp-late", "DocumentReference/hp"),
    ]


def test_claims(small: Records) -> None:
    columns = (
        "claim_id, encounter_id, coverage_order, first_remit_time, final_time, final_status, adjustment_codes, paid"
    )
    assert ask(small, f"SELECT {columns} FROM claims ORDER BY 1") == [
        # Known from its answer alone; nothing was refused, the patient owes it.
        ("ExplanationOfBenefit/only", "e10", 1, dt(2024, 7, 1), dt(2024, 7, 1), "paid", ["PR-1"], 0.0),
        ("k-ed", "e1-ed", 1, None, None, "pending", [], None),
        # The same answer comes as ClaimResponse and as ExplanationOfBenefit.
        ("k1", "e1", 1, dt(2024, 2, 10), dt(2024, 3, 15), "denied_overturned", ["CO-197"], 8000.0),
        ("k1-second", "e1", 2, None, None, "pending", [], None),
        ("k3", "e3", 1, dt(2024, 3, 1), dt(2024, 3, 1), "denied_upheld", ["CO-50"], None),
    ]


def test_what_is_left_out_is_counted_and_named(small: Records) -> None:
    left_out = small.folder.manifest.left_out
    assert sum(left_out.values()) == 32
    examples = small.folder.manifest.extra["left_out_examples"]
    assert set(examples) == set(left_out)
    assert examples["a line that is not JSON"] == "Encounter.000.ndjson line 7"
    assert examples["encounters: discharge before admission"] == "Encounter.001.ndjson row 6"
    assert examples["document_texts: no text: its file is not in the export"] == "DocumentReference.000.ndjson row 10"


def arranged(way: str, folder: Path) -> Path:
    """The small export in another arrangement of files."""
    shutil.copytree(SMALL, folder)
    files = sorted(folder.glob("*.ndjson"))
    for file in files:
        content = file.read_bytes()
        if way == "gz":
            (folder / f"{file.name}.gz").write_bytes(gzip.compress(content))
            file.unlink()
        elif way == "zst":
            compressed = pa.compress(content, codec="zstd", asbytes=True)
            (folder / f"{file.name}.zst").write_bytes(compressed)
            file.unlink()
        elif way == "folders":
            (folder / "output" / file.name.split(".")[0]).mkdir(parents=True, exist_ok=True)
            file.rename(folder / "output" / file.name.split(".")[0] / f"{file.stem[::-1]}.ndjson")
        elif way == "one file":
            (folder / "export.jsonl").open("ab").write(b"\n" + content)
            file.unlink()
    if way in ("folders", "one file"):  # the names in the manifest are a server's own
        (folder / "manifest.json").unlink()
    return folder


@pytest.mark.parametrize("way", ["gz", "zst", "folders", "one file"])
def test_arrangements_do_not_matter(way: str, small: Records, tmp_path: Path) -> None:
    other = ingest(arranged(way, tmp_path / "export"), tmp_path / "records")
    for table in ("patients", "encounters", "notes", "diagnoses", "claims", "unit_stays", "procedures"):
        sql = f"SELECT * FROM {table} ORDER BY ALL"
        assert ask(other, sql) == ask(small, sql), table
    assert other.folder.manifest.left_out == small.folder.manifest.left_out


def test_same_export_same_bytes(small: Records, tmp_path: Path) -> None:
    again = ingest(SMALL, tmp_path / "again")
    parts = sorted(path.relative_to(small.path) for path in small.path.rglob("*.parquet"))
    assert parts and all((again.path / part).read_bytes() == (small.path / part).read_bytes() for part in parts)


def test_command_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lang1.cli.main", "ingest", "fhir", str(SMALL), str(tmp_path / "records")]
    bare = subprocess.run(command, capture_output=True, text=True, check=False)
    assert bare.returncode == 2 and "complete_through.encounters={through: 2024-06-01" in " ".join(bare.stderr.split())
    assert "Traceback" not in bare.stderr and not (tmp_path / "records").exists()
    given = ["complete_through.encounters={through: 2024-12-31, key: admit_time}"]
    done = subprocess.run([*command, *given], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Records.open(tmp_path / "records").folder.manifest.counts["encounters"] == 7


def test_times_in_utc_need_a_zone(tmp_path: Path) -> None:
    source = world(tmp_path / "utc", stay("z", "2024-03-01T03:00:00Z", "2024-03-02T04:30:00.123456789Z"))
    with pytest.raises(InputError, match=r"2024-03-01T03:00:00Z' is a time in UTC.*time_zone=America/New_York"):
        ingest(source, tmp_path / "records")
    where = "SELECT admit_time, discharge_time FROM encounters WHERE encounter_id = 'z'"
    local = ingest(source, tmp_path / "local", time_zone="America/New_York")
    assert ask(local, where) == [(dt(2024, 2, 29, 22), dt(2024, 3, 1, 23, 30, 0, 123456))]
    utc = ingest(source, tmp_path / "as-written", time_zone="UTC")
    assert ask(utc, where) == [(dt(2024, 3, 1, 3), dt(2024, 3, 2, 4, 30, 0, 123456))]
    with pytest.raises(SettingsError, match="Mars/Olympus"):
        ingest(source, tmp_path / "mars", time_zone="Mars/Olympus")


def test_a_zone_in_utc_below_the_first_lines_is_found(tmp_path: Path) -> None:
    source = world(tmp_path / "utc", *(stay(f"s{n}") for n in range(80)), document("d", "x", "2024-01-10T12:00:00Z"))
    with pytest.raises(InputError, match=r"all\.ndjson line 83: '2024-01-10T12:00:00Z' is a time in UTC"):
        ingest(source, tmp_path / "records")


def test_partial_times(tmp_path: Path) -> None:
    second = dt(2024, 2, 3, 4, 5, 6)
    said = {
        "2024": (dt(2024, 1, 1), dt(2024, 12, 31, 23, 59, 59)),
        "2024-02": (dt(2024, 2, 1), dt(2024, 2, 29, 23, 59, 59)),
        "2024-02-03": (dt(2024, 2, 3), dt(2024, 2, 3, 23, 59, 59)),
        "2024-02-03T04:05:06-08:00": (second, second),
        "2024-02-03T04:05:06": (second, second),
    }
    resources = []
    for time in said:
        resources.append(stay(time, time, time))
        resources.append(document(time, "x", time, context={"encounter": [{"reference": f"Encounter/{time}"}]}))
    records = ingest(world(tmp_path / "export", *resources), tmp_path / "records")
    columns = "encounter_id, admit_time, discharge_time, available_time"
    found = {
        row[0]: row[1:] for row in ask(records, f"SELECT {columns} FROM notes JOIN encounters USING (encounter_id)")
    }
    assert found == {time: (first, last, last) for time, (first, last) in said.items()}


def test_the_night_when_clocks_go_back(tmp_path: Path) -> None:
    source = world(tmp_path / "export", stay("n", "2022-11-06T01:52:06-04:00", "2022-11-06T01:07:06-05:00"))
    where = "SELECT admit_time, discharge_time FROM encounters WHERE encounter_id = 'n'"
    expected = [(dt(2022, 11, 6, 1, 52, 6), dt(2022, 11, 6, 2, 7, 6))]  # a quarter of an hour, as it was
    assert ask(ingest(source, tmp_path / "wall"), where) == expected
    assert ask(ingest(source, tmp_path / "zone", time_zone="America/New_York"), where) == expected


def test_shifted_dates_are_recognised(tmp_path: Path) -> None:
    source = world(tmp_path / "export", stay("s", "2180-05-06T22:23:00-04:00", "2180-05-07T17:15:00-04:00"))
    records = Records.open(ingest_fhir(source, tmp_path / "records", FhirSettings()))
    assert records.time_basis == "shifted" and ask(records, "SELECT birth_year FROM patients") == [(None,)]
    with pytest.raises(InputError, match="set time_basis=shifted"):
        ingest(source, tmp_path / "calendar", time_basis="calendar")


def test_parts_of_stays(tmp_path: Path) -> None:
    within = {"partOf": {"reference": "Encounter/e"}}
    source = world(
        tmp_path / "export",
        stay("unit", "2024-01-11T00:00:00", "2024-01-11T10:00:00", **within),
        stay("bed", "2024-01-11T01:00:00", "2024-01-11T02:00:00", partOf={"reference": "Encounter/unit"}),
        stay("later", "2024-01-20T00:00:00", "2024-01-21T10:00:00", **within),  # an umbrella's next stay is its own
        {**stay("visit", "2024-02-01T00:00:00", "2024-03-01T00:00:00"), "class": {"code": "AMB"}},
        stay("from-visit", "2024-02-02T00:00:00", "2024-02-03T00:00:00", partOf={"reference": "Encounter/visit"}),
        document("d", "x", context={"encounter": [{"reference": "Encounter/bed"}]}),
    )
    records = ingest(source, tmp_path / "records")
    kept = [row[0] for row in ask(records, "SELECT encounter_id FROM encounters ORDER BY 1")]
    assert kept == ["e", "from-visit", "later", "visit"]
    assert ask(records, "SELECT encounter_id FROM notes") == [("e",)]
    apart = ingest(source, tmp_path / "apart", part_of="keep")
    assert ask(apart, "SELECT count(*) FROM encounters") == [(6,)]


def test_encounters_that_are_part_of_each_other_are_not_lost(tmp_path: Path) -> None:
    source = world(
        tmp_path / "export",
        stay("a", partOf={"reference": "Encounter/b"}),
        stay("b", partOf={"reference": "Encounter/a"}),
        stay("self", partOf={"reference": "Encounter/self"}),
    )
    kept = ask(ingest(source, tmp_path / "records"), "SELECT encounter_id FROM encounters ORDER BY 1")
    assert kept == [("a",), ("e",), ("self",)]


def test_versions_of_one_document_the_first_counts(tmp_path: Path) -> None:
    first = document("d", "As it was.", meta={"lastUpdated": "2024-01-10T13:00:00Z"})
    later = document("d", "He died later.", meta={"lastUpdated": "2024-02-01T13:00:00Z"})
    records = ingest(world(tmp_path / "export", later, first), tmp_path / "records")
    assert ask(records, "SELECT text FROM notes") == [("As it was.",)]


def test_a_note_that_goes_on_from_another_kind_is_no_addendum(tmp_path: Path) -> None:
    summary = {"coding": [{"system": "http://loinc.org", "code": "18842-5"}]}
    to = [{"code": "appends", "target": {"reference": "DocumentReference/d"}}]
    source = world(tmp_path / "export", document("d", "a"), document("s", "b", type=summary, relatesTo=to))
    assert ask(ingest(source, tmp_path / "records"), "SELECT DISTINCT parent_note_id FROM notes") == [(None,)]


def test_written_dates_are_not_availability(tmp_path: Path) -> None:
    updated = document("u", "a", meta={"lastUpdated": "2024-01-11T09:00:00-05:00"})
    records = ingest(world(tmp_path / "export", updated, document("w", "b")), tmp_path / "r", note_time_is="written")
    assert ask(records, "SELECT created_time, available_time FROM notes ORDER BY note_id") == [
        (dt(2024, 1, 10, 12), dt(2024, 1, 11, 9)),
        (dt(2024, 1, 10, 12), None),
    ]


def test_notes_and_claims_without_an_encounter_by_time(tmp_path: Path) -> None:
    billed = {"billablePeriod": {"start": "2024-01-10", "end": "2024-01-12"}, "patient": {"reference": "Patient/p"}}
    bill = {"resourceType": "Claim", "id": "k", "use": "claim", "created": "2024-01-20", "total": {"value": 5}} | billed
    source = world(tmp_path / "export", document("d", "x", context={}), bill)
    plain = ingest(source, tmp_path / "plain")
    assert ask(plain, "SELECT encounter_id, (SELECT count(*) FROM claims) FROM notes") == [(None, 0)]
    how = {"notes_without_encounter": "by_time", "claims_without_encounter": "by_period"}
    given = ingest(source, tmp_path / "given", **how)
    assert ask(given, "SELECT n.encounter_id, c.encounter_id FROM notes n, claims c") == [("e", "e")]


DISPOSITIONS = [
    ({"coding": [{"code": "exp"}]}, "expired"),
    (
        {"coding": [{"system": "https://www.nubc.org/CodeSystem/PatDischargeStatus", "code": "02"}]},
        "transfer_acute",
    ),
    ({"coding": [{"system": "urn:oid:1.2.840.114350", "code": "20", "display": "Home or Self Care"}]}, "home"),
    ({"coding": [{"system": "urn:oid:1.2.840.114350", "code": "20"}]}, "unknown"),  # a site's own number
    ({"text": "Discharged to home under care of home health service"}, "home_health"),
    ({"text": "Left Against Medical Advice"}, "against_advice"),
    ({"text": "CHRONIC/LONG TERM ACUTE CARE"}, "long_term_care"),
    ({"text": "DIED"}, "expired"),
    ({"text": "Hospice - home"}, "hospice"),
    ({"text": "SKILLED NURSING FACILITY"}, "skilled_nursing"),
    ({"text": "Short-term general hospital"}, "transfer_acute"),
    ({"text": "QQ"}, "psychiatric"),  # by the site's mapping
    (None, "unknown"),
]


def test_dispositions(tmp_path: Path) -> None:
    stays = [stay(str(n), hospitalization={"dischargeDisposition": one}) for n, (one, _) in enumerate(DISPOSITIONS)]
    records = ingest(world(tmp_path / "export", *stays), tmp_path / "records", dispositions={"qq": "psychiatric"})
    found = dict(ask(records, "SELECT encounter_id, disposition FROM encounters"))
    assert [found[str(n)] for n in range(len(stays))] == [ours for _, ours in DISPOSITIONS]


def test_still_a_patient_is_open(tmp_path: Path) -> None:
    code = {"coding": [{"system": "http://www.nubc.org/patient-discharge", "code": "30"}]}
    source = world(tmp_path / "export", stay("s", hospitalization={"dischargeDisposition": code}))
    where = "SELECT discharge_time, disposition FROM encounters WHERE encounter_id = 's'"
    assert ask(ingest(source, tmp_path / "records"), where) == [(None, None)]


CLASSES = [
    ({"code": "NONAC"}, "inpatient"),
    ({"system": "urn:oid:1.2.3", "code": "4", "display": "HOV"}, "outpatient"),
    ({"system": "urn:oid:1.2.3", "code": "3", "display": "Emergency Department"}, "emergency"),
    ({"code": "OBSENC"}, "observation"),
    ({"code": "SS"}, "outpatient"),
    ("IMP", "inpatient"),
    ({"code": "banana"}, "outpatient"),
    (None, "outpatient"),
]


def test_classes(tmp_path: Path) -> None:
    stays = [stay(str(n), **{"class": one}) for n, (one, _) in enumerate(CLASSES)]
    records = ingest(world(tmp_path / "export", *stays), tmp_path / "records")
    found = dict(ask(records, "SELECT encounter_id, encounter_class FROM encounters"))
    assert [found[str(n)] for n in range(len(stays))] == [ours for _, ours in CLASSES]


ANSWERS = [
    ([("2024-02-01", 50, [])], "paid"),
    ([("2024-02-01", 0, ["CO-197"])], "denied_upheld"),
    ([("2024-12-01", 0, ["CO-197"])], "pending"),  # may still be appealed
    ([("2024-02-01", 0, ["PR-1", "CO-45"])], "paid"),  # nothing refused
    ([("2024-02-01", 0, ["18"])], "other"),  # a duplicate decides nothing
    ([("2024-02-01", 0, ["22"]), ("2024-03-01", 40, [])], "paid"),  # another payer came first
    ([("2024-02-01", 0, ["50"]), ("2024-03-01", 40, [])], "denied_overturned"),
    ([("2024-02-01", 40, []), ("2024-03-01", 0, ["50"])], "other"),  # paid, then taken back
    ([("2024-02-01", 0, ["CO-999"])], "other"),  # no listed reason
    ([("2024-02-01", 0, [])], "other"),
    ([], "pending"),
]


def test_what_becomes_of_a_claim(tmp_path: Path) -> None:
    who = {"patient": {"reference": "Patient/p"}, "use": "claim", "status": "active"}
    item = [{"encounter": [{"reference": "Encounter/e"}]}]
    resources = []
    for case, (answers, _) in enumerate(ANSWERS):
        claim = {"resourceType": "Claim", "id": str(case), "created": "2024-01-15", "total": {"value": 100}}
        resources.append(claim | {"item": item} | who)
        for nth, (created, paid, codes) in enumerate(answers):
            reasons = [{"coding": [{"code": code}]} for code in codes]
            answer = {"resourceType": "ClaimResponse", "id": f"{case}-{nth}", "created": created}
            answer |= {"request": {"reference": f"Claim/{case}"}, "payment": {"amount": {"value": paid}}}
            resources.append(answer | {"adjudication": [{"reason": reason} for reason in reasons]} | who)
    records = ingest(world(tmp_path / "export", *resources), tmp_path / "records")
    found = dict(ask(records, "SELECT claim_id, final_status FROM claims"))
    assert [found[str(case)] for case in range(len(ANSWERS))] == [status for _, status in ANSWERS]


def test_an_answer_of_either_kind_may_have_the_same_id(tmp_path: Path) -> None:
    both = {"id": "1", "patient": {"reference": "Patient/p"}, "status": "active", "use": "claim"}
    claim = {"resourceType": "Claim", "created": "2024-01-15", "total": {"value": 100}} | both
    denied = {"resourceType": "ClaimResponse", "created": "2024-02-01", "payment": {"amount": {"value": 0}}} | both
    denied |= {"request": {"reference": "Claim/1"}, "error": [{"code": {"coding": [{"code": "CO50"}]}}]}
    paid = {"resourceType": "ExplanationOfBenefit", "created": "2024-03-01", "claim": {"reference": "Claim/1"}} | both
    paid |= {"payment": {"amount": {"value": 90}}, "item": [{"encounter": [{"reference": "Encounter/e"}]}]}
    records = ingest(world(tmp_path / "export", claim, denied, paid), tmp_path / "records")
    assert ask(records, "SELECT encounter_id, final_status, adjustment_codes, paid FROM claims") == [
        ("e", "denied_overturned", ["CO-50"], 90.0)
    ]


def test_a_claim_that_is_sent_again_is_joined_to_the_first(tmp_path: Path) -> None:
    who = {"patient": {"reference": "Patient/p"}, "use": "claim", "status": "active"}

    def sent(number: str, created: str, prior: str | None = None, to: str = "e", kind: str = "prior") -> Any:
        related = [{"claim": {"reference": f"Claim/{prior}"}, "relationship": {"coding": [{"code": kind}]}}]
        claim = {"resourceType": "Claim", "id": number, "created": created, "total": {"value": 100}} | who
        claim |= {"item": [{"encounter": [{"reference": f"Encounter/{to}"}]}]}
        return claim | ({"related": related} if prior else {})

    def answer(to: str, created: str, paid: float, *codes: str) -> Any:
        said = {"resourceType": "ClaimResponse", "id": f"{to}-{created}", "created": created, "outcome": "complete"}
        said |= {"request": {"reference": f"Claim/{to}"}, "payment": {"amount": {"value": paid}}} | who
        return said | {"adjudication": [{"reason": {"coding": [{"code": code}]}} for code in codes]}

    records = ingest(
        world(
            tmp_path / "export",
            stay("f", "2024-03-10T10:00:00", "2024-03-12T10:00:00"),
            # Denied, denied again when sent again, paid at the third sending; the third names the second.
            *(sent("1", "2024-01-15"), sent("2", "2024-03-01", "1"), sent("3", "2024-05-01", "2")),
            *(
                answer("1", "2024-02-01", 0, "CO-50"),
                answer("2", "2024-04-01", 0, "CO-50"),
                answer("3", "2024-06-01", 90),
            ),
            # Of another stay, associated only, naming one that is not there, naming each other: claims of their own.
            *(sent("4", "2024-03-20", "1", "f"), sent("5", "2024-03-21", "4", "f", "associated")),
            *(
                sent("6", "2024-03-22", "gone", "f"),
                sent("7", "2024-03-23", "8", "f"),
                sent("8", "2024-03-24", "7", "f"),
            ),
        ),
        tmp_path / "records",
    )
    assert ask(records, "SELECT claim_id, submitted_time, first_remit_time, final_time, final_status FROM claims "
        "WHERE encounter_id = 'e'") == [
        ("1", dt(2024, 1, 15), dt(2024, 2, 1), dt(2024, 6, 1), "denied_overturned")
    ]  # fmt: skip
    assert ask(records, "SELECT claim_id FROM claims WHERE encounter_id = 'f' ORDER BY 1") == [(n,) for n in "45678"]
    assert records.folder.manifest.left_out == {
        "claims_read: an earlier claim sent again (its answers are the first's)": 2
    }


def test_a_text_in_a_contained_binary(tmp_path: Path) -> None:
    data = base64.b64encode(b"<p>Seen today.</p>").decode()
    inner = {"resourceType": "Binary", "id": "b", "contentType": "text/html", "data": data}
    content = [{"attachment": {"contentType": "text/html", "url": "#b"}}]
    found = ingest(world(tmp_path / "a", document("d", "", contained=[inner], content=content)), tmp_path / "b")
    assert ask(found, "SELECT text FROM notes") == [("Seen today.",)]


def test_references() -> None:
    def to(value: Any, kind: str = "Patient") -> str | None:
        return reference(Node(value, "x", Oddities()), kind)

    assert to({"reference": "Patient/12"}) == to({"reference": "https://a.org/fhir/Patient/12/_history/3"}) == "12"
    assert to({"reference": "urn:uuid:ab-c"}) == "ab-c"
    assert to({"reference": "Patient?identifier=urn%3Amrn|7"}) == to(
        {"identifier": {"system": "urn:mrn", "value": "7"}}
    )
    assert to({"reference": {"reference": "Patient/12"}}) == "12"  # R5
    assert to({"reference": "Group/1"}) is None and to({"reference": "Patient/1", "type": "Group"}) is None
    inside = Node({"contained": [{"id": "a", "identifier": [{"value": "9"}]}]}, "x", Oddities())
    assert reference(Node({"reference": "#a"}, "x", Oddities()), "Patient", inside) == "?|9"


def test_texts() -> None:
    assert html_text("<p>A &lt; B<br/>next</p><script>x()</script><div>end</div>") == "A < B\nnext\n\nend"
    cda = (
        "<ClinicalDocument><recordTarget>Jane</recordTarget><component><section><title>Plan</title><text><list>"
        "<item>Rest</item></list></text><entry>no</entry></section></component></ClinicalDocument>"
    )
    assert cda_text(cda) == "Plan:\n\n- Rest"
    assert rtf_text(r"{\rtf1{\*\gen x}{\info{\title no}}A\tab \b B\b0\par \{C\}}") == "A\tB\n{C}"
    assert decoded("é".encode("utf-16"), "text/plain").text == "é"
    assert decoded("é".encode("latin-1"), "text/plain; charset=ISO-8859-1").text == "é"
    assert decoded(b"\xe9", "text/plain; charset=nonsense").guessed
    assert inline("QUJD\n REVG", "text/plain").text == "ABCDEF"
    assert inline("A", "text/plain").lack == "data is not base64"


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    source = world(tmp_path / "export")
    whole = gzip.compress((SMALL / "DocumentReference.000.ndjson").read_bytes() * 50)
    (source / "documents.ndjson.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"documents\.ndjson\.gz: cut short or damaged after line [0-9]+"):
        ingest(source, tmp_path / "records")
    assert not (tmp_path / "records").exists() and not list(tmp_path.glob(".records*"))


def test_a_file_that_the_manifest_lists_must_be_there(tmp_path: Path) -> None:
    source = world(tmp_path / "export")
    output = [{"type": "Encounter", "url": "https://a.org/files/Encounter.007.ndjson?sig=1"}]
    (source / "manifest.json").write_text(json.dumps({"output": output}))
    with pytest.raises(InputError, match=r"lists 'Encounter\.007\.ndjson', which is not there"):
        ingest(source, tmp_path / "records")
    records = ingest(source, tmp_path / "records", missing_files="leave_out")
    assert records.folder.manifest.extra["missing_files"] == ["Encounter.007.ndjson"]


def test_refuse_names_the_line(tmp_path: Path) -> None:
    source = world(tmp_path / "export")
    with (source / "all.ndjson").open("a") as file:
        file.write('{"resourceType": "Condition", "id":\n')
    with pytest.raises(InputError, match=r"all\.ndjson line 3: a line that is not JSON"):
        ingest(source, tmp_path / "records", on_bad_rows="refuse")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no files named"),
        ('{"resourceType": "Patient", "id": "p"}', "no resource of type Encounter"),
        ('{"resourceType": "Observation", "id": "p"}', "no resource of type Patient"),
    ],
)
def test_an_export_without_what_is_needed(content: str | None, says: str, tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    if content is not None:
        (tmp_path / "export" / "a.ndjson").write_text(content)
    with pytest.raises(InputError, match=says):
        ingest(tmp_path / "export", tmp_path / "records")


def test_settings_are_checked() -> None:
    for wrong in ("classes={X: hotel}", "note_titles={'(': progress}", "note_types={1-1: epic}", "appeal_days=-1"):
        with pytest.raises(SettingsError):
            load_settings(FhirSettings, None, [wrong])


LINES = [json.loads(line) for file in sorted(SMALL.glob("*.ndjson")) for line in file.read_text().splitlines()
         if line.startswith("{") and '"id": "cut' not in line]  # fmt: skip
STRANGE = st.sampled_from(
    [None, True, -1, 10**400, float("nan"), "", "\ud800\x00", "9999-12-31T23:59:60Z", "0001", "2024-13", [], [[]], {},
     [None, 5, "x"], {"coding": 7}, {"reference": "#"}, "Patient?identifier=", "2024-01-01T00:00:00-05:00", "\\'; DROP"]
)  # fmt: skip


def mutate(value: Any, draw: Any, depth: int = 0) -> Any:
    """The value with one element in it, at any depth, put in another's place or taken away."""
    children = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if not children or (depth and draw(st.integers(0, 3)) == 0):
        return copy.deepcopy(draw(STRANGE))
    child = draw(st.sampled_from(children))
    if draw(st.integers(0, 9)) == 0:
        del value[child]
    else:
        value[child] = mutate(value[child], draw, depth + 1)
    return value


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_mutated_lines_never_end_in_a_traceback(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    lines = copy.deepcopy(LINES)
    for _ in range(40):
        at = data.draw(st.integers(0, len(lines) - 1))
        lines[at] = mutate(lines[at], data.draw)
    written = [json.dumps(line) for line in lines]
    for _ in range(3):
        at = data.draw(st.integers(0, len(written) - 1))
        written[at] = written[at][: data.draw(st.integers(0, len(written[at])))]
    export = folder / "export"
    export.mkdir()
    (export / "all.ndjson").write_text("\n".join(written))
    try:
        records = ingest(export, folder / "records", time_zone="America/New_York", time_basis="calendar")
    except Lang1Error as error:
        assert "\n" not in str(error)
        assert not (folder / "records").exists()
        return
    counts, left_out = records.folder.manifest.counts, records.folder.manifest.left_out
    faults = sum(rows for reason, rows in left_out.items() if reason.startswith("a line"))
    read = sum(counts["resources read"].values()) + sum(counts["resources that records have no place for"].values())
    assert read + faults == sum(1 for line in written if line.strip())
    encounters = sum(
        rows for reason, rows in left_out.items() if reason.startswith(("encounters", "visits", "Encounter: no id"))
    )
    assert counts["encounters"] + encounters == counts["resources read"]["Encounter"]
    patients = sum(rows for reason, rows in left_out.items() if reason.startswith(("patients", "Patient: no id")))
    assert counts["patients"] + patients == counts["resources read"]["Patient"]


def lines_of(folder: Path, kind: str) -> list[Any]:
    files = [file for file in folder.glob("*.ndjson.gz") if file.name.startswith(f"{kind}.")]
    return [json.loads(line) for file in files for line in gzip.open(file, "rt")]


@pytest.mark.skipif(not CLINOSIM.is_dir(), reason="open data are not here")
def test_clinosim(tmp_path: Path) -> None:
    records = ingest(CLINOSIM, tmp_path / "records", time_zone="UTC")
    encounters = lines_of(CLINOSIM, "Encounter")
    classes = Counter(one["class"]["code"] for one in encounters)
    found = dict(ask(records, "SELECT encounter_class, count(*) FROM encounters GROUP BY 1"))
    assert found == {"outpatient": classes["AMB"], "emergency": classes["EMER"], "inpatient": classes["IMP"]}
    dead = [one for one in lines_of(CLINOSIM, "Patient") if "deceasedDateTime" in one]
    assert ask(records, "SELECT count(*), count(death_time) FROM patients") == [(258, len(dead))]
    days = {
        one["id"]: (dt.fromisoformat(one["period"]["end"][:10]) - dt.fromisoformat(one["period"]["start"][:10])).days
        for one in encounters
        if one["class"]["code"] == "IMP"
    }
    assert days == dict(
        ask(
            records,
            "SELECT encounter_id, date_diff('day', admit_time::DATE, discharge_time::DATE) FROM encounters "
            "WHERE encounter_class = 'inpatient'",
        )
    )
    kinds = Counter(one["type"]["coding"][0]["code"] for one in lines_of(CLINOSIM, "Composition"))
    notes = dict(ask(records, "SELECT note_type, count(*) FROM notes GROUP BY 1"))
    assert notes["history_and_physical"] == kinds["34117-2"] and notes["discharge_summary"] == kinds["18842-5"]
    codes = {one["id"]: one["code"]["coding"][0]["code"] for one in lines_of(CLINOSIM, "Condition")}
    cited = {
        (one["id"], codes[cited["condition"]["reference"].split("/")[1]])
        for one in encounters
        for cited in one.get("diagnosis", [])
        if cited["use"]["coding"][0]["code"] != "AD"
    }
    coded = set(ask(records, "SELECT encounter_id, code FROM diagnoses"))
    named = {
        (one["encounter"]["reference"].split("/")[1], codes[one["id"]])
        for one in lines_of(CLINOSIM, "Condition")
        if "encounter" in one
    }
    assert cited <= coded <= cited | named
    assert [limit.task for limit in records.meta.limits] == ["insurance_denial"]


@pytest.mark.skipif(not SYNTHEA.is_dir(), reason="open data are not here")
def test_synthea(tmp_path: Path) -> None:
    records = ingest(SYNTHEA, tmp_path / "records")
    classes = Counter(one["class"]["code"] for one in lines_of(SYNTHEA, "Encounter"))
    found = dict(ask(records, "SELECT encounter_class, count(*) FROM encounters GROUP BY 1"))
    outpatient = classes["AMB"] + classes["HH"] + classes["VR"]
    assert found == {"inpatient": classes["IMP"], "emergency": classes["EMER"], "outpatient": outpatient}
    assert {limit.task for limit in records.meta.limits} == {"insurance_denial", "comorbidity"}
    notes = {
        f"DocumentReference/{one['id']}": base64.b64decode(one["content"][0]["attachment"]["data"]).decode()
        for one in lines_of(SYNTHEA, "DocumentReference")
    }
    assert dict(ask(records, "SELECT note_id, text FROM notes")) == notes
