"""Readmission windows on random timelines against a brute-force reading of the card, row by row in Python."""

from __future__ import annotations

import random
import tempfile
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from test_remede_world import Rows, dc, labels, stay, write
from test_remede_world import settings as build_settings

from lang1.remede.benchmark import Benchmark
from lang1.remede.build import build

# Off the hour, so that no time is a bare date.
START, END = datetime(2020, 1, 1, 1, 7), datetime(2020, 4, 1)
HOUR = timedelta(hours=1)
MONTH = timedelta(days=30)


@dataclass(frozen=True)
class Stay:
    name: str
    admit: datetime
    discharge: datetime | None
    disposition: str
    facility: str | None
    inpatient: bool
    note: datetime | None


# Around the rules' limits (0, 6, 24, 72 and 720 hours), before the last discharge, and anywhere.
GAPS = (-30, -10, -3, -1, 0, 0, 1, 2, 5, 6, 7, 23, 24, 25, 71, 72, 73, 690, 720)
LENGTHS = (None, 0, 1, 2, 4, 24, 40, 150)
DELAYS = (None, -5, 0, 2, 30, 71, 72, 73)


def timeline(number: int, chance: random.Random) -> list[Stay]:
    """A patient's stays; each begins around the end of the one before, and may lie inside it."""
    found, clock = [], START
    for i in range(chance.randint(1, 7)):
        gap = chance.choice(GAPS) if chance.random() < 0.8 else chance.randint(-40, 900)
        admit = max(clock + gap * HOUR, START)
        length = chance.choice(LENGTHS)
        discharge = None if length is None else admit + length * HOUR
        end = discharge or admit
        delay = chance.choice(DELAYS) if chance.random() < 0.5 else chance.randint(-20, 80)
        note = None if delay is None else end + delay * HOUR + timedelta(minutes=chance.choice((0, 1)))
        disposition = chance.choice(("home", "home", "transfer_acute", "expired", "hospice", "against_advice"))
        facility, inpatient = chance.choice(("x", "y", None)), chance.random() < 0.85
        found.append(Stay(f"p{number}-{9 - i}", admit, discharge, disposition, facility, inpatient, note))
        clock = end if chance.random() < 0.8 else clock
    return found


def brute_force(stays: list[Stay], death: datetime | None) -> dict[str, int]:
    """The card, read literally: name → label of the index stays that count."""
    order = sorted(
        (s for s in stays if s.inpatient), key=lambda s: (s.admit, s.discharge is None, s.discharge or END, s.name)
    )
    episodes: list[list[Stay]] = []
    for i, here in enumerate(order):
        ended = [(s.discharge, j) for j, s in enumerate(order[:i]) if s.discharge is not None]
        goes_on = False
        if ended:
            end, j = max(ended)
            before, gap = order[j], here.admit - end
            elsewhere = here.facility is not None and before.facility is not None and here.facility != before.facility
            goes_on = gap <= 0 * HOUR or (before.disposition == "transfer_acute" and gap <= 24 * HOUR)
            goes_on = goes_on or (elsewhere and gap <= 6 * HOUR)
        if goes_on:
            episodes[-1].append(here)
        else:
            episodes.append([here])
    found = {}
    for i, episode in enumerate(episodes):
        if any(s.discharge is None for s in episode):
            continue
        last = max(episode, key=lambda s: (s.discharge, order.index(s)))
        out = last.discharge
        assert out is not None
        died_there = last.disposition == "expired" or (death is not None and last.admit <= death <= out)
        if died_there or last.disposition == "hospice" or out + MONTH > END:
            continue
        if last.note is None or last.note > out + 72 * HOUR:
            continue
        asked = max(last.note, out)
        returns = [s.admit for later in episodes[i + 1 :] for s in later]
        if any(r <= asked for r in returns) or (death is not None and death <= asked):
            continue
        found[last.name] = int(any(asked < r <= out + MONTH for r in returns))
    return found


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32))
def test_readmission_equals_brute_force(seed: int) -> None:
    chance = random.Random(seed)
    tables: dict[str, Rows] = {"patients": [], "encounters": [], "notes": []}
    expected, timelines = {}, {}
    for number in range(400):
        who, stays = f"p{number}", timeline(number, chance)
        moments = [START + chance.randrange(2000) * HOUR, *(s.note for s in stays if s.note), *(s.admit for s in stays)]
        death = chance.choice(moments) if chance.random() < 0.4 else None
        tables["patients"].append({"patient_id": who, "death_time": death})
        for s in stays:
            kind = "inpatient" if s.inpatient else "observation"
            more = {"disposition": s.disposition, "facility": s.facility, "encounter_class": kind}
            tables["encounters"].append(stay(s.name, who, s.admit, s.discharge, **more))
            if s.note is not None:
                tables["notes"].append(dc(s.name, who, s.note))
        expected |= {f"readmission:{name}": label for name, label in brute_force(stays, death).items()}
        timelines[who] = (death, stays)
    assert {0, 1} == set(expected.values())
    complete = {"encounters": {"through": END, "key": "admit_time"}}
    with tempfile.TemporaryDirectory() as place:
        records = write(Path(place) / "records", tables, complete_through=complete)
        found = labels(Benchmark.open(build(records, Path(place) / "out", build_settings(tasks=["readmission"]))))
    wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
    assert not wrong, (wrong[0], expected.get(wrong[0]), found.get(wrong[0]), timelines[wrong[0][12:].split("-")[0]])
