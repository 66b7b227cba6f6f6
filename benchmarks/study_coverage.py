"""How often do a study's 95 % intervals hold the truth when a model was trained with several seeds.

Run: python benchmarks/study_coverage.py [--repeats 900]

Patients have one to three rows each and effects of their own (150 patients, about 55 events); trainings differ in skill
by luck. A data set, two models and their trainings are drawn anew in each repeat; the truth is the mean AUROC over all
trainings and patients. Judged are the AUROC of one model and the difference of two on the same patients, with the
spread of the trainings told by themselves alone, and drawn towards that of like ones (eight others, as a study holds
many). `ratio` is null: there is no peer. `met` says whether the intervals in use (drawn towards like ones) hold the
truth in 93.5 % or more of the repeats with two and more seeds; null where the Monte-Carlo error is larger than 1.5
points (under 850 repeats).
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

from lang1.common.artefact import versions
from lang1.metrics.auroc import auroc
from lang1.metrics.bootstrap import rank_draws, resample_counts
from lang1.metrics.intervals import rarer_patients
from lang1.metrics.over_seeds import Pooled, difference_over_seeds, over_seeds, spread

HERE = Path(__file__).parent
PATIENTS, RESAMPLES, OTHERS = 150, 200, 8
LUCK, SEEDS = (0.0, 0.1, 0.3), (1, 2, 3, 5)
SKILLS = (1.2, 1.0)
NOISE = math.sqrt(0.5**2 + 0.4**2 + 0.8**2)  # of a score: the row's, its patient's, the training's own
LEAST, ERROR = 93.5, 1.5
Trained = tuple[list[float], list[np.ndarray]]


def hospital(rng: np.random.Generator, seeds: int, luck: float) -> tuple[float, Trained, Trained]:
    """Degrees of freedom of the patients, and AUROC and draws of both models' trainings."""
    who = np.repeat(np.arange(PATIENTS), rng.integers(1, 4, PATIENTS))
    frail = 0.8 * rng.normal(size=PATIENTS)[who]
    event = rng.random(len(who)) < 1 / (1 + np.exp(1.6 - frail))
    resamples = resample_counts(who, RESAMPLES, int(rng.integers(1 << 30)))
    shared = 0.5 * rng.normal(size=len(who)) + 0.4 * rng.normal(size=PATIENTS)[who]
    made: list[Trained] = []
    for skill in SKILLS:
        values, draws = [], []
        for _ in range(seeds):
            score = (skill + luck * rng.normal()) * event + shared + 0.8 * rng.normal(size=len(who))
            values.append(auroc(event, score))
            draws.append(rank_draws(event, score, resamples).auroc)
        made.append((values, draws))
    return rarer_patients(event.astype(int), who), made[0], made[1]


def truth(skill: float, luck: float) -> float:
    """The mean AUROC over trainings: a score's noise is normal, so each training's is a normal probability."""
    drawn = skill + luck * np.random.default_rng(0).normal(size=400_000)
    return float(norm.cdf(drawn / (NOISE * math.sqrt(2))).mean())


def coverage(seeds: int, luck: float, repeats: int) -> dict[str, dict[str, float]]:
    """By number and interval: share of repeats that hold the truth, and median and 95th percentile of its width."""
    rng = np.random.default_rng([seeds, int(100 * luck)])
    runs = [hospital(rng, seeds, luck) for _ in range(repeats)]
    aims = {"AUROC": truth(SKILLS[0], luck), "difference": truth(SKILLS[0], luck) - truth(SKILLS[1], luck)}
    odds = [spread(*one, share=True) for _, one, _ in runs]
    plain = [spread(*one) for _, one, _ in runs]
    held: dict[str, list[bool]] = {}
    wide: dict[str, list[float]] = {}
    for df, one, other in runs:
        like = rng.integers(0, repeats, OTHERS)
        known = [(odds[k], plain[k]) for k in like if odds[k] is not None and plain[k] is not None]
        pooled = [Pooled(float(np.mean(each)), float(len(each) * (seeds - 1))) for each in zip(*known, strict=True)]
        share, apart = (pooled[0], pooled[1]) if pooled else (None, None)
        both = None if apart is None else Pooled(2 * max(apart.variance, 0.0), apart.df)
        gaps = np.array(one[0]) - np.array(other[0]), np.array(one[1]) - np.array(other[1])
        found = {
            "AUROC, alone": over_seeds(*one, df, share=True),
            "AUROC, with like ones": over_seeds(*one, df, share=True, pooled=share),
            "difference, alone": over_seeds(*gaps, df),
            "difference, with like ones": over_seeds(*gaps, df, pooled=both),
            "difference, seeds not paired": difference_over_seeds(one, other, df, pooled=(apart, apart)),
        }
        for name, interval in found.items():
            aim = aims[name.split(",")[0]]
            held.setdefault(name, []).append(interval.low <= aim <= interval.high)
            wide.setdefault(name, []).append(interval.high - interval.low)
    return {
        name: {
            "coverage": round(100 * float(np.mean(held[name])), 1),
            "error": round(200 * math.sqrt(0.95 * 0.05 / repeats), 1),
            "width": round(float(np.median(wide[name])), 3),
            "width_95": round(float(np.quantile(wide[name], 0.95)), 3),
        }
        for name in held
    }


def main() -> None:
    """Simulate, judge and write benchmarks/results/study_coverage.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=900)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "study_coverage.json")
    asked = parser.parse_args()
    figures: dict[str, Any] = {}
    for luck in LUCK:
        for seeds in SEEDS:
            figures[f"luck {luck}, {seeds} seeds"] = made = coverage(seeds, luck, asked.repeats)
            cells = "; ".join(f"{n} {c['coverage']} ({c['width']}, {c['width_95']})" for n, c in made.items())
            print(f"luck {luck}, {seeds} seeds: {cells}", flush=True)
    judged = [
        figures[f"luck {luck}, {seeds} seeds"][name]
        for luck in LUCK
        for seeds in SEEDS
        if seeds > 1
        for name in ("AUROC, with like ones", "difference, with like ones")
    ]
    precise = max(cell["error"] for cell in judged) <= ERROR
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE).stdout
    result = {
        "name": "study_coverage",
        "ratio": None,
        "aim": f"95 % nominal, {LEAST} % or more with two and more seeds",
        "met": all(cell["coverage"] >= LEAST for cell in judged) if precise else None,
        "figures": {"least coverage %": min(cell["coverage"] for cell in judged), "all": figures},
        "machine": f"{platform.machine()}, {platform.system()}, one core",
        "versions": versions(),
        "commit": commit.strip(),
        "command": "python benchmarks/study_coverage.py",
    }
    asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
