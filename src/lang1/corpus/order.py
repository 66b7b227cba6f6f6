"""The order of training batches: a pure function of the seed and the step.

Per source and epoch the documents are shuffled and laid end to end, epoch after epoch; row r of a source is the tokens
[r·T, (r+1)·T) of that endless stream, so that every token of every document comes exactly once an epoch and none is
dropped. A fixed periodic schedule says from which source each row comes. Nothing is carried from step to step: a
resumed run, or another number of processes, sees the same rows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from lang1.common.errors import InputError, SettingsError
from lang1.corpus.reader import Corpus, Source, pieces

# Rows after which the schedule of sources repeats: weights are met to one in this many.
PERIOD = 10_000
# Epoch lay-outs kept per source: a row can straddle two epochs.
_KEPT_EPOCHS = 2


class BatchOrder:
    """Training batches of a corpus.

    Args:
        corpus: the corpus.
        weights: share of rows by source, divided by their sum; None takes the corpus's own.
        sequence_length: T, tokens a row.
        sequences_per_step: B, rows a step.
        seed: decides the order of documents.

    Raises:
        SettingsError: weights that name no source, are negative or all zero; lengths under 1.
        InputError: a source with a weight and no tokens.
    """

    def __init__(
        self,
        corpus: Corpus,
        weights: Mapping[str, float] | None,
        sequence_length: int,
        sequences_per_step: int,
        seed: int,
    ) -> None:
        if sequence_length < 2 or sequences_per_step < 1:
            raise SettingsError(
                f"sequence_length {sequence_length} and sequences_per_step {sequences_per_step}: "
                "expected at least 2 and 1."
            )
        shares = normalised_weights(corpus.weights if weights is None else weights, list(corpus.sources))
        self.sequence_length, self.sequences_per_step, self.seed = sequence_length, sequences_per_step, seed
        self.names = [name for name, share in shares.items() if share > 0]
        self._sources = [corpus.sources[name] for name in self.names]
        for source in self._sources:
            if not source.train.tokens:
                raise InputError(f"corpus source '{source.name}' holds no training tokens; set its weight to 0.")
        self._schedule, self._before = _schedule([shares[name] for name in self.names])
        self._layouts = [_Layouts(source, seed) for source in self._sources]

    def step(self, number: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """The batch of a step.

        Returns:
            Tokens, int64 (B, T), and document numbers within each row, int32 (B, T), rising from 0. A position whose
            next position has another document number has no target: documents are not predicted from each other.
        """
        rows, length = self.sequences_per_step, self.sequence_length
        tokens = np.empty((rows, length), dtype=np.int64)
        numbers = np.empty((rows, length), dtype=np.int32)
        at = np.arange(number * rows, (number + 1) * rows)
        period, place = np.divmod(at, PERIOD)
        source_of = self._schedule[place]
        row_of = period * self._before[-1, source_of] + self._before[place, source_of]
        for source in np.unique(source_of):
            here = np.flatnonzero(source_of == source)
            layouts, stream = self._layouts[source], self._sources[source].train
            starts: list[npt.NDArray[np.int64]] = []
            lengths: list[npt.NDArray[np.int64]] = []
            inside: list[npt.NDArray[np.int32]] = []
            for row in row_of[here]:
                where, how_long = layouts.pieces(int(row) * length, (int(row) + 1) * length)
                starts.append(where)
                lengths.append(how_long)
                inside.append(np.arange(len(where), dtype=np.int32))
            joined = np.concatenate(lengths)
            tokens[here] = stream.gather(np.concatenate(starts), joined).reshape(len(here), length)
            numbers[here] = np.repeat(np.concatenate(inside), joined).reshape(len(here), length)
        return tokens, numbers

    def realised(self, steps: int) -> dict[str, dict[str, float]]:
        """What the first ``steps`` steps take of each source: ``rows``, ``tokens``, ``share`` of all, ``epochs``."""
        total = steps * self.sequences_per_step
        period, place = divmod(total, PERIOD)
        rows = period * self._before[-1] + self._before[place]
        return {
            source.name: {
                "rows": int(count),
                "tokens": int(count) * self.sequence_length,
                "share": float(count) / total if total else 0.0,
                "epochs": int(count) * self.sequence_length / source.train.tokens,
            }
            for source, count in zip(self._sources, rows, strict=True)
        }


def normalised_weights(weights: Mapping[str, float], sources: list[str]) -> dict[str, float]:
    """Weights by source, summing to 1, in the order of ``sources``.

    Raises:
        SettingsError: an unknown source, one without a weight, a negative weight, or nothing but zeros.
    """
    for name, weight in weights.items():
        if name not in sources:
            raise SettingsError(f"weights.{name}: there is no such source; sources are {', '.join(sources)}.")
        if not (weight >= 0 and np.isfinite(weight)):
            raise SettingsError(f"weights.{name}: expected a number of at least 0, got {weight}.")
    missing = [name for name in sources if name not in weights]
    if missing:
        raise SettingsError(f"weights.{missing[0]} is missing: give every source a weight (0 leaves it out).")
    total = sum(weights.values())
    if total <= 0:
        raise SettingsError("weights: at least one source needs a weight above 0.")
    return {name: weights[name] / total for name in sources}


class _Layouts:
    """The shuffled documents of one source, epoch after epoch."""

    def __init__(self, source: Source, seed: int) -> None:
        self.stream = source.train
        key = int.from_bytes(source.name.encode(), "little") % (1 << 61)
        self.seed = _mix(np.array([seed % (1 << 64)], dtype=np.uint64) ^ _mix(np.array([key], dtype=np.uint64)))
        self._kept: OrderedDict[int, tuple[npt.NDArray[np.int64], ...]] = OrderedDict()

    def pieces(self, start: int, stop: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Starts in the stored stream, and lengths, of what [start, stop) of the endless stream consists of."""
        total = self.stream.tokens
        starts, lengths = [], []
        while start < stop:
            epoch, inside = divmod(start, total)
            upto = min(stop - epoch * total, total)
            order, ordered, cumulative = self._epoch(epoch)
            places, offsets, counts = pieces(cumulative, ordered, inside, upto)
            starts.append(self.stream.starts[order[places]] + offsets)
            lengths.append(counts)
            start = epoch * total + upto
        return np.concatenate(starts), np.concatenate(lengths)

    def _epoch(self, epoch: int) -> tuple[npt.NDArray[np.int64], ...]:
        if epoch in self._kept:
            self._kept.move_to_end(epoch)
            return self._kept[epoch]
        # Sorting by a mixed counter, not NumPy's generator, whose stream may change between releases.
        salt = _mix(self.seed + _mix(np.array([epoch], dtype=np.uint64)))
        keys = _mix(np.arange(self.stream.documents, dtype=np.uint64) + salt)
        order = np.argsort(keys, kind="stable")
        ordered = self.stream.lengths[order]
        self._kept[epoch] = (order, ordered, np.cumsum(ordered))
        if len(self._kept) > _KEPT_EPOCHS:
            self._kept.popitem(last=False)
        return self._kept[epoch]


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea, Flood, OOPSLA 2014): a bijection of 64 bits that scatters counters."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _schedule(shares: list[float]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Which source each row of a period comes from, (P,), and rows of each source before each place, (P + 1, K).

    Whole rows by largest remainder, each row to the source that lags most behind its share: at any place the rows
    of a source differ from its share by little more than one.
    """
    exact = np.array(shares) * PERIOD
    quota = np.floor(exact).astype(np.int64)
    short = PERIOD - int(quota.sum())
    quota[np.argsort(quota - exact, kind="stable")[:short]] += 1
    taken = np.zeros(len(shares), dtype=np.int64)
    schedule = np.empty(PERIOD, dtype=np.int64)
    before = np.empty((PERIOD + 1, len(shares)), dtype=np.int64)
    for place in range(PERIOD):
        before[place] = taken
        lag = quota * (place + 1) - PERIOD * taken
        schedule[place] = chosen = int(np.argmax(lag))
        taken[chosen] += 1
    before[PERIOD] = taken
    assert (taken == quota).all()
    return schedule, before
