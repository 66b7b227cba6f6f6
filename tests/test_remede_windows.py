"""Readmission and 30-day mortality on random timelines against a brute-force reading of the cards in plain Python."""

from __future__ import annotations

import random
import tempfile
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from test_remede_world import Rows, dc, hp, labels, stay, write
from test_remede_world import settings as build_settings

from lang1.remede.benchmark import Benchmark
from lang1.remede.build import build

PLANNED = Path(__file__).parent / "data" / "planned"
# Off the hour, so that no time is a bare date but the deaths that are meant to be.
START, END, DEATHS_KNOWN = datetime(2020, 1, 1, 1, 7), datetime(2020, 4, 1), datetime(2020, 3, 20, 12)
HOUR, DAY, MONTH = timedelta(hours=1), timedelta(days=1), timedelta(days=30)
LIVING = ("home", "transfer_acute", "hospice", "against_advice")
NOT_ACUTE = ("Inpatient Rehab", "PSYCHIATRY")


@dataclass(frozen=True)
class Stay:
    name: str
    admit: datetime
    discharge: datetime | None
    disposition: str
    facility: str | None
    inpatient: bool
    note: datetime | None
    admission_note: datetime | None
    department: str | None
    admission_type: str | None
    principal: str | None
    procedure: str | None


@dataclass(frozen=True)
class Patient:
    """Stays and the recorded death; what the patient's row and the dispositions say of it together."""

    stays: list[Stay]
    death: datetime | None

    @property
    def dead_at(self) -> datetime | None:
        expired = min((s.discharge for s in self.stays if s.disposition == "expired" and s.discharge), default=None)
        bare = self.death is not None and self.death.time() == datetime.min.time()
        if expired and (self.death is None or (bare and expired.date() == self.death.date())):
            return expired
        return self.death

    @property
    def undated(self) -> bool:
        return self.dead_at is None and any(s.disposition == "expired" for s in self.stays)

    def died_in(self, s: Stay) -> bool:
        """Whether the patient died in a closed stay."""
        if s.disposition == "expired" or self.death is None or s.discharge is None:
            return s.disposition == "expired"
        if self.death.time() == datetime.min.time():
            on_last_day = s.disposition in LIVING and self.death.date() == s.discharge.date()
            return s.admit.date() <= self.death.date() <= s.discharge.date() and not on_last_day
        return s.admit <= self.death <= s.discharge

    def died_at(self, s: Stay) -> datetime | None:
        """The death as the stay knows it."""
        if s.disposition == "expired":
            if self.death is None:
                return s.discharge
            if self.death.time() == datetime.min.time() and s.discharge and self.death.date() == s.discharge.date():
                return s.discharge
        return self.death

    def dead_by(self, s: Stay, moment: datetime) -> bool:
        """Whether the patient was dead at a moment after the stay."""
        here, anywhere = self.died_at(s), self.dead_at
        elsewhere = anywhere is not None and s.discharge is not None and s.discharge < anywhere <= moment
        return elsewhere or (here is not None and here <= moment)


# Around the rules' limits (0, 6, 24, 72 and 720 hours, dates apart), before the last discharge, and anywhere.
GAPS = (-30, -10, -3, -1, 0, 0, 1, 2, 5, 6, 7, 12, 23, 24, 25, 36, 47, 49, 71, 72, 73, 690, 720, 735, 745)
LENGTHS = (None, 0, 1, 2, 4, 24, 40, 150, 900)
DELAYS = (None, -5, 0, 2, 30, 71, 72, 73)
CODES = (None, "I50.9", "I50.1", "I21.4", "K57.32", "M17.0", "Z51.11", "F20.0")


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
        found.append(
            Stay(
                name=f"p{number}-{9 - i}",
                admit=admit,
                discharge=discharge,
                disposition=disposition,
                facility=facility,
                inpatient=inpatient,
                note=note,
                admission_note=chance.choice((None, admit - HOUR, admit + HOUR, admit + 3 * HOUR, admit + 30 * HOUR)),
                department=chance.choice((None, None, None, "General Oncology", *NOT_ACUTE)),
                admission_type=chance.choice((None, "elective", "emergency", "urgent")),
                principal=chance.choice(CODES),
                procedure=chance.choice((None, None, "0TY00Z0", "0SRB0JZ")),
            )
        )
        clock = end if chance.random() < 0.8 else clock
    return found


def in_order(stays: list[Stay]) -> list[Stay]:
    return sorted(stays, key=lambda s: (s.admit, s.discharge is None, s.discharge or END, s.name))


def ended_last(order: list[Stay], i: int) -> Stay | None:
    """Of the stays before the i-th the one that ended last."""
    ended = [(s.discharge, j) for j, s in enumerate(order[:i]) if s.discharge is not None]
    return order[max(ended)[1]] if ended else None


def all_cause(patient: Patient) -> dict[str, int]:
    """The card, read literally: name → label of the index stays that count."""
    order = in_order([s for s in patient.stays if s.inpatient])
    episodes: list[list[Stay]] = []
    for i, here in enumerate(order):
        before, goes_on = ended_last(order, i), False
        if before is not None and before.discharge is not None:
            gap = here.admit - before.discharge
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
        if patient.died_in(last) or last.disposition == "hospice" or out + MONTH > END:
            continue
        if last.department == "Inpatient Rehab" or last.note is None or last.note > out + 72 * HOUR:
            continue
        asked = max(last.note, out)
        returns = [s.admit for later in episodes[i + 1 :] for s in later]
        if any(r <= asked for r in returns) or patient.dead_by(last, asked):
            continue
        found[last.name] = int(any(asked < r <= out + MONTH for r in returns))
    return found


def category(s: Stay, tables: bool) -> str | None:
    return None if s.principal is None else s.principal[:3] if not tables or s.principal[:3] != "K57" else s.principal


def is_planned(s: Stay, tables: bool, urgent_overrides: bool) -> bool:
    if urgent_overrides and s.admission_type in ("emergency", "urgent"):
        return False
    if not tables:
        return s.admission_type == "elective"
    if s.procedure == "0TY00Z0" or s.principal == "Z51.11":
        return True
    return s.procedure == "0SRB0JZ" and s.principal not in (None, "I21.4", "K57.32")


def like_the_measure(patient: Patient, tables: bool, urgent_overrides: bool, policy: str) -> dict[str, int]:
    """The card readmission_cms_like, read literally, with or without tables of planned returns."""
    order = in_order([s for s in patient.stays if s.inpatient and s.department not in NOT_ACUTE])
    episodes: list[list[Stay]] = []
    overlapping: set[int] = set()
    for i, here in enumerate(order):
        before, goes_on = ended_last(order, i), False
        if before is not None and before.discharge is not None:
            days = (here.admit.date() - before.discharge.date()).days
            known = here.facility is not None and before.facility is not None
            elsewhere = here.facility != before.facility if known else before.disposition == "transfer_acute"
            same = category(here, tables) is not None and category(here, tables) == category(before, tables)
            at_home = not known or here.facility == before.facility
            goes_on = days < 0 or (days <= 1 and elsewhere) or (days == 0 and at_home and same)
        if goes_on:
            episodes[-1].append(here)
            if days < 0:
                overlapping.add(len(episodes) - 1)
        else:
            episodes.append([here])
    found = {}
    for i, episode in enumerate(episodes):
        if any(s.discharge is None for s in episode):
            continue
        last = max(episode, key=lambda s: (s.discharge, order.index(s)))
        out = last.discharge
        assert out is not None
        last_second = datetime.combine(out.date(), datetime.max.time()).replace(microsecond=0) + MONTH
        if patient.died_in(last) or last.disposition in ("against_advice", "transfer_acute") or last_second > END:
            continue
        if last.department == "General Oncology" or last.note is None or last.note > out + 72 * HOUR:
            continue
        asked, dead = max(last.note, out), patient.dead_at
        back = episodes[i + 1][0] if i + 1 < len(episodes) else None
        if (back is not None and back.admit <= asked) or patient.dead_by(last, asked):
            continue
        returned = back is not None and back.admit <= last_second
        died = dead is not None and asked < dead <= last_second
        if policy != "negative" and last_second > DEATHS_KNOWN:
            continue
        if i in overlapping or (tables and last.principal == "F20.0"):
            continue
        if returned and dead is not None and back is not None and back.admit.date() > dead.date():
            continue
        if policy == "exclude" and died and not returned:
            continue
        unplanned = returned and back is not None and not is_planned(back, tables, urgent_overrides)
        found[last.name] = int(unplanned or (policy == "composite" and died))
    return found


def dies_within_30_days(patient: Patient, anchor: str) -> dict[str, int]:
    """The cards of 30-day mortality, read literally."""
    found = {}
    for s in patient.stays:
        if not s.inpatient or s.admission_note is None:
            continue
        asked, here, dead = max(s.admission_note, s.admit), patient.died_at(s), patient.dead_at
        if (s.discharge is not None and s.discharge <= asked) or any(
            d is not None and d <= asked for d in (here, dead)
        ):
            continue
        last_second = datetime.combine(s.admit.date(), datetime.max.time()).replace(microsecond=0) + MONTH
        horizon = last_second if anchor == "admission" else asked + MONTH
        if s.admit + MONTH > END or horizon > DEATHS_KNOWN or patient.undated:
            continue
        if s.disposition in LIVING and s.discharge and dead and s.discharge.date() > dead.date():
            continue
        start = s.admit if anchor == "admission" else asked
        if dead is None:
            found[s.name] = 0
        elif anchor == "admission" or dead.time() == datetime.min.time():
            found[s.name] = int(0 <= (dead.date() - start.date()).days <= 30)
        else:
            found[s.name] = int(asked < dead <= horizon)
    return found


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**32))
def test_labels_equal_brute_force(seed: int) -> None:
    chance = random.Random(seed)
    tables, urgent, policy = (
        chance.random() < 0.5,
        chance.random() < 0.5,
        chance.choice(("negative", "exclude", "composite")),
    )
    rows: dict[str, Rows] = {name: [] for name in ("patients", "encounters", "notes", "diagnoses", "procedures")}
    expected, patients = {}, {}
    for number in range(400):
        who, stays = f"p{number}", timeline(number, chance)
        moments = [START + chance.randrange(2000) * HOUR, *(s.note for s in stays if s.note), *(s.admit for s in stays)]
        death = chance.choice(moments) if chance.random() < 0.4 else None
        if death is not None and chance.random() < 0.4:
            death = datetime.combine(death.date(), datetime.min.time())
        patient = patients[who] = Patient(stays, death)
        rows["patients"].append({"patient_id": who, "death_time": death})
        for s in stays:
            more = {name: getattr(s, name) for name in ("disposition", "facility", "department", "admission_type")}
            kind = "inpatient" if s.inpatient else "observation"
            rows["encounters"].append(stay(s.name, who, s.admit, s.discharge, encounter_class=kind, **more))
            rows["notes"] += [dc(s.name, who, s.note)] if s.note else []
            rows["notes"] += [hp(s.name, who, s.admission_note)] if s.admission_note else []
            code = {"encounter_id": s.name, "patient_id": who, "position": 1}
            rows["diagnoses"] += [code | {"code": s.principal, "code_version": "ICD-10-CM"}] if s.principal else []
            rows["procedures"] += [code | {"code": s.procedure, "code_version": "ICD-10-PCS"}] if s.procedure else []
        labelled = {
            "readmission": all_cause(patient),
            "readmission_cms_like": like_the_measure(patient, tables, urgent, policy),
            "mortality_30d_admission": dies_within_30_days(patient, "admission"),
            "mortality_30d_prediction": dies_within_30_days(patient, "prediction"),
        }
        expected |= {f"{task}:{name}": label for task, own in labelled.items() for name, label in own.items()}
    tasks = list(labelled)
    for task in tasks:
        assert {label for name, label in expected.items() if name.startswith(f"{task}:")} == {0, 1}
    constants = {
        "planned_tables": str(PLANNED) if tables else None,
        "urgent_overrides_planned": urgent,
        "death_without_return": policy,
    }
    declared = {
        "complete_through": {"encounters": {"through": END, "key": "admit_time"}},
        "vital_status": {"source": "registry", "through": DEATHS_KNOWN},
    }
    with tempfile.TemporaryDirectory() as place:
        records = write(Path(place) / "records", rows, **declared)
        asked_for = build_settings(tasks=tasks, cards={"readmission_cms_like": {"constants": constants}})
        found = labels(Benchmark.open(build(records, Path(place) / "out", asked_for)))
    wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
    assert not wrong, (
        (wrong[0], expected.get(wrong[0]), found.get(wrong[0]), tables, urgent, policy, len(wrong)),
        patients[wrong[0].partition(":")[2].split("-")[0]],
    )
