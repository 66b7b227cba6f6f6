"""The exact chances of a longitudinal world's tasks, given the notes so far, and given the newest note alone.

Legend of shapes: n stays asked. What is summed over: how the stay ends (life or death × class of length × way of
leaving) and its course. Given these, what the notes state, whether the patient is still there and the transfer to
intensive care do not hang together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lang1.simulator import daily
from lang1.simulator.course import DAY, Stays
from lang1.simulator.daily import Daily, leave_chances, log_likelihood
from lang1.simulator.daily_signs import DAY as DAY_SIGNS
from lang1.simulator.daily_signs import SHIFT
from lang1.simulator.risk import F64, I64, Bool

UPDATE_DAYS = (1, 2, 3)
DETERIORATION_MINUTES, ICU_MINUTES = 72 * 60, 48 * 60
_REACH = 31 * DAY


@dataclass(frozen=True)
class Beliefs:
    """What a reader knows at the question: P(end), P(notes | course), and the clock.

    Attributes:
        ends: P(life or death, class of length) before the daily notes, (n, 2, 4).
        told: P(what was read | course), up to a factor, (n, 3).
        admit, now: minutes.
    """

    ends: F64
    told: F64
    admit: I64
    now: I64


def death(b: Beliefs) -> F64:
    """P(death in this stay | what was read, still in hospital), ``(n,)``."""
    course = np.einsum("nz,dlz->ndl", b.told, daily.COURSE)
    there = np.zeros((len(b.now), 4))
    for which, chance, low, high in leave_chances(b.admit):
        there[:, which] += chance * _after(b.now, low, high)
    weight = b.ends * course * there[:, None, :]
    return np.asarray(weight[:, 1].sum(axis=1) / weight.sum(axis=(1, 2)), dtype=np.float64)


def intensive_care(b: Beliefs, window: int, or_death: bool) -> F64:
    """P(intensive care, or with ``or_death`` death too, within ``window`` minutes | in hospital, not there before)."""
    until = b.now + window
    g_now, g_until = _moved_by(b.now - b.admit), _moved_by(until - b.admit)
    happens, asked = np.zeros(len(b.now)), np.zeros(len(b.now))
    for which, chance, low, high in leave_chances(b.admit):
        there = _after(b.now, low, high)
        beyond = _after(until, low, high)
        moved = _moved_before_leaving(b, until, low, high)
        for died in (0, 1):
            for course in range(3):
                q = daily.ICU[course]
                weight = b.ends[:, died, which] * chance * daily.COURSE[died, which, course] * b.told[:, course]
                at_risk = there * (1 - q * g_now)
                asked += weight * at_risk
                if died and or_death:
                    happens += weight * (at_risk - beyond * (1 - q * g_until))
                else:
                    happens += weight * q * moved
    return np.asarray(happens / asked, dtype=np.float64)


def _after(time: I64, low: I64, high: I64) -> F64:
    """P(X > time) for X alike on the whole minutes from ``low`` to ``high`` - 1."""
    return np.asarray(np.clip(high - 1 - time, 0, high - low) / (high - low), dtype=np.float64)


def _moved_by(minutes: I64) -> F64:
    """P(transfer at most so many minutes after admission | transfer)."""
    length = daily.ICU_LAST - daily.ICU_FIRST
    return np.asarray(np.clip(minutes - daily.ICU_FIRST + 1, 0, length) / length, dtype=np.float64)


_SUMS = np.concatenate([[0.0], np.cumsum(_moved_by(np.arange(_REACH)))])  # [x]: sum of _moved_by(0 .. x - 1)


def _moved_before_leaving(b: Beliefs, until: I64, low: I64, high: I64) -> F64:
    """P(still there now, and transferred after it, by ``until`` and before leaving | a transfer is due)."""
    low, high, now, until = low - b.admit, high - b.admit, b.now - b.admit, until - b.admit
    first = np.maximum(low, now + 1)
    n = np.maximum(high - first, 0)
    # Leaving at x lets in transfers until x - 1; from until + 1 on, leaving no longer matters.
    soon = np.clip(until + 1, first, np.maximum(high, first))
    total = _SUMS[np.clip(soon - 1, 0, _REACH)] - _SUMS[np.clip(first - 1, 0, _REACH)]
    total = total + np.maximum(high - soon, 0) * _moved_by(until)
    return np.asarray((total - n * _moved_by(now)) / (high - low) * (n > 0), dtype=np.float64)


def read_until(days: Daily, now: I64, rows: I64) -> F64:
    """P(all daily notes until ``now`` | course) of the stays ``rows``, ``(n, 3)``, scaled to a largest value of 1."""
    told = log_likelihood(DAY_SIGNS, days.day_signs[rows], days.day_time[rows] <= now[:, None])
    told = told + log_likelihood(SHIFT, days.shift_signs[rows], days.shift_time[rows] <= now[:, None])
    return _scaled(told)


def read_day(days: Daily, day: int, rows: I64) -> F64:
    """The same of the doctors' note of one day alone."""
    only = np.zeros((len(rows), daily.DAYS), dtype=bool)
    only[:, day - 1] = True
    return _scaled(log_likelihood(DAY_SIGNS, days.day_signs[rows], only))


def _scaled(log: F64) -> F64:
    return np.asarray(np.exp(log - log.max(axis=1, keepdims=True)), dtype=np.float64)


Question = tuple[Bool, npt.NDArray[np.int64], F64]  # rows asked (n,), when (n,), probability of class 1 (n,)


def questions(
    stays: Stays, days: Daily, ends: F64, admission: Bool, admitted: I64, end: int
) -> tuple[dict[str, Question], dict[str, Question]]:
    """By task, whom the daily notes' tasks ask, when, and the chances given the chart, and given the newest note alone.

    Args:
        stays, days: of a chunk, n rows.
        ends: ``daily.outcome_chances``.
        admission: whether the admission note was there in time, (n,).
        admitted: when it was, (n,).
        end: first minute after the extract.
    """
    whole: dict[str, Question] = {}
    single: dict[str, Question] = {}
    # Who reads the newest note alone knows of the admission what is true on average over all stays.
    average = np.broadcast_to(ends.mean(axis=0), ends.shape)
    for day in UPDATE_DAYS:
        when = days.day_time[:, day - 1]
        rows = admission & (when < end)
        asked = np.flatnonzero(rows)
        now = when[asked]
        chart = Beliefs(ends[asked], read_until(days, now, asked), stays.admit[asked], now)
        note = Beliefs(average[asked], read_day(days, day, asked), stays.admit[asked], now)
        for found, beliefs in ((whole, chart), (single, note)):
            found[f"mortality_day_{day}"] = (rows, when, _placed(death(beliefs), asked, len(rows)))
        if day == 1:
            ward = rows & (days.icu > when)
            for found, beliefs in ((whole, chart), (single, note)):
                p = _placed(intensive_care(beliefs, DETERIORATION_MINUTES, True), asked, len(rows))
                found["deterioration_72h"] = (ward, when, p)
    asked = np.flatnonzero(admission)
    first = Beliefs(ends[asked], np.ones((len(asked), 3)), stays.admit[asked], admitted[asked])
    p = _placed(intensive_care(first, ICU_MINUTES, False), asked, len(admission))
    whole["icu_transfer_48h"] = (admission, admitted, p)
    return whole, single


def _placed(p: F64, rows: I64, n: int) -> F64:
    full = np.zeros(n)
    full[rows] = p
    return full
