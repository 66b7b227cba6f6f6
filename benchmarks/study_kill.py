"""A study that is killed at every step, beside the same study left alone.

    python benchmarks/study_kill.py

The variant `test` of a shipped study runs once whole. Beside it, in a folder of its own, it is started again and again
and killed (SIGKILL, to the whole process group) while each of its steps runs, a random moment after the step began,
until it ends. Written down: whether both end with the same study.json but for what a clock measured, how often it was
killed, and whether any finished step was made twice. `--steps 12` strikes at so many steps, evenly spread, instead of
all.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from lang1.common.artefact import read_json, versions
from lang1.study.recipes import recipe_path
from lang1.study.runner import plan
from lang1.study.seeds import fan_out
from lang1.study.spec import load_study
from lang1.study.steps import STEP_KINDS

HERE = Path(__file__).parent
# What a clock measured differs between any two runs: analyses of it, and the settings' words of it, are set aside.
CLOCKED = ("cost", "paper-run")


def command(recipe: str, out: Path) -> list[str]:
    return [sys.executable, "-m", "lang1.cli.main", "study", f"recipes/{recipe}.yaml", str(out), "--variant", "test"]


def run(line: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as stream:
        return subprocess.Popen(line, stdout=stream, stderr=stream, start_new_session=True)


def started(out: Path, step: str) -> bool:
    """Whether the step's key stands in the state, which is written just before it runs."""
    return (out / ".state" / f"{step}.json").exists()


def strike(line: list[str], out: Path, log: Path, step: str, rng: random.Random) -> str | None:
    """Run until the step has begun and a little further, and kill; the step that was hit, None if all was over."""
    process = run(line, log)
    while not started(out, step) and process.poll() is None:
        time.sleep(0.01)
    time.sleep(rng.random() * 1.5)
    if process.poll() is not None:
        return None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return begun(log)[-1]


def told(out: Path) -> dict[str, Any]:
    study: dict[str, Any] = read_json(out / "study-report" / "study.json")
    study["analyses"] = [one for one in study["analyses"] if one["id"] not in CLOCKED]
    return study


def begun(log: Path) -> list[str]:
    """Steps in the order in which they were begun, over all runs."""
    return re.findall(r"^\[\d+/\d+\] (\S+) …", log.read_text(encoding="utf-8"), re.M)


def differing(one: Any, other: Any, place: str = "") -> list[str]:
    """Where two JSON values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted({*one, *other})
        return [p for key in keys for p in differing(one.get(key), other.get(key), f"{place}.{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [p for i, pair in enumerate(zip(one, other, strict=True)) for p in differing(*pair, f"{place}[{i}]")]
    return [] if one == other else [place]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipe", default="study-small")
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "study_kill.json")
    asked = parser.parse_args()
    os.environ["COLUMNS"] = "1000"  # a step's line stays one line
    rng = random.Random(asked.seed)
    spec = fan_out(load_study(recipe_path(f"{asked.recipe}.yaml"), [], ["test"]))
    names = [step.name for step in plan(spec, STEP_KINDS)]
    chosen = names if asked.steps is None else names[:: max(1, len(names) // asked.steps)]
    with tempfile.TemporaryDirectory() as folder:
        whole, out = Path(folder) / "whole", Path(folder) / "killed"
        logs = [Path(folder) / "whole.log", Path(folder) / "killed.log"]
        clock = time.monotonic()
        if run(command(asked.recipe, whole), logs[0]).wait():
            raise SystemExit(logs[0].read_text(encoding="utf-8")[-2000:])
        seconds = time.monotonic() - clock
        line = command(asked.recipe, out)
        struck = [hit for name in chosen if (hit := strike(line, out, logs[1], name, rng)) is not None]
        if run(line, logs[1]).wait():
            raise SystemExit(logs[1].read_text(encoding="utf-8")[-2000:])
        places = differing(told(whole), told(out))
        # A step that was hit is begun once more for each blow; one that had ended must not be.
        twice = {name: n for name, n in Counter(begun(logs[1])).items() if n > 1 + struck.count(name)}
    result = {
        "name": "study_kill",
        "ratio": None,
        "aim": "killed at every step, a study ends with the study.json of one left alone, what a clock measured aside",
        "met": not places and not twice and len(struck) > len(chosen) // 2,
        "figures": {
            "steps": len(names),
            "struck": len(struck),
            "over before the blow": len(chosen) - len(struck),
            "places of study.json that differ": places[:20],
            "steps begun more often than they were hit": twice,
            "seconds of the study left alone": round(seconds, 1),
        },
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": versions(),
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, cwd=HERE
        ).stdout.strip(),
        "command": " ".join(["python", "benchmarks/study_kill.py", *sys.argv[1:]]),
    }
    asked.out.parent.mkdir(exist_ok=True)
    asked.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
