"""Low-rank adapters: exact resume, frozen weights, and folders that peft loads with the same logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_training_runs import Stopper, assert_same_run
from training_world import SHAPE, World, write_benchmark, write_corpus

import lang1.training.finetune as finetuning
from lang1.common.artefact import open_folder, read_json
from lang1.common.errors import SettingsError
from lang1.model.llama import Llama
from lang1.model.store import export_model, load_model
from lang1.training.finetune import finetune
from lang1.training.lora import add_adapters, merged, trainable
from lang1.training.pretrain import pretrain
from lang1.training.settings import FinetuneSettings, LoraSettings, OptimizerSettings, PretrainSettings, SearchSettings

RUN = FinetuneSettings(
    steps=10,
    notes_per_step=8,
    note_budget=32,
    validate_every=5,
    checkpoint_every=3,
    min_cases=1,
    optimizer=OptimizerSettings(lr=0.02, weight_decay=0.02),
    lora=LoraSettings(r=4, dropout=0.2),
    threads=1,
    device="cpu",
    precision="fp32",
)


@pytest.fixture(autouse=True)
def world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetuning, "Benchmark", World)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("m")
    settings = PretrainSettings(
        model=SHAPE, tokens=1024, sequence_length=64, sequences_per_step=4, threads=1, device="cpu", precision="fp32"
    )
    return pretrain(write_corpus(folder / "corpus"), folder / "pretrained", settings)


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmark(tmp_path_factory.mktemp("b") / "benchmark")


def test_adapters_start_at_nothing_and_are_all_that_is_trained(pretrained: Path) -> None:
    model = load_model(pretrained, "cpu").model
    tokens = np.arange(30)[None] + 5
    before = model.logits_of(tokens)
    assert add_adapters(model, LoraSettings(targets=("q_proj", "k_proj", "v_proj", "o_proj", "down_proj")), 1) == 10
    torch.testing.assert_close(model.logits_of(tokens), before, atol=0, rtol=0)
    names = {n.rpartition(".")[2] for n, w in model.named_parameters() if w.requires_grad}
    assert names == {"lora_A", "lora_B"}
    shapes = [w.shape for n, w in model.named_parameters() if n.endswith("lora_A")]
    assert sum(8 * s[1] for s in shapes) < trainable(model) < sum(w.numel() for w in model.parameters()) / 2
    with pytest.raises(SettingsError, match="no linear map 'query'; it has down_proj, gate_proj"):
        add_adapters(load_model(pretrained, "cpu").model, LoraSettings(targets=("query",)), 1)


def test_merged_weights_answer_as_the_adapters_do(pretrained: Path) -> None:
    model = load_model(pretrained, "cpu").model
    add_adapters(model, LoraSettings(r=3, alpha=12, targets=("q_proj", "k_proj", "v_proj", "o_proj", "up_proj")), 1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora" in name:
                weight.normal_(0, 0.1, generator=generator)
    model.eval()
    tokens = np.arange(40)[None] + 3
    found = merged(model, pretrained).logits_of(tokens)
    torch.testing.assert_close(found, model.logits_of(tokens), atol=2e-5, rtol=1e-4)
    assert (found - load_model(pretrained, "cpu").model.logits_of(tokens)).abs().max() > 0.1
    model.train()  # dropout acts on the adapters' input alone, and only here
    assert not torch.allclose(model.logits_of(tokens), found, atol=1e-3)


@pytest.mark.parametrize("kill", [False, True])
def test_a_stopped_run_with_dropout_equals_the_uninterrupted_one(
    tmp_path: Path, pretrained: Path, benchmark: Path, monkeypatch: pytest.MonkeyPatch, kill: bool
) -> None:
    settings = RUN.model_copy(update={"lr_search": SearchSettings(trials=2, steps=2), "tokens_per_pass": 400})
    whole = finetune(pretrained, benchmark, tmp_path / "whole", settings)
    Stopper(monkeypatch, "finetune", [4, 8], kill)
    for _ in range(2):
        with pytest.raises(RuntimeError if kill else KeyboardInterrupt):
            finetune(pretrained, benchmark, tmp_path / "m", settings)
    state = read_json(max((tmp_path / ".m.partial" / "checkpoints").glob("step-*")) / "state.json")
    assert all("lora_" in name or "/step/" in name for name in state["tensors"])
    assert_same_run(finetune(pretrained, benchmark, tmp_path / "m", settings), whole)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_peft_loads_the_adapters_onto_the_exported_start_model(
    tmp_path: Path, pretrained: Path, benchmark: Path, precision: str
) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    out = finetune(pretrained, benchmark, tmp_path / "m", RUN.model_copy(update={"precision": precision, "steps": 30}))
    base = transformers.AutoModelForCausalLM.from_pretrained(export_model(pretrained, tmp_path / "base"))
    theirs = peft.PeftModel.from_pretrained(base, out / "adapter").eval()
    tokens = torch.arange(50)[None] + 4
    with torch.no_grad():
        expected = theirs(tokens, use_cache=False).logits
    ours = load_model(out, "cpu").model.logits_of(tokens)
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=1e-4)
    assert (ours - load_model(pretrained, "cpu").model.logits_of(tokens)).abs().max() > 0.05

    manifest = open_folder(out, "model").manifest
    adapters = load_file(out / "adapter" / "adapter_model.safetensors")
    assert manifest.extra["trainable_parameters"] == sum(t.numel() for t in adapters.values())
    assert manifest.extra["parameters"] == open_folder(pretrained, "model").manifest.extra["parameters"]
    assert manifest.extra["lora"]["r"] == 4
    # What was not adapted is the start model's, bit for bit, though it may have been held in bf16.
    before, after = (load_file(folder / "model.safetensors") for folder in (pretrained, out))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {n for n in before if n.endswith(("q_proj.weight", "v_proj.weight"))}


def test_adapters_learn_what_a_word_shows_in_bf16_too(tmp_path: Path, pretrained: Path, benchmark: Path) -> None:
    settings = RUN.model_copy(
        update={
            "steps": 60,
            "validate_every": 30,
            "precision": "bf16",
            "lora": LoraSettings(targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")),
        }
    )
    score = open_folder(finetune(pretrained, benchmark, tmp_path / "m", settings), "model").manifest.extra
    assert score["validation_score"] > 0.8


def test_frozen_matrices_are_held_in_the_format_of_the_products(pretrained: Path) -> None:
    model = load_model(pretrained, "cpu", torch.bfloat16).model
    add_adapters(model, LoraSettings(), 1)
    assert isinstance(model, Llama)
    assert model.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    assert model.model.norm.weight.dtype == torch.float32
    kept = load_model(pretrained, "cpu", torch.bfloat16).model
    add_adapters(kept, LoraSettings(frozen="fp32"), 1)
    assert {w.dtype for w in kept.parameters()} == {torch.float32}
