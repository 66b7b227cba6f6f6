"""Texts as arrays of word numbers, and their runs of words as 64-bit hashes: everything at once, in NumPy.

W words in all, D texts, M runs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
WORD = re.compile(r"\w+(?:[.]\d+)?")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio: an odd number with well mixed bits


@dataclass(frozen=True)
class Words:
    """Texts in lower case as numbers into a vocabulary.

    Attributes:
        numbers: of all words of all texts, one text after the other, ``[W]``.
        ends: where each text ends, ``[D]``.
        vocabulary: the words in the order of their numbers.
    """

    numbers: Ints
    ends: Ints
    vocabulary: list[str]

    @classmethod
    def of(cls, texts: Sequence[str]) -> Words:
        """Split texts into words; a number keeps its decimals."""
        known: dict[str, int] = {}
        parts, ends, total = [], np.empty(len(texts), dtype=np.int64), 0
        for place, text in enumerate(texts):
            found = WORD.findall(text.lower())
            parts.append(np.fromiter((known.setdefault(w, len(known)) for w in found), np.int64, len(found)))
            total += len(found)
            ends[place] = total
        numbers = np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
        return cls(numbers, ends, list(known))

    def runs(self, length: int) -> tuple[Hashes, Ints, Ints]:
        """Every run of ``length`` words inside one text: its hash, its text and where it starts, ``[M]`` each."""
        count = len(self.numbers) - length + 1
        if count <= 0:
            return np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        text = np.repeat(np.arange(len(self.ends)), np.diff(self.ends, prepend=0))
        start = np.flatnonzero(text[:count] == text[length - 1 :])
        mixed = _mix(self.numbers.astype(np.uint64) + np.uint64(1))
        found = np.zeros(len(start), dtype=np.uint64)
        for step in range(length):
            found = found * _FACTOR + mixed[start + step]
        return _mix(found), text[start], start

    def phrase(self, start: int, length: int) -> str:
        """The words of a run."""
        return " ".join(self.vocabulary[n] for n in self.numbers[start : start + length])


def _mix(values: Hashes) -> Hashes:
    """Spread the bits of 64-bit numbers (the finalizer of SplitMix64, Steele et al., OOPSLA 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))
