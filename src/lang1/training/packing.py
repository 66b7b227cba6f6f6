"""Packed rows of documents as one flat stream, in which documents are blocks that never see each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lang1.training.throughput import Tally

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PackedStream:
    """Documents (or pieces of them) one after another, shortest first."""

    tokens: Ints  # (N,)
    lengths: Ints  # (G,) tokens of each piece
    read: Ints  # (R,) tokens whose next token is predicted: all but each piece's last
    target: Ints  # (R,) that next token

    def tally(self) -> Tally:
        """What a pass over the stream amounts to; the last token of a piece predicts nothing, and so is not read."""
        pairs = int(np.dot(self.lengths, self.lengths))
        read = len(self.read)
        return Tally(len(self.tokens), read, read, pairs, pairs - int(self.lengths.sum()))


def flatten(tokens_BT: npt.NDArray[np.integer], documents_BT: npt.NDArray[np.integer]) -> PackedStream | None:
    """The pieces of packed rows, sorted by length.

    Args:
        tokens_BT: token ids.
        documents_BT: document number within the row; negative where the row is filled up.

    Returns:
        The stream, or None where nothing is to be predicted.
    """
    rows, length = tokens_BT.shape
    flat = np.ascontiguousarray(tokens_BT, dtype=np.int64).reshape(-1)
    number = np.ascontiguousarray(documents_BT).reshape(-1)
    edge = np.ones(rows * length, dtype=bool)
    edge[1:] = number[1:] != number[:-1]
    edge[::length] = True
    starts = np.flatnonzero(edge)
    lengths = np.diff(np.append(starts, rows * length))
    real = (number[starts] >= 0) & (lengths > 1)  # a lone token neither predicts nor helps to
    starts, lengths = starts[real], lengths[real]
    if not len(starts):
        return None
    order = np.argsort(lengths, kind="stable")
    starts, lengths = starts[order], lengths[order]
    ends = np.cumsum(lengths)
    index = np.arange(ends[-1]) + np.repeat(starts - (ends - lengths), lengths)
    stream = flat[index]
    last = np.zeros(len(stream), dtype=bool)
    last[ends - 1] = True
    read = np.flatnonzero(~last)
    return PackedStream(stream, lengths.astype(np.int64), read, stream[read + 1])
