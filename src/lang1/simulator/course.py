"""The course of a chunk of patients, stay by stay: admission facts, death and length, discharge facts, return.

Times are minutes since the start of the first simulated year. All draws are vectorised over the patients of the
chunk; the random stream belongs to the chunk, so results do not depend on how chunks are shared among processes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lang1.simulator import risk, signs
from lang1.simulator.charlson import CHARLSON, OTHER
from lang1.simulator.presets import PresetSpec
from lang1.simulator.risk import F64, I8, I64, AdmissionFacts, Bool, DischargeFacts
from lang1.simulator.settings import SimulatorSettings
from lang1.simulator.styles import System

DAY = 1440
NEVER = np.int64(2**60)
MOST_STAYS = 60
LONGEST_STAY_DAYS = 29

DISPOSITIONS = (
    "home", "home_health", "skilled_nursing", "rehabilitation", "long_term_care", "psychiatric", "against_advice",
    "transfer_acute", "hospice", "expired",
)  # fmt: skip
_LIVING = np.array([0.56, 0.17, 0.12, 0.035, 0.015, 0.01, 0.02, 0.03, 0.04])  # in order, to "hospice"
TRANSFER, HOSPICE, EXPIRED = 7, 8, 9
INSIDE_TRANSFER = 0.7  # share of acute transfers that go to the system's own second hospital


@dataclass
class Patients:
    """One row a patient; times in minutes."""

    birth: I64  # minutes, negative
    female: Bool
    race: I64
    ethnicity: I64
    area: I64
    payer: I64
    death: I64  # NEVER while alive
    died_in_hospital: Bool
    first_seen: I64


@dataclass
class Stays:
    """One row an inpatient stay, in the order (patient, time) after :func:`gather`."""

    patient: I64
    number: I64
    admit: I64
    leave: I64  # discharge or death
    planned: Bool
    transfer_in: Bool
    facility: I64
    age: F64
    payer: I64
    reason: I64
    disposition: I64
    p_death: F64
    p_stay: F64  # (n, 4)
    p_coded: F64  # (n, 17)
    coded: Bool  # (n, 17)
    p_denial: F64
    denied: Bool
    p_return: F64
    first_return: I64
    returned: Bool
    p_late: F64  # P(admission on day 31 to 89 after discharge | alive, not back by then); 0 but in longitudinal worlds
    admission: AdmissionFacts
    other_conditions: I8  # (n, 12) status of conditions outside the index
    discharge: DischargeFacts
    author: I64
    note_noise: F64  # (n, 16) uniforms for what notes need and no outcome depends on


@dataclass
class _State:
    next_admit: I64
    conditions: Bool
    burden: F64
    frailty: F64
    others: Bool
    planned: Bool
    transfer: Bool
    facility: I64
    last_leave: I64
    count: I64 = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


def origin(settings: SimulatorSettings) -> datetime:
    """The time of minute 0."""
    return datetime(settings.start_year, 1, 1)


def end_minute(settings: SimulatorSettings) -> int:
    """The first minute after the extract."""
    end = datetime.combine(settings.end_date, datetime.min.time()) + timedelta(days=1)
    return int((end - origin(settings)).total_seconds() // 60)


class Between(Protocol):
    """What lies between stays and bears on later ones (``clinic.py``); only longitudinal worlds have it."""

    def before_stays(self, here: I64, admit: I64, last_leave: I64) -> F64:
        """P(admission on day 31 to 89 after discharge) of the stays that begin at ``admit``."""

    def late(self, p: F64) -> tuple[Bool, I64]:
        """Who comes back then, and how many minutes after discharge."""


def run(
    n: int,
    settings: SimulatorSettings,
    spec: PresetSpec,
    system: System,
    rng: np.random.Generator,
    between: Between | None = None,
) -> tuple[Patients, Stays]:
    """Simulate ``n`` patients from their first stay to the end of the extract."""
    end = end_minute(settings)
    patients, state = _begin(n, end, spec, system, rng)
    parts: list[Stays] = []
    for _ in range(MOST_STAYS):
        here = np.flatnonzero((state.next_admit < end) & (patients.death == NEVER))
        if not len(here):
            break
        stays = _round(here, patients, state, spec, system, rng)
        parts.append(stays)
        if between is not None:
            stays.p_late = between.before_stays(here, stays.admit, state.last_leave[here])
        _after(here, stays, patients, state, spec, rng, between)
    stays = gather(parts)
    order = np.lexsort((stays.number, stays.patient))
    return patients, select(stays, order)


def _begin(n: int, end: int, spec: PresetSpec, system: System, rng: np.random.Generator) -> tuple[Patients, _State]:
    age = np.clip(rng.normal(system.age, 17, n), 18, 96)
    first = (rng.random(n) * end).astype(np.int64)
    birth = first - (age * 365.25 * DAY).astype(np.int64)
    payer = rng.choice(len(signs.PAYERS), n, p=system.payer_shares)
    old = (age >= 65) & (rng.random(n) < 0.8)
    payer = np.where(old, np.where(rng.random(n) < system.senior_medicare, 0, 4), payer)
    patients = Patients(
        birth=birth,
        female=rng.random(n) < 0.52,
        race=rng.choice(6, n, p=[0.52, 0.2, 0.1, 0.02, 0.11, 0.05]),
        ethnicity=rng.choice(3, n, p=[0.19, 0.77, 0.04]),
        area=rng.integers(0, len(system.areas), n),
        payer=payer.astype(np.int64),
        death=np.full(n, NEVER),
        died_in_hospital=np.zeros(n, dtype=bool),
        first_seen=first,
    )
    burden = spec.burden * system.burden_factor * np.exp(rng.normal(0, spec.burden_spread, n) + 0.012 * (age - 62))
    shares = _shares(spec)
    state = _State(
        next_admit=first.copy(),
        conditions=rng.random((n, len(CHARLSON))) < 1 - np.exp(-burden[:, None] * shares),
        burden=burden,
        frailty=rng.normal(0, 1, n),
        others=rng.random((n, len(OTHER))) < np.array([c.share for c in OTHER]),
        planned=np.zeros(n, dtype=bool),
        transfer=np.zeros(n, dtype=bool),
        facility=rng.integers(0, 2, n),
        last_leave=np.full(n, -NEVER),
        count=np.zeros(n, dtype=np.int64),
    )
    return patients, state


def _shares(spec: PresetSpec) -> F64:
    return np.array([c.share * (spec.grave if c.weight == 6 else 1.0) for c in CHARLSON])


def _trends(n: int, dangerous: F64, lean: F64, rng: np.random.Generator) -> I8:
    """Trends that lean to the dangerous side with ``lean`` (a little: signs must stay weak one by one)."""
    up = np.where(dangerous < 0, -1, 1)
    tilt = 0.25 * np.outer(lean, dangerous != 0)
    bad, good = 0.30 * np.exp(tilt), 0.30 * np.exp(-tilt)
    total = bad + good + 0.40
    u = rng.random((n, len(dangerous)))
    value = np.where(u < bad / total, 1, np.where(u > 1 - good / total, -1, 0))
    return (value * up).astype(np.int8)


def _statuses(
    active: Bool, mention: float, rng: np.random.Generator, split: tuple[float, float, float] = (0.45, 0.35, 0.20)
) -> I8:
    """Active conditions are named as such; others are denied, in the family, excluded, or not named."""
    u = rng.random(active.shape) / mention
    status = np.select(
        [u < split[0], u < split[0] + split[1], u < 1.0], [risk.DENIED, risk.FAMILY, risk.EXCLUDED], risk.UNNAMED
    )
    return np.where(active, risk.ACTIVE, status).astype(np.int8)


def _round(
    here: I64, patients: Patients, state: _State, spec: PresetSpec, system: System, rng: np.random.Generator
) -> Stays:
    n = len(here)
    admit = state.next_admit[here]
    age = (admit - patients.birth[here]) / (365.25 * DAY)
    _progress(here, admit, state, spec, rng)
    lean = 0.6 * state.frailty[here] + 0.8 * rng.normal(0, 1, n) + system.acuity

    planned = state.planned[here]
    reason = _reasons(planned, system, rng)
    vitals = np.column_stack(
        [
            np.clip(rng.normal(126 - 5 * lean, 19, n), 68, 210),
            np.clip(rng.normal(88 + 5 * lean, 16, n), 42, 170),
            np.clip(rng.normal(18.5 + 1.0 * lean, 3.6, n), 9, 44),
            np.clip(rng.normal(95.4 - 0.8 * lean, 2.9, n), 70, 100),
            np.clip(rng.normal(988 + 2 * lean, 13, n), 945, 1049),
        ]
    ).astype(np.int64)
    shares = signs.column(signs.STATEMENTS, "share")
    toward = np.sign(signs.column(signs.STATEMENTS, "death"))
    odds = shares / (1 - shares) * np.exp(0.2 * lean[:, None] * toward)
    active = state.conditions[here]
    u = rng.random((n, len(signs.PLANS)))
    facts = AdmissionFacts(
        age=age.astype(np.int64),
        vitals=vitals,
        reason=reason,
        trends=_trends(n, signs.column(signs.TRENDS, "death"), lean, rng),
        statements=rng.random((n, len(shares))) < odds / (1 + odds),
        plans=(np.where(u < 0.34, 1, np.where(u < 0.67, -1, 0))).astype(np.int8),
        conditions=_statuses(active, spec.mention_inactive, rng),
        papers=rng.random((n, len(signs.PAPERS))) < signs.column(signs.PAPERS, "share"),
        coverage=rng.random((n, len(signs.COVERAGE))) < signs.column(signs.COVERAGE, "share"),
        payer=patients.payer[here],
    )
    p_death = risk.death(facts, spec)
    alive, dead = risk.stay(facts, spec)
    died = rng.random(n) < p_death
    length_class = _draw(np.where(died[:, None], dead, alive), rng)
    leave = _leave(admit, length_class, rng)

    disposition = np.where(died, EXPIRED, rng.choice(len(_LIVING), n, p=_LIVING / _LIVING.sum()))
    p_coded = risk.coding(facts, spec, system)
    p_denial = risk.denial(facts, spec, system)
    after = _discharge_facts(here, admit, lean, facts.conditions, state, rng)
    p_return = np.where(disposition >= HOSPICE, 0.0, risk.back(after, spec))
    first = np.where(disposition == TRANSFER, risk.RETURN_FIRST_AFTER_TRANSFER, risk.RETURN_FIRST)
    return Stays(
        patient=here.astype(np.int64),
        number=state.count[here].copy(),
        admit=admit,
        leave=leave,
        planned=planned,
        transfer_in=state.transfer[here].copy(),
        facility=state.facility[here].copy(),
        age=age,
        payer=facts.payer,
        reason=reason,
        disposition=disposition.astype(np.int64),
        p_death=p_death,
        p_stay=risk.stay_mixture(p_death, alive, dead),
        p_coded=p_coded,
        coded=rng.random(p_coded.shape) < p_coded,
        p_denial=p_denial,
        denied=rng.random(n) < p_denial,
        p_return=p_return,
        first_return=first.astype(np.int64),
        returned=rng.random(n) < p_return,
        p_late=np.zeros(n),
        admission=facts,
        other_conditions=_statuses(state.others[here], 0.3, rng),
        discharge=after,
        author=rng.integers(0, spec.authors, n),
        note_noise=rng.random((n, 16)),
    )


def _progress(here: I64, admit: I64, state: _State, spec: PresetSpec, rng: np.random.Generator) -> None:
    """Chronic disease progresses with the time since the last stay: more conditions, and plain ones turn severe."""
    years = np.where(state.count[here] > 0, (admit - state.last_leave[here]) / (365.25 * DAY), 0.0)
    shares = _shares(spec)
    hazard = 0.06 * state.burden[here][:, None] * shares * years[:, None]
    for mild, severe in ((9, 10), (8, 14), (13, 15)):
        hazard[:, severe] += 0.08 * years * state.conditions[here, mild]
    state.conditions[here] |= rng.random(hazard.shape) < 1 - np.exp(-hazard)
    state.frailty[here] += 0.05 * years


def _reasons(planned: Bool, system: System, rng: np.random.Generator) -> I64:
    weights = system.reason_weights
    is_planned = np.array([r.planned for r in signs.REASONS])
    acute, elective = np.where(is_planned, 0, weights), np.where(is_planned, weights, 0)
    n = len(planned)
    reason = np.where(
        planned,
        rng.choice(len(weights), n, p=elective / elective.sum()),
        rng.choice(len(weights), n, p=acute / acute.sum()),
    )
    u = rng.random(n)  # stays in departments whose discharges are not index admissions
    special = np.select([u < 0.012, u < 0.022, u < 0.028], [signs.REHABILITATION, signs.DIALYSIS, signs.PALLIATIVE], -1)
    return np.where(special >= 0, special, reason).astype(np.int64)


def _draw(p: F64, rng: np.random.Generator) -> I64:
    u = rng.random(len(p))
    above = (u[:, None] > np.cumsum(p, axis=1)).sum(axis=1)
    return np.asarray(np.minimum(above, p.shape[1] - 1), dtype=np.int64)


def _leave(admit: I64, length_class: I64, rng: np.random.Generator) -> I64:
    """When stays end, by length-of-stay class: every stay lasts at least five hours, at most 29 days."""
    n = len(admit)
    early = admit % DAY < 13 * 60  # a stay of zero days needs time left on its day
    u = rng.random(n)
    short = np.where(u < 0.12, np.where(early, 0, 1), np.where(u < 0.5, 1, 2))
    long = 6 + np.minimum(rng.geometric(0.22, n) - 1, LONGEST_STAY_DAYS - 6)
    days = np.select([length_class == 0, length_class == 1, length_class == 2], [short, 3, 4 + (u < 0.45)], long)
    hour = rng.integers(9 * 60, 19 * 60, n)
    same_day = admit + rng.integers(5 * 60, 9 * 60, n)
    return np.where(days == 0, same_day, (admit // DAY + days) * DAY + hour).astype(np.int64)


def _discharge_facts(
    here: I64, admit: I64, lean: F64, conditions: I8, state: _State, rng: np.random.Generator
) -> DischargeFacts:
    n = len(here)
    statements = rng.random((n, len(signs.AFTER_STATEMENTS))) < signs.column(signs.AFTER_STATEMENTS, "share")
    statements[:, signs.PRIOR_STAY] = admit - state.last_leave[here] < 182 * DAY
    return DischargeFacts(
        trends=_trends(n, signs.column(signs.AFTER_TRENDS, "other"), 0.5 * lean, rng),
        statements=statements,
        booked=rng.random((n, len(signs.BOOKINGS))) < signs.column(signs.BOOKINGS, "share"),
        conditions=conditions,
    )


def _after(
    here: I64,
    stays: Stays,
    patients: Patients,
    state: _State,
    spec: PresetSpec,
    rng: np.random.Generator,
    between: Between | None,
) -> None:
    """What happens once a stay is over: transfer, return, death, another stay later, or nothing more."""
    n = len(here)
    u = rng.random((n, 6))
    leave, disposition = stays.leave, stays.disposition
    expired, hospice = disposition == EXPIRED, disposition == HOSPICE
    inside = (disposition == TRANSFER) & (u[:, 0] < INSIDE_TRANSFER)
    stays.returned &= ~inside
    returned = stays.returned
    stays.p_return[inside] = 0.0

    dies_soon = ~expired & ~hospice & ~inside & ~returned & (u[:, 1] < spec.death_after)
    soon = leave + risk.RETURN_FIRST + (u[:, 2] * (risk.RETURN_LAST - risk.RETURN_FIRST)).astype(np.int64)
    hospice_death = leave + DAY + (u[:, 2] * 80 * DAY).astype(np.int64)
    patients.death[here] = np.select([expired, hospice, dies_soon], [leave, hospice_death, soon], NEVER)
    patients.died_in_hospital[here] = expired
    alive = ~expired & ~hospice & ~dies_soon

    later = leave + 31 * DAY + (rng.exponential(spec.gap_days * DAY, n)).astype(np.int64)
    again = u[:, 3] < spec.more_stays
    late, late_minutes = np.zeros(n, dtype=bool), np.zeros(n, dtype=np.int64)
    if between is not None:
        late, late_minutes = between.late(stays.p_late)
        late &= alive & ~inside & ~returned
        later = later + 60 * DAY  # who is not back by day 90 comes after it
    dies_later = alive & ~inside & ~returned & ~late & ~again & (u[:, 4] < 0.08)
    patients.death[here] = np.where(dies_later, later, patients.death[here])
    state.next_admit[here] = np.select(
        [~alive, inside, returned, late, again],
        [
            NEVER,
            leave + 90 + (u[:, 2] * 18 * 60).astype(np.int64),
            leave + risk.return_minutes(u[:, 2], stays.first_return),
            leave + late_minutes,
            later,
        ],
        NEVER,
    )
    state.planned[here] = ~inside & (u[:, 5] < np.where(returned, 0.12, 0.15))
    state.transfer[here] = inside
    state.facility[here] = np.where(inside, 1 - state.facility[here], state.facility[here])
    state.last_leave[here] = leave
    state.count[here] += 1


def gather(parts: list[Any]) -> Any:
    """Concatenate records of arrays, field by field, nested ones too."""
    first = parts[0]
    values = {}
    for item in fields(first):
        columns = [getattr(p, item.name) for p in parts]
        values[item.name] = np.concatenate(columns) if isinstance(columns[0], np.ndarray) else gather(columns)
    return type(first)(**values)


def select(record: Any, rows: npt.NDArray[Any]) -> Any:
    """Rows of a record of arrays, nested ones too."""
    values = {}
    for item in fields(record):
        value = getattr(record, item.name)
        values[item.name] = value[rows] if isinstance(value, np.ndarray) else select(value, rows)
    return type(record)(**values)
