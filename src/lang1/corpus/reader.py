"""Reading a corpus folder: its tokenizer, and per source the tokens as memory maps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lang1.common.artefact import Folder, open_folder
from lang1.common.errors import ArtefactError, SettingsError
from lang1.text.tokenizer import Tokenizer

# The document number of filling at the end of a validation batch; never to be learnt from nor counted.
PADDING_DOCUMENT = -1
# Pieces of at least this many tokens on average are copied one by one; shorter ones are looked up token by token.
_LONG_PIECE = 48


@dataclass(frozen=True)
class TokenStream:
    """The documents of one source, in stored order, over one or more files.

    Attributes:
        shards: memory maps of token ids, each of shape (tokens of the file,).
        shard_starts: where each file starts in the stream, shape (files + 1,), int64; the last is the total.
        bounds: where each document starts in the stream, its end-of-text token included, and the end of the last,
            shape (documents + 1,), int64: a document's length is the difference of two.
    """

    shards: tuple[npt.NDArray[np.unsignedinteger], ...]
    shard_starts: npt.NDArray[np.int64]
    bounds: npt.NDArray[np.int64]

    @property
    def tokens(self) -> int:
        return int(self.shard_starts[-1])

    @property
    def documents(self) -> int:
        return len(self.bounds) - 1

    def document(self, number: int) -> npt.NDArray[np.int64]:
        """The tokens of one document, its end-of-text token included, shape (n,)."""
        return self.gather(self.bounds[number : number + 1], np.diff(self.bounds[number : number + 2]))

    def gather(self, starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Pieces of the stream one after the other, int64, shape (sum of lengths,). No piece crosses files."""
        total = int(lengths.sum())
        found = np.empty(total, dtype=np.int64)
        ends = np.cumsum(lengths)
        shard_of = np.searchsorted(self.shard_starts, starts, side="right") - 1
        inside = starts - self.shard_starts[shard_of]
        if total >= _LONG_PIECE * len(lengths):
            for shard, begin, length, end in zip(
                shard_of.tolist(), inside.tolist(), lengths.tolist(), ends.tolist(), strict=True
            ):
                found[end - length : end] = self.shards[shard][begin : begin + length]
            return found
        # Where in its file each token of the answer lies: the piece's start, plus how far into the piece it is.
        index = np.arange(total) + np.repeat(inside - (ends - lengths), lengths)
        if len(self.shards) == 1:
            found[:] = self.shards[0][index]
            return found
        shard_of = np.repeat(shard_of, lengths)
        for shard in np.unique(shard_of):
            here = shard_of == shard
            found[here] = self.shards[shard][index[here]]
        return found


@dataclass(frozen=True)
class Source:
    """One source of a corpus: training and validation documents, and its weight in the mixture."""

    name: str
    weight: float
    train: TokenStream
    val: TokenStream


@dataclass(frozen=True)
class Corpus:
    """A complete corpus folder, opened for reading."""

    folder: Folder
    tokenizer: Tokenizer
    sources: dict[str, Source]

    @classmethod
    def open(cls, path: Path | str) -> Corpus:
        """Open a corpus folder.

        Raises:
            ArtefactError: missing, half written, damaged or not a corpus folder.
        """
        folder = open_folder(path, "corpus")
        extra = folder.manifest.extra
        try:
            dtype = np.dtype(extra["dtype"]).newbyteorder("<")
            listed = {name: float(about["weight"]) for name, about in extra["sources"].items()}
            expected = {
                name: (int(about["tokens"]), int(about["val_tokens"])) for name, about in extra["sources"].items()
            }
        except (KeyError, TypeError, ValueError) as error:
            raise ArtefactError(f"{folder.path}: the manifest lacks {error}; make the corpus again.") from error
        tokenizer = Tokenizer.load(folder.path / "tokenizer")
        sources = {}
        for name, weight in listed.items():
            train, val = _stream(folder.path / name, "", dtype), _stream(folder.path / name, "val-", dtype)
            if (train.tokens, val.tokens) != expected[name]:
                raise ArtefactError(
                    f"{folder.path / name}: other tokens than the manifest says; make the corpus again."
                )
            sources[name] = Source(name, weight, train, val)
        return cls(folder, tokenizer, sources)

    @property
    def weights(self) -> dict[str, float]:
        """The mixture's weights as they were set when the corpus was made; they sum to 1."""
        return {name: source.weight for name, source in self.sources.items()}

    def val_batches(
        self, source: str, sequence_length: int, rows: int = 1
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]]:
        """The validation documents of a source, once, in stored order.

        Args:
            source: its name.
            sequence_length: T.
            rows: B, sequences a batch.

        Yields:
            Tokens, int64 (B, T), and document numbers within the row, int32 (B, T); the last batch has fewer rows,
            and its last row is filled with document number :data:`PADDING_DOCUMENT`.

        Raises:
            SettingsError: no such source.
        """
        if source not in self.sources:
            raise SettingsError(f"corpus source '{source}': there are {', '.join(self.sources)}.")
        stream = self.sources[source].val
        total = -(-stream.tokens // sequence_length)
        cumulative, every = stream.bounds[1:], np.diff(stream.bounds)
        for first in range(0, total, rows):
            some = range(first, min(first + rows, total))
            tokens = np.full((len(some), sequence_length), self.tokenizer.eot_id, dtype=np.int64)
            numbers = np.full((len(some), sequence_length), PADDING_DOCUMENT, dtype=np.int32)
            for place, row in enumerate(some):
                start, stop = row * sequence_length, min((row + 1) * sequence_length, stream.tokens)
                documents, starts, lengths = pieces(cumulative, every, start, stop)
                tokens[place, : stop - start] = stream.gather(stream.bounds[documents] + starts, lengths)
                numbers[place, : stop - start] = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
            yield tokens, numbers


def pieces(
    cumulative: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], start: int, stop: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """What the range [start, stop) of documents laid end to end consists of.

    Args:
        cumulative: ends of the documents as laid, shape (documents,).
        lengths: their lengths, shape (documents,).
        start: first token, smaller than ``stop``.
        stop: one past the last token, at most the last end.

    Returns:
        Per piece: the document's place in the lay-out, where the piece starts inside it, and its length, int64 (n,).
    """
    first, last = np.searchsorted(cumulative, (start, stop - 1), side="right")
    places = np.arange(first, last + 1)
    begins = cumulative[places] - lengths[places]
    low, high = np.maximum(begins, start), np.minimum(cumulative[places], stop)
    return places, low - begins, high - low


def _stream(folder: Path, prefix: str, dtype: np.dtype[np.unsignedinteger]) -> TokenStream:
    shards: list[npt.NDArray[np.unsignedinteger]] = []
    ends: list[npt.NDArray[np.unsignedinteger]] = []
    for file in sorted(folder.glob(f"{prefix}tokens-*.bin")):
        number = file.stem.rpartition("-")[2]
        ends_file = folder / f"{prefix}ends-{number}.npy"
        try:
            some = np.load(ends_file, mmap_mode="r", allow_pickle=False)
        except (OSError, EOFError, ValueError) as error:
            raise ArtefactError(f"{ends_file} is missing or damaged ({error}); make the corpus again.") from error
        # As plain arrays: slices of the memory map's own class cost several times as much.
        tokens = np.memmap(file, dtype=dtype, mode="r").view(np.ndarray)
        if not len(some) or some[-1] != len(tokens):
            raise ArtefactError(f"{file}: its length is not that of {ends_file.name}; make the corpus again.")
        shards.append(tokens)
        ends.append(some.view(np.ndarray))
    starts = np.concatenate([[0], np.cumsum([len(s) for s in shards])]).astype(np.int64)
    bounds = np.zeros(1 + sum(map(len, ends)), dtype=np.int64)
    at = 1
    for some, start in zip(ends, starts, strict=False):
        bounds[at : at + len(some)] = some
        bounds[at : at + len(some)] += start
        at += len(some)
    return TokenStream(tuple(shards), starts, bounds)
