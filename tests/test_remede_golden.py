"""Golden frames (``test_remede_golden.yaml``) driven through the real command line."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_remede_world import COMPLETE, Rows, dc, hp, labels, stay, when, write

from lang1.cli.main import main
from lang1.remede.benchmark import Benchmark

CASES = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
TIMES = {"death_time", "signed_time", "available_time", "submitted_time", "first_remit_time", "final_time"}


def at(value: Any) -> Any:
    """A YAML time, date or text as a time."""
    return when(str(value)) if value is not None else None


def records(out: Path, case: dict[str, Any]) -> Path:
    def more(row: list[Any], place: int) -> dict[str, Any]:
        extra = row[place] if len(row) > place else {}
        return {key: at(value) if key in TIMES else value for key, value in extra.items()}

    who = {row[0]: row[1] for row in case["encounters"]}
    tables: dict[str, Rows] = {
        "patients": [{k: at(v) if k in TIMES else v for k, v in row.items()} for row in case.get("patients", [])],
        "encounters": [
            stay(r[0], r[1], at(r[2]), at(r[3]), disposition=r[4], **more(r, 5)) for r in case["encounters"]
        ],
        "notes": [(hp if r[1] == "hp" else dc)(r[0], who[r[0]], at(r[2]), **more(r, 3)) for r in case.get("notes", [])],
        "diagnoses": [
            {"encounter_id": r[0], "patient_id": who[r[0]], "code": r[1], "code_version": r[2]}
            for r in case.get("codes", [])
        ],
        "claims": [
            {"claim_id": f"claim {r[0]}", "encounter_id": r[0], "patient_id": who[r[0]], "coverage_order": 1}
            | {"final_status": r[1]}
            | more(r, 2)
            for r in case.get("claims", [])
        ],
        "given_labels": [dict(zip(("encounter_id", "task", "value"), r, strict=True)) for r in case.get("given", [])],
    }
    return write(out, tables, **{"complete_through": COMPLETE} | case.get("meta", {}))


def lang1(*arguments: str) -> int:
    """Run the command line in this process; returns its exit code."""
    before, sys.argv = sys.argv, ["lang1", *arguments]
    try:
        main()
    except SystemExit as stopped:
        return int(stopped.code or 0)
    finally:
        sys.argv = before
    return 0


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_golden_frame(case: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {
        "calendar": {"train": {"start": "2000-01-01", "end": "2030-12-31"}},
        "fractions": {"train": 1.0, "val": 0.0, "test": 0.0},
        "tasks": case.get("tasks"),
        "cards": case.get("cards", {}),
    }
    if case.get("empty"):  # an index of another patient, so that the benchmark is not empty
        case["encounters"] += [["bystander", "bystander", "2020-01-01 10:00", "2020-01-05 10:00", "home"]]
        case["notes"] += [["bystander", "dc", "2020-01-05 12:00"]]
        case["expect"] = {"readmission:bystander": 0}
    (tmp_path / "build.yaml").write_text(yaml.safe_dump(config))
    place = records(tmp_path / "records", case)
    code = lang1("remede", "build", str(place), str(tmp_path / "out"), "--config", str(tmp_path / "build.yaml"))
    assert code == 0, capsys.readouterr().err
    benchmark = Benchmark.open(tmp_path / "out")
    assert labels(benchmark) == case["expect"]
    left = {f"{row['task']}:{row['encounter_id']}": row["rule"] for row in benchmark.left_out().to_pylist()}
    for example, rule in case.get("left", {}).items():
        assert rule in left[example], (example, left[example])
    rows = {row["example_id"]: row for row in benchmark.examples().to_pylist()}
    for example, note in case.get("note", {}).items():
        assert rows[example]["note_id"] == note
    for example, time in case.get("asked", {}).items():
        assert rows[example]["prediction_time"] == datetime.fromisoformat(str(time))
    if "died_without_return" in case:
        assert benchmark.manifest.extra["died_without_return"] == case["died_without_return"]
    for task in benchmark.tasks:  # the ledger is whole: what it loses is what is left out, by rule
        ledger = [row for row in benchmark.ledger if row["task"] == task]
        lost = [row for row in benchmark.left_out().to_pylist() if row["task"] == task]
        assert ledger[0]["rows"] - ledger[-1]["rows"] == len(lost)
        assert ledger[-1]["rows"] == benchmark.examples([task]).num_rows


def test_there_are_enough_situations() -> None:
    assert len(CASES) >= 25
    assert len({case["name"] for case in CASES}) == len(CASES)
