"""Which notes of a health system may enter a corpus, and reading them.

The benchmark's split table decides: only notes of patients of its training fold, available before its pretraining cut.
Where the records' times are not true dates (``time_basis`` other than ``calendar``) no cut can be drawn between
patients, and the fold alone decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lang1.common.errors import ArtefactError, InputError
from lang1.common.identity import patient_hash, read_patient_hashes, unit_hash
from lang1.corpus.filters import Document, Report
from lang1.records.schema import NOTE_TYPES
from lang1.records.store import Records, part_files, quoted
from lang1.remede.benchmark import SPLITS_FILE, Benchmark

_BATCH_ROWS = 1000
_SALT = "corpus validation"
_COLUMNS = ["note_id", "patient_id", "note_type", "department", "available_time", "text"]


@dataclass(frozen=True)
class NoteRules:
    """Who may enter from one records folder; plain values, so that any process can be given them.

    Attributes:
        records: the records folder.
        folds: a Parquet file of ``patient_id, fold``, the benchmark's split table; None takes every patient.
        held_out: a folder with ``patient_hashes.npy`` of patients who stay out although no split table covers these
            records: a second health system can share patients with the benchmark.
        cut: ISO time before which a note must have been available; None sets no limit.
        timed: whether a note of unknown time stays out.
        types: the note types to take; None takes all.
    """

    records: str
    folds: str | None = None
    held_out: str | None = None
    cut: str | None = None
    timed: bool = False
    types: tuple[str, ...] | None = None

    @classmethod
    def of(cls, records: Records, benchmark: Benchmark | None, covered: bool, types: Sequence[str] | None) -> NoteRules:
        """The rules for one records folder.

        Args:
            records: the health system.
            benchmark: whose held-out patients and cut count, where there is one.
            covered: whether the benchmark was made from these records, so that its split table names each patient.
            types: see :class:`NoteRules`.

        Raises:
            InputError: an unknown note type.
        """
        for name in types or ():
            if name not in NOTE_TYPES:
                raise InputError(f"note_types: '{name}' is not a note type; types are {', '.join(NOTE_TYPES)}.")
        calendar = records.time_basis == "calendar"
        cut = benchmark.pretraining_cut if benchmark is not None and calendar else None
        place = str(benchmark.folder.path.resolve()) if benchmark is not None else None
        return cls(
            str(records.path.resolve()),
            folds=f"{place}/{SPLITS_FILE}" if covered else None,
            held_out=place if not covered else None,
            cut=cut.isoformat() if cut is not None else None,
            timed=calendar and (covered or cut is not None),
            types=tuple(types) if types is not None else None,
        )

    @property
    def guarded(self) -> bool:
        """Whether a benchmark's split table decides over these patients."""
        return self.folds is not None


class EligibleNotes:
    """The notes of one records folder that may enter a corpus.

    Args:
        rules: see :class:`NoteRules`.
    """

    def __init__(self, rules: NoteRules) -> None:
        self.rules = rules

    @property
    def files(self) -> list[Path]:
        """The part files, in order."""
        return part_files(Path(self.rules.records), "notes")

    @cached_property
    def bytes(self) -> int:
        """Bytes of UTF-8 of the notes that the split table, the cut and the note types let in."""
        listed = ", ".join(quoted(file) for file in self.files)
        with closing(duckdb.connect(":memory:", config={"memory_limit": "2GB"})) as connection:
            found = connection.execute(
                f"SELECT sum(strlen(text)) FROM ({self.judged(f'read_parquet([{listed}])', 'text')}) "
                "WHERE reason IS NULL"
            ).fetchall()
        return int(found[0][0] or 0)

    def sample(self, share: float) -> Iterator[Document]:
        """About this share of the notes, chosen by a hash of the note's id, in the order of the files."""
        for file in self.files:
            groups = pq.read_metadata(file).num_row_groups
            yield from self.read(file, 0, groups, Report(), share)

    def read(self, file: Path, start: int, stop: int, report: Report, share: float = 1.0) -> Iterator[Document]:
        """The notes that may enter from row groups ``start`` to ``stop`` of a part file, as stored, in its order.

        Memory holds a batch of notes, and a verdict for each row.

        Args:
            file: a part of the notes table.
            start: the first row group.
            stop: one past the last.
            report: counts the notes left out, by the first rule that each breaks.
            share: take about this share of the notes, by a hash of the note's id.

        Raises:
            ArtefactError: the file cannot be read.
        """
        try:
            with pq.ParquetFile(file) as table:
                rows = [table.metadata.row_group(i).num_rows for i in range(stop)]
                first, last = sum(rows[:start]), sum(rows)
                reasons, verdicts = self._verdicts(file, first, last, share)
                for number, count in zip(*np.unique(verdicts, return_counts=True), strict=True):
                    if reasons[number]:
                        report.leave_out(str(reasons[number]), int(count))
                at = 0
                for batch in table.iter_batches(_BATCH_ROWS, row_groups=list(range(start, stop)), columns=_COLUMNS):
                    wanted = verdicts[at : at + batch.num_rows] == 0
                    at += batch.num_rows
                    for row in batch.filter(pa.array(wanted)).select(_COLUMNS).to_pylist():
                        if self.holds_out(row["patient_id"]):
                            report.leave_out("patient held out by the benchmark")
                            continue
                        yield Document(unit=row.pop("patient_id"), **row)
        except (pa.ArrowException, OSError) as error:
            raise ArtefactError(f"{file}: not readable as Parquet ({error}); make the records again.") from error

    def holds_out(self, patient_id: str) -> bool:
        """Whether the benchmark holds this patient out although its split table does not cover these records."""
        return len(self._held_out) > 0 and _among(patient_hash(patient_id), self._held_out)

    @cached_property
    def _held_out(self) -> npt.NDArray[np.int64]:
        folder = self.rules.held_out
        return read_patient_hashes(Path(folder)) if folder is not None else np.empty(0, dtype=np.int64)

    def _verdicts(self, file: Path, first: int, last: int, share: float) -> tuple[list[Any], npt.NDArray[np.int64]]:
        """For each row of a file from ``first`` to ``last``: 0 where it may enter, else the number of its reason.

        Reason 1, "", is a note that is only not in the sample.
        """
        scan = (
            f"(SELECT * FROM read_parquet({quoted(file)}, file_row_number=true) "
            f"WHERE file_row_number >= {first} AND file_row_number < {last})"
        )
        drawn = "true"
        if share < 1:  # compared with the first hexadecimal digits of MD5
            drawn = f"left(md5(note_id), 12) < '{int(share * 16**12):012x}'"
        with closing(duckdb.connect(":memory:", config={"memory_limit": "2GB", "threads": 1})) as connection:
            found = connection.execute(
                f"SELECT CASE WHEN reason IS NULL AND NOT ({drawn}) THEN '' ELSE reason END AS reason "
                f"FROM ({self.judged(scan, 'note_id, file_row_number')}) ORDER BY file_row_number"
            ).fetchall()
        reasons: list[Any] = [None, ""]
        numbers = {None: 0, "": 1}
        verdicts = np.zeros(len(found), dtype=np.int64)
        for row, (reason,) in enumerate(found):
            if reason not in numbers:
                numbers[reason] = len(reasons)
                reasons.append(reason)
            verdicts[row] = numbers[reason]
        return reasons, verdicts

    def judged(self, scan: str, columns: str) -> str:
        """SQL: every note of ``scan``, and the first rule that leaves it out, null where it may enter."""
        rules, join = [], ""
        if self.rules.folds is not None:
            join = (
                f"LEFT JOIN (SELECT patient_id, fold FROM read_parquet({quoted(self.rules.folds)})) USING (patient_id)"
            )
            rules += [
                "WHEN fold IS NULL THEN 'patient not in the benchmark''s split table'",
                "WHEN fold <> 'train' THEN 'patient held out: ' || fold",
            ]
        if self.rules.types is not None:
            listed = ", ".join(quoted(name) for name in self.rules.types)
            rules.append(f"WHEN note_type NOT IN ({listed}) THEN 'note type not asked for'")
        if self.rules.timed:
            rules.append("WHEN available_time IS NULL THEN 'availability time unknown'")
        if self.rules.cut is not None:
            moment = f"TIMESTAMP '{datetime.fromisoformat(self.rules.cut).isoformat(sep=' ')}'"
            rules.append(f"WHEN available_time >= {moment} THEN 'not available before the training cut'")
        reason = f"CASE {' '.join(rules)} END" if rules else "NULL::VARCHAR"
        return f"SELECT {columns}, {reason} AS reason FROM {scan} {join}"


def validation_draw(key: str) -> float:
    """A number in [0, 1) for a patient or document; those under the validation share are held out for validation."""
    return unit_hash(key, _SALT)


def _among(value: int, ordered: npt.NDArray[np.int64]) -> bool:
    place = int(np.searchsorted(ordered, value))
    return place < len(ordered) and int(ordered[place]) == value
