"""The course of each stay in a longitudinal world: better, steady or worse, and what notes say of it day by day.

How a stay ends is drawn first, from the facts of the admission note, as everywhere (``course.py``), so the tasks
asked at admission keep their exact chances. Then the course is drawn given life or death and the class of length,
transfer to intensive care given the course, and the movement of every sign of every daily note given the course, each
by itself. So the chance of any of them given the notes so far follows from Bayes' rule, exactly (``oracle_daily.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lang1.simulator import risk
from lang1.simulator.course import DAY, EXPIRED, NEVER, Stays
from lang1.simulator.daily_signs import DAY as DAY_SIGNS
from lang1.simulator.daily_signs import SHIFT, DailySign, movement_chances
from lang1.simulator.presets import PresetSpec
from lang1.simulator.risk import F64, I8, I64, Bool

DAYS, SHIFTS = 5, 8  # doctors' notes on days 1 to 5, nurses' twice a day on days 0 to 3
MISSING = 0.03  # of daily notes, whatever happens
# P(course | class of length) of those who live and those who die: better, steady, worse.
COURSE = np.array(
    [
        [[0.68, 0.29, 0.03], [0.58, 0.36, 0.06], [0.45, 0.44, 0.11], [0.26, 0.50, 0.24]],
        [[0.01, 0.06, 0.93], [0.01, 0.07, 0.92], [0.01, 0.09, 0.90], [0.03, 0.14, 0.83]],
    ]
)
# P(transfer to intensive care | course), unless the stay is over before; when, in minutes after admission.
ICU = np.array([0.02, 0.10, 0.70])
ICU_FIRST, ICU_LAST = 20 * 60, 120 * 60


@dataclass
class Daily:
    """One row a stay; note times in minutes, ``NEVER`` where there is none."""

    course: I64  # 0 better, 1 steady, 2 worse
    icu: I64  # start of intensive care, NEVER without
    icu_end: I64
    day_signs: I8  # (n, DAYS, signs)
    day_time: I64  # (n, DAYS)
    shift_signs: I8  # (n, SHIFTS, signs)
    shift_time: I64  # (n, SHIFTS)
    author: I64  # of the nurses' notes


def daily(stays: Stays, rng: np.random.Generator) -> Daily:
    """Draw the course of a chunk's stays and what their daily notes state."""
    n = len(stays.admit)
    died = (stays.disposition == EXPIRED).astype(np.int64)
    chances = COURSE[died, length_class(stays)]
    course = (rng.random(n)[:, None] > np.cumsum(chances, axis=1)[:, :2]).sum(axis=1).astype(np.int64)
    start = stays.admit + rng.integers(ICU_FIRST, ICU_LAST, n)
    moved = (rng.random(n) < ICU[course]) & (start < stays.leave)
    out = np.minimum(start + rng.integers(12 * 60, 4 * DAY, n), stays.leave)
    day_time = stays.admit[:, None] + DAY * np.arange(1, DAYS + 1) - rng.integers(0, 200, (n, DAYS))
    shift = np.arange(SHIFTS)
    shift_time = stays.admit[:, None] + DAY * (shift // 2) + 8 * 60 * (shift % 2) + rng.integers(300, 480, (n, SHIFTS))
    return Daily(
        course=course,
        icu=np.where(moved, start, NEVER),
        icu_end=np.where(moved, out, NEVER),
        day_signs=_moved(DAY_SIGNS, course, DAYS, rng),
        day_time=_there(day_time, stays.leave, rng),
        shift_signs=_moved(SHIFT, course, SHIFTS, rng),
        shift_time=_there(shift_time, stays.leave, rng),
        author=rng.integers(0, 50, n),
    )


def length_class(stays: Stays) -> I64:
    """Class of the length of stay: 0-2, 3, 4-5 or more days between the dates."""
    days = stays.leave // DAY - stays.admit // DAY
    return np.searchsorted(np.array([2, 3, 5]), days, side="left").astype(np.int64)


def _moved(signs: tuple[DailySign, ...], course: I64, notes: int, rng: np.random.Generator) -> I8:
    edges = np.cumsum(movement_chances(signs), axis=2)[course][:, None, :, :2]  # (n, 1, signs, 2)
    u = rng.random((len(course), notes, len(signs)))
    return np.asarray((u[..., None] > edges).sum(axis=3) - 1, dtype=np.int8)


def _there(time: I64, leave: I64, rng: np.random.Generator) -> I64:
    """Times of the notes that were written; none at midnight, which reads as a bare date elsewhere."""
    time = time + (time % DAY == 0)
    missing = rng.random(time.shape) < MISSING
    return np.where(missing | (time >= leave[:, None]), NEVER, time).astype(np.int64)


def log_likelihood(signs: tuple[DailySign, ...], said: I8, counted: Bool) -> F64:
    """log P(what the counted notes state | course), ``(n, 3)``; ``said`` (n, notes, signs), ``counted`` (n, notes)."""
    table = np.log(movement_chances(signs))  # (course, sign, movement)
    which = said.astype(np.int64) + 1
    total = np.zeros((len(said), 3))
    for course in range(3):
        each = table[course][np.arange(len(signs)), which].sum(axis=2)  # (n, notes)
        total[:, course] = (each * counted).sum(axis=1)
    return total


def leave_chances(admit: I64) -> list[tuple[int, F64, I64, I64]]:
    """How ``course._leave`` draws the end of a stay given its class: for each way the class, its chance, the bounds.

    Returns:
        ``(class, P(way | class) (n,), first minute (n,), last minute + 1 (n,))``; within the bounds all minutes alike.
    """
    n = len(admit)
    early = admit % DAY < 13 * 60
    midnight = admit // DAY * DAY
    ways: list[tuple[int, F64, I64, I64]] = []

    def on_day(which: int, day: int, chance: npt.ArrayLike) -> None:
        p = np.broadcast_to(np.asarray(chance, dtype=np.float64), (n,))
        ways.append((which, p, midnight + day * DAY + 9 * 60, midnight + day * DAY + 19 * 60))

    ways.append((0, np.where(early, 0.12, 0.0), admit + 5 * 60, admit + 9 * 60))
    on_day(0, 1, np.where(early, 0.38, 0.50))
    on_day(0, 2, 0.50)
    on_day(1, 3, 1.0)
    on_day(2, 4, 0.55)
    on_day(2, 5, 0.45)
    longest = 29 - 6
    for k in range(longest):
        on_day(3, 6 + k, 0.22 * 0.78**k)
    on_day(3, 6 + longest, 0.78**longest)
    return ways


def outcome_chances(stays: Stays, spec: PresetSpec) -> F64:
    """P(life or death, class of length) given the admission note, ``(n, 2, 4)``."""
    alive, dead = risk.stay(stays.admission, spec)
    p = stays.p_death[:, None]
    return np.stack([alive * (1 - p), dead * p], axis=1)
