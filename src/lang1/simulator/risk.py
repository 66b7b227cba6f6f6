"""The exact chances: each outcome's class probabilities as a function of facts that the eligible note states.

Legend of shapes: n stays. Nothing here reads anything but facts that ``notes.py`` writes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lang1.simulator import signs
from lang1.simulator.charlson import CHARLSON
from lang1.simulator.presets import PresetSpec
from lang1.simulator.styles import System

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
I8 = npt.NDArray[np.int8]
Bool = npt.NDArray[np.bool_]

# Status of a condition in a note.
UNNAMED, ACTIVE, DENIED, FAMILY, EXCLUDED = 0, 1, 2, 3, 4
VITALS = ("sbp", "hr", "rr", "spo2", "temp")
MOST_ILLNESS = 12.0
# Returns happen between FIRST and LAST minutes after discharge; the earliest after a transfer elsewhere is later than
# the 24 h within which a next admission would continue the episode.
RETURN_FIRST, RETURN_FIRST_AFTER_TRANSFER, RETURN_LAST = 360, 1560, 719 * 60
RETURN_POWER = 1.5  # returns crowd into the first weeks
_DEATH_STAY_SHIFT = np.array([0.5, 0.0, -0.1, 0.3])  # stays that end in death: earlier or later than others


@dataclass
class AdmissionFacts:
    """What history-and-physical notes state."""

    age: I64  # (n,) years
    vitals: I64  # (n, 5) mmHg, 1/min, 1/min, %, tenths of a degree F
    reason: I64  # (n,) index into REASONS
    trends: I8  # (n, 12) -1 lower, 0, +1 higher
    statements: Bool  # (n, 10)
    plans: I8  # (n, 8) -1 held, 0 later, +1 now
    conditions: I8  # (n, 17) status
    papers: Bool  # (n, 10) held
    coverage: Bool  # (n, 4)
    payer: I64  # (n,) index into PAYERS


@dataclass
class DischargeFacts:
    """What discharge notes state."""

    trends: I8  # (n, 12)
    statements: Bool  # (n, 8)
    booked: Bool  # (n, 6)
    conditions: I8  # (n, 17) status; active ones are listed


def sigmoid(x: F64) -> F64:
    return np.asarray(1.0 / (1.0 + np.exp(-x)), dtype=np.float64)


def softmax(z: F64) -> F64:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True), dtype=np.float64)


def illness(conditions: I8) -> F64:
    """Charlson points (1987) of the conditions that a note lists as active, at most ``MOST_ILLNESS``, ``(n,)``."""
    weights = np.array([c.weight for c in CHARLSON], dtype=np.float64)
    return np.asarray(np.minimum((conditions == ACTIVE) @ weights, MOST_ILLNESS), dtype=np.float64)


def death(facts: AdmissionFacts, spec: PresetSpec) -> F64:
    """P(death in hospital), ``(n,)``."""
    x = facts.trends @ signs.column(signs.TRENDS, "death") + facts.statements @ signs.column(signs.STATEMENTS, "death")
    x = x + np.array([r.death for r in signs.REASONS])[facts.reason]
    x = x + 0.02 * (facts.age - 65) + spec.illness_death * illness(facts.conditions)
    sbp, hr, rr, spo2, _ = facts.vitals.T
    x = x + 0.45 * (sbp < 100) + 0.35 * (hr >= 110) + 0.35 * (rr >= 24) + 0.45 * (spo2 < 91)
    for index, weight in signs.CONDITION_DEATH.items():
        x = x + weight * (facts.conditions[:, index] == ACTIVE)
    for trend, sign, statement, weight in signs.DEATH_PAIRS:
        x = x + weight * ((facts.trends[:, trend] == sign) & facts.statements[:, statement])
    return sigmoid(spec.death_intercept + spec.death_scale * x)


def stay(facts: AdmissionFacts, spec: PresetSpec) -> tuple[F64, F64]:
    """P(length-of-stay class) of those who live and of those who die, ``(n, 4)`` each."""
    z = facts.trends @ signs.column(signs.TRENDS, "stay") + facts.statements @ signs.column(signs.STATEMENTS, "stay")
    z = z + facts.plans @ signs.column(signs.PLANS, "stay")
    z = z + np.array([r.stay for r in signs.REASONS])[facts.reason]
    temp = facts.vitals[:, 4]
    z = z + np.outer(temp >= 1010, (-0.4, 0.0, 0.2, 0.2)) + np.outer((facts.age - 65) / 20, (-0.15, 0.0, 0.05, 0.1))
    z = z + np.outer(spec.illness_stay * illness(facts.conditions), (-1.0, -0.35, 0.25, 1.1))
    z = spec.stay_scale * z + np.array(spec.stay_intercepts)
    return softmax(z), softmax(z + _DEATH_STAY_SHIFT)


def stay_mixture(p_death: F64, alive: F64, dead: F64) -> F64:
    """P(length-of-stay class) at the admission note: deaths count with the days until death."""
    return alive * (1 - p_death)[:, None] + dead * p_death[:, None]


def coding(facts: AdmissionFacts, spec: PresetSpec, system: System) -> F64:
    """P(coded) of each Charlson group, ``(n, 17)``, independent given the note."""
    by_status = np.zeros((5, len(CHARLSON)))
    by_status[ACTIVE] = min(spec.coding * system.coding_factor, 1.0) * system.coding_by_group
    by_status[FAMILY] = system.family_coded
    by_status[EXCLUDED] = spec.miscoding * system.miscoding_factor
    return np.asarray(by_status[facts.conditions, np.arange(len(CHARLSON))], dtype=np.float64)


def denial(facts: AdmissionFacts, spec: PresetSpec, system: System) -> F64:
    """P(claim denied at first), ``(n,)``."""
    held = np.where(facts.papers, 0.5, -0.5)
    x = held @ system.paper_weights + facts.coverage @ signs.column(signs.COVERAGE, "other")
    x = x + system.payer_denial[facts.payer]
    x = x + 0.7 * (system.managed[facts.payer] & ~facts.papers[:, 0])
    return sigmoid(spec.denial_intercept + spec.denial_scale * x)


def back(facts: DischargeFacts, spec: PresetSpec) -> F64:
    """P(inpatient admission within 30 days of discharge), ``(n,)``."""
    x = facts.trends @ signs.column(signs.AFTER_TRENDS, "other")
    x = x + facts.statements @ signs.column(signs.AFTER_STATEMENTS, "other")
    x = x + np.where(facts.booked, 0.5, -0.5) @ signs.column(signs.BOOKINGS, "other")
    for index, weight in signs.CONDITION_RETURN.items():
        x = x + weight * (facts.conditions[:, index] == ACTIVE)
    for trend, sign, statement, weight in signs.RETURN_PAIRS:
        x = x + weight * ((facts.trends[:, trend] == sign) & facts.statements[:, statement])
    return sigmoid(spec.return_intercept + spec.return_scale * x)


def return_minutes(u: F64, first: I64) -> I64:
    """Minutes from discharge to return from uniforms; ``first`` is the earliest."""
    return (first + (RETURN_LAST - first) * u**RETURN_POWER).astype(np.int64)


def return_eligible(p_return: F64, first: I64, delay: I64, death_after: float, later: F64 | float = 0.0) -> F64:
    """P(return | neither returned nor dead when the note, ``delay`` minutes after discharge, is there).

    Deaths without return happen with chance ``death_after``, uniform between the same first and last minutes. ``later``
    is the chance of a return after the last minute that counts too, of those who are alive and not back by then.
    """
    share = np.clip((delay - first) / (RETURN_LAST - first), 0.0, 1.0)
    still_out = p_return * (1 - share ** (1 / RETURN_POWER))
    share_died = np.clip((delay - RETURN_FIRST) / (RETURN_LAST - RETURN_FIRST), 0.0, 1.0)
    still_alive = (1 - p_return) * (1 - death_after * share_died)
    returns = still_out + (1 - p_return) * (1 - death_after) * later
    return np.asarray(returns / (still_out + still_alive), dtype=np.float64)


assert len(CHARLSON) == 17
