"""The Lang1 decoder: Llama in exactly the Hugging Face layout, so that export is a copy.

Shapes: N tokens of a step in one flat stream (see ``attention``), D width, H heads, K key/value heads, E head width,
V vocabulary, R the tokens whose output is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lang1.common.artefact import write_json
from lang1.model.attention import Backend, attend, kernels_kept, resolve
from lang1.model.config import ModelSettings
from lang1.model.decoder import Checkpointing, Decoder, kept
from lang1.model.layout import Layout, round_rows
from lang1.model.rotary import rotary
from lang1.model.weights import CONFIG, write_weights

HEAD = "lm_head.weight"


class Linear(nn.Linear):
    """A bias-free linear map whose fp32 weight is cast to the dtype of its input.

    Weights and optimizer stay in fp32, products run in bf16 where the model is asked to; no autocast, so what is
    computed in which format can be read off the code.
    """

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__(inside, outside, bias=False)
        self.adapter: nn.Module | None = None  # what is added to the output, given the input: training/lora.py

    def forward(self, x: Tensor) -> Tensor:
        return self.adapted(F.linear(x, self.weight.to(x.dtype)), x)

    def adapted(self, out: Tensor, x: Tensor) -> Tensor:
        """``out``, the product of ``x`` made elsewhere, with what the adapter adds, where there is one."""
        return out if self.adapter is None else out + self.adapter(x)


class _Normalise(torch.autograd.Function):
    """Root-mean-square norm with its backward by hand.

    By hand since autograd's, in bf16 on a CPU, goes through nine fp32 copies: 6.6 against 2.6 CPU-ms for 6,144 rows
    of 256, which was a tenth of a training step.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square_()
        scale = square.div_(x.shape[-1]).add_(eps).rsqrt_()
        normal = (x.float() * scale).to(x.dtype)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(normal, weight, scale)
        scaled: Tensor = normal * weight.to(x.dtype)
        return scaled

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0]
        normal, weight, scale = ctx.saved_tensors
        product = grad * normal
        grad_weight = product.sum(0, dtype=torch.float32)
        along = torch.mv(product.float(), weight).div_(weight.shape[0]).unsqueeze(1)
        grad_x = (grad * weight.to(grad.dtype)).float().addcmul_(normal, along, value=-1).mul_(scale)
        return grad_x.to(grad.dtype), grad_weight, None


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learned scale."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda:  # one kernel, or fused with its neighbours by the compiler
            return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)
        if torch.compiler.is_compiling():
            scale = x.float().square().mean(-1, keepdim=True).add(self.eps).rsqrt()
            return (x.float() * scale).to(x.dtype) * self.weight.to(x.dtype)
        out: Tensor = _Normalise.apply(x, self.weight, self.eps)  # type: ignore[no-untyped-call]
        return out


class Attention(nn.Module):
    """Causal self-attention inside blocks, with grouped key/value heads."""

    def __init__(self, s: ModelSettings) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = s.heads, s.kv_heads, s.head_dim
        self.q_proj = Linear(s.hidden_size, s.heads * s.head_dim)
        self.k_proj = Linear(s.hidden_size, s.kv_heads * s.head_dim)
        self.v_proj = Linear(s.hidden_size, s.kv_heads * s.head_dim)
        self.o_proj = Linear(s.heads * s.head_dim, s.hidden_size)

    def forward(
        self, x_ND: Tensor, cos: Tensor, sin: Tensor, layout: Layout, backend: Backend, read: Tensor | None
    ) -> Tensor:
        n, e = x_ND.shape[0], self.head_dim
        weight = torch.cat((self.q_proj.weight, self.k_proj.weight, self.v_proj.weight)).to(x_ND.dtype)
        sizes = [self.heads * e, self.kv_heads * e, self.kv_heads * e]
        q, k, v = torch.split(F.linear(x_ND, weight), sizes, dim=1)
        q, k, v = (p.adapted(y, x_ND) for p, y in zip((self.q_proj, self.k_proj, self.v_proj), (q, k, v), strict=True))
        out = attend(
            q.reshape(n, self.heads, e),
            k.reshape(n, self.kv_heads, e),
            v.reshape(n, self.kv_heads, e),
            cos,
            sin,
            layout,
            backend,
        )
        projected: Tensor = self.o_proj(out if read is None else out.index_select(0, read))
        return projected


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, s: ModelSettings) -> None:
        super().__init__()
        self.gate_proj = Linear(s.hidden_size, s.intermediate_size)
        self.up_proj = Linear(s.hidden_size, s.intermediate_size)
        self.down_proj = Linear(s.intermediate_size, s.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """One decoder layer: norm, attention, norm, MLP, each added to the stream."""

    def __init__(self, s: ModelSettings) -> None:
        super().__init__()
        self.self_attn = Attention(s)
        self.mlp = MLP(s)
        self.input_layernorm = RMSNorm(s.hidden_size, s.rms_eps)
        self.post_attention_layernorm = RMSNorm(s.hidden_size, s.rms_eps)

    def forward(
        self, x_ND: Tensor, cos: Tensor, sin: Tensor, layout: Layout, backend: Backend, read: Tensor | None
    ) -> Tensor:
        mixed = self.self_attn(self.input_layernorm(x_ND), cos, sin, layout, backend, read)
        x = (x_ND if read is None else x_ND.index_select(0, read)) + mixed
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Body(nn.Module):
    """Embedding, layers and final norm; named ``model`` inside :class:`Llama` as Hugging Face does."""

    def __init__(self, s: ModelSettings) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(s.vocab_size, s.hidden_size)
        self.layers = nn.ModuleList(Layer(s) for _ in range(s.layers))
        self.norm = RMSNorm(s.hidden_size, s.rms_eps)


class Llama(Decoder):
    """A Llama decoder over a flat stream of blocks.

    Build it under ``torch.device("meta")`` to load weights without initialising them.

    Args:
        settings: the shape; ``vocab_size`` must be set.
        dtype: dtype of activations and products. Weights are fp32 unless loaded otherwise.
    """

    def __init__(self, settings: ModelSettings, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        assert settings.vocab_size > 0, "vocab_size is not set"
        self.settings = settings
        self.dtype = dtype
        self.name = settings.name
        self.backend: Backend = "auto"
        self.checkpointing: Checkpointing = "none"
        self.model = Body(settings)
        self.lm_head = Linear(settings.hidden_size, settings.vocab_size)
        self.tie()

    def tie(self) -> None:
        """Make a tied model's two embeddings one matrix; again after its weights were replaced."""
        if self.settings.tied:
            self.lm_head.weight = self.model.embed_tokens.weight

    @property
    def architecture(self) -> str:
        return "llama"

    @property
    def context(self) -> int:
        return self.settings.context

    @property
    def vocab_size(self) -> int:
        return self.settings.vocab_size

    @property
    def parameter_count(self) -> int:
        return self.settings.parameters

    @property
    def head_weight(self) -> Tensor:
        return self.lm_head.weight

    @property
    def layers(self) -> Sequence[nn.Module]:
        return list(self.model.layers)

    @torch.no_grad()
    def initialise(self, seed: int, device: torch.device | str | None = None) -> None:
        """Normal weights of ``init_std``; projections back into the stream smaller by sqrt(2 x layers) (GPT-2).

        The same bits on every device and however the weights are sharded: each process draws every matrix on the
        CPU, one after another in the order of the parameters, and keeps what it holds. (Drawing them apart, each from
        a seed of its own, would save the others' draws and change every seeded run.) A model built on ``meta`` gets
        its memory here.

        Args:
            seed: of the draws.
            device: where a ``meta`` model goes; None keeps the weights where they are.
        """
        if any(p.is_meta for p in self.parameters()):
            self.to_empty(device=device or torch.get_default_device())
            self.tie()
        generator = torch.Generator().manual_seed(seed)
        s = self.settings
        for name, weight in self.named_parameters():
            if weight.dim() == 1:
                weight.fill_(1.0)
                continue
            std = s.init_std
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                std /= (2 * s.layers) ** 0.5
            _fill(weight, torch.empty(weight.shape, device="cpu").normal_(0.0, std, generator=generator))

    def forward(self, tokens_N: Tensor, layout: Layout, read_R: Tensor | None = None) -> Tensor:
        """Final hidden states, normed: (N, D), or (R, D) of the tokens ``read_R`` alone.

        Tokens that are not read pass through the last layer as keys and values only, which saves most of it.
        """
        s = self.settings
        rows = layout.tokens if read_R is None else read_R.shape[0]
        if read_R is not None:
            read_R = F.pad(read_R, (0, round_rows(rows) - rows))
        x = F.embedding(F.pad(tokens_N, (0, layout.tail)), self.model.embed_tokens.weight).to(self.dtype)
        cos, sin = rotary(layout.positions, s.head_dim, s.rope_base, self.dtype, s.rope_scaling)
        backend = resolve(self.backend, layout, self.dtype, s.head_dim)
        last = s.layers - 1
        with kernels_kept(backend):
            for number, layer in enumerate(self.model.layers):
                args = (x, cos, sin, layout, backend, read_R if number == last else None)
                if kept(self.checkpointing, number) or not torch.is_grad_enabled():
                    x = layer(*args)
                else:
                    x = checkpoint(layer, *args, use_reentrant=False, preserve_rng_state=False)
        out: Tensor = self.model.norm(x)[:rows]
        return out

    def facts(self) -> dict[str, str]:
        s = self.settings
        return {
            "layers x width": f"{s.layers} x {s.hidden_size}",
            "heads / key-value heads / head width": f"{s.heads} / {s.kv_heads} / {s.head_dim}",
        }

    def save(self, folder: Path, eot: int, dtype: torch.dtype = torch.float32) -> None:
        """:meth:`Decoder.save`; a tied model stores its shared matrix once, as Hugging Face does."""
        name = str(dtype).removeprefix("torch.")
        write_json(
            folder / CONFIG, self.settings.model_copy(update={"name": self.name}).to_hf(bos=eot, eos=eot, dtype=name)
        )
        tensors = dict(self.state_dict())
        if self.settings.tied:
            tensors.pop(HEAD)
        write_weights(folder, tensors, dtype)


def _fill(weight: Tensor, whole: Tensor) -> None:
    """Copy a matrix into a weight, or the own part of it where the weight is sharded over processes."""
    if hasattr(weight, "device_mesh"):
        from torch.distributed.tensor import distribute_tensor

        mesh, placements = weight.device_mesh, weight.placements  # type: ignore[attr-defined]
        weight.copy_(distribute_tensor(whole.to(weight.device), mesh, placements, src_data_rank=None))
    else:
        weight.copy_(whole)
