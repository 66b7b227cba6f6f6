"""Pretraining on a CPU: ours beside LitGPT and the Hugging Face Trainer, on the same rows from the same weights.

    python benchmarks/train_cpu.py --litgpt LITGPT/bin/python --hf HF/bin/python
    python benchmarks/train_cpu.py --curve          # the cost of sizes and note lengths instead

A simulated hospital's notes are tokenized and packed into rows of 1,024 tokens. Every contestant starts from the same
weights, reads the same rows in the same order and takes the same AdamW steps. Ours is ``lang1 pretrain`` as it ships
(documents masked from each other). A peer is first tried in each of its ways (eager or compiled, bf16 by autocast or
in the weights, one or several rows a pass), and its fastest way that ends at ours' held-out loss or below it runs the
rounds; rounds alternate. Speed is tokens of rows over the median step after the first five, so that compiling and
allocation do not count. The held-out loss is taken by one piece of code, in fp32, a document at a time. Then ours is
run with one thing at a time taken back, to tell where the gain comes from. Writes ``benchmarks/results/train_cpu.json``
or ``train_cpu_curve.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F

from lang1.common.artefact import versions
from lang1.corpus.build import build_corpus
from lang1.corpus.order import BatchOrder
from lang1.corpus.reader import Corpus
from lang1.corpus.settings import CorpusSettings
from lang1.model import attention, layout, llama
from lang1.model.attention import build_layout
from lang1.model.config import ModelSettings
from lang1.model.llama import Llama
from lang1.model.precision import pick_dtype, set_threads
from lang1.model.store import load_model, save_model
from lang1.remede.build import build
from lang1.remede.settings import BuildSettings
from lang1.simulator.settings import SimulatorSettings
from lang1.simulator.simulate import simulate
from lang1.training import loss as loss_of_head
from lang1.training import pretrain as pretraining
from lang1.training.optim import Optimizers, factor_at
from lang1.training.packing import flatten
from lang1.training.settings import PretrainSettings

HERE = Path(__file__).parent
AIM = 1.5
SETTLE = 5  # steps that are not timed
SHAPE = ModelSettings(
    name="bench",
    hidden_size=256,
    layers=6,
    heads=8,
    kv_heads=4,
    head_dim=32,
    intermediate_size=704,
    context=1024,
)
LENGTH, ROWS = 1024, 8
SEED = 3407


def settings(steps: int, **changes: Any) -> PretrainSettings:
    """The training that all contestants do."""
    base: dict[str, Any] = {
        "model": SHAPE,
        "tokens": steps * LENGTH * ROWS,
        "sequence_length": LENGTH,
        "sequences_per_step": ROWS,
        "weights": {"notes": 1.0, "general": 0.0},
        "log_every": 1,
        "checkpoint_every": 10_000,
        "validation_tokens": 0,
        "seed": SEED,
    }
    return PretrainSettings.model_validate({**base, **changes})


def prepare(folder: Path, patients: int, steps: int) -> Corpus:
    """Corpus, rows, starting weights and recipe, for everybody."""
    (records,) = simulate(folder / "sim", SimulatorSettings(patients=patients, preset="default", seed=5))
    build(records, folder / "benchmark", BuildSettings())
    build_corpus([records], folder / "benchmark", folder / "corpus", CorpusSettings(vocab_size=8192))
    corpus = Corpus.open(folder / "corpus")
    run = settings(steps)
    order = BatchOrder(corpus, run.weights, LENGTH, ROWS, SEED)
    batches = [order.step(step) for step in range(steps)]
    np.savez(folder / "rows.npz", tokens=np.stack([t for t, _ in batches]).astype(np.int32))
    shape = SHAPE.model_copy(update={"vocab_size": corpus.tokenizer.vocab_size})
    model = Llama(shape)
    model.initialise(SEED)
    save_model(folder / "start", model, corpus.tokenizer)
    optimizer = run.optimizer
    recipe = {
        "shape": shape.model_dump(),
        "length": LENGTH,
        "lr": optimizer.lr,
        "betas": list(optimizer.betas),
        "eps": optimizer.eps,
        "weight_decay": optimizer.weight_decay,
        "clip": optimizer.clip,
        "factors": [factor_at(step, steps, run.schedule) for step in range(steps)],
    }
    (folder / "recipe.json").write_text(json.dumps(recipe))
    return corpus


def ours(folder: Path, steps: int, name: str, save: bool = False) -> dict[str, Any]:
    """``lang1 pretrain``, and what its own record says of its steps."""
    out = folder / name
    pretraining.pretrain(folder / "corpus", out, settings(steps))
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    seconds = [0.0, *(line["seconds"] for line in lines if line["kind"] == "train")]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    if not save:
        shutil.rmtree(out)
    return {"step_seconds": list(np.diff(seconds)), "loss": losses}


def peer(python: str, kind: str, folder: Path, name: str, flags: list[str]) -> dict[str, Any]:
    """A peer's training in its own environment; an empty result with the reason where it fails."""
    command = [python, str(HERE / "peers" / "train_peer.py"), kind, str(folder), str(folder / name), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1][:300]}
    result: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return result


def rate(run: dict[str, Any]) -> float:
    """Tokens of rows a second, from the median step."""
    return float(LENGTH * ROWS / statistics.median(run["step_seconds"][SETTLE:]))


@torch.inference_mode()
def held_out_loss(model_folder: Path, corpus: Corpus, most: int) -> float:
    """Next-token loss on held-out notes in fp32, nats a token, each document by itself."""
    model = load_model(model_folder, "cpu").model
    total, count = 0.0, 0
    for tokens, documents in corpus.val_batches("notes", LENGTH, 8):
        stream = flatten(tokens, documents)
        if stream is None:
            continue
        hidden = model(torch.from_numpy(stream.tokens), build_layout(stream.lengths), torch.from_numpy(stream.read))
        target = torch.from_numpy(stream.target)
        total += float(F.cross_entropy(model.logits(hidden), target, reduction="sum"))
        count += len(target)
        if count >= most:
            break
    return total / count


class _PlainNorm(llama.RMSNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight, self.eps).to(x.dtype)


def _plain_loss(hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    logits = F.linear(hidden, weight.to(hidden.dtype)).float()
    return (F.cross_entropy(logits, target, reduction="none") * scale).sum()


@contextlib.contextmanager
def taken_back(what: str) -> Iterator[None]:
    """Ours with one of its ways replaced by the ordinary one."""
    whole = flatten
    patches: dict[str, list[Any]] = {
        "attention over whole rows": [
            mock.patch.object(pretraining, "flatten", lambda tokens, numbers: whole(tokens, np.zeros_like(numbers)))
        ],
        "fused attention kernel": [mock.patch.object(attention, "choose_backend", lambda *_: "sdpa")],
        "norms by autograd": [mock.patch.object(llama, "RMSNorm", _PlainNorm)],
        "whole logits": [mock.patch.object(pretraining, "linear_cross_entropy", _plain_loss)],
        "shapes as they come": [
            mock.patch.object(layout, "round_rows", lambda rows: rows),
            mock.patch.object(llama, "round_rows", lambda rows: rows),
            mock.patch.object(loss_of_head, "round_rows", lambda rows: rows),
            mock.patch.object(layout, "LENGTHS", 1),
        ],
    }
    with contextlib.ExitStack() as stack:
        for patch in patches[what]:
            stack.enter_context(patch)
        yield


WAYS = [f"bf16-mixed:{how}:{rows}" for how in ("eager", "compile") for rows in (1, 4)] + ["bf16-true:compile:4"]
TAKEN_BACK = (
    "attention over whole rows",
    "fused attention kernel",
    "norms by autograd",
    "whole logits",
    "shapes as they come",
)


def compare(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The rounds, the losses and the parts of the gain."""
    corpus = prepare(folder, options.patients, options.steps)
    ours(folder, options.steps, "ours", save=True)
    loss_of_ours = held_out_loss(folder / "ours", corpus, 100_000)
    pythons = {kind: path for kind, path in (("litgpt", options.litgpt), ("hf", options.hf)) if path}
    tried: dict[str, list[dict[str, Any]]] = {}
    best: dict[str, list[str]] = {}
    for kind, python in pythons.items():
        tried[kind] = []
        for precision, how, micro in (way.split(":") for way in options.ways):
            compiled = how == "compile"
            flags = ["--precision", precision, "--micro", micro, *(["--compile"] if compiled else [])]
            run = peer(python, kind, folder, "trial", [*flags, "--steps", str(SETTLE + 5)])
            tried[kind].append({"way": " ".join(flags), "tokens_a_second": None, **run})
            if "failed" not in run:
                tried[kind][-1]["tokens_a_second"] = round(rate(run))
            print(kind, flags, tried[kind][-1]["tokens_a_second"], run.get("failed", ""), file=sys.stderr, flush=True)
        for way in sorted(tried[kind], key=lambda t: -(t["tokens_a_second"] or 0)):
            if way["tokens_a_second"] is None:
                continue
            whole = peer(python, kind, folder, f"{kind}-whole", [*way["way"].split(), "--save"])
            way["held_out_loss"] = held_out_loss(folder / f"{kind}-whole", corpus, 100_000)
            way["versions"] = whole["versions"]
            if way["held_out_loss"] <= loss_of_ours + options.loss_margin:
                best[kind] = way["way"].split()
                break
    rounds: dict[str, list[float]] = {kind: [] for kind in ("ours", *best)}
    for _ in range(options.rounds):
        rounds["ours"].append(rate(ours(folder, options.steps, "round")))
        for kind, flags in best.items():
            rounds[kind].append(rate(peer(pythons[kind], kind, folder, "round", flags)))
        print(rounds, file=sys.stderr, flush=True)
    parts: dict[str, list[float]] = {}
    for _ in range(options.parts):
        plain = rate(ours(folder, options.steps // 2, "part"))
        for what in TAKEN_BACK:
            with taken_back(what):
                parts.setdefault(what, []).append(plain / rate(ours(folder, options.steps // 2, "part")))
    speeds = {kind: statistics.median(values) for kind, values in rounds.items()}
    ratios = {
        kind: statistics.median(a / b for a, b in zip(rounds["ours"], rounds[kind], strict=True)) for kind in best
    }
    tokens, documents = BatchOrder(corpus, settings(1).weights, LENGTH, ROWS, SEED).step(0)
    stream = flatten(tokens, documents)
    assert stream is not None
    return {
        "ratio": round(min(ratios.values()), 2) if ratios else None,
        "met": bool(ratios) and min(ratios.values()) >= AIM,
        "figures": {
            **{f"ratio_to_{kind}": round(value, 2) for kind, value in ratios.items()},
            **{f"tokens_a_second_{kind}": round(value) for kind, value in speeds.items()},
            "held_out_loss_ours": round(loss_of_ours, 4),
            "parameters": SHAPE.model_copy(update={"vocab_size": corpus.tokenizer.vocab_size}).parameters,
            "tokens_a_run": options.steps * LENGTH * ROWS,
            "mean_piece_tokens": round(float(np.mean(stream.lengths))),
            "rounds": rounds,
            "best_ways": {kind: " ".join(flags) for kind, flags in best.items()},
            "tried": {
                kind: [{k: v for k, v in t.items() if k not in ("step_seconds", "loss")} for t in every]
                for kind, every in tried.items()
            },
            "slower_without": {what: round(statistics.median(values), 2) for what, values in parts.items()},
        },
    }


def curve(options: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of ours by size and by length of the notes, one document a row."""
    set_threads(None)
    dtype = pick_dtype(torch.device("cpu"))
    sizes = {
        "2m": (160, 4, 4, 480, 2048),
        "10m": (256, 6, 8, 704, 8192),
        "30m": (448, 8, 14, 1216, 16384),
        "100m": (768, 10, 12, 2048, 32000),
    }
    found = []
    for name, (width, layers, heads, inner, vocab) in sizes.items():
        for length in (512, 1024, 2048, 4096):
            shape = ModelSettings(
                name=name,
                vocab_size=vocab,
                hidden_size=width,
                layers=layers,
                heads=heads,
                kv_heads=heads // 2,
                head_dim=width // heads if (width // heads) % 2 == 0 else width // heads + 1,
                intermediate_size=inner,
                context=4096,
            )
            model = Llama(shape, dtype)
            model.initialise(SEED)
            optimizers = Optimizers(model, settings(1).optimizer)
            rows = max(1, options.curve_tokens // length)
            tokens = np.random.default_rng(0).integers(0, vocab, (rows, length))
            stream = flatten(tokens, np.zeros((rows, length), np.int32))
            assert stream is not None
            blocks, times = build_layout(stream.lengths), []
            for _ in range(options.curve_steps):
                started = time.perf_counter()
                hidden = model(torch.from_numpy(stream.tokens), blocks, torch.from_numpy(stream.read))
                scale = torch.full((len(stream.read),), 1 / len(stream.read))
                head = model.lm_head.weight
                loss = pretraining.linear_cross_entropy(hidden, head, torch.from_numpy(stream.target), scale)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizers.clip()
                optimizers.step()
                optimizers.zero_grad()
                times.append(time.perf_counter() - started)
            row = {
                "parameters": shape.parameters,
                "note_tokens": length,
                "tokens_a_second": round(rows * length / statistics.median(times[1:])),
            }
            print(name, row, file=sys.stderr, flush=True)
            found.append({"size": name, **row})
    return {"ratio": None, "met": None, "figures": {"curve": found, "dtype": str(dtype)}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--litgpt", help="python of an environment with litgpt")
    parser.add_argument("--hf", help="python of an environment with transformers and accelerate")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", default=WAYS, help="PRECISION:eager|compile:ROWS of a pass, for the peers")
    parser.add_argument("--parts", type=int, default=2, help="rounds in which parts of ours are taken back")
    parser.add_argument("--patients", type=int, default=2500)
    parser.add_argument("--loss-margin", type=float, default=0.02, help="nats a token that count as equal loss")
    parser.add_argument("--curve", action="store_true")
    parser.add_argument("--curve-tokens", type=int, default=8192)
    parser.add_argument("--curve-steps", type=int, default=4)
    parser.add_argument("--work", type=Path, help="folder to keep the files in")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.curve:
        result = curve(options)
    else:
        with tempfile.TemporaryDirectory() as place:
            result = compare(options, options.work or Path(place))
    name = "train_cpu_curve" if options.curve else "train_cpu"
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    aim = "tokens a second of ours by size and note length" if options.curve else (
        f"{AIM} times the better of LitGPT and the Hugging Face Trainer in tokens a second, at equal loss"
    )  # fmt: skip
    out = options.out or HERE / "results" / f"{name}.json"
    out.write_text(
        json.dumps(
            {
                "name": name,
                "aim": aim,
                **result,
                "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
                "versions": versions(),
                "commit": commit,
                "command": "python benchmarks/train_cpu.py"
                + (" --curve" if options.curve else " --litgpt LITGPT/bin/python --hf HF/bin/python"),
            },
            indent=1,
        )
        + "\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
