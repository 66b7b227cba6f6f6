"""Golden frames (``test_remede_golden.yaml``) driven through the real command line."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_remede_world import COMPLETE, Rows, dc, hp, labels, stay, when, write

from lang1.cli.main import main
from lang1.remede.benchmark import Benchmark

CASES = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
PLANNED = Path(__file__).parent / "data" / "planned"
TIMES = {"death_time", "signed_time", "available_time", "submitted_time", "first_remit_time", "final_time"}
# Cases that share all of these are one build of one system, their ids told apart by a prefix: a build costs 0.4 s.
# Those whose expectations are about the benchmark as a whole are built alone.
SHARED, ALONE = ("tasks", "cards", "meta"), ("died_without_return", "notice", "refused", "given")


def at(value: Any) -> Any:
    """A YAML time, date or text as a time."""
    return when(str(value)) if value is not None else None


def group_of(case: dict[str, Any]) -> str:
    alone = case["name"] if any(key in case for key in ALONE) else None
    return json.dumps([alone, *(case.get(key) for key in SHARED)], sort_keys=True, default=str)


def prefix_of(case: dict[str, Any]) -> str:
    return f"{CASES.index(case)}."


def tables_of(case: dict[str, Any]) -> dict[str, Rows]:
    """The rows of a case, its ids prefixed."""
    mark = prefix_of(case)

    def more(row: list[Any], place: int) -> dict[str, Any]:
        extra = row[place] if len(row) > place else {}
        return {
            key: at(value) if key in TIMES else mark + value if key in ("note_id", "parent_note_id") else value
            for key, value in extra.items()
        }

    who = {row[0]: mark + row[1] for row in case["encounters"]}

    def of_encounter(row: list[Any], *names: str) -> dict[str, Any]:
        values = dict(zip(names, row[1:], strict=False))
        return {"encounter_id": mark + row[0], "patient_id": who[row[0]]} | values | more(row, len(names) + 1)

    return {
        "patients": [
            {k: mark + v if k == "patient_id" else at(v) if k in TIMES else v for k, v in row.items()}
            for row in case.get("patients", [])
        ],
        "encounters": [
            stay(mark + r[0], mark + r[1], at(r[2]), at(r[3]), disposition=r[4], **more(r, 5))
            for r in case["encounters"]
        ],
        "notes": [
            (hp if r[1] == "hp" else dc)(mark + r[0], who[r[0]], at(r[2]), **more(r, 3)) for r in case.get("notes", [])
        ],
        "diagnoses": [of_encounter(r, "code", "code_version") for r in case.get("codes", [])],
        "procedures": [of_encounter(r, "code", "code_version") for r in case.get("procedures", [])],
        "claims": [
            {"claim_id": f"{mark}claim {r[0]}", "coverage_order": 1} | of_encounter(r, "final_status")
            for r in case.get("claims", [])
        ],
        "given_labels": [of_encounter(r, "task", "value") for r in case.get("given", [])],
    }


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


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The benchmark folder of a case's group, and the exit code of the command that made it."""

    @cache
    def build(group: str) -> tuple[Path, int]:
        cases = [case for case in CASES if group_of(case) == group]
        folder = tmp_path_factory.mktemp("golden")
        tables: dict[str, Rows] = defaultdict(list)
        for case in cases:
            for name, rows in tables_of(case).items():
                tables[name] += rows
        config = {
            "calendar": {"train": {"start": "2000-01-01", "end": "2030-12-31"}},
            "fractions": {"train": 1.0, "val": 0.0, "test": 0.0},
            "tasks": cases[0].get("tasks"),
            "cards": cases[0].get("cards", {}),
        }
        text = yaml.safe_dump(config).replace("PLANNED", str(PLANNED))
        (folder / "build.yaml").write_text(text)
        said = {"complete_through": COMPLETE} | (cases[0].get("meta") or {})
        records = write(folder / "records", tables, **said)
        arguments = ("remede", "build", str(records), str(folder / "out"), "--config", str(folder / "build.yaml"))
        return folder / "out", lang1(*arguments)

    return lambda case: build(group_of(case))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_golden_frame(case: dict[str, Any], built: Any, capsys: pytest.CaptureFixture[str]) -> None:
    out, code = built(case)
    said = " ".join(capsys.readouterr().err.split())
    if "refused" in case:
        assert code == 2 and case["refused"] in said
        return
    assert code == 0, said
    benchmark, mark = Benchmark.open(out), prefix_of(case)

    def full(example: str) -> str:
        task, _, encounter = example.partition(":")
        return f"{task}:{mark}{encounter}"

    own = {name: label for name, label in labels(benchmark).items() if name.partition(":")[2].startswith(mark)}
    assert own == {full(example): label for example, label in case["expect"].items()}
    left = {f"{row['task']}:{row['encounter_id']}": row["rule"] for row in benchmark.left_out().to_pylist()}
    for example, rule in case.get("left", {}).items():
        assert rule in left[full(example)], (example, left[full(example)])
    rows = {row["example_id"]: row for row in benchmark.examples().to_pylist()}
    for example, note in case.get("note", {}).items():
        assert rows[full(example)]["note_id"] == mark + note
    for example, time in case.get("asked", {}).items():
        assert rows[full(example)]["prediction_time"] == datetime.fromisoformat(str(time))
    if "died_without_return" in case:
        (died,) = benchmark.manifest.extra["died_without_return"].values()
        assert died == case["died_without_return"]
    if "notice" in case:
        assert any(case["notice"] in notice for notice in benchmark.notices), benchmark.notices
    for task in benchmark.tasks:  # the ledger is whole: what it loses is what is left out, by rule
        ledger = [row for row in benchmark.ledger if row["task"] == task]
        lost = [row for row in benchmark.left_out().to_pylist() if row["task"] == task]
        assert ledger[0]["rows"] - ledger[-1]["rows"] == len(lost)
        assert ledger[-1]["rows"] == benchmark.examples([task]).num_rows


def test_there_are_enough_situations() -> None:
    assert len(CASES) >= 70
    assert len({case["name"] for case in CASES}) == len(CASES)
