"""Passages copied forward inside a patient's chart: what stood in an earlier note is taken out of the later ones.

A note is cut into segments: sentences, and lines where a line ends a thought. A segment is repeated if an earlier note
of the same patient has it, whatever its case and white space. A run of repeated segments of enough words is a passage
copied forward; short repeated phrases ("Lungs: clear.") stay. A sentence in which a value changed is news and stays.

Segments of all notes are hashed once, in any number of processes; finding the repeated ones is a sort over some
patients at a time, so memory is bounded and the result the same whoever did the work.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from lang1.common.identity import patient_hash
from lang1.corpus.arrays import Array, map_arrays, write_arrays
from lang1.corpus.filters import Document, Filter, FilterSettings, Report
from lang1.corpus.minhash import I64, U64, mix

# Ends of sentences, blank lines, and line ends unless the next line goes on in lower case (wrapped prose).
_BOUNDARY = re.compile(r"(?<=[.!?;])\s+|[ \t]*\n(?:\s*\n\s*|[ \t]*(?![ \ta-z]))")
# Notes of which nobody knows when they became available come after those of which it is known, in the corpus's order.
_UNKNOWN_TIME = np.iinfo(np.int64).max
_EPOCH = datetime(1970, 1, 1)
# Segments sorted together; about 100 bytes each while sorting.
_SORT_ROWS = 1 << 24
_BUCKETS = 64


class CopyForwardSettings(FilterSettings):
    """What counts as copied forward, and what becomes of it."""

    # Words of a run of repeated segments from which it is a passage: about two lines. Shorter repetitions are the
    # phrases of which every note is made.
    min_words: int = Field(default=20, ge=1)
    # The share of passages that stay all the same, drawn by a hash of patient and passage: 0 removes every one, 0.2
    # gives repeated text a fifth of its weight, 1 only counts.
    keep: float = Field(default=0.0, ge=0, le=1)
    min_words_left: int = Field(default=10, ge=0)  # a note with fewer new words is left out


def segments(text: str) -> list[tuple[int, int]]:
    """Where the segments of a text start and end, as characters; together they cover all of it but what parts them."""
    found, start = [], 0
    for boundary in _BOUNDARY.finditer(text):
        if boundary.start() > start:
            found.append((start, boundary.start()))
        start = boundary.end()
    if start < len(text):
        found.append((start, len(text)))
    return found


class CopyForward(Filter[CopyForwardSettings]):
    """Takes passages out of a note that stood in an earlier note of the same patient."""

    name: ClassVar[str] = "copy_forward"
    settings_class: ClassVar[type[FilterSettings]] = CopyForwardSettings
    for_general: ClassVar[bool] = False
    prepares: ClassVar[bool] = True
    collects: ClassVar[bool] = True

    def apply(self, document: Document, report: Report) -> Document | None:
        """The document without what was copied into it; None where too little is new. Counted by note type."""
        label = document.note_type or document.source
        report.count(self.name, f"documents: {label}")
        report.count(self.name, f"characters: {label}", len(document.text))
        places, starts, ends, stays = self._passages
        low, high = (int(np.searchsorted(places, document.place, side=side)) for side in ("left", "right"))
        if low == high:
            return document
        report.count(self.name, f"documents with passages: {label}")
        pieces, at = [], 0
        for row in range(low, high):
            start, end = int(starts[row]), int(ends[row])
            if stays[row]:
                report.count(self.name, f"passages kept by chance: {label}")
                continue
            report.count(self.name, f"passages removed: {label}")
            report.count(self.name, f"characters removed: {label}", end - start)
            pieces.append(document.text[at:start])
            at = end
        if not at:
            return document
        text = "".join([*pieces, document.text[at:]]).strip()
        words = len(text.split())
        if words < self.settings.min_words_left or not text:
            report.leave_out("nothing new: copied forward")
            report.count(self.name, f"documents left out: {label}")
            report.count(self.name, f"characters in documents left out: {label}", len(text))
            return None
        return Document(**{**document.__dict__, "text": text})

    @cached_property
    def _passages(self) -> list[Array]:
        assert self.context.artefact is not None
        return map_arrays(self.context.artefact)

    def collect(self, documents: Iterator[Document], out: Path) -> None:
        """Write, sorted by patient, each note's owner, time, place and number of segments, and the segments."""
        notes: list[tuple[int, int, int, int]] = []
        hashes: list[int] = []
        spans: list[tuple[int, int, int]] = []
        for document in documents:
            found = segments(document.text)
            since = _UNKNOWN_TIME
            if document.available_time is not None:
                delta = document.available_time - _EPOCH
                since = (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
            notes.append((patient_hash(document.unit), since, document.place, len(found)))
            following = [*(start for start, _ in found[1:]), len(document.text)][: len(found)]
            for (start, end), then in zip(found, following, strict=True):
                words = document.text[start:end].lower().split()
                plain = " ".join(words).encode("utf-8", "surrogatepass")
                hashes.append(int.from_bytes(hashlib.blake2b(plain, digest_size=8).digest(), "little"))
                spans.append((start, then, len(words)))
        table = np.array(notes, dtype=np.int64).reshape(-1, 4)
        order = np.argsort(table[:, 0], kind="stable")
        moved = _ragged(table[:, 3], order)
        keys = np.array(hashes, dtype=np.uint64)[moved]
        write_arrays(out, [table[order].T, keys, np.array(spans, dtype=np.uint32).reshape(-1, 3)[moved].T])

    def combine(self, collected: Sequence[Path], out: Path) -> None:
        """Find the passages copied forward.

        Writes their notes' places, ascending, where they start and end in the note, and whether they stay.
        """
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
            bucketed = _Buckets(
                Path(scratch), max((int(map_arrays(p)[0][2].max(initial=0)) for p in collected), default=0)
            )
            for notes, keys, spans in _by_patient(collected):
                bucketed.add(self._find(notes, keys, spans))
            write_arrays(out, bucketed.columns())

    def _find(self, notes: I64, keys: U64, spans: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
        """The passages in the notes of some patients: place, start, end, stays; shape (4, passages)."""
        order = np.lexsort((notes[2], notes[1], notes[0]))
        moved = _ragged(notes[3], order)
        notes, keys, spans = notes[:, order], keys[moved], spans[:, moved]
        note = np.repeat(np.arange(notes.shape[1]), notes[3])
        patient = mix(notes[0].astype(np.uint64))[note]
        said = mix(keys ^ patient)
        by_key = np.argsort(said, kind="stable")
        first = np.concatenate([[True], said[by_key][1:] != said[by_key][:-1]])[: len(said)]
        repeated = np.empty(len(said), dtype=np.bool_)
        repeated[by_key] = note[by_key] > note[by_key[first]][np.cumsum(first) - 1]
        # Runs of repeated segments within a note.
        starts = repeated & np.concatenate([[True], ~repeated[:-1] | (note[1:] != note[:-1])])[: len(said)]
        ends = repeated & np.concatenate([~repeated[1:] | (note[1:] != note[:-1]), [True]])[: len(said)]
        words = np.concatenate([[0], np.cumsum(spans[2].astype(np.int64))])
        head, tail = np.flatnonzero(starts), np.flatnonzero(ends)
        enough = words[tail + 1] - words[head] >= self.settings.min_words
        head, tail = head[enough], tail[enough]
        place = notes[2][note[head]]
        draw = mix(said[head] ^ mix(notes[1][note[head]].astype(np.uint64)))
        stays = draw < np.uint64(min(int(self.settings.keep * 2.0**64), 2**64 - 1))
        return np.stack(
            [place, spans[0][head].astype(np.int64), spans[1][tail].astype(np.int64), stays.astype(np.int64)]
        )


def _ragged(counts: I64, order: I64) -> I64:
    """The rows of groups that stand one after the other, once the groups are put in another order."""
    starts = (np.cumsum(counts) - counts)[order]
    sizes = counts[order]
    return np.repeat(starts - (np.cumsum(sizes) - sizes), sizes) + np.arange(sizes.sum())


def _by_patient(collected: Sequence[Path], rows: int = _SORT_ROWS) -> Iterator[tuple[I64, U64, npt.NDArray[np.uint32]]]:
    """All notes of some patients at a time: the notes, their segments' hashes, and their spans."""
    total = sum(len(map_arrays(path)[1]) for path in collected)
    shares = max(1, -(-total // rows))
    for share in range(shares):
        low, high = ((share + i) * 2**63 // shares for i in (0, 1))
        found: list[tuple[Array, Array, Array]] = []
        for path in collected:
            notes, keys, spans = map_arrays(path)
            first = int(np.searchsorted(notes[0], np.int64(low)))
            # Patient hashes have 63 bits: there is none from 2**63 on, and int64 could not say so.
            last = int(np.searchsorted(notes[0], np.int64(high))) if high < 2**63 else notes.shape[1]
            ends = np.concatenate([[0], np.cumsum(notes[3])])
            some = slice(int(ends[first]), int(ends[last]))
            found.append((notes[:, first:last], keys[some], spans[:, some]))
        if found:
            yield tuple(np.concatenate(columns, axis=-1) for columns in zip(*found, strict=True))  # type: ignore[misc]


class _Buckets:
    """Passages put in the order of their places on disk: first into buckets of places, then sorted within each."""

    def __init__(self, folder: Path, last: int) -> None:
        self.folder, self.width = folder, last // _BUCKETS + 1

    def add(self, passages: npt.NDArray[np.int64]) -> None:
        bucket = passages[0] // self.width
        for one in np.unique(bucket):
            with (self.folder / f"bucket{one}").open("ab") as stream:
                stream.write(np.ascontiguousarray(passages[:, bucket == one].T).tobytes())

    def columns(self) -> list[Array]:
        kinds = (("places", np.int64), ("starts", np.uint32), ("ends", np.uint32), ("stays", np.uint8))
        for one in range(_BUCKETS):
            path = self.folder / f"bucket{one}"
            rows = np.fromfile(path, dtype=np.int64).reshape(-1, 4) if path.exists() else np.empty((0, 4), np.int64)
            rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
            for (name, kind), column in zip(kinds, rows.T, strict=True):
                with (self.folder / name).open("ab") as stream:
                    stream.write(column.astype(kind).tobytes())
        paths = [(self.folder / name, kind) for name, kind in kinds]
        return [np.memmap(path, kind, "r") if path.stat().st_size else np.empty(0, kind) for path, kind in paths]
