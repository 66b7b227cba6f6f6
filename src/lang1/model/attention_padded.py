"""Attention in plain PyTorch, for CPUs and wherever no special kernel fits: blocks padded in buckets, or one at a time.

Shapes: N tokens of a step in one flat stream; G blocks in a bucket, padded to T; H heads, K key/value heads, E head
width. Queries and keys come rotated, but for :class:`BlockAttention`, which rotates them itself.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lang1.model.layout import Bucket, Layout
from lang1.model.rotary import turn


def with_tail(parts: list[Tensor], layout: Layout) -> list[Tensor]:
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


def grouped(k: Tensor, heads: int) -> Tensor:
    """Repeat key/value heads (dim 1) so that each query head has one."""
    return k if k.shape[1] == heads else k.repeat_interleave(heads // k.shape[1], dim=1)


def sdpa(q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor, bucket: Bucket) -> Tensor:
    q, k, v = (_heads_first(x, bucket) for x in (q_NHE, k_NKE, v_NKE))
    k, v = grouped(k, q.shape[1]), grouped(v, q.shape[1])
    if bucket.causal:  # padding stands at the end, where no real query looks
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bucket.visible(q.device)[:, None])
    return _tokens_first(out, bucket)


def loop(q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor, layout: Layout) -> list[Tensor]:
    """One block at a time, no padding at all."""
    parts, start = [], 0
    for length in layout.lengths:
        q, k, v = (x[None, start : start + length].transpose(1, 2) for x in (q_NHE, k_NKE, v_NKE))
        k, v = grouped(k, q.shape[1]), grouped(v, q.shape[1])
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


def dense(q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor, layout: Layout) -> Tensor:
    """The whole stream under one N x N mask: slow, and the reference that the other backends are held to."""
    total, device = layout.tokens, q_NHE.device
    block = torch.repeat_interleave(torch.tensor(layout.lengths, device=device))
    branch = layout.branch if layout.branch is not None else torch.zeros(total, dtype=torch.int32, device=device)
    visible = torch.ones(total, total, dtype=torch.bool, device=device).tril()
    visible &= block[None] == block[:, None]
    visible &= (branch[None] == 0) | (branch[None] == branch[:, None])
    q, k, v = (x[None].transpose(1, 2) for x in (q_NHE, k_NKE, v_NKE))
    out = F.scaled_dot_product_attention(
        q, grouped(k, q.shape[1]), grouped(v, q.shape[1]), attn_mask=visible[None, None]
    )
    return out.transpose(1, 2).reshape(total, -1)


class BlockAttention(torch.autograd.Function):
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
        return torch.cat(with_tail(outs, layout))

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
        grad_q, grad_k, grad_v = (torch.cat(with_tail([p[i] for p in parts], ctx.layout)) for i in range(3))
        return turn(grad_q, cos, -sin), turn(grad_k, cos, -sin), grad_v, None, None, None


def _stack(x_NHE: Tensor, bucket: Bucket, heads: int, zero: bool = False) -> Tensor:
    """(G*H, T, E), contiguous; with ``zero`` padded places hold 0 (a gradient must not be counted twice)."""
    padded = grouped(_heads_first(x_NHE, bucket), heads)
    out = padded.reshape(bucket.blocks * heads, bucket.longest, -1)
    if zero and bucket.pad_index is not None:
        out = out.clone() if out.data_ptr() == x_NHE.data_ptr() else out
        rows = out.view(bucket.blocks, heads, bucket.longest, -1)
        for row, length in enumerate(bucket.lengths):
            rows[row, :, length:] = 0
    return out


def _unstack(x: Tensor, bucket: Bucket, heads: int) -> Tensor:
    return _tokens_first(x.view(bucket.blocks, heads, bucket.longest, -1), bucket)
