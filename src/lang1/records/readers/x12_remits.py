"""From X12 segments to rows: claims as answered (835)."""

from __future__ import annotations

import re
from datetime import date
from typing import Any

import pyarrow as pa

from lang1.records.readers.x12_claims import PLACE, Envelope, Told, TransactionSet, amount
from lang1.records.readers.x12_segments import Segment

_S, _F, _D = pa.string(), pa.float64(), pa.date32()
REMITS = pa.schema(
    [
        pa.field("claim", _S),  # CLP01
        pa.field("status", _S),  # CLP02
        pa.field("charge", _F),  # CLP03
        pa.field("paid", _F),  # CLP04
        pa.field("codes", pa.list_(_S)),  # CAS of claim and lines, "GROUP-NUMBER", in order of appearance
        pa.field("readable", pa.bool_()),  # false: an amount or an adjustment could not be read
        pa.field("inpatient", pa.bool_()),  # has MIA: the payer adjudicated an inpatient stay
        pa.field("remit_date", _D),
        pa.field("sent", pa.timestamp("us")),  # ISA09, ISA10
        pa.field("set_number", pa.int64()),  # transaction sets in the order read
        pa.field("service_from", _D),
        pa.field("service_to", _D),
        pa.field("key_value", _S),
        pa.field("payer", _S),
        pa.field("payer_id", _S),
        *PLACE,
    ]
)

GROUPS = ("CO", "PR", "OA", "PI", "CR")
REASON = re.compile(r"[A-Z]{0,2}\d{1,4}", re.ASCII)

# As in the 837: what may follow a loop's first segment, in order.
_ORDER_835: dict[str, dict[str, int]] = {
    "ST": {"BPR": 1, "NTE": 2, "TRN": 3, "CUR": 4, "REF": 5, "DTM": 6},
    "N1": {"N2": 1, "N3": 1, "N4": 2, "REF": 3, "PER": 4, "RDM": 5},
    "LX": {"TS3": 1, "TS2": 2},
    "CLP": {"CAS": 1, "NM1": 2, "MIA": 3, "MOA": 3, "REF": 4, "DTM": 5, "PER": 6, "AMT": 7, "QTY": 8},
    "SVC": {"DTM": 1, "CAS": 2, "REF": 3, "AMT": 4, "QTY": 5, "LQ": 6},
    "PLB": {},
}


class Remits835(TransactionSet):
    """Claims as answered: 835."""

    relation, order, loops = "remits", _ORDER_835, frozenset(_ORDER_835) - {"ST"}

    def __init__(self, envelope: Envelope, told: Told, key: str, set_number: int) -> None:
        super().__init__(envelope, told, key, set_number)
        self.produced: date | None = None
        self.issued: date | None = None
        self.payer: dict[str, Any] = {}
        self.claim: dict[str, Any] | None = None
        self.adjusted = 0.0
        self.line_open = False
        self.under_claim = False  # also where the claim itself could not be taken

    def read(self, segment: Segment) -> None:
        match segment.id:
            case "BPR":
                self.issued = self.day(segment, segment.get(16))
            case "DTM" if segment.get(1) == "405" and self.claim is None:
                self.produced = self.day(segment, segment.get(2))
            case "N1" if segment.get(1) == "PR":
                self.payer = {"payer": segment.get(2) or None, "payer_id": segment.get(4) or None}
            case "LX" | "PLB":
                self._close()
                self.under_claim = False
            case "CLP":
                self._close()
                self._open(segment)
            case "CAS" | "SVC" if not self.under_claim:
                self.told.left_out(f"835: {segment.id} before any claim (CLP)", segment.number)
            case _ if self.claim is not None:
                self._detail(segment, self.claim)

    def _open(self, segment: Segment) -> None:
        self.adjusted, self.line_open, self.under_claim = 0.0, False, True
        claim, status = segment.get(1), segment.get(2)
        if not claim or not status:
            self.told.left_out(f"835: CLP0{1 if not claim else 2} is empty", segment.number)
            return
        charge, paid = amount(segment.get(3)), amount(segment.get(4))
        if charge is None or paid is None:
            self.told.odd(
                f"835: CLP0{3 if charge is None else 4} is not an amount (no decision is read)", segment.number
            )
        self.claim = {
            "claim": claim,
            "status": status.lstrip("0") or status,
            "charge": charge,
            "paid": paid,
            "codes": [],
            "readable": charge is not None and paid is not None,
            "inpatient": False,
            "sent": self.envelope.sent,
            "set_number": self.set_number,
            "key_value": claim if self.key == "CLM01" else None,
            **self.place(segment),
        }

    def _detail(self, segment: Segment, claim: dict[str, Any]) -> None:
        match segment.id:
            case "SVC":
                self.line_open = True
            case "CAS":
                self._adjust(segment, claim)
            case "MIA":
                claim["inpatient"] = True
            case "DTM" if not self.line_open and segment.get(1) in ("232", "233"):
                where = "service_from" if segment.get(1) == "232" else "service_to"
                claim[where] = self.day(segment, segment.get(2))
            case "REF" if not self.line_open and self.key == f"REF*{segment.get(1)}":
                claim["key_value"] = segment.get(2) or None

    def _adjust(self, segment: Segment, claim: dict[str, Any]) -> None:
        group = segment.get(1)
        triples = [(segment.get(i), segment.get(i + 1)) for i in range(2, max(len(segment.elements), 4), 3)]
        for reason, given in triples:
            if not reason and not given:
                if len(triples) == 1:
                    self._unreadable(segment, claim, "without a reason")
                continue
            money = amount(given)
            if group not in GROUPS:
                self._unreadable(segment, claim, f"whose group is none of {', '.join(GROUPS)}")
            elif not REASON.fullmatch(reason):
                self._unreadable(segment, claim, "whose reason is not a code number")
            elif money is None:
                self._unreadable(segment, claim, "whose amount is not a number")
            else:
                self.adjusted += money
                code = f"{group}-{reason.lstrip('0') or reason}"
                if code not in claim["codes"]:
                    claim["codes"].append(code)

    def _unreadable(self, segment: Segment, claim: dict[str, Any], why: str) -> None:
        claim["readable"] = False
        self.told.odd(f"835: an adjustment (CAS) {why} (no decision is read)", segment.number)

    def _close(self) -> None:
        claim = self.claim
        if claim is not None:
            if claim["readable"] and abs(claim["charge"] - self.adjusted - claim["paid"]) > 0.005:
                self.told.odd("835: charge less adjustments is not what was paid", claim["_row"])
            self.rows.append(claim)
        self.claim = None

    def close(self) -> None:
        self._close()
        when = self.produced or self.issued or self.envelope.group_date
        for row in self.rows:
            row |= {"remit_date": when, **self.payer}
