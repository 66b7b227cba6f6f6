"""A corpus from records: who may enter, what is counted, the same bytes, and the guard against held-out patients."""

import gzip
import json
import lzma
import shutil
from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lang1.common.errors import ArtefactError, InputError, SettingsError
from lang1.common.identity import patient_hash, read_patient_hashes
from lang1.corpus.build import build_corpus
from lang1.corpus.filters import Report
from lang1.corpus.general import SHIPPED, general_files, read_general
from lang1.corpus.guard import check_no_overlap
from lang1.corpus.notes import EligibleNotes, NoteRules
from lang1.corpus.reader import Corpus
from lang1.corpus.settings import Cleaning, CorpusSettings, GeneralSource
from lang1.records.store import CompleteThrough, Records, RecordsMeta, new_records
from lang1.remede.benchmark import Benchmark
from lang1.remede.build import build
from lang1.remede.settings import BuildSettings
from lang1.training.pretrain import pretrain
from lang1.training.settings import PretrainSettings

START = datetime(2014, 1, 1)
PATIENTS = 240
END = datetime(2024, 12, 31, 23, 59)


def note_text(patient: int, marker: str = "admitted") -> str:
    return (
        f"HPI: marker{patient:04d}x {marker} with chest pain, BP {100 + patient % 60}/{60 + patient % 30}, "
        f"creatinine 1.{patient % 10}.\n\nPlan: observe overnight and repeat labs in the morning."
    )


def make_records(
    out: Path, *, prefix: str = "p", seed_days: int = 15, basis: str = "calendar", texts: dict[int, str] | None = None
) -> Path:
    """One stay with an admission note a patient, spread over eleven years, and a late note without a known time."""
    calendar = basis == "calendar"
    rows: dict[str, list[dict[str, object]]] = {"patients": [], "encounters": [], "notes": [], "given_labels": []}
    for i in range(PATIENTS):
        patient, stay = f"{prefix}{i}", f"{prefix}e{i}"
        admit = START + timedelta(days=i * seed_days, hours=9)
        rows["patients"].append({"patient_id": patient, "birth_year": 1950, "sex": "female"})
        rows["encounters"].append(
            {
                "encounter_id": stay,
                "patient_id": patient,
                "encounter_class": "inpatient",
                "admit_time": admit if calendar else None,
                "discharge_time": admit + timedelta(days=3) if calendar else None,
                "disposition": "expired" if i % 7 == 0 else "home",
                "department": "medicine",
                "age_at_admission": 64.0,
                "payer": "medicare",
            }
        )
        rows["given_labels"].append({"encounter_id": stay, "task": "mortality", "value": str(int(i % 7 == 0))})
        text = (texts or {}).get(i, note_text(i))
        for kind, available, words in (
            ("history_and_physical", admit + timedelta(hours=4), text),
            ("progress", None, text.replace("HPI", "Progress")),
        ):
            rows["notes"].append(
                {
                    "note_id": f"{stay}-{kind}",
                    "patient_id": patient,
                    "encounter_id": stay,
                    "note_type": kind,
                    "created_time": available if calendar else None,
                    "signed_time": available if calendar else None,
                    "available_time": available if calendar else None,
                    "text": words,
                }
            )
    if calendar:
        del rows["given_labels"]
    complete = {table: CompleteThrough(through=END, key="admit_time") for table in ("encounters", "notes") if calendar}
    meta = RecordsMeta(system="made", time_basis=basis, complete_through=complete)  # type: ignore[arg-type]
    with new_records(out, meta) as draft:
        for table, content in rows.items():
            half = len(content) // 2
            for part, some in enumerate((content[:half], content[half:])):
                draft.write_part(table, pa.Table.from_pylist(some), part)
    return out


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with records, a benchmark, and a corpus made from them."""
    place = tmp_path_factory.mktemp("site")
    make_records(place / "records")
    build(place / "records", place / "benchmark", BuildSettings(tasks=("mortality",)))
    build_corpus([place / "records"], place / "benchmark", place / "corpus", SMALL)
    return place


SMALL = CorpusSettings(vocab_size=800, general={}, val_share=0.05)


def texts_of(corpus: Corpus, source: str = "notes") -> list[str]:
    found = []
    for stream in (corpus.sources[source].train, corpus.sources[source].val):
        found += [corpus.tokenizer.decode(stream.document(i)[:-1]) for i in range(stream.documents)]
    return found


def test_only_training_patients_notes_from_before_the_cut_enter(site: Path) -> None:
    benchmark, corpus = Benchmark.open(site / "benchmark"), Corpus.open(site / "corpus")
    cut = benchmark.pretraining_cut
    assert cut is not None
    folds = {row["patient_id"]: row["fold"] for row in benchmark.folds().to_pylist()}
    notes = pq.read_table(site / "records" / "notes").to_pylist()
    expected, why = [], Counter[str]()
    for note in notes:
        if folds[note["patient_id"]] != "train":
            why[f"notes: patient held out: {folds[note['patient_id']]}"] += 1
        elif note["available_time"] is None:
            why["notes: availability time unknown"] += 1
        elif note["available_time"] >= cut:
            why["notes: not available before the training cut"] += 1
        else:
            expected.append(note)
    assert sorted(texts_of(corpus)) == sorted(note["text"] for note in expected)
    assert corpus.folder.manifest.left_out == dict(sorted(why.items()))
    assert min(why.values()) > 0 and len(why) == 4
    assert len(expected) + sum(why.values()) == len(notes)
    inside = sorted({patient_hash(note["patient_id"]) for note in expected})
    assert read_patient_hashes(corpus.folder.path).tolist() == inside
    extra = corpus.folder.manifest.extra
    assert extra["cut"] == cut.isoformat() and extra["guarded"] is True
    assert extra["benchmark"]["fingerprint"] == benchmark.folder.fingerprint


def test_the_manifest_says_what_is_inside(site: Path) -> None:
    corpus = Corpus.open(site / "corpus")
    about, source = corpus.folder.manifest.extra["sources"]["notes"], corpus.sources["notes"]
    assert (about["tokens"], about["documents"]) == (source.train.tokens, source.train.documents)
    assert (about["val_tokens"], about["val_documents"]) == (source.val.tokens, source.val.documents)
    texts = texts_of(corpus)
    words = sum(len(text.split()) for text in texts)
    tokens = sum(len(corpus.tokenizer.encode(text)) for text in texts)
    assert about["words"] == words
    assert about["tokens_per_word"] == pytest.approx(tokens / words, abs=1e-4)
    assert source.val.documents >= 1 and corpus.weights == {"notes": 1.0}
    assert corpus.tokenizer.letter_ids(8)


def test_validation_patients_are_not_in_training(tmp_path: Path) -> None:
    make_records(tmp_path / "records", basis="none")
    build(tmp_path / "records", tmp_path / "benchmark", BuildSettings(tasks=("mortality",)))
    settings = SMALL.model_copy(update={"val_share": 0.2})
    build_corpus([tmp_path / "records"], tmp_path / "benchmark", tmp_path / "corpus", settings)
    corpus = Corpus.open(tmp_path / "corpus")
    sides = []
    for stream in (corpus.sources["notes"].train, corpus.sources["notes"].val):
        texts = [corpus.tokenizer.decode(stream.document(i)) for i in range(stream.documents)]
        sides.append({text.partition("marker")[2][:4] for text in texts})
        assert len(texts) == 2 * len(sides[-1])  # both notes of each patient: without times only the fold decides
    assert not sides[0] & sides[1] and 0.1 < len(sides[1]) / sum(map(len, sides)) < 0.3


def test_same_inputs_same_bytes(site: Path, tmp_path: Path) -> None:
    build_corpus([site / "records"], site / "benchmark", tmp_path / "again", SMALL)
    first, second = site / "corpus", tmp_path / "again"
    names = sorted(p.relative_to(first) for p in first.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(second) for p in second.rglob("*") if p.is_file())
    for name in names:
        if name.name != "manifest.json":
            assert (first / name).read_bytes() == (second / name).read_bytes(), name
    assert Corpus.open(first).folder.fingerprint == Corpus.open(second).folder.fingerprint


def test_a_planted_held_out_note_is_refused(site: Path, tmp_path: Path) -> None:
    """A corpus made against another benchmark holds a patient whom this one keeps for its test."""
    build(site / "records", tmp_path / "other", BuildSettings(tasks=("mortality",), salt="another"))
    build_corpus([site / "records"], tmp_path / "other", tmp_path / "corpus", SMALL)
    ours, other = Benchmark.open(site / "benchmark"), Benchmark.open(tmp_path / "other")
    planted = Corpus.open(tmp_path / "corpus").folder
    check_no_overlap(planted, other)
    held_out = {r["patient_id"] for r in ours.folds().to_pylist() if r["fold"] != "train"}
    markers = {f"marker{int(p[1:]):04d}x" for p in held_out}
    assert any(m in text for text in texts_of(Corpus.open(planted.path)) for m in markers)
    with pytest.raises(ArtefactError, match="holds out for evaluation"):
        check_no_overlap(planted, ours)
    check_no_overlap(Corpus.open(site / "corpus").folder, ours)


def test_one_planted_patient_is_enough(site: Path, tmp_path: Path) -> None:
    benchmark = Benchmark.open(site / "benchmark")
    held_out = next(r["patient_id"] for r in benchmark.folds().to_pylist() if r["fold"] == "test")
    make_records(tmp_path / "records", prefix="other", texts={0: note_text(0)})
    plant(tmp_path / "records", held_out)
    settings = SMALL.model_copy(update={"allow_unguarded": True})
    build_corpus([tmp_path / "records"], None, tmp_path / "corpus", settings)
    folder = Corpus.open(tmp_path / "corpus").folder
    with pytest.raises(ArtefactError, match="notes of 1 patients"):
        check_no_overlap(folder, benchmark)
    # The same records beside the benchmark: the planted patient is left out by hash, and counted.
    build_corpus([tmp_path / "records"], site / "benchmark", tmp_path / "careful", settings)
    careful = Corpus.open(tmp_path / "careful").folder
    assert careful.manifest.left_out["notes: patient held out by the benchmark"] == 1
    assert patient_hash(held_out) not in read_patient_hashes(careful.path)
    check_no_overlap(careful, benchmark)


def plant(records: Path, patient: str) -> None:
    """Add one early note of a patient to a records folder."""
    file = records / "notes" / "part-00000.parquet"
    table = pq.read_table(file)
    row = table.slice(0, 1).to_pylist()[0] | {"patient_id": patient, "note_id": "planted"}
    pq.write_table(pa.concat_tables([table, pa.Table.from_pylist([row], schema=table.schema)]), file)


def test_one_planted_note_is_refused_at_every_door(site: Path, tmp_path: Path) -> None:
    """A held-out patient's note in a part file is left out; a split table with it is refused, and training too."""
    shutil.copytree(site / "records", tmp_path / "records")
    folds = {r["patient_id"]: r["fold"] for r in Benchmark.open(site / "benchmark").folds().to_pylist()}
    held_out = next(p for p, fold in folds.items() if fold == "test")
    plant(tmp_path / "records", held_out)
    build_corpus([tmp_path / "records"], site / "benchmark", tmp_path / "corpus", SMALL)
    left_out, before = (Corpus.open(p / "corpus").folder.manifest.left_out for p in (tmp_path, site))
    assert left_out["notes: patient held out: test"] == before["notes: patient held out: test"] + 1
    # The benchmark's split table is changed behind its back: its hashes of held-out patients still know the patient.
    shutil.copytree(site / "benchmark", tmp_path / "benchmark")
    table = pq.read_table(tmp_path / "benchmark" / "splits.parquet")
    moved = ["train" if p == held_out else f for p, f in folds.items()]
    column = table.column_names.index("fold")
    pq.write_table(table.set_column(column, "fold", pa.array(moved)), tmp_path / "benchmark" / "splits.parquet")
    with pytest.raises(ArtefactError):
        build_corpus([tmp_path / "records"], tmp_path / "benchmark", tmp_path / "bad", SMALL)
    assert not (tmp_path / "bad").exists()
    # A corpus that holds the note all the same is no corpus for a model that this benchmark will judge.
    settings = SMALL.model_copy(update={"allow_unguarded": True})
    build_corpus([tmp_path / "records"], None, tmp_path / "careless", settings)
    with pytest.raises(ArtefactError, match="holds out for evaluation"):
        pretrain(tmp_path / "careless", tmp_path / "model", PretrainSettings(), benchmark=site / "benchmark")


@pytest.mark.parametrize("basis", ["within_stay", "shifted"])
def test_without_true_dates_the_fold_alone_decides(site: Path, tmp_path: Path, basis: str) -> None:
    """No cut can be drawn between patients whose times are not true dates; late and untimed notes enter by patient."""
    records = Records.open(site / "records")
    moved = replace(records, meta=records.meta.model_copy(update={"time_basis": basis, "complete_through": {}}))
    benchmark = Benchmark.open(site / "benchmark")
    rules = NoteRules.of(moved, benchmark, True, None)
    assert rules.cut is None and not rules.timed and rules.guarded
    notes, report = EligibleNotes(rules), Report()
    found = [d for f in notes.files for d in notes.read(f, 0, pq.read_metadata(f).num_row_groups, report)]
    assert {d.unit for d in found} == benchmark.training_patients()
    assert set(report.left_out) == {"patient held out: test", "patient held out: val"}


def test_a_corpus_cut_later_or_not_at_all_is_refused(site: Path, tmp_path: Path) -> None:
    benchmark = Benchmark.open(site / "benchmark")
    make_records(tmp_path / "records", prefix="elsewhere")
    settings = SMALL.model_copy(update={"allow_unguarded": True})
    build_corpus([tmp_path / "records"], None, tmp_path / "uncut", settings)
    with pytest.raises(ArtefactError, match="no training cut"):
        check_no_overlap(Corpus.open(tmp_path / "uncut").folder, benchmark)
    folder = Corpus.open(site / "corpus").folder
    later = folder.manifest.model_copy(update={"extra": {**folder.manifest.extra, "cut": "2024-12-01T00:00:00"}})
    with pytest.raises(ArtefactError, match="cut at 2024-12-01"):
        check_no_overlap(type(folder)(folder.path, later), benchmark)


def test_records_need_their_benchmark(site: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="allow_unguarded"):
        build_corpus([site / "records"], None, tmp_path / "c", SMALL)
    make_records(tmp_path / "records", prefix="x")
    with pytest.raises(ArtefactError, match="not made from"):
        build_corpus([tmp_path / "records"], site / "benchmark", tmp_path / "c", SMALL)
    assert not (tmp_path / "c").exists()


def test_note_types_and_cleaning_are_counted(site: Path, tmp_path: Path) -> None:
    awkward = {0: "too short", 1: note_text(1) + " <NA>", 2: note_text(2) + "\n\n\n\n\u2022 naïve \u2014 patient\x00"}
    make_records(tmp_path / "records", texts=awkward)
    settings = SMALL.model_copy(update={"allow_unguarded": True, "note_types": ("history_and_physical",)})
    build_corpus([tmp_path / "records"], None, tmp_path / "corpus", settings)
    corpus = Corpus.open(tmp_path / "corpus")
    assert corpus.folder.manifest.left_out == {
        "notes: holds the placeholder <NA>": 1,
        "notes: note type not asked for": PATIENTS,
        "notes: under 10 words": 1,
    }
    assert note_text(2) + "\n\n- naïve - patient" in texts_of(corpus)
    assert corpus.folder.manifest.counts["cleaning"]["notes"]["drop_malformed"] == {
        "documents_changed": 1,
        "characters_removed": 1,
    }
    plain = settings.model_copy(update={"cleaning": Cleaning(ascii_only=True, min_words=0, placeholders=())})
    build_corpus([tmp_path / "records"], None, tmp_path / "plain", plain)
    corpus = Corpus.open(tmp_path / "plain")
    assert note_text(2) + "\n\n- nave - patient" in texts_of(corpus)
    assert corpus.folder.manifest.counts["cleaning"]["notes"]["drop_non_ascii"]["characters_removed"] == 1
    assert corpus.folder.manifest.left_out == {"notes: note type not asked for": PATIENTS}
    with pytest.raises(InputError, match="letter"):
        build_corpus(
            [tmp_path / "records"], None, tmp_path / "x", settings.model_copy(update={"note_types": ("letter",)})
        )


def test_mixture_and_general_text_of_the_user(site: Path, tmp_path: Path) -> None:
    text = "general text of the user, long enough to be kept by the rule of ten words, number {}"
    place = tmp_path / "texts"
    (place / "deep").mkdir(parents=True)
    lines = [json.dumps({"body": text.format(i)}) for i in range(6)]
    (place / "a.jsonl").write_text("\n".join(lines[:2]) + "\n\n")
    with gzip.open(place / "b.jsonl.gz", "wt") as stream:
        stream.write(lines[2])
    with lzma.open(place / "c.ndjson.xz", "wt") as stream:
        stream.write(lines[3])
    (place / "d.jsonl.zst").write_bytes(pa.compress(lines[4].encode(), codec="zstd", asbytes=True))
    pq.write_table(pa.table({"body": [text.format(5)]}), place / "deep" / "e.parquet")
    (place / "f.txt").write_text(text.format(6))
    (place / "ignored.pdf").write_text("not text")
    settings = SMALL.model_copy(
        update={"general": {"mine": GeneralSource(path=place, text_field="body")}, "weights": {"notes": 3, "mine": 1}}
    )
    build_corpus([site / "records"], site / "benchmark", tmp_path / "corpus", settings)
    corpus = Corpus.open(tmp_path / "corpus")
    assert sorted(texts_of(corpus, "mine")) == [text.format(i) for i in range(7)]
    assert corpus.weights == {"notes": 0.75, "mine": 0.25}
    assert corpus.sources["mine"].val.documents >= 1
    for weights, word in (({"notes": 1}, "mine"), ({"notes": 1, "mine": 1, "web": 1}, "web")):
        with pytest.raises(SettingsError, match=word):
            build_corpus(
                [site / "records"],
                site / "benchmark",
                tmp_path / "x",
                settings.model_copy(update={"weights": weights}),
            )


def test_bad_general_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    for content, word in (
        ('{"text": "fine"}\n{"text": 3}\n', "line 2"),
        ('{"text": "fine"}\nnot json\n', "line 2"),
        ('{"body": "fine"}\n', "found body"),
    ):
        file.write_text(content)
        with pytest.raises(InputError, match=word):
            list(read_general(file, "text"))
    (tmp_path / "b.jsonl.gz").write_bytes(b"no gzip")
    (tmp_path / "c.parquet").write_bytes(b"no parquet")
    (tmp_path / "d.txt").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "e.jsonl.xz").write_bytes(b"no xz")
    (tmp_path / "f.jsonl.zst").write_bytes(b"no zst")
    for name in ("b.jsonl.gz", "c.parquet", "d.txt", "e.jsonl.xz", "f.jsonl.zst"):
        with pytest.raises(InputError, match=name):
            list(read_general(tmp_path / name, "text"))
    with pytest.raises(InputError, match="does not exist"):
        general_files("mine", GeneralSource(path=tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no text"):
        general_files("mine", GeneralSource(path=tmp_path / "empty"))


def test_a_tokenizer_can_be_brought_along(site: Path, tmp_path: Path) -> None:
    ours = Corpus.open(site / "corpus").tokenizer
    settings = SMALL.model_copy(update={"tokenizer": site / "corpus" / "tokenizer", "vocab_size": 4000})
    build_corpus([site / "records"], site / "benchmark", tmp_path / "corpus", settings)
    assert Corpus.open(tmp_path / "corpus").tokenizer.fingerprint == ours.fingerprint
    clash = settings.model_copy(update={"cleaning": Cleaning(ascii_only=True)})
    with pytest.raises(SettingsError, match="ascii_only"):
        build_corpus([site / "records"], site / "benchmark", tmp_path / "x", clash)


def test_shipped_text_is_small_readable_and_credited() -> None:
    files = general_files("general", GeneralSource())
    assert sum(p.stat().st_size for p in SHIPPED.iterdir()) <= 3_000_000
    documents = [text for file in files for text in read_general(file, "text")]
    assert len(documents) > 900 and sum(map(len, documents)) > 11_000_000
    provenance = (SHIPPED / "PROVENANCE.md").read_text()
    assert all(file.name in provenance for file in files)
    assert "CC BY 4.0" in provenance and "OpenStax, Rice University" in provenance


def test_nothing_left_says_why(tmp_path: Path) -> None:
    make_records(tmp_path / "records", texts=dict.fromkeys(range(PATIENTS), "short"))
    settings = SMALL.model_copy(update={"allow_unguarded": True})
    with pytest.raises(InputError, match=r"no text|no document"):
        build_corpus([tmp_path / "records"], None, tmp_path / "corpus", settings)
    assert np.all([not p.name.startswith(".corpus") for p in tmp_path.iterdir()])
