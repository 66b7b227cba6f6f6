"""What a finished study found, small enough to keep: claims, every analysis's sentence, and its tables.

    python benchmarks/study_digest.py OUT --name study_diabetes_130 --command "lang1 study recipes/… OUT …"

`OUT` is a study's folder. Written: `results/NAME.json`. Where the study holds gradient boosting on structured fields,
the aim is judged on its differences: ahead of it on at least half of the tasks, nowhere more than 0.01 AUROC behind.
Where it holds the true risks, the aim is 0.95 of what can be attained on every task.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from lang1.common.artefact import open_folder, read_json

HERE = Path(__file__).parent
AHEAD_OF, BEHIND, SHARE = "gbm-structured", 0.01, 0.95
# Of the report, long and of little use without it.
LEFT_OUT = ("bias-gaps-1", "bias-gaps-2", "bias-left-out", "subgroups-left-out", "capacities", "sensitivity", "prices")


def shown(cell: Any) -> Any:
    """A value as [value, low, high], to four figures; else what it is."""
    if not isinstance(cell, dict) or "value" not in cell:
        return cell
    parts = [cell.get(k) for k in ("value", "low", "high")]
    parts = parts[:1] if parts[1] is None else parts
    found = [None if p is None else float(f"{p:.4g}") for p in parts]
    return found[0] if len(found) == 1 else found


def tables(study: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Rows of every table that is about this study and not the paper's."""
    return {
        table["id"]: [{k: shown(v) for k, v in row.items()} for row in table["rows"]]
        for analysis in study["analyses"]
        for table in analysis["tables"]
        if not table["id"].endswith("-paper") and analysis["id"] != "paper-run" and table["id"] not in LEFT_OUT
    }


def judged(found: dict[str, list[dict[str, Any]]], tasks: list[str]) -> tuple[str | None, bool | None, dict[str, Any]]:
    """The aim, whether it is met, and its figures."""
    versus = [row for row in found.get("finetuned-differences", []) if row["model"] == AHEAD_OF]
    if versus:
        gaps = {task: versus[0][task][0] for task in tasks if task in versus[0]}
        met = sum(gap > 0 for gap in gaps.values()) * 2 >= len(gaps) and min(gaps.values()) >= -BEHIND
        aim = f"ahead of {AHEAD_OF} on at least half of the tasks, never more than {BEHIND} AUROC behind"
        return aim, met, {f"{task}, minus {AHEAD_OF}": gap for task, gap in gaps.items()}
    if found.get("attained"):
        shares = {task: found["attained"][0][task][0] for task in tasks if task in found["attained"][0]}
        figures = {f"{task}, share of the attainable": share for task, share in shares.items()}
        return f"{SHARE} of the attainable on every task", min(shares.values()) >= SHARE, figures
    return None, None, {}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("study", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--command", required=True, help="what made the study")
    asked = parser.parse_args()
    folder = open_folder(asked.study / "study-report", "study")
    study = read_json(folder.path / "study.json")
    found = tables(study)
    aim, met, figures = judged(found, [task["task"] for task in study["tasks"]])
    states = sorted((asked.study / ".state").glob("*.json"))
    seconds = {state.stem: read_json(state).get("seconds") for state in states}
    result = {
        "name": asked.name,
        "ratio": None,
        "aim": aim,
        "met": met,
        "figures": figures,
        "claims": [{k: claim[k] for k in ("id", "verdict", "evidence")} for claim in study["claims"]],
        "sentences": {one["id"]: one["sentence"] for one in study["analyses"]},
        "tables": found,
        "failed": study["failed"],
        "seconds": {name: number for name, number in seconds.items() if number and number >= 10},
        "study": folder.fingerprint,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": study["versions"],
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, cwd=HERE
        ).stdout.strip(),
        "command": asked.command,
    }
    out = HERE / "results" / f"{asked.name}.json"
    out.write_text(json.dumps(result, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{out}: {out.stat().st_size / 1024:.0f} KiB, {aim}: {met}")


if __name__ == "__main__":
    main()
