"""Five questions on one note in a shared pass, against five passes, over what the token counts allow.

    python benchmarks/eval_shared_note.py

A note of n tokens and five questions of q tokens are 5 (n + q) tokens asked one at a time and n + 5 q shared, so that
the bound of the speed-up is 5 (n + q) / (n + 5 q). Both ways go through the same scorer with the same batches of
tokens, the model's weights are random, and the answers are compared in the same run. ``ratio`` is the smallest measured
speed-up over its bound, over all sizes and precisions; ways take turns, and the fastest of the rounds counts. Writes
``benchmarks/results/eval_shared_note.json``.
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

import numpy as np
import torch

from lang1.common.artefact import versions
from lang1.model.answering import score_encoded
from lang1.model.config import preset
from lang1.model.llama import Llama
from lang1.model.precision import fast_bf16, pick_device, set_threads
from lang1.text.shared_note import EncodedGroups
from lang1.text.tokenizer import Tokenizer
from lang1.text.tokenizer_training import train_tokenizer

HERE = Path(__file__).parent
AIM = 0.9
QUESTIONS = (40, 45, 50, 55, 60)  # tokens of the five
OPTIONS = (2, 2, 4, 4, 2)
TASKS = tuple(f"task{i}" for i in range(len(QUESTIONS)))


def groups(notes: int, length: int, vocab: int, shared: bool) -> EncodedGroups:
    """Random notes of one length with five questions each, as one group a note or one a question."""
    random = np.random.default_rng(0)
    asked = tuple(random.integers(1, vocab, n).astype(np.int32) for n in QUESTIONS)
    texts = random.integers(1, vocab, (notes, length)).astype(np.int32)
    each = 1 if shared else len(TASKS)
    count = notes * each
    items = len(TASKS) if shared else 1
    return EncodedGroups(
        tasks=TASKS,
        question_tokens=asked,
        note_tokens=np.repeat(texts, each, axis=0).reshape(-1),
        note_ends=np.arange(count + 1) * length,
        truncated=np.zeros(count, dtype=np.int64),
        item_ends=np.arange(count + 1) * items,
        item_task=np.tile(np.arange(len(TASKS)), notes),
        item_label=np.zeros(notes * len(TASKS), dtype=np.int64),
        example_ids=[f"{task}:{note}" for note in range(notes) for task in TASKS],
    )


def measure(model: Llama, tokenizer: Tokenizer, notes: int, length: int, rounds: int) -> dict[str, Any]:
    """Seconds of both ways, and how far their answers are apart."""
    options = dict(zip(TASKS, OPTIONS, strict=True))
    ways = {shared: groups(notes, length, tokenizer.vocab_size, shared) for shared in (True, False)}
    seconds: dict[bool, list[float]] = {True: [], False: []}
    tables = {}
    for turn in range(rounds + 1):
        for shared, encoded in ways.items():
            began = time.perf_counter()
            tables[shared] = score_encoded(model, tokenizer, encoded, options)
            if model.device.type == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first round compiles kernels
                seconds[shared].append(time.perf_counter() - began)
    scores = [np.concatenate(tables[shared].log_probabilities) for shared in (True, False)]
    questions = sum(QUESTIONS)
    bound = (len(TASKS) * length + questions) / (length + questions)
    speedup = min(seconds[False]) / min(seconds[True])
    return {
        "note": length,
        "questions": list(QUESTIONS),
        "notes": notes,
        "bound": round(bound, 3),
        "speedup": round(speedup, 3),
        "of_bound": round(speedup / bound, 3),
        "tokens_per_second_shared": round(tables[True].tokens / min(seconds[True])),
        "examples_per_second_shared": round(notes * len(TASKS) / min(seconds[True]), 1),
        "largest_difference": float(np.abs(scores[0] - scores[1]).max()),
    }


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="lang1-nano")
    parser.add_argument("--tokens", type=int, default=40_000, help="note tokens of a measurement")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path, default=HERE / "results/eval_shared_note.json")
    asked = parser.parse_args()
    threads = set_threads(asked.threads)
    device = pick_device()
    tokenizer = train_tokenizer(["a few words to learn from: A B C D\nAnswer: A B C D"] * 3, 400, required=[" A B C D"])
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        if dtype == torch.bfloat16 and not fast_bf16(device):
            continue
        model = Llama(preset(asked.model, vocab_size=8192, context=4096), dtype).to(device)
        model.initialise(0)
        for length in asked.lengths:
            name = f"{str(dtype).removeprefix('torch.')}, note of {length}"
            found[name] = measure(model, tokenizer, max(2, asked.tokens // length), length, asked.rounds)
            print(name, json.dumps(found[name]))
    ratio = min(one["of_bound"] for one in found.values())
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE).stdout
    result = {
        "name": "eval_shared_note",
        "ratio": ratio,
        "aim": f"five questions on one note at >= {AIM} of the speed-up that the token counts allow",
        "met": ratio >= AIM,
        "figures": {
            **{f"of_bound, {name}": one["of_bound"] for name, one in found.items()},
            "model": asked.model,
            "threads": threads,
            "load": round(os.getloadavg()[0], 1),
            "measured": found,
        },
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {device.type}",
        "versions": versions(),
        "commit": commit.strip(),
        "command": "python benchmarks/eval_shared_note.py",
    }
    asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
