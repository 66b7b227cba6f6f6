"""Parity with an independent Llama, both ways, and what a damaged folder says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lang1.common.errors import ArtefactError, SettingsError
from lang1.model.config import PRESETS, ModelSettings, preset
from lang1.model.llama import Llama
from lang1.model.store import export_model, load_model, save_model
from lang1.text.tokenizer import Tokenizer
from lang1.text.tokenizer_training import train_tokenizer

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(
        ["The patient is 71 years old and short of breath. A. no B. yes"] * 20, 400, required=["\nAnswer: A B C"]
    )


def shape(tokenizer: Tokenizer, tied: bool = False, kv_heads: int = 2) -> ModelSettings:
    return ModelSettings(
        name="tiny",
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        layers=3,
        heads=4,
        kv_heads=kv_heads,
        head_dim=16,
        intermediate_size=48,
        context=64,
        tied=tied,
        init_std=0.2,
    )


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_export_loads_in_transformers_with_equal_logits(
    tmp_path: Path, tokenizer: Tokenizer, tied: bool, kv_heads: int
) -> None:
    model = Llama(shape(tokenizer, tied, kv_heads))
    model.initialise(3)
    save_model(tmp_path / "ours", model, tokenizer)
    export_model(tmp_path / "ours", tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokens = torch.randint(0, tokenizer.vocab_size, (2, 40))
    with torch.no_grad():
        expected = theirs(tokens, use_cache=False).logits
        torch.testing.assert_close(model.logits_of(tokens), expected, atol=2e-5, rtol=1e-4)
    text = "The patient is 71 years old.\n\nQuestion: ?\nAnswer: B"
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert their_tokenizer(text)["input_ids"] == tokenizer.encode(text)
    assert "tiny" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("tied", [False, True])
def test_a_transformers_model_loads_with_equal_logits(tmp_path: Path, tokenizer: Tokenizer, tied: bool) -> None:
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=3,
        tie_word_embeddings=tied,
        initializer_range=0.2,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
    )
    theirs = transformers.LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    tokenizer.save(tmp_path / "theirs")
    ours = load_model(tmp_path / "theirs", device="cpu")
    tokens = torch.randint(0, tokenizer.vocab_size, (2, 40))
    with torch.no_grad():
        expected = theirs(tokens, use_cache=False).logits
        torch.testing.assert_close(ours.model.logits_of(tokens), expected, atol=2e-5, rtol=1e-4)
    assert isinstance(ours.model, Llama)
    assert ours.model.settings.tied is tied and ours.model.settings.rope_base == 5000.0


def test_saved_and_loaded_weights_are_the_same_bits(tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = Llama(shape(tokenizer))
    model.initialise(4)
    save_model(tmp_path / "m", model, tokenizer)
    loaded = load_model(tmp_path / "m", device="cpu")
    for (name, before), (_, after) in zip(model.named_parameters(), loaded.model.named_parameters(), strict=True):
        assert torch.equal(before, after), name
    assert isinstance(loaded.model, Llama) and loaded.model.settings == model.settings


def test_damage_is_named_in_one_line(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = tmp_path / "m"
    model = Llama(shape(tokenizer))
    model.initialise(5)
    save_model(folder, model, tokenizer)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    config = json.loads((folder / "config.json").read_text())

    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtefactError, match=r"model\.safetensors is damaged"):
        load_model(folder)
    weights.write_bytes(b"not safetensors at all")
    with pytest.raises(ArtefactError, match=r"model\.safetensors is damaged"):
        load_model(folder)
    weights.write_bytes(whole)

    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    with pytest.raises(ArtefactError, match="has shape"):
        load_model(folder)
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "nonsense"}))
    with pytest.raises(ArtefactError, match="model_type"):
        load_model(folder)
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 100}))
    with pytest.raises(ArtefactError, match="the tokenizer knows"):
        load_model(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ArtefactError, match="not valid JSON"):
        load_model(folder)
    weights.unlink()
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtefactError, match="is missing; only safetensors"):
        load_model(folder)


def counted(s: ModelSettings) -> int:
    """Weights of a Llama, by arithmetic."""
    attention = s.hidden_size * s.head_dim * (2 * s.heads + 2 * s.kv_heads)
    layer = attention + 3 * s.hidden_size * s.intermediate_size + 2 * s.hidden_size
    return s.layers * layer + s.hidden_size + 2 * s.vocab_size * s.hidden_size


# Stated in arXiv 2511.13703 for 100m, 1b and 7b; the others as docs/models.md states them.
STATED = {
    "lang1-micro": (4_096, 2_901_312),
    "lang1-nano": (4_096, 5_507_328),
    "lang1-1m": (4_096, 1_008_096),
    "lang1-3m": (4_096, 3_344_064),
    "lang1-8m": (4_096, 7_703_360),
    "lang1-30m": (4_096, 29_893_120),
    "lang1-100m": (32_000, 101_000_000),
    "lang1-300m": (32_000, 301_507_584),
    "lang1-1b": (32_000, 1_100_000_000),
    "lang1-3b": (32_000, 3_015_355_392),
    "lang1-7b": (32_000, 6_738_000_000),
}


def test_presets_have_the_stated_sizes() -> None:
    assert set(STATED) == set(PRESETS)
    for name, (vocabulary, stated) in STATED.items():
        found = preset(name, vocab_size=vocabulary)
        assert found.parameters == counted(found), name
        assert found.parameters == stated or (stated % 1_000_000 == 0 and abs(found.parameters / stated - 1) < 0.01)
        with torch.device("meta"):
            assert sum(p.numel() for p in Llama(found).parameters()) == found.parameters
    with pytest.raises(SettingsError, match="lang1-1b"):
        preset("lang1-2b")
    with pytest.raises(SettingsError, match="multiple of kv_heads"):
        preset("lang1-nano", kv_heads=3)


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_built_without_memory_gets_the_same_weights(tokenizer: Tokenizer, tied: bool) -> None:
    plain, late = Llama(shape(tokenizer, tied)), None
    plain.initialise(6)
    with torch.device("meta"):
        late = Llama(shape(tokenizer, tied))
    late.initialise(6, "cpu")
    for (name, a), (_, b) in zip(plain.state_dict().items(), late.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    assert (late.lm_head.weight is late.model.embed_tokens.weight) is tied


def test_a_sharded_model_gets_the_same_weights(tokenizer: Tokenizer) -> None:
    distributed = pytest.importorskip("torch.distributed")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    plain = Llama(shape(tokenizer))
    plain.initialise(8)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        with torch.device("meta"):
            late = Llama(shape(tokenizer))
        fully_shard(late, mesh=init_device_mesh("cpu", (1,)))
        late.initialise(8, "cpu")
        for (name, a), (_, b) in zip(plain.named_parameters(), late.named_parameters(), strict=True):
            assert torch.equal(a, b.full_tensor()), name  # type: ignore[attr-defined]
    finally:
        distributed.destroy_process_group()
