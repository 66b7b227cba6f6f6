"""From a chunk's stays to the five tables of the records schema."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lang1.records.schema import CLAIMS
from lang1.simulator import charlson, risk, signs
from lang1.simulator.clock import Paperwork
from lang1.simulator.course import DAY, DISPOSITIONS, EXPIRED, NEVER, Patients, Stays, end_minute, origin
from lang1.simulator.daily import Daily
from lang1.simulator.risk import I64, Bool
from lang1.simulator.settings import SimulatorSettings
from lang1.simulator.styles import System
from lang1.simulator.visits import Visits

ICD10_FROM = datetime(2015, 10, 1)
RACES = ("white", "black", "asian", "native", "other", "unknown")
ETHNICITIES = ("hispanic", "not hispanic", "unknown")
CLAIMS_FEED_DAYS = 240  # the claims feed runs on after the last discharge until all but the stuck are settled


class Ids:
    """Opaque ids of a chunk."""

    def __init__(self, system: System, chunk: int, settings: SimulatorSettings) -> None:
        self._base = f"{system.prefix}{chunk:03d}"
        self.zero = np.datetime64(origin(settings), "us")
        self.end = end_minute(settings)

    def patients(self, index: npt.NDArray[Any]) -> list[str]:
        return [f"P{self._base}{i:05d}" for i in index.tolist()]

    def stays(self, n: int) -> list[str]:
        return [f"E{self._base}{i:06d}" for i in range(n)]

    def visits(self, n: int) -> list[str]:
        return [f"V{self._base}{i:06d}" for i in range(n)]

    def times(self, minutes: npt.NDArray[Any], known: Bool | None = None) -> pa.Array:
        """Minutes as timestamps, null where not known."""
        stamps = self.zero + minutes.astype("timedelta64[m]").astype("timedelta64[us]")
        return pa.array(stamps, type=pa.timestamp("us"), mask=None if known is None else ~known)


def patients(ids: Ids, people: Patients, system: System) -> pa.Table:
    """The patients table; deaths after the extract's end are not known."""
    n = len(people.birth)
    dead = people.death < ids.end
    birth = (ids.zero + people.birth.astype("timedelta64[m]")).astype("datetime64[Y]").astype(int) + 1970
    source = np.where(people.died_in_hospital, "both", "registry")
    return pa.table(
        {
            "patient_id": ids.patients(np.arange(n)),
            "birth_year": pa.array(birth, type=pa.int32()),
            "sex": np.where(people.female, "female", "male"),
            "race": _named(RACES, people.race),
            "ethnicity": _named(ETHNICITIES, people.ethnicity),
            "area": _named(system.areas, people.area),
            "death_time": ids.times(np.where(dead, people.death, 0), dead),
            "death_source": pa.array(source, type=pa.string(), mask=~dead),
        }
    )


def encounters(ids: Ids, people: Patients, stays: Stays, visits: Visits, system: System) -> pa.Table:
    """Inpatient stays and other visits, the stays first."""
    n, m = len(stays.admit), len(visits.start)
    over = stays.leave < ids.end
    kinds = np.array(["emergency", "observation", "outpatient"])
    departments = [r.department for r in signs.REASONS]
    stay_type = np.where(stays.planned, "elective", np.where(stays.transfer_in, "urgent", "emergency"))
    stay_source = np.where(
        stays.transfer_in, "transfer from acute hospital", np.where(stays.planned, "physician referral", "emergency")
    )
    patient = np.concatenate([stays.patient, visits.patient])
    admit = np.concatenate([stays.admit, visits.start])
    return pa.table(
        {
            "encounter_id": ids.stays(n) + ids.visits(m),
            "patient_id": ids.patients(patient),
            "encounter_class": np.concatenate([np.full(n, "inpatient"), kinds[visits.kind]]),
            "admit_time": ids.times(admit),
            "discharge_time": ids.times(
                np.concatenate([stays.leave, visits.stop]), np.concatenate([over, visits.stop < ids.end])
            ),
            "admission_type": np.concatenate([stay_type, np.where(visits.kind == 2, "elective", "emergency")]),
            "admission_source": np.concatenate([stay_source, np.full(m, "home")]),
            "department": _named(departments, stays.reason)
            + _named(("emergency", "observation", "clinic"), visits.kind),
            "facility": _named(system.facilities, np.concatenate([stays.facility, visits.facility])),
            "disposition": pa.array(
                _named(DISPOSITIONS, stays.disposition) + ["home"] * m,
                mask=~np.concatenate([over, visits.stop < ids.end]),
            ),
            "age_at_admission": (admit - people.birth[patient]) / (365.25 * DAY),
            "payer": _named(signs.PAYERS, people.payer[patient]),
        }
    )


def diagnoses(ids: Ids, stays: Stays, papers: Paperwork, rng: np.random.Generator) -> pa.Table:
    """Codes of discharged and coded stays: the principal one, then Charlson groups and others in chance order."""
    n = len(stays.admit)
    there = papers.coded & (stays.leave < ids.end)
    switch = (np.datetime64(ICD10_FROM, "us") - ids.zero) // np.timedelta64(1, "m")
    ten = (stays.leave >= switch).tolist()
    other = (stays.other_conditions == risk.ACTIVE) & (rng.random(stays.other_conditions.shape) < 0.6)
    acquired = rng.random(n) < 0.03
    u = rng.random((n, 4)).tolist()
    active = (stays.admission.conditions == risk.ACTIVE).tolist()
    coded, other_rows, reason = stays.coded.tolist(), other.tolist(), stays.reason.tolist()
    encounter, who = ids.stays(n), ids.patients(stays.patient)
    columns: tuple[list[Any], ...] = ([], [], [], [], [], [])
    for i in np.flatnonzero(there).tolist():
        v = u[i]
        which = 1 if ten[i] else 0
        r = signs.REASONS[reason[i]]
        secondary = [
            (_variant(c.icd10 if which else c.icd9, v[0]), "Y" if active[i][g] else "N")
            for g, c in enumerate(charlson.CHARLSON)
            if coded[i][g]
        ]
        secondary += [
            (_variant(c.icd10 if which else c.icd9, v[1]), "Y")
            for g, c in enumerate(charlson.OTHER)
            if other_rows[i][g]
        ]
        if secondary:
            turn = int(v[2] * len(secondary))
            secondary = secondary[turn:] + secondary[:turn]
        if acquired[i]:
            secondary.append((charlson.ACQUIRED[int(v[3] * len(charlson.ACQUIRED))][which], "N"))
        rows = [((r.icd9, r.icd10)[which], "Y"), *secondary]
        columns[0].extend([encounter[i]] * len(rows))
        columns[1].extend([who[i]] * len(rows))
        columns[2].extend([code for code, _ in rows])
        columns[3].extend(["ICD-10-CM" if which else "ICD-9-CM"] * len(rows))
        columns[4].extend(range(1, len(rows) + 1))
        columns[5].extend([poa for _, poa in rows])
    names = ("encounter_id", "patient_id", "code", "code_version", "position", "present_on_admission")
    types = (pa.string(), pa.string(), pa.string(), pa.string(), pa.int32(), pa.string())
    return pa.table({k: pa.array(c, type=t) for k, c, t in zip(names, columns, types, strict=True)})


def claims(
    ids: Ids, stays: Stays, visits: Visits, system: System, unresolved: Bool, rng: np.random.Generator
) -> pa.Table:
    """Claims of finished encounters: denial as drawn, then appeal; some are stuck, whatever the outcome."""
    n = len(stays.admit)
    billed = np.flatnonzero((stays.leave < ids.end) & (stays.payer != signs.SELF_PAY))
    denied, stuck = stays.denied[billed], unresolved[billed]
    k = len(billed)
    u = rng.random((k, 5))
    submitted = stays.leave[billed] + rng.integers(3 * DAY, 20 * DAY, k)
    remitted = submitted + rng.integers(14 * DAY, 40 * DAY, k)
    final = np.where(denied, remitted + rng.integers(30 * DAY, 120 * DAY, k), remitted)
    status = np.select(
        [stuck & (u[:, 0] < 0.8), stuck, denied & (u[:, 1] < 0.55), denied],
        ["pending", "other", "denied_upheld", "denied_overturned"],
        "paid",
    )
    days = (stays.leave[billed] - stays.admit[billed]) / DAY
    charge = np.round(2500 + 3100 * days * (0.7 + 0.6 * u[:, 2]), 2)
    paid = np.where(np.isin(status, ("paid", "denied_overturned")), np.round(charge * (0.3 + 0.2 * u[:, 3]), 2), 0.0)
    held = stays.admission.papers[billed].tolist()
    codes = [_adjustments(s, h, x) for s, h, x in zip(status.tolist(), held, u[:, 4].tolist(), strict=True)]
    encounter, who = ids.stays(n), ids.patients(stays.patient)
    rows = billed.tolist()
    payer = _named(signs.PAYERS, stays.payer[billed])
    primary = pa.table(
        {
            "claim_id": [f"C{encounter[i][1:]}" for i in rows],
            "encounter_id": [encounter[i] for i in rows],
            "patient_id": [who[i] for i in rows],
            "payer": payer,
            "coverage_order": pa.array(np.ones(k), type=pa.int32()),
            "submitted_time": ids.times(submitted),
            "first_remit_time": ids.times(remitted, ~(stuck & (u[:, 0] < 0.8))),
            "final_time": ids.times(final, ~stuck),
            "final_status": status,
            "adjustment_codes": pa.array(codes, type=pa.list_(pa.string())),
            "charge": charge,
            "paid": paid,
        }
    )
    return pa.concat_tables([primary, _second_payers(ids, stays, billed, rng), _visit_claims(ids, visits, rng)])


def _second_payers(ids: Ids, stays: Stays, billed: I64, rng: np.random.Generator) -> pa.Table:
    """Supplement policies of some Medicare patients, billed after the primary payer."""
    rows = billed[(stays.payer[billed] == 0) & (rng.random(len(billed)) < 0.3)]
    encounter, who = ids.stays(len(stays.admit)), ids.patients(stays.patient)
    sent = stays.leave[rows] + 70 * DAY
    k = len(rows)
    return pa.table(
        {
            "claim_id": [f"S{encounter[i][1:]}" for i in rows.tolist()],
            "encounter_id": pa.array([encounter[i] for i in rows.tolist()], type=pa.string()),
            "patient_id": pa.array([who[i] for i in rows.tolist()], type=pa.string()),
            "payer": pa.array(["Supplement"] * k, type=pa.string()),
            "coverage_order": pa.array(np.full(k, 2), type=pa.int32()),
            "submitted_time": ids.times(sent),
            "first_remit_time": ids.times(sent + 20 * DAY),
            "final_time": ids.times(sent + 20 * DAY),
            "final_status": pa.array(["paid"] * k, type=pa.string()),
            "adjustment_codes": pa.array([["OA-23"]] * k, type=pa.list_(pa.string())),
            "charge": pa.array(np.full(k, 1400.0)),
            "paid": pa.array(np.full(k, 1100.0)),
        }
    ).cast(_claim_schema())


def _visit_claims(ids: Ids, visits: Visits, rng: np.random.Generator) -> pa.Table:
    rows = np.flatnonzero((visits.stop < ids.end) & (visits.payer != signs.SELF_PAY))
    k = len(rows)
    sent = visits.stop[rows] + rng.integers(2 * DAY, 12 * DAY, k)
    settled = sent + rng.integers(10 * DAY, 30 * DAY, k)
    names, who = ids.visits(len(visits.start)), ids.patients(visits.patient)
    charge = np.round(180 + 900 * rng.random(k), 2)
    return pa.table(
        {
            "claim_id": pa.array([f"C{names[i]}" for i in rows.tolist()], type=pa.string()),
            "encounter_id": pa.array([names[i] for i in rows.tolist()], type=pa.string()),
            "patient_id": pa.array([who[i] for i in rows.tolist()], type=pa.string()),
            "payer": pa.array(_named(signs.PAYERS, visits.payer[rows]), type=pa.string()),
            "coverage_order": pa.array(np.ones(k), type=pa.int32()),
            "submitted_time": ids.times(sent),
            "first_remit_time": ids.times(settled),
            "final_time": ids.times(settled),
            "final_status": pa.array(["paid"] * k, type=pa.string()),
            "adjustment_codes": pa.array([["CO-45"]] * k, type=pa.list_(pa.string())),
            "charge": charge,
            "paid": np.round(charge * 0.5, 2),
        }
    ).cast(_claim_schema())


def unit_stays(ids: Ids, stays: Stays, days: Daily) -> pa.Table:
    """Ward and intensive care of each stay: the ward, and for some intensive care and perhaps the ward again.

    Moves after the extract's end are not in it, and a unit that a patient had not left by then has no end.
    """
    over = stays.leave < ids.end
    moved = days.icu < ids.end
    back = moved & (days.icu_end < stays.leave) & (days.icu_end < ids.end)
    parts = [
        ("ward", np.ones(len(over), dtype=bool), stays.admit, np.where(moved, days.icu, stays.leave), over | moved),
        ("intensive_care", moved, days.icu, days.icu_end, (days.icu_end < ids.end) & moved),
        ("ward", back, days.icu_end, stays.leave, over),
    ]
    encounter, who = ids.stays(len(stays.admit)), ids.patients(stays.patient)
    columns: dict[str, list[Any]] = {name: [] for name in ("encounter_id", "patient_id", "unit", "unit_type")}
    begins, ends, known = [], [], []
    for kind, there, start, stop, ended in parts:
        rows = np.flatnonzero(there)
        columns["encounter_id"] += [encounter[i] for i in rows.tolist()]
        columns["patient_id"] += [who[i] for i in rows.tolist()]
        columns["unit"] += ["ICU" if kind == "intensive_care" else "general ward"] * len(rows)
        columns["unit_type"] += [kind] * len(rows)
        begins.append(start[rows])
        ends.append(stop[rows])
        known.append(ended[rows])
    at = {"in_time": ids.times(np.concatenate(begins)), "out_time": ids.times(_known(ends, known), _flat(known))}
    table = pa.table({**{name: pa.array(cells, pa.string()) for name, cells in columns.items()}, **at})
    return table.sort_by([("encounter_id", "ascending"), ("in_time", "ascending")])


def _flat(parts: list[Bool]) -> Bool:
    return np.asarray(np.concatenate(parts))


def _known(values: list[I64], known: list[Bool]) -> I64:
    return np.asarray(np.where(_flat(known), np.concatenate(values), 0))


def _claim_schema() -> pa.Schema:
    return pa.schema([pa.field(f.name, f.type) for f in CLAIMS])


def _adjustments(status: str, held: Sequence[bool], u: float) -> list[str]:
    """CARC numbers with their group; the reason of a denial follows what the papers lacked."""
    if status in ("pending", "other"):
        return []
    if status == "paid":
        return ["CO-45"] if u < 0.6 else ["CO-45", "PR-2"] if u < 0.85 else ["CO-45", "PR-1", "PR-3"]
    if not held[0] and u < 0.6:
        return ["CO-197"] if u < 0.4 else ["CO-15"]
    if not held[3] and u < 0.7:
        return ["CO-197"]
    if held[5] and u < 0.8:
        return ["CO-27"] if u < 0.5 else ["PR-27"]
    if held[9]:
        return ["CO-50"] if u < 0.7 else ["CO-150"]
    return [("CO-50", "CO-16", "CO-29", "CO-96", "CO-152", "CO-22")[int(u * 6)]]


def _variant(codes: tuple[str, ...], u: float) -> str:
    return codes[int(u * len(codes))]


def _named(names: Sequence[str], index: npt.NDArray[Any]) -> list[str]:
    return [names[i] for i in index.tolist()]


assert DISPOSITIONS[EXPIRED] == "expired" and NEVER > 0
