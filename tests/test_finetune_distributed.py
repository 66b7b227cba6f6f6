"""Finetuning in two processes is finetuning in one, though they have unequal numbers of questions and passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from process_team import run_team
from safetensors.torch import load_file
from training_world import SHAPE, World, write_benchmark, write_corpus

import lang1.training.finetune as finetuning
from lang1.common.artefact import open_folder, read_json
from lang1.training.pretrain import pretrain
from lang1.training.settings import FinetuneSettings, PretrainSettings

BASE: dict[str, Any] = {
    "steps": 7,
    "notes_per_step": 5,  # three for one process, two for the other
    "note_budget": 32,
    "tokens_per_pass": 130,  # and unequal numbers of passes
    "note_loss": 0.1,
    "validate_every": 3,
    "checkpoint_every": 4,
    "min_cases": 1,
    "threads": 1,
    "device": "cpu",
    "precision": "fp32",
}
RUNS: dict[str, dict[str, Any]] = {
    "all weights": {
        "shard": "full",
        "task_best": True,
        "task_patience": 2,
        "lr_search": {"trials": 2, "steps": 2, "low": 1e-3, "high": 3e-3, "optuna": False},
    },
    "adapters": {
        "sampling": "questions",
        "questions_per_step": 7,
        "temperature": 2.0,
        "loss": "letters",
        "lora": {"dropout": 0.0, "r": 2},
        "optimizer": {"lr": 0.01},
    },
}


def tune(folder: Path, names: list[str]) -> None:
    finetuning.Benchmark = World  # type: ignore[misc,assignment]
    for name in names:
        settings = FinetuneSettings.model_validate({**BASE, **RUNS[name]})
        finetuning.finetune(folder / "pretrained", folder / "benchmark", folder / f"two {name}", settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("team")
    write_benchmark(folder / "benchmark")
    settings = PretrainSettings(
        model=SHAPE, tokens=1024, sequence_length=64, sequences_per_step=4, threads=1, device="cpu", precision="fp32"
    )
    pretrain(write_corpus(folder / "corpus"), folder / "pretrained", settings)
    assert run_team(2, tune, folder, list(RUNS)) == ["done", "done"]
    return folder


@pytest.mark.parametrize("name", list(RUNS))
def test_two_processes_train_what_one_does(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetuning, "Benchmark", World)
    settings = FinetuneSettings.model_validate({**BASE, **RUNS[name]})
    one = finetuning.finetune(folder / "pretrained", folder / "benchmark", folder / f"one {name}", settings)
    two = folder / f"two {name}"
    assert_same_weights(one, two)
    alone, shared = (open_folder(f, "model").manifest for f in (one, two))
    assert alone.counts == shared.counts
    assert alone.extra["trainable_parameters"] == shared.extra["trainable_parameters"]
    for task, standing in alone.extra["validation_by_task"].items():
        assert shared.extra["validation_by_task"][task] == pytest.approx(standing, abs=1e-6)
    if name == "adapters":
        assert_same_weights(one / "adapter", two / "adapter", "adapter_model.safetensors")
        return
    for task in alone.extra["tasks"]:
        assert_same_weights(one / "best" / task, two / "best" / task)
    for a, b in zip(read_json(one / "lr_search.json"), read_json(two / "lr_search.json"), strict=True):
        assert b == pytest.approx(a, abs=1e-6)


def assert_same_weights(one: Path, other: Path, file: str = "model.safetensors") -> None:
    a, b = load_file(one / file), load_file(other / file)
    assert a.keys() == b.keys()
    for weight, tensor in a.items():
        torch.testing.assert_close(b[weight], tensor, atol=1e-6, rtol=1e-5, msg=lambda m, w=weight: f"{w}: {m}")
