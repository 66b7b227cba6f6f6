"""X12 files to the relations ``submissions`` and ``remits``: interchanges, groups and transaction sets, if whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from lang1.common.errors import InputError
from lang1.common.progress import Meter
from lang1.records.readers.source import find_files
from lang1.records.readers.staging import Staging
from lang1.records.readers.x12_claims import SUBMISSIONS, Claims837, Envelope, TransactionSet, day, moment
from lang1.records.readers.x12_remits import REMITS, Remits835
from lang1.records.readers.x12_segments import Segment, read_segments

SCHEMAS = {"submissions": SUBMISSIONS, "remits": REMITS}
ROWS_AT_ONCE = 20_000


def x12_files(source: Path) -> dict[str, Path]:
    """The files by a name that tells them apart, in order of name; hidden ones are passed over.

    Raises:
        InputError: there is none.
    """
    if source.is_dir():
        found = sorted(p for p in source.rglob("*") if p.is_file())
        files = {p.relative_to(source).as_posix(): p for p in found}
        files = {name: p for name, p in files.items() if not any(part.startswith(".") for part in Path(name).parts)}
        if not files:
            raise InputError(f"{source}: no files in this folder; expected 837 and 835 files.")
        return files
    paths = find_files(Path(), str(source), "the X12 source")
    names = [p.name for p in paths]
    return {p.name if names.count(p.name) == 1 else p.as_posix(): p for p in paths}


class Reader:
    """Files to ``submissions`` and ``remits``; counts what is left out and what is odd."""

    def __init__(self, stage: Staging, key: str, *, keep_wrong_counts: bool) -> None:
        self.stage, self.key, self.keep_wrong_counts = stage, key, keep_wrong_counts
        self.sets: Counter[str] = Counter()
        self.oddities: Counter[str] = Counter()
        self.odd_examples: dict[str, str] = {}
        self.waiting: dict[str, list[dict[str, Any]]] = {name: [] for name in SCHEMAS}
        self._seen: set[bytes] = set()
        self._file = ""

    def left_out(self, reason: str, number: int) -> None:
        """Count something of the file at hand that is not taken."""
        self.stage.count(reason, 1, f"{self._file} segment {number}")

    def odd(self, reason: str, number: int) -> None:
        """Count something of the file at hand that is taken, but odd."""
        self.oddities[reason] += 1
        self.odd_examples.setdefault(reason, f"{self._file} segment {number}")

    def read(self, files: dict[str, Path]) -> None:
        """All files.

        Raises:
            InputError: none holds a whole 837 or 835.
        """
        for name, schema in SCHEMAS.items():
            self.stage.load(name, schema, [])
        with Meter("ingest x12", len(files), "files") as meter:
            for name, path in files.items():
                self._file = name
                try:
                    self._read(read_segments(path, self.left_out), Envelope(name))
                except OSError as error:
                    raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from error
                meter.add(1, name)
        self._flush(at_least=0)
        if not self.sets["837"] + self.sets["835"]:
            told = "; ".join(f"{reason} ({self.stage.examples[reason]})" for reason in sorted(self.stage.examples))
            raise InputError(f"no 837 or 835 transaction set in {len(files)} files. {told or 'They are empty.'}")

    def _read(self, segments: Iterator[Segment], envelope: Envelope) -> None:
        open_set: TransactionSet | None = None
        other = ""  # the kind of an open transaction set that is passed over
        control, last = "", 0
        groups, sets = -1, -1  # counted since the header; -1 outside
        for segment in segments:
            last = segment.number
            if segment.id in ("ISA", "GS", "ST", "GE", "IEA") and (open_set or other):
                self._cut_short(open_set, other, segment.number)
                open_set, other = None, ""
            match segment.id:
                case "ISA":
                    if groups >= 0:
                        self.odd("an interchange without its trailer (IEA)", segment.number)
                    groups, sets = 0, -1
                    envelope.sent = moment(segment.get(9), segment.get(10))
                    envelope.version, envelope.group_date = "", None
                case "GS":
                    groups, sets = groups + 1, 0
                    envelope.version, envelope.group_date = segment.get(8), day(segment.get(4))
                case "ST":
                    sets += 1
                    control, kind = segment.get(2), segment.get(1)
                    number = sum(self.sets.values())
                    if kind == "837":
                        open_set = Claims837(envelope, self, self.key, number)
                    elif kind == "835":
                        open_set = Remits835(envelope, self, self.key, number)
                    else:
                        other = kind or "(none)"
                    if open_set:
                        open_set.take(segment)
                case "SE" if open_set is not None:
                    open_set.take(segment)
                    self._close(open_set, segment, control)
                    open_set = None
                case "SE" if other:
                    self.sets[other] += 1
                    self.left_out(f"transaction set {other} (neither claims nor remittances)", segment.number)
                    other = ""
                case "GE":
                    if segment.get(1) != str(sets):
                        self.odd("a group trailer (GE01) counts other transaction sets than there are", segment.number)
                case "IEA":
                    if segment.get(1) != str(groups):
                        self.odd("an interchange trailer (IEA01) counts other groups than there are", segment.number)
                    groups = -1
                case "TA1":  # an acknowledgement, which stands outside sets
                    pass
                case _ if open_set is not None:
                    open_set.take(segment)
                case _ if not other:
                    self.left_out("a segment outside any transaction set", segment.number)
        if open_set or other:
            self._cut_short(open_set, other, last)
        if groups >= 0:
            self.odd("an interchange without its trailer (IEA)", last)

    def _cut_short(self, open_set: TransactionSet | None, other: str, number: int) -> None:
        kind = open_set.kind if open_set else other
        self.left_out(f"transaction set {kind} without its trailer (SE): cut short", number)
        if open_set:
            open_set.close()
            for row in open_set.rows:
                self.left_out(f"{kind}: claims of a transaction set that was cut short", row["_row"])

    def _close(self, whole: TransactionSet, trailer: Segment, control: str) -> None:
        whole.close()
        self.sets[whole.kind] += 1
        said = trailer.get(1)
        if not said.isdigit() or int(said) != whole.segments:
            reason = f"{whole.kind}: the trailer (SE01) counts other segments than there are"
            if not self.keep_wrong_counts:
                for row in whole.rows:
                    self.left_out(f"{reason}: its claims", row["_row"])
                return
            self.odd(reason, trailer.number)
        if trailer.get(2) != control:
            self.odd(f"{whole.kind}: control numbers of header and trailer differ", trailer.number)
        digest = whole.digest.digest()
        if whole.rows and digest in self._seen:
            self.left_out(f"transaction set {whole.kind}: the same as one before", trailer.number)
            return
        self._seen.add(digest)
        self.waiting[whole.relation] += whole.rows
        self._flush(at_least=ROWS_AT_ONCE)

    def _flush(self, at_least: int) -> None:
        for name, rows in self.waiting.items():
            if rows and len(rows) >= at_least:
                table = pa.Table.from_pylist(rows, schema=SCHEMAS[name])
                self.stage.load(name, SCHEMAS[name], table.to_batches())
                rows.clear()
