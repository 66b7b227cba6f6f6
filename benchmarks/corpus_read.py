"""Tokens a second, on one core, of reading a corpus in training order: shuffled documents, packed into rows.

    python benchmarks/corpus_read.py

Two sources of random tokens (notes of some 400 tokens, web texts of some 900, log-normal, uint16 and uint32) are
written as shards of a corpus; ``BatchOrder.step`` then gives the batches of a training. The files lie in the page
cache: this is the processor's share, not the disk's. The process is pinned to one core and its CPU time is taken. The
order of an epoch is made once, when its first row is read, and timed by itself; the figures for 180 million notes are
its seconds in proportion, which is a little too few, since sorting slows with size. Writes
``benchmarks/results/corpus_read.json``.
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
import numpy.typing as npt

from lang1.common.artefact import new_folder, versions
from lang1.corpus.order import BatchOrder, _Layouts
from lang1.corpus.reader import Corpus, Source, TokenStream
from lang1.corpus.shards import ShardWriter
from lang1.text.tokenizer_training import train_tokenizer

HERE = Path(__file__).parent
AIM = 50e6  # tokens a second and core
PAPER_NOTES = 180_000_000
SOURCES = {"notes": 400, "web": 900}  # median tokens a document


def make(out: Path, megabytes: float, dtype: npt.DTypeLike, vocab: int) -> Corpus:
    """A corpus folder of random tokens, half of them notes."""
    tokenizer = train_tokenizer(["a few words to learn from"], 320)
    kind, random = np.dtype(dtype), np.random.default_rng(0)
    with new_folder(out, "corpus") as draft:
        tokenizer.save(draft.path / "tokenizer")
        about = {}
        for name, median in SOURCES.items():
            tokens = int(megabytes * 1e6 / 2 / kind.itemsize)
            lengths = np.maximum(2, random.lognormal(np.log(median), 0.7, size=2 * tokens // median)).astype(np.int64)
            lengths = lengths[: np.searchsorted(np.cumsum(lengths), tokens)]
            with ShardWriter(draft.path / name, "", kind, tokenizer.eot_id, tokens // 3) as writer:
                for some in np.array_split(lengths, 50):
                    writer.extend(random.integers(0, vocab, size=int(some.sum()), dtype=kind), some)
            about[name] = {"tokens": writer.tokens, "documents": writer.documents, "val_tokens": 0, "weight": 0.5}
        draft.extra = {"sources": about, "dtype": kind.name, "vocab_size": vocab}
    return Corpus.open(out)


def measure(corpus: Corpus, length: int, rows: int, repeats: int) -> dict[str, Any]:
    """Rates of one epoch of the corpus, the best and the median of ``repeats``."""
    order = BatchOrder(corpus, None, length, rows, 0)
    tokens = sum(source.train.tokens for source in corpus.sources.values())
    steps = tokens // (length * rows)
    began = time.process_time()
    order.step(0)
    first = time.process_time() - began
    rates = []
    for _ in range(repeats):
        began = time.process_time()
        for step in range(steps):
            order.step(step)
        rates.append(steps * rows * length / (time.process_time() - began))
    return {
        "sequence_length": length,
        "sequences_per_step": rows,
        "steps": steps,
        "first_step_seconds": round(first, 4),
        "tokens_per_cpu_second": round(float(np.median(rates))),
        "best": round(max(rates)),
    }


def layout(documents: int) -> dict[str, Any]:
    """Seconds and bytes of the order of one epoch over ``documents`` documents, and for the paper's notes."""
    bounds = np.arange(0, 400 * (documents + 1), 400, dtype=np.int64)
    stream = TokenStream((np.empty(0, np.uint16),), np.array([0, bounds[-1]]), bounds)
    layouts = _Layouts(Source("notes", 1.0, stream, stream), 0)
    began = time.process_time()
    made = layouts._epoch(0)
    seconds = time.process_time() - began
    bytes_each = (made.order.nbytes + made.marks.nbytes) / documents
    return {
        "documents": documents,
        "seconds": round(seconds, 3),
        "bytes_a_document": {"reader": 8, "epoch": round(bytes_each, 3)},
        "paper": {
            "documents": PAPER_NOTES,
            "seconds_an_epoch": round(seconds / documents * PAPER_NOTES, 1),
            "gigabytes": round((8 + bytes_each) * PAPER_NOTES / 1e9, 2),
            "gigabytes_between_epochs": round((8 + 2 * bytes_each) * PAPER_NOTES / 1e9, 2),
        },
    }


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mb", type=float, default=100, help="size of each corpus")
    parser.add_argument("--documents", type=int, default=2_000_000, help="of the order that is timed by itself")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE / "results/corpus_read.json")
    asked = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    read = {}
    for name, dtype, vocab in (("uint16", "<u2", 32_000), ("uint32", "<u4", 128_000)):
        with tempfile.TemporaryDirectory() as folder:
            corpus = make(Path(folder) / "corpus", asked.mb, dtype, vocab)
            for length, rows in ((1024, 8), (4096, 32)):
                read[f"{name}, {rows} rows of {length}"] = measure(corpus, length, rows, asked.repeats)
    slowest = min(each["tokens_per_cpu_second"] for each in read.values())
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE).stdout
    result = {
        "name": "corpus_read",
        "ratio": None,
        "aim": "at least 50 million tokens a second and core, shuffled",
        "met": slowest >= AIM,
        "figures": {
            "tokens_per_cpu_second_slowest": slowest,
            "tokens_per_cpu_second_fastest": max(each["tokens_per_cpu_second"] for each in read.values()),
            "megabytes": asked.mb,
            "load": round(os.getloadavg()[0], 1),
            "read": read,
            "order": layout(asked.documents),
        },
        "machine": f"{platform.machine()}, {platform.system()}, one core",
        "versions": versions(),
        "commit": commit.strip(),
        "command": "python benchmarks/corpus_read.py",
    }
    asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result["figures"], indent=1))


if __name__ == "__main__":
    main()
