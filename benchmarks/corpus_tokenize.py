"""Tokens per CPU-second of clean + tokenize, against Hugging Face ``tokenizers`` and datatrove's tokenizer stage.

    python benchmarks/corpus_tokenize.py                                   # without datatrove and without fastokens
    python benchmarks/corpus_tokenize.py --datatrove DT/bin/python --fast FAST/bin/python

The same text goes through each: notes of a simulated hospital and the general text that ships with Lang1, copied until
there are ``--mb`` megabytes, as JSON Lines. Ours is ``lang1 corpus`` on it with a tokenizer brought along: reading,
cleaning, filters, tokens and shards, on one worker and on two. The others tokenize alone, without cleaning. Each is
a process of its own, whose CPU time (all threads, all children) and peak memory are taken. The other interpreters are
environments with datatrove, and with Lang1 and fastokens; what is not named is not measured, and said so. Memory is
taken at a quarter of the text too: it should not grow. Writes ``benchmarks/results/corpus_tokenize.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lang1.common.artefact import versions
from lang1.corpus.general import general_files, read_general
from lang1.corpus.settings import GeneralSource
from lang1.records.store import part_files
from lang1.simulator.settings import SimulatorSettings
from lang1.simulator.simulate import simulate
from lang1.text.fast import PieceEncoder, fast_encoder, library, same
from lang1.text.tokenizer import Tokenizer
from lang1.text.tokenizer_training import train_tokenizer

AIM_PLAIN, AIM_FAST = 1.3, 5.0

OURS = """
import sys
from pathlib import Path
from lang1.corpus.build import build_corpus
from lang1.corpus.settings import CorpusSettings, GeneralSource
text, tokenizer, out, workers, fast = sys.argv[1:]
if not int(fast):
    sys.modules["fastokens"] = None  # as if it were not installed; worker processes of their own have it
build_corpus([], None, Path(out), CorpusSettings(
    general={"text": GeneralSource(path=Path(text))}, tokenizer=Path(tokenizer), workers=int(workers),
    unit_bytes=8 << 20))
"""
LIBRARY = """
import itertools, json, sys
import tokenizers
import numpy as np
text, tokenizer, out = sys.argv[1:]
inner = tokenizers.Tokenizer.from_file(tokenizer)
with open(text) as lines, open(out, "wb") as stream:
    while batch := [json.loads(line)["text"] for line in itertools.islice(lines, 512)]:
        for one in inner.encode_batch_fast(batch, add_special_tokens=False):
            stream.write(np.asarray(one.ids, dtype=np.uint16).tobytes())
"""
DATATROVE = """
import os, sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
text, tokenizer, out = sys.argv[1:]
LocalPipelineExecutor([
    JsonlReader(os.path.dirname(text), glob_pattern=os.path.basename(text)),
    DocumentTokenizer(out, tokenizer, local_working_dir=out + "-work", shuffle_documents=False, eos_token=None,
                      batch_size=1000),
], tasks=1, workers=1, logging_dir=out + "-log").run()
"""


def timed(command: list[str], threads: int, place: Path) -> dict[str, float]:
    """Run a command: CPU seconds and peak resident memory of it and its children, wall seconds."""
    script = (
        "import resource, subprocess, sys, time, json\n"
        "t = time.perf_counter(); c = subprocess.run(sys.argv[2:]).returncode; w = time.perf_counter() - t\n"
        "u = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "open(sys.argv[1], 'w').write(json.dumps([c, u.ru_utime + u.ru_stime, u.ru_maxrss, w]))\n"
    )
    answer = place / "answer.json"
    environment = os.environ | {"RAYON_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
    if threads == 1:
        environment["TOKENIZERS_PARALLELISM"] = "false"
    subprocess.run(
        [sys.executable, "-c", script, str(answer), *command],
        env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    status, cpu, peak, wall = json.loads(answer.read_text())
    if status:
        raise SystemExit(f"{' '.join(command[:3])} … failed")
    return {"cpu_seconds": round(cpu, 2), "wall_seconds": round(wall, 2), "peak_mib": round(peak / 1024, 1)}


def write_text(place: Path, megabytes: int) -> tuple[Path, Path, list[str]]:
    """All of the text and a quarter of it as JSON Lines, and a sample of documents."""
    import pyarrow.parquet as pq

    simulate(place / "hospital", SimulatorSettings(patients=4000, seed=1))
    records = next(p.parent for p in sorted((place / "hospital").rglob("notes")) if p.is_dir())
    documents = [
        t for f in part_files(records, "notes") for t in pq.read_table(f, columns=["text"])["text"].to_pylist()
    ]
    for file in general_files("general", GeneralSource()):
        # A chapter or two a document, as on the web; a whole novel is not what a crawl holds.
        documents += [text[at : at + 5000] for text in read_general(file, "text") for at in range(0, len(text), 5000)]
    whole, quarter = place / "text.jsonl", place / "quarter.jsonl"
    written, at = 0, 0
    with whole.open("w") as out, quarter.open("w") as small:
        while written < megabytes * 1_000_000:
            # Each copy begins with its number, so that no two documents are equal.
            line = json.dumps({"text": f"{at} {documents[at % len(documents)]}"}, ensure_ascii=False) + "\n"
            out.write(line)
            if written < megabytes * 250_000:
                small.write(line)
            written, at = written + len(line.encode()), at + 1
    return whole, quarter, documents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=60)
    parser.add_argument("--vocab", type=int, default=32_000)
    parser.add_argument("--datatrove", help="the Python of an environment with datatrove and tokenizers")
    parser.add_argument("--fast", help="the Python of an environment with lang1 and fastokens")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "corpus_tokenize.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        text, quarter, documents = write_text(place, options.mb)
        tokenizer = train_tokenizer(iter(documents), options.vocab, required=["\nAnswer: A B C D E F G H"])
        tokenizer.save(place / "tokenizer")
        file = str(place / "tokenizer" / "tokenizer.json")
        encoder = fast_encoder(Tokenizer.load(Path(file)).inner)[1]
        equal = same(encoder(documents), library(tokenizer.inner)(documents))
        runs: dict[str, dict[str, Any]] = {}

        def ours(name: str, python: str, source: Path, workers: int) -> None:
            out = place / f"corpus-{name}"
            runs[name] = timed(
                [python, "-c", OURS, str(source), file, str(out), str(workers), str(int("fastokens" in name))], 1, place
            )
            about = json.loads((out / "manifest.json").read_text())["extra"]["sources"]["text"]
            runs[name]["tokens"] = about["tokens"] + about["val_tokens"]

        ours("lang1", sys.executable, text, 1)
        ours("lang1, two workers", sys.executable, text, 2)
        ours("lang1, a quarter of the text", sys.executable, quarter, 1)
        runs["tokenizers"] = timed([sys.executable, "-c", LIBRARY, str(text), file, str(place / "hf.bin")], 2, place)
        runs["tokenizers"]["tokens"] = (place / "hf.bin").stat().st_size // 2
        if options.fast:
            ours("lang1, fastokens", options.fast, text, 1)
        if options.datatrove:
            out = place / "datatrove"
            runs["datatrove"] = timed([options.datatrove, "-c", DATATROVE, str(text), file, str(out)], 1, place)
            runs["datatrove"]["tokens"] = sum(f.stat().st_size for f in out.glob("*.ds")) // 2
    for run in runs.values():
        run["tokens_per_cpu_second"] = round(run["tokens"] / run["cpu_seconds"])
    base = runs["tokenizers"]["tokens_per_cpu_second"]
    ratios = {name: round(run["tokens_per_cpu_second"] / base, 2) for name, run in runs.items()}
    # The paper's mixture at the rate of the text beyond a quarter of it, which is free of what starting costs.
    whole, part = runs["lang1"], runs["lang1, a quarter of the text"]
    rate = (whole["tokens"] - part["tokens"]) / (whole["cpu_seconds"] - part["cpu_seconds"])
    plan = {
        source: {"tokens": tokens, "core_hours": round(tokens / rate / 3600, 1), "disk_gb": round(2 * tokens / 1e9),
                 "disk_while_made_gb": round(4 * tokens / 1e9)}
        for source, tokens in {"clinical": 80e9, "web": 627e9}.items()
    }  # fmt: skip
    growth = runs["lang1"]["peak_mib"] - runs["lang1, a quarter of the text"]["peak_mib"]
    absent = [name for name in ("fast", "datatrove") if not getattr(options, name)]
    best = max(ratios["lang1"], ratios.get("lang1, fastokens", 0.0))
    met = equal and ratios["lang1"] >= AIM_PLAIN and growth < 64 and (best >= AIM_FAST if options.fast else True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    result = {
        "name": "corpus_tokenize", "ratio": ratios["lang1"],
        "aim": f"clean + tokenize, tokens per CPU-second, against tokenizers alone: {AIM_PLAIN} times without a fast "
               f"encoder, {AIM_FAST} times with one; memory that does not grow with the text",
        "met": met,
        "figures": {
            "runs": runs, "ratios_to_tokenizers": ratios, "ids_equal_to_the_library": equal,
            "paper_plan": {"tokens_per_cpu_second": round(rate), "vocabulary": options.vocab, **plan},
            "documents_compared": len(documents), "memory_growth_mib": round(growth, 1), "not_measured": absent,
            "encoder": "pieces" if isinstance(encoder, PieceEncoder) else "other", "megabytes": options.mb,
        },
        "machine": f"{platform.machine()}, {os.cpu_count()} cores", "versions": versions(), "commit": commit,
        "command": f"python benchmarks/corpus_tokenize.py --mb {options.mb} --vocab {options.vocab}"
                   + "".join(f" --{name} {name.upper()}/bin/python" for name in ("datatrove", "fast")
                             if getattr(options, name)),
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["figures"], indent=1))
    print(f"{'met' if met else 'NOT met'}: {options.out}")


if __name__ == "__main__":
    main()
