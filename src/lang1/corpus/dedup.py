"""Duplicates within a source: texts that are equal, and texts that are nearly so.

What is compared is read from the texts once, in any number of processes (:meth:`Duplicates.collect`), and kept on disk.
:meth:`Duplicates.combine` then needs time linear in the documents and a bounded part of memory. Of equal or similar
documents the first in the order of the corpus stays, so that the result does not depend on who did the work.

Templates make notes of strangers alike. A shingle that stands in the notes of many patients is therefore not compared
at all, and a note with little text of its own is compared for equality only.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from lang1.common.identity import patient_hash
from lang1.common.progress import Meter
from lang1.corpus.arrays import Array, map_arrays, write_arrays
from lang1.corpus.filters import Document, Filter, FilterSettings, Report
from lang1.corpus.minhash import I64, U32, band_keys, distinct, mix, shared, shingles

KINDS = ("exact", "near")
# Texts hashed together: enough for NumPy, little in memory.
_BATCH_DOCUMENTS = 256
_BATCH_PAIRS = 2048
# Documents whose keys are sorted together; 24 bytes each while sorting.
_SORT_ROWS = 1 << 26
# Slots of the table of repeated shingles: 2 GB at most. Texts beyond some 100 million fill it, and edited words then
# take part in proposing pairs.
_TABLE_BITS = 30
_NONE = -1


class DuplicateSettings(FilterSettings):
    """What counts as a duplicate. The defaults are those that ``benchmarks/corpus_dedup.py`` measures."""

    exact: bool = True  # texts equal but for case and white space
    near: bool = True  # texts that share most of what is their own
    words: int = Field(default=3, ge=1, le=32)  # words a shingle: the fewer, the more an edited word leaves alike
    # Jaccard index of shingles from which two texts are duplicates: 0.4 with three words allows one word in six to be
    # replaced, scattered, or two fifths of the text in one piece. own_threshold guards strangers against it.
    threshold: float = Field(default=0.4, gt=0, le=1)
    # Between notes of one patient: today's note repeats yesterday's and still brings news. What is repeated is the
    # business of copy_forward.
    threshold_same_patient: float = Field(default=0.9, gt=0, le=1)
    # 32 bands of 3 rows propose 99 % of pairs at a Jaccard index of 0.5, 88 % at 0.4, 23 % at 0.2.
    bands: int = Field(default=32, ge=1)
    rows: int = Field(default=3, ge=1)
    max_shingles: int = Field(default=512, ge=16, le=65535)  # of a longer text, a random sample of so many
    # A shingle is a template when this many different patients have it, and this share of those looked at.
    template_patients: int = Field(default=20, ge=2)
    template_share: float = Field(default=0.001, ge=0, le=1)
    template_sample: int = Field(default=20_000, ge=1)  # documents of whole patients looked at for templates
    # Of the shingles that are no templates, duplicates share this part of what the one with fewer of them has. Not a
    # Jaccard index: each word edited within a template makes shingles that are nobody else's and would count.
    own_threshold: float = Field(default=0.5, gt=0, le=1)
    min_own: int = Field(default=4, ge=1)  # with fewer shingles that are no templates, only equality is compared


def content_hash(text: str) -> int:
    """64 bits of BLAKE2b of a text, whatever its case and white space."""
    plain = " ".join(text.casefold().split())
    return int.from_bytes(hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


class Duplicates(Filter[DuplicateSettings]):
    """Leaves out documents that say again what an earlier document of the source says."""

    name: ClassVar[str] = "duplicates"
    settings_class: ClassVar[type[FilterSettings]] = DuplicateSettings
    prepares: ClassVar[bool] = True
    collects: ClassVar[bool] = True

    def apply(self, document: Document, report: Report) -> Document | None:
        """The document, or None where an earlier one stands for it; counted by note type."""
        label = document.note_type or document.source
        report.count(self.name, f"documents: {label}")
        report.count(self.name, f"characters: {label}", len(document.text))
        places, kinds, _ = self._found
        at = int(np.searchsorted(places, document.place))
        if at == len(places) or places[at] != document.place:
            return document
        kind = KINDS[int(kinds[at])]
        report.leave_out(f"{kind} duplicate")
        report.count(self.name, f"{kind} duplicates: {label}")
        report.count(self.name, f"characters in {kind} duplicates: {label}", len(document.text))
        return None

    @cached_property
    def _found(self) -> list[Array]:
        assert self.context.artefact is not None
        return map_arrays(self.context.artefact)

    def collect(self, documents: Iterator[Document], out: Path) -> None:
        """Write each document's place, owner, content hash and shingles."""
        s = self.settings
        rows: list[tuple[int, int, int]] = []
        hashes: list[U32] = [np.empty(0, dtype=np.uint32)]
        counts: list[I64] = [np.empty(0, dtype=np.int64)]
        while batch := list(islice(documents, _BATCH_DOCUMENTS)):
            rows += [(d.place, patient_hash(d.unit), content_hash(d.text)) for d in batch]
            if s.near:
                some, lengths = shingles([d.text for d in batch], s.words, s.max_shingles)
                hashes.append(some)
                counts.append(lengths)
            else:
                counts.append(np.zeros(len(batch), dtype=np.int64))
        table = np.array(rows, dtype=np.uint64).reshape(-1, 3).T
        write_arrays(out, [table, np.concatenate(counts).astype(np.uint16), np.concatenate(hashes)])

    def combine(self, collected: Sequence[Path], out: Path) -> None:
        """Decide which documents are duplicates of which.

        Writes the places that are left out, ascending, the kind of each (0 equal, 1 near), and the place that stays.
        """
        parts = [map_arrays(path)[0] for path in collected]
        sizes = [part.shape[1] for part in parts]
        kept = np.full(sum(sizes), _NONE, dtype=np.int64)
        if self.settings.exact or self.settings.near:
            # Near-duplicates are looked for among distinct texts, also where equal ones may stay.
            _join([part[2] for part in parts], kept)
        exact = kept >= 0
        if self.settings.near:
            with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
                _Near(self.settings, collected, kept, Path(scratch)).run()
            # Who stands for an equal document that leaves itself stands for both.
            onwards = np.flatnonzero(exact)
            kept[onwards] = np.where(kept[kept[onwards]] >= 0, kept[kept[onwards]], kept[onwards])
        out_of = np.flatnonzero(kept >= 0 if self.settings.exact else (kept >= 0) & ~exact)
        places = np.concatenate([np.empty(0, dtype=np.uint64), *(part[0] for part in parts)])
        out_of = out_of[np.argsort(places[out_of], kind="stable")]
        write_arrays(out, [places[out_of], (~exact[out_of]).astype(np.uint8), places[kept[out_of]]])


def _join(keys: Sequence[Array], kept: I64) -> None:
    """Point every document at the first one with the same key."""
    for order, first in equal_groups(keys):
        kept[order[~first]] = order[first][np.cumsum(first) - 1][~first]


def equal_groups(keys: Sequence[Array], rows: int = _SORT_ROWS) -> Iterator[tuple[I64, npt.NDArray[np.bool_]]]:
    """Which rows have equal keys, a bounded number of rows at a time.

    Args:
        keys: well-mixed 64-bit keys, in parts.
        rows: about how many rows are sorted at once.

    Yields:
        The numbers of rows whose key another row has, group by group, ascending within each, and whether a row is
        the first of its group.
    """
    total = sum(map(len, keys))
    bits = max(0, (total - 1) // rows).bit_length()
    for share in range(1 << bits):
        chosen, numbers, base = [], [], 0
        for part in keys:
            mine = np.flatnonzero(part >> np.uint64(64 - bits) == share) if bits else np.arange(len(part))
            chosen.append(np.asarray(part[mine]))
            numbers.append(mine + base)
            base += len(part)
        key = np.concatenate([np.empty(0, dtype=np.uint64), *chosen])
        order = np.argsort(key, kind="stable")
        key = key[order]
        same = key[1:] == key[:-1]
        member = np.zeros(len(key), dtype=np.bool_)
        member[1:] |= same
        member[:-1] |= same
        first = np.concatenate([[True], ~same])[: len(key)]
        if member.any():
            yield np.concatenate(numbers)[order[member]], first[member]


class _Near:
    """Finds near-duplicates: bands of MinHash keys propose pairs, the Jaccard index of their shingles decides.

    Args:
        settings: thresholds.
        collected: files of :meth:`Duplicates.collect`.
        kept: for each document -1, or the earlier document that stands for it; filled in.
        scratch: a folder for what does not fit in memory.
    """

    def __init__(self, settings: DuplicateSettings, collected: Sequence[Path], kept: I64, scratch: Path) -> None:
        self.settings, self.collected, self.kept, self.scratch = settings, collected, kept, scratch

    def run(self) -> None:
        s = self.settings
        self.templates = self._templates()
        self.repeated = self._repeated()
        self._write_compared()
        self.number, self.owner = self._column("number", np.int64), self._column("owner", np.uint64)
        self.count, self.limit = self._column("count", np.int64), self._column("limit", np.uint32)
        self.start = np.cumsum(self.count) - self.count
        self.hashes = self._column("hashes", np.uint32)
        # Here and below, documents are numbered by their rows in these columns; earlier documents have smaller rows.
        self.twin = np.full(len(self.number), _NONE, dtype=np.int64)
        with Meter("duplicates", s.bands, "bands") as meter:
            for band in range(s.bands):
                for rows, first in equal_groups([self._column(f"band{band}", np.uint64)]):
                    self._compare(rows, first)
                meter.add(1)
        self._settle()
        found = np.flatnonzero(self.twin >= 0)
        self.kept[self.number[found]] = self.number[self.twin[found]]

    def _templates(self) -> U32:
        """Shingles that so many patients have that they say nothing of whose text this is, ascending."""
        s = self.settings
        share = s.template_sample / max(len(self.kept), 1)
        limit = np.uint64(min(int(share * 2.0**64), 2**64 - 1))
        owners, sets, base = [], [], 0
        for path in self.collected:
            table, counts, hashes = map_arrays(path)
            single = self.kept[base : base + len(counts)] < 0
            sampled = single & (mix(np.asarray(table[1])) <= limit)
            sets.append(hashes[np.repeat(sampled, counts)])
            owners.append(np.repeat(table[1][sampled], counts[sampled]))
            base += len(counts)
        units, owner = np.unique(np.concatenate([np.empty(0, np.uint64), *owners]), return_inverse=True)
        hashed = np.concatenate([np.empty(0, np.uint32), *sets]).astype(np.uint64)
        # Once for each patient, however many of the patient's notes hold it.
        pairs = distinct((hashed << np.uint64(32)) | owner.astype(np.uint64))
        found, patients = np.unique((pairs >> np.uint64(32)).astype(np.uint32), return_counts=True)
        return found[patients >= max(s.template_patients, s.template_share * len(units))]

    def _repeated(self) -> npt.NDArray[np.bool_]:
        """By the first bits of a shingle, whether more than one text has it: the others cannot propose a pair."""
        total = sum(len(map_arrays(path)[2]) for path in self.collected)
        bits = min(max(10, (32 * total).bit_length()), _TABLE_BITS)
        self.shift = np.uint32(32 - bits)
        times = np.zeros(1 << bits, dtype=np.uint8)
        base = 0
        for path in self.collected:
            table, counts, hashes = map_arrays(path)
            single = self.kept[base : base + table.shape[1]] < 0
            slots, found = np.unique(hashes[np.repeat(single, counts)] >> self.shift, return_counts=True)
            times[slots] = np.minimum(times[slots] + found, 2)
            base += table.shape[1]
        return times > 1

    def _write_compared(self) -> None:
        """Write what the documents are compared by: their shingles, and keys of those that can tell."""
        bases = np.cumsum([0, *(map_arrays(path)[0].shape[1] for path in self.collected)])
        threads = min(8, os.cpu_count() or 1)
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(threads))
            names = ("number", "owner", "count", "limit", "hashes", *(f"band{b}" for b in range(self.settings.bands)))
            files = [stack.enter_context((self.scratch / name).open("wb")) for name in names]
            for at in range(0, len(self.collected), threads):
                some = range(at, min(at + threads, len(self.collected)))
                for arrays in pool.map(lambda i: self._compared(self.collected[i], int(bases[i])), some):
                    for file, array in zip(files, arrays, strict=True):
                        file.write(np.ascontiguousarray(array).tobytes())

    def _compared(self, path: Path, base: int) -> list[Array]:
        s = self.settings
        table, counts16, mapped = map_arrays(path)
        counts, hashes = counts16.astype(np.int64), np.asarray(mapped)
        ends = np.cumsum(counts)
        owner = np.repeat(np.arange(len(counts)), counts)
        # Bands are made of what tells texts apart: no templates, and nothing that only one text has, such as what an
        # edited word leaves behind.
        telling = self.repeated[hashes >> self.shift]
        telling[telling] = ~_among(hashes[telling], self.templates)
        left = np.bincount(owner[telling], minlength=len(counts))
        enough = (left >= s.min_own) & (self.kept[base : base + len(counts)] < 0)
        # A sample of shingles is complete up to its greatest hash.
        limit = np.full(len(counts), 2**32 - 1, dtype=np.uint32)
        full = counts == s.max_shingles
        limit[full] = hashes[ends[full] - 1]
        bands = band_keys(hashes[telling & enough[owner]], left[enough], s.bands, s.rows)
        numbers = np.flatnonzero(enough) + base
        return [numbers, table[1][enough], counts[enough], limit[enough], hashes[enough[owner]], *bands]

    def _column(self, name: str, kind: npt.DTypeLike) -> Array:
        path = self.scratch / name
        return np.memmap(path, kind, "r") if path.stat().st_size else np.empty(0, kind)

    def _compare(self, rows: I64, first: npt.NDArray[np.bool_]) -> None:
        """Compare each document of a group with the group's first, and with the one before it."""
        leader = rows[first][np.cumsum(first) - 1]
        before = np.roll(rows, 1)
        wanted = ~first & (self.twin[rows] < 0)
        near = wanted & (before != leader)
        left = np.concatenate([leader[wanted], before[near]])
        right = np.concatenate([rows[wanted], rows[near]])
        for at in range(0, len(left), _BATCH_PAIRS):
            some = slice(at, at + _BATCH_PAIRS)
            alike = self._alike(left[some], right[some])
            # Of several, the earliest: written last to first.
            earlier, later = left[some][alike][::-1], right[some][alike][::-1]
            free = self.twin[later] < 0
            self.twin[later[free]] = earlier[free]

    def _alike(self, left: I64, right: I64) -> npt.NDArray[np.bool_]:
        """Whether pairs of documents are duplicates."""
        s, pairs = self.settings, len(left)
        limit = np.minimum(self.limit[left], self.limit[right])
        ours, our_counts = self._sets(left, limit)
        theirs, their_counts = self._sets(right, limit)
        common, pair = shared(ours, our_counts, theirs, their_counts)
        both = np.bincount(pair, minlength=pairs)
        index = both / np.maximum(our_counts + their_counts - both, 1)
        own = np.bincount(pair[~_among(common, self.templates)], minlength=pairs)
        fewer = np.minimum(self._own(ours, our_counts), self._own(theirs, their_counts))
        same = self.owner[left] == self.owner[right]
        alike: npt.NDArray[np.bool_] = index >= np.where(same, s.threshold_same_patient, s.threshold)
        return alike & (fewer >= s.min_own) & (own >= s.own_threshold * fewer)

    def _own(self, hashes: U32, counts: I64) -> I64:
        """How many shingles of each set are no templates."""
        owner = np.repeat(np.arange(len(counts)), counts)
        return np.bincount(owner[~_among(hashes, self.templates)], minlength=len(counts))

    def _sets(self, rows: I64, limit: U32) -> tuple[U32, I64]:
        """The shingles of documents up to a hash each, one after the other, and their numbers."""
        counts = np.asarray(self.count[rows])
        starts = np.cumsum(counts) - counts
        hashes = self.hashes[np.repeat(self.start[rows] - starts, counts) + np.arange(counts.sum())]
        pair = np.repeat(np.arange(len(rows)), counts)
        inside = hashes <= limit[pair]
        return hashes[inside], np.bincount(pair[inside], minlength=len(rows))

    def _settle(self) -> None:
        """See to it that whoever leaves is like somebody who stays, not only like another who leaves."""
        for row in np.flatnonzero(self.twin >= 0):
            stays = self.twin[self.twin[row]]
            if stays >= 0:
                alike = self._alike(np.array([stays]), np.array([row]))[0]
                self.twin[row] = stays if alike else _NONE


def _among(values: U32, known: U32) -> npt.NDArray[np.bool_]:
    """Which values are among known ones, ascending."""
    if not len(known):
        return np.zeros(len(values), dtype=np.bool_)
    at = np.minimum(np.searchsorted(known, values), len(known) - 1)
    found: npt.NDArray[np.bool_] = known[at] == values
    return found


def bytes_a_document(shingles_each: float, settings: DuplicateSettings) -> dict[str, float]:
    """What de-duplication needs for each document, in bytes.

    Args:
        shingles_each: mean number of shingles kept.
        settings: of the filter.

    Returns:
        ``collected`` (kept on disk until the corpus is done), ``scratch`` (on disk while documents are compared), and
        ``memory``, to which sorting adds 24 bytes for each of at most 2**26 rows.
    """
    collected = 24 + 2 + 4 * shingles_each
    scratch = 8 + 8 + 8 + 4 + 4 * shingles_each + 8 * settings.bands
    # kept, exact, twin, start, places
    return {"collected": collected, "scratch": scratch, "memory": 8.0 + 1 + 8 + 8 + 8}
