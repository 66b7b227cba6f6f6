"""The Lang1 family as settings, and their exchange with a Hugging Face Llama ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from lang1.common.errors import ArtefactError, SettingsError
from lang1.common.settings import Settings, explain

# Architectures that are this family under another name: weights, names and arithmetic are Llama's.
OURS = ("llama", "mistral")


class RopeScaling(Settings):
    """How rotary frequencies are stretched so that a model reaches beyond the context it was first trained with.

    ``linear``: every frequency divided by ``factor``. ``llama3`` (Llama 3.1 and later): waves longer than
    ``original_context / low_freq_factor`` divided by it, those shorter than ``original_context / high_freq_factor``
    kept, between them a mix.
    """

    kind: Literal["linear", "llama3"]
    factor: float = Field(ge=1)
    low_freq_factor: float = Field(default=1.0, gt=0)
    high_freq_factor: float = Field(default=4.0, gt=0)
    original_context: int = Field(default=8192, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> RopeScaling:
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError("low_freq_factor must be below high_freq_factor")
        return self

    def to_hf(self) -> dict[str, Any]:
        """The ``rope_scaling`` of a Hugging Face configuration."""
        if self.kind == "linear":
            return {"rope_type": "linear", "factor": self.factor}
        return {
            "rope_type": "llama3",
            "factor": self.factor,
            "low_freq_factor": self.low_freq_factor,
            "high_freq_factor": self.high_freq_factor,
            "original_max_position_embeddings": self.original_context,
        }


class ModelSettings(Settings):
    """Shape of a Llama decoder. ``vocab_size`` is set from the tokenizer where it is 0."""

    name: str = "lang1-nano"
    vocab_size: int = Field(default=0, ge=0)
    hidden_size: int = Field(default=256, ge=8)  # width of the residual stream
    layers: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)
    kv_heads: int = Field(default=4, ge=1)
    head_dim: int = Field(default=64, ge=2)
    intermediate_size: int = Field(default=768, ge=8)  # SwiGLU width
    context: int = Field(default=1024, ge=8)  # tokens
    rms_eps: float = Field(default=1e-5, gt=0)
    rope_base: float = Field(default=10_000.0, gt=0)
    rope_scaling: RopeScaling | None = None
    tied: bool = False  # input and output embeddings share one matrix
    init_std: float = Field(default=0.02, gt=0)

    @model_validator(mode="after")
    def _fits(self) -> ModelSettings:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.head_dim % 2:
            raise ValueError(f"head_dim ({self.head_dim}) must be even: rotary positions turn pairs")
        return self

    @property
    def parameters(self) -> int:
        """Number of weights, embeddings included."""
        width = self.hidden_size
        attention = 2 * width * self.head_dim * (self.heads + self.kv_heads)
        block = attention + 3 * width * self.intermediate_size + 2 * width
        return self.layers * block + width + (1 if self.tied else 2) * self.vocab_size * width

    @property
    def flops_per_token(self) -> float:
        """Floating-point operations of one training token without attention: 6 x weights in matrix products."""
        body = self.parameters - (1 if self.tied else 2) * self.vocab_size * self.hidden_size
        return 6.0 * (body + self.vocab_size * self.hidden_size)

    def to_hf(self, *, bos: int | None = None, eos: int | None = None, dtype: str = "float32") -> dict[str, Any]:
        """The ``config.json`` of ``transformers.LlamaForCausalLM`` for this shape."""
        scaling = self.rope_scaling.to_hf() if self.rope_scaling else None
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.context,
            "rms_norm_eps": self.rms_eps,
            # Readers before transformers 5 look for rope_theta and rope_scaling, later ones for rope_parameters.
            "rope_theta": self.rope_base,
            **({"rope_scaling": scaling} if scaling else {}),
            "rope_parameters": {**(scaling or {"rope_type": "default"}), "rope_theta": self.rope_base},
            "tie_word_embeddings": self.tied,
            "hidden_act": "silu",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "mlp_bias": False,
            "initializer_range": self.init_std,
            "bos_token_id": bos,
            "eos_token_id": eos,
            "pad_token_id": None,
            "use_cache": True,
            "dtype": dtype,
            "torch_dtype": dtype,
            "lang1_name": self.name,
        }

    @classmethod
    def why_not(cls, config: Mapping[str, Any]) -> str | None:
        """Why a Hugging Face configuration is not of this family, in a clause; None where it is."""
        kind = config.get("model_type")
        if kind not in OURS:
            return f"model_type is {kind!r}; expected {' or '.join(repr(k) for k in OURS)}"
        rope = _rope(config)
        scaled = rope.get("rope_type", rope.get("type", "default"))
        if scaled not in ("default", "linear", "llama3"):
            return f"its rotary positions are scaled by {scaled!r}; expected none, 'linear' or 'llama3'"
        if float(rope.get("partial_rotary_factor", config.get("partial_rotary_factor")) or 1) != 1:
            return "only a part of each head is rotated"
        if config.get("attention_bias") or config.get("mlp_bias"):
            return "its projections have biases"
        if config.get("hidden_act", "silu") != "silu":
            return f"its activation is {config['hidden_act']!r}; expected 'silu'"
        return None

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], source: str) -> ModelSettings:
        """Read a Hugging Face configuration of a Llama, or of what is one under another name (Mistral).

        A sliding window shorter than the positions becomes the context: up to its length it hides nothing.

        Raises:
            ArtefactError: another architecture, or a variant that this family does not have.
        """
        if (why := cls.why_not(config)) is not None:
            raise ArtefactError(f"{source}: {why}.")
        rope = _rope(config)
        try:
            heads = int(config["num_attention_heads"])
            width = int(config["hidden_size"])
            context = int(config.get("max_position_embeddings", 2048))
            if config["model_type"] == "mistral" and config.get("sliding_window"):
                context = min(context, int(config["sliding_window"]))
            return cls(
                name=str(config.get("lang1_name", config["model_type"])),
                vocab_size=int(config["vocab_size"]),
                hidden_size=width,
                layers=int(config["num_hidden_layers"]),
                heads=heads,
                kv_heads=int(config.get("num_key_value_heads") or heads),
                head_dim=int(config.get("head_dim") or width // heads),
                intermediate_size=int(config["intermediate_size"]),
                context=context,
                rms_eps=float(config.get("rms_norm_eps", 1e-6)),
                rope_base=float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0),
                rope_scaling=_scaling(rope),
                tied=bool(config.get("tie_word_embeddings", False)),
                init_std=float(config.get("initializer_range", 0.02)),
            )
        except KeyError as error:
            raise ArtefactError(
                f"{source}: {error.args[0]} is missing; expected a Hugging Face Llama config."
            ) from None
        except (ValidationError, TypeError, ValueError) as error:
            what = explain(cls, error) if isinstance(error, ValidationError) else str(error)
            raise ArtefactError(f"{source}: {what}") from error


def _rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return found if isinstance(found, Mapping) else {}


def _scaling(rope: Mapping[str, Any]) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling(kind="linear", factor=float(rope["factor"]))
    return RopeScaling(
        kind="llama3",
        factor=float(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original_context=int(rope["original_max_position_embeddings"]),
    )


def _member(
    name: str, width: int, layers: int, heads: int, kv_heads: int, head_dim: int, inner: int, context: int
) -> ModelSettings:
    return ModelSettings(
        name=f"lang1-{name}",
        hidden_size=width,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=inner,
        context=context,
    )


class ImportSettings(Settings):
    """How a model is imported."""

    name: str | None = None  # what manifests and cards call it; null takes the source's name
    dtype: Literal["stored", "fp32", "bf16", "fp16"] = "stored"  # of the weights written; training holds them in fp32
    options: int = Field(default=5, ge=2, le=26)  # option letters that must each be one token


# Shapes of 100m, 1b and 7b: arXiv 2511.13703 (its reference configurations smol_llama-101M-GQA, TinyLlama-1.1B,
# Llama-2-7B). nano and micro are ours, for CPUs: see docs/log.md for how nano's shape was chosen. The others are
# ours, for scaling studies between and below; a size in a name counts all weights, with a vocabulary of 4,096 up to
# 30m and of 32,000 from 100m on (docs/models.md has the table).
PRESETS: dict[str, ModelSettings] = {
    m.name: m
    for m in (
        #       name     width layers heads kv width SwiGLU context
        _member("micro", 192, 3, 6, 6, 32, 512, 1024),
        _member("nano", 256, 4, 4, 4, 64, 768, 1024),
        _member("1m", 96, 2, 3, 3, 32, 256, 1024),
        _member("3m", 192, 4, 6, 6, 32, 512, 1024),
        _member("8m", 320, 4, 5, 5, 64, 896, 1024),
        _member("30m", 512, 8, 8, 8, 64, 1408, 1024),
        _member("100m", 768, 6, 24, 8, 32, 3072, 1024),
        _member("300m", 1024, 20, 16, 8, 64, 2816, 2048),
        _member("1b", 2048, 22, 32, 4, 64, 5632, 2048),
        _member("3b", 3072, 28, 24, 8, 128, 8192, 4096),
        _member("7b", 4096, 32, 32, 32, 128, 11008, 4096),
    )
}


def preset(name: str, **changes: Any) -> ModelSettings:
    """The settings of a member of the family, with fields replaced by ``changes``.

    Raises:
        SettingsError: no such member, or a change that it cannot take.
    """
    if name not in PRESETS:
        raise SettingsError(f"unknown model '{name}'; known are {', '.join(PRESETS)}.")
    try:
        return ModelSettings.model_validate({**PRESETS[name].model_dump(), **changes})
    except ValidationError as error:
        raise SettingsError(f"model '{name}': {explain(ModelSettings, error)}") from error
