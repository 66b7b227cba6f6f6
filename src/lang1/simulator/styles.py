"""Health systems: their names, documentation style, coding habits, payers and case mix."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lang1.simulator.charlson import CHARLSON
from lang1.simulator.signs import MANAGED, PAPERS, PAYER_DENIAL, PAYERS, REASONS, column

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Style:
    """How a system writes. The headings of one kind of list begin alike and end alike, and differ in between."""

    admission_title: str
    discharge_title: str
    opening: str  # {age} {sex} {reason}
    trend_lists: tuple[str, str, str]  # lower, unchanged, higher, on admission
    after_lists: tuple[str, str, str]  # lower, unchanged, higher, on discharge
    problem_lists: tuple[str, str, str, str]  # active, denied, family, excluded
    paper_lists: tuple[str, str]  # held, lacking
    plan_lists: tuple[str, str, str]  # held back, later, now
    booking_lists: tuple[str, str]  # booked, not booked
    vitals: str  # {sbp} {hr} {rr} {spo2} {temp}
    payer: str  # {payer}
    statement_heading: str
    coverage_heading: str
    problem_heading_discharge: str
    sex: tuple[str, str]
    closing: str


STYLES: tuple[Style, ...] = (
    Style(
        "HISTORY AND PHYSICAL", "DISCHARGE SUMMARY", "{age} year old {sex} with {reason}.",
        ("Signs lower since home:", "Signs unchanged since home:", "Signs higher since home:"),
        ("Signs lower at discharge:", "Signs unchanged at discharge:", "Signs higher at discharge:"),
        ("Problems active on list:", "Problems denied on list:", "Problems family on list:",
         "Problems excluded on list:"),
        ("Papers held at desk:", "Papers lacking at desk:"),
        ("Orders stopped for stay:", "Orders delayed for stay:", "Orders started for stay:"),
        ("Visits booked after home:", "Visits unbooked after home:"),
        "Vitals bp {sbp} pulse {hr} rr {rr} sat {spo2} temp {temp}.", "Payer {payer}.", "Noted:", "Desk note:",
        "Problems active on list:", ("woman", "man"), "Plan as above.",
    ),
    Style(
        "H&P NOTE", "D/C SUMMARY", "{age} yo {sex} adm for {reason}.",
        ("TREND down from base:", "TREND flat from base:", "TREND up from base:"),
        ("TREND down at dc:", "TREND flat at dc:", "TREND up at dc:"),
        ("PMH positive for these:", "PMH negative for these:", "PMH relatives for these:", "PMH unlikely for these:"),
        ("Reg has in file:", "Reg needs in file:"),
        ("Tx off as of today:", "Tx pending as of today:", "Tx on as of today:"),
        ("F/u set for these:", "F/u open for these:"),
        "VS: BP {sbp}, HR {hr}, RR {rr}, SpO2 {spo2}, T {temp}.", "Ins: {payer}.", "Pt", "UM:",
        "PMH positive for these:", ("F", "M"), "D/w team.",
    ),
    Style(
        "Admission History", "Summary of Stay", "This {age} year old {sex} presents because of {reason}.",
        ("Findings less before arrival:", "Findings same before arrival:", "Findings more before arrival:"),
        ("Findings less on leaving:", "Findings same on leaving:", "Findings more on leaving:"),
        ("Conditions present per chart:", "Conditions absent per chart:", "Conditions inherited per chart:",
         "Conditions refuted per chart:"),
        ("Office received the following:", "Office misses the following:"),
        ("We withhold the following:", "We postpone the following:", "We begin the following:"),
        ("Scheduled visits are these:", "Wanted visits are these:"),
        "Vital signs: blood pressure {sbp}, heart rate {hr}, breaths {rr}, saturation {spo2}, temperature {temp}.",
        "Covered by {payer}.", "The patient", "Utilization:", "Conditions present per chart:", ("female", "male"),
        "Seen and examined.",
    ),
    Style(
        "INITIAL EVALUATION", "DISCHARGE NOTE", "Patient: {age} {sex}. Reason: {reason}.",
        ("Interval falling in these:", "Interval steady in these:", "Interval rising in these:"),
        ("Exit falling in these:", "Exit steady in these:", "Exit rising in these:"),
        ("Dx yes in record:", "Dx no in record:", "Dx kin in record:", "Dx out in record:"),
        ("Intake shows a copy of:", "Intake lacks a copy of:"),
        ("Not for now ->", "Soon for now ->", "Yes for now ->"),
        ("Made visits ->", "Unmade visits ->"),
        "bp={sbp} hr={hr} rr={rr} sat={spo2} t={temp}", "Plan {payer}.", "Key:", "CM:", "Dx yes in record:",
        ("fem", "male"), "Reviewed.",
    ),
)  # fmt: skip

# Written wrong now and then; none of these words carries a fact.
TYPOS: tuple[tuple[str, str], ...] = (
    ("year", "yaer"), ("with", "wiht"), ("Signs", "Sigsn"), ("Noted", "Notde"), ("since", "sicne"),
    ("patient", "pateint"), ("Problems", "Problmes"), ("presents", "presesnts"), ("because", "becuase"),
    ("Reason", "Reaosn"), ("Vitals", "Vitlas"), ("Payer", "Pyaer"),
)  # fmt: skip

_NAMES = ("riverside", "lakeshore", "hillcrest", "stonebridge", "fairmount", "northgate", "eastfield", "westbrook")
_AREAS = (
    ("North Bank", "South Bank", "Old Town", "Mill County"),
    ("Lake County", "Harbor County", "Pine County", "Dunes"),
    ("Upper Hill", "Lower Hill", "Cedar County", "Valley"),
    ("Stone County", "Bridge Borough", "East Borough", "West Borough"),
)


@dataclass(frozen=True)
class System:
    """One health system."""

    name: str
    prefix: str  # begins every id
    style: int  # index into STYLES and into every sign's names
    facilities: tuple[str, str]
    areas: tuple[str, ...]
    payer_shares: F64
    reason_weights: F64
    coding_factor: float
    burden_factor: float
    late_h_and_p: float
    late_discharge: float
    uncoded: float
    unresolved: float
    stream: int  # of random numbers; systems that share one have the same patients
    age: float = 62.0  # of new patients, on average
    acuity: float = 0.0  # added to how ill each stay leans
    senior_medicare: float = 0.72  # share of plain Medicare among the old, the others being in Senior Advantage
    coding_by_group: F64 = field(default_factory=lambda: np.ones(len(CHARLSON)))  # factors of the chance to be coded
    miscoding_factor: float = 1.0
    family_coded: float = 0.0  # chance that a condition of the family is coded as the patient's own
    paper_weights: F64 = field(default_factory=lambda: column(PAPERS, "other"))
    payer_denial: F64 = field(default_factory=lambda: PAYER_DENIAL)
    managed: npt.NDArray[np.bool_] = field(default_factory=lambda: MANAGED)


def system(index: int) -> System:
    """The health system of an index; the same for every seed."""
    rng = np.random.default_rng([2024, index])
    base = np.array([0.36, 0.17, 0.17, 0.11, 0.11, 0.06, 0.02])
    mix = base * np.exp(rng.normal(0, 0.25, len(PAYERS)))
    round_, which = divmod(index, len(_NAMES))
    name = _NAMES[which] + (f"-{round_ + 1}" if round_ else "")
    return System(
        name=name,
        prefix=f"{_NAMES[which][:2].upper()}{index}",
        style=index % len(STYLES),
        facilities=(f"{name} main", f"{name} east"),
        areas=_AREAS[index % len(_AREAS)],
        payer_shares=mix / mix.sum(),
        reason_weights=np.array([r.share for r in REASONS]) * np.exp(rng.normal(0, 0.2, len(REASONS))),
        coding_factor=float(1.0 - 0.03 * rng.random()),
        burden_factor=float(np.exp(rng.normal(0, 0.08))),
        late_h_and_p=0.02,
        late_discharge=float(0.02 + 0.03 * rng.random()),
        uncoded=float(0.02 + 0.03 * rng.random()),
        unresolved=float(0.03 + 0.03 * rng.random()),
        stream=index,
    )
