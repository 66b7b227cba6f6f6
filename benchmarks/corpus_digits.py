"""What cutting numbers one way or another is worth downstream: the smallest models on notes whose signs are numbers.

    python benchmarks/corpus_digits.py                 # about 10 minutes on two cores
    python benchmarks/corpus_digits.py --work FOLDER   # keeps finished runs there; stopped, it goes on

Notes are made of sentences of a simulated hospital and of vital signs and laboratory values drawn here. Two answers
stand at the end of each note: whether the patient died, by a logistic risk of four values (a **level** must be read),
and whether the kidneys were injured, by the ratio of two creatinine values (two numbers must be **compared**); one
answer in twenty of the latter is flipped. The true probabilities give the best AUROC that can be reached.

For each way of cutting (``lang1 corpus digits=...``) a tokenizer of the same size is trained on the training notes, and
for each seed a model on the same notes in the same order, as many times over. So texts, notes and model shapes are
equal, and the tokens are not: they are told. Measured on held-out notes: loss in nats per byte of the note's text,
and the AUROC of the two answers. Writes ``benchmarks/results/corpus_digits.json``; there is no peer, so no ratio.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch

from lang1.common.artefact import read_json, versions, write_json
from lang1.metrics.auroc import auroc
from lang1.model.attention import build_layout
from lang1.model.config import ModelSettings
from lang1.model.llama import Llama
from lang1.model.precision import pick_device, pick_dtype, set_threads
from lang1.records.store import part_files
from lang1.simulator.settings import SimulatorSettings
from lang1.simulator.simulate import simulate
from lang1.text.tokenizer import Tokenizer
from lang1.text.tokenizer_training import Digits, train_tokenizer
from lang1.training.loss import linear_cross_entropy
from lang1.training.optim import Optimizers, factor_at
from lang1.training.packing import flatten
from lang1.training.settings import OptimizerSettings, ScheduleSettings

DIGITS: tuple[str, ...] = get_args(Digits)
TASKS = {"level": "\nDied? Answer:", "compared": "\nKidney injury? Answer:"}
SHAPE = ModelSettings(
    name="digits", hidden_size=96, layers=2, heads=3, kv_heads=3, head_dim=32, intermediate_size=256, context=512
)
ANSWER_WEIGHT = 20.0  # an answer is one token among some 100 of its note
TEST = 2_000
VOCAB = 1_280
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Notes:
    """Notes, the labels of both tasks by note, and the true probability of each label."""

    texts: list[str]
    labels: dict[str, npt.NDArray[np.int64]]
    truth: dict[str, npt.NDArray[np.float64]]


def sentences(patients: int) -> list[str]:
    """Sentences of a simulated hospital's notes that hold no number."""
    with tempfile.TemporaryDirectory() as folder:
        simulate(Path(folder) / "hospital", SimulatorSettings(patients=patients, seed=5, workers=1))
        records = next(p.parent for p in sorted(Path(folder).rglob("notes")) if p.is_dir())
        texts = [
            t for f in part_files(records, "notes") for t in pq.read_table(f, columns=["text"])["text"].to_pylist()
        ]
    lines = {line.strip() for text in texts for line in text.splitlines()}
    return sorted(line for line in lines if 20 < len(line) < 120 and not any(c.isdigit() for c in line))


def make_notes(count: int, seed: int, pool: list[str]) -> Notes:
    """Notes with their labels; the same seed, the same notes."""
    rng = np.random.default_rng(seed)
    pressure = np.clip(rng.normal(118, 22, count), 55, 220).round().astype(int)
    lactate = np.clip(rng.lognormal(0.5, 0.5, count), 0.4, 14).round(2)
    bnp = np.clip(rng.lognormal(6.0, 1.2, count), 10, 25_000).round().astype(int)
    platelets = np.clip(rng.normal(215, 80, count), 8, 620).round().astype(int)
    risk = (
        -1.6
        - 1.0 * (pressure - 118) / 22
        + 1.0 * (np.log(lactate) - 0.5) / 0.5
        + 0.8 * (np.log(bnp) - 6.0) / 1.2
        - 0.7 * (platelets - 215) / 80
    )
    before = np.clip(rng.lognormal(0.05, 0.35, count), 0.4, 6).round(2)
    now = np.clip(before * rng.lognormal(0.2, 0.4, count), 0.3, 12).round(2)
    truth = {"level": 1 / (1 + np.exp(-risk)), "compared": np.where(now >= 1.5 * before, 0.95, 0.05)}
    labels = {task: (rng.random(count) < share).astype(np.int64) for task, share in truth.items()}
    texts = []
    for i in range(count):
        lines = [pool[j] for j in rng.integers(len(pool), size=2)]
        vitals = (
            f"Vitals BP {pressure[i]}/{int(pressure[i] * rng.uniform(0.5, 0.65))}, pulse {int(rng.normal(92, 18))}, "
            f"temp {rng.normal(37.2, 0.7):.1f}, sat {int(rng.integers(86, 100))}."
        )
        labs = [
            f"lactate {lactate[i]:.2f}", f"BNP {bnp[i]}", f"platelets {platelets[i]}",
            f"sodium {int(rng.normal(138, 4))}", f"glucose {int(rng.lognormal(4.9, 0.3))}",
            f"creatinine {now[i]:.2f} (was {before[i]:.2f})",
        ]  # fmt: skip
        text = "\n".join([lines[0], vitals, f"Labs: {', '.join(rng.permutation(labs))}.", lines[1]])
        texts.append(text)
    return Notes(texts, labels, truth)


@dataclass(frozen=True)
class Encoded:
    """Notes as token rows: one a note, the answers of both tasks at the end.

    Attributes:
        tokens: per note its ids.
        answers: places of the two answers' letters in it, by task.
        text_tokens: how many of the ids are the note's own.
    """

    tokens: list[npt.NDArray[np.int64]]
    answers: dict[str, npt.NDArray[np.int64]]
    text_tokens: npt.NDArray[np.int64]


def encode(tokenizer: Tokenizer, notes: Notes) -> Encoded:
    letters = tokenizer.letter_ids(2)
    asks = {task: tokenizer.encode(question) for task, question in TASKS.items()}
    tokens, places = [], {task: np.zeros(len(notes.texts), dtype=np.int64) for task in TASKS}
    bodies = tokenizer.encode_batch(notes.texts)
    for i, body in enumerate(bodies):
        row = body.tolist()
        for task, ask in asks.items():
            row += ask
            places[task][i] = len(row)
            row.append(letters[int(notes.labels[task][i])])
        tokens.append(np.array([*row, tokenizer.eot_id], dtype=np.int64))
    return Encoded(tokens, places, np.array([len(body) for body in bodies]))


def batch(encoded: Encoded, which: npt.NDArray[np.int64]) -> tuple[Any, npt.NDArray[np.int64], dict[str, Any]]:
    """Notes as one packed stream; for each read token which note it is of; and each task's rows among the read."""
    rows = [encoded.tokens[i] for i in which.tolist()]
    flat = np.concatenate(rows)[None]
    owner = np.repeat(np.arange(len(rows)), [len(r) for r in rows])[None]
    stream = flatten(flat, owner)
    assert stream is not None
    # The stream puts the shortest first, in a stable order; one token of each piece is not read (its last).
    order = np.argsort([len(r) for r in rows], kind="stable")
    begins = np.cumsum(stream.lengths - 1) - (stream.lengths - 1)
    note_of = np.repeat(order, stream.lengths - 1)
    answers = {}
    for task, places in encoded.answers.items():
        at = np.empty(len(rows), dtype=np.int64)
        at[order] = begins + places[which[order]] - 1  # the token before the letter predicts it
        answers[task] = at
    return stream, note_of, answers


def train_and_judge(digits: str, seed: int, train: Notes, test: Notes, settings: Any) -> dict[str, Any]:
    tokenizer = train_tokenizer(
        train.texts,
        VOCAB,
        digits,
        required=[*TASKS.values(), "\nAnswer: A B"],  # type: ignore[arg-type]
    )
    encoded, held = encode(tokenizer, train), encode(tokenizer, test)
    device = pick_device("auto")
    model = Llama(SHAPE.model_copy(update={"vocab_size": tokenizer.vocab_size}), pick_dtype(device, "fp32"))
    model.initialise(seed)
    model.to(device)
    optimizers = Optimizers(model, OptimizerSettings(kind="muon", lr=2e-3, muon_lr=0.01, weight_decay=0.05))
    per_step = settings.notes_per_step
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(train.texts)) for _ in range(settings.epochs)])
    steps = len(order) // per_step
    schedule = ScheduleSettings(warmup=0.05, final=0.0)
    for step in range(steps):
        which = order[step * per_step : (step + 1) * per_step]
        stream, _, answers = batch(encoded, which)
        scale = np.full(len(stream.read), 1.0)
        for at in answers.values():
            scale[at] = ANSWER_WEIGHT
        optimizers.set_factor(factor_at(step, steps, schedule))
        loss = _loss(model, stream, scale / scale.sum())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizers.clip()
        optimizers.step()
        optimizers.zero_grad()
    return {
        "digits": digits, "seed": seed, "steps": steps, "vocab_size": tokenizer.vocab_size,
        "tokens_per_note": round(float(encoded.text_tokens.mean()), 2), **judge(model, held, test, tokenizer),
    }  # fmt: skip


def _loss(model: Llama, stream: Any, scale: npt.NDArray[np.float64]) -> torch.Tensor:
    device = model.model.embed_tokens.weight.device
    hidden = _hidden(model, stream)
    scales = torch.from_numpy(scale.astype(np.float32)).to(device)
    return linear_cross_entropy(hidden, model.lm_head.weight, torch.from_numpy(stream.target).to(device), scales)


def _hidden(model: Llama, stream: Any) -> torch.Tensor:
    device = model.model.embed_tokens.weight.device
    layout = build_layout(stream.lengths, device=device)
    return model(torch.from_numpy(stream.tokens).to(device), layout, torch.from_numpy(stream.read).to(device))


@torch.inference_mode()
def judge(model: Llama, held: Encoded, test: Notes, tokenizer: Tokenizer) -> dict[str, Any]:
    """Loss in nats per byte of the notes' text, and each task's AUROC by the share of the second letter."""
    letters = tokenizer.letter_ids(2)
    nats, scores = 0.0, {task: np.zeros(len(test.texts)) for task in TASKS}
    for begin in range(0, len(test.texts), 64):
        which = np.arange(begin, min(begin + 64, len(test.texts)))
        stream, note_of, answers = batch(held, which)
        logits = (_hidden(model, stream) @ model.lm_head.weight.to(model.dtype).t()).float()
        losses = torch.nn.functional.cross_entropy(
            logits, torch.from_numpy(stream.target).to(logits.device), reduction="none"
        )
        inside = np.concatenate([np.arange(n - 1) for n in stream.lengths.tolist()])
        own = inside < held.text_tokens[which][note_of] - 1
        nats += float(losses[torch.from_numpy(own).to(logits.device)].sum())
        for task, at in answers.items():
            pair = logits[torch.from_numpy(at).to(logits.device)][:, letters]
            scores[task][which] = (pair[:, 1] - pair[:, 0]).cpu().numpy()
    size = sum(len(text.encode()) for text in test.texts)
    areas = {f"auroc_{task}": round(auroc(test.labels[task], score), 4) for task, score in scores.items()}
    return {"nats_per_byte": round(nats / size, 5), **areas}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over the seeds, by way of cutting."""
    found: dict[str, Any] = {}
    for digits in dict.fromkeys(run["digits"] for run in runs):
        some = [run for run in runs if run["digits"] == digits]
        found[digits] = {"tokens_per_note": some[0]["tokens_per_note"]}
        for measure in ("nats_per_byte", "auroc_level", "auroc_compared"):
            values = [run[measure] for run in some]
            found[digits][measure] = round(statistics.mean(values), 4)
            found[digits][f"{measure}_sd"] = round(statistics.stdev(values), 4) if len(values) > 1 else math.nan
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notes", type=int, default=8_000, help="training notes")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--notes-per-step", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="CPU threads; default: all")
    parser.add_argument("--digits", nargs="*", default=list(DIGITS), choices=DIGITS)
    parser.add_argument("--work", type=Path, help="keep finished runs here")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "corpus_digits.json")
    options = parser.parse_args()
    set_threads(options.threads)
    pool = sentences(400)
    train, test = make_notes(options.notes, 1, pool), make_notes(TEST, 2, pool)
    runs = []
    for seed in range(1, options.seeds + 1):
        for digits in options.digits:
            kept = None
            if options.work:
                options.work.mkdir(parents=True, exist_ok=True)
                kept = options.work / f"{digits}-{seed}-{options.notes}-{options.epochs}-{options.notes_per_step}.json"
            if kept is not None and kept.exists():
                runs.append(read_json(kept))
                continue
            runs.append(train_and_judge(digits, seed, train, test, options))
            print(json.dumps(runs[-1]), flush=True)
            if kept is not None:
                write_json(kept, runs[-1])
    best = {task: round(auroc(test.labels[task], test.truth[task]), 4) for task in TASKS}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    result = {
        "name": "corpus_digits", "ratio": None,
        "aim": "none set beforehand: which way of cutting numbers does a small model learn most from",
        "met": None,
        "figures": {
            "by_digits": summary(runs), "best_possible_auroc": best, "runs": runs, "training_notes": options.notes,
            "epochs": options.epochs, "test_notes": TEST, "parameters": SHAPE.model_copy(
                update={"vocab_size": VOCAB}).parameters,
        },
        "machine": f"{platform.machine()}, {os.cpu_count()} cores", "versions": versions(), "commit": commit,
        "command": f"python benchmarks/corpus_digits.py --notes {options.notes} --epochs {options.epochs} "
                   f"--notes-per-step {options.notes_per_step} --seeds {options.seeds}",
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, result)
    print(json.dumps(result["figures"]["by_digits"], indent=1))
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
