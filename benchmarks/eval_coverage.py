"""How often do 95 % intervals hold the truth: simulated patients with several rows each, at 50 to 1,000 events.

Run: python benchmarks/eval_coverage.py [--repeats 1000] [--events 50 100 300 1000]

Patients have 1 to 15 encounters and a strong effect of their own on outcome and score, so that rows are far from
independent; about 6 % of encounters are events, from a quarter of the patients. The truth is taken from four million
patients. Every repeat draws a new data set, scores two models, and makes each interval; shown is the share that
holds the truth, with twice its Monte-Carlo error. `ratio` is null: there is no peer. `met` says whether the default
interval of AUROC and of the paired difference lies within 1.5 points of 95 % from 300 events on; it is null where the
Monte-Carlo error is larger than that (about 900 repeats are needed).
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np

from lang1.common.artefact import versions
from lang1.metrics.auroc import auroc
from lang1.metrics.bootstrap import mean_draws, rank_draws, resample_counts
from lang1.metrics.delong import area_parts, delong, delong_difference
from lang1.metrics.intervals import Interval, rarer_patients
from lang1.metrics.probability import average_precision

HERE = Path(__file__).parent
RESAMPLES = 1_000
TRUTH_PATIENTS, TRUTH_PARTS = 1_000_000, 4
WITHIN = 1.5


def hospital(rng: np.random.Generator, patients: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Whose each row is, its outcome, and the risks that two models state."""
    who = np.repeat(np.arange(patients), rng.integers(1, 16, patients))
    n = len(who)
    patient = rng.normal(size=patients)[who]
    x, z = rng.normal(size=n), rng.normal(size=n)
    outcome = rng.random(n) < 1 / (1 + np.exp(4.3 - 1.8 * patient - 0.9 * x - 0.5 * z))
    one = -3.4 + 1.1 * patient + 0.9 * x + 0.2 * rng.normal(size=n)
    two = -3.4 + 0.7 * patient + 0.9 * z + 0.5 * rng.normal(size=n)
    return who, outcome, 1 / (1 + np.exp(-one)), 1 / (1 + np.exp(-two))


def truth(seed: int) -> tuple[dict[str, float], float]:
    """The numbers that the intervals should hold, and events a patient."""
    found: list[dict[str, float]] = []
    rates = []
    for part in range(TRUTH_PARTS):
        _, y, a, b = hospital(np.random.default_rng([seed, part]), TRUTH_PATIENTS)
        found.append(
            {
                "AUROC": auroc(y, a),
                "paired difference": auroc(y, a) - auroc(y, b),
                "AUPRC": average_precision(y, a),
                "Brier": float(np.square(a - y).mean()),
            }
        )
        rates.append(float(y.sum()) / TRUTH_PATIENTS)
    return {name: float(np.mean([f[name] for f in found])) for name in found[0]}, float(np.mean(rates))


def intervals(rng: np.random.Generator, patients: int, seed: int) -> dict[tuple[str, str], tuple[float, float]]:
    """Every interval of one data set, by number and method."""
    who, y, a, b = hospital(rng, patients)
    resamples = resample_counts(who, RESAMPLES, seed)
    one, two = rank_draws(y, a, resamples), rank_draws(y, b, resamples)
    parts, other = area_parts(y, a, who), area_parts(y, b, who)
    brier = np.square(a - y)
    briers, gap = mean_draws(brier, resamples), one.auroc - two.auroc
    precision = average_precision(y, a)
    made: dict[tuple[str, str], tuple[float, float]] = {}
    df = rarer_patients(y, who)
    for method in ("student", "log-odds", "percentile", "bca"):
        rule = Interval(method, df)  # type: ignore[arg-type]
        made["AUROC", method] = rule.share(one.auroc, parts.value, parts.influence)
        if method != "bca":  # without an influence function it would be bias-corrected only
            made["AUPRC", method] = rule.share(one.average_precision, precision)
            made["Brier", method] = rule.difference(briers, float(brier.mean()))
        skew = parts.influence - other.influence
        made["paired difference", method] = rule.difference(gap, parts.value - other.value, skew)
    naive, closed = delong(y, a, logit=False), delong(y, a, who)
    made["AUROC", "DeLong, rows as if independent"] = naive.low, naive.high
    made["AUROC", "Obuchowski, log-odds"] = closed.low, closed.high
    paired = delong_difference(y, a, b, who)
    made["paired difference", "Obuchowski"] = paired.low, paired.high
    return made


def coverage(events: int, repeats: int, aims: dict[str, float], events_a_patient: float) -> dict[str, Any]:
    """Share of intervals that hold the truth, in percent, by number and method."""
    patients = round(events / events_a_patient)
    rng = np.random.default_rng(events)
    held: dict[tuple[str, str], list[bool]] = {}
    widths: dict[tuple[str, str], list[float]] = {}
    for repeat in range(repeats):
        for (name, method), (low, high) in intervals(rng, patients, repeat).items():
            held.setdefault((name, method), []).append(bool(low <= aims[name] <= high))
            widths.setdefault((name, method), []).append(high - low)
    found: dict[str, Any] = {}
    for (name, method), hits in held.items():
        share = float(np.mean(hits))
        found.setdefault(name, {})[method] = {
            "coverage": round(100 * share, 1),
            "error": round(200 * math.sqrt(share * (1 - share) / repeats), 1),
            "width": round(float(np.nanmean(widths[name, method])), 4),
        }
    return {"patients": patients, "repeats": repeats, "numbers": found}


def table(figures: dict[str, Any]) -> str:
    """The Markdown table of docs/statistics.md."""
    sizes = list(figures)
    heads = " | ".join(f"{size} events" for size in sizes)
    lines = [f"| number | interval | {heads} |", "| --- " * (2 + len(sizes)) + "|"]
    for name, methods in figures[sizes[0]]["numbers"].items():
        for method in methods:
            cells = [figures[size]["numbers"][name][method] for size in sizes]
            shown = " | ".join(f"{c['coverage']:.1f} ± {c['error']:.1f}" for c in cells)
            lines.append(f"| {name} | {method} | {shown} |")
    return "\n".join(lines)


def verdict(judged: list[dict[str, float]]) -> bool | None:
    """Whether every cell lies within the aim; None where there are none, or too few repeats to tell."""
    if not judged or max(cell["error"] for cell in judged) > WITHIN:
        return None
    return all(abs(cell["coverage"] - 95) <= WITHIN for cell in judged)


def main() -> None:
    """Simulate, judge and write benchmarks/results/eval_coverage.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, nargs="+", default=[50, 100, 300, 1000])
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "eval_coverage.json")
    parser.add_argument("--add", action="store_true", help="keep the other numbers of events of an earlier run")
    asked = parser.parse_args()
    aims, rate = truth(1)
    before = json.loads(asked.out.read_text(encoding="utf-8")) if asked.add and asked.out.exists() else None
    figures: dict[str, Any] = before["figures"]["all"] if before is not None else {}
    for events in asked.events:
        started = time.process_time()
        figures[str(events)] = coverage(events, asked.repeats, aims, rate)
        print(f"{events} events: {time.process_time() - started:.0f} CPU-seconds", flush=True)
    figures = dict(sorted(figures.items(), key=lambda item: int(item[0])))
    default = {
        f"{name} at {size} events": cell["numbers"][name]["student"]
        for size, cell in figures.items()
        for name in ("AUROC", "paired difference")
    }
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE).stdout
    judged = [c for key, c in default.items() if int(key.split(" at ")[1].split()[0]) >= 300]
    result = {
        "name": "eval_coverage",
        "ratio": None,
        "aim": f"95 % nominal within ± {WITHIN} points from 300 events",
        "met": verdict(judged),
        "figures": {
            **{f"coverage %, {key}": c["coverage"] for key, c in default.items()},
            "truth": aims,
            "all": figures,
        },
        "machine": f"{platform.machine()}, {platform.system()}, one core",
        "versions": versions(),
        "commit": commit.strip(),
        "command": "python benchmarks/eval_coverage.py",
    }
    asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(figures))


if __name__ == "__main__":
    main()
