"""The records store: what is written, what is refused, and that the same rows give the same bytes."""

from __future__ import annotations

import datetime as dt
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lang1.common.artefact import Draft
from lang1.common.errors import ArtefactError, InputError
from lang1.common.identity import patient_hash, read_patient_hashes
from lang1.records.schema import CLAIMS, NOTES
from lang1.records.store import Records, RecordsDraft, RecordsMeta, new_records, part_files, validate, write_table_part

META = RecordsMeta(
    system="here",
    time_basis="calendar",
    complete_through={"encounters": {"through": "2024-12-31", "key": "discharge_time"}},  # type: ignore[dict-item]
)
NOON = dt.datetime(2020, 1, 2, 12)
DAY = dt.timedelta(days=1)


def base() -> dict[str, list[dict[str, Any]]]:
    """One sound patient with a stay, a note, a diagnosis and a claim."""
    ids = {"patient_id": "p1", "encounter_id": "e1"}
    return {
        "patients": [{"patient_id": "p1", "birth_year": 1950, "sex": "female"}],
        "encounters": [{**ids, "encounter_class": "inpatient", "admit_time": NOON, "discharge_time": NOON + 3 * DAY}],
        "notes": [{**ids, "note_id": "n1", "note_type": "progress", "available_time": NOON, "text": "well"}],
        "diagnoses": [{**ids, "code": "I50.9", "code_version": "ICD-10-CM", "position": 1}],
        "claims": [{**ids, "claim_id": "c1", "coverage_order": 1, "submitted_time": NOON, "final_status": "paid"}],
    }


def write(out: Path, tables: dict[str, list[dict[str, Any]]], meta: RecordsMeta = META) -> Records:
    with new_records(out, meta, settings={"made": "by a test"}) as draft:
        for table, rows in tables.items():
            if rows:
                columns = dict.fromkeys(name for row in rows for name in row)
                draft.write_part(table, pa.table({c: [row.get(c) for row in rows] for c in columns}), 0)
        draft.leave_out("rows without a reason", 2)
    return Records.open(out)


def test_round_trip_and_empty_views(tmp_path: Path) -> None:
    records = write(tmp_path / "r[1]*", base())  # a name that a glob would misread
    assert records.meta == META
    assert records.meta.complete_through["encounters"].through == dt.datetime(2024, 12, 31, 23, 59, 59)
    manifest = records.folder.manifest
    assert manifest.counts == {"patients": 1, "encounters": 1, "notes": 1, "diagnoses": 1, "claims": 1}
    assert manifest.left_out == {"rows without a reason": 2}
    assert read_patient_hashes(records.path).tolist() == [patient_hash("p1")]
    with records.connect() as connection:
        assert connection.execute("SELECT note_id, text, signed_time FROM notes").fetchall() == [("n1", "well", None)]
        assert connection.execute("SELECT count(*) FROM given_labels").fetchall() == [(0,)]
        types = dict(row[:2] for row in connection.execute("DESCRIBE fields").fetchall())
        assert types == {
            "encounter_id": "VARCHAR", "field": "VARCHAR", "number": "DOUBLE", "text": "VARCHAR", "known_at": "VARCHAR"
        }  # fmt: skip
    assert records.has("notes") and not records.has("fields")
    assert validate(records) == {}


def test_same_rows_same_bytes(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", base()), write(tmp_path / "b", base())
    assert first.folder.fingerprint == second.folder.fingerprint
    changed = base()
    changed["notes"][0]["text"] = "ill"
    assert write(tmp_path / "c", changed).folder.fingerprint != first.folder.fingerprint


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5))
@settings(max_examples=20, deadline=None)
def test_chunking_of_the_input_does_not_show(cuts: list[int]) -> None:
    texts = pa.table({"note_id": [f"n{i}" for i in range(60)], "patient_id": ["p"] * 60, "note_type": ["other"] * 60,
                      "text": [f"word {i % 7}" for i in range(60)]})  # fmt: skip
    chunks, start = [], 0
    for cut in cuts:
        chunks.append(texts.slice(start, cut))
        start = min(60, start + cut)
    chunks.append(texts.slice(start))
    with tempfile.TemporaryDirectory() as place:
        one, two = Path(place, "one"), Path(place, "two")
        write_table_part(one, "notes", texts, 0)
        write_table_part(two, "notes", pa.concat_tables(chunks), 0)
        assert part_files(one, "notes")[0].read_bytes() == part_files(two, "notes")[0].read_bytes()


BAD: list[tuple[str, Any, str]] = [
    ("discharge before admission", lambda t: t["encounters"][0].update(discharge_time=NOON - DAY),
     r"encounters/part-00000.parquet row 1: discharge before admission \(encounter_id 'e1'"),
    ("duplicate encounter", lambda t: t["encounters"].append(t["encounters"][0]), "row 2: encounter_id 'e1' was there"),
    ("duplicate note", lambda t: t["notes"].append(t["notes"][0]), "note_id 'n1' was there before"),
    ("encounter without patient", lambda t: t["encounters"][0].update(patient_id="px"), "'px' is not in patients"),
    ("note without patient", lambda t: t["notes"].append({**t["notes"][0], "note_id": "n2", "patient_id": "p9",
                                                         "encounter_id": None}), "row 2: patient_id 'p9' is not in"),
    ("note of no encounter", lambda t: t["notes"][0].update(encounter_id="e9"), "'e9' is not in encounters"),
    ("diagnosis of no encounter", lambda t: t["diagnoses"][0].update(encounter_id="e9"), "'e9' is not in encounters"),
    ("another's claim", lambda t: (t["patients"].append({"patient_id": "p2"}), t["claims"][0].update(patient_id="p2")),
     "patient_id 'p2' differs from 'p1' of encounter 'e1'"),
    ("death before birth", lambda t: t["patients"][0].update(death_time=dt.datetime(1949, 5, 1)), "death before birth"),
    ("absurd time", lambda t: t["encounters"][0].update(discharge_time=dt.datetime(2999, 1, 1)),
     "discharge_time is 2999.*expected a year in 1900 to 2199"),
    ("old time", lambda t: t["notes"][0].update(created_time=dt.datetime(1899, 12, 31)), "created_time is 1899"),
    ("age", lambda t: t["encounters"][0].update(age_at_admission=131.0), "is 131.0, expected 0 to 130"),
    ("position", lambda t: t["diagnoses"][0].update(position=0), "position is 0, expected 1 or more"),
    ("remit before bill", lambda t: t["claims"][0].update(first_remit_time=NOON - DAY), "remittance before submission"),
    ("no patients", lambda t: t["patients"].clear(), "patients: no rows"),
    ("no encounters", lambda t: t["encounters"].clear(), "encounters: no rows"),
    ("unknown code", lambda t: t["encounters"][0].update(encounter_class="IP"), "is 'IP', expected one of"),
    ("missing column", lambda t: t["notes"][0].pop("text"), "notes: column 'text' is missing"),
    ("empty id", lambda t: t["notes"][0].update(note_id=None) or t["notes"].append({**t["notes"][0], "note_id": "z"}),
     "notes row 1: 'note_id' is empty"),
    ("unknown column", lambda t: t["notes"][0].update(colour="red"), "unknown column 'colour'"),
    ("wrong type", lambda t: t["encounters"][0].update(age_at_admission="old"), "age_at_admission: expected double"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "expected"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_input_is_one_line(tmp_path: Path, spoil: Any, expected: str) -> None:
    tables = base()
    spoil(tables)
    with pytest.raises(InputError, match=expected) as caught:
        write(tmp_path / "r", tables)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "r").exists() and not (tmp_path / ".r.partial").exists()


def test_times_are_not_invented(tmp_path: Path) -> None:
    meta = RecordsMeta(system="s", time_basis="none")
    with pytest.raises(InputError, match="times are unknown under time_basis none"):
        write(tmp_path / "r", base(), meta)
    ordinal = base()
    for rows in ordinal.values():
        for row in rows:
            for name in [name for name in row if name.endswith("_time")]:
                row.pop(name)
    with pytest.raises(InputError, match="sequence is empty"):
        write(tmp_path / "r", ordinal, RecordsMeta(system="s", time_basis="ordinal"))
    assert write(tmp_path / "r", ordinal, meta).time_basis == "none"


def test_shifted_times_may_be_far(tmp_path: Path) -> None:
    tables = base()
    far = {"admit_time": dt.datetime(2201, 3, 1), "discharge_time": dt.datetime(2201, 3, 4)}
    tables["encounters"][0].update(far)
    assert write(tmp_path / "r", tables, META.model_copy(update={"time_basis": "shifted"})).time_basis == "shifted"
    with pytest.raises(InputError, match="2201"):
        write(tmp_path / "c", tables)


def test_oddities_are_counted_not_refused(tmp_path: Path) -> None:
    tables = base()
    tables["patients"][0]["death_time"] = NOON + 5 * DAY
    stay = tables["encounters"][0]
    tables["encounters"] += [
        {**stay, "encounter_id": "e2", "admit_time": NOON + DAY},  # overlaps e1
        {**stay, "encounter_id": "e3", "admit_time": NOON + 5 * DAY, "discharge_time": None},  # the day of death: fine
        {**stay, "encounter_id": "e4", "admit_time": NOON + 6 * DAY, "discharge_time": None},  # after death
    ]
    tables["notes"].append({**tables["notes"][0], "note_id": "n2", "text": " ", "parent_note_id": "gone"})
    records = write(tmp_path / "r", tables)
    expected = {
        "encounters admitted after the patient's death": 1,
        "inpatient stays that overlap an earlier one of the same patient": 1,
        "notes with no text": 1,
        "notes that amend a note that is not there": 1,
    }
    assert records.folder.manifest.counts["oddities"] == expected == validate(records)


def spoil_file(records: Records, table: str, change: Any) -> None:
    file = part_files(records.path, table)[0]
    pq.write_table(change(pq.read_table(file)), file)


def test_opening_checks_columns_types_and_codes(tmp_path: Path) -> None:
    def refused(change: Any, expected: str, table: str = "encounters") -> None:
        records = write(tmp_path / expected.split()[0].strip("'"), base())
        spoil_file(records, table, change)
        with pytest.raises(InputError, match=expected):
            Records.open(records.path)

    refused(lambda t: t.drop_columns(["payer"]), "'payer' is missing")
    refused(
        lambda t: t.set_column(11, "age_at_admission", pa.array(["71"])),
        "'age_at_admission' is string, expected double",
    )
    column = NOTES.names.index("note_type")
    refused(
        lambda t: t.set_column(column, "note_type", pa.array(["H&P"])), "note_type is 'H&P', expected one of", "notes"
    )
    records = write(tmp_path / "torn", base())
    part_files(records.path, "claims")[0].write_bytes(b"PAR1 torn")
    with pytest.raises(InputError, match="not readable as Parquet"):
        Records.open(records.path)
    part_files(records.path, "claims")[0].unlink()
    with pytest.raises(InputError, match="claims: no part"):
        Records.open(records.path)


def test_validate_finds_what_was_changed_later(tmp_path: Path) -> None:
    records = write(tmp_path / "r", base())
    spoil_file(records, "claims", lambda t: pa.concat_tables([t, t]))
    with pytest.raises(InputError, match=r"claims/part-00000\.parquet row 2: claim_id 'c1' was there before"):
        validate(Records.open(records.path))


def test_not_a_records_folder(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="does not exist"):
        Records.open(tmp_path / "nowhere")
    records = write(tmp_path / "r", base())
    with pytest.raises(ArtefactError, match="exists already"):
        write(records.path, base())


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"time_basis": "ordinal"}, "complete_through needs times"),
        ({"complete_through": {"visits": {"through": "2024-01-01", "key": "admit_time"}}}, "names 'visits'"),
        (
            {"complete_through": {"notes": {"through": "2024-01-01", "key": "colour"}}},
            "key is 'colour'; expected created",
        ),
    ],
)
def test_meta_is_checked(fields: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        RecordsMeta.model_validate({**META.model_dump(), **fields})


def test_streams_are_cut_into_equal_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lang1.records.store.PART_ROWS", 10)
    ids = iter(range(100))

    def claims(batches: list[int]) -> pa.RecordBatchReader:
        made = []
        for rows in batches:
            values = {**dict.fromkeys(CLAIMS.names), "coverage_order": 1, "final_status": "paid"}
            values |= {"encounter_id": "e", "patient_id": "p"}
            named = [{**values, "claim_id": f"c{next(ids) % 23}"} for _ in range(rows)]
            made.append(pa.RecordBatch.from_pylist(named, schema=CLAIMS))
        return pa.RecordBatchReader.from_batches(CLAIMS, made)

    for name, batches in (("a", [23]), ("b", [1, 9, 0, 12, 1])):
        (tmp_path / name).mkdir()
        RecordsDraft(Draft(tmp_path / name), META).write_stream("claims", claims(batches))
    files = part_files(tmp_path / "a", "claims")
    assert [pq.read_metadata(file).num_rows for file in files] == [10, 10, 3]
    assert pq.read_schema(files[0]).equals(CLAIMS)
    assert [f.read_bytes() for f in files] == [f.read_bytes() for f in part_files(tmp_path / "b", "claims")]


def test_sections_of_notes_and_their_revisions(tmp_path: Path) -> None:
    tables = base()
    ids = {"patient_id": "p1", "encounter_id": "e1", "note_type": "discharge_summary"}
    whole = "Dr. Who\nBrief Hospital Course: treated.\nWell since.\n\nMEDICATIONS:\naspirin\nOwn heading:\nx"
    tables["notes"] = [
        {**ids, "note_id": "a", "available_time": NOON, "text": whole},
        {**ids, "note_id": "b", "parent_note_id": "a", "available_time": NOON + DAY, "text": "ADDENDUM: and home."},
        {**ids, "note_id": "c", "available_time": NOON, "text": ""},
    ]
    with write(tmp_path / "r", tables).connect() as connection:
        asked = "SELECT note_id, position, section, heading, text FROM note_sections ORDER BY note_id, position"
        assert connection.execute(asked).fetchall() == [
            ("a", 1, "start", "", "Dr. Who"),
            ("a", 2, "hospital_course", "Brief Hospital Course", "treated.\nWell since."),
            ("a", 3, "medications", "MEDICATIONS", "aspirin"),
            ("a", 4, "other", "Own heading", "x"),
            ("b", 1, "addendum", "ADDENDUM", "and home."),
        ]
        revised = "SELECT parent_note_id, available_time FROM note_sections WHERE section = 'addendum'"
        assert connection.execute(revised).fetchall() == [("a", NOON + DAY)]
