"""Leaving out general text that a benchmark's questions or its held-out notes stand in.

A document that shares a run of words (13, as is usual) with any of them goes. What is kept of them is a sorted array of
64-bit hashes of runs, mapped into memory and shared by all processes. Where there are more runs than ``most_hashes``,
those whose hash is a multiple of 2, 4, 8 … are kept: of a copied page of 500 words some 30 runs are still known at
one in 16, so that a copy is hardly missed, while a copy of a single run can be.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import cached_property, lru_cache
from pathlib import Path
from typing import ClassVar

import duckdb
import numpy as np
import numpy.typing as npt
from pydantic import Field

from lang1.corpus.filters import Document, Filter, FilterSettings, Report
from lang1.records.store import part_files, quoted
from lang1.remede.benchmark import SPLITS_FILE, Benchmark

_WORD = re.compile(r"\w+")
_BASE = np.uint64(0x9E3779B97F4A7C15)
_BATCH_NOTES = 1000
_LEAST_WORDS = 8  # a question of fewer words can stand in any text


class DecontaminateSettings(FilterSettings):
    """Which overlap with a benchmark counts."""

    words: int = Field(default=13, ge=2, le=64)  # words in a row; a shorter question counts as a whole
    held_out_notes: bool = True  # compare with the notes of held-out patients too, not with the questions alone
    most_hashes: int = Field(default=50_000_000, ge=1)  # 8 bytes each, once on a machine


class Decontaminate(Filter[DecontaminateSettings]):
    """Leaves out general text that holds a run of words of the benchmark; without a benchmark it does nothing."""

    name: ClassVar[str] = "decontaminate"
    settings_class: ClassVar[type[FilterSettings]] = DecontaminateSettings
    on_by_default: ClassVar[bool] = True
    for_notes: ClassVar[bool] = False
    prepares: ClassVar[bool] = True

    def combine(self, collected: Sequence[Path], out: Path) -> None:
        """Write one uint64 array: per length of run, the length, how many hashes, and the sorted hashes."""
        asked: dict[int, list[npt.NDArray[np.uint64]]] = {}  # by length of run; a short question counts as a whole
        runs = _Bounded(self.settings.most_hashes)
        if self.context.benchmark is not None:
            for question in Benchmark.open(self.context.benchmark).questions().values():
                words = word_hashes(question)
                length = min(len(words), self.settings.words)
                if length < min(_LEAST_WORDS, self.settings.words):
                    continue
                asked.setdefault(length, []).append(run_hashes(words, length))
            if self.settings.held_out_notes:
                for text in self._held_out_notes():
                    runs.add(run_hashes(word_hashes(text), self.settings.words))
        kept = [(n, np.unique(np.concatenate(hashes))) for n, hashes in sorted(asked.items())]
        parts: list[npt.NDArray[np.uint64]] = [np.empty(0, dtype=np.uint64)]
        for length, found in [*kept, (self.settings.words, runs.finish())]:
            parts += [np.array([length, len(found)], dtype=np.uint64), found]
        with out.open("wb") as stream:
            np.save(stream, np.concatenate(parts))

    def apply(self, document: Document, report: Report) -> Document | None:
        """None where a run of the benchmark's words stands in the document."""
        words: npt.NDArray[np.uint64] | None = None
        for length, known in self._known:
            if not len(known):
                continue
            words = word_hashes(document.text) if words is None else words
            hashes = run_hashes(words, length)
            places = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
            if bool((known[places] == hashes).any()):
                report.leave_out(f"shares {length} words in a row with the benchmark")
                report.count(self.name, "left out")
                return None
        return document

    @cached_property
    def _known(self) -> list[tuple[int, npt.NDArray[np.uint64]]]:
        assert self.context.artefact is not None
        values = np.load(self.context.artefact, mmap_mode="r", allow_pickle=False)
        found, at = [], 0
        while at < len(values):
            length, count = int(values[at]), int(values[at + 1])
            found.append((length, values[at + 2 : at + 2 + count]))
            at += 2 + count
        return found

    def _held_out_notes(self) -> Iterator[str]:
        assert self.context.benchmark is not None
        files = [file for records in self.context.records for file in part_files(records, "notes")]
        if not files:
            return
        listed = ", ".join(quoted(file) for file in files)
        with closing(duckdb.connect(":memory:", config={"memory_limit": "2GB", "threads": 1})) as connection:
            connection.execute(
                f"SELECT text FROM read_parquet([{listed}]) JOIN "
                f"read_parquet({quoted(self.context.benchmark / SPLITS_FILE)}) USING (patient_id) WHERE fold <> 'train'"
            )
            while rows := connection.fetchmany(_BATCH_NOTES):
                yield from (text for (text,) in rows)


class _Bounded:
    """Distinct hashes, at most so many: every second one is dropped, by its value, when there are more."""

    def __init__(self, most: int) -> None:
        self._most, self.step = most, 1
        self._kept = np.empty(0, dtype=np.uint64)
        self._waiting: list[npt.NDArray[np.uint64]] = []
        self._count = 0

    def add(self, hashes: npt.NDArray[np.uint64]) -> None:
        if self.step > 1:
            hashes = hashes[hashes % np.uint64(self.step) == 0]
        self._waiting.append(hashes)
        self._count += len(hashes)
        if self._count > self._most // 4 + 1_000_000:
            self.finish()

    def finish(self) -> npt.NDArray[np.uint64]:
        """The hashes, sorted."""
        self._kept = np.unique(np.concatenate([self._kept, *self._waiting]))
        self._waiting, self._count = [], 0
        while len(self._kept) > self._most:
            self.step *= 2
            self._kept = self._kept[self._kept % np.uint64(self.step) == 0]
        return self._kept


def word_hashes(text: str) -> npt.NDArray[np.uint64]:
    """A hash of each word of a text, case and punctuation aside."""
    words = _WORD.findall(text.lower())
    return np.fromiter(map(_word_hash, words), dtype=np.uint64, count=len(words))


def run_hashes(words: npt.NDArray[np.uint64], length: int) -> npt.NDArray[np.uint64]:
    """A hash of each run of ``length`` words, shape (words - length + 1,); empty for a shorter text."""
    runs = max(len(words) - length + 1, 0)
    found = np.zeros(runs, dtype=np.uint64)
    for place in range(length):
        found = found * _BASE + words[place : place + runs]
    return found ^ (found >> np.uint64(29))  # the low bits, by which is sampled, depend on all words


@lru_cache(maxsize=200_000)
def _word_hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")
