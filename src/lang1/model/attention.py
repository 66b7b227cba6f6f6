"""Attention inside blocks: documents packed into one stream, or a note with the questions that share it.

Shapes: N tokens of a step in one flat stream; G blocks in a bucket, padded to T; H heads, K key/value heads,
E head width. Only attention knows about blocks: every other layer works on the flat N tokens, so padding costs
nothing there.

One rule serves packed documents and shared notes: token i sees token j when both are in the same block, j does not
come after i, and j's branch is 0 (the document or note itself) or i's own. Branches 1, 2, … are the questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from lang1.model.rotary import turn

Backend = Literal["auto", "bmm", "sdpa", "loop", "dense"]
BACKENDS: tuple[Backend, ...] = ("bmm", "sdpa", "loop", "dense")

# A bucket takes further blocks while padding stays below this share of its true size.
PADDING = 1.2
# The CPU's matrix library compiles a kernel for each shape it meets, at several milliseconds a shape, and every step
# has another number of tokens, blocks and answers: with shapes as they come, compiling took 60 % of a step. So row
# counts are rounded up (`round_rows`), padded lengths to a multiple of LENGTHS, and a bucket holds a power of two of
# blocks, at most BLOCKS.
LENGTHS = 32
BLOCKS = 16
# Longest block for which the whole score matrix is kept for the backward pass (see `choose_backend`).
BMM_LONGEST = 768


@dataclass(frozen=True)
class Bucket:
    """Blocks of like length, consecutive in the stream: tokens ``start`` to ``stop``."""

    start: int
    stop: int
    lengths: tuple[int, ...]
    longest: int  # T, the padded length
    pad_index: Tensor | None  # (G*T,) position in the bucket's tokens that fills each padded place; None: no padding
    flat_index: Tensor | None  # (stop-start,) padded place of each token
    causal: bool  # every branch is 0: the plain causal mask
    branch: Tensor | None  # (G, T) int32, -1 in padding; None where causal

    @property
    def blocks(self) -> int:
        return len(self.lengths)

    def visible(self, device: torch.device) -> Tensor:
        """Boolean mask (G or 1, T, T): True where the query (row) sees the key (column)."""
        size = self.longest
        causal = torch.ones(size, size, dtype=torch.bool, device=device).tril()
        if self.branch is None:
            return causal[None]
        key, query = self.branch[:, None, :], self.branch[:, :, None]
        return causal & ((key == 0) | (key == query))

    def bias(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """:meth:`visible` as 0 and -inf to be added to scores."""
        hidden = ~self.visible(device)
        return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, float("-inf"))


@dataclass(frozen=True)
class Layout:
    """Where the blocks of a flat stream lie, each token's position, and the buckets in which attention runs."""

    positions: Tensor  # (N + tail,) int64, restarting in each block; every question's go on where its note ends
    lengths: tuple[int, ...]
    branch: Tensor | None  # (N,) int32, or None where all are 0
    buckets: tuple[Bucket, ...]
    tail: int  # unused rows at the end that make the number of rows a round one

    @property
    def tokens(self) -> int:
        """Tokens of the blocks, N without the tail."""
        return int(self.positions.shape[0]) - self.tail

    @property
    def device(self) -> torch.device:
        return self.positions.device


def round_rows(rows: int) -> int:
    """``rows`` rounded up to one of few values, at most an eighth more beyond 512."""
    step = 64 if rows <= 512 else 1 << max(6, rows.bit_length() - 4)
    return -(-rows // step) * step


def build_layout(
    lengths: Sequence[int] | npt.NDArray[np.integer],
    positions: npt.NDArray[np.integer] | None = None,
    branch: npt.NDArray[np.integer] | None = None,
    device: torch.device | str = "cpu",
) -> Layout:
    """Plan attention for consecutive blocks. Give blocks in order of length: neighbours of like length pad less.

    Args:
        lengths: tokens of each block, all at least 1.
        positions: (N,) position of each token; None counts from 0 in each block.
        branch: (N,) 0 for the document or note, 1, 2, … for questions; None where there are none.
        device: where the index tensors go.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    assert len(sizes) and sizes.min() >= 1, "a layout needs blocks of at least one token"
    total = int(sizes.sum())
    starts = np.concatenate([[0], np.cumsum(sizes)])
    if positions is None:
        positions = np.arange(total) - np.repeat(starts[:-1], sizes)
    assert len(positions) == total and (branch is None or len(branch) == total)
    if branch is not None and not branch.any():
        branch = None
    buckets, first = [], 0
    while first < len(sizes):
        last, longest, true = first + 1, int(sizes[first]), int(sizes[first])
        while last < min(len(sizes), first + BLOCKS):
            longer, more = max(longest, int(sizes[last])), true + int(sizes[last])
            if longer * (last + 1 - first) > PADDING * more:
                break
            last, longest, true = last + 1, longer, more
        last = first + (1 << ((last - first).bit_length() - 1))
        buckets.append(_bucket(sizes[first:last], int(starts[first]), branch, device))
        first = last
    tail = round_rows(total) - total
    return Layout(
        torch.from_numpy(np.pad(np.asarray(positions, dtype=np.int64), (0, tail))).to(device),
        tuple(int(s) for s in sizes),
        None if branch is None else torch.from_numpy(branch.astype(np.int32)).to(device),
        tuple(buckets),
        tail,
    )


def _bucket(
    sizes: npt.NDArray[np.int64], start: int, branch: npt.NDArray[np.integer] | None, device: torch.device | str
) -> Bucket:
    count, total = len(sizes), int(sizes.sum())
    longest = -(-int(sizes.max()) // LENGTHS) * LENGTHS
    own = None if branch is None else branch[start : start + total]
    if own is not None and not own.any():
        own = None
    pad_index = flat_index = branch_GT = None
    padded = count * longest != total
    if padded or own is not None:
        offset = np.cumsum(sizes) - sizes
        row = np.repeat(np.arange(count), sizes)
        flat = row * longest + np.arange(total) - np.repeat(offset, sizes)
        if padded:
            pad = np.zeros(count * longest, dtype=np.int64)
            pad[flat] = np.arange(total)
            pad_index = torch.from_numpy(pad).to(device)
            flat_index = torch.from_numpy(flat.astype(np.int64)).to(device)
        if own is not None:
            table = np.full(count * longest, -1, dtype=np.int32)
            table[flat] = own
            branch_GT = torch.from_numpy(table.reshape(count, longest)).to(device)
    lengths = tuple(int(s) for s in sizes)
    return Bucket(start, start + total, lengths, longest, pad_index, flat_index, own is None, branch_GT)


def choose_backend(device: torch.device, dtype: torch.dtype, longest: int) -> Backend:
    """The fastest backend that fits.

    On a CPU in bf16 the written-out product (bmm) runs on the bf16 matrix instructions, which the fused kernel does
    not use: forward and backward of 30 documents of 200 tokens took 16 ms against 42 ms. It keeps the score
    matrices, so that long blocks go to the fused kernel.
    """
    return "bmm" if device.type == "cpu" and dtype == torch.bfloat16 and longest <= BMM_LONGEST else "sdpa"


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
        cos, sin: (N, 1, E/2), from :func:`rotary`.
        layout: the blocks.
        backend: ``auto``, or one of :data:`BACKENDS`; all give the same numbers up to rounding.

    Returns:
        (N, H*E), zero in the tail.
    """
    if backend == "auto":
        backend = choose_backend(q_NHE.device, q_NHE.dtype, max(b.longest for b in layout.buckets))
    if backend == "bmm":
        out: Tensor = _BlockAttention.apply(q_NHE, k_NKE, v_NKE, cos, sin, layout)  # type: ignore[no-untyped-call]
        return out
    q, k = turn(q_NHE, cos, sin), turn(k_NKE, cos, sin)
    if backend == "dense":
        parts = [_dense(q[: layout.tokens], k[: layout.tokens], v_NKE[: layout.tokens], layout)]
    elif backend == "loop":
        parts = _loop(q, k, v_NKE, layout)
    else:
        assert backend == "sdpa", backend
        parts = [_sdpa(q, k, v_NKE, bucket) for bucket in layout.buckets]
    return torch.cat(_with_tail(parts, layout))


def _with_tail(parts: list[Tensor], layout: Layout) -> list[Tensor]:
    return [*parts, parts[0].new_zeros(layout.tail, *parts[0].shape[1:])] if layout.tail else parts


def _heads_first(x_NHE: Tensor, bucket: Bucket) -> Tensor:
    """The bucket's tokens as (G, H, T, E), padded."""
    part = x_NHE[bucket.start : bucket.stop]
    if bucket.pad_index is not None:
        part = part.index_select(0, bucket.pad_index)
    return part.view(bucket.blocks, bucket.longest, *part.shape[1:]).transpose(1, 2)


def _tokens_first(x_GHTE: Tensor, bucket: Bucket) -> Tensor:
    """The inverse of :func:`_heads_first`: (n, H*E)."""
    flat = x_GHTE.transpose(1, 2).reshape(bucket.blocks * bucket.longest, -1)
    return flat if bucket.flat_index is None else flat.index_select(0, bucket.flat_index)


def _grouped(k: Tensor, heads: int) -> Tensor:
    """Repeat key/value heads (dim 1) so that each query head has one."""
    return k if k.shape[1] == heads else k.repeat_interleave(heads // k.shape[1], dim=1)


def _sdpa(q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor, bucket: Bucket) -> Tensor:
    q, k, v = (_heads_first(x, bucket) for x in (q_NHE, k_NKE, v_NKE))
    k, v = _grouped(k, q.shape[1]), _grouped(v, q.shape[1])
    if bucket.causal:  # padding stands at the end, where no real query looks
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bucket.visible(q.device)[:, None])
    return _tokens_first(out, bucket)


def _loop(q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor, layout: Layout) -> list[Tensor]:
    """One block at a time, no padding at all."""
    parts, start = [], 0
    for length in layout.lengths:
        q, k, v = (x[None, start : start + length].transpose(1, 2) for x in (q_NHE, k_NKE, v_NKE))
        k, v = _grouped(k, q.shape[1]), _grouped(v, q.shape[1])
        own = None if layout.branch is None else layout.branch[start : start + length]
        if own is None:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            causal = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()
            out = F.scaled_dot_product_attention(
                q, k, v, attn_mask=causal & ((own[None] == 0) | (own[None] == own[:, None]))
            )
        parts.append(out.transpose(1, 2).reshape(length, -1))
        start += length
    return parts


def _dense(q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor, layout: Layout) -> Tensor:
    """The whole stream under one N x N mask: slow, and the reference that the other backends are held to."""
    total, device = layout.tokens, q_NHE.device
    block = torch.repeat_interleave(torch.tensor(layout.lengths, device=device))
    branch = layout.branch if layout.branch is not None else torch.zeros(total, dtype=torch.int32, device=device)
    visible = torch.ones(total, total, dtype=torch.bool, device=device).tril()
    visible &= block[None] == block[:, None]
    visible &= (branch[None] == 0) | (branch[None] == branch[:, None])
    q, k, v = (x[None].transpose(1, 2) for x in (q_NHE, k_NKE, v_NKE))
    out = F.scaled_dot_product_attention(
        q, _grouped(k, q.shape[1]), _grouped(v, q.shape[1]), attn_mask=visible[None, None]
    )
    return out.transpose(1, 2).reshape(total, -1)


class _BlockAttention(torch.autograd.Function):
    """Attention written out as batched matrix products, with the backward pass by hand.

    By hand since autograd's backward of the gathers (scatter-adds on a CPU) and of the mask would cost as much as
    the products: padded places carry no gradient, so each gather's backward is again a gather.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, layout: Layout) -> Tensor:
        keep = any(ctx.needs_input_grad)
        heads, width = q.shape[1], q.shape[2]
        q, k = turn(q, cos, sin), turn(k, cos, sin)
        outs: list[Tensor] = []
        saved: list[Tensor] = []
        for bucket in layout.buckets:
            q_b, k_b, v_b = (_stack(x, bucket, heads) for x in (q, k, v))
            scores = torch.bmm(q_b, k_b.transpose(1, 2)).mul_(width**-0.5)
            size = bucket.longest
            scores.view(bucket.blocks, heads, size, size).add_(bucket.bias(scores.dtype, scores.device)[:, None])
            weights = torch.softmax(scores, dim=-1)
            outs.append(_unstack(torch.bmm(weights, v_b), bucket, heads))
            if keep:
                saved += [q_b, k_b, v_b, weights]
        if keep:
            ctx.save_for_backward(cos, sin, *saved)
            ctx.layout, ctx.heads, ctx.kv_heads = layout, heads, k.shape[1]
        return torch.cat(_with_tail(outs, layout))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_out = grads[0]
        cos, sin, *saved = ctx.saved_tensors
        heads, kv_heads = ctx.heads, ctx.kv_heads
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for i, bucket in enumerate(ctx.layout.buckets):
            q, k, v, weights = saved[4 * i : 4 * i + 4]
            width = q.shape[-1]
            grad = _stack(grad_out.view(grad_out.shape[0], heads, width), bucket, heads, zero=True)
            grad_v = torch.bmm(weights.transpose(1, 2), grad)
            grad_weights = torch.bmm(grad, v.transpose(1, 2))
            grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype).mul_(width**-0.5)
            grad_q, grad_k = torch.bmm(grad_scores, k), torch.bmm(grad_scores.transpose(1, 2), q)
            of_bucket = [_unstack(g, bucket, heads).view(-1, heads, width) for g in (grad_q, grad_k, grad_v)]
            if kv_heads != heads:
                of_bucket[1:] = [g.view(-1, kv_heads, heads // kv_heads, width).sum(2) for g in of_bucket[1:]]
            parts.append((of_bucket[0], of_bucket[1], of_bucket[2]))
        grad_q, grad_k, grad_v = (torch.cat(_with_tail([p[i] for p in parts], ctx.layout)) for i in range(3))
        return turn(grad_q, cos, -sin), turn(grad_k, cos, -sin), grad_v, None, None, None


def _stack(x_NHE: Tensor, bucket: Bucket, heads: int, zero: bool = False) -> Tensor:
    """(G*H, T, E), contiguous; with ``zero`` padded places hold 0 (a gradient must not be counted twice)."""
    padded = _grouped(_heads_first(x_NHE, bucket), heads)
    out = padded.reshape(bucket.blocks * heads, bucket.longest, -1)
    if zero and bucket.pad_index is not None:
        out = out.clone() if out.data_ptr() == x_NHE.data_ptr() else out
        rows = out.view(bucket.blocks, heads, bucket.longest, -1)
        for row, length in enumerate(bucket.lengths):
            rows[row, :, length:] = 0
    return out


def _unstack(x: Tensor, bucket: Bucket, heads: int) -> Tensor:
    return _tokens_first(x.view(bucket.blocks, heads, bucket.longest, -1), bucket)
