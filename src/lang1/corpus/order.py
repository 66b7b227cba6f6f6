"""The order of training batches: a pure function of the seed and the step.

Per source and epoch the documents are shuffled and laid end to end, epoch after epoch; row r of a source is the tokens
[r·T, (r+1)·T) of that endless stream, so that every token of every document comes exactly once an epoch and none is
dropped. A fixed schedule (:mod:`lang1.corpus.schedule`) says from which source each row comes. Nothing is carried from
step to step: a resumed run, or another number of processes, sees the same rows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lang1.common.errors import InputError, SettingsError
from lang1.corpus.reader import Corpus, Source
from lang1.corpus.schedule import MixturePoint, Schedule, normalised_weights

# Epoch lay-outs kept per source: a row can straddle two epochs.
_KEPT_EPOCHS = 2
# A lay-out knows where every so many-th document starts; between these it adds up lengths.
_STRIDE = 64
# Documents are sorted in this many parts, which bounds the memory of the sort.
_SORT_BITS = 4


class BatchOrder:
    """Training batches of a corpus.

    Memory: 8 bytes a document of the corpus, and 4 bytes a document and epoch that is being read.

    Args:
        corpus: the corpus.
        weights: share of rows by source, divided by their sum; None takes the corpus's own.
        sequence_length: T, tokens a row.
        sequences_per_step: B, rows a step.
        seed: decides the order of documents.
        mixture: weights that change over the training, instead of ``weights``.
        epochs_cap: how many epochs a source may give; its share then goes to the others. Not named: no cap.
        steps: of the whole training; needed with ``mixture``, and lets caps that end it too early be seen at once.

    Raises:
        SettingsError: weights that name no source, are negative or all zero; lengths under 1; caps that leave the
            training without a source.
        InputError: a source with a weight and no tokens.
    """

    def __init__(
        self,
        corpus: Corpus,
        weights: Mapping[str, float] | None,
        sequence_length: int,
        sequences_per_step: int,
        seed: int,
        *,
        mixture: Sequence[MixturePoint] = (),
        epochs_cap: Mapping[str, float] | None = None,
        steps: int | None = None,
    ) -> None:
        if sequence_length < 2 or sequences_per_step < 1:
            raise SettingsError(
                f"sequence_length {sequence_length} and sequences_per_step {sequences_per_step}: "
                "expected at least 2 and 1."
            )
        if mixture and weights is not None:
            raise SettingsError("weights and mixture: give one of them.")
        every = list(corpus.sources)
        constant = corpus.weights if weights is None else weights
        points = [(point.at, normalised_weights(point.weights, every)) for point in mixture]
        points = points or [(0.0, normalised_weights(constant, every))]
        caps = dict(epochs_cap or {})
        for name, cap in caps.items():
            if name not in corpus.sources:
                raise SettingsError(f"epochs_cap.{name}: there is no such source; sources are {', '.join(every)}.")
            if not cap > 0:
                raise SettingsError(f"epochs_cap.{name}: expected a number above 0, got {cap}.")
        self.sequence_length, self.sequences_per_step, self.seed = sequence_length, sequences_per_step, seed
        self.names = [name for name in every if any(shares[name] > 0 for _, shares in points)]
        self._sources = [corpus.sources[name] for name in self.names]
        for source in self._sources:
            if not source.train.tokens:
                raise InputError(f"corpus source '{source.name}' holds no training tokens; set its weight to 0.")
        limits = [
            int(caps[source.name] * source.train.tokens // sequence_length) if source.name in caps else None
            for source in self._sources
        ]
        self.schedule = Schedule(
            [(at, [shares[name] for name in self.names]) for at, shares in points],
            limits,
            steps * sequences_per_step if steps is not None else None,
        )
        self._layouts = [_Layouts(source, seed) for source in self._sources]

    def step(self, number: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """The batch of a step: :meth:`rows` of its B rows."""
        rows = self.sequences_per_step
        return self.rows(np.arange(number * rows, (number + 1) * rows))

    def rows(self, at: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """Any rows of the training, by their numbers from its first: a process asks for its own.

        Args:
            at: numbers of the rows, shape (n,).

        Returns:
            Tokens, int64 (n, T), and document numbers within each row, int32 (n, T), rising from 0. A position whose
            next position has another document number has no target: documents are not predicted from each other.

        Raises:
            SettingsError: a row past the end of the training, where it has one.
        """
        length = self.sequence_length
        tokens = np.empty((len(at), length), dtype=np.int64)
        numbers = np.empty((len(at), length), dtype=np.int32)
        source_of, row_of = self.schedule.place(at)
        for source in np.unique(source_of):
            here = np.flatnonzero(source_of == source)
            layouts, stream = self._layouts[source], self._sources[source].train
            # Rows that follow each other in their source are one stretch of its stream.
            for run in np.split(here, np.flatnonzero(np.diff(row_of[here]) != 1) + 1):
                first = int(row_of[run[0]])
                starts, lengths = layouts.pieces(first * length, (first + len(run)) * length)
                tokens[run] = stream.gather(starts, lengths).reshape(len(run), length)
                document = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths).reshape(len(run), length)
                numbers[run] = document - document[:, :1]
        return tokens, numbers

    def documents(self, at: npt.NDArray[np.int64]) -> list[list[int | str]]:
        """What rows consist of: ``[row, source, document, first token inside it, tokens]`` piece by piece, documents
        by their number in stored order."""
        found: list[list[int | str]] = []
        source_of, row_of = self.schedule.place(at)
        for number, source, row in zip(at.tolist(), source_of.tolist(), row_of.tolist(), strict=True):
            stream = self._sources[source].train
            begin = row * self.sequence_length
            starts, lengths = self._layouts[source].pieces(begin, begin + self.sequence_length)
            documents = np.searchsorted(stream.bounds, starts, side="right") - 1
            inside = starts - stream.bounds[documents]
            for piece in zip(documents.tolist(), inside.tolist(), lengths.tolist(), strict=True):
                found.append([number, self.names[source], *piece])
        return found

    def realised(self, steps: int) -> dict[str, dict[str, float]]:
        """What the first ``steps`` steps take of each source.

        Returns:
            By source: ``rows``, ``tokens``, ``share`` of all, ``asked`` (the share that the weights ask for on
            average, caps aside), ``epochs``, and ``repeated`` (tokens that came before in the same training).
        """
        total = steps * self.sequences_per_step
        rows, asked = self.schedule.taken(total), self.schedule.asked(total)
        found = {}
        for source, count, wanted in zip(self._sources, rows, asked, strict=True):
            tokens = int(count) * self.sequence_length
            found[source.name] = {
                "rows": int(count),
                "tokens": tokens,
                "share": float(count) / total if total else 0.0,
                "asked": round(float(wanted), 6),
                "epochs": tokens / source.train.tokens,
                "repeated": max(0, tokens - source.train.tokens),
            }
        return found


class _Layout(NamedTuple):
    """The order of the documents, (documents,), and where every 64th of them starts in the epoch."""

    order: npt.NDArray[np.unsignedinteger]
    marks: npt.NDArray[np.int64]


class _Layouts:
    """The shuffled documents of one source, epoch after epoch."""

    def __init__(self, source: Source, seed: int) -> None:
        self.stream = source.train
        key = int.from_bytes(source.name.encode(), "little") % (1 << 61)
        self.seed = _mix(np.array([seed % (1 << 64)], dtype=np.uint64) ^ _mix(np.array([key], dtype=np.uint64)))
        self._kept: OrderedDict[int, _Layout] = OrderedDict()

    def pieces(self, start: int, stop: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Starts in the stored stream, and lengths, of what [start, stop) of the endless stream consists of."""
        total = self.stream.tokens
        starts, lengths = [], []
        while start < stop:
            epoch, inside = divmod(start, total)
            upto = min(stop - epoch * total, total)
            layout = self._epoch(epoch)
            first = int(np.searchsorted(layout.marks, inside, side="right")) - 1
            last = int(np.searchsorted(layout.marks, upto, side="left"))
            documents = layout.order[first * _STRIDE : last * _STRIDE].astype(np.int64)
            begins = self.stream.bounds[documents]
            long = self.stream.bounds[documents + 1] - begins
            ends = int(layout.marks[first]) + np.cumsum(long)
            low, high = np.maximum(ends - long, inside), np.minimum(ends, upto)
            there = high > low
            starts.append((begins + low - (ends - long))[there])
            lengths.append((high - low)[there])
            start = epoch * total + upto
        return np.concatenate(starts), np.concatenate(lengths)

    def _epoch(self, epoch: int) -> _Layout:
        if epoch in self._kept:
            self._kept.move_to_end(epoch)
            return self._kept[epoch]
        if len(self._kept) == _KEPT_EPOCHS:
            self._kept.popitem(last=False)
        # Sorting by a mixed counter, not NumPy's generator, whose stream may change between releases.
        salt = _mix(self.seed + _mix(np.array([epoch], dtype=np.uint64)))
        keys = np.arange(self.stream.documents, dtype=np.uint64)
        for part in np.array_split(keys, max(1, len(keys) >> 20)):
            part[:] = _mix(part + salt)
        order = _sorted(keys)
        marks = np.zeros(-(-len(order) // _STRIDE), dtype=np.int64)
        # A stretch at a time, so that no second array as long as the documents is held.
        for begin in range(0, len(order), _STRIDE << 14):
            some = order[begin : begin + (_STRIDE << 14)].astype(np.int64)
            long = self.stream.bounds[some + 1] - self.stream.bounds[some]
            sums = np.add.reduceat(long, np.arange(0, len(some), _STRIDE))
            at = begin // _STRIDE
            marks[at + 1 : at + 1 + len(sums)] = sums[: len(marks) - at - 1]
        self._kept[epoch] = _Layout(order, np.cumsum(marks))
        return self._kept[epoch]


def _sorted(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.unsignedinteger]:
    """The stable order of keys, (n,), in 4 bytes each where n allows."""
    order: npt.NDArray[np.unsignedinteger] = np.empty(len(keys), dtype=np.uint32 if len(keys) < 1 << 32 else np.uint64)
    top = (keys >> np.uint64(64 - _SORT_BITS)).astype(np.uint8)
    done = 0
    for part in range(1 << _SORT_BITS):
        here = np.flatnonzero(top == part)
        order[done : done + len(here)] = here[np.argsort(keys[here], kind="stable")]
        done += len(here)
    return order


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea, Flood, OOPSLA 2014): a bijection of 64 bits that scatters counters."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
