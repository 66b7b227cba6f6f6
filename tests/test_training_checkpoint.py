"""What can happen to a checkpoint: a full disk, a missing part, a signal while one is written; and what it is worth."""

from __future__ import annotations

import errno
import gc
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_training_parts import model_and_optimizers
from test_training_runs import PRETRAIN, assert_same_run
from training_world import write_corpus

from lang1.cli.main import main
from lang1.common.artefact import open_folder, partial_path
from lang1.common.errors import ArtefactError, SettingsError
from lang1.model.store import load_model
from lang1.training import checkpoint
from lang1.training.checkpoint import Checkpoints, open_checkpoint
from lang1.training.housekeeping import collected_by_hand, seed_step
from lang1.training.milestones import export_milestone, milestone_model
from lang1.training.optim import Optimizers
from lang1.training.pretrain import Pretraining, pretrain
from lang1.training.settings import PretrainSettings
from lang1.training.shards import Reader, join, write_tensors

MILESTONES = {"milestone_every": 4, "keep_last": 1, "rollback_after": None}


def settings(**changes: Any) -> PretrainSettings:
    return PretrainSettings.model_validate(PRETRAIN.model_dump() | {"tokens_per_pass": 64} | changes)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "corpus")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    return pretrain(corpus, tmp_path_factory.mktemp("whole") / "m", settings())


def steps_of(out: Path) -> list[int]:
    place = out if out.exists() else partial_path(out)
    return sorted(int(p.name.rpartition("-")[2]) for p in (place / "checkpoints").glob("step-*"))


def failing(error: OSError, after: int) -> Callable[..., str]:
    """A disk that takes half of a file and no more, from so many files on."""
    written = []

    def write(file: Path, tensors: dict[str, torch.Tensor]) -> str:
        digest = write_tensors(file, tensors)
        written.append(file)
        if len(written) > after:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
            raise error
        return digest

    return write


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), PermissionError(errno.EACCES, "Permission denied")]
)
def test_a_disk_that_fails_costs_one_line_and_no_checkpoint(
    tmp_path: Path, corpus: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    monkeypatch.setattr(checkpoint, "write_tensors", failing(error, after=2))
    with pytest.raises(ArtefactError, match=f"after step 6 cannot be written .{error.strerror}") as caught:
        pretrain(corpus, tmp_path / "m", settings())
    assert "\n" not in str(caught.value) and "goes on from step 3" in str(caught.value)
    assert steps_of(tmp_path / "m") == [0, 3]
    monkeypatch.setattr(checkpoint, "write_tensors", write_tensors)
    assert_same_run(pretrain(corpus, tmp_path / "m", settings()), whole)


def test_a_place_that_cannot_be_written_shows_at_once(tmp_path: Path, corpus: Path) -> None:
    partial = partial_path(tmp_path / "m")
    partial.mkdir()
    (partial / "checkpoints").write_text("in the way")
    with pytest.raises(ArtefactError, match="after step 0 cannot be written"):
        pretrain(corpus, tmp_path / "m", settings())


def test_a_part_that_is_missing_or_damaged_is_named_and_the_one_before_is_taken(
    tmp_path: Path, corpus: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop(monkeypatch, "losses", 7)
    with pytest.raises(KeyboardInterrupt):
        pretrain(corpus, tmp_path / "m", settings())
    monkeypatch.undo()
    folder = partial_path(tmp_path / "m") / "checkpoints"
    newest = sorted(folder.glob("step-*"))[-1]
    (newest / "rank-00000.safetensors").unlink()
    assert_same_run(pretrain(corpus, tmp_path / "m", settings()), whole)
    assert "rank-00000.safetensors is missing" in capsys.readouterr().err.replace("\n", "")


def test_another_tokenizer_is_refused_and_free_settings_may_change(
    tmp_path: Path, corpus: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop(monkeypatch, "losses", 7)
    with pytest.raises(KeyboardInterrupt):
        pretrain(corpus, tmp_path / "m", settings())
    monkeypatch.undo()
    file = corpus / "tokenizer" / "tokenizer.json"
    text = file.read_text(encoding="utf-8")
    before = {p: p.read_bytes() for p in partial_path(tmp_path / "m").rglob("*") if p.is_file()}
    try:
        file.write_text(text + "\n", encoding="utf-8")
        with pytest.raises(SettingsError, match="another tokenizer") as caught:
            pretrain(corpus, tmp_path / "m", settings())
    finally:
        file.write_text(text, encoding="utf-8")
    assert "\n" not in str(caught.value)
    after = {p: p.read_bytes() for p in partial_path(tmp_path / "m").rglob("*") if p.is_file()}
    assert {p: b for p, b in after.items() if "checkpoints" in p.parts} == {
        p: b for p, b in before.items() if "checkpoints" in p.parts
    }
    with pytest.raises(SettingsError, match=r"settings\.loss_sigma was 6\.0, now 5\.0"):
        pretrain(corpus, tmp_path / "m", settings(loss_sigma=5.0))
    out = pretrain(corpus, tmp_path / "m", settings(checkpoint_every=2, keep_last=3, shard="full", gc_every=1))
    one, other = (load_file(run / "model.safetensors") for run in (out, whole))
    assert all(torch.equal(one[name], other[name]) for name in one)


def stop(monkeypatch: pytest.MonkeyPatch, method: str, step: int, after_passes: int = 0) -> None:
    """SIGTERM at a step, before a validation or after some passes of a training step."""
    before = getattr(Pretraining, method)

    def stopping(self: Pretraining, at: int) -> Any:
        if at != step:
            return before(self, at)
        if method == "validate":
            signal.raise_signal(signal.SIGTERM)
            return before(self, at)
        return passes(before(self, at))

    def passes(parts: Any) -> Any:
        for number, part in enumerate(parts):
            if number == after_passes:
                signal.raise_signal(signal.SIGTERM)
            yield part

    monkeypatch.setattr(Pretraining, method, stopping)


@pytest.mark.parametrize(("method", "step", "stands"), [("validate", 5, 5), ("losses", 0, 0), ("losses", 7, 7)])
def test_a_signal_in_validation_in_the_first_step_or_between_passes_is_obeyed_at_once(
    tmp_path: Path, corpus: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, method: str, step: int, stands: int
) -> None:
    passed = []
    loss = Pretraining._loss
    monkeypatch.setattr(Pretraining, "_loss", lambda *args: (passed.append(1), loss(*args))[1])
    stop(monkeypatch, method, step, after_passes=1)
    with pytest.raises(KeyboardInterrupt):
        pretrain(corpus, tmp_path / "m", settings())
    # Four passes a step and a validation; one of the validation was asked for, of the step not all.
    assert len(passed) <= step * 4 + (4 if step > 5 else 0) + (1 if method == "validate" else 3)
    assert steps_of(tmp_path / "m")[-1] == stands
    monkeypatch.undo()
    assert_same_run(pretrain(corpus, tmp_path / "m", settings()), whole)


def test_a_signal_while_a_checkpoint_is_written_leaves_it_whole(
    tmp_path: Path, corpus: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(file: Path, tensors: dict[str, torch.Tensor]) -> str:
        time.sleep(0.2)
        return write_tensors(file, tensors)

    save = Checkpoints.save

    def interrupted(self: Checkpoints, step: int, *args: Any) -> None:
        save(self, step, *args)
        if step == 6 and not (self.folder / "step-00000006").exists():
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(checkpoint, "write_tensors", slow)
    monkeypatch.setattr(Checkpoints, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain(corpus, tmp_path / "m", settings())
    folder = partial_path(tmp_path / "m") / "checkpoints"
    assert open_checkpoint(folder / "step-00000006").step == 6 and not list(folder.glob(".partial-*"))
    monkeypatch.undo()
    assert_same_run(pretrain(corpus, tmp_path / "m", settings()), whole)


def test_milestones_stay_and_can_be_used_as_models(
    tmp_path: Path, corpus: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = pretrain(corpus, tmp_path / "m", settings(**MILESTONES))
    assert steps_of(out) == [4, 8, 12] and not (whole / "checkpoints").exists()
    assert open_folder(out, "model").fingerprint == open_folder(whole, "model").fingerprint
    monkeypatch.setattr("sys.argv", ["lang1", "export", str(out), str(tmp_path / "e"), "--step", "12"])
    with pytest.raises(SystemExit, match="0"):
        main()
    one, other = (load_file(run / "model.safetensors") for run in (tmp_path / "e", out))
    assert all(torch.equal(one[name], other[name]) for name in one | other)
    assert "checkpoint after step 12" in (tmp_path / "e" / "README.md").read_text(encoding="utf-8")
    export_milestone(out, 4, tmp_path / "at-4")
    loaded = load_model(tmp_path / "at-4", "cpu")
    early = open_checkpoint(out / "checkpoints" / "step-00000004").tensors
    assert torch.equal(loaded.model.head_weight, early.rows("model/lm_head.weight"))
    with pytest.raises(ArtefactError, match="no checkpoint after step 5; there are steps 4, 8, 12"):
        export_milestone(out, 5, tmp_path / "no")
    with pytest.raises(ArtefactError, match="exists already"):
        export_milestone(out, 4, tmp_path / "at-4")


def test_a_milestone_is_a_model_to_start_from_that_keeps_what_the_run_says_of_patients(
    tmp_path: Path, corpus: Path
) -> None:
    out = pretrain(corpus, tmp_path / "m", settings(**MILESTONES))
    whole = open_folder(out, "model")
    made = open_folder(milestone_model(out, 4, tmp_path / "at-4"), "model")
    assert (made.path / "patient_hashes.npy").read_bytes() == (out / "patient_hashes.npy").read_bytes()
    assert made.manifest.inputs["model"].fingerprint == whole.fingerprint
    extra, last = made.manifest.extra, whole.manifest.extra
    for name in ("stage", "name", "parameters", "tasks", "cut"):
        assert extra[name] == last[name]
    assert extra["tokens_seen"] == made.manifest.counts["tokens"] == last["tokens_seen"] // 3  # four of twelve steps
    assert extra["cost"]["tokens"] == extra["tokens_seen"] and extra["cost"]["seconds"] <= last["cost"]["seconds"]
    early = open_checkpoint(out / "checkpoints" / "step-00000004").tensors
    assert torch.equal(load_model(made.path, "cpu").model.head_weight, early.rows("model/lm_head.weight"))
    with pytest.raises(ArtefactError, match="no checkpoint after step 5"):
        milestone_model(out, 5, tmp_path / "no")
    with pytest.raises(ArtefactError, match=r"unfinished one is there|does not exist"):
        milestone_model(tmp_path / "nowhere", 4, tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_the_newest_the_milestones_and_one_to_go_back_to_stay(tmp_path: Path) -> None:
    model, optimizers = model_and_optimizers()
    checkpoints = Checkpoints(tmp_path, {}, keep=2, milestone_every=5, spare=4)
    for step in range(13):
        checkpoints.save(step, model, optimizers, {})
        checkpoints.finish()
        there = steps_of_folder(checkpoints.folder)
        assert there[-2:] == [max(0, step - 1), step][-len(there) :]
        assert any(step - 8 <= old <= step - 4 for old in there) or step < 4
        assert {5, 10} & set(range(step + 1)) <= set(there) and len(there) <= 6
    back = checkpoints.latest(before=9)
    assert back is not None and back.step == 9
    checkpoints.save(9, model, optimizers, {})  # gone back: what came after is of a stretch that is no more
    checkpoints.drop(keep_last=True)
    assert steps_of_folder(checkpoints.folder) == [5, 9]


def steps_of_folder(folder: Path) -> list[int]:
    return sorted(int(p.name.rpartition("-")[2]) for p in folder.glob("step-*"))


def test_rows_written_by_any_number_of_processes_are_read_by_any_other(tmp_path: Path) -> None:
    whole = {"model/w": torch.randn(7, 3), "optimizer/step/w": torch.tensor(3.0), "best/b": torch.randn(5).bfloat16()}
    cuts = [0, 3, 6, 7]
    held = {}
    for rank in range(3):
        part = {"model/w": whole["model/w"][cuts[rank] : cuts[rank + 1]]}
        about = {"model/w": {"shape": [7, 3], "rows": [cuts[rank], cuts[rank + 1] - cuts[rank]]}}
        if rank == 0:
            part |= {k: whole[k] for k in ("optimizer/step/w", "best/b")}
            about |= {"optimizer/step/w": {"shape": [], "rows": [0, 1]}, "best/b": {"shape": [5], "rows": [0, 5]}}
        file = tmp_path / f"{rank}.safetensors"
        write_tensors(file, {k: v.contiguous() for k, v in part.items()})
        assert {k: v.tolist() for k, v in load_file(file).items()} == {k: v.tolist() for k, v in part.items()}
        held[file.name] = about
    reader = Reader(tmp_path, json.loads(json.dumps(join(held))))
    assert reader.names("optimizer") == ["step/w"]
    for name, tensor in whole.items():
        assert torch.equal(reader.rows(name), tensor)
    for first in range(8):
        for count in range(8 - first):
            assert torch.equal(reader.rows("model/w", first, count), whole["model/w"][first : first + count])
    del held["1.safetensors"]
    with pytest.raises(ArtefactError, match="row 3 of 'model/w'"):
        join(held)


def test_collection_is_by_hand_and_random_state_a_function_of_the_step() -> None:
    assert gc.isenabled()
    with collected_by_hand():
        assert not gc.isenabled()
    assert gc.isenabled()
    drawn = []
    for seed, step, rank in ((1, 5, 0), (1, 5, 0), (1, 6, 0), (1, 5, 1), (2, 5, 0)):
        seed_step(seed, step, rank)
        drawn.append(float(torch.rand(())))
    assert drawn[0] == drawn[1] and len(set(drawn)) == 4


def test_state_of_another_model_is_refused(tmp_path: Path) -> None:
    model, optimizers = model_and_optimizers()
    checkpoints = Checkpoints(tmp_path, {})
    checkpoints.save(1, model, optimizers, {})
    checkpoints.finish()
    found = checkpoints.latest()
    assert found is not None
    model.lm_head = torch.nn.Linear(2, 2, bias=False)  # type: ignore[assignment]
    with pytest.raises(ArtefactError, match=r"lm_head.weight' has shape \[40, 16\], this model's is \[2, 2\]"):
        found.load(model, None)
    model.extra = torch.nn.Linear(2, 2)
    with pytest.raises(ArtefactError, match="not of this model"):
        found.load(model, Optimizers(model, PRETRAIN.optimizer))
