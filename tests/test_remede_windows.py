"""Readmission windows on random timelines against a brute-force reading of the card, row by row in Python."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_remede_world import Rows, dc, labels, stay, write
from test_remede_world import settings as build_settings

from lang1.remede.benchmark import Benchmark
from lang1.remede.build import build

START, END = datetime(2020, 1, 1, 1), datetime(2020, 6, 1)
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


@st.composite
def timeline(draw: st.DrawFn) -> tuple[list[tuple[int, int | None, str, str | None, bool, int | None]], int | None]:
    """Stays as (hours after the stay before, hours in hospital, disposition, facility, inpatient, note delay)."""
    # Gaps and delays lie around the rules' limits: 0, 6, 24, 72 and 720 hours, and a little before the last discharge.
    gap = st.one_of(st.sampled_from([-30, -1, 0, 1, 5, 6, 7, 23, 24, 25, 71, 72, 73, 700]), st.integers(-40, 900))
    length = st.one_of(st.none(), st.sampled_from([0, 1, 24]), st.integers(0, 200))
    disposition = st.sampled_from(["home", "transfer_acute", "expired", "hospice", "against_advice"])
    facility = st.sampled_from(["x", "y", None])
    delay = st.one_of(st.none(), st.sampled_from([-5, 0, 2, 71, 72, 73]), st.integers(-20, 80))
    one = st.tuples(gap, length, disposition, facility, st.sampled_from([True, True, True, False]), delay)
    return draw(st.lists(one, min_size=1, max_size=6)), draw(st.one_of(st.none(), st.integers(0, 3000)))


def stays_of(number: int, rows: list[tuple[int, int | None, str, str | None, bool, int | None]]) -> list[Stay]:
    found, clock = [], START
    for i, (gap, length, disposition, facility, inpatient, delay) in enumerate(rows):
        admit = max(clock + gap * HOUR, START)
        discharge = None if length is None else admit + length * HOUR
        end = discharge or admit
        note = None if delay is None else end + delay * HOUR + timedelta(minutes=1)
        found.append(Stay(f"p{number}-{9 - i}", admit, discharge, disposition, facility, inpatient, note))
        clock = end
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


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(timeline(), min_size=10, max_size=25))
def test_readmission_equals_brute_force(
    people: list[tuple[list[tuple[int, int | None, str, str | None, bool, int | None]], int | None]],
) -> None:
    tables: dict[str, Rows] = {"patients": [], "encounters": [], "notes": []}
    expected = {}
    for number, (rows, dies) in enumerate(people):
        who, stays = f"p{number}", stays_of(number, rows)
        # Off the hour, so that no time is a bare date.
        death = None if dies is None else START + dies * HOUR + timedelta(minutes=30)
        tables["patients"].append({"patient_id": who, "death_time": death})
        for s in stays:
            kind = "inpatient" if s.inpatient else "observation"
            more = {"disposition": s.disposition, "facility": s.facility, "encounter_class": kind}
            shift = timedelta(minutes=7)
            tables["encounters"].append(stay(s.name, who, s.admit + shift, s.discharge and s.discharge + shift, **more))
            if s.note is not None:
                tables["notes"].append(dc(s.name, who, s.note + shift))
        shifted = [
            Stay(
                s.name,
                s.admit + shift,
                s.discharge and s.discharge + shift,
                *(s.disposition, s.facility, s.inpatient),
                s.note and s.note + shift,
            )
            for s in stays
        ]
        expected |= {f"readmission:{name}": label for name, label in brute_force(shifted, death).items()}
    # Someone who always counts, so that the benchmark is never empty.
    tables["encounters"].append(stay("always", "always", START, START + 30 * HOUR))
    tables["notes"].append(dc("always", "always", START + 31 * HOUR))
    expected["readmission:always"] = 0
    complete = {"encounters": {"through": END, "key": "admit_time"}}
    with tempfile.TemporaryDirectory() as place:
        records = write(Path(place) / "records", tables, complete_through=complete)
        out = build(records, Path(place) / "out", build_settings(tasks=["readmission"]))
        assert labels(Benchmark.open(out)) == expected
