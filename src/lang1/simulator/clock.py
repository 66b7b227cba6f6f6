"""Paperwork of stays: when notes are written, signed and available, which are late, lacking or never signed.

None of it depends on an outcome: whether a note is late is drawn before anything else about it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lang1.simulator.course import DAY, Stays
from lang1.simulator.risk import I64, Bool
from lang1.simulator.styles import System

PROMPT_WITHIN = 72 * 60  # minutes after discharge within which a signed discharge note makes an index


@dataclass
class Paperwork:
    """Note times in minutes; one row a stay."""

    admission_there: Bool  # a history and physical exists
    admission_late: Bool  # ... and is available only after the stay is over
    admission_available: I64
    discharge_there: Bool
    discharge_signed: Bool
    discharge_delay: I64  # minutes from discharge to availability
    preliminary: Bool  # an unsigned first version was available before
    addendum: Bool  # a later row amends the discharge note
    addendum_available: I64
    coded: Bool  # the encounter got diagnosis codes at all


def paperwork(stays: Stays, system: System, rng: np.random.Generator) -> Paperwork:
    """Draw the paperwork of a chunk's stays."""
    n = len(stays.admit)
    u = rng.random((n, 6))
    late = u[:, 0] < system.late_h_and_p
    available = np.where(late, stays.leave + rng.integers(60, 5000, n), stays.admit + rng.integers(40, 240, n))
    delay = np.select(
        [u[:, 1] < 0.82, u[:, 1] < 1 - system.late_discharge],
        [rng.integers(30, 360, n), rng.integers(360, PROMPT_WITHIN + 1, n)],
        rng.integers(PROMPT_WITHIN + 60, 20_000, n),
    )
    # A time at midnight reads as a bare date elsewhere: no note becomes available on the stroke of it.
    available = available + (available % DAY == 0)
    delay = delay + ((stays.leave + delay) % DAY == 0)
    signed = u[:, 2] > 0.015
    there = u[:, 3] > 0.01
    amended = stays.leave + rng.integers(15 * DAY, 40 * DAY, n)
    amended = amended + (amended % DAY == 0)
    return Paperwork(
        admission_there=u[:, 4] > 0.01,
        admission_late=late,
        admission_available=available.astype(np.int64),
        discharge_there=there,
        discharge_signed=signed,
        discharge_delay=delay.astype(np.int64),
        preliminary=there & (rng.random(n) < 0.03),
        addendum=there & signed & (rng.random(n) < 0.04),
        addendum_available=amended.astype(np.int64),
        coded=u[:, 5] > system.uncoded,
    )
