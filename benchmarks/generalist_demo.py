"""A small open generalist on the demo's benchmark, zero-shot and finetuned with adapters, beside Lang1 and baselines.

    lang1 demo
    python benchmarks/generalist_demo.py GENERALIST ./lang1-demo ./generalist-demo

GENERALIST is a Hugging Face folder, e.g. SmolLM2-135M. It answers the first ``--limit`` examples of each task of the
headline split zero-shot, is finetuned with low-rank adapters on ``--notes`` train notes at one learning rate, and
answers again; the demo's own predictions are judged on the same examples. Stopped and started again, it goes on. Writes
a results folder with its report and ``benchmarks/results/generalist_demo.json``. This is no search over learning rates
and no training of all weights: it says what little work does for a small generalist.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from lang1.common.artefact import versions
from lang1.common.progress import say
from lang1.common.settings import load_settings
from lang1.evaluation.predict_benchmark import evaluate_generalist, evaluate_model
from lang1.evaluation.predictions import open_predictions
from lang1.evaluation.results import collect, write_results
from lang1.evaluation.settings import EvaluateSettings
from lang1.remede.benchmark import Benchmark
from lang1.reporting.report import render
from lang1.training.finetune import finetune
from lang1.training.settings import FinetuneSettings

HERE = Path(__file__).parent
NOTE = "Intervals of a few hundred examples are wide: read them, not the order of the rows."


def timed(seconds: dict[str, float], name: str, out: Path, work: Any) -> Path:
    """Do what is not done yet and note how long it took."""
    if not out.exists():
        began = time.monotonic()
        work(out)
        seconds[name] = round(time.monotonic() - began, 1)
    return out


def main() -> None:
    """Run what is not finished and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("generalist", type=Path)
    parser.add_argument("demo", type=Path, help="folder of a finished lang1 demo")
    parser.add_argument("work", type=Path, help="folder to write")
    parser.add_argument("--limit", type=int, default=300, help="examples a task")
    parser.add_argument("--notes", type=int, default=500, help="train notes of the finetuning")
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--budget", type=int, default=384, help="tokens of a note, in the generalist's tokens")
    parser.add_argument("--out", type=Path, default=HERE / "results/generalist_demo.json")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    bench = Benchmark.open(given.demo / "benchmark")
    place, name = given.demo / "benchmark", given.generalist.name
    # The demo's predictions hold the same patients first: a limit takes them by a hash.
    settings = EvaluateSettings(limit=given.limit, splits=[bench.headline_split], note_budget=given.budget)
    seconds: dict[str, float] = {}

    def zero(out: Path) -> None:
        evaluate_generalist(given.generalist, place, out, settings, name=name)

    def tuned(out: Path) -> None:
        asked = [f"max_notes={given.notes}", "epochs=1", f"note_budget={given.budget}", "notes_per_step=16", "lora={}"]
        asked += [f"optimizer={{kind: adamw, lr: {given.lr}}}", "tokens_per_pass=4096", "loss=letters"]
        finetune(given.generalist, place, out, load_settings(FinetuneSettings, overrides=asked))

    def after(out: Path) -> None:
        evaluate_model(given.work / "finetuned", place, out, settings, regime="joint", name=name)

    made = [timed(seconds, "zero-shot", given.work / "zero-shot", zero)]
    timed(seconds, "finetune", given.work / "finetuned", tuned)
    made.append(timed(seconds, "joint", given.work / "joint", after))
    for folder in sorted(given.demo.iterdir()):
        manifest = folder / "manifest.json"
        if manifest.is_file() and json.loads(manifest.read_text())["kind"] == "predictions":
            made.append(folder)
    results = collect(place, made, settings, title=f"{name} beside Lang1", extra_warnings=[NOTE])
    final = given.work / "report"
    if not final.exists():
        write_results(final, results, inputs={}, finish=lambda file: render(file, file.with_name("report.html")))
    rows = [r for r in results["rows"] if r["metric"] == "auroc" and r["versus"] is None and r["stratum"] is None]
    told = open_predictions(made[0]).folder.manifest.extra
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE).stdout
    result = {
        "name": "generalist_demo",
        "ratio": None,
        "aim": "a generalist with real weights, zero-shot and finetuned by adapters, beside Lang1 on the demo",
        "met": len(made) > 2,
        "figures": {
            "examples_a_task": given.limit,
            "train_notes": given.notes,
            "seconds": seconds,
            "auroc": {f"{r['task']}, {r['model']}, {r['regime']}": [r["value"], r["low"], r["high"]] for r in rows},
            "answering_zero_shot": told["answering"],
        },
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": versions(),
        "commit": commit.strip(),
        "command": "python benchmarks/generalist_demo.py GENERALIST LANG1_DEMO WORK",
    }
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    say(f"Done: {final / 'report.html'} and {given.out}.")


if __name__ == "__main__":
    main()
