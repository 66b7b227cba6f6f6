"""Blocks of a note and its questions taken apart: notes padded with notes, questions with questions.

A mask over the whole block computes what the questions must not see of each other and throws it away: of five
questions of 50 tokens on a note of 512, a third of all products. Here the note is plain causal attention, and each
question looks at the note's keys, all of them, and at its own.

Shapes: G blocks in a bucket, notes padded to T, up to B questions each, padded to S.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Ints = npt.NDArray[np.int64]
# As in ``layout``: few shapes, and padding that stays below a fifth.
PADDING, LENGTHS, BLOCKS, ROWS = 1.2, 32, 16, 8


@dataclass(frozen=True)
class NoteBucket:
    """Consecutive blocks of like notes: tokens ``start`` to ``stop`` of the stream."""

    start: int
    stop: int
    blocks: int  # G
    note: int  # T
    questions: int  # B
    question: int  # S
    note_index: Tensor  # (G*T,) the token, counted from ``start``, that fills each padded place of the notes
    question_index: Tensor  # (G*B*S,) likewise of the questions
    place: Tensor  # (stop-start,) where each token's output stands in the notes' and then the questions' places
    note_bias: Tensor  # (G, 1, T) 0, or -inf in the notes' padding
    own_bias: Tensor  # (S, S) 0 or -inf: a question's token does not see later ones of its own


def note_buckets(
    lengths: Sequence[int], own: npt.NDArray[np.integer], device: torch.device | str
) -> tuple[NoteBucket, ...]:
    """The buckets of a stream of blocks whose tokens belong to the branches ``own`` (0: the note)."""
    starts = np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64))])
    sizes = [_parts(own[starts[i] : starts[i + 1]]) for i in range(len(lengths))]
    buckets = []
    first = 0
    while first < len(sizes):
        last = first + 1
        while last < min(len(sizes), first + BLOCKS) and _fits(sizes[first : last + 1]):
            last += 1
        last = first + (1 << ((last - first).bit_length() - 1))
        buckets.append(_bucket(sizes[first:last], int(starts[first]), device))
        first = last
    return tuple(buckets)


def _parts(branch: npt.NDArray[np.integer]) -> Ints:
    """Tokens of the note, then of each question, of one block."""
    edges = np.flatnonzero(np.diff(branch)) + 1
    parts = np.diff(np.concatenate([[0], edges, [len(branch)]])).astype(np.int64)
    return parts if branch[0] == 0 else np.concatenate([[0], parts])


def _fits(sizes: Sequence[Ints]) -> bool:
    notes = [int(size[0]) for size in sizes]
    asked = [int(size[1:].sum()) for size in sizes]
    widest = max(len(size) - 1 for size in sizes) * max(int(size[1:].max(initial=0)) for size in sizes)
    room = len(sizes) * LENGTHS
    return len(sizes) * max(notes) <= PADDING * sum(notes) + room and len(sizes) * widest <= 1.5 * sum(asked) + room


def _bucket(sizes: Sequence[Ints], start: int, device: torch.device | str) -> NoteBucket:
    count = len(sizes)
    note = max(LENGTHS, -(-max(int(size[0]) for size in sizes) // LENGTHS) * LENGTHS)
    questions = max(1, max(len(size) - 1 for size in sizes))
    question = max(ROWS, -(-max(int(size[1:].max(initial=1)) for size in sizes) // ROWS) * ROWS)
    notes = np.zeros((count, note), dtype=np.int64)
    asked = np.zeros((count, questions, question), dtype=np.int64)
    bias = np.full((count, 1, note), -np.inf, dtype=np.float32)
    place: list[Ints] = []
    at = 0
    for row, size in enumerate(sizes):
        notes[row, : size[0]] = at + np.arange(size[0])
        bias[row, 0, : size[0]] = 0.0
        place.append(row * note + np.arange(size[0]))
        at += int(size[0])
        for number, length in enumerate(size[1:]):
            asked[row, number, :length] = at + np.arange(length)
            place.append(count * note + (row * questions + number) * question + np.arange(length))
            at += int(length)
    later = torch.ones(question, question, dtype=torch.bool).tril().logical_not_()
    return NoteBucket(
        start,
        start + at,
        count,
        note,
        questions,
        question,
        torch.from_numpy(notes.reshape(-1)).to(device),
        torch.from_numpy(asked.reshape(-1)).to(device),
        torch.from_numpy(np.concatenate(place)).to(device),
        torch.from_numpy(bias).to(device),
        torch.zeros(question, question).masked_fill_(later, float("-inf")).to(device),
    )
