"""Clinic visits of a longitudinal world, and what they say of admissions one to three months after a discharge.

Before each stay lie up to three visits whose notes state how five signs moved. All that were written in the 300 days
before an admission, earlier stays' too, add up to the log-odds that the patient, when not back within 30 days of the
stay's discharge, is admitted between the 31st and the 89th day. A visit exists only because a stay follows, so none
lies within five days of the stay before, where a question of that stay (asked within 72 hours) could see it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lang1.simulator import risk, signs
from lang1.simulator.course import DAY, Patients
from lang1.simulator.daily_signs import CLINIC, CLINIC_INTERCEPT
from lang1.simulator.risk import F64, I64
from lang1.simulator.visits import OUTPATIENT, Visits

MOST_VISITS, MEAN_VISITS = 3, 2.0
COUNTED_DAYS = 300  # with a stay (29 days) and its discharge note (3 days) surely within a year of the question
CLEAR_DAYS = 5
LATE_FIRST, LATE_LAST = 31 * DAY, 89 * DAY
_KEPT = 64  # visits remembered of a patient; so many lie within 300 days only after a score of stays in a row
_LONG_AGO = np.int64(-(2**60))


class ClinicYear:
    """The clinic visits of a chunk's patients, as their stays unfold."""

    def __init__(self, patients: int, rng: np.random.Generator) -> None:
        self.rng = rng
        self._times = np.full((patients, _KEPT), _LONG_AGO)
        self._scores = np.zeros((patients, _KEPT))
        self._rows: list[tuple[I64, I64, npt.NDArray[np.int8]]] = []

    def before_stays(self, here: I64, admit: I64, last_leave: I64) -> F64:
        """Make the visits before the stays of patients ``here``; P(admission on day 31 to 89 after discharge)."""
        n, rng = len(here), self.rng
        first = np.maximum(np.maximum(last_leave + CLEAR_DAYS * DAY, admit - COUNTED_DAYS * DAY), 0)
        last = admit - DAY
        count = np.minimum(rng.poisson(MEAN_VISITS, n), MOST_VISITS)
        share = np.sort(rng.random((n, MOST_VISITS)), axis=1)
        said = rng.integers(-1, 2, (n, MOST_VISITS, len(CLINIC))).astype(np.int8)
        weights = signs.column(CLINIC, "other")
        for k in range(MOST_VISITS):
            there = np.flatnonzero((k < count) & (last > first))
            time = first[there] + (share[there, k] * (last[there] - first[there])).astype(np.int64)
            who = here[there]
            self._rows.append((who, time, said[there, k]))
            self._times[who] = np.roll(self._times[who], 1, axis=1)
            self._scores[who] = np.roll(self._scores[who], 1, axis=1)
            self._times[who, 0], self._scores[who, 0] = time, said[there, k] @ weights
        counts = self._times[here] >= (admit - COUNTED_DAYS * DAY)[:, None]
        assert not counts[:, -1].any(), "a visit within 300 days may have been forgotten"
        return risk.sigmoid(CLINIC_INTERCEPT + (self._scores[here] * counts).sum(axis=1))

    def late(self, p: F64) -> tuple[npt.NDArray[np.bool_], I64]:
        """Who comes back on day 31 to 89, and after how many minutes."""
        n = len(p)
        minutes = LATE_FIRST + (self.rng.random(n) * (LATE_LAST - LATE_FIRST)).astype(np.int64)
        return self.rng.random(n) < p, minutes

    def visits(self, people: Patients) -> Visits:
        """All visits, by patient and time."""
        who, start = (np.concatenate([row[k] for row in self._rows]) for k in (0, 1))
        said = np.concatenate([row[2] for row in self._rows])
        order = np.lexsort((start, who))
        who, start, said = who[order], start[order], said[order]
        facility = self.rng.integers(0, 2, len(who))
        kind = np.full(len(who), OUTPATIENT)
        return Visits(who, start, start + 30, kind, facility, people.payer[who], said, np.ones(len(who), dtype=bool))


def merged(one: Visits, other: Visits) -> Visits:
    """Two lists of visits as one, by patient and time."""
    columns = [
        np.concatenate([getattr(one, name), getattr(other, name)])
        for name in ("patient", "start", "stop", "kind", "facility", "payer", "signs", "stated")
    ]
    order = np.lexsort((columns[1], columns[0]))
    return Visits(*(column[order] for column in columns))
