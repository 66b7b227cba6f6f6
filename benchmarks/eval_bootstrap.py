"""Patient bootstrap of AUROC: 1,000 resamples of 100,000 examples, against a plain loop over scikit-learn.

Run: python benchmarks/eval_bootstrap.py [--examples 100000] [--resamples 1000] [--peer-resamples 20]

Both draw patients with replacement, take all their rows and judge the same scores; ours also draws average precision on
the way. The plain loop gathers the rows of the drawn patients and calls `roc_auc_score` (`ratio`); a second one passes
how often each row was drawn as `sample_weight` instead, which is the better way to write it. The peers are timed on
fewer resamples, which cost the same each, and scaled; ours runs all. Timed in CPU-seconds of one thread, the best of
three, the three timed in turn. That the numbers agree is checked on the peers' resamples.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from lang1.common.artefact import versions
from lang1.metrics.bootstrap import Resamples, rank_draws, resample_counts

HERE = Path(__file__).parent
AIM = 50


def seconds(work: Callable[[], object]) -> float:
    """CPU-seconds that a call takes."""
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    """Time the three and write benchmarks/results/eval_bootstrap.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=100_000)
    parser.add_argument("--resamples", type=int, default=1_000)
    parser.add_argument("--peer-resamples", type=int, default=20)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "eval_bootstrap.json")
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    who = rng.integers(0, int(0.6 * asked.examples), asked.examples)
    case = rng.random(asked.examples) < 0.1
    score = rng.normal(size=asked.examples) + case
    patients, patient = np.unique(who, return_inverse=True)
    rows_of = np.split(np.argsort(patient, kind="stable"), np.cumsum(np.bincount(patient))[:-1])

    def ours() -> None:
        rank_draws(case, score, resample_counts(who, asked.resamples))

    def gathered() -> None:
        for _ in range(asked.peer_resamples):
            rows = np.concatenate([rows_of[p] for p in rng.integers(0, len(patients), len(patients))])
            roc_auc_score(case[rows], score[rows])

    def weighted() -> None:
        for _ in range(asked.peer_resamples):
            drawn = np.bincount(rng.integers(0, len(patients), len(patients)), minlength=len(patients))
            roc_auc_score(case, score, sample_weight=drawn[patient])

    with threadpool_limits(1):
        rounds = [[seconds(work) for work in (ours, gathered, weighted)] for _ in range(3)]
    mine, plain, better = np.min(rounds, axis=0)
    scale = asked.resamples / asked.peer_resamples
    few = Resamples(resample_counts(who, asked.resamples).counts[:, : asked.peer_resamples], patient)
    said = [roc_auc_score(case, score, sample_weight=weight) for weight in few.weights().T]
    gap = float(np.abs(rank_draws(case, score, few).auroc - said).max())
    ratio = plain * scale / mine
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE
    ).stdout.strip()
    changed = [
        f"--{name} {value}"
        for name, value, usual in (
            ("examples", asked.examples, 100_000),
            ("resamples", asked.resamples, 1_000),
            ("peer-resamples", asked.peer_resamples, 20),
        )
        if value != usual
    ]
    result = {
        "name": "eval_bootstrap",
        "ratio": round(ratio, 1),
        "aim": AIM,
        "met": bool(ratio >= AIM),
        "figures": {
            "examples": asked.examples,
            "patients": len(patients),
            "resamples": asked.resamples,
            "CPU-seconds": round(float(mine), 2),
            "CPU-seconds of the plain loop, scaled": round(float(plain * scale), 1),
            "CPU-seconds of the weighted loop, scaled": round(float(better * scale), 1),
            "ratio to the weighted loop": round(float(better * scale / mine), 1),
            "largest difference in AUROC": gap,
            "peer resamples timed": asked.peer_resamples,
        },
        "machine": f"{platform.machine()}, {platform.system()}, one core",
        "versions": versions(),
        "commit": commit,
        "command": " ".join(["python benchmarks/eval_bootstrap.py", *changed]),
    }
    asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result["figures"], indent=1), f"ratio {ratio:.1f}, aim {AIM}")


if __name__ == "__main__":
    main()
