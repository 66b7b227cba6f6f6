"""From X12 segments to rows: what every transaction set shares, and claims as submitted (837).

Only what adjudication and the join to encounters need is read. Rows of a transaction set are handed on when its trailer
has come, so that a set that was cut short gives none.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from datetime import date, datetime
from typing import Any, Protocol

import pyarrow as pa

from lang1.records.readers.x12_segments import Segment

_S, _T, _D, _F, _I = pa.string(), pa.timestamp("us"), pa.date32(), pa.float64(), pa.int32()
PLACE = [pa.field("_file", _S), pa.field("_row", pa.int64())]  # _row: the number of the segment in its file

SUBMISSIONS = pa.schema(
    [
        pa.field("claim", _S),  # CLM01
        pa.field("coverage_order", _I),  # SBR01: 1 is the primary payer
        pa.field("form", _S),  # institutional | professional | dental | unknown
        pa.field("charge", _F),  # CLM02
        pa.field("submitted", _T),  # BHT04, BHT05
        pa.field("frequency", _S),  # CLM05-3: 7 replaces an earlier claim, 8 takes it back
        pa.field("purpose", _S),  # BHT06: RP reports an encounter to a payer who pays no claims
        pa.field("admitted", _D),  # DTP*435
        pa.field("service_from", _D),  # DTP*434, else of the lines
        pa.field("service_to", _D),
        pa.field("key_value", _S),
        pa.field("payer", _S),
        pa.field("payer_id", _S),
        *PLACE,
    ]
)
COVERAGE = {letter: number for number, letter in enumerate("PSTABCDEFGH", start=1)}
FORMS = {"X096": "institutional", "X223": "institutional", "X098": "professional", "X222": "professional"}
FORMS |= {"X097": "dental", "X224": "dental"}
AMOUNT = re.compile(r"-?(\d+\.?\d*|\.\d+)")

# What may follow a loop's first segment, in order; equal places in any order (release 5010, and what 4010 has besides).
_ORDER_837: dict[str, dict[str, int]] = {
    "ST": {"BHT": 1, "REF": 2},
    "HL": {"PRV": 1, "SBR": 1, "PAT": 2, "CUR": 2},
    "NM1": {"PRV": 1, "N2": 1, "N3": 2, "N4": 3, "DMG": 4, "DTP": 5, "REF": 5, "PER": 5},
    "CLM": {"DTP": 1, "CL1": 2, "DN1": 2, "DN2": 2, "PWK": 3, "CN1": 4, "DSB": 4, "UR": 4, "AMT": 5, "QTY": 5, "REF": 6}
    | {"K3": 7, "NTE": 8, "CR1": 9, "CR2": 9, "CR3": 9, "CR5": 9, "CR6": 9, "CR8": 9, "CRC": 10, "HI": 11, "HCP": 12},
    "CR7": {"HSD": 1},
    "SBR": {"CAS": 1, "AMT": 2, "DMG": 3, "OI": 4, "MIA": 5, "MOA": 5},
    "LX": {"SV1": 1, "SV2": 1, "SV3": 1, "SV4": 1, "SV5": 2, "TOO": 2, "SV6": 2, "SV7": 2, "PWK": 3, "CR1": 4, "CR2": 4}
    | {"CR3": 4, "CR5": 4, "CRC": 5, "DTP": 6, "QTY": 7, "MEA": 7, "CN1": 8, "REF": 9, "AMT": 10, "K3": 11, "NTE": 12}
    | {"PS1": 13, "IMM": 13, "HSD": 13, "HCP": 14},
    "LIN": {"CTP": 1, "REF": 2},
    "SVD": {"CAS": 1, "DTP": 2, "AMT": 3},
    "LQ": {"FRM": 1},
}


class Told(Protocol):
    """Who counts: rows left out, and oddities that are kept; each with a reason and the number of the segment."""

    def left_out(self, reason: str, number: int) -> None: ...
    def odd(self, reason: str, number: int) -> None: ...


class Envelope:
    """What a transaction set inherits from the interchange and group around it."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.sent: datetime | None = None
        self.group_date: date | None = None
        self.version = ""


class TransactionSet(ABC):
    """The rows of one transaction set; :meth:`take` its segments in order, from ST to SE."""

    relation = ""
    order: dict[str, dict[str, int]] = {}
    loops: frozenset[str] = frozenset()

    def __init__(self, envelope: Envelope, told: Told, key: str, set_number: int) -> None:
        self.envelope, self.told, self.key, self.set_number = envelope, told, key, set_number
        self.rows: list[dict[str, Any]] = []
        self.digest = hashlib.blake2b(digest_size=16)
        self.segments = 0
        self._loop, self._place = "ST", 0

    def take(self, segment: Segment) -> None:
        """Read one segment."""
        self.segments += 1
        if segment.id not in ("ST", "SE"):  # whose control numbers differ when the same set is sent again
            self.digest.update("\x1f".join(segment.elements).encode() + b"\x1e")
        if self._known(segment):
            self.read(segment)

    @abstractmethod
    def read(self, segment: Segment) -> None:
        """What a segment says."""

    @abstractmethod
    def close(self) -> None:
        """The set has ended, so its last claim is whole."""

    def opens(self, segment: Segment) -> bool:
        """Whether a segment begins a loop."""
        return segment.id in self.loops

    def _known(self, segment: Segment) -> bool:
        if segment.id in ("ST", "SE"):
            return True
        if self.opens(segment):
            self._loop, self._place = segment.id, 0
            return True
        here = self.order[self._loop].get(segment.id)
        if here is None and not any(segment.id in order for order in self.order.values()):
            name = segment.id[:8] or "(none)"
            self.told.left_out(f"{self.kind}: a segment that it has not: '{name}'", segment.number)
            return False
        if here is None or here < self._place:
            self.told.odd(f"{self.kind}: segment {segment.id} out of order", segment.number)
        else:
            self._place = here
        return True

    @property
    def kind(self) -> str:
        return "837" if self.relation == "submissions" else "835"

    def place(self, segment: Segment) -> dict[str, Any]:
        """Where a row was read."""
        return {"_file": self.envelope.file, "_row": segment.number}

    def day(self, segment: Segment, text: str) -> date | None:
        """A date as CCYYMMDD or YYMMDD; null and counted where it is none."""
        found = day(text)
        if found is None and text:
            self.told.odd(f"{self.kind}: {segment.id} holds a date that is none (taken as unknown)", segment.number)
        return found


class Claims837(TransactionSet):
    """Claims as submitted: 837 institutional, professional and dental."""

    relation, order, loops = "submissions", _ORDER_837, frozenset(_ORDER_837) - {"ST", "SBR"}

    def __init__(self, envelope: Envelope, told: Told, key: str, set_number: int) -> None:
        super().__init__(envelope, told, key, set_number)
        self.form, self.purpose = "unknown", ""
        self.submitted: datetime | None = None
        self.payer: dict[str, Any] = {}
        self.subscriber: Segment | None = None  # the SBR in force
        self.claim: dict[str, Any] | None = None
        self.part = ""  # of the claim: claim | line | other (parties, other payers)

    def opens(self, segment: Segment) -> bool:
        # SBR within a claim tells of other payers (loop 2320), before it of the payer who is asked.
        return segment.id in self.loops or (segment.id == "SBR" and self.part != "")

    def read(self, segment: Segment) -> None:
        match segment.id:
            case "ST":
                version = segment.get(3) or self.envelope.version
                self.form = next((form for mark, form in FORMS.items() if mark in version), "unknown")
            case "BHT":
                self.purpose = segment.get(6)
                self.submitted = moment(segment.get(4), segment.get(5))
                if self.submitted is None:
                    self.told.odd("837: BHT04 is not a date (the group's date is taken)", segment.number)
                    here = self.envelope.group_date
                    self.submitted = datetime(here.year, here.month, here.day) if here else None
            case "HL":
                self._close()
                if segment.get(3) != "23":  # a patient (23) is under the subscriber before it
                    self.subscriber, self.payer = None, {}
            case "SBR" if self.part == "":
                self.subscriber = segment
            case "SBR" | "NM1" | "LX" if self.part != "":
                self.part = "line" if segment.id == "LX" else "other"
            case "NM1" if segment.get(1) == "PR":
                self.payer = {"payer": segment.get(3) or None, "payer_id": segment.get(9) or None}
            case "CLM":
                self._close()
                self._open(segment)
            case _ if self.claim is not None:
                self._detail(segment, self.claim)

    def _open(self, segment: Segment) -> None:
        self.part = "claim"
        claim, charge = segment.get(1), amount(segment.get(2))
        order = COVERAGE.get(self.subscriber.get(1)) if self.subscriber is not None else None
        wrong = (
            "CLM01 is empty"
            if not claim
            else "CLM02 is not an amount"
            if charge is None
            else "a claim (CLM) before its subscriber (SBR)"
            if self.subscriber is None
            else "SBR01 does not say which payer is asked (P, S, T, A to H)"
            if order is None
            else None
        )
        if wrong:
            self.told.left_out(f"837: {wrong}", segment.number)
            return
        frequency = segment.part(5, 3)
        if not frequency:
            self.told.odd("837: CLM05-3 is empty (taken as an original claim)", segment.number)
        self.claim = {
            "claim": claim,
            "coverage_order": order,
            "form": self.form,
            "charge": charge,
            "submitted": self.submitted,
            "frequency": frequency or "1",
            "purpose": self.purpose,
            **self.payer,
            "key_value": claim if self.key == "CLM01" else None,
            **self.place(segment),
        }

    def _detail(self, segment: Segment, claim: dict[str, Any]) -> None:
        match segment.id:
            case "CL1" | "SV2" if claim["form"] == "unknown":
                claim["form"] = "institutional"
            case "SV1" if claim["form"] == "unknown":
                claim["form"] = "professional"
            case "DTP" if self.part == "claim" and segment.get(1) == "435":
                claim["admitted"] = self.day(segment, segment.get(3)[:8])
            case "DTP" if (self.part, segment.get(1)) in (("claim", "434"), ("line", "472")):
                self._service(segment, claim)
            case "REF" if self.part == "claim" and self.key == f"REF*{segment.get(1)}":
                claim["key_value"] = segment.get(2) or None

    def _service(self, segment: Segment, claim: dict[str, Any]) -> None:
        first, _, last = segment.get(3).partition("-")
        begin, end = self.day(segment, first[:8]), self.day(segment, (last or first)[:8])
        if begin is None or end is None or end < begin:
            return
        if segment.get(1) == "434":
            claim |= {"service_from": begin, "service_to": end, "_statement": True}
        elif "_statement" not in claim:  # the lines' own dates stand in for a statement period
            known_from, known_to = claim.get("service_from") or begin, claim.get("service_to") or end
            claim |= {"service_from": min(known_from, begin), "service_to": max(known_to, end)}

    def _close(self) -> None:
        if self.claim is not None:
            self.claim.pop("_statement", None)
            self.rows.append(self.claim)
        self.claim, self.part = None, ""

    def close(self) -> None:
        self._close()


def amount(text: str) -> float | None:
    """A decimal number; null for anything else."""
    return float(text) if AMOUNT.fullmatch(text) else None


def day(text: str) -> date | None:
    """CCYYMMDD or YYMMDD (years from 1950 on) as a date; null for anything else, and for years outside 1900 to 2199."""
    if not re.fullmatch(r"\d{6}|\d{8}", text, re.ASCII):
        return None
    if len(text) == 6:
        text = ("19" if text >= "50" else "20") + text
    try:
        found = datetime.strptime(text, "%Y%m%d").date()
    except ValueError:
        return None
    return found if 1900 <= found.year < 2200 else None


def moment(date_text: str, time_text: str) -> datetime | None:
    """A date and HHMM[SS…] as a time; midnight where there is no time; null where the date is none."""
    found = day(date_text)
    if found is None:
        return None
    clock = re.match(r"([01]\d|2[0-3])([0-5]\d)([0-5]\d)?", time_text, re.ASCII)
    hours = (int(part or 0) for part in clock.groups()) if clock else (0, 0, 0)
    return datetime(found.year, found.month, found.day, *hours)
