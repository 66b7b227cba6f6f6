"""What the notes of a longitudinal world state day by day: names of signs by style, and what each tells.

Every sign is stated with the word for less, the same or more. ``lean`` says how its movements go with the course of the
stay: P(movement m | course c) is in proportion to exp(lean · m · c), m and c being -1, 0 or 1 (less, same, more;
better, steady, worse). Some signs say nothing. Half of those that do fall when things get worse.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lang1.simulator.signs import Names, Sign

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DailySign:
    """A sign of a daily note: its name in each style, and how it goes with the course."""

    names: Names
    lean: float


# Of the doctors' notes, one a day.
DAY: tuple[DailySign, ...] = (
    DailySign(("breathing effort", "work of breathing", "respiratory effort", "resp effort"), 0.52),
    DailySign(("fever", "temp", "temperature", "tmax"), 0.34),
    DailySign(("kidney output", "uop", "diuresis", "urine vol"), -0.52),
    DailySign(("wakefulness", "mentation", "alertness level", "gcs"), -0.42),
    DailySign(("pressor dose", "pressors", "vasopressor dose", "levo"), 0.52),
    DailySign(("white count", "wbc", "leukocytes", "wcc"), 0.30),
    DailySign(("steps walked", "ambulation", "walking distance", "mobility"), -0.42),
    DailySign(("bowel sounds", "bs", "peristalsis", "bowels"), 0.0),
    DailySign(("rash", "rash", "exanthem", "skin rash"), 0.0),
)
# Of the nurses' notes, two a day.
SHIFT: tuple[DailySign, ...] = (
    DailySign(("calls for help", "call lights", "bell calls", "calls"), 0.42),
    DailySign(("oxygen flow", "o2 lpm", "oxygen rate", "o2 rate"), 0.52),
    DailySign(("sleep", "sleep", "rest", "slept"), -0.34),
    DailySign(("meal eaten", "po taken", "food taken", "meals"), -0.52),
    DailySign(("itching", "pruritus", "itch", "itching"), 0.0),
    DailySign(("room noise", "noise", "ward noise", "noise level"), 0.0),
)
# Of clinic notes: ``other`` is the log-odds of an admission between the 31st and the 89th day after discharge.
CLINIC: tuple[Sign, ...] = (
    Sign(("ankle size", "ankle edema", "leg girth", "ankles"), other=0.75),
    Sign(("stairs managed", "stairs", "climbing", "steps"), other=-0.75),
    Sign(("doses missed", "missed meds", "omitted doses", "skipped doses"), other=0.75),
    Sign(("home support", "caregiver help", "help at home", "support"), other=-0.60),
    Sign(("eyesight", "vision", "sight", "vision"), other=0.0),
)
CLINIC_INTERCEPT = -1.75

# Words for less, the same, more, and the notes of a day, a nurse's shift and a clinic visit; by style.
MOVES: tuple[tuple[str, str, str], ...] = (
    ("less", "same", "more"),
    ("down", "flat", "up"),
    ("decreased", "unchanged", "increased"),
    ("falling", "steady", "rising"),
)
DAY_LINES: tuple[str, ...] = (
    "DAILY NOTE. Day {day}, came at {hour} h. {filler} Since yesterday: {signs}.",
    "DAILY NOTE HD {day}, adm {hour}h. {filler} 24h: {signs}.",
    "Daily Progress. Hospital day {day} after admission at {hour} hours. {filler} Changes: {signs}.",
    "WARD NOTE. D{day} in {hour}h. {filler} Interval: {signs}.",
)
SHIFT_LINES: tuple[str, ...] = (
    "SHIFT REPORT. Over the shift: {signs}. {filler}",
    "RN NOTE. This shift: {signs}. {filler}",
    "Nursing Summary. During these hours: {signs}. {filler}",
    "NURSE. Hours: {signs}. {filler}",
)
CLINIC_LINES: tuple[str, ...] = (
    "OFFICE NOTE. Since the last visit: {signs}. {filler}",
    "CLINIC F/U. Since last seen: {signs}. {filler}",
    "Office Visit. Compared with the previous visit: {signs}. {filler}",
    "OUTPATIENT. Interval: {signs}. {filler}",
)
DAY_FILLER = ("Seen on rounds.", "Team rounded.", "Orders reviewed.", "Awaiting tests.", "Chart reviewed.")
SHIFT_FILLER = ("Rails up, bell in reach.", "Turned as ordered.", "Lines checked.", "Handed over at seven.")
CLINIC_FILLER = ("Medicines renewed.", "Bloods drawn.", "Letter sent.", "Vaccines up to date.")


def movement_chances(signs: tuple[DailySign, ...]) -> F64:
    """P(movement | course), ``(3 courses, signs, 3 movements)``, both in the order -1, 0, 1."""
    lean = np.array([sign.lean for sign in signs])
    steps = np.array([-1.0, 0.0, 1.0])
    odds = np.exp(lean[None, :, None] * steps[:, None, None] * steps[None, None, :])
    return np.asarray(odds / odds.sum(axis=2, keepdims=True), dtype=np.float64)
