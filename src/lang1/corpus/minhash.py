"""Shingles of words and their MinHash signatures, for many texts at once in NumPy.

A text is the set of its runs of ``size`` words, each hashed to 32 bits; the Jaccard index of two such sets measures how
much two texts share. MinHash (Broder 1997) keeps the least hash under each of many permutations: two texts agree on one
with a probability equal to their Jaccard index, and agree on all ``rows`` of at least one of ``bands`` bands with
probability 1 - (1 - J**rows)**bands (Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

# A byte is part of a word if it is a letter, a digit, or part of a character outside ASCII.
_IN_WORD = np.array([b >= 128 or chr(b).isalnum() for b in range(256)])
# Odd, so that its powers modulo 2**64 have inverses.
_BASE = 0x9E3779B97F4A7C15
_JOIN = np.uint64(0xD1342543DE82EF95)
_MASK = (1 << 64) - 1
_SEED = 20251117


def mix(values: U64) -> U64:
    """Spread 64-bit values over all their bits (the finalizer of SplitMix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def distinct(values: U64) -> U64:
    """The distinct values, ascending; by sorting, several times as fast here as the hashing of ``np.unique``."""
    ordered = np.sort(values)
    first = np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)]
    kept: U64 = ordered[first]
    return kept


@lru_cache(maxsize=2)
def _powers(bits: int) -> tuple[U64, U64]:
    """The first 2**bits powers of the base and of its inverse, modulo 2**64."""
    both = []
    for base in (_BASE, pow(_BASE, -1, 1 << 64)):
        row = np.full(1 << bits, base, dtype=np.uint64)
        row[0] = 1
        both.append(np.cumprod(row, dtype=np.uint64))
    return both[0], both[1]


def word_hashes(texts: Sequence[str]) -> tuple[U64, I64]:
    """The hash of every word of several texts, whatever its case, and which text it is in.

    Returns:
        Hashes, shape (words,), and the index of each word's text, ascending, shape (words,).
    """
    # Texts that come from foreign files can hold halves of surrogate pairs.
    encoded = [text.lower().encode("utf-8", "surrogatepass") for text in texts]
    buffer = np.frombuffer(b"\n" + b"\n".join(encoded) + b"\n", dtype=np.uint8)
    inside = _IN_WORD[buffer]
    edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    starts, ends = edges[0::2], edges[1::2]
    powers, inverses = _powers(max(16, len(buffer).bit_length()))
    prefix = np.cumsum((buffer + np.uint64(1)) * powers[: len(buffer)], dtype=np.uint64)
    hashes = (prefix[ends - 1] - prefix[starts - 1]) * inverses[starts]
    offsets = np.cumsum([1, *(len(one) + 1 for one in encoded)])[:-1]
    return mix(hashes), np.searchsorted(offsets, starts, side="right") - 1


def shingles(texts: Sequence[str], size: int, most: int) -> tuple[U32, I64]:
    """The distinct shingles of each text: hashes of its runs of ``size`` words.

    Of a text with more than ``most``, the least ``most`` are kept: a random sample, the same of equal shingles in
    every text, from which Jaccard indices are still estimated without bias.

    Returns:
        Hashes, ascending within each text, shape (n,), and how many each text has, shape (texts,).
    """
    words, text = word_hashes(texts)
    count = len(words) - size + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint32), np.zeros(len(texts), dtype=np.int64)
    joined = words[:count].copy()
    for i in range(1, size):
        joined = joined * _JOIN + words[i : i + count]
    whole = text[:count] == text[size - 1 :]
    keys = distinct((text[:count].astype(np.uint64)[whole] << np.uint64(32)) | (mix(joined)[whole] >> np.uint64(32)))
    owner = (keys >> np.uint64(32)).astype(np.int64)
    starts = np.searchsorted(owner, np.arange(len(texts)))
    keep = np.arange(len(keys)) - starts[owner] < most
    return keys[keep].astype(np.uint32), np.bincount(owner[keep], minlength=len(texts))


def band_keys(hashes: U32, counts: I64, bands: int, rows: int) -> U64:
    """The MinHash signatures of sets, hashed band by band.

    Args:
        hashes: the sets one after the other, none of them empty, shape (n,).
        counts: their sizes, shape (sets,).
        bands, rows: of the signature; ``bands * rows`` permutations in all.

    Returns:
        One key a set and band, shape (bands, sets).
    """
    keys = np.zeros((bands, len(counts)), dtype=np.uint64)
    if not len(counts):
        return keys
    assert counts.min() > 0
    starts = np.cumsum(counts) - counts
    random = np.random.default_rng(_SEED).integers(1 << 32, size=(bands, rows, 2), dtype=np.uint32)
    for band in range(bands):
        for row in range(rows):
            # A bijection of 32-bit numbers; the hashes are well mixed, so this is as good as a random permutation.
            permuted = hashes * (random[band, row, 0] | np.uint32(1)) + random[band, row, 1]
            least = np.minimum.reduceat(permuted, starts)
            keys[band] = keys[band] * _JOIN + mix(least.astype(np.uint64) + np.uint64(row + 1))
    return mix(keys)


def shared(left: U32, left_counts: I64, right: U32, right_counts: I64) -> tuple[U32, I64]:
    """What the two sets of each pair have in common, from ``left[i]`` and ``right[i]`` concatenated.

    Returns:
        The hashes, shape (n,), and the pair of each, ascending, shape (n,).
    """
    pairs = np.arange(len(left_counts))
    owner = np.concatenate([np.repeat(pairs, left_counts), np.repeat(pairs, right_counts)]).astype(np.uint64)
    keys = np.sort((owner << np.uint64(32)) | np.concatenate([left, right]))
    twice = keys[1:][keys[1:] == keys[:-1]]
    return twice.astype(np.uint32), (twice >> np.uint64(32)).astype(np.int64)
