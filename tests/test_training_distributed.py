"""Several processes train the model that one trains: gloo on CPUs, started as torchrun starts them."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from process_team import run_team
from safetensors.torch import load_file
from test_training_runs import PRETRAIN, records
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from training_world import write_corpus

from lang1.common.artefact import open_folder, partial_path
from lang1.common.errors import ArtefactError, Lang1Error, SettingsError
from lang1.corpus.order import BatchOrder
from lang1.corpus.reader import Corpus
from lang1.training import checkpoint
from lang1.training.distributed import Processes, processes
from lang1.training.optim import _orthogonal_of_all, orthogonal
from lang1.training.order_log import surviving
from lang1.training.pretrain import Pretraining, pretrain
from lang1.training.settings import PretrainSettings

# Adam divides by the gradient's size: where that is near its eps, rounding in the last bit of a sum shows.
SAME = 3e-6
UNEVEN = {"sequences_per_step": 3, "tokens": 6 * 3 * 64, "tokens_per_pass": 64}


def settings(**changes: Any) -> PretrainSettings:
    return PretrainSettings.model_validate(PRETRAIN.model_dump() | changes)


def train_each(corpus: Path, runs: dict[Path, dict[str, Any]]) -> None:
    for out, changes in runs.items():
        pretrain(corpus, out, settings(**changes))


def train_and_stop(corpus: Path, out: Path, changes: dict[str, Any], when: str, step: int) -> None:
    """SIGTERM to the last process alone, before it computes a pass: of a training step or of a validation."""
    last = os.environ.get("RANK", "0") == str(int(os.environ.get("WORLD_SIZE", "1")) - 1)
    method = {"validation": "validate", "training": "losses"}[when]
    before = getattr(Pretraining, method)

    def stopping(self: Pretraining, at: int) -> Any:
        if last and at == step:
            signal.raise_signal(signal.SIGTERM)
        return before(self, at)

    setattr(Pretraining, method, stopping)
    pretrain(corpus, out, settings(**changes))


def train_ill(corpus: Path, base: Path) -> None:
    """What goes wrong in process 1 alone: a NaN, in another run two, in a third a disk that is full at step 6."""
    second = os.environ["RANK"] == "1"
    losses, write = Pretraining.losses, checkpoint.write_tensors

    def poisoned(self: Pretraining, step: int) -> Iterator[tuple[torch.Tensor, int]]:
        for loss, tokens in losses(self, step):
            yield (loss * float("nan") if second and step in bad else loss), tokens

    Pretraining.losses = poisoned  # type: ignore[method-assign]
    bad = {5}
    pretrain(corpus, base / "poisoned", settings())
    bad = {4, 5}
    pretrain(corpus, base / "gone-back", settings(rollback_after=2, order_log=True))
    Pretraining.losses = losses  # type: ignore[method-assign]

    def full(file: Path, tensors: dict[str, torch.Tensor]) -> str:
        if second and file.parent.name == ".partial-00000006":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, tensors)

    checkpoint.write_tensors = full  # type: ignore[assignment]
    pretrain(corpus, base / "full", settings(keep_checkpoints=True))


def train_each_and_try_muon(corpus: Path, runs: dict[Path, dict[str, Any]]) -> None:
    """Besides: five matrices of seven rows, shared out over all processes, against each of them alone."""
    train_each(corpus, runs)
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    whole = torch.randn(5, 7, 6, generator=torch.Generator().manual_seed(1))
    shared = [distribute_tensor(matrix, mesh, [Shard(0)], src_data_rank=None) for matrix in whole]
    for matrix, mine, rows in zip(whole, _orthogonal_of_all(shared), shared, strict=True):
        alone = distribute_tensor(orthogonal(matrix[None])[0].float(), mesh, [Shard(0)], src_data_rank=None)
        assert torch.equal(mine, alone.to_local()) and mine.shape == rows.to_local().shape


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "corpus")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    base = tmp_path_factory.mktemp("alone")
    muon = {"optimizer": {"kind": "muon", "lr": 0.01}}
    train_each(corpus, {base / "plain": {}, base / "uneven": UNEVEN, base / "muon": muon})
    return base


def assert_alike(one: Path, other: Path, tolerance: float = SAME) -> None:
    a, b = (load_file(run / "model.safetensors") for run in (one, other))
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=tolerance, rtol=0, msg=f"{one.name}: {name}")
    for x, y in zip(records(one), records(other), strict=True):
        assert x.pop("kind") == y.pop("kind") and x == pytest.approx(y, abs=tolerance, rel=tolerance)
    first, second = (open_folder(run, "model").manifest for run in (one, other))
    assert first.counts == second.counts and first.extra["mixture"] == second.extra["mixture"]
    assert (one / "patient_hashes.npy").read_bytes() == (other / "patient_hashes.npy").read_bytes()


def test_two_processes_train_the_same_model_however_it_is_shared_out(tmp_path: Path, corpus: Path, alone: Path) -> None:
    kinds: dict[str, dict[str, Any]] = {
        "grad": {},
        "full": {"shard": "full", "tokens_per_pass": 64},
        "none": {"shard": "none", "watch": {"evaluation": {"at": [0], "samples": {"prompts": ["fever"]}}}},
    }
    muon = {"optimizer": {"kind": "muon", "lr": 0.01}}
    runs = {tmp_path / name: changes for name, changes in kinds.items()}
    assert run_team(2, train_each, corpus, {**runs, tmp_path / "muon": muon}) == ["done", "done"]
    for name in ("grad", "full"):
        assert_alike(tmp_path / name, alone / "plain")
    # Newton-Schulz runs in bf16, whose rounding depends on how many matrices go through together.
    for x, y in zip(records(tmp_path / "muon"), records(alone / "muon"), strict=True):
        assert x.get("loss") == pytest.approx(y.get("loss"), abs=5e-3)


def test_four_processes_train_the_same_model_in_two_replicas_and_with_nothing_to_do_for_one(
    tmp_path: Path, corpus: Path, alone: Path
) -> None:
    runs = {tmp_path / "replicas": {"replicas": 2}, tmp_path / "uneven": UNEVEN}
    assert run_team(4, train_each_and_try_muon, corpus, runs) == ["done"] * 4
    assert_alike(tmp_path / "replicas", alone / "plain")
    assert_alike(tmp_path / "uneven", alone / "uneven")


def test_a_run_goes_on_with_two_one_and_four_processes_and_reads_every_row_once(
    tmp_path: Path, corpus: Path, alone: Path
) -> None:
    out, changes = tmp_path / "m", {"order_log": True}
    assert run_team(2, train_and_stop, corpus, out, changes, "validation", 5) == ["stopped"] * 2
    assert not out.exists()
    assert checkpoint.read_state(partial_path(out) / "checkpoints" / "step-00000005")["processes"] == 2
    assert run_team(1, train_and_stop, corpus, out, changes, "training", 7) == ["stopped"]
    assert run_team(4, train_each, corpus, {out: changes}) == ["done"] * 4
    assert_alike(out, alone / "plain")
    order = BatchOrder(Corpus.open(corpus), None, 64, 4, PRETRAIN.seed)
    read, stream = surviving(out), Corpus.open(corpus).sources["notes"].train
    assert sorted(read) == list(range(12))
    for step, parts in read.items():
        assert sorted(row for part in parts for row in part["rows"]) == list(range(step * 4, step * 4 + 4))
        pieces = sorted((piece for part in parts for piece in part["pieces"]), key=lambda piece: piece[0])
        tokens = [stream.document(number)[first : first + count] for _, _, number, first, count in pieces]
        assert np.array_equal(np.concatenate(tokens), order.step(step)[0].reshape(-1))


def test_what_goes_wrong_in_one_process_is_decided_by_all(tmp_path: Path, corpus: Path) -> None:
    first, second = run_team(2, train_ill, corpus, tmp_path)
    assert open_folder(tmp_path / "poisoned", "model").manifest.counts["skipped_steps"] == {"non-finite": 1}
    (back,) = open_folder(tmp_path / "gone-back", "model").manifest.counts["rollbacks"]
    assert back == {"to": 3, "first": 3, "last": 5, "bad": [4, 5]}
    assert sorted(surviving(tmp_path / "gone-back")) == [0, 1, 2, 6, 7, 8, 9, 10, 11]
    assert first == second and "\n" not in first
    assert "after step 6 cannot be written (No space left on device)" in first
    folder = partial_path(tmp_path / "full") / "checkpoints"
    assert [p.name for p in sorted(folder.glob("step-*"))] == ["step-00000000", "step-00000003"]
    assert run_team(1, train_each, corpus, {tmp_path / "full": {"keep_checkpoints": True}}) == ["done"]


def test_a_process_takes_an_even_stretch_and_says_what_its_environment_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for size in range(1, 6):
        taken = [list(range(10))[Processes(rank, size).mine(10)] for rank in range(size)]
        assert [item for part in taken for item in part] == list(range(10)) and max(map(len, taken)) - min(
            map(len, taken)
        ) <= 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SettingsError, match="RANK, MASTER_ADDR, MASTER_PORT is not set"), processes("cpu", 1):
        pass


def test_alone_an_error_is_its_own() -> None:
    with pytest.raises(ArtefactError, match="of mine"), Processes().together():
        raise ArtefactError("an error of mine")
    assert issubclass(ArtefactError, Lang1Error) and json.dumps(Processes().total([1, 2])) == "[1.0, 2.0]"
