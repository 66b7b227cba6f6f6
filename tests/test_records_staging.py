"""The kit under every reader: what is malformed is counted and named, never a traceback, never silently kept."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lang1.common.errors import InputError
from lang1.records.readers.source import open_source
from lang1.records.readers.staging import staging
from lang1.records.store import Records, RecordsMeta

META = RecordsMeta(system="test", time_basis="calendar")
HEAD = "id,mrn,in,out,dead\n"


def ingest(
    folder: Path, body: bytes, *, name: str = "stays.csv", encoding: Any = "utf-8", bad: Any = "leave_out"
) -> Records:
    """One table of stays through the kit; every stay's patient exists."""
    file = folder / name
    if name.endswith(".gz"):
        file.write_bytes(gzip.compress(body))
    elif name.endswith(".zst"):
        with pa.output_stream(str(file), compression="zstd") as stream:
            stream.write(body)
    else:
        file.write_bytes(body)
    out = folder / "records"
    with staging(out, META, settings={}, files={"stays": [file]}, on_bad_rows=bad, overwrite=True) as stage:
        stage.read("raw", [open_source(file, encoding=encoding)], ["id", "mrn", "in", "out"], ["dead", "nowhere"])
        stage.put(
            "patients",
            "SELECT mrn AS patient_id, min(_file) AS _file, min(_row) AS _row FROM raw WHERE mrn <> '' GROUP BY 1",
        )
        stage.put(
            "encounters",
            """SELECT id AS encounter_id, mrn AS patient_id, 'inpatient' AS encounter_class, "in" AS admit_time,
            "out" AS discharge_time, _file, _row FROM raw""",
        )
    return Records.open(out)


def stays(records: Records) -> list[tuple[Any, ...]]:
    with records.connect() as connection:
        return connection.execute(
            "SELECT encounter_id, admit_time::VARCHAR, discharge_time::VARCHAR FROM encounters ORDER BY 1"
        ).fetchall()


def test_malformed_lines_are_counted_and_named_and_later_rows_keep_their_numbers(tmp_path: Path) -> None:
    body = (
        HEAD.encode()
        + b"1,a,2020-01-01 10:00,2020-01-03,\n2,caf\xe9,2020-01-01,2020-01-02,\n3,a\n"
        + b"4,a,2020-13-01,2020-01-02,\n5,a,2020-02-01 08:00,2020-01-01,\n"
    )
    records = ingest(tmp_path, body)
    assert stays(records) == [("1", "2020-01-01 10:00:00", "2020-01-03 23:59:59")]
    assert records.folder.manifest.left_out == {
        "encounters: admit_time is not a time such as 2024-01-31 14:05": 1,
        "encounters: discharge before admission": 1,
        "stays.csv: a character that is not utf-8": 1,
        "stays.csv: too few values in the line": 1,
    }
    said = records.folder.manifest.extra["left_out_examples"]
    assert said["stays.csv: a character that is not utf-8"] == "stays.csv line 3"
    # Rows 2 and 3 of the file were not read; the bad time stands in its fourth row.
    assert said["encounters: admit_time is not a time such as 2024-01-31 14:05"] == "stays.csv row 4"
    assert said["encounters: discharge before admission"] == "stays.csv row 5"


def test_refuse_names_the_row(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"stays.csv row 2: encounters: admit_time is not a time"):
        ingest(tmp_path, f"{HEAD}1,a,2020-01-01,2020-01-03,\n2,a,yesterday,2020-01-03,\n".encode(), bad="refuse")
    assert not (tmp_path / "records").exists() and not list(tmp_path.glob(".records*"))


def test_duplicates_and_orphans_cascade(tmp_path: Path) -> None:
    body = f"{HEAD}1,a,2020-01-01,2020-01-03,\n1,a,2020-02-01,2020-02-03,\n2,,2020-02-01,2020-02-03,\n"
    records = ingest(tmp_path, body.encode())
    assert len(stays(records)) == 1
    assert records.folder.manifest.left_out == {
        "encounters: duplicate encounter_id": 1,
        "encounters: patient_id is empty": 1,
    }


@pytest.mark.parametrize("name", ["stays.csv", "stays.csv.gz", "stays.csv.zst"])
def test_compressed_files_give_the_same_rows(tmp_path: Path, name: str) -> None:
    assert (
        len(stays(ingest(tmp_path, f"{HEAD}1,a,2020-01-01,2020-01-03,\n2,b,2020-01-01,,\n".encode(), name=name))) == 2
    )


def test_a_cut_gzip_is_refused_in_one_line(tmp_path: Path) -> None:
    whole = gzip.compress((HEAD + "".join(f"{i},p{i},2020-01-01,2020-01-03,\n" for i in range(20_000))).encode())
    file = tmp_path / "stays.csv.gz"
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut short or damaged"), staging(tmp_path / "r", META, settings={}) as stage:
        stage.read("raw", [open_source(file)], ["id"])


def test_another_encoding_is_read_where_it_is_named(tmp_path: Path) -> None:
    body = f"{HEAD}Zoë,a,2020-01-01,2020-01-03,\n".encode("latin-1")
    assert [row[0] for row in stays(ingest(tmp_path, body, encoding="latin-1"))] == ["Zoë"]


FIELD = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\x00"), max_size=12) | st.sampled_from(
    [
        "",
        "a",
        "1",
        "2020-01-01",
        "2020-01-01 10:00",
        "2020-01-01T10:00:00Z",
        "9999-99-99",
        '"',
        '""',
        "0001-01-01",
        "NaN",
        "1e9",
    ]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.lists(FIELD, min_size=0, max_size=7), max_size=8), raw=st.binary(max_size=30))
def test_whatever_the_file_holds_every_row_is_taken_or_counted(
    tmp_path: Path, rows: list[list[str]], raw: bytes
) -> None:
    good = "good,p,2020-01-01 10:00,2020-01-02 10:00,\n"
    body = (HEAD + good + "".join(",".join(row) + "\n" for row in rows)).encode() + raw.replace(b"\x00", b"")
    try:
        records = ingest(tmp_path, body)
    except InputError as error:  # a file that cannot be read as a whole
        assert "stays.csv" in str(error) and "\n" not in str(error)
        return
    kept = stays(records)
    assert ("good", "2020-01-01 10:00:00", "2020-01-02 10:00:00") in kept
    assert all(row[1] is None or "1900" <= row[1][:4] < "2200" for row in kept)
