"""Emergency, observation and outpatient visits between stays; they bear on no outcome."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lang1.simulator.course import DAY, Patients, Stays
from lang1.simulator.daily_signs import CLINIC
from lang1.simulator.presets import PresetSpec
from lang1.simulator.risk import I8, I64, Bool

_MINUTES = np.array([240, 1300, 40])  # typical length by kind
_YEARS_BEFORE = 1
OUTPATIENT = 2


@dataclass
class Visits:
    """One row a visit; ``kind`` 0 emergency, 1 observation, 2 outpatient."""

    patient: I64
    start: I64
    stop: I64
    kind: I64
    facility: I64
    payer: I64
    signs: I8  # (m, 5) what a clinic note of a longitudinal world states: -1 less, 0 the same, 1 more
    stated: Bool  # whether it states them


def visits(people: Patients, stays: Stays, end: int, spec: PresetSpec, rng: np.random.Generator) -> Visits:
    """Visits at chance times, those left out that would overlap a stay or follow a death."""
    n = len(people.birth)
    patient = np.repeat(np.arange(n), rng.poisson(spec.other_encounters, n))
    first = np.maximum(people.first_seen[patient] - _YEARS_BEFORE * 365 * DAY, 0)
    last = np.minimum(people.death[patient], end)
    start = (first + rng.random(len(patient)) * (last - first)).astype(np.int64)
    kind = rng.choice(3, len(patient), p=[0.35, 0.1, 0.55])
    stop = start + (_MINUTES[kind] * (0.5 + rng.random(len(patient)))).astype(np.int64)
    facility = rng.integers(0, 2, len(patient))
    # One sorted key (patient, time) finds the stays around each visit.
    wide = np.int64(2**34)
    keys = stays.patient * wide + stays.admit
    before = np.searchsorted(keys, patient * wide + start, side="right") - 1
    has_before = (before >= 0) & (stays.patient[np.maximum(before, 0)] == patient)
    inside = has_before & (stays.leave[np.maximum(before, 0)] >= start)
    after = np.minimum(before + 1, len(keys) - 1)
    runs_into = (before + 1 < len(keys)) & (stays.patient[after] == patient) & (stays.admit[after] <= stop)
    keep = ~inside & ~runs_into & (stop < last) & (start < end)
    order = np.flatnonzero(keep)
    order = order[np.lexsort((start[order], patient[order]))]
    chosen, m = patient[order], len(order)
    nothing, none = np.zeros((m, len(CLINIC)), dtype=np.int8), np.zeros(m, dtype=bool)
    return Visits(chosen, start[order], stop[order], kind[order], facility[order], people.payer[chosen], nothing, none)
