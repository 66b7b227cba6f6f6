"""What comes after the prediction time must not reach the prompt, nor decide who is asked."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from test_remede_world import Rows, dc, hp, population, settings, stay, write

from lang1.records.store import Records
from lang1.remede.benchmark import Benchmark
from lang1.remede.build import build
from lang1.remede.card import load_card
from lang1.remede.cohort import Facts, note_rules, prepare
from lang1.remede.tasks import mortality, readmission


def world(seed: int) -> dict[str, Rows]:
    """Random stays with early, late, amended and repeated notes."""
    chance = random.Random(seed)
    tables: dict[str, Rows] = {name: [] for name in ("patients", "encounters", "notes", "diagnoses", "claims")}
    for p in range(60):
        who, clock = f"p{p}", datetime(2019, 1, 1, 7, 30) + timedelta(hours=chance.randrange(2000))
        for s in range(chance.randrange(1, 5)):
            admit = clock + timedelta(hours=chance.choice([3, 30, 200, 900]))
            clock = admit + timedelta(hours=chance.choice([5, 40, 100, 200]), minutes=17)
            name = f"e{p}-{s}"
            gone = chance.choice(["home", "home", "home", "expired", "transfer_acute", "hospice"])
            tables["encounters"].append(stay(name, who, admit, clock, disposition=gone, facility=chance.choice("xy")))
            for i in range(chance.randrange(1, 3)):
                tables["notes"].append(
                    hp(name, who, admit + timedelta(hours=chance.randrange(60)), note_id=f"{name}-h{i}")
                )
            for i in range(chance.randrange(1, 3)):
                at = clock + timedelta(hours=chance.randrange(-6, 80))
                tables["notes"].append(dc(name, who, at, note_id=f"{name}-d{i}", signed_time=at + timedelta(hours=i)))
            late = clock + timedelta(hours=50)
            tables["notes"].append(dc(name, who, late, note_id=f"{name}-a", parent_note_id=f"{name}-d0"))
            code = {"encounter_id": name, "patient_id": who, "code": chance.choice(["I50.9", "C78.0"])}
            tables["diagnoses"].append(code | {"code_version": "ICD-10-CM"})
            claim = {"claim_id": name, "encounter_id": name, "patient_id": who, "coverage_order": 1}
            times = {"submitted_time": clock + timedelta(days=5), "first_remit_time": clock + timedelta(days=20)}
            tables["claims"].append(claim | times | {"final_status": chance.choice(["paid", "denied_upheld"])})
    return tables


def cut(tables: dict[str, Rows], t: datetime) -> dict[str, Rows]:
    """The records as they stood at ``t``: nothing that happened or was written later."""
    seen: dict[str, Rows] = {"patients": [{"patient_id": p["patient_id"]} for p in tables["patients"]]}
    seen["encounters"] = [
        dict(row) if row["discharge_time"] <= t else row | {"discharge_time": None, "disposition": None}
        for row in tables["encounters"]
        if row["admit_time"] <= t
    ]
    seen["notes"] = [row for row in tables["notes"] if max(row["available_time"], row["signed_time"]) <= t]
    return seen


def prompts(benchmark: Benchmark) -> dict[str, tuple[Any, ...]]:
    """Note text, question and time of each example."""
    rows = benchmark.examples().to_pylist()
    texts, questions = benchmark.texts([row["note_id"] for row in rows]), benchmark.questions()
    return {r["example_id"]: (texts[r["note_id"]], questions[r["task"]], r["prediction_time"]) for r in rows}


def test_truncation_invariance(tmp_path: Path) -> None:
    """With everything after an example's prediction time deleted, the same note is asked at the same time."""
    tables = world(1)
    out = build(write(tmp_path / "whole", tables), tmp_path / "out", settings(tasks=["readmission", "mortality"]))
    rows = Benchmark.open(out).examples().to_pylist()
    chosen = random.Random(0).sample(rows, 16)
    for number, row in enumerate(chosen):
        seen = write(tmp_path / f"cut{number}", cut(tables, row["prediction_time"]))
        card = load_card(row["task"])
        with Records.open(seen).connect() as connection:
            facts = Facts(Records.open(seen), connection)
            prepare(facts)
            (mortality if row["task"] == "mortality" else readmission).cohort(card, facts)
            rules = " AND ".join(f"({rule.keep})" for rule in note_rules(card, facts))
            found = connection.execute(
                f"SELECT note_id, prediction_time, text FROM candidates JOIN notes USING (note_id) "
                f"WHERE candidates.encounter_id = ? AND {rules}",
                [row["encounter_id"]],
            ).fetchall()
        text = next(note["text"] for note in tables["notes"] if note["note_id"] == row["note_id"])
        assert found == [(row["note_id"], row["prediction_time"], text)]


def test_another_future_gives_the_same_prompts(tmp_path: Path) -> None:
    """Outcomes after the prediction time are turned round; examples that are still asked read the same."""
    tables = world(2)
    chance = random.Random(3)
    first = {}
    for row in tables["notes"]:
        if row["note_type"] == "history_and_physical":
            first.setdefault(row["encounter_id"], []).append(row["available_time"])
    other = {name: [dict(row) for row in rows] for name, rows in tables.items()}
    for row in other["encounters"]:
        if row["discharge_time"] > min(first[row["encounter_id"]]):
            row["discharge_time"] += timedelta(hours=chance.randrange(1, 300))
            row["disposition"] = "expired" if row["disposition"] == "home" else "home"
    for row in other["claims"]:
        row["final_status"] = "paid" if row["final_status"] == "denied_upheld" else "denied_upheld"
    for row in other["diagnoses"]:
        row["code"] = "I10"
    tasks = ["mortality", "length_of_stay", "comorbidity", "insurance_denial"]
    before, after = (
        Benchmark.open(build(write(tmp_path / name, rows), tmp_path / f"{name}-out", settings(tasks=tasks)))
        for name, rows in (("one", tables), ("two", other))
    )
    mine, theirs = prompts(before), prompts(after)
    shared = mine.keys() & theirs.keys()
    assert len(shared) > 0.9 * len(mine)
    assert {key: mine[key] for key in shared} == {key: theirs[key] for key in shared}
    changed = dict(
        zip(before.examples()["example_id"].to_pylist(), before.examples()["label"].to_pylist(), strict=True)
    )
    now = dict(zip(after.examples()["example_id"].to_pylist(), after.examples()["label"].to_pylist(), strict=True))
    assert sum(changed[key] != now[key] for key in shared) > 0.5 * len(shared)


@pytest.mark.parametrize("task", ["readmission", "mortality", "length_of_stay", "comorbidity", "insurance_denial"])
def test_nothing_is_asked_before_its_note(task: str, tmp_path: Path) -> None:
    out = build(write(tmp_path / "records", population(25)), tmp_path / "out", settings(tasks=[task]))
    benchmark = Benchmark.open(out)
    with benchmark.records.connect() as connection:
        connection.register("examples", benchmark.examples())
        late = connection.execute("""
            SELECT count(*) FROM examples x JOIN notes n USING (note_id)
            WHERE n.available_time > x.prediction_time OR n.encounter_id <> x.encounter_id
                OR n.parent_note_id IS NOT NULL
                OR x.patient_id <> n.patient_id OR x.horizon_end < x.prediction_time""").fetchall()
    assert late == [(0,)]
    assert benchmark.examples().num_rows > 100


def test_fields_follow_the_card(tmp_path: Path) -> None:
    """Discharge fields do not reach an admission task, nor codes the comorbidity task."""
    tables = population(3)
    tables["fields"] = [
        {"encounter_id": row["encounter_id"], "field": field, "number": 1.0, "known_at": known}
        for row in tables["encounters"]
        for field, known in (("visits", "admission"), ("code_1", "admission"), ("days", "discharge"))
    ]
    benchmark = Benchmark.open(build(write(tmp_path / "records", tables), tmp_path / "out", settings()))
    seen: dict[str, set[str]] = {}
    for row in benchmark.fields(benchmark.examples()).to_pylist():
        seen.setdefault(row["example_id"].split(":")[0], set()).add(row["field"])
    assert seen == {
        "readmission": {"visits", "code_1", "days"},
        "mortality": {"visits", "code_1"},
        "length_of_stay": {"visits", "code_1"},
        "comorbidity": {"visits"},
        "insurance_denial": {"visits", "code_1"},
    }
    # Asked of the discharge note, the task may read what was known then, and still no codes.
    edits = {
        "comorbidity": {"note_type": "discharge_summary", "prediction": {"earliest": "discharge", "in_hospital": False}}
    }
    late = settings(tasks=["comorbidity"], cards=edits)
    benchmark = Benchmark.open(build(tmp_path / "records", tmp_path / "late", late))
    rows = benchmark.fields(benchmark.examples()).to_pylist()
    assert {row["field"] for row in rows} == {"visits", "days"}
