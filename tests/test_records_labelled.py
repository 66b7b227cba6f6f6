"""The labelled reader: one table of notes, labels and patients."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from lang1.common.errors import InputError
from lang1.records.readers.labelled import LabelledSettings, ingest_labelled
from lang1.records.store import Records

ROWS: dict[str, list[Any]] = {
    "text": ["first note", "second note", 'a "third",\nlonger', None],
    "mrn": ["7", "8", "7", "9"],
    "back": [True, False, None, True],
    "days": [3.0, 4.5, 1.0, 2.0],
    "seq": [30, 10, 20, 40],
    "day": ["2020-01-02", "2020-01-03", "2020-02-01", "2020-02-02"],
}


def ingest(place: Path, rows: dict[str, list[Any]] | None = None, **fields: Any) -> Records:
    file = place / "notes.parquet"
    pq.write_table(pa.table(rows or ROWS), file)
    labels = {"readmission": "back", "length_of_stay": "days"}
    settings = LabelledSettings(**{"note": "text", "patient": "mrn", "labels": labels, **fields})
    ingest_labelled(file, place / "records", settings, overwrite=True)
    return Records.open(place / "records")


def ask(records: Records, sql: str) -> list[tuple[Any, ...]]:
    with records.connect() as connection:
        return connection.execute(sql).fetchall()


def test_without_order_or_date(tmp_path: Path) -> None:
    records = ingest(tmp_path)
    assert records.time_basis == "none"
    assert ask(records, "SELECT task, encounter_id, value FROM given_labels ORDER BY 1, 2") == [
        *[("length_of_stay", f"row-{n}", value) for n, value in enumerate(["3", "4.5", "1", "2"], 1)],
        *[("readmission", f"row-{n}", value) for n, value in ((1, "1"), (2, "0"), (4, "1"))],
    ]
    counts = records.folder.manifest.counts
    assert counts["without_label"] == {"readmission": 1, "length_of_stay": 0}
    assert counts["patients"] == 3 and counts["encounters"] == 4 and counts["oddities"] == {"notes with no text": 1}
    assert ask(records, "SELECT text FROM notes WHERE note_id = 'note-3'") == [('a "third",\nlonger',)]


def test_order_gives_the_sequence(tmp_path: Path) -> None:
    records = ingest(tmp_path, order="seq")
    assert records.time_basis == "ordinal"
    assert ask(records, "SELECT encounter_id FROM encounters ORDER BY sequence") == [
        ("row-2",), ("row-3",), ("row-1",), ("row-4",)
    ]  # fmt: skip


def test_date_says_when_the_note_could_be_read(tmp_path: Path) -> None:
    records = ingest(tmp_path, date="day")
    assert records.time_basis == "calendar" and records.meta.complete_through == {}
    found = ask(records, "SELECT available_time, admit_time FROM notes JOIN encounters USING (encounter_id) ORDER BY 1")
    assert found[0] == (dt.datetime(2020, 1, 2, 23, 59, 59), None)  # the day's end; no admission is made up
    found = ask(ingest(tmp_path, date="day", date_is="admission"), "SELECT admit_time, discharge_time FROM encounters")
    assert found[0] == (dt.datetime(2020, 1, 2), None)


def test_rows_of_one_encounter_must_agree(tmp_path: Path) -> None:
    rows = {**ROWS, "csn": ["a", "b", "a", "c"], "days": [3.0, 4.5, 3.0, 2.0]}
    records = ingest(tmp_path, rows, encounter="csn")
    counts = records.folder.manifest.counts
    assert counts["encounters"] == 3 and counts["notes"] == 4 and counts["given_labels"] == 6
    rows["days"] = [3.0, 4.5, 9.0, 2.0]
    with pytest.raises(InputError, match=r"row 1: encounter 'a' has 'days' \(label of length_of_stay\) '3' here and"):
        ingest(tmp_path, rows, encounter="csn")
    with pytest.raises(InputError, match=r"encounter 'a' has 'mrn' \(patient\)"):
        ingest(tmp_path, {**rows, "days": [1.0] * 4, "mrn": ["7", "8", "6", "9"]}, encounter="csn")


def test_values_are_mapped_and_new_tasks_allowed(tmp_path: Path) -> None:
    rows = {**ROWS, "fell": ["Yes", "no", "unknown", ""]}
    fields = {"labels": {"falls": "fell"}, "values": {"falls": {"yes": "1", "NO": "0"}}, "null_values": ["unknown"]}
    assert ask(ingest(tmp_path, rows, **fields), "SELECT encounter_id, task, value FROM given_labels") == [
        ("row-1", "falls", "1"), ("row-2", "falls", "0")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "rows", "expected"),
    [
        ({"note": "txt"}, {}, r"column 'txt' \(note\) is missing; did you mean 'text'"),
        ({"labels": {"readmission": "bck"}}, {}, r"column 'bck' \(labels.readmission\) is missing"),
        ({"order": "day"}, {}, r"row 1: 'day' \(order\) is not a whole number \(it is '2020-01-02'\)"),
        ({"date": "text"}, {}, r"row 1: 'text' \(date\) is not a date"),
        ({"date": "day"}, {"day": ["2020-01-02T10:00:00Z"] * 4}, "without a UTC offset"),
        ({"date": "day", "date_format": "%Q"}, {}, "date_format '%Q'"),
        ({}, {"mrn": ["7", "", "7", "9"]}, r"row 2: 'mrn' \(patient\) is empty"),
        ({}, {name: [] for name in ROWS}, "no rows below the header"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, fields: dict[str, Any], rows: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected) as caught:
        ingest(tmp_path, {**ROWS, **rows}, **fields)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "records").exists()


def test_bad_rows_can_be_left_out_counted(tmp_path: Path) -> None:
    records = ingest(
        tmp_path, {**ROWS, "day": ["2020-01-02", "?", "soon", "2020-02-02"]}, date="day", on_bad_rows="leave_out"
    )
    assert records.folder.manifest.left_out == {"date not a date": 2}
    assert records.folder.manifest.extra["left_out_examples"] == {"date not a date": "notes.parquet row 2"}
    assert records.folder.manifest.counts["notes"] == 2


@pytest.mark.parametrize(
    "fields",
    [{"order": "a", "date": "b"}, {"note_type": "poem"}, {"values": {"falls": {}}}, {"labels": {}}, {"colour": 1}],
)
def test_settings_are_checked(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LabelledSettings(**{"note": "n", "patient": "p", "labels": {"readmission": "r"}, **fields})
