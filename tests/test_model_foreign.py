"""Architectures that transformers runs: blocks kept apart, questions that share a note, gradients, saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lang1.common.artefact import open_folder
from lang1.common.errors import ArtefactError
from lang1.model.foreign import Foreign
from lang1.model.importing import ImportSettings, import_model
from lang1.model.layout import build_layout
from lang1.model.store import export_model, load_model
from lang1.text.tokenizer import Tokenizer
from lang1.text.tokenizer_training import train_tokenizer
from lang1.training.loss import linear_cross_entropy

transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**SMALL, "num_key_value_heads": 2, "head_dim": 8}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt_neox": SMALL,
    "qwen2": {**GROUPED, "tie_word_embeddings": True},
    "qwen3": GROUPED,
    "gemma": GROUPED,
    "gemma3_text": {**GROUPED, "sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]},
    "phi": SMALL,
    "opt": {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "dropout": 0.1},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    # A Llama that our own family does not have.
    "llama": {**GROUPED, "attention_bias": True},
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(
        ["The patient is 71 years old and short of breath. A. no B. yes"] * 20,
        400,
        required=["\nAnswer: A B C D E F G H", "Pt c/o CP x3d, BP 120/80 (L arm); Na 135, T 98.6 F. #1 CHF:\n- K+"],
    )


def source(folder: Path, kind: str, changes: dict[str, Any], tokenizer: Tokenizer) -> Any:
    base = {
        "vocab_size": tokenizer.vocab_size,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
        "init_std": 0.2,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    torch.manual_seed(1)
    config = transformers.AutoConfig.for_model(kind, **{**base, **changes})
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for name, weight in model.named_parameters():  # biases and norms are not random from the start
        if weight.dim() == 1 and "norm" not in name:
            torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder)
    tokenizer.save(folder)
    return model


def logits_alone(model: Any, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.tensor([tokens]), use_cache=False).logits[0]
    return found


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_packed_documents_and_shared_notes_are_as_if_alone(tmp_path: Path, tokenizer: Tokenizer, kind: str) -> None:
    theirs = source(tmp_path / "m", kind, ARCHITECTURES[kind], tokenizer)
    ours = load_model(tmp_path / "m", "cpu").model
    assert isinstance(ours, Foreign) and ours.architecture == kind and len(ours.layers) == 2
    assert ours.parameter_count == sum(p.numel() for p in theirs.parameters())
    rng = np.random.default_rng(0)
    note, first, second, document = (list(rng.integers(0, tokenizer.vocab_size, n)) for n in (12, 7, 4, 20))
    tokens = torch.tensor([*document, *note, *first, *second])
    positions = np.concatenate([np.arange(20), np.arange(19), 12 + np.arange(4)])
    branch = np.array([0] * 32 + [1] * 7 + [2] * 4)
    layout = build_layout([20, 23], positions, branch)
    found = ours.logits(ours(tokens, layout)).detach()
    expected = torch.cat(
        [
            logits_alone(theirs, document),
            logits_alone(theirs, note + first),
            logits_alone(theirs, note + second)[-4:],
        ]
    )
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    read = torch.tensor([38, 42])
    torch.testing.assert_close(ours.logits(ours(tokens, layout, read)), found[read], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["gpt_neox", "phi"])
def test_gradients_are_those_of_transformers(tmp_path: Path, tokenizer: Tokenizer, kind: str) -> None:
    theirs = source(tmp_path / "m", kind, ARCHITECTURES[kind], tokenizer)
    ours = load_model(tmp_path / "m", "cpu").model
    assert isinstance(ours, Foreign)
    ours.train()
    ours.checkpointing = "layer"
    tokens = torch.arange(16) * 5 % tokenizer.vocab_size
    hidden = ours(tokens, build_layout([16]), torch.arange(15))
    linear_cross_entropy(hidden, ours.head_weight, tokens[1:], torch.full((15,), 1 / 15)).backward()  # type: ignore[no-untyped-call]
    theirs(tokens[None], labels=tokens[None], use_cache=False).loss.backward()
    for (name, a), (_, b) in zip(ours.inner.named_parameters(), theirs.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("kind", ["qwen2", "opt"])
def test_an_imported_model_is_saved_and_exported_whole(tmp_path: Path, tokenizer: Tokenizer, kind: str) -> None:
    theirs = source(tmp_path / "m", kind, ARCHITECTURES[kind], tokenizer)
    import_model(tmp_path / "m", tmp_path / "ours", ImportSettings(name="site-a"))
    extra = open_folder(tmp_path / "ours", "model").manifest.extra
    assert extra["architecture"] == kind and extra["name"] == "site-a"
    assert load_model(tmp_path / "ours", "cpu").model.name == "site-a"
    export_model(tmp_path / "ours", tmp_path / "out", torch.bfloat16)
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert back.dtype == torch.bfloat16
    for (name, a), (_, b) in zip(back.named_parameters(), theirs.named_parameters(), strict=True):
        assert torch.equal(a, b.to(torch.bfloat16)), name


def test_bf16_stays_near_fp32(tmp_path: Path, tokenizer: Tokenizer) -> None:
    source(tmp_path / "m", "gpt_neox", SMALL, tokenizer)
    tokens = np.arange(20)[None]
    with torch.no_grad():
        exact, rough = (
            load_model(tmp_path / "m", "cpu", d).model.logits_of(tokens) for d in (torch.float32, torch.bfloat16)
        )
    assert torch.nn.functional.cosine_similarity(exact.flatten(), rough.flatten(), dim=0) > 0.999


def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path, tokenizer: Tokenizer) -> None:
    source(tmp_path / "capped", "gemma2", {**GROUPED, "final_logit_softcapping": 30.0}, tokenizer)
    with pytest.raises(ArtefactError, match="final_logit_softcapping"):
        load_model(tmp_path / "capped", "cpu")
    stretched = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 32}
    source(tmp_path / "stretched", "llama", {**GROUPED, "rope_parameters": stretched}, tokenizer)
    with pytest.raises(ArtefactError, match="longest text of a batch"):
        load_model(tmp_path / "stretched", "cpu")
    local = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]}
    source(tmp_path / "local", "gpt_neo", local, tokenizer)
    with pytest.raises(ArtefactError, match="local attention"):
        load_model(tmp_path / "local", "cpu")
    source(tmp_path / "states", "mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}, tokenizer)
    with pytest.raises(ArtefactError, match="linear_attention"):
        load_model(tmp_path / "states", "cpu")
    source(tmp_path / "alibi", "bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}, tokenizer)
    with pytest.raises(ArtefactError, match="bloom architecture"):
        load_model(tmp_path / "alibi", "cpu")
    source(tmp_path / "m", "gpt_neox", SMALL, tokenizer)
    config = (tmp_path / "m" / "config.json").read_text()
    (tmp_path / "m" / "config.json").write_text(config.replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))
    with pytest.raises(ArtefactError, match="is missing"):
        load_model(tmp_path / "m", "cpu")


def test_a_foreign_model_goes_through_pretraining_and_finetuning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPT-NeoX is imported, trained on with a corpus in its tokenizer, and learns what a word of a note shows."""
    from training_world import World, write_benchmark, write_corpus

    from lang1.training import finetune as finetuning
    from lang1.training.pretrain import PretrainSettings, pretrain
    from lang1.training.settings import FinetuneSettings, OptimizerSettings

    monkeypatch.setattr(finetuning, "Benchmark", World)
    corpus = write_corpus(tmp_path / "corpus")
    source(tmp_path / "hf", "gpt_neox", {**SMALL, "max_position_embeddings": 128}, Tokenizer.load(corpus / "tokenizer"))
    start = import_model(tmp_path / "hf", tmp_path / "start", ImportSettings(options=3))
    run = {"threads": 1, "device": "cpu", "precision": "fp32", "optimizer": OptimizerSettings(lr=6e-3)}
    sizes = {"tokens": 4_000, "sequence_length": 64, "sequences_per_step": 4}
    further = pretrain(corpus, tmp_path / "further", PretrainSettings(**sizes, **run), start=start)
    tuned = finetuning.finetune(
        further,
        write_benchmark(tmp_path / "benchmark"),
        tmp_path / "tuned",
        FinetuneSettings(steps=50, notes_per_step=16, note_budget=64, validate_every=25, **run),
    )
    extra = open_folder(tuned, "model").manifest.extra
    assert extra["validation_score"] > 0.8 and extra["parameters"] == load_model(tuned, "cpu").model.parameter_count
    assert transformers.AutoModelForCausalLM.from_pretrained(tuned).config.model_type == "gpt_neox"
