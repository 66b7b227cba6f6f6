"""Watching a run: the log, who sees it, and evaluations on the way."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from training_world import SHAPE, write_corpus

from lang1.common.errors import ArtefactError
from lang1.model.decoder import Decoder
from lang1.text.tokenizer import Tokenizer
from lang1.training.loop import METRICS
from lang1.training.pretrain import pretrain
from lang1.training.settings import EvaluationSettings, PretrainSettings, WatchSettings
from lang1.training.watch import RunLog, Stopped, cut_log

SETTINGS = PretrainSettings(
    model=SHAPE,
    tokens=8 * 4 * 64,
    sequence_length=64,
    sequences_per_step=4,
    validate_every=4,
    validation_tokens=256,
    checkpoint_every=3,
    log_every=2,
    threads=1,
    device="cpu",
    precision="fp32",
    watch=WatchSettings(evaluation=EvaluationSettings(every=3, at=(0,))),
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "corpus")


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / METRICS).open()]


class Seen:
    def __init__(self, fail_at: int | None = None) -> None:
        self.records: list[Mapping[str, Any]] = []
        self.closed = 0
        self.fail_at = fail_at

    def log(self, record: Mapping[str, Any]) -> None:
        if len(self.records) == self.fail_at:
            raise OSError("the server is gone")
        self.records.append(record)

    def close(self) -> None:
        self.closed += 1


class Probe:
    """An evaluation that counts how often it was asked, and is stopped in the middle where told."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.steps: list[int] = []
        self.stop_at = stop_at

    def __call__(self, model: Decoder, tokenizer: Tokenizer, folder: Path) -> Probe.Run:
        assert folder.is_dir() and tokenizer.vocab_size == model.vocab_size
        return Probe.Run(self)

    class Run:
        def __init__(self, probe: Probe) -> None:
            self.probe = probe

        def __call__(self, step: int, should_stop: Callable[[], bool]) -> dict[str, float]:
            assert not should_stop()
            if step == self.probe.stop_at:
                self.probe.stop_at = None
                signal.raise_signal(signal.SIGTERM)
                if should_stop():
                    raise Stopped
            self.probe.steps.append(step)
            return {"auroc/readmission": 0.5 + step / 100}


def test_watchers_see_what_the_log_holds_and_evaluations_come_at_their_steps(tmp_path: Path, corpus: Path) -> None:
    seen, probe = Seen(), Probe()
    records = log_of(pretrain(corpus, tmp_path / "m", SETTINGS, watchers=[seen], evaluate=probe))
    assert seen.records == records and seen.closed == 1
    assert probe.steps == [0, 3, 6, 8]
    kinds = [(r["kind"], r["step"]) for r in records]
    assert kinds[:2] == [("start", 0), ("eval", 0)] and kinds[-3:] == [("train", 8), ("val", 8), ("eval", 8)]
    start = records[0]
    assert start["steps"] == 8 and start["settings"]["sequence_length"] == 64 and start["parameters"] > 0
    assert start["watch"]["evaluation"]["every"] == 3 and "watch" not in start["settings"]
    train = [r for r in records if r["kind"] == "train"]
    for record in train:
        assert 0 < record["tokens_per_second"] <= record["padded_per_second"]
        assert "mfu" not in record and record["peak_memory_gib"] > 0  # a CPU has no peak
        assert record["lr"] == pytest.approx(SETTINGS.optimizer.lr * record["lr_factor"])
        shares = [v for k, v in record.items() if k.startswith("share/")]
        assert shares == [1.0]  # one source
    assert [r["tokens"] for r in train] == [512, 1024, 1536, 2048]


def test_a_watcher_that_fails_ends_no_training(
    tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen, failing = Seen(), Seen(fail_at=2)
    out = pretrain(corpus, tmp_path / "m", SETTINGS, watchers=[failing, seen])
    assert len(failing.records) == 2 and failing.closed == 0
    records = log_of(out)
    noted = [r for r in records if r["kind"] == "tracker"]
    assert seen.records == [r for r in records if r["kind"] != "tracker"] and len(seen.records) > 4
    assert [(r["failed"], r["error"]) for r in noted] == [("Seen", "OSError: the server is gone")]
    assert " ".join(capsys.readouterr().err.split()).count("the server is gone") == 1


def test_evaluation_changes_nothing_and_one_that_was_stopped_is_done_on_resume(tmp_path: Path, corpus: Path) -> None:
    plain = SETTINGS.model_copy(update={"watch": WatchSettings()})
    unwatched = pretrain(corpus, tmp_path / "plain", plain)
    for stop_at in (0, 3, 8):
        out = tmp_path / f"m{stop_at}"
        probe = Probe(stop_at)
        with pytest.raises(KeyboardInterrupt):
            pretrain(corpus, out, SETTINGS, evaluate=probe)
        assert not out.exists()
        pretrain(corpus, out, SETTINGS, evaluate=probe)
        assert probe.steps == [0, 3, 6, 8]
        assert (out / "model.safetensors").read_bytes() == (unwatched / "model.safetensors").read_bytes()
        found = [(r["kind"], r["step"]) for r in log_of(out) if r["kind"] != "train"]
        assert [f for f in found if f[0] == "eval"] == [("eval", s) for s in (0, 3, 6, 8)]
        assert [f for f in found if f[0] == "start"] == [("start", 0), ("start", stop_at)]


def test_a_run_goes_on_under_another_watch(tmp_path: Path, corpus: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        pretrain(corpus, tmp_path / "m", SETTINGS, evaluate=Probe(3))
    other = SETTINGS.model_copy(update={"watch": WatchSettings(evaluation=EvaluationSettings(at=(5,)))})
    probe = Probe()
    pretrain(corpus, tmp_path / "m", other, evaluate=probe)
    assert probe.steps == [5, 8]


def test_numbers_that_are_none_are_written_as_null(tmp_path: Path) -> None:
    with RunLog(tmp_path / "log.jsonl") as log:
        log.write({"loss": float("nan"), "by": {"x": float("inf"), "y": [1.5, float("-inf")]}})
    assert (tmp_path / "log.jsonl").read_text() == '{"loss": null, "by": {"x": null, "y": [1.5, null]}}\n'


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    with (
        pytest.raises(ArtefactError, match=r"No space left on device.*go on from the last checkpoint"),
        RunLog(full) as log,
    ):
        log.write({"kind": "train", "step": 1})


def test_cutting_a_log_keeps_whole_records_up_to_a_step(tmp_path: Path) -> None:
    file = tmp_path / "samples.jsonl"
    lines = [json.dumps({"step": s, "text": "a\u2028b\x85c"}, ensure_ascii=False) for s in (1, 2, 3)]
    file.write_text("\n".join([*lines, '{"step": 2, "te']), encoding="utf-8")
    cut_log(file, 2)
    assert file.read_text(encoding="utf-8").split("\n") == [*lines[:2], ""]
