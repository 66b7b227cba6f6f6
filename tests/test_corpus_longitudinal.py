"""A patient's notes as one document: every note once, in time order, whichever files and parts they come from."""

import hashlib
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lang1.cli.main import main
from lang1.common.errors import ArtefactError, SettingsError
from lang1.corpus.filters import Document, Report
from lang1.corpus.longitudinal import by_patient, join_patients
from lang1.corpus.notes import EligibleNotes, NoteRules
from lang1.corpus.reader import Corpus
from lang1.records.schema import NOTES
from lang1.remede.benchmark import Benchmark
from lang1.remede.build import build
from lang1.remede.settings import BuildSettings
from lang1.simulator.settings import SimulatorSettings
from lang1.simulator.simulate import simulate
from lang1.text.clean import clean_note

BEGIN = datetime(2020, 1, 1, 9, tzinfo=UTC).replace(tzinfo=None)
CUT = BEGIN + timedelta(days=60)


def _rows() -> list[dict[str, object]]:
    """Notes of 30 patients in nobody's order, some of unknown time; patients 3, 13 and 23 are held out."""
    rows: list[dict[str, object]] = []
    for i in range(240):
        place = i * 101 % 240
        patient, turn = f"p{place % 30}", place // 30
        time = None if place % 5 == 4 and turn % 2 else BEGIN + timedelta(days=11 * turn, hours=place % 7)
        rows.append(
            {
                "note_id": f"n{place:03d}",
                "patient_id": patient,
                "note_type": "progress" if turn % 2 else "discharge_summary",
                "department": "medicine" if turn % 3 else None,
                "available_time": time,
                "text": f"text of {place}",
            }
        )
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("records")
    (place / "notes").mkdir()
    schema = pa.schema([NOTES.field(name) for name in _rows()[0]])
    for part, rows in enumerate((_rows()[:100], _rows()[100:])):
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), place / f"notes/part-{part:05d}.parquet")
    folds = [{"patient_id": f"p{i}", "fold": "test" if i % 10 == 3 else "train"} for i in range(30)]
    pq.write_table(pa.Table.from_pylist(folds), place / "splits.parquet")
    return place


def _notes(folder: Path, **rules: object) -> list[EligibleNotes]:
    return [EligibleNotes(NoteRules(str(folder), folds=str(folder / "splits.parquet"), **rules))]  # type: ignore[arg-type]


def _expected(timed: bool) -> list[str]:
    """Note ids in the order asked for, made by hand."""
    rows = [row for row in _rows() if int(str(row["patient_id"])[1:]) % 10 != 3]
    if timed:
        rows = [row for row in rows if row["available_time"] is not None and row["available_time"] < CUT]  # type: ignore[operator]
    mixed = {str(r["patient_id"]): hashlib.md5(str(r["patient_id"]).encode()).hexdigest() for r in rows}
    rows.sort(key=lambda r: (mixed[str(r["patient_id"])], r["available_time"] or datetime.max, r["note_id"]))
    return [str(row["note_id"]) for row in rows]


@pytest.mark.parametrize("timed", [True, False])
def test_notes_come_by_patient_in_time_order(folder: Path, timed: bool) -> None:
    rules = {"cut": CUT.isoformat(), "timed": True} if timed else {}
    report = Report()
    found = [note.note_id for note in by_patient(_notes(folder, **rules), 0, 1, report)]
    assert found == _expected(timed)
    assert len(found) + sum(report.left_out.values()) == 240
    assert report.left_out["patient held out: test"] == 24


def test_parts_share_the_patients_out_and_change_nothing(folder: Path) -> None:
    whole_report, reports = Report(), Report()
    whole = {d.unit: d.text for d in join_patients(by_patient(_notes(folder), 0, 1, whole_report))}
    parts = [list(join_patients(by_patient(_notes(folder), part, 7, reports))) for part in range(7)]
    assert sum(map(len, parts)) == len(whole) == 27 and sum(map(bool, parts)) > 1
    assert {d.unit: d.text for part in parts for d in part} == whole
    assert [d.unit for part in parts for d in part] == list(whole)
    assert reports.left_out == whole_report.left_out
    for text in (f"text of {row['note_id'][1:].lstrip('0') or 0}" for row in _rows() if row["patient_id"] == "p8"):  # type: ignore[index]
        assert whole["p8"].count(f"{text}\n") + whole["p8"].endswith(text) == 1


def test_headers_say_day_type_and_department() -> None:
    notes = [
        Document("first", "a", note_type="discharge_summary", department="Cardiology", available_time=BEGIN),
        Document("second", "a", note_type="progress", available_time=BEGIN + timedelta(days=12, hours=3)),
        Document("third", "a", note_type="other"),
        Document("alone", "b", place=9, source="notes", note_id="n", note_type="nursing", available_time=CUT),
    ]
    one, other = join_patients(notes)
    assert one.text == (
        "[Day 0: discharge summary, Cardiology]\nfirst\n\n[Day 12: progress]\nsecond\n\n[Day not known: other]\nthird"
    )
    assert other == Document("[Day 0: nursing]\nalone", "b", place=9, source="notes")


def test_refusals(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="part 3 of 3"):
        list(by_patient(_notes(folder), 3, 3, Report()))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/part-00000.parquet").write_bytes(b"no parquet")
    with pytest.raises(ArtefactError, match="cannot be sorted"):
        list(by_patient([EligibleNotes(NoteRules(str(tmp_path)))], 0, 1, Report()))


def _run(*arguments: object) -> int:
    """The command line in this process; its exit status."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr("sys.argv", ["lang1", *map(str, arguments)])
        main()
    return int(ended.value.code or 0)


def test_the_verb_writes_a_document_a_patient_the_same_in_any_units(tmp_path: Path) -> None:
    simulate(tmp_path / "hospital", SimulatorSettings(patients=120, seed=3, workers=1))
    records = next(p for p in (tmp_path / "hospital").iterdir() if (p / "notes").is_dir())
    benchmark = build(records, tmp_path / "benchmark", BuildSettings(tasks=("mortality",), calendar="demo"))
    made = []
    for name, size in (("large", 1 << 25), ("small", 1 << 11)):
        out = tmp_path / name
        settings = ["longitudinal=true", "general={}", "vocab_size=600", f"unit_bytes={size}", "workers=1"]
        assert _run("corpus", records, tmp_path / "benchmark", out, *settings, "cleaning.min_words=3") == 0
        made.append(Corpus.open(out))
    assert made[0].folder.fingerprint == made[1].folder.fingerprint
    corpus, judge = made[0], Benchmark.open(benchmark)
    folds = {row["patient_id"]: row["fold"] for row in judge.folds().to_pylist()}
    cut = judge.pretraining_cut
    charts: dict[str, list[tuple[object, str, str]]] = {}
    for note in pq.read_table(records / "notes").to_pylist():
        time = note["available_time"]
        if folds.get(note["patient_id"]) == "train" and time is not None and (cut is None or time < cut):
            text = clean_note(note["text"])
            if len(text.split()) >= 3:
                charts.setdefault(note["patient_id"], []).append((time, note["note_id"], text))
    source = corpus.sources["notes"]
    texts = [
        corpus.tokenizer.decode(stream.document(i)[:-1])
        for stream in (source.train, source.val)
        for i in range(stream.documents)
    ]
    # Without the headers, exactly the patients' notes in time order; and every note has one header.
    bare = [re.sub(r"(?:^|\n\n)\[Day \d+: [^\]\n]*\]\n", "\0", text).split("\0")[1:] for text in texts]
    assert sorted(bare) == sorted([text for *_, text in sorted(chart)] for chart in charts.values())
    assert max(map(len, bare)) > 3
    assert corpus.folder.manifest.settings["longitudinal"] is True
    about = corpus.folder.manifest.extra["sources"]["notes"]
    assert about["words"] == sum(len(text.split()) for text in texts)
