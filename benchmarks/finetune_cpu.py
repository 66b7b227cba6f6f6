"""Questions learnt per CPU-second of joint finetuning: notes shared by their questions, against one question a row.

    python benchmarks/finetune_cpu.py --patients 2000

A simulated hospital and a model of random weights; every way learns the same questions with the same loss on the letter
alone, on one thread, in the precision that is fast here, AdamW, in one process one after the other, each twice in turn,
and the better time of each counts:

- ``shared``: this package, questions of a note share its pass, notes of any length packed;
- ``alone``: this package, every question with a note of its own, packed: what packing gives without sharing;
- ``padded``: Hugging Face transformers, the same model exported, right-padded rows of like length, logits at the answer
  alone, bf16 autocast where that is fast: what a careful script does.

Writes ``benchmarks/results/finetune_cpu.json``; ``ratio`` is shared over padded.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from lang1.common.artefact import new_folder, versions
from lang1.model.config import preset
from lang1.model.llama import Llama
from lang1.model.precision import pick_dtype, set_threads
from lang1.model.store import load_model, save_model
from lang1.remede.benchmark import Benchmark
from lang1.remede.build import build
from lang1.remede.settings import BuildSettings
from lang1.simulator.settings import SimulatorSettings
from lang1.simulator.simulate import simulate
from lang1.text.shared_note import EncodedGroups, by_length, encode_groups
from lang1.text.tokenizer_training import train_tokenizer
from lang1.training.answers import Answers
from lang1.training.optim import Optimizers
from lang1.training.settings import FinetuneSettings, OptimizerSettings

HERE = Path(__file__).parent
AIM = 1.5


@dataclass
class Alone:
    """A question with a note of its own."""

    note_id: str
    text: str
    items: list[Any]


def prepare(folder: Path, patients: int, model: str, vocab: int) -> tuple[Path, Benchmark]:
    """A benchmark of a simulated hospital and a model folder of random weights with a tokenizer of its notes."""
    settings = SimulatorSettings(patients=patients, preset="high-acuity", seed=5, workers=1)
    records = simulate(folder / "hospital", settings)[0]
    build(records, folder / "benchmark", BuildSettings(calendar="demo"))
    judged = Benchmark.open(folder / "benchmark")
    groups = judged.note_groups("train", list(judged.cards))
    required = [*judged.questions().values(), "\nAnswer: A B C D E F G H"]
    tokenizer = train_tokenizer([g.text for g in groups[:2000]], vocab, required=required)
    made = Llama(preset(model, vocab_size=tokenizer.vocab_size))
    made.initialise(0)
    with new_folder(folder / "model", "model") as draft:
        save_model(draft.path, made, tokenizer)
    return folder / "model", judged


def ours(model: Path, judged: Benchmark, settings: FinetuneSettings, alone: bool) -> tuple[Callable[[int], int], Any]:
    """A step as a function of its number that returns the questions learnt."""
    loaded = load_model(model, "cpu", pick_dtype(torch.device("cpu")))
    tasks = list(judged.cards)
    groups: list[Any] = judged.note_groups("train", tasks)
    if alone:
        groups = [Alone(f"{g.note_id}-{i.task}", g.text, [i]) for g in groups for i in g.items]
    encoded = encode_groups(groups, loaded.tokenizer, judged.questions(), settings.note_budget)
    work = Answers(
        loaded.model, loaded.tokenizer, encoded, encoded, {t: len(judged.cards[t].options) for t in tasks}, settings
    )
    optimizers = Optimizers(loaded.model, settings.optimizer)

    def step(number: int) -> int:
        for loss, _ in work.losses(number):
            loss.backward()  # type: ignore[no-untyped-call]
        optimizers.clip()
        optimizers.step()
        optimizers.zero_grad()
        notes = work.notes_of(number)
        return int((encoded.item_ends[notes + 1] - encoded.item_ends[notes]).sum())

    return step, encoded


def padded(model: Path, encoded: EncodedGroups, rows: int, settings: FinetuneSettings) -> Callable[[int], int]:
    """The same questions one a row, through transformers."""
    import transformers

    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(str(model), attn_implementation="sdpa")
    theirs.train()
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=settings.optimizer.lr, fused=True)
    cast = pick_dtype(torch.device("cpu")) == torch.bfloat16
    letters = torch.tensor(load_model(model, "cpu").tokenizer.letter_ids(8))
    texts: list[np.ndarray[Any, Any]] = []
    for group in range(len(encoded)):
        note = encoded.note_tokens[encoded.note_ends[group] : encoded.note_ends[group + 1]]
        for item in range(encoded.item_ends[group], encoded.item_ends[group + 1]):
            texts.append(np.concatenate([note, encoded.question_tokens[encoded.item_task[item]]]))
    lengths = np.array([len(t) for t in texts])
    batches = by_length(lengths, int(rows * lengths.mean()))
    order = np.random.default_rng(0).permutation(len(batches))

    def step(number: int) -> int:
        which = batches[order[number % len(order)]]
        longest = int(lengths[which].max())
        tokens = torch.zeros(len(which), longest, dtype=torch.int64)
        mask = torch.zeros(len(which), longest, dtype=torch.int64)
        for row, one in enumerate(which):
            tokens[row, : lengths[one]], mask[row, : lengths[one]] = torch.from_numpy(texts[one].astype(np.int64)), 1
        with torch.autocast("cpu", torch.bfloat16, enabled=cast):
            hidden = theirs.model(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state
            last = hidden[torch.arange(len(which)), torch.from_numpy(lengths[which]) - 1]
            logits = last @ theirs.lm_head.weight[letters].t()
        labels = torch.from_numpy(encoded.item_label[which])
        F.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return len(which)

    return step


def rate(step: Callable[[int], int], first: int, steps: int) -> float:
    """Questions per CPU-second."""
    begun, learnt = time.process_time(), 0
    for number in range(first, first + steps):
        learnt += step(number)
    return learnt / (time.process_time() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=2000)
    parser.add_argument("--model", default="lang1-nano")
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--notes", type=int, default=32, help="notes of a step")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "finetune_cpu.json")
    asked = parser.parse_args()
    set_threads(1)
    settings = FinetuneSettings(
        notes_per_step=asked.notes, loss="letters", optimizer=OptimizerSettings(lr=1e-4), threads=1
    )
    with tempfile.TemporaryDirectory() as scratch:
        model, judged = prepare(Path(scratch), asked.patients, asked.model, asked.vocab)
        shared, encoded = ours(model, judged, settings, alone=False)
        a_note = encoded.items / len(encoded)
        questions = round(asked.notes * a_note)
        single = settings.model_copy(update={"notes_per_step": questions})
        ways = {
            "shared": shared,
            "alone": ours(model, judged, single, alone=True)[0],
            "padded": padded(model, encoded, questions, settings),
        }
        found: dict[str, list[float]] = {name: [] for name in ways}
        for name, step in ways.items():
            rate(step, 0, 2)  # kernels are compiled for the shapes that occur
            print(f"warmed up: {name}", file=sys.stderr)
        for turn in range(2):
            for name, step in ways.items():
                found[name].append(rate(step, 2 + turn * asked.steps, asked.steps))
    best = {name: max(rates) for name, rates in found.items()}
    ratio = best["shared"] / best["padded"]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE).stdout
    result = {
        "name": "finetune_cpu",
        "ratio": round(ratio, 2),
        "aim": f"questions learnt per CPU-second, against padded rows in transformers: {AIM} times",
        "met": ratio >= AIM,
        "figures": {
            **{f"{name}_questions_per_cpu_second": round(value, 1) for name, value in best.items()},
            "sharing_alone": round(best["shared"] / best["alone"], 2),
            "packing_and_code": round(best["alone"] / best["padded"], 2),
            "questions_a_note": round(a_note, 2),
            "model": asked.model,
            "tokens_a_note_with_questions": round(float(encoded.lengths.mean()), 1),
        },
        "machine": {"processor": platform.processor() or platform.machine(), "threads": 1},
        "versions": versions(),
        "commit": commit.strip(),
        "command": f"python benchmarks/finetune_cpu.py --patients {asked.patients}",
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result["figures"], indent=1))


if __name__ == "__main__":
    main()
