"""Attention inside blocks: documents packed into one stream, or a note with the questions that share it.

Shapes: N tokens of a step in one flat stream, its tail included; H heads, K key/value heads, E head width. Only
attention knows about blocks: every other layer works on the flat N tokens, so padding costs nothing there.

Backends, all of the same numbers up to rounding:

* ``bmm``, ``sdpa``, ``loop``: plain PyTorch, blocks padded in buckets or one at a time; anywhere.
* ``varlen``: PyTorch's variable-length kernel; ``flash``: the FlashAttention package (3, else 2). CUDA, 16 bits, no
  branches.
* ``even``: blocks all of one length, through PyTorch's fused kernels, cuDNN's first: on an H100 it took 1.59 ms
  where ``varlen`` took 2.37 (8 rows of 2,048, 32 heads of 64, forward and backward). CUDA, 16 bits, no branches.
* ``flex``: FlexAttention, compiled, for any mask. CUDA; on a CPU it computes forward only, for tests.
* ``dense``: one N x N mask, the reference.
* ``branches``: a note and its questions taken apart, for answering where no gradient is asked for; anywhere.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lang1.model.attention_branches import branches
from lang1.model.attention_padded import BlockAttention, dense, loop, sdpa, with_tail
from lang1.model.layout import Layout, build_layout, round_rows
from lang1.model.rotary import turn

__all__ = ["BACKENDS", "Backend", "Layout", "attend", "build_layout", "choose_backend", "present", "round_rows"]

Backend = Literal["auto", "bmm", "sdpa", "loop", "dense", "varlen", "flash", "even", "flex", "branches"]
BACKENDS: tuple[Backend, ...] = ("bmm", "sdpa", "loop", "dense", "varlen", "flash", "flex")
# Longest block for which the whole score matrix is kept for the backward pass (see `choose_backend`).
BMM_LONGEST = 768
# What the variable-length kernels take.
HALVES = (torch.bfloat16, torch.float16)
WIDEST = 256  # head width, a multiple of 8


def present(backend: Backend, device: torch.device) -> bool:
    """Whether a backend can be trained with on a device."""
    if backend in ("varlen", "flash", "flex"):
        if device.type != "cuda":
            return False
        if backend == "varlen" and not _flash_hardware(device):
            return False
        return _kernel(backend) is not None and (backend != "flex" or find_spec("triton") is not None)
    return True


def _flash_hardware(device: torch.device) -> bool:
    """Whether PyTorch's own flash kernels run here: built in, and a GPU of Ampere or later."""
    built = getattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)()
    return bool(built) and (torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0))


def choose_backend(
    device: torch.device, dtype: torch.dtype, longest: int, branched: bool = False, head_dim: int = 64
) -> Backend:
    """The fastest backend that fits.

    On a CPU in bf16 the written-out product (bmm) runs on the bf16 matrix instructions, which the fused kernel does
    not use: forward and backward of 30 documents of 200 tokens took 16 ms against 42 ms. It keeps the score
    matrices, so that long blocks go to the fused kernel. On CUDA in 16 bits the variable-length kernels need no
    padding; a mask with branches goes to FlexAttention.
    """
    if device.type == "cpu":
        return "bmm" if dtype == torch.bfloat16 and longest <= BMM_LONGEST else "sdpa"
    if dtype in HALVES:
        if not branched and head_dim % 8 == 0 and head_dim <= WIDEST:
            kernels: tuple[Backend, ...] = ("flash", "varlen")
            for kernel in kernels:
                if present(kernel, device):
                    return kernel
        if present("flex", device) and head_dim >= 16:
            return "flex"
    return "sdpa"


def resolve(backend: Backend, layout: Layout, dtype: torch.dtype, head_dim: int) -> Backend:
    """The backend for a layout, with what it needs of the layout made ready, once for all layers."""
    if backend == "auto":
        backend = choose_backend(layout.device, dtype, layout.longest, layout.own is not None, head_dim)
        if backend in ("flash", "varlen") and layout.even:
            backend = "even"
        if backend in ("bmm", "sdpa") and layout.own is not None and not torch.is_grad_enabled():
            backend = "branches"
    assert layout.own is None or backend not in ("varlen", "flash"), f"{backend} attention knows no branches"
    if backend in ("varlen", "flash", "flex"):
        _ = _kernel(backend), layout.tiles if backend == "flex" else layout.ends
    elif backend in ("bmm", "sdpa"):
        _ = layout.buckets
    elif backend == "branches":
        _ = layout.notes
    return backend


def attend(
    q_NHE: Tensor,
    k_NKE: Tensor,
    v_NKE: Tensor,
    cos: Tensor,
    sin: Tensor,
    layout: Layout,
    backend: Backend = "auto",
) -> Tensor:
    """Attention of every token over what its block and branch let it see; rotary positions are applied here.

    Args:
        q_NHE, k_NKE, v_NKE: queries, keys, values of the flat stream, before rotation; N with the layout's tail.
        cos, sin: (N, 1, E/2), from :func:`lang1.model.rotary.rotary`.
        layout: the blocks.
        backend: ``auto``, or one of :data:`BACKENDS`; inside compiled code, what :func:`resolve` gave.

    Returns:
        (N, H*E); finite in the tail, where nobody reads.
    """
    if not torch.compiler.is_compiling():
        backend = resolve(backend, layout, q_NHE.dtype, q_NHE.shape[2])
    elif backend not in ("varlen", "flash", "even", "flex"):
        # The buckets' shapes change with every step: these backends run as they are between the compiled parts.
        apart: Tensor = _eager(q_NHE, k_NKE, v_NKE, cos, sin, layout, backend)
        return apart
    return _attend(q_NHE, k_NKE, v_NKE, cos, sin, layout, backend)


def _attend(
    q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor, cos: Tensor, sin: Tensor, layout: Layout, backend: Backend
) -> Tensor:
    if backend == "bmm":
        written: Tensor = BlockAttention.apply(q_NHE, k_NKE, v_NKE, cos, sin, layout)  # type: ignore[no-untyped-call]
        return written
    q, k = turn(q_NHE, cos, sin), turn(k_NKE, cos, sin)
    if backend in ("varlen", "flash"):
        ends = layout.ends
        packed: Tensor = _KERNELS[backend](q, k, v_NKE, ends.ends, ends.longest)
        return packed.reshape(q.shape[0], -1)
    if backend == "even":
        return _even(q, k, v_NKE, layout)
    if backend == "flex":
        # Inside a compiled layer it is compiled with it; on a CPU it is not.
        flex = _KERNELS["flex" if torch.compiler.is_compiling() or not q.is_cuda else "flex compiled"]
        heads_first = (x.transpose(0, 1)[None] for x in (q, k, v_NKE))
        tiled: Tensor = flex(*heads_first, block_mask=layout.tiles, enable_gqa=q.shape[1] != k.shape[1])
        return tiled[0].transpose(0, 1).reshape(q.shape[0], -1)
    if backend == "dense":
        parts = [dense(q[: layout.tokens], k[: layout.tokens], v_NKE[: layout.tokens], layout)]
    elif backend == "loop":
        parts = loop(q, k, v_NKE, layout)
    elif backend == "branches":
        by_products = q.device.type == "cpu" and q.dtype == torch.bfloat16
        parts = [branches(q, k, v_NKE, bucket, by_products) for bucket in layout.notes]
    else:
        assert backend == "sdpa", backend
        parts = [sdpa(q, k, v_NKE, bucket) for bucket in layout.buckets]
    return torch.cat(with_tail(parts, layout))


def _even(q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
    """All blocks, of one length, as the rows of one batch."""
    total, length = layout.tokens, layout.lengths[0]
    grouped = q.shape[1] != k.shape[1]
    q, k, v = (x[:total].view(-1, length, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
    with sdpa_kernel(_FUSED, set_priority=True):
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
    flat = out.transpose(1, 2).reshape(total, -1)
    return F.pad(flat, (0, 0, 0, layout.tail)) if layout.tail else flat


def kernels_kept(backend: Backend) -> AbstractContextManager[None]:
    """Around a forward pass: which of PyTorch's fused kernels are allowed, and in which order, is put back after it,
    whatever compiled code did."""
    return sdpa_kernel(_FUSED, set_priority=True) if backend == "even" else nullcontext()


_FUSED = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
_eager: Any = torch.compiler.disable(_attend)  # type: ignore[no-untyped-call]
# Found once, outside of compiled code, which cannot look for modules.
_KERNELS: dict[str, Any] = {}


def _kernel(name: str) -> Any:
    """The kernel of a backend, None where it is not there."""
    if name not in _KERNELS:
        _KERNELS[name] = {"varlen": _varlen, "flash": _flash, "flex": _flex}[name]()
    return _KERNELS[name]


def _varlen() -> Any:
    """PyTorch's variable-length kernel as ``(q, k, v, ends, longest)``; None in a PyTorch that has none.

    Its first form takes causality as a flag, later ones as a window of keys.
    """
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    takes = signature(varlen_attn).parameters
    causal: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in takes else {"is_causal": True}
    options: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in takes else {}
    grouped = bool(options) or _takes_fewer_keys(varlen_attn, causal)

    def kernel(q: Tensor, k: Tensor, v: Tensor, ends: Tensor, longest: int) -> Tensor:
        if q.shape[1] == k.shape[1]:
            out: Any = varlen_attn(q, k, v, ends, ends, longest, longest, **causal)
        elif grouped:
            out = varlen_attn(q, k, v, ends, ends, longest, longest, **options, **causal)
        else:
            k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
            out = varlen_attn(q, k, v, ends, ends, longest, longest, **causal)
        return _first(out)

    return kernel


def _takes_fewer_keys(kernel: Any, causal: dict[str, Any]) -> bool:
    """Whether a variable-length kernel that does not say so shares key/value heads among query heads, rightly."""
    if not torch.cuda.is_available():
        return False
    random = torch.Generator("cuda").manual_seed(0)
    q, k, v = (torch.randn(8, h, 32, device="cuda", dtype=torch.bfloat16, generator=random) for h in (4, 2, 2))
    ends = torch.tensor([0, 8], device="cuda", dtype=torch.int32)
    k, v = k.requires_grad_(), v.requires_grad_()
    wanted = [x.repeat_interleave(2, dim=1) for x in (k, v)]
    try:
        outs = [_first(kernel(q, keys, values, ends, ends, 8, 8, **causal)) for keys, values in ((k, v), wanted)]
        grads = [torch.autograd.grad(out.float().square().sum(), (k, v)) for out in outs]
    except (RuntimeError, ValueError):
        return False
    pairs = [tuple(outs), *zip(*grads, strict=True)]
    return all(torch.allclose(a, b, rtol=0.05, atol=0.05) for a, b in pairs)


def _flash() -> Any:
    """The FlashAttention package's kernel as ``(q, k, v, ends, longest)``; None where it is not installed."""
    for module in ("flash_attn_interface", "flash_attn"):  # FlashAttention 3 (Hopper), then 2
        if find_spec(module) is None:
            continue
        try:
            function = import_module(module).flash_attn_varlen_func
        except (ImportError, AttributeError, OSError):  # built for another PyTorch
            continue

        def kernel(q: Tensor, k: Tensor, v: Tensor, ends: Tensor, longest: int, function: Any = function) -> Tensor:
            return _first(function(q, k, v, ends, ends, longest, longest, causal=True))

        return kernel
    return None


def _flex() -> Any:
    """FlexAttention as it is; ``flex compiled`` beside it is for calls outside of compiled code."""
    try:
        from torch.nn.attention.flex_attention import flex_attention
    except ImportError:
        return None
    _KERNELS["flex compiled"] = torch.compile(flex_attention, dynamic=False)
    return flex_attention


def _first(out: Any) -> Tensor:
    """The output of kernels that give it alone or before others."""
    found: Tensor = out if isinstance(out, Tensor) else out[0]
    return found
