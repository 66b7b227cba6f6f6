"""Does the audit find every leak that is planted, and fail no clean system?

    python benchmarks/leak_study.py                 # 20 seeds: the clean system, and all sixteen leaks in four groups
    python benchmarks/leak_study.py --seeds 1

Leaks that do not mask each other (other tasks, other guards) are planted together, so that twenty seeds take an hour
and not four; a leak counts as found only if a guard that is named for it here fails, for the task named. The
thresholds are those of ``remede/audit/thresholds.yaml``, fixed before this was run. Writes
``benchmarks/results/leak_study.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lang1.common.artefact import read_json, versions
from lang1.remede.audit import audit
from lang1.remede.build import build
from lang1.remede.settings import BuildSettings
from lang1.simulator.leaks import LEAKS
from lang1.simulator.settings import SimulatorSettings
from lang1.simulator.simulate import simulate

# Guards that count as having found a leak, as (guard, task); a task of null is any.
FOUND_BY: dict[str, tuple[tuple[str, str | None], ...]] = {
    "death_in_note": (("answer_text", "mortality"), ("phrases", "mortality")),
    "return_in_note": (("answer_text", "readmission"), ("phrases", "readmission")),
    "stay_in_note": (("answer_text", "length_of_stay"), ("phrases", "length_of_stay")),
    "discharge_date_in_note": (("answer_dates", "length_of_stay"),),
    "codes_in_note": (("answer_text", "comorbidity"),),
    "denial_in_note": (("answer_text", "insurance_denial"), ("phrases", "insurance_denial")),
    "edited_later": (("note_times", None),),
    "backdated": (("note_times", None),),
    "copied_notes": (("duplicates", None),),
    "second_patient_id": (("aliases", None),),
    "missing_tail": (("tails", None),),
    "department_tells_death": (("shortcuts", "mortality"),),
    "payer_tells_denial": (("shortcuts", "insurance_denial"),),
    "site_tells_death": (("sites", "mortality"),),
    "length_tells_death": (("shortcuts", "mortality"),),
    "delay_tells_death": (("shortcuts", "mortality"),),
}
GROUPS = (
    (
        *("death_in_note", "return_in_note", "denial_in_note", "copied_notes", "edited_later", "missing_tail"),
        "department_tells_death",
    ),
    ("stay_in_note", "second_patient_id", "payer_tells_denial", "delay_tells_death"),
    ("codes_in_note", "backdated", "length_tells_death"),
    ("discharge_date_in_note", "site_tells_death"),
)
PATIENTS = 1500


def one(seed: int, leaks: tuple[str, ...]) -> dict[str, Any]:
    """Simulate, build, audit: which guards failed, and which planted leaks were found."""
    with tempfile.TemporaryDirectory() as place:
        settings = SimulatorSettings(patients=PATIENTS, preset="high-acuity", seed=seed, leaks=leaks, workers=1)
        (records,) = simulate(Path(place) / "sim", settings)
        build(records, Path(place) / "benchmark", BuildSettings(calendar="demo"))
        report = audit(Path(place) / "benchmark", Path(place) / "audit")
    failed = sorted({(f.guard, f.task or "") for f in report.findings if f.verdict == "fail"})
    found = {
        leak: any(guard == g and (task is None or task == t) for guard, task in FOUND_BY[leak] for g, t in failed)
        for leak in leaks
    }
    return {"seed": seed, "leaks": list(leaks), "failed": [" ".join(pair).strip() for pair in failed], "found": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=101, help="the first seed; thresholds were set without these")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "leak_study.json")
    parser.add_argument("--go-on", action="store_true", help="keep the runs that the result file holds already")
    options = parser.parse_args()
    assert set(FOUND_BY) == set(LEAKS) == {leak for group in GROUPS for leak in group}
    runs: list[dict[str, Any]] = read_json(options.out)["figures"]["runs"] if options.go_on else []
    done = {(run["seed"], tuple(run["leaks"])) for run in runs}
    seeds = range(options.first, options.first + options.seeds)
    clean = [(seed, ()) for seed in seeds]
    for seed, leaks in [*clean, *((seed, group) for seed in seeds for group in GROUPS)]:
        if (seed, leaks) in done:
            continue
        runs.append(one(seed, leaks))
        print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
        write(options.out, runs)


def write(out: Path, runs: list[dict[str, Any]]) -> None:
    """Write what is known so far."""
    clean = [run for run in runs if not run["leaks"]]
    share = {
        leak: [sum(r["found"][leak] for r in runs if leak in r["found"]), sum(leak in r["found"] for r in runs)]
        for leak in FOUND_BY
    }
    false_alarms = sum(bool(run["failed"]) for run in clean)
    met = len(clean) >= 20 and not false_alarms and all(found == planted >= 20 for found, planted in share.values())
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    result = {
        "name": "leak_study", "ratio": None, "aim": "every planted leak found, no clean system failed, at 20 seeds",
        "met": met,
        "figures": {
            "clean_seeds": len(clean), "clean_systems_failed": false_alarms,
            "planted_seeds": min(planted for _, planted in share.values()),
            "leaks_found": f"{sum(a for a, _ in share.values())} of {sum(b for _, b in share.values())}",
            "patients": PATIENTS,
            "found_of_planted": {k: f"{a} of {b}" for k, (a, b) in share.items()}, "runs": runs,
        },
        "machine": f"{platform.machine()}, {os.cpu_count()} cores", "versions": versions(), "commit": commit,
        "command": "python benchmarks/leak_study.py",
    }  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
