"""Token shards on disk: flat little-endian integers beside the ends of the documents."""

from __future__ import annotations

import array
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

# The largest vocabulary whose ids fit 16 bits.
MAX_UINT16_VOCAB = 65_536


def token_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger]:
    """``uint16`` where the vocabulary allows, else ``uint32``; little-endian."""
    return np.dtype("<u2") if vocab_size <= MAX_UINT16_VOCAB else np.dtype("<u4")


class ShardWriter:
    """Appends documents to ``<prefix>tokens-NNNNN.bin`` and ``<prefix>ends-NNNNN.npy`` in a folder.

    A document never crosses files; ``ends`` counts from the start of its own file. Memory holds the ends of one
    file only. Use as a context manager.

    Args:
        folder: the source's folder, made if it is not there.
        prefix: ``""`` for training documents, ``"val-"`` for validation documents.
        dtype: see :func:`token_dtype`.
        eot_id: appended by :meth:`add`.
        shard_tokens: a file is closed when it holds this many tokens.
    """

    def __init__(
        self, folder: Path, prefix: str, dtype: np.dtype[np.unsignedinteger], eot_id: int, shard_tokens: int
    ) -> None:
        self.folder, self.prefix, self.dtype, self.shard_tokens = folder, prefix, dtype, shard_tokens
        self.tokens = self.documents = 0
        self._eot = np.array([eot_id], dtype=dtype)
        self._shard = self._in_shard = 0
        self._ends = array.array("Q")
        self._stream: BinaryIO | None = None

    def __enter__(self) -> ShardWriter:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def add(self, tokens: npt.NDArray[np.integer]) -> None:
        """Append one document, shape (n,), and its end-of-text token."""
        self.extend(np.concatenate([tokens.astype(self.dtype), self._eot]), np.array([len(tokens) + 1]))

    def extend(self, tokens: npt.NDArray[np.unsignedinteger], lengths: npt.NDArray[np.integer]) -> None:
        """Append documents that already end with their end-of-text token.

        Args:
            tokens: of all the documents, one after the other, shape (n,), of the writer's type.
            lengths: tokens of each, shape (documents,), adding up to n.
        """
        begun = document = 0
        ends = np.cumsum(lengths, dtype=np.int64)
        while document < len(ends):
            if self._stream is None:
                self._stream = (self.folder / f"{self.prefix}tokens-{self._shard:05d}.bin").open("wb")
            # The file is closed by the first document with which it holds enough.
            last = int(np.searchsorted(ends, begun + self.shard_tokens - self._in_shard))
            last = min(last, len(ends) - 1)
            stop = int(ends[last])
            self._stream.write(np.ascontiguousarray(tokens[begun:stop]).data)
            self._ends.frombytes((ends[document : last + 1] - begun + self._in_shard).astype("<u8").tobytes())
            self._in_shard += stop - begun
            self.tokens += stop - begun
            self.documents += last + 1 - document
            begun, document = stop, last + 1
            if self._in_shard >= self.shard_tokens:
                self._close()

    def _close(self) -> None:
        if self._stream is None:
            return
        self._stream.close()
        ends = np.frombuffer(self._ends, dtype=np.uint64).astype("<u8")
        np.save(self.folder / f"{self.prefix}ends-{self._shard:05d}.npy", ends)
        self._stream, self._ends, self._in_shard = None, array.array("Q"), 0
        self._shard += 1
