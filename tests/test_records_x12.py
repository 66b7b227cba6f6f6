"""Reading 837 and 835 files: separators, envelopes, damage, the join to encounters; hand-written files and samples."""

from __future__ import annotations

import csv
import gzip
from datetime import date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_remede_golden import lang1
from test_remede_world import Rows, hp, stay, write
from x12_text import claims_837, interchange, joined, remits_835

from lang1.common.artefact import Draft, content_fingerprint
from lang1.common.errors import InputError, SettingsError
from lang1.common.settings import load_settings
from lang1.records.readers.staging import Staging
from lang1.records.readers.x12 import UNJOINED, X12Settings, ingest_x12
from lang1.records.readers.x12_adjudication import adjudicate, load_reasons
from lang1.records.readers.x12_claims import day, moment
from lang1.records.readers.x12_files import Reader, x12_files
from lang1.records.readers.x12_segments import read_segments
from lang1.records.store import Records, RecordsDraft, RecordsMeta

DATA = Path(__file__).parent / "data" / "x12"
SAMPLES = Path(__file__).parents[2] / "shared" / "data" / "x12-samples"


def base(tmp_path: Path, *stays: dict[str, Any], **meta: Any) -> Path:
    """A records folder of stays E1 (patient P1) and E2 (P2), or of those given."""
    encounters = list(stays) or [
        stay("E1", "P1", "2020-01-01 10:00", "2020-01-05 10:00"),
        stay("E2", "P2", "2020-01-02 15:00", "2020-01-06 11:00"),
    ]
    tables: dict[str, Rows] = {
        "encounters": encounters,
        "notes": [hp(encounters[0]["encounter_id"], encounters[0]["patient_id"], "2020-01-01 12:00")],
    }
    place = tmp_path / "base"
    return place if place.exists() else write(place, tables, **{"complete_through": {}} | meta)


def ingest(tmp_path: Path, source: Path, **more: Any) -> Records:
    out = tmp_path / "out" if not (tmp_path / "out").exists() else tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
    return Records.open(ingest_x12(source, out, X12Settings.model_validate({"records": base(tmp_path)} | more)))


def claims(records: Records) -> dict[str, dict[str, Any]]:
    return {row["claim_id"]: row for row in pq.read_table(records.path / "claims").to_pylist()}


def read(file: Path) -> tuple[Reader, Staging]:
    """A file as the reader takes it, before adjudication and join."""
    meta = RecordsMeta(system="read alone", time_basis="none")
    stage = Staging(duckdb.connect(":memory:"), RecordsDraft(Draft(file.parent), meta), meta)
    reader = Reader(stage, "CLM01", keep_wrong_counts=True)
    reader.read(x12_files(file))
    return reader, stage


def text(tmp_path: Path, *lines: str, name: str = "one.edi") -> Path:
    file = tmp_path / name
    file.write_bytes("".join(lines).encode())
    return file


def told(records: Records) -> dict[str, Any]:
    return dict(records.folder.manifest.counts["x12"])


def test_the_hand_written_files_become_claims_by_the_command_line(tmp_path: Path) -> None:
    place = base(tmp_path)
    given = [f"records={place}", "feed_end=2020-12-31"]
    assert lang1("ingest", "x12", str(DATA), str(tmp_path / "out"), *given) == 0
    records = Records.open(tmp_path / "out")
    found = claims(records)
    assert set(found) == {"E1", "E2", "E2/2"}
    first = found["E1"]
    assert first["final_status"] == "denied_overturned" and first["adjustment_codes"] == ["CO-45", "CO-50"]
    assert first["submitted_time"] == datetime(2020, 1, 15, 9, 30)
    assert first["first_remit_time"] == datetime(2020, 2, 10) and first["final_time"] == datetime(2020, 6, 20)
    assert (first["charge"], first["paid"], first["payer"]) == (10000, 6000, "FIRST MUTUAL HEALTH")
    assert (first["encounter_id"], first["patient_id"], first["coverage_order"]) == ("E1", "P1", 1)
    assert (found["E2"]["final_status"], found["E2"]["paid"]) == ("paid", 3592)
    assert (found["E2/2"]["coverage_order"], found["E2/2"]["final_status"]) == (2, "pending")
    # The clinician's claim has the hospital's id; its remittance is known by its charge.
    assert records.folder.manifest.left_out == {
        "835: professional claim with the id of an institutional one": 1,
        "837: professional claim with the id of an institutional one": 1,
    }
    complete = records.meta.complete_through["claims"]
    assert (complete.through, complete.key) == (datetime(2020, 12, 31, 23, 59, 59), "submitted_time")
    assert told(records)["oddities"] == {}
    with records.connect() as connection:  # the other tables are those of the base
        assert connection.execute("SELECT count(*) FROM notes").fetchall() == [(1,)]


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    one, two = ingest(tmp_path, DATA), ingest(tmp_path, DATA)
    assert one.folder.fingerprint == two.folder.fingerprint == content_fingerprint(two.path)


@pytest.mark.parametrize(
    ("element", "component", "end"),
    [
        ("*", ":", "~"),
        ("*", ":", "~\n"),
        ("*", ":", "~\r\n"),
        ("|", "^", "\n"),
        ("~", "^", "_\n"),
        ("\x1d", "\x1f", "\x1c"),
    ],
)
def test_separators_are_those_of_the_header(tmp_path: Path, element: str, component: str, end: str) -> None:
    how = {"element": element, "component": component, "end": end}
    lines = (
        claims_837([{"id": "E1", "frequency": 1}]),
        remits_835([{"id": "E1", "status": 1, "charge": 1000, "paid": 0, "cas": ["CO*50*1000"]}], day="2020-02-10"),
    )
    records = ingest(tmp_path, text(tmp_path, *(joined(part, **how) for part in lines)), feed_end="2020-12-31")
    assert claims(records)["E1"]["final_status"] == "denied_upheld"
    assert told(records)["transaction_sets"] == {"835": 1, "837": 1} and told(records)["oddities"] == {}


def test_interchanges_of_one_file_may_have_different_separators(tmp_path: Path) -> None:
    paid = [{"id": "E1", "status": 1, "charge": 1000, "paid": 700, "cas": ["CO*45*300"]}]
    file = text(
        tmp_path,
        "\ufeff",
        joined(claims_837([{"id": "E1"}])),
        "\n\n",
        joined(remits_835(paid, day="2020-02-10"), element="|", component=">", end="'\r\n"),
        joined(claims_837([{"id": "E2"}]), element="+", end="!"),
    )
    records = ingest(tmp_path, file)
    assert {name: row["final_status"] for name, row in claims(records).items()} == {"E1": "paid", "E2": "pending"}


def test_release_4010_is_read(tmp_path: Path) -> None:
    body = claims_837([{"id": "E1"}])
    old = [line.replace("005010X223A2", "004010X096A1").replace("*^*00501*", "*U*00401*") for line in body]
    old = [line.removesuffix("*004010X096A1") if line.startswith("ST") else line for line in old]
    assert old[2] == "ST*837*0001"
    remit = remits_835([{"id": "E1", "status": 5, "charge": 1000, "paid": 0}], day="2020-02-01", guide="004010X091A1")
    final = remits_835(
        [{"id": "E1", "status": 4, "charge": 1000, "paid": 0, "cas": ["CO*39*1000"]}],
        day="2020-02-20",
        guide="004010X091A1",
    )
    records = ingest(tmp_path, text(tmp_path, joined(old), joined(remit), joined(final)), feed_end="2020-12-31")
    row = claims(records)["E1"]
    # Status 5 (pended) is no decision, and no first answer either.
    assert row["final_status"] == "denied_upheld" and row["first_remit_time"] == datetime(2020, 2, 20)
    assert told(records)["remittances"] == {"4": 1, "5": 1}


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressed_files_are_unpacked_and_a_cut_one_is_told(tmp_path: Path, suffix: str) -> None:
    many = claims_837([{"id": f"E{number}"} for number in range(1, 3000)])
    whole = joined(claims_837([{"id": "E1"}])) + joined(many)
    folder = tmp_path / "edi"
    folder.mkdir()
    codec = {".gz": "gzip", ".zst": "zstd"}[suffix]
    with pa.CompressedOutputStream(str(folder / f"a.837{suffix}"), codec) as stream:
        stream.write(whole.encode())
    assert len(claims(ingest(tmp_path, folder))) == 2
    packed = (folder / f"a.837{suffix}").read_bytes()
    (folder / f"a.837{suffix}").write_bytes(packed[: len(packed) * 2 // 3])
    left = ingest(tmp_path, folder).folder.manifest.left_out
    assert left["the compressed file is cut short or damaged"] == 1
    assert left["transaction set 837 without its trailer (SE): cut short"] == 1


def test_a_file_cut_short_gives_none_of_its_last_set(tmp_path: Path) -> None:
    paid = [{"id": "E1", "status": 1, "charge": 1000, "paid": 700, "cas": ["CO*45*300"]}]
    whole = joined(claims_837([{"id": "E1"}])) + joined(remits_835(paid, day="2020-02-10"))
    file = text(tmp_path, whole[: whole.index("CAS*") + 6])
    records = ingest(tmp_path, file)
    assert claims(records)["E1"]["final_status"] == "pending"
    manifest = records.folder.manifest
    assert manifest.left_out == {
        "835: claims of a transaction set that was cut short": 1,
        "the last segment has no end: the file is cut short": 1,
        "transaction set 835 without its trailer (SE): cut short": 1,
    }
    numbers = manifest.extra["left_out_examples"]
    assert numbers["the last segment has no end: the file is cut short"] == "one.edi segment 45"
    assert told(records)["oddities"]["an interchange without its trailer (IEA)"] == 1


def broken(lines: list[str], old: str, new: str) -> list[str]:
    assert any(old in line for line in lines)
    return [line.replace(old, new) for line in lines]


REMIT = {"id": "E1", "status": 1, "charge": 1000, "paid": 700, "cas": ["CO*45*300"]}
# What is done to a file of one claim (E1) and its payment; what is left out, what is odd, and the claim's status.
DAMAGE: list[tuple[str, str, str, dict[str, int], dict[str, int], str | None]] = [
    ("CLM*E1*1000", "CLM*E1*1,000", "837", {"837: CLM02 is not an amount": 1}, {}, "paid"),
    ("CLM*E1*1000", "CLM**1000", "837", {"837: CLM01 is empty": 1}, {}, "paid"),
    ("SBR*P*", "SBR*U*", "837", {"837: SBR01 does not say which payer is asked (P, S, T, A to H)": 1}, {}, "paid"),
    (
        "SBR*P*18*******CI",
        "ZZZ*1",
        "837",
        {"837: a segment that it has not: 'ZZZ'": 1, "837: a claim (CLM) before its subscriber (SBR)": 1},
        {},
        "paid",
    ),
    (
        "BHT*0019*00*BATCH*20200115*",
        "BHT*0019*00*BATCH*20201315*",
        "837",
        {},
        {"837: BHT04 is not a date (the group's date is taken)": 1},
        "paid",
    ),
    (
        "DTP*434*RD8*20200101-20200105",
        "DTP*434*RD8*2020-01-01",
        "837",
        {},
        {"837: DTP holds a date that is none (taken as unknown)": 2},
        "paid",
    ),
    ("11:A:1", "11:A", "837", {}, {"837: CLM05-3 is empty (taken as an original claim)": 1}, "paid"),
    ("CL1*1*7*01", "HI*BK:1~DTP*435*D8*20200101", "837", {}, {"837: segment DTP out of order": 1}, "paid"),
    ("SE*27*", "SE*25*", "837", {}, {"837: the trailer (SE01) counts other segments than there are": 1}, "paid"),
    ("SE*27*0001", "SE*27*0002", "837", {}, {"837: control numbers of header and trailer differ": 1}, "paid"),
    ("GE*1*1", "GE*2*1", "837", {}, {"a group trailer (GE01) counts other transaction sets than there are": 1}, "paid"),
    ("IEA*1*", "IEA*2*", "837", {}, {"an interchange trailer (IEA01) counts other groups than there are": 1}, "paid"),
    (
        "SE*27*0001",
        "NTE*ADD*X",
        "837",
        {
            "transaction set 837 without its trailer (SE): cut short": 1,
            "837: claims of a transaction set that was cut short": 1,
        },
        {},
        "paid",
    ),
    (
        "LX*1",
        "CAS*CO*50*1000~LX*1",
        "835",
        {"835: CAS before any claim (CLP)": 1},
        {"835: segment CAS out of order": 1},
        "paid",
    ),
    ("CLP*E1*1*1000*", "SVC*NU:0120*5*5~CLP*E1*1*1000*", "835", {"835: SVC before any claim (CLP)": 1}, {}, "paid"),
    (
        "CLP*E1*1*1000*700",
        "CLP*E1*1*1000*seven",
        "835",
        {},
        {"835: CLP04 is not an amount (no decision is read)": 1},
        "other",
    ),
    (
        "CLP*E1*1*1000*700",
        "CLP*E1*1**700",
        "835",
        {},
        {"835: CLP03 is not an amount (no decision is read)": 1},
        "other",
    ),
    ("CLP*E1*1*", "CLP*E1*77*", "835", {"835: claim status (CLP02) unknown": 1}, {}, "pending"),
    ("CLP*E1*1*", "CLP*E1**", "835", {"835: CLP02 is empty": 1}, {}, "pending"),
    (
        "CLP*E1*1*1000*700",
        "CLP*E1*1*1000*600",
        "835",
        {},
        {"835: charge less adjustments is not what was paid": 1},
        "paid",
    ),
    (
        "CAS*CO*45*300",
        "CAS*CO",
        "835",
        {},
        {"835: an adjustment (CAS) without a reason (no decision is read)": 1},
        "other",
    ),
    (
        "CAS*CO*45*300",
        "CAS*CO*45",
        "835",
        {},
        {"835: an adjustment (CAS) whose amount is not a number (no decision is read)": 1},
        "other",
    ),
    (
        "CAS*CO*45*300",
        "CAS*CO*unpaid*300",
        "835",
        {},
        {"835: an adjustment (CAS) whose reason is not a code number (no decision is read)": 1},
        "other",
    ),
    (
        "DTM*405*20200210",
        "DTM*405*20209910",
        "835",
        {},
        {"835: DTM holds a date that is none (taken as unknown)": 1},
        "paid",
    ),
    ("SE*14*", "SE*many*", "835", {}, {"835: the trailer (SE01) counts other segments than there are": 1}, "paid"),
]


@pytest.mark.parametrize(("old", "new", "kind", "left", "odd", "status"), DAMAGE, ids=lambda value: str(value)[:30])
def test_damage_is_counted_and_named(
    tmp_path: Path, old: str, new: str, kind: str, left: dict[str, int], odd: dict[str, int], status: str | None
) -> None:
    sent, answered = claims_837([{"id": "E1"}]), remits_835([REMIT], day="2020-02-10")
    sent, answered = (broken(sent, old, new), answered) if kind == "837" else (sent, broken(answered, old, new))
    if "~" in new and "SE*" not in old:  # a segment more than the trailer says
        count, more = ("SE*27*", "SE*28*") if kind == "837" else ("SE*14*", "SE*15*")
        sent, answered = (
            (broken(sent, count, more), answered) if kind == "837" else (sent, broken(answered, count, more))
        )
    folder = tmp_path / "edi"
    folder.mkdir()
    text(folder, joined(sent), name="claims.837")
    text(folder, joined(answered), name="remits.835")
    records = ingest(tmp_path, folder, feed_end="2020-12-31")
    manifest = records.folder.manifest
    assert manifest.left_out == left
    assert told(records)["oddities"] == odd
    places = manifest.extra["left_out_examples"] | manifest.extra["x12"]["oddity_examples"]
    file = "claims.837" if kind == "837" else "remits.835"
    for reason in left | odd:
        named, _, number = places[reason].partition(" segment ")
        assert named == file and 1 <= int(number) <= 31
    assert claims(records)["E1"]["final_status"] == status


def test_a_set_with_a_wrong_count_can_be_left_out(tmp_path: Path) -> None:
    remits = broken(remits_835([REMIT], day="2020-02-10"), "SE*14*", "SE*13*")
    file = text(tmp_path, joined(claims_837([{"id": "E1"}])), joined(remits))
    records = ingest(tmp_path, file, wrong_segment_count="leave_out")
    assert claims(records)["E1"]["final_status"] == "pending"
    assert records.folder.manifest.left_out == {
        "835: the trailer (SE01) counts other segments than there are: its claims": 1
    }


def test_other_transaction_sets_and_files_are_counted_by_type(tmp_path: Path) -> None:
    folder = tmp_path / "edi"
    folder.mkdir()
    text(folder, joined(claims_837([{"id": "E1"}])), name="a.edi")
    status = [line.replace("ST*837*0001*005010X223A2", "ST*277*0001") for line in claims_837([{"id": "E1"}])]
    text(folder, joined(status), name="b.edi")
    text(folder, "Dear colleague, attached are the files.", name="c.txt")
    text(folder, joined(claims_837([{"id": "E2"}])[1:]), name="d.edi")
    (folder / "e.bin").write_bytes(bytes(range(256)) * 40)
    text(folder, "", name="f.edi")
    text(folder, "ISA*00", name="g.edi")
    records = ingest(tmp_path, folder)
    assert told(records)["transaction_sets"] == {"277": 1, "837": 1}
    assert records.folder.manifest.left_out == {
        "an interchange header (ISA) whose fields are not where they must be": 1,
        "an interchange without its header (ISA)": 1,
        "not X12: does not begin with an ISA segment": 2,
        "transaction set 277 (neither claims nor remittances)": 1,
    }


def test_reading_goes_on_after_a_damaged_interchange(tmp_path: Path) -> None:
    bad = joined(claims_837([{"id": "E1"}])).replace("*ZZ*", "*ZZZ*", 1)
    file = text(tmp_path, bad, "stray text\n", joined(claims_837([{"id": "E2"}])), "and an end")
    records = ingest(tmp_path, file)
    assert set(claims(records)) == {"E2"}
    assert records.folder.manifest.left_out == {
        "an interchange header (ISA) whose fields are not where they must be": 1,
        "text after the end of an interchange": 1,
    }


def test_a_source_without_claims_is_refused_in_one_line(tmp_path: Path) -> None:
    file = text(tmp_path, joined(claims_837([{"id": "E1"}])[1:]))
    with pytest.raises(
        InputError, match=r"no 837 or 835.*an interchange without its header \(ISA\) \(one.edi segment 1\)"
    ):
        ingest(tmp_path, file)
    assert not list(tmp_path.glob(".out*"))
    with pytest.raises(InputError, match="no files in this folder"):
        (tmp_path / "empty").mkdir()
        ingest(tmp_path, tmp_path / "empty")
    with pytest.raises(InputError, match=r"nowhere\*.edi: no such file"):
        ingest(tmp_path, tmp_path / "nowhere*.edi")


def test_the_same_remittance_twice_counts_once(tmp_path: Path) -> None:
    rows = [{"id": "E1", "status": 1, "charge": 1000, "paid": 700, "cas": ["CO*45*300"]}]
    once = joined(remits_835(rows, day="2020-02-10"))
    again = (
        once.replace("*000000001*0*T", "*000000002*0*T")
        .replace("ST*835*0001", "ST*835*0007")
        .replace("*0001~", "*0007~")
    )
    records = ingest(tmp_path, text(tmp_path, joined(claims_837([{"id": "E1"}])), once, again))
    assert claims(records)["E1"]["paid"] == 700
    assert records.folder.manifest.left_out == {"transaction set 835: the same as one before": 1}


def test_duplicate_claim_ids_are_counted_and_the_first_submission_counts(tmp_path: Path) -> None:
    file = text(
        tmp_path,
        joined(claims_837([{"id": "E1", "charge": 500}], submitted="2020-01-20")),
        joined(claims_837([{"id": "E1", "charge": 400}], submitted="2020-01-12")),
        joined(claims_837([{"id": "E1", "charge": 300, "frequency": 7}], submitted="2020-02-12")),
    )
    records = ingest(tmp_path, file)
    row = claims(records)["E1"]
    assert (row["charge"], row["submitted_time"]) == (400, datetime(2020, 1, 12, 9, 30))
    assert records.folder.manifest.left_out == {
        "837: a claim sent again as a replacement or to take it back (its first submission counts)": 1,
        "837: duplicate claim id (the first submission counts)": 1,
    }


def test_encounters_reported_are_no_claims(tmp_path: Path) -> None:
    file = text(tmp_path, joined(claims_837([{"id": "E1", "purpose": "RP"}])), joined(claims_837([{"id": "E2"}])))
    records = ingest(tmp_path, file)
    assert set(claims(records)) == {"E2"}
    assert records.folder.manifest.left_out == {"837: an encounter reported, no claim for payment (BHT06 RP)": 1}


def unjoined(records: Records) -> list[list[str]]:
    with (records.path / UNJOINED).open(newline="") as lines:
        return list(csv.reader(lines))


def test_claims_that_join_to_nothing_are_counted_and_listed(tmp_path: Path) -> None:
    records = ingest(tmp_path, text(tmp_path, joined(claims_837([{"id": "E1"}, {"id": "E9"}]))))
    assert set(claims(records)) == {"E1"}
    assert unjoined(records) == [
        ["claim", "coverage_order", "key", "reason", "file", "segment"],
        ["E9", "1", "E9", "no such encounter in the records", "one.edi", "36"],
    ]
    assert records.folder.manifest.left_out == {"claims joined to no encounter: no such encounter in the records": 1}
    assert told(records)["unjoined_claims"] == 1


def test_a_pattern_takes_the_id_out_of_the_key(tmp_path: Path) -> None:
    file = text(tmp_path, joined(claims_837([{"id": "HOSP-E1-2020"}, {"id": "E2"}])))
    records = ingest(tmp_path, file, key_pattern="^HOSP-([A-Z0-9]+)-")
    assert {name: row["encounter_id"] for name, row in claims(records).items()} == {"HOSP-E1-2020": "E1"}
    assert unjoined(records)[1][3] == "its key is not in the files"


def test_the_medical_record_number_joins_by_dates(tmp_path: Path) -> None:
    base(
        tmp_path,
        stay("N1", "P1", "2020-01-01 10:00", "2020-01-05 10:00"),
        stay("N2", "P1", "2020-01-08 10:00", "2020-01-12 10:00"),
        stay("N3", "P1", "2020-01-08 06:00", "2020-01-08 10:00", encounter_class="emergency"),
        stay("N4", "P2", "2020-03-01 10:00", "2020-03-05 10:00"),
        stay("N5", "P2", "2020-03-01 09:00", "2020-03-02 10:00"),
    )
    dates = {"first": ("01-01", "01-05"), "second": ("01-08", "01-12"), "far": ("02-20", "02-24")}
    rows = [
        {"id": name, "record": "P1", "start": f"2020-{start}", "end": f"2020-{end}"}
        for name, (start, end) in dates.items()
    ]
    rows += [{"id": "both", "record": "P2", "start": "2020-03-01", "end": "2020-03-05"}, {"id": "none"}]
    rows += [{"id": "who", "record": "P9"}]
    answered = [
        {
            "id": "835 only",
            "status": 1,
            "charge": 1000,
            "paid": 10,
            "record": "P1",
            "start": "2020-01-02",
            "end": "2020-01-04",
        }
    ]
    file = text(tmp_path, joined(claims_837(rows)), joined(remits_835(answered, day="2020-02-10")))
    records = ingest(tmp_path, file, key="REF*EA")
    found = {name: row["encounter_id"] for name, row in claims(records).items()}
    # On the eighth the patient came by the emergency room: the claim of an admission is that of the inpatient stay.
    assert found == {"first": "N1", "second": "N2", "835 only": "N1"}
    assert {row[0]: row[3] for row in unjoined(records)[1:]} == {
        "far": "no such encounter in the records",
        "both": "several encounters fit",
        "none": "its key is not in the files",
        "who": "no such encounter in the records",
    }


def test_a_claim_id_of_two_patients_is_joined_to_neither(tmp_path: Path) -> None:
    file = text(
        tmp_path,
        joined(claims_837([{"id": "X", "record": "P1"}])),
        joined(claims_837([{"id": "X", "record": "P2"}], submitted="2020-01-20")),
    )
    records = ingest(tmp_path, file, key="REF*EA")
    assert unjoined(records)[1][3] == "the claim id stands for different encounters"


def test_another_reference_and_a_crosswalk_join(tmp_path: Path) -> None:
    lines = [line.replace("CL1*1*7*01", "CL1*1*7*01~\nREF*D9*E2") for line in claims_837([{"id": "X"}, {"id": "Y"}])]
    file = text(tmp_path, joined(lines))
    assert claims(ingest(tmp_path, file, key="REF*D9"))["X"]["encounter_id"] == "E2"
    cross = text(tmp_path, "claim,encounter\nX,E1\nY,E7\n", name="cross.csv")
    records = ingest(tmp_path, file, key="crosswalk", crosswalk=cross)
    assert {name: row["encounter_id"] for name, row in claims(records).items()} == {"X": "E1"}
    assert unjoined(records)[1][:4] == ["Y", "1", "E7", "no such encounter in the records"]
    twice = text(tmp_path, "claim,encounter\nX,E1\nX,E2\n", name="twice.csv")
    with pytest.raises(InputError, match=r"twice.csv row 1: claim 'X' has two encounters"):
        ingest(tmp_path, file, key="crosswalk", crosswalk=twice)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"key": "CLM02"}, "expected CLM01, REF"),
        ({"key": "crosswalk"}, "goes with key=crosswalk"),
        ({"crosswalk": "x.csv"}, "goes with key=crosswalk"),
        ({"key_pattern": "(["}, "not a regular expression"),
        ({"key_pattern": "E[0-9]+"}, "needs a group"),
        ({"appeal_days": -1}, "appeal_days"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        load_settings(X12Settings, None, [], {"records": "r"} | given)


def test_professional_claims_of_inpatient_stays_give_way_to_the_hospitals(tmp_path: Path) -> None:
    base(
        tmp_path,
        stay("E1", "P1", "2020-01-01 10:00", "2020-01-05 10:00"),
        stay("E2", "P2", "2020-01-02 15:00", "2020-01-06 11:00"),
        stay("V1", "P2", "2020-02-02 15:00", "2020-02-02 16:00", encounter_class="outpatient"),
    )
    clinicians = joined(claims_837([{"id": "E2"}, {"id": "V1"}], form="P"))
    alone = text(tmp_path, clinicians, name="alone.837")
    both = text(tmp_path, clinicians, joined(claims_837([{"id": "E1"}])), name="both.837")
    assert set(claims(ingest(tmp_path, alone))) == {"E2", "V1"}
    assert set(claims(ingest(tmp_path, alone, professional="never"))) == {"V1"}
    records = ingest(tmp_path, both)
    assert set(claims(records)) == {"E1", "V1"}
    (reason,) = records.folder.manifest.left_out
    assert reason.startswith("professional claims (837P) of inpatient stays")
    assert set(claims(ingest(tmp_path, both, professional="always"))) == {"E1", "E2", "V1"}


def test_claims_that_the_records_held_are_kept_or_replaced(tmp_path: Path) -> None:
    tables: dict[str, Rows] = {
        "encounters": [stay("E1", "P1", "2020-01-01 10:00", "2020-01-05 10:00")],
        "claims": [
            {"claim_id": name, "encounter_id": "E1", "patient_id": "P1", "coverage_order": 1, "final_status": "paid"}
            for name in ("old", "E1")
        ],
    }
    complete = {"claims": {"through": "2020-06-30", "key": "submitted_time"}}
    write(tmp_path / "base", tables, complete_through=complete)
    file = text(tmp_path, joined(claims_837([{"id": "E1"}])))
    kept = ingest(tmp_path, file, feed_end="2020-12-31")
    assert {name: row["final_status"] for name, row in claims(kept).items()} == {"old": "paid", "E1": "paid"}
    assert kept.folder.manifest.left_out == {"claims of an id that the records hold already (existing_claims: keep)": 1}
    assert kept.meta.complete_through["claims"].through.date() == date(2020, 6, 30)
    replaced = ingest(tmp_path, file, feed_end="2020-12-31", existing_claims="replace")
    assert {name: row["final_status"] for name, row in claims(replaced).items()} == {"E1": "pending"}
    assert replaced.meta.complete_through["claims"].through.date() == date(2020, 12, 31)


def test_true_dates_do_not_enter_records_whose_dates_are_shifted(tmp_path: Path) -> None:
    base(tmp_path, stay("E1", "P1", "2120-01-01 10:00", "2120-01-05 10:00"), time_basis="shifted")
    file = text(tmp_path, joined(claims_837([{"id": "E1"}])), joined(remits_835([REMIT], day="2020-02-10")))
    records = ingest(tmp_path, file)
    row = claims(records)["E1"]
    assert row["final_status"] == "paid"
    assert [row[f"{name}_time"] for name in ("submitted", "first_remit", "final")] == [None] * 3
    assert "claims" not in records.meta.complete_through and told(records)["oddities"] == {}
    with pytest.raises(InputError, match="cannot be joined by dates"):
        ingest(tmp_path, file, key="REF*EA")


def test_the_feed_ends_with_its_last_remittance_unless_said(tmp_path: Path) -> None:
    later = {"id": "E2", "status": 1, "charge": 10, "paid": 10}
    file = text(
        tmp_path,
        joined(claims_837([{"id": "E1"}, {"id": "E2"}])),
        joined(remits_835([REMIT], day="2020-02-10")),
        joined(remits_835([later], day="2020-08-10")),
    )
    assert ingest(tmp_path, file).meta.complete_through["claims"].through == datetime(2020, 8, 10, 23, 59, 59)
    cut = ingest(tmp_path, file, feed_end="2020-06-01")
    assert claims(cut)["E2"]["final_status"] == "pending"
    assert cut.folder.manifest.left_out == {"835: claim dated after feed_end": 1}


def test_odd_dates_of_joined_claims_are_told(tmp_path: Path) -> None:
    early = {"id": "E1", "status": 1, "charge": 1000, "paid": 700, "cas": ["CO*45*300"]}
    file = text(
        tmp_path,
        joined(claims_837([{"id": "E1"}], submitted="2019-12-01")),
        joined(claims_837([{"id": "E2"}], submitted="2020-03-01")),
        joined(remits_835([early], day="2019-12-20")),
        joined(remits_835([early | {"id": "E2"}], day="2020-02-01")),
    )
    records = ingest(tmp_path, file)
    assert told(records)["oddities"] == {
        "claims first answered before the stay began": 1,
        "claims submitted before the stay ended": 1,
    }
    # An answer before its submission breaks a rule of records.
    assert set(claims(records)) == {"E1"}
    assert records.folder.manifest.left_out == {"claims: remittance before submission": 1}


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("20200229", date(2020, 2, 29)),
        ("20190229", None),
        ("200131", date(2020, 1, 31)),
        ("991231", date(1999, 12, 31)),
        ("00000000", None),
        ("2020013", None),
        ("30200101", None),
        ("٢٠٢٠٠١٠١", None),
    ],
)
def test_days(written: str, found: date | None) -> None:
    assert day(written) == found


def test_moments() -> None:
    assert moment("20200131", "093015") == datetime(2020, 1, 31, 9, 30, 15)
    assert moment("20200131", "2460") == datetime(2020, 1, 31)
    assert moment("never", "0930") is None


LINES = joined(claims_837([{"id": "E1"}])) + joined(remits_835([REMIT], day="2020-02-10"))
PIECES = st.sampled_from(
    [
        "~",
        "*",
        ":",
        "\n",
        "ISA",
        "IEA*1*1~",
        "SE*3*0001~",
        "CLP*E1*1*1*0~",
        "CAS*CO*50~",
        "CLM*E1~",
        "ST*835*1~",
        "\x00",
        "9" * 40,
    ]
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, len(LINES)), st.integers(0, 30), PIECES | st.text(max_size=4)), max_size=5))
def test_whatever_a_file_holds_it_is_read_or_refused_in_one_line(
    tmp_path: Path, edits: list[tuple[int, int, str]]
) -> None:
    torn = LINES
    for place, length, piece in edits:
        torn = torn[:place] + piece + torn[place + length :]
    file = text(tmp_path, torn)
    try:
        reader, stage = read(file)
    except InputError as error:
        assert "no 837 or 835" in str(error) and "\n" not in str(error)
        return
    left_out = stage.draft.draft.left_out
    if not edits:
        assert stage.rows("submissions") == stage.rows("remits") == 1 and not left_out and not reader.oddities
    places = stage.examples | reader.odd_examples
    assert set(places) == set(left_out) | set(reader.oddities)
    assert all(place.startswith("one.edi segment ") for place in places.values())
    # What was read can be adjudicated, whatever it was.
    adjudicate(stage, load_reasons(), date(2020, 12, 31), 120, count_forwarded=False)
    allowed = "('paid', 'denied_overturned', 'denied_upheld', 'pending', 'other')"
    assert stage.ask(f"SELECT count(*) FROM outcomes WHERE final_status NOT IN {allowed}") == [(0,)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=st.binary(max_size=300))
def test_any_bytes_are_read_as_segments_or_told(tmp_path: Path, raw: bytes) -> None:
    file = tmp_path / "any.edi"
    file.write_bytes(raw)
    problems: list[str] = []
    found = list(read_segments(file, lambda reason, number: problems.append(reason)))
    assert not found and (problems or not raw.strip(b" \t\r\n\x00\x1a\xef\xbb\xbf"))


# By reading them: transaction sets, claims taken from the file, distinct claim ids, and what must be told besides.
WRONG_COUNT = "837: the trailer (SE01) counts other segments than there are"
SEEN: dict[str, tuple[dict[str, int], int, int, tuple[str, ...]]] = {
    "x12_ambiguous_loop": ({"837": 1}, 1, 1, (WRONG_COUNT,)),
    "x12_bad_segment_identifier": ({"837": 1}, 2, 2, ("'(none)'", "'NM31'", "'Nd4'")),
    "x12_bad_valid_code": ({"837": 1}, 2, 2, (WRONG_COUNT,)),  # a provider's qualifier, which is not read
    "x12_complex": ({"837": 2}, 6, 3, ("837: duplicate claim id",)),
    "x12_loop_errors1_exceeds_max_1_parent": ({"837": 1}, 1, 1, (WRONG_COUNT,)),
    "x12_loop_errors2_exceeds_max_repeats_multiple_parents": ({"837": 1}, 2, 1, ("837: duplicate claim id",)),
    "x12_loop_errors3_missing_loops": ({"837": 1}, 1, 1, (WRONG_COUNT,)),
    "x12_many_claims": ({"837": 1}, 820, 2, ("837: duplicate claim id",)),
    "x12_missing_elements": ({"837": 1}, 2, 2, ("837: CLM05-3 is empty",)),
    "x12_missing_required_loop_in_one_repeat": ({"837": 1}, 2, 2, (WRONG_COUNT,)),
    "x12_missing_required_loops_mult_repeats": ({"837": 1}, 5, 2, ("segment SV1 out of order",)),
    "x12_multiple_gs": ({"837": 3}, 6, 2, ("837: duplicate claim id",)),
    "x12_multiple_isa": ({"837": 2}, 4, 4, (WRONG_COUNT,)),
    "x12_multiple_st": ({"837": 2}, 4, 2, ("837: duplicate claim id",)),
    "x12_multiple_transactions": ({"837": 312}, 2, 2, ("transaction set 837: the same as one before",)),
    "x12_no_errors": ({"837": 1}, 2, 1, ("837: duplicate claim id",)),
    "x12_segment_errors": ({"837": 1}, 1, 1, (WRONG_COUNT,)),
    "x12_segments_out_of_order": ({"837": 1}, 2, 2, ("segment N3 out of order", "segment N4 out of order")),
    "x12_valid": ({"837": 1}, 2, 2, (WRONG_COUNT,)),
    "x12_valid_different_separators": ({"837": 1}, 2, 2, (WRONG_COUNT,)),
    "x12_writer_test": ({"837": 1}, 1, 1, (WRONG_COUNT,)),
    "x223-test": ({"837": 1}, 1, 1, (WRONG_COUNT,)),
}
REFUSED = {
    "x12_277CA_accepted": "transaction set 277",
    "x12_277CA_rejected": "transaction set 277",
    "x12_277_x212": "transaction set 277",
    "x12_999_accepted": "transaction set 999",
    "x12_999_rejected": "transaction set 999",
    "x12_bad_first_line": "whose fields are not where they must be",
    "x12_no_isa_line": "without its header",
    "x270": "transaction set 270",
    "x271": "transaction set 271",
}


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the open X12 samples are not here")
def test_the_open_samples_have_the_right_verdict() -> None:
    assert {file.stem for file in SAMPLES.glob("*.txt")} == {*SEEN, *REFUSED}
    for name, (sets, taken, distinct, besides) in SEEN.items():
        reader, stage = read(SAMPLES / f"{name}.txt")
        reasons = [*stage.draft.draft.left_out, *reader.oddities]
        assert (dict(reader.sets), stage.rows("submissions")) == (sets, taken), name
        assert stage.ask("SELECT count(DISTINCT claim) FROM submissions") == [(distinct,)], name
        adjudicate(stage, load_reasons(), None, 120, count_forwarded=False)
        assert stage.ask("SELECT DISTINCT final_status FROM outcomes") == [("pending",)], name
        reasons += list(stage.draft.draft.left_out)
        assert all(any(said in reason for reason in reasons) for said in besides), (name, reasons)
    for name, why in REFUSED.items():
        with pytest.raises(InputError, match=why):
            read(SAMPLES / f"{name}.txt")


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the open X12 samples are not here")
def test_the_open_samples_as_one_folder(tmp_path: Path) -> None:
    base(tmp_path, stay("A37YH556", "p1", "2012-03-30 10:00", "2012-04-05 10:00"))
    records = ingest(tmp_path, SAMPLES)
    assert told(records)["transaction_sets"] == {"270": 1, "271": 1, "277": 3, "837": 338, "999": 2}
    assert set(claims(records)) == {"A37YH556"}  # the one institutional claim, of x223-test
    assert claims(records)["A37YH556"]["final_status"] == "pending"


def test_a_gzip_of_the_hand_written_remittances_reads_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "edi"
    folder.mkdir()
    for file in DATA.glob("*.edi"):
        (folder / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes(), mtime=0))
    assert claims(ingest(tmp_path, folder)) == claims(ingest(tmp_path, DATA))


def test_an_interchange_of_nothing_but_other_sets_is_told(tmp_path: Path) -> None:
    lines = interchange([["BHT*0022*13*1*20200101*0930"]], code="HC", guide="005010X279A1", day="20200101")
    file = text(tmp_path, joined([line.replace("ST*837", "ST*270") for line in lines]))
    with pytest.raises(InputError, match="transaction set 270"):
        ingest(tmp_path, file)
