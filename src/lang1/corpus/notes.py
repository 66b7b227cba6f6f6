"""Which notes of a health system may enter a corpus, and reading them.

The benchmark's split table decides: only notes of patients of its training fold, available before its pretraining cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

import duckdb
import pyarrow as pa

from lang1.common.errors import InputError
from lang1.common.identity import unit_hash
from lang1.records.schema import NOTE_TYPES
from lang1.records.store import Records

_BATCH_ROWS = 1000
_SALT = "corpus validation"
# One thread: the rows of a streamed query come in the order of the files, so that the same records give the same
# bytes. Reading is many times faster than tokenizing all the same.
_THREADS = 1


@dataclass(frozen=True)
class Note:
    """A note that may enter: opaque ids and its text as stored."""

    note_id: str
    patient_id: str
    text: str


class EligibleNotes:
    """The notes of one records folder that may enter a corpus.

    Args:
        records: the health system.
        folds: ``patient_id, fold`` of the benchmark; None takes every patient (unguarded).
        cut: notes must have been available before this time; None sets no limit.
        note_types: which types to take; None takes all.

    Raises:
        InputError: an unknown note type.
    """

    def __init__(
        self, records: Records, folds: pa.Table | None, cut: datetime | None, note_types: tuple[str, ...] | None
    ) -> None:
        for name in note_types or ():
            if name not in NOTE_TYPES:
                raise InputError(f"note_types: '{name}' is not a note type; types are {', '.join(NOTE_TYPES)}.")
        self.records = records
        self._folds = folds
        calendar = records.time_basis == "calendar"
        self._cut = cut if calendar else None
        self._must_be_timed = calendar and (folds is not None or cut is not None)
        self._types = list(note_types) if note_types is not None else None

    @property
    def guarded(self) -> bool:
        """Whether a benchmark's split table decides over these patients."""
        return self._folds is not None

    @property
    def left_out(self) -> dict[str, int]:
        """Notes left out, by reason, each note once: the first rule that it breaks, in the order of the rules."""
        return {reason: count for reason, (count, _) in self._tally.items() if reason is not None}

    @property
    def count(self) -> int:
        """How many notes may enter."""
        return self._tally.get(None, (0, 0))[0]

    @property
    def bytes(self) -> int:
        """Bytes of UTF-8 of the notes that may enter."""
        return self._tally.get(None, (0, 0))[1]

    @cached_property
    def _tally(self) -> dict[str | None, tuple[int, int]]:
        with closing(self._connect()) as connection:
            rows = connection.execute(
                "SELECT reason, count(*), sum(strlen(text)) FROM judged GROUP BY reason ORDER BY reason"
            ).fetchall()
        return {reason: (int(count), int(size)) for reason, count, size in rows}

    def sample(self, share: float) -> Iterator[str]:
        """Texts of about this share of the notes, chosen by a hash of the note's id."""
        if share >= 1:
            yield from (note.text for note in self)
            return
        threshold = f"{int(share * 16**12):012x}"  # compared with the first hexadecimal digits of MD5
        yield from (note.text for note in self._read(f"AND left(md5(note_id), 12) < '{threshold}'"))

    def __iter__(self) -> Iterator[Note]:
        return self._read("")

    def _read(self, also: str) -> Iterator[Note]:
        with closing(self._connect()) as connection:
            connection.execute(f"SELECT note_id, patient_id, text FROM judged WHERE reason IS NULL {also}")
            while rows := connection.fetchmany(_BATCH_ROWS):
                yield from (Note(*row) for row in rows)

    def _connect(self) -> duckdb.DuckDBPyConnection:
        """A connection with the view ``judged``: every note, and why it is left out or null where it may enter."""
        connection = self.records.connect(threads=_THREADS)
        rules, join = [], ""
        if self._folds is not None:
            connection.register("folds", self._folds)
            join = "LEFT JOIN folds USING (patient_id)"
            rules += [
                "WHEN fold IS NULL THEN 'patient not in the benchmark''s split table'",
                "WHEN fold <> 'train' THEN 'patient held out: ' || fold",
            ]
        if self._types is not None:
            listed = ", ".join(f"'{name}'" for name in self._types)
            rules.append(f"WHEN note_type NOT IN ({listed}) THEN 'note type not asked for'")
        if self._must_be_timed:
            rules.append("WHEN available_time IS NULL THEN 'availability time unknown'")
        if self._cut is not None:
            moment = f"TIMESTAMP '{self._cut.isoformat(sep=' ')}'"
            rules.append(f"WHEN available_time >= {moment} THEN 'not available before the training cut'")
        reason = f"CASE {' '.join(rules)} END" if rules else "NULL::VARCHAR"
        connection.execute(
            f"CREATE TEMP VIEW judged AS SELECT note_id, patient_id, text, {reason} AS reason FROM notes {join}"
        )
        return connection


def validation_draw(key: str) -> float:
    """A number in [0, 1) for a patient or document; those under the validation share are held out for validation."""
    return unit_hash(key, _SALT)
