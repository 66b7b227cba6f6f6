"""Finetuning of models from elsewhere: Hugging Face folders of our family, and other architectures through peft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_training_runs import Stopper, assert_same_run
from training_world import OPTIONS, World, write_benchmark, write_corpus

import lang1.training.finetune as finetuning
from lang1.common.artefact import content_fingerprint, open_folder
from lang1.common.errors import ArtefactError, SettingsError
from lang1.corpus.reader import Corpus
from lang1.model.llama import Llama
from lang1.model.store import load_model
from lang1.text.tokenizer import Tokenizer
from lang1.text.tokenizer_training import train_tokenizer
from lang1.training.finetune import finetune
from lang1.training.settings import FinetuneSettings, LoraSettings, OptimizerSettings

transformers = pytest.importorskip("transformers")

RUN = FinetuneSettings(
    steps=6,
    notes_per_step=6,
    note_budget=32,
    validate_every=3,
    checkpoint_every=2,
    min_cases=1,
    optimizer=OptimizerSettings(lr=0.01),
    threads=1,
    device="cpu",
    precision="fp32",
)
MODELS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "llama": (
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48},
        ("q_proj", "v_proj"),
    ),
    "qwen2": (
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "intermediate_size": 48, "tie_word_embeddings": True},
        ("q_proj", "v_proj"),
    ),
    "gpt2": ({"n_embd": 32, "n_layer": 2, "n_head": 4, "resid_pdrop": 0.1}, ("c_attn",)),
}  # fmt: skip


@pytest.fixture(autouse=True)
def world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetuning, "Benchmark", World)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Corpus.open(write_corpus(tmp_path_factory.mktemp("c") / "corpus")).tokenizer


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmark(tmp_path_factory.mktemp("b") / "benchmark")


def published(folder: Path, kind: str, tokenizer: Tokenizer) -> Path:
    """A folder as others publish it: no manifest of ours."""
    torch.manual_seed(2)
    shape = {"vocab_size": tokenizer.vocab_size, "max_position_embeddings": 128, "initializer_range": 0.1}
    config = transformers.AutoConfig.for_model(kind, **{**shape, **MODELS[kind][0]})
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save(folder)
    return folder


@pytest.mark.parametrize("kind", list(MODELS))
def test_adapters_for_any_architecture_load_in_peft_and_resume_exactly(
    tmp_path: Path, tokenizer: Tokenizer, benchmark: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    peft = pytest.importorskip("peft")
    model = published(tmp_path / "theirs", kind, tokenizer)
    lora = LoraSettings(r=4, dropout=0.3, targets=MODELS[kind][1])
    settings = RUN.model_copy(update={"lora": lora, "task_best": True})
    out = finetune(model, benchmark, tmp_path / "m", settings)
    assert isinstance(load_model(out, "cpu").model, Llama) == (kind == "llama")
    tokens = torch.arange(40)[None] + 4
    with torch.no_grad():
        base = transformers.AutoModelForCausalLM.from_pretrained(model)
        before = base(tokens, use_cache=False).logits
        theirs = peft.PeftModel.from_pretrained(base, out / "adapter").eval()(tokens, use_cache=False).logits
        merged = transformers.AutoModelForCausalLM.from_pretrained(out)(tokens, use_cache=False).logits
        ours = load_model(out, "cpu").model.logits_of(tokens)
    torch.testing.assert_close(merged, theirs, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)
    assert (theirs - before).abs().max() > 0.01
    manifest = open_folder(out, "model").manifest
    adapters = load_file(out / "adapter" / "adapter_model.safetensors")
    assert manifest.extra["trainable_parameters"] == sum(t.numel() for t in adapters.values())
    assert manifest.extra["tasks"] == list(OPTIONS)
    assert manifest.inputs["model"].fingerprint == content_fingerprint(model)
    Stopper(monkeypatch, "finetune", [2, 5], kill=True)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            finetune(model, benchmark, tmp_path / "again", settings)
    assert_same_run(finetune(model, benchmark, tmp_path / "again", settings), out)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_all_weights_of_another_architecture_can_be_trained(
    tmp_path: Path, tokenizer: Tokenizer, benchmark: Path, precision: str
) -> None:
    model = published(tmp_path / "theirs", "qwen2", tokenizer)
    settings = RUN.model_copy(update={"precision": precision, "steps": 25, "validate_every": 25})
    out = finetune(model, benchmark, tmp_path / "m", settings)
    extra = open_folder(out, "model").manifest.extra
    assert extra["validation_score"] > 0.6
    assert extra["trainable_parameters"] == extra["parameters"]
    assert transformers.AutoConfig.from_pretrained(out).model_type == "qwen2"


def test_what_does_not_fit_a_model_from_elsewhere_is_said_in_one_line(
    tmp_path: Path, tokenizer: Tokenizer, benchmark: Path
) -> None:
    model = published(tmp_path / "theirs", "gpt2", tokenizer)
    with pytest.raises(SettingsError, match="exceeds the model's context of 128"):
        finetune(model, benchmark, tmp_path / "m", RUN.model_copy(update={"note_budget": 128}))
    wrong = RUN.model_copy(update={"lora": LoraSettings()})
    with pytest.raises(SettingsError, match="no linear map 'q_proj'; it has c_attn, c_fc, c_proj"):
        finetune(model, benchmark, tmp_path / "m", wrong)
    # A tokenizer in which an option letter is no token of its own cannot answer.
    train_tokenizer(["stable fever " * 30], 320, required=["\nAnswer: A"]).save(model)
    with pytest.raises(ArtefactError, match=r"the answer ' [ABC]' is not one token of its own"):
        finetune(model, benchmark, tmp_path / "n", RUN)
