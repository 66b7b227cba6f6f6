"""Attention of a note and the questions that share it, without a mask over both: for answering, not for training.

Shapes: as in ``layout_notes``; H heads, K key/value heads, R = H/K, E head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lang1.model.layout_notes import NoteBucket

# Queries of a note taken at a time where products are written out: keys after them are not computed.
CHUNK = 128


def branches(q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor, bucket: NoteBucket, written: bool) -> Tensor:
    """Outputs (n, H*E) of a bucket's tokens.

    Args:
        q_NHE, k_NKE, v_NKE: of the whole stream, after rotation.
        bucket: which tokens.
        written: write the notes' products out (faster on a CPU in bf16) instead of the fused kernel.
    """
    q, k, v = (x[bucket.start : bucket.stop] for x in (q_NHE, k_NKE, v_NKE))
    note_q, note_k, note_v = (_padded(x, bucket.note_index, bucket.blocks, bucket.note) for x in (q, k, v))
    rows = bucket.questions * bucket.question
    own_q, own_k, own_v = (_padded(x, bucket.question_index, bucket.blocks, rows) for x in (q, k, v))
    notes = _notes(note_q, note_k, note_v, written)
    questions = _questions(own_q, own_k, own_v, note_k, note_v, bucket)
    width = q.shape[1] * q.shape[2]
    both = [out.transpose(1, 2).reshape(-1, width) for out in (notes, questions)]
    return torch.cat(both).index_select(0, bucket.place)


def _padded(x_nHE: Tensor, index: Tensor, blocks: int, rows: int) -> Tensor:
    """(G, H, rows, E), contiguous."""
    picked = x_nHE.index_select(0, index).view(blocks, rows, *x_nHE.shape[1:])
    return picked.transpose(1, 2).contiguous()


def _notes(q_GHTE: Tensor, k_GKTE: Tensor, v_GKTE: Tensor, written: bool) -> Tensor:
    """Causal attention of the notes."""
    blocks, heads, length, width = q_GHTE.shape
    repeats = heads // k_GKTE.shape[1]
    k, v = (x if repeats == 1 else x.repeat_interleave(repeats, dim=1) for x in (k_GKTE, v_GKTE))
    if not written:
        return F.scaled_dot_product_attention(q_GHTE, k, v, is_causal=True)
    q, k, v = (x.reshape(blocks * heads, length, width) for x in (q_GHTE, k, v))
    parts = []
    hidden = torch.full((CHUNK, CHUNK), float("-inf"), dtype=q.dtype, device=q.device).triu_(1)
    for start in range(0, length, CHUNK):
        stop = min(start + CHUNK, length)
        scores = torch.bmm(q[:, start:stop], k[:, :stop].transpose(1, 2)).mul_(width**-0.5)
        scores[:, :, start:].add_(hidden[: stop - start, : stop - start])
        parts.append(torch.bmm(torch.softmax(scores, dim=-1), v[:, :stop]))
    return torch.cat(parts, dim=1).view(blocks, heads, length, width)


def _questions(
    q_GHRE: Tensor, k_GKRE: Tensor, v_GKRE: Tensor, note_k: Tensor, note_v: Tensor, bucket: NoteBucket
) -> Tensor:
    """Attention of the questions to the note and to themselves: one softmax over both kinds of scores.

    A key/value head serves its query heads as further rows, so that no keys are copied.
    """
    blocks, heads, rows, width = q_GHRE.shape
    kv = k_GKRE.shape[1]
    repeats, own = heads // kv, bucket.question
    scale = width**-0.5
    q = q_GHRE.view(blocks * kv, repeats * rows, width)
    note_k, note_v = (x.view(blocks * kv, bucket.note, width) for x in (note_k, note_v))
    scores = q.new_empty(blocks * kv, repeats * rows, bucket.note + own)
    over_note = torch.bmm(q, note_k.transpose(1, 2)).view(blocks, kv * repeats * rows, bucket.note)
    scores[:, :, : bucket.note] = over_note.add_(bucket.note_bias.to(q.dtype)).view(blocks * kv, -1, bucket.note)
    # Each question with its own keys: (G*K*B, R*S, E) against (G*K*B, S, E).
    by_question = (blocks, kv, repeats, bucket.questions, own, width)
    q_own = q_GHRE.view(by_question).transpose(2, 3).reshape(-1, repeats * own, width)
    k_own, v_own = (x.view(-1, own, width) for x in (k_GKRE, v_GKRE))
    over_own = torch.bmm(q_own, k_own.transpose(1, 2)).view(-1, repeats, own, own)
    over_own = over_own.add_(bucket.own_bias.to(q.dtype)).view(blocks, kv, bucket.questions, repeats, own, own)
    scores[:, :, bucket.note :] = over_own.transpose(2, 3).reshape(blocks * kv, repeats * rows, own)
    weights = torch.softmax(scores.mul_(scale), dim=-1)
    out = torch.bmm(weights[:, :, : bucket.note], note_v)
    shares = weights[:, :, bucket.note :].view(blocks, kv, repeats, bucket.questions, own, own)
    mixed = torch.bmm(shares.transpose(2, 3).reshape(-1, repeats * own, own), v_own)
    mixed = mixed.view(blocks, kv, bucket.questions, repeats, own, width).transpose(2, 3)
    out = out.view(mixed.shape).add_(mixed)
    return out.reshape(blocks, heads, rows, width)
