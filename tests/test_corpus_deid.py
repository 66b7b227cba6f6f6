"""De-identification: what is found, what stays, and stand-ins that are the same throughout a chart."""

from __future__ import annotations

import csv
import hashlib
import re
import subprocess
import sys
from datetime import date, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lang1.common.errors import InputError, SettingsError
from lang1.common.settings import validate_settings
from lang1.corpus.deid import Deidentifier, Deidentify, DeidSettings, deid_sample
from lang1.corpus.deid_surrogates import shifted
from lang1.corpus.filters import Context, Document, Report
from lang1.simulator.identifiers import DISTRACTORS, IDENTIFIERS, KNOWN_PATIENTS, KNOWN_STAFF
from lang1.simulator.settings import SIMULATOR_VERSION, SimulatorSettings
from lang1.simulator.simulate import simulate
from lang1.text.clean import clean_note

PATIENTS = """patient_id,relation,sex,first_name,middle_name,last_name,address,city,zip,phone,mrn
p1,self,female,Katarzyna,Ann,Will,12 Union Road Apt 4,Wexley,44321,(203) 555-0142,60311987
p1,contact,,Bohdan,,Quill,,,,,
p2,self,male,Kwame,,Foley,,Salt Fork,,,
"""
STAFF = "first_name,last_name\nHenrietta,Bell\nOluwaseun,Adeyemi\n"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "patients.csv").write_text(PATIENTS)
    (tmp_path / "staff.csv").write_text(STAFF)
    (tmp_path / "key").write_text("0123456789abcdef0123456789abcdef\n")
    return {"patients": str(tmp_path / "patients.csv"), "staff": str(tmp_path / "staff.csv"),
            "key_file": str(tmp_path / "key")}  # fmt: skip


def settings(**values: object) -> DeidSettings:
    return validate_settings(DeidSettings, values, "filters.deidentify")


def masked(text: str, patient: str = "p9", year: int | None = 2021, **values: object) -> str:
    return Deidentifier(settings(**values)).replace(text, patient, year)[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Seen by Dr. Okonkwo on 3/14/2021.", "Seen by Dr. [NAME] on [DATE]."),
        ("Signed: JANE Q. DOE, MD", "Signed: [NAME], MD"),
        ("wife Marguerite at bedside", "wife [NAME] at bedside"),
        ("MRN: 0049-221", "MRN: [MRN]"),
        ("Unit No: 147-2367", "Unit No: [MRN]"),
        ("ICD generator S/N 7784779-3460 checked", "ICD generator S/N [DEVICE] checked"),
        ("SSN 900-12-3456", "SSN [SSN]"),
        ("call (212) 555-0100 or fax 212-555-0101", "call [PHONE] or fax [FAX]"),
        ("mail a.b@c.org, see https://x.org/p?i=1.", "mail [EMAIL], see [URL]."),
        ("from 10.0.3.7 and fe80::1:2:3", "from [IP] and [IP]"),
        ("lives at 9 Old Mill Rd, Apt 3", "lives at [LOCATION]"),
        ("a 93 year old man, 89 year old wife", "a 90+ year old man, 89 year old wife"),
        ("VIN 1HGCM82633A004352", "VIN [VEHICLE]"),
        ("born 1925, stent in 2010", "born [DATE], stent in 2010"),
        ("since 14-MAR-2020 and in May 2019", "since [DATE] and in [DATE]"),
        ("on Friday, March 6th", "on [DATE]"),
        ("Dr. Lang said so. Later Lang left.", "Dr. [NAME] said so. Later [NAME] left."),
    ],
)
def test_rules_find(text: str, expected: str) -> None:
    assert masked(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "BP 120/80, then 98/60. Strength 5/5, reflexes 2/4, murmur 2/6, pain 8/10.",
        "Parkinson disease, Crohn's disease, Bell's palsy, Foley catheter, Graves disease.",
        "12-lead ECG, C3-C4, L5/S1, T1N0M0, NYHA III, Gleason 3+4, care 24/7.",
        "Patient may resume diet and will follow up. May shower.",
        "Metoprolol 25 mg, heparin 5000 units, insulin 10-15 units, 1/2 tablet, 500-1000 mL.",
        "Platelets 250000, ferritin 1234.5, INR 2-3, sodium 138.",
        "67 year old woman, stroke in 2014.",
    ],
)
def test_what_is_no_identifier_stays(text: str, files: dict[str, str]) -> None:
    assert masked(text) == text
    assert masked(text, patients=files["patients"], staff=files["staff"]) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("WILL, KATARZYNA seen; katarzyna's daughter.", "[NAME] seen; [NAME]'s daughter."),
        ("Katarzyan is well. She will rest.", "[NAME] is well. She will rest."),  # a slip of the keyboard
        ("Asked K.W. and Quill.", "Asked [NAME] and [NAME]."),
        ("tel 2035550142, chart 603-11-987", "tel [PHONE], chart [MRN]"),
        ("at 12 union rd and 12 Union Road, Apt 4 in Salt Fork", "at [LOCATION] and [LOCATION] in [LOCATION]"),
        ("Adeyemi agrees; Bell's palsy gone.", "[NAME] agrees; Bell's palsy gone."),
        ("Henrietta Bell agrees.", "[NAME] agrees."),
    ],
)
def test_tables_find(text: str, expected: str, files: dict[str, str]) -> None:
    assert masked(text, "p1", patients=files["patients"], staff=files["staff"]) == expected


def test_known_values_are_those_of_the_notes_own_patient(files: dict[str, str]) -> None:
    text = "Katarzyna was mentioned."
    assert "Katarzyna" not in masked(text, "p1", patients=files["patients"])
    assert masked(text, "p2", patients=files["patients"]) == text


def test_stand_ins_are_the_same_in_a_chart_and_others_for_another_patient(files: dict[str, str]) -> None:
    d = Deidentifier(settings(mode="surrogate", **files))
    one, _ = d.replace("Katarzyna Will, MRN 60311987, born 2/3/1980", "p1", 2020)
    two, _ = d.replace("WILL, KATARZYNA; Katarzyan; chart 6031-1987", "p1", 2021)
    first, last = one.split(",")[0].split(" ")
    assert two.startswith(f"{last.upper()}, {first.upper()}; {first};")
    digits = re.search(r"MRN (\d+)", one)
    assert digits and digits.group(1) == two[-9:].replace("-", "") and digits.group(1) != "60311987"
    assert "Katarzyna" not in one and "Will" not in one
    other, _ = d.replace("Dr. Katarzyna Novak", "p2", 2021)
    same, _ = d.replace("Dr. Katarzyna Novak", "p1", 2021)
    assert other != same


def test_intervals_are_kept_and_the_shift_depends_on_the_key(files: dict[str, str], tmp_path: Path) -> None:
    d = Deidentifier(settings(mode="surrogate", **files))
    text, _ = d.replace("Admitted 2020-02-27, discharged 2020-03-04.", "p1", 2020)
    first, second = (date.fromisoformat(x) for x in re.findall(r"\d{4}-\d\d-\d\d", text))
    assert (second - first).days == 6 and first != date(2020, 2, 27)
    (tmp_path / "other").write_text("another secret of thirty-two signs or more")
    moved = Deidentifier(settings(mode="surrogate", **{**files, "key_file": str(tmp_path / "other")}))
    assert moved.replace("Admitted 2020-02-27, discharged 2020-03-04.", "p1", 2020)[0] != text
    weeks = Deidentifier(settings(mode="surrogate", keep_weekdays=True, **files))
    text, _ = weeks.replace("Monday, March 2, 2020", "p1", 2020)
    assert datetime.strptime(text, "%A, %B %d, %Y").weekday() == 0 and text != "Monday, March 2, 2020"


@given(
    st.dates(date(1950, 1, 1), date(2049, 1, 1)),
    st.integers(-3650, 3650),
    st.sampled_from(
        ["%m/%d/%Y", "%Y-%m-%d", "%d-%b-%Y", "%B %d, %Y", "%d.%m.%Y", "%Y%m%d", "%A, %B %d, %Y", "%d %B %Y"]
    ),
)
def test_a_shifted_date_is_that_date_written_the_same_way(day: date, days: int, form: str) -> None:
    if form == "%d.%m.%Y" and day.day <= 12:
        return  # may also be read as month and day
    written = day.strftime(form)
    moved = shifted(written, days, 2020)
    assert moved is not None
    assert datetime.strptime(moved, form).date() == day + timedelta(days=days)


@given(st.text(alphabet="aB1 .,/-:'()\nMR#@é", max_size=200))
def test_any_text_passes_and_what_is_outside_the_spans_is_unchanged(text: str) -> None:
    d = Deidentifier(DeidSettings())
    made, spans = d.replace(text, "p", 2020)
    assert all(a.end <= b.start for a, b in pairwise(spans))
    outside, last = [], 0
    for start, end, _ in spans:
        outside.append(text[last:start])
        last = end
    at = 0
    for piece in [*outside, text[last:]]:
        at = made.index(piece, at) + len(piece)


def test_the_key_is_kept_out_of_the_settings_and_another_key_is_refused(files: dict[str, str], tmp_path: Path) -> None:
    made = settings(mode="surrogate", **files).model_dump(mode="json")
    assert "0123456789abcdef" not in str(made) and set(made["fingerprints"]) == {"patients", "staff", "key"}
    assert settings(**made).model_dump(mode="json") == made
    (tmp_path / "key").write_text("another secret of thirty-two signs or more")
    with pytest.raises(SettingsError, match="key is not the one"):
        settings(**made)


def test_what_is_wrong_is_said(files: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="needs key_file"):
        settings(mode="surrogate")
    (tmp_path / "short").write_text("secret")
    with pytest.raises(SettingsError, match="fewer than 32"):
        settings(mode="surrogate", key_file=str(tmp_path / "short"))
    with pytest.raises(SettingsError, match="is not a file"):
        settings(staff=str(tmp_path / "nowhere.csv"))
    with pytest.raises(SettingsError, match="'PHOTOS' is unknown"):
        settings(classes=["PHOTOS"])
    (tmp_path / "staff.csv").write_text("surname\nBell\n")
    with pytest.raises(InputError, match="column 'surname' is unknown"):
        Deidentifier(settings(staff=files["staff"]))


def test_the_filter_counts_and_leaves_other_classes_alone(files: dict[str, str]) -> None:
    asked = settings(classes=["NAME"])
    report = Report()
    stage = Deidentify(asked, Context("notes"))
    note = Document("Dr. Okonkwo, 3/14/2021", "p1", available_time=datetime(2021, 3, 15))
    assert stage.apply(note, report).text == "Dr. [NAME], 3/14/2021"
    assert stage.apply(Document("Nothing here.", "p1"), report).text == "Nothing here."
    assert report.counts[stage.name] == {"documents read": 2, "documents changed": 1, "identifiers: NAME": 1}
    assert not Deidentify.on_by_default


def test_the_same_bytes_in_any_process(files: dict[str, str]) -> None:
    text = "Katarzyna Will, Dr. Adeyemi, 3/14/2021, MRN 60311987, Wexley, x@y.org, Dr. Nemo"
    code = (
        "import sys; from lang1.corpus.deid import *; "
        f"s = DeidSettings(mode='surrogate', **{files!r}); print(Deidentifier(s).replace({text!r}, 'p1', 2020)[0])"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert said == {Deidentifier(settings(mode="surrogate", **files)).replace(text, "p1", 2020)[0] + "\n"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("deid") / "sim"
    asked = SimulatorSettings(patients=60, chunk_patients=30, seed=5, identifiers=True, workers=1)
    return simulate(out, asked)[0]


def _notes(records: Path) -> dict[str, dict[str, object]]:
    rows = [n for f in sorted((records / "notes").glob("*.parquet")) for n in pq.read_table(f).to_pylist()]
    return {row["note_id"]: row for row in rows}


def test_the_simulator_knows_where_it_wrote_identifiers(world: Path) -> None:
    notes, truth = _notes(world), world.parent / "truth" / world.name
    rows = [r for f in (IDENTIFIERS, DISTRACTORS) for r in pq.read_table(truth / f).to_pylist()]
    assert all(str(notes[r["note_id"]]["text"])[r["start"] : r["end"]] == r["text"] for r in rows)
    assert len({r["class"] for r in rows}) == 20  # 19 classes and what is none
    known = list(csv.DictReader((truth / KNOWN_PATIENTS).open(encoding="utf-8")))
    assert {r["patient_id"] for r in known} == set(pq.read_table(world / "patients")["patient_id"].to_pylist())


def test_nothing_changes_where_identifiers_are_not_asked_for(tmp_path: Path) -> None:
    (records,) = simulate(tmp_path / "sim", SimulatorSettings(patients=40, seed=5, workers=1))
    text = "\n".join(str(n["text"]) for n in _notes(records).values())
    assert SIMULATOR_VERSION == "1"
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "aa820861745ba8fb"
    assert not (tmp_path / "sim" / "truth" / records.name / IDENTIFIERS).exists()
    assert "identifiers" not in (tmp_path / "sim" / "manifest.json").read_text()


def test_recall_on_simulated_notes(world: Path) -> None:
    truth = world.parent / "truth" / world.name
    rows: dict[str, list[dict[str, object]]] = {}
    for row in pq.read_table(truth / IDENTIFIERS).to_pylist():
        rows.setdefault(row["note_id"], []).append(row)
    d = Deidentifier(settings(patients=str(truth / KNOWN_PATIENTS), staff=str(truth / KNOWN_STAFF)))
    there = found = 0
    for note_id, note in list(_notes(world).items())[:250]:
        text, when = str(note["text"]), note["available_time"]
        assert isinstance(when, datetime)
        covered = {i for s, e, _ in d.find(text, str(note["patient_id"]), when.year) for i in range(s, e)}
        for row in rows[note_id]:
            there += 1
            found += all(i in covered for i in range(row["start"], row["end"]) if text[i].isalnum())  # type: ignore[call-overload]
    assert there > 1000 and found / there > 0.985


def test_a_sheet_for_review_marks_what_would_go(world: Path, tmp_path: Path) -> None:
    counts = deid_sample(world, 5, tmp_path / "sheet", DeidSettings())
    page = (tmp_path / "sheet" / "sample.html").read_text(encoding="utf-8")
    rows = list(csv.DictReader((tmp_path / "sheet" / "sample.csv").open(encoding="utf-8")))
    marks = sum(v for k, v in counts.items() if k != "notes")
    assert counts["notes"] == 5 and page.count("<mark ") == marks > 0
    assert sum(r["class"] == "MISSED" for r in rows) == 5 and len(rows) == marks + 5
    notes = _notes(world)
    for row in rows:
        if row["class"] != "MISSED":
            text = clean_note(str(notes[row["note_id"]]["text"]))
            assert text[int(row["start"]) : int(row["end"])] == row["text"]
