"""Open models taken over from a folder: equal logits both ways, what is refused, and the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from lang1.common.artefact import open_folder
from lang1.common.errors import ArtefactError
from lang1.model.config import ImportSettings
from lang1.model.importing import import_model
from lang1.model.llama import Llama
from lang1.model.store import export_model, load_model
from lang1.text.tokenizer import Tokenizer
from lang1.text.tokenizer_training import train_tokenizer

transformers = pytest.importorskip("transformers")

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
# kind, what differs from a plain Llama
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-2": ("llama", {"num_key_value_heads": 4}),
    "llama-3": ("llama", {"rope_parameters": LLAMA3, "num_key_value_heads": 1}),
    "llama-linear": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1000.0}}),
    "tinyllama": ("llama", {"rms_norm_eps": 1e-5}),
    "smollm2": ("llama", {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 9e3}}),
    "mistral": ("mistral", {"sliding_window": None, "head_dim": 24}),
    "mistral-window": ("mistral", {"sliding_window": 64}),
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(
        ["The patient is 71 years old and short of breath. A. no B. yes"] * 20,
        400,
        required=["\nAnswer: A B C D E F G H", "Pt c/o CP x3d, BP 120/80 (L arm); Na 135, T 98.6 F. #1 CHF:\n- K+"],
    )


def theirs(kind: str, tokenizer: Tokenizer) -> Any:
    model_type, changes = KINDS[kind]
    base = {
        # More rows than the tokenizer has ids, as open models often do.
        "vocab_size": tokenizer.vocab_size + 24,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,
    }
    torch.manual_seed(7)
    config = transformers.AutoConfig.for_model(model_type, **{**base, **changes})
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def source(folder: Path, kind: str, tokenizer: Tokenizer, **save: Any) -> Any:
    model = theirs(kind, tokenizer)
    model.save_pretrained(folder, **save)
    tokenizer.save(folder)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_equal_after_import_and_again_after_export(tmp_path: Path, tokenizer: Tokenizer, kind: str) -> None:
    reference = source(tmp_path / "theirs", kind, tokenizer)
    import_model(tmp_path / "theirs", tmp_path / "ours")
    export_model(tmp_path / "ours", tmp_path / "back")
    ours = load_model(tmp_path / "ours", "cpu").model
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    tokens = torch.randint(0, tokenizer.vocab_size, (2, min(60, ours.context)))
    with torch.no_grad():
        expected = reference(tokens, use_cache=False).logits
        torch.testing.assert_close(ours.logits_of(tokens), expected, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(back(tokens, use_cache=False).logits, expected, atol=2e-5, rtol=1e-4)


def test_a_configuration_in_the_older_spelling_reads_the_same(tmp_path: Path, tokenizer: Tokenizer) -> None:
    source(tmp_path / "m", "llama-3", tokenizer)
    file = tmp_path / "m" / "config.json"
    config = json.loads(file.read_text())
    new = load_model(tmp_path / "m", "cpu").model
    scaling = config.pop("rope_parameters")
    config |= {"rope_theta": scaling.pop("rope_theta"), "rope_scaling": scaling}
    file.write_text(json.dumps(config))
    old = load_model(tmp_path / "m", "cpu").model
    assert isinstance(old, Llama) and isinstance(new, Llama) and old.settings == new.settings
    assert old.settings.rope_scaling is not None and old.settings.rope_base == 500.0


def test_shards_and_half_precision_are_kept_as_they_are(tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = theirs("tinyllama", tokenizer).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "theirs", max_shard_size="50KB")
    tokenizer.save(tmp_path / "theirs")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 2
    import_model(tmp_path / "theirs", tmp_path / "ours", ImportSettings(name="ours-1b"))
    folder = open_folder(tmp_path / "ours", "model")
    assert folder.manifest.extra["stage"] == "imported" and folder.manifest.extra["dtype"] == "bfloat16"
    assert folder.manifest.extra["name"] == "ours-1b"
    loaded = load_model(tmp_path / "ours", "cpu").model
    assert loaded.name == "ours-1b"
    expected = model.state_dict()
    for name, weight in loaded.state_dict().items():
        assert weight.dtype == torch.float32 and torch.equal(weight, expected[name].float()), name


def test_the_licence_travels(tmp_path: Path, tokenizer: Tokenizer) -> None:
    source(tmp_path / "theirs", "tinyllama", tokenizer)
    (tmp_path / "theirs" / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    (tmp_path / "theirs" / "LICENSE").write_text("Apache License")
    import_model(tmp_path / "theirs", tmp_path / "ours")
    assert open_folder(tmp_path / "ours", "model").manifest.extra["licence"] == "apache-2.0 (LICENSE)"
    assert (tmp_path / "ours" / "LICENSE").read_text() == "Apache License"


def test_a_sliding_window_bounds_the_context(tmp_path: Path, tokenizer: Tokenizer) -> None:
    source(tmp_path / "m", "mistral-window", tokenizer)
    assert load_model(tmp_path / "m", "cpu").model.context == 64


def test_what_cannot_be_imported_is_refused_in_one_line(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(ArtefactError, match="does not exist"):
        import_model(tmp_path / "nothing", tmp_path / "out")
    source(tmp_path / "m", "tinyllama", tokenizer)
    (tmp_path / "m" / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    with pytest.raises(ArtefactError, match=r"tokenizer\.json is missing"):
        import_model(tmp_path / "m", tmp_path / "out")
    (tmp_path / "tokenizer.json").rename(tmp_path / "m" / "tokenizer.json")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    for change, says in (
        ({"sparse": True, "num_hidden_layers": 1}, "has no place"),
        ({"num_hidden_layers": 3}, "is missing"),
        ({"vocab_size": 100}, "the tokenizer knows"),
    ):
        (tmp_path / "m" / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(ArtefactError, match=says):
            import_model(tmp_path / "m", tmp_path / "out")
    weights = tmp_path / "m" / "model.safetensors"
    weights.rename(tmp_path / "m" / "pytorch_model.bin")
    with pytest.raises(ArtefactError, match="pickled"):
        import_model(tmp_path / "m", tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / ".out.partial").exists()


def test_a_tokenizer_without_letters_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    source(tmp_path / "m", "tinyllama", tokenizer)
    with pytest.raises(ArtefactError, match="not one token"):
        import_model(tmp_path / "m", tmp_path / "out", ImportSettings(options=26))


def write_gguf(file: Path, tokenizer: Tokenizer) -> Any:
    """A Llama in the GGUF layout: rows of queries and keys interleaved as llama.cpp turns them."""
    gguf = pytest.importorskip("gguf")
    model = theirs("tinyllama", tokenizer)
    c = model.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_license("mit")
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    inner = json.loads(tokenizer.inner.to_str())
    names = {i: t for t, i in tokenizer.inner.get_vocab(with_added_tokens=True).items()}
    special = {t["id"] for t in inner["added_tokens"]}
    size = c.vocab_size
    writer.add_vocab_size(size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([names.get(i, f"<unused{i}>") for i in range(size)])
    writer.add_token_types([3 if i in special or i not in names else 1 for i in range(size)])
    writer.add_token_merges([" ".join(m) for m in inner["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.eot_id)
    writer.add_bos_token_id(tokenizer.eot_id)

    def turned(weight: torch.Tensor, heads: int) -> torch.Tensor:
        return weight.view(heads, 2, weight.shape[0] // heads // 2, -1).transpose(1, 2).reshape(weight.shape)

    parts = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    whole = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for name, weight in model.state_dict().items():
        name = name.removesuffix(".weight")
        if name.endswith("q_proj"):
            weight = turned(weight, c.num_attention_heads)
        elif name.endswith("k_proj"):
            weight = turned(weight, c.num_key_value_heads)
        if name in whole:
            target = whole[name]
        else:
            _, _, layer, part = name.split(".", 3)
            target = f"blk.{layer}.{parts[part]}"
        writer.add_tensor(f"{target}.weight", np.ascontiguousarray(weight.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def test_a_gguf_file_is_imported_by_the_command_line(tmp_path: Path, tokenizer: Tokenizer) -> None:
    pytest.importorskip("accelerate")
    from lang1.cli.main import app

    (tmp_path / "g").mkdir()
    model = write_gguf(tmp_path / "g" / "tiny.gguf", tokenizer)
    result = CliRunner().invoke(app, ["import", str(tmp_path / "g"), str(tmp_path / "ours"), "options=3"])
    assert result.exit_code == 0, result.output
    extra = open_folder(tmp_path / "ours", "model").manifest.extra
    assert extra["licence"] == "mit" and extra["name"] == "tiny" and extra["quantisation"].startswith("F32")
    loaded = load_model(tmp_path / "ours", "cpu")
    tokens = torch.randint(0, tokenizer.vocab_size, (2, 40))
    with torch.no_grad():
        expected = model(tokens, use_cache=False).logits
        torch.testing.assert_close(loaded.model.logits_of(tokens), expected, atol=2e-5, rtol=1e-4)
    text = "The patient is 71 years old.\n\nQuestion: ?\nAnswer: B"
    assert loaded.tokenizer.decode(loaded.tokenizer.encode(text)) == text
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes((tmp_path / "g" / "tiny.gguf").read_bytes()[:2000])
    with pytest.raises(ArtefactError, match="cannot be read as a GGUF model"):
        import_model(damaged, tmp_path / "out")
    shutil.copy(tmp_path / "g" / "tiny.gguf", tmp_path / "g" / "other.gguf")
    with pytest.raises(ArtefactError, match=r"2 \.gguf files"):
        import_model(tmp_path / "g", tmp_path / "out")
