"""This package's scorer against lm-evaluation-harness's ``hf`` backend: the same model, examples and processors.

    python benchmarks/eval_vs_lm_eval.py --harness PYTHON

PYTHON is an interpreter with ``lm-eval`` 0.4 and transformers installed. A model of random weights and a simulated
benchmark are made, the model is exported, the benchmark is written as the harness's tasks, and both score it: ours in
the questions' shared passes, the harness one request an option in batches of its own (``--batch`` of them). Loading the
model and reading the tasks counts for neither: both rates come from scoring alone, the harness's from its own
``loglikelihood``. Log-likelihoods are compared option by option, in fp32, in the same run. Both use the same number of
threads; ours is measured in fp32 and, where the processor has bf16 instructions, in what the scorer chooses, too.
``ratio`` is ours in fp32 over the harness's. Writes ``benchmarks/results/eval_vs_lm_eval.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lang1.common.artefact import new_folder, versions
from lang1.evaluation.examples import asked
from lang1.evaluation.export_lm_eval import export_lm_eval
from lang1.evaluation.settings import EvaluateSettings
from lang1.model.answering import score_groups
from lang1.model.config import preset
from lang1.model.llama import Llama
from lang1.model.precision import fast_bf16, set_threads
from lang1.model.store import export_model, load_model, save_model
from lang1.remede.benchmark import Benchmark
from lang1.remede.build import build
from lang1.remede.settings import BuildSettings
from lang1.simulator.settings import SimulatorSettings
from lang1.simulator.simulate import simulate
from lang1.text.clean import clean_note
from lang1.text.tokenizer import Tokenizer
from lang1.text.tokenizer_training import train_tokenizer

HERE = Path(__file__).parent
AIM = 3.0
# Run by the harness's interpreter: scores every task and writes log-likelihoods and the seconds of scoring.
HARNESS = """
import json, sys, time
import torch
torch.set_num_threads(int(sys.argv[5]))
import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
folder, tasks, out, batch = sys.argv[1:5]
model = HFLM(pretrained=folder, batch_size=int(batch), device="cpu", dtype="float32")
spent = [0.0]
inner = model.loglikelihood
def timed(*args, **kwargs):
    began = time.perf_counter()
    try:
        return inner(*args, **kwargs)
    finally:
        spent[0] += time.perf_counter() - began
model.loglikelihood = timed
found = lm_eval.simple_evaluate(
    model=model, tasks=["lang1"], task_manager=TaskManager(include_path=tasks), log_samples=True, bootstrap_iters=0
)
scores = {
    one["doc"]["example_id"]: [float(r[0][0]) if isinstance(r[0], (list, tuple)) else float(r[0]) for r in one["resps"]]
    for samples in found["samples"].values()
    for one in samples
}
json.dump({"seconds": spent[0], "scores": scores, "version": lm_eval.__version__}, open(out, "w"))
"""


def make_model(benchmark: Benchmark, shape: str, out: Path) -> None:
    """A model of random weights with a tokenizer of the benchmark's text."""
    notes = benchmark.texts(benchmark.examples(splits=["train"])["note_id"].to_pylist()[:2_000])
    questions = list(benchmark.questions().values())
    letters = " A B C D E F"
    tokenizer = train_tokenizer([*notes.values(), *questions], 8_192, required=[*questions, letters])
    with new_folder(out, "model") as draft:
        model = Llama(preset(shape, vocab_size=tokenizer.vocab_size))
        model.initialise(0)
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(2)  # so that answers differ between notes
        save_model(draft.path, model, tokenizer)
        draft.extra = {"stage": "pretrained", "name": shape}


def ours(
    model: Path, chosen: Any, budget: int, dtype: torch.dtype, rounds: int
) -> tuple[float, dict[str, list[float]]]:
    """Seconds of scoring, texts being read and tokenized in them, and log-probabilities by example."""
    loaded = load_model(model, "cpu", dtype)
    best, scores = float("inf"), {}
    for _ in range(rounds):
        began = time.perf_counter()
        table = score_groups(
            loaded.model, loaded.tokenizer, chosen.groups(), chosen.questions(), chosen.n_options(), budget
        )
        best = min(best, time.perf_counter() - began)
        scores = {e: list(map(float, s)) for e, s in zip(table.example_ids, table.log_probabilities, strict=True)}
    return best, scores


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--harness", type=Path, required=True, help="a python with lm-eval installed")
    parser.add_argument("--model", default="lang1-nano")
    parser.add_argument("--limit", type=int, default=100, help="examples a task")
    parser.add_argument("--patients", type=int, default=1_500)
    parser.add_argument("--budget", type=int, default=512)
    parser.add_argument("--batch", type=int, default=16, help="requests in a batch of the harness")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path, default=HERE / "results/eval_vs_lm_eval.json")
    given = parser.parse_args()
    threads = set_threads(given.threads)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        simulate(place / "simulated", SimulatorSettings(patients=given.patients, workers=1))
        records = next(p for p in sorted(place.glob("simulated/*")) if (p / "manifest.json").is_file())
        build(records, place / "benchmark", BuildSettings())
        bench = Benchmark.open(place / "benchmark")
        make_model(bench, given.model, place / "model")
        export_model(place / "model", place / "exported")
        settings = EvaluateSettings(
            limit=given.limit, splits=[bench.headline_split], note_budget=given.budget, device="cpu"
        )
        export_lm_eval(place / "benchmark", place / "model", place / "tasks", settings)
        chosen = asked(bench, settings)
        seconds, scores = ours(place / "model", chosen, given.budget, torch.float32, given.rounds)
        half = (
            ours(place / "model", chosen, given.budget, torch.bfloat16, given.rounds)[0]
            if fast_bf16(torch.device("cpu"))
            else None
        )
        (place / "harness.py").write_text(HARNESS)
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        environment |= {"OMP_NUM_THREADS": str(threads), "HF_HOME": str(place / "cache")}
        folders = [place / "exported", place / "tasks", place / "found.json"]
        command = [str(given.harness), str(place / "harness.py"), *map(str, folders), str(given.batch), str(threads)]
        subprocess.run(command, env=environment, check=True)
        theirs = json.loads((place / "found.json").read_text())
        counts = json.loads((place / "tasks/manifest.json").read_text())["counts"]
        tokenizer = Tokenizer.load(place / "model")
        cut = sum(len(tokenizer.encode(clean_note(group.text))) > given.budget for group in chosen.groups())
    assert set(theirs["scores"]) == set(scores), "both scored the same examples"
    apart = {e: float(np.abs(np.subtract(theirs["scores"][e], scores[e])).max()) for e in scores}
    alike = [e for e in apart if apart[e] < 1e-4]
    ratio = theirs["seconds"] / seconds
    figures: dict[str, Any] = {
        "examples": len(scores),
        "notes_longer_than_the_budget": cut,
        "ours_examples_per_second_fp32": round(len(scores) / seconds, 1),
        "ours_examples_per_second_bf16": None if half is None else round(len(scores) / half, 1),
        "harness_examples_per_second": round(len(scores) / theirs["seconds"], 1),
        "bf16_over_harness": None if half is None else round(theirs["seconds"] / half, 2),
        "log_likelihoods_within_1e-4": f"{len(alike)} of {len(scores)}",
        "largest_difference": max(apart.values()),
        "exported_otherwise": {k: v for k, v in counts.items() if k.startswith("notes_")},
        "harness_batch": given.batch,
        "model": given.model,
        "threads": threads,
        "load": round(os.getloadavg()[0], 1),
    }
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE).stdout
    result = {
        "name": "eval_vs_lm_eval",
        "ratio": round(ratio, 2),
        "aim": f"at least {AIM:g} times lm-evaluation-harness's hf backend on two cores, with equal log-likelihoods",
        "met": bool(ratio >= AIM and len(alike) >= len(scores) - sum(figures["exported_otherwise"].values())),
        "figures": figures,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {**versions(), "lm-eval": theirs["version"]},
        "commit": commit.strip(),
        "command": "python benchmarks/eval_vs_lm_eval.py --harness HARNESS/bin/python",
    }
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
