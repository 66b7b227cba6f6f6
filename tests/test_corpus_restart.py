"""A corpus is the same bytes however it was made: many processes, many pieces, stopped and started again."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_corpus_build import make_records, note_text

from lang1.common.artefact import partial_path
from lang1.common.errors import ArtefactError, InputError
from lang1.corpus.build import build_corpus
from lang1.corpus.decontaminate import DecontaminateSettings, _Bounded
from lang1.corpus.general import read_general, row_group_ranges, splits_at
from lang1.corpus.reader import Corpus
from lang1.corpus.settings import CorpusSettings, GeneralSource
from lang1.corpus.tasks import Plan, work_folder
from lang1.corpus.writing import combine, do_task, forget, temporary_name
from lang1.remede.benchmark import Benchmark
from lang1.remede.build import build
from lang1.remede.settings import BuildSettings

WORDS = [
    "the",
    "quick",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "nurse",
    "writes",
    "120/80",
    "37.5",
    "°C",
    "µg",
]


def sentence(draw: random.Random, words: int) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(words))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records, their benchmark, and a folder of general text in every form that is cut into ranges."""
    place = tmp_path_factory.mktemp("site")
    make_records(place / "records")
    build(place / "records", place / "benchmark", BuildSettings(tasks=("mortality",)))
    draw = random.Random(7)
    texts = place / "texts"
    texts.mkdir()
    lines = [json.dumps({"text": sentence(draw, draw.randint(5, 60)), "n": n}) for n in range(300)]
    (texts / "a.jsonl").write_text("\n\n".join(lines[:200]) + "\n")
    (texts / "b.jsonl").write_text("\n".join(lines[200:]))  # no line end at the end of the file
    table = pa.table({"text": [sentence(draw, 30) for _ in range(120)]})
    pq.write_table(table, texts / "c.parquet", row_group_size=25)
    for n in range(5):
        (texts / f"d{n}.txt").write_text(sentence(draw, 40))
    return place


def settings(site: Path, **more: object) -> CorpusSettings:
    general = {"web": GeneralSource(path=site / "texts"), "more": GeneralSource(path=site / "texts" / "a.jsonl")}
    base = {"vocab_size": 600, "general": general, "val_share": 0.05, "shard_tokens": 4000, "workers": 1}
    return CorpusSettings.model_validate(base | more)


def content(folder: Path) -> dict[str, bytes]:
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json"]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def whole(site: Path) -> Path:
    """The corpus as one process makes it, in one piece a file."""
    return build_corpus([site / "records"], site / "benchmark", site / "whole", settings(site))


@pytest.mark.parametrize(("workers", "unit_bytes"), [(1, 700), (3, 5000)])
def test_workers_and_pieces_change_no_byte(
    site: Path, whole: Path, tmp_path: Path, workers: int, unit_bytes: int
) -> None:
    chosen = settings(site, workers=workers, unit_bytes=unit_bytes)
    made = build_corpus([site / "records"], site / "benchmark", tmp_path / "corpus", chosen)
    assert content(made) == content(whole)
    first, second = Corpus.open(whole).folder.manifest, Corpus.open(made).folder.manifest
    assert first.fingerprint == second.fingerprint and first.settings == second.settings
    assert (first.counts, first.left_out, first.extra) == (second.counts, second.left_out, second.extra)
    assert not {"workers", "unit_bytes", "launch"} & set(first.settings)
    assert len(list((whole / "web").glob("tokens-*.bin"))) > 1  # the shards are several, cut where documents end
    assert not partial_path(tmp_path / "corpus").exists()


BODY = """
import sys
from pathlib import Path
from lang1.corpus.build import build_corpus
from lang1.corpus.settings import CorpusSettings
site, out = Path(sys.argv[1]), Path(sys.argv[2])
build_corpus([site / "records"], site / "benchmark", out, CorpusSettings.model_validate_json(sys.argv[3]))
"""


def test_a_relative_path_is_as_good(site: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    build_corpus([site / "records"], site / "benchmark", Path("corpus"), settings(site))
    assert content(tmp_path / "corpus") == content(whole)


def start(site: Path, out: Path, workers: int) -> subprocess.Popen[bytes]:
    chosen = settings(site).model_dump(mode="json") | {"workers": workers, "unit_bytes": 1500}
    command = [sys.executable, "-c", BODY, str(site), str(out), json.dumps(chosen)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def states(out: Path) -> dict[Path, int]:
    """When each finished unit was finished."""
    return {file: file.stat().st_mtime_ns for file in work_folder(out).glob("*/encode/unit-*.json")}


@pytest.mark.slow
def test_killed_at_random_twenty_times(site: Path, whole: Path, tmp_path: Path) -> None:
    """Each run is killed once it has finished a few units more; the last one is left to finish."""
    draw = random.Random(3)
    out = tmp_path / "corpus"
    kills = kept = 0
    while kills < 20:
        before = states(out)
        process = start(site, out, workers=1 + kills % 2)
        more = draw.randint(0, 3)
        wait = draw.random() * 0.01
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            now = states(out)
            if len(now) >= len(before) + more and (more or now or kills == 0):
                time.sleep(wait)
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
        kills += 1
        after = states(out)
        kept += len(before)
        assert all(after.get(file) == moment for file, moment in before.items())  # nothing finished is done again
    assert kills >= 10 and kept > 0
    if not out.exists():
        assert start(site, out, workers=2).wait() == 0
    assert content(out) == content(whole)
    assert not partial_path(out).exists()


def test_work_under_other_settings_is_discarded(site: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "corpus"
    broken = tmp_path / "bad.jsonl"
    broken.write_text('{"text": "fine"}\nnot json\n')
    other = settings(site, cleaning={"min_words": 20})
    general = {**other.general, "zz": GeneralSource(path=broken)}
    with pytest.raises(InputError, match=r"bad\.jsonl line 2"):
        build_corpus([site / "records"], site / "benchmark", out, other.model_copy(update={"general": general}))
    with pytest.raises(InputError, match=r"bad\.jsonl line 2"):  # tokenizer brought along: the units are reached
        build_corpus(
            [site / "records"],
            site / "benchmark",
            out,
            other.model_copy(update={"general": general, "tokenizer": whole / "tokenizer"}),
        )
    assert states(out)
    build_corpus([site / "records"], site / "benchmark", out, settings(site))
    assert content(out) == content(whole)


def test_a_damaged_or_unfinished_unit_is_done_again(site: Path, whole: Path, tmp_path: Path) -> None:
    """A state file without its key, and a temporary file of a run that died, count for nothing."""
    out = tmp_path / "corpus"
    process = start(site, out, workers=1)
    while len(states(out)) < 3 and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    process.wait()
    first = sorted(states(out))[0]
    first.write_text(first.read_text().replace('"key": "', '"key": "0'))
    temporary_name(first.with_suffix(".bin")).write_bytes(b"half")
    build_corpus([site / "records"], site / "benchmark", out, settings(site, unit_bytes=1500))
    assert content(out) == content(whole)


def test_a_task_can_be_done_by_anyone_any_number_of_times(site: Path, tmp_path: Path) -> None:
    out = tmp_path / "corpus"
    chosen = settings(site, launch={"how": "slurm"}, unit_bytes=4000)
    script = build_corpus([site / "records"], site / "benchmark", out, chosen)
    file = script.parent / "plan.json"
    forget()
    tasks = Plan.load(file).stages[-1].tasks
    assert len(tasks) > 5
    with pytest.raises(ArtefactError, match="--stage decontaminate --combine"):
        do_task(file, "encode", "web", 0)
    for _ in range(2):
        combine(file, "decontaminate")
    for _ in range(2):
        for source, unit in reversed(tasks):
            do_task(file, "encode", source, unit)
    moments = states(out)
    assert len(moments) == len(tasks)
    do_task(file, "encode", *tasks[0])
    assert states(out) == moments


@pytest.mark.parametrize("size", [1, 37, 1000, 10_000_000])
def test_ranges_of_a_file_are_the_file(site: Path, size: int) -> None:
    for file in sorted((site / "texts").iterdir()):
        ranges = splits_at(file, size)
        parts = [text for start, stop, _ in ranges for text in read_general(file, "text", start, stop)]
        assert parts == list(read_general(file, "text"))
    assert len(row_group_ranges(site / "texts" / "c.parquet", 1)) == 5


def test_an_error_in_a_range_names_the_line_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": f"line {n}"}) for n in range(50)]
    file.write_text("\n".join([*lines[:37], "not json", *lines[38:]]) + "\n")
    for size in (40, 100, 10_000):
        with pytest.raises(InputError, match="line 38: not a JSON"):
            for start, stop, _ in splits_at(file, size):
                list(read_general(file, "text", start, stop))


def test_general_text_that_holds_the_benchmark_is_left_out(site: Path, tmp_path: Path) -> None:
    benchmark = Benchmark.open(site / "benchmark")
    folds = {row["patient_id"]: row["fold"] for row in benchmark.folds().to_pylist()}
    held_out = next(int(p[1:]) for p, fold in folds.items() if fold == "test")
    trained = next(int(p[1:]) for p, fold in folds.items() if fold == "train")
    question = next(iter(benchmark.questions().values()))
    draw = random.Random(1)
    clean = [sentence(draw, 40) for _ in range(20)]
    planted = [
        f"{clean[0]} {note_text(held_out).upper()} {clean[1]}",
        f"{clean[2]}\n{question}\n{clean[3]}",
    ]
    harmless = " ".join(note_text(held_out).split()[:8])  # fewer than 13 words in a row
    texts = [*clean, planted[0], harmless + " " + clean[4], planted[1], note_text(trained) * 2]
    (tmp_path / "web.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    chosen = CorpusSettings(vocab_size=600, general={"web": GeneralSource(path=tmp_path / "web.jsonl")}, val_share=0)
    build_corpus([site / "records"], site / "benchmark", tmp_path / "corpus", chosen)
    manifest = Corpus.open(tmp_path / "corpus").folder.manifest
    assert manifest.left_out["web: shares 13 words in a row with the benchmark"] >= 2
    stream = Corpus.open(tmp_path / "corpus").sources["web"].train
    inside = [
        Corpus.open(tmp_path / "corpus").tokenizer.decode(stream.document(n)[:-1]) for n in range(stream.documents)
    ]
    assert all(text in inside for text in clean)
    assert not any("HPI" in text and text.isupper() for text in inside)
    assert not any(" ".join(question.split()) in " ".join(text.split()) for text in inside)
    assert harmless + " " + clean[4] in inside
    off = chosen.model_copy(update={"filters": CorpusSettings(filters={"decontaminate": False}).filters})
    build_corpus([site / "records"], site / "benchmark", tmp_path / "all", off)
    assert Corpus.open(tmp_path / "all").sources["web"].train.documents == len(texts)


def test_hashes_are_bounded_by_their_value_not_their_order() -> None:
    values = np.random.default_rng(0).integers(0, 2**63, 5000).astype(np.uint64)
    found = []
    for order in (values, values[::-1]):
        bounded = _Bounded(most=1000)
        for part in np.array_split(order, 7):
            bounded.add(part)
        found.append(bounded.finish())
        assert len(found[-1]) <= 1000 and bounded.step == 8
    assert np.array_equal(*found) and len(found[0]) > 400
    assert DecontaminateSettings().words == 13
