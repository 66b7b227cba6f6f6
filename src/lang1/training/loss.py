"""Cross-entropy against a large vocabulary without keeping the logits.

Shapes: M predicted tokens, D width, V vocabulary.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lang1.model.attention import round_rows

# Rows whose logits exist at a time: products want many.
CHUNK_ROWS = 1_024
# What is done to each logit on a CPU is done to so many of them at a time: 2 MB in fp32 stay in a core's cache.
CACHED = 1 << 19
# On a GPU, whose products want many rows: as many as make this many logits (0.5 GB in fp32), a power of two.
GPU_CHUNK = 1 << 27


def chunk_rows(rows: int, vocabulary: int, device: torch.device) -> int:
    """How many of ``rows`` rows are taken at a time."""
    if device.type == "cpu":
        return CHUNK_ROWS
    most = max(CHUNK_ROWS, 1 << ((GPU_CHUNK // vocabulary).bit_length() - 1))
    return min(most, round_rows(rows))


def _chunk(logits: Tensor, target: Tensor, scale: Tensor, z_loss: float, need: bool) -> tuple[Tensor, Tensor | None]:
    """The loss of some rows, and its gradient by their logits (in their dtype) where it is needed.

    Logits in fp32 are overwritten.
    """
    scores = logits.float()
    top = scores.amax(dim=1, keepdim=True)
    aim = scores.gather(1, target)
    shares = scores.sub_(top).exp_()
    norm = shares.sum(dim=1, keepdim=True)
    total = norm.log() + top
    losses = total - aim
    weight = scale
    if z_loss:
        losses = losses + z_loss * total.square()
        weight = scale * (1 + 2 * z_loss * total)
    loss = (losses * scale).sum()
    if not need:
        return loss, None
    return loss, shares.mul_(weight / norm).scatter_add_(1, target, -scale).to(logits.dtype)


def _cached_chunk(
    logits: Tensor, target: Tensor, scale: Tensor, z_loss: float, need: bool
) -> tuple[Tensor, Tensor | None]:
    """:func:`_chunk` a few rows at a time, for CPUs: each pass over a whole chunk in fp32 would go to main memory.

    The log-sum-exp is that of the largest logit less the log of its share, which never underflows. Logits are
    overwritten by their gradient.
    """
    rows = max(16, CACHED // logits.shape[1])
    loss = torch.zeros((), dtype=torch.float32)
    for start in range(0, logits.shape[0], rows):
        part = slice(start, start + rows)
        few, aim, weight = logits[part], target[part], scale[part]
        shares = torch.softmax(few, dim=1, dtype=torch.float32)
        total = few.amax(dim=1, keepdim=True).float() - shares.amax(dim=1, keepdim=True).log()
        losses = total - few.gather(1, aim).float()
        pull = weight
        if z_loss:
            losses = losses + z_loss * total.square()
            pull = weight * (1 + 2 * z_loss * total)
        loss += (losses * weight).sum()
        if need:
            few.copy_(shares.mul_(pull).scatter_add_(1, aim, -weight))
    return loss, logits if need else None


def _pointwise_chunk(
    logits: Tensor, target: Tensor, scale: Tensor, z_loss: float, need: bool
) -> tuple[Tensor, Tensor | None]:
    """:func:`_chunk` in the form that a compiler fuses: nothing of the logits' size is written but the gradient."""
    scores = logits.float()
    total = scores.logsumexp(dim=1, keepdim=True)
    losses = total - scores.gather(1, target)
    weight = scale
    if z_loss:
        losses = losses + z_loss * total.square()
        weight = scale * (1 + 2 * z_loss * total)
    loss = (losses * scale).sum()
    if not need:
        return loss, None
    hit = torch.arange(logits.shape[1], device=logits.device)[None] == target
    return loss, ((scores - total).exp() * weight - torch.where(hit, scale, 0.0)).to(logits.dtype)


@cache
def _gpu_chunk() -> Any:
    """The rows' loss for GPUs, where memory traffic bounds it: compiled where there is a compiler."""
    return torch.compile(_pointwise_chunk, dynamic=False) if find_spec("triton") is not None else _chunk


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum over rows of weight x cross-entropy; gradients are made in the forward pass, chunk by chunk.

    Log-sum-exp, the loss and its sum are fp32 whatever the dtype of the products: a running sum in bf16 loses half a
    nat, and weight gradients added up in bf16 drift.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_MD: Tensor, weight_VD: Tensor, target_M: Tensor, scale_M: Tensor, z_loss: float
    ) -> Tensor:
        need_hidden, need_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        weight = weight_VD.to(hidden_MD.dtype)
        total = torch.zeros((), dtype=torch.float32, device=hidden_MD.device)
        grad_hidden = torch.empty_like(hidden_MD) if need_hidden else None
        grad_weight = torch.zeros_like(weight_VD, dtype=torch.float32) if need_weight else None
        rows = hidden_MD.shape[0]
        step = chunk_rows(rows, weight.shape[0], hidden_MD.device)
        chunk = _gpu_chunk() if hidden_MD.is_cuda else _cached_chunk
        for start in range(0, rows, step):
            part = slice(start, start + step)
            hidden, target, scale = hidden_MD[part], target_M[part, None], scale_M[part, None].float()
            loss, grad = chunk(hidden @ weight.t(), target, scale, z_loss, need_hidden or need_weight)
            total += loss
            if grad is None:
                continue
            if grad_hidden is not None:
                torch.mm(grad, weight, out=grad_hidden[part])
            if grad_weight is not None:
                grad_weight += grad.t() @ hidden
        ctx.save_for_backward(grad_hidden, grad_weight)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        grad = grads[0]
        return (
            None if grad_hidden is None else grad_hidden * grad.to(grad_hidden.dtype),
            None if grad_weight is None else grad_weight * grad,
            None,
            None,
            None,
        )


def linear_cross_entropy(
    hidden_MD: Tensor, weight_VD: Tensor, target_M: Tensor, scale_M: Tensor, z_loss: float = 0.0
) -> Tensor:
    """Sum over rows of ``scale`` x cross-entropy of ``hidden @ weight.T`` against ``target``, fp32 scalar.

    Divide by a count once, over the whole global batch, by putting 1/count into ``scale``: micro-batches of unequal
    size then add up to the same gradient.

    Args:
        hidden_MD: final hidden states, any float dtype; products run in it.
        weight_VD: the output embedding, fp32.
        target_M: int64 token ids.
        scale_M: weight of each row.
        z_loss: adds this times the squared log-sum-exp of each row, which keeps logits from drifting (PaLM: 1e-4).
    """
    short = round_rows(hidden_MD.shape[0]) - hidden_MD.shape[0]
    if short:  # a round number of rows, the added ones without weight: see round_rows
        hidden_MD = F.pad(hidden_MD, (0, 0, 0, short))
        target_M, scale_M = F.pad(target_M, (0, short)), F.pad(scale_M, (0, short))
    out: Tensor = _LinearCrossEntropy.apply(hidden_MD, weight_VD, target_M, scale_M, z_loss)  # type: ignore[no-untyped-call]
    return out


def letter_loss(hidden_AD: Tensor, letters_VD: Tensor, target_A: Tensor, options_A: Tensor, scale_A: Tensor) -> Tensor:
    """Sum of ``scale`` x cross-entropy among each question's own option letters, fp32 scalar.

    Args:
        hidden_AD: hidden states of the answer places.
        letters_VD: output embeddings of the first letters, in order; as many as the longest question has options.
        target_A: class index of each answer.
        options_A: number of options of each question; further letters do not compete.
        scale_A: weight of each answer.
    """
    logits = (hidden_AD @ letters_VD.to(hidden_AD.dtype).t()).float()
    beyond = torch.arange(letters_VD.shape[0], device=logits.device)[None] >= options_A[:, None]
    losses = F.cross_entropy(logits.masked_fill(beyond, float("-inf")), target_A, reduction="none")
    return (losses * scale_A).sum()
