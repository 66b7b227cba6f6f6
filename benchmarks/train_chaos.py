"""A training run that is killed again and again, beside the same run left alone.

    python benchmarks/train_chaos.py

Two processes (gloo, CPU, fp32) pretrain a small model. The run is stopped 25 times at random moments: by SIGTERM to one
process or to all, by SIGKILL to one (the other then loses its peer) or to all, and by SIGKILL to all while a checkpoint
is being written. Along the way it goes on with one process, then four, then two. Written down: the largest difference
of its loss curve, its validation losses and its final weights from the uninterrupted run, and from the order log how
many rows were missed, seen twice, or read other than the order says.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from lang1.common.artefact import partial_path, versions
from lang1.corpus.build import build_corpus
from lang1.corpus.order import BatchOrder
from lang1.corpus.reader import Corpus
from lang1.corpus.settings import CorpusSettings
from lang1.model.config import ModelSettings
from lang1.remede.build import build
from lang1.remede.settings import BuildSettings
from lang1.simulator.settings import SimulatorSettings
from lang1.simulator.simulate import simulate
from lang1.training.order_log import surviving
from lang1.training.pretrain import pretrain
from lang1.training.settings import PretrainSettings

HERE = Path(__file__).parent
SHAPE = ModelSettings(
    name="chaos", hidden_size=64, layers=2, heads=2, kv_heads=2, head_dim=32, intermediate_size=128, context=128
)
LENGTH, ROWS, SEED, TOLERANCE = 128, 8, 3407, 1e-4
KINDS = ("term one", "term all", "kill one", "kill all", "kill while a checkpoint is written")
CONTEXT = multiprocessing.get_context("forkserver")


def settings(steps: int) -> PretrainSettings:
    return PretrainSettings.model_validate(
        {
            "model": SHAPE,
            "tokens": steps * LENGTH * ROWS,
            "sequence_length": LENGTH,
            "sequences_per_step": ROWS,
            "tokens_per_pass": LENGTH * 2,
            "validate_every": 20,
            "validation_tokens": 2048,
            "checkpoint_every": 5,
            "log_every": 1,
            "order_log": True,
            "threads": 1,
            "device": "cpu",
            "precision": "fp32",
        }
    )


def work(corpus: Path, out: Path, steps: int, rank: int, size: int, port: int) -> None:
    """One process of the run, started with the environment that torchrun would give it."""
    if size > 1:
        about = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
        os.environ.update({k: str(v) for k, v in about.items()} | {"MASTER_ADDR": "127.0.0.1"})
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)
    try:
        pretrain(corpus, out, settings(steps))
    except KeyboardInterrupt:
        os._exit(130)


def start(corpus: Path, out: Path, steps: int, size: int) -> list[Any]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = [CONTEXT.Process(target=work, args=(corpus, out, steps, rank, size, port)) for rank in range(size)]
    for process in started:
        process.start()
    return started


def end(processes: list[Any], patience: float) -> list[int]:
    """Wait, and kill what does not end: a process whose peer died may wait for it."""
    until = time.monotonic() + patience
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def lines(out: Path) -> int:
    """Steps that the first process has read so far, all attempts together."""
    file = partial_path(out) / "order" / "rank-00000.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def disturb(processes: list[Any], kind: str, out: Path, rng: random.Random, steps: int) -> bool:
    """Let the run come on by some steps, then strike; whether there was still something to strike."""
    before = lines(out)
    while lines(out) < before + steps:
        if any(not process.is_alive() for process in processes):
            return False
        time.sleep(0.002)
    time.sleep(rng.random() * 0.1)
    if kind == KINDS[4]:
        folder = partial_path(out) / "checkpoints"
        while not any(folder.glob(".partial-*")):
            if any(not process.is_alive() for process in processes):
                return False
    if any(not process.is_alive() for process in processes):
        return False
    number = signal.SIGTERM if kind.startswith("term") else signal.SIGKILL
    for process in [rng.choice(processes)] if kind.endswith("one") else processes:
        os.kill(process.pid, number)
    return True


def chaos(corpus: Path, out: Path, steps: int, strikes: int, seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    # 2 -> 1 -> 4 -> 2, and a kind of blow after the other in random order.
    sizes = [2] * (strikes // 3) + [1] * (strikes // 5) + [4] * (strikes // 5)
    sizes += [2] * (strikes - len(sizes))
    kinds = [KINDS[i % len(KINDS)] for i in range(strikes)]
    rng.shuffle(kinds)
    counted: dict[str, int] = {}
    graceful = 0
    for size, kind in zip(sizes, kinds, strict=True):
        processes = start(corpus, out, steps, size)
        if not disturb(processes, kind, out, rng, rng.randint(2, 7)):
            end(processes, 60)
            break
        codes = end(processes, 60 if kind.startswith("term") else 5)
        counted[kind] = counted.get(kind, 0) + 1
        graceful += kind.startswith("term") and set(codes) == {130}
        print(f"{sum(counted.values())}: {size} processes, {kind}, step {lines(out)}, exit {codes}", flush=True)
    codes = end(start(corpus, out, steps, 2), 600)
    assert codes == [0, 0], f"the last attempt ended with {codes}"
    return {"strikes": counted, "terminated_runs_that_ended_by_themselves": graceful, "processes": sizes}


def curve(out: Path, kind: str) -> dict[int, dict[str, float]]:
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {r["step"]: {k: v for k, v in r.items() if k.startswith("loss")} for r in records if r["kind"] == kind}


def difference(one: dict[int, dict[str, float]], other: dict[int, dict[str, float]]) -> float:
    assert one.keys() == other.keys(), "the logs do not hold the same steps"
    return max(abs(one[step][name] - other[step][name]) for step in one for name in one[step])


def read_as_ordered(corpus: Path, out: Path, steps: int) -> dict[str, int]:
    """What the order log proves: every row of every step read once, with the tokens that the order gives."""
    order = BatchOrder(Corpus.open(corpus), None, LENGTH, ROWS, SEED, steps=steps)
    read = surviving(out)
    seen: dict[int, int] = {}
    wrong = 0
    for step in range(steps):
        for part in read.get(step, []):
            rows = np.array(part["rows"], dtype=np.int64)
            tokens, _ = order.rows(rows)
            wrong += zlib.crc32(tokens.tobytes()) != part["crc"] or bool((rows // ROWS != step).any())
            for row in part["rows"]:
                seen[row] = seen.get(row, 0) + 1
    return {
        "rows": steps * ROWS,
        "missed": sum(row not in seen for row in range(steps * ROWS)),
        "twice": sum(count > 1 for count in seen.values()),
        "read_otherwise": wrong,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--strikes", type=int, default=25)
    parser.add_argument("--patients", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "train_chaos.json")
    options = parser.parse_args()
    CONTEXT.set_forkserver_preload(["lang1.training.pretrain"])
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (records,) = simulate(folder / "sim", SimulatorSettings(patients=options.patients, seed=5))
        build(records, folder / "benchmark", BuildSettings())
        corpus = build_corpus([records], folder / "benchmark", folder / "corpus", CorpusSettings(vocab_size=1024))
        alone, struck = folder / "alone", folder / "struck"
        assert end(start(corpus, alone, options.steps, 2), 600) == [0, 0]
        print(f"left alone: done after {time.monotonic() - began:.0f} s", flush=True)
        happened = chaos(corpus, struck, options.steps, options.strikes, options.seed)
        one, other = (load_file(run / "model.safetensors") for run in (alone, struck))
        figures = {
            **happened,
            "total_strikes": sum(happened["strikes"].values()),
            "attempts_by_processes": [
                a["processes"] for a in json.loads((struck / "order" / "attempts.json").read_text())
            ],
            "steps": options.steps,
            "loss_curve_max_difference": difference(curve(alone, "train"), curve(struck, "train")),
            "validation_loss_max_difference": difference(curve(alone, "val"), curve(struck, "val")),
            "weights_max_difference": max(float((one[k] - other[k]).abs().max()) for k in one),
            "loss_first_to_last": [curve(alone, "train")[s]["loss"] for s in (1, options.steps)],
            "order": read_as_ordered(corpus, struck, options.steps),
            "seconds": round(time.monotonic() - began, 1),
        }
    order = figures["order"]
    met = (
        figures["total_strikes"] == options.strikes
        and figures["loss_curve_max_difference"] <= TOLERANCE
        and not (order["missed"] or order["twice"] or order["read_otherwise"])
    )
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    result = {
        "name": "train_chaos",
        "ratio": None,
        "aim": f"{options.strikes} random kills, processes 2, 1, 4, 2: the loss curve of the uninterrupted run to "
        f"{TOLERANCE}, no row missed or seen twice",
        "met": met,
        "figures": figures,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "versions": versions(),
        "commit": commit,
        "command": "python benchmarks/train_chaos.py",
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=1))
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
