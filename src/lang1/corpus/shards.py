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
        eot_id: appended to every document.
        shard_tokens: a file is closed when it holds this many tokens.
    """

    def __init__(
        self, folder: Path, prefix: str, dtype: np.dtype[np.unsignedinteger], eot_id: int, shard_tokens: int
    ) -> None:
        self.folder, self.prefix, self.dtype, self.shard_tokens = folder, prefix, dtype, shard_tokens
        self.tokens = self.documents = 0
        self._eot = np.array([eot_id], dtype=dtype).tobytes()
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
        if self._stream is None:
            self._stream = (self.folder / f"{self.prefix}tokens-{self._shard:05d}.bin").open("wb")
        self._stream.write(tokens.astype(self.dtype).tobytes())
        self._stream.write(self._eot)
        self._in_shard += len(tokens) + 1
        self._ends.append(self._in_shard)
        self.tokens += len(tokens) + 1
        self.documents += 1
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
