"""Cross-entropy against a large vocabulary without keeping the logits.

Shapes: M predicted tokens, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lang1.model.attention import round_rows

# Rows whose logits exist at a time: at a vocabulary of 4,096 in fp32 they are 16 MB, which stays in a CPU's cache.
CHUNK_ROWS = 1_024


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum over rows of weight x cross-entropy; gradients are made in the forward pass, chunk by chunk.

    Log-sum-exp, the loss and its sum are fp32 whatever the dtype of the products: a running sum in bf16 loses half a
    nat, and weight gradients added up in bf16 drift.
    """

    @staticmethod
    def forward(ctx: Any, hidden_MD: Tensor, weight_VD: Tensor, target_M: Tensor, scale_M: Tensor) -> Tensor:
        need_hidden, need_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        weight = weight_VD.to(hidden_MD.dtype)
        total = torch.zeros((), dtype=torch.float32, device=hidden_MD.device)
        grad_hidden = torch.empty_like(hidden_MD) if need_hidden else None
        grad_weight = torch.zeros_like(weight_VD, dtype=torch.float32) if need_weight else None
        for start in range(0, hidden_MD.shape[0], CHUNK_ROWS):
            part = slice(start, start + CHUNK_ROWS)
            hidden, target, scale = hidden_MD[part], target_M[part, None], scale_M[part, None].float()
            logits = (hidden @ weight.t()).float()
            top = logits.amax(dim=1, keepdim=True)
            aim = logits.gather(1, target)
            shares = logits.sub_(top).exp_()
            norm = shares.sum(dim=1, keepdim=True)
            total += ((norm.log() + top - aim) * scale).sum()
            if grad_hidden is None and grad_weight is None:
                continue
            shares.mul_(scale / norm).scatter_add_(1, target, -scale)
            grad = shares.to(hidden.dtype)
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
        )


def linear_cross_entropy(hidden_MD: Tensor, weight_VD: Tensor, target_M: Tensor, scale_M: Tensor) -> Tensor:
    """Sum over rows of ``scale`` x cross-entropy of ``hidden @ weight.T`` against ``target``, fp32 scalar.

    Divide by a count once, over the whole global batch, by putting 1/count into ``scale``: micro-batches of unequal
    size then add up to the same gradient.

    Args:
        hidden_MD: final hidden states, any float dtype; products run in it.
        weight_VD: the output embedding, fp32.
        target_M: int64 token ids.
        scale_M: weight of each row.
    """
    short = round_rows(hidden_MD.shape[0]) - hidden_MD.shape[0]
    if short:  # a round number of rows, the added ones without weight: see round_rows
        hidden_MD = F.pad(hidden_MD, (0, 0, 0, short))
        target_M, scale_M = F.pad(target_M, (0, short)), F.pad(scale_M, (0, short))
    out: Tensor = _LinearCrossEntropy.apply(hidden_MD, weight_VD, target_M, scale_M)  # type: ignore[no-untyped-call]
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
