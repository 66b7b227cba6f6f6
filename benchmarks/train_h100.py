"""Pretraining on one GPU: tokens a second, MFU and peak memory of ours and of a plain compiled Transformers loop.

    python benchmarks/train_h100.py                      # 100M, 1B, and 7B on as many layers as fit
    python benchmarks/train_h100.py --sizes bench-tiny --steps 3 --device cpu     # does it run at all

Each size is trained on rows of random tokens, as whole rows (one document a row: the case for which others publish
figures) and as notes (log-normal lengths around 440 tokens, packed and kept apart). Every contestant does whole steps:
forward and backward in several passes, clipping, fused AdamW, weights and optimizer in fp32, products in bf16. Four
passes a step are the paper's batches (1,024 rows at 1B, 4,096 at 100M) on 16 to 32 GPUs. The peer is the Llama of
``transformers`` under autocast with ``sdpa`` attention, compiled, and no document mask. MFU is that of
``lang1.training.throughput`` for both. The time of kernels by kind, from one
profiled step of ours, is kept with the result. Writes ``benchmarks/results/train_h100.json``.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lang1.common.artefact import versions
from lang1.model.attention import build_layout, resolve
from lang1.model.config import PRESETS, ModelSettings
from lang1.model.llama import Llama
from lang1.training.compile import compile_layers
from lang1.training.loop import device_name
from lang1.training.loss import linear_cross_entropy
from lang1.training.optim import Optimizers
from lang1.training.packing import PackedStream, flatten
from lang1.training.settings import OptimizerSettings
from lang1.training.throughput import peak_flops, step_flops

HERE = Path(__file__).parent
AIMS = {"lang1-1b": 0.50, "lang1-100m": 0.40}
SETTLE = 2
NOTE = 440  # median tokens of a note, as the paper's 59.9 billion words in 180 million notes suggest
# Rows of one pass by size, on 80 GB; vocabulary 32,000 as the paper's.
ROWS = {"lang1-100m": 64, "lang1-1b": 8, "lang1-7b": 4, "bench-tiny": 2}
LAYERS = {"lang1-7b": 8}  # fp32 weights, gradients and two moments: 16 bytes a weight
TINY = ModelSettings(name="bench-tiny", hidden_size=64, layers=2, heads=2, kv_heads=2, head_dim=32,
                     intermediate_size=128, context=128)  # fmt: skip


def shape_of(size: str) -> ModelSettings:
    """The size with a vocabulary, and with fewer layers where not all fit."""
    base = TINY if size == "bench-tiny" else PRESETS[size]
    return base.model_copy(update={"vocab_size": 32_000, "layers": LAYERS.get(size, base.layers)})


def batch(shape: ModelSettings, rows: int, notes: bool) -> tuple[np.ndarray, PackedStream]:
    """Random tokens in rows, and as the stream of their documents."""
    random = np.random.default_rng(0)
    tokens = random.integers(0, shape.vocab_size, (rows, shape.context))
    numbers = np.zeros(tokens.shape, np.int32)
    if notes:
        for row in numbers:
            ends = np.cumsum(np.maximum(2, random.lognormal(np.log(NOTE), 0.8, shape.context)).astype(int))
            row[:] = np.searchsorted(ends, np.arange(shape.context), side="right")
    stream = flatten(tokens, numbers)
    assert stream is not None
    return tokens, stream


def timed(step: Callable[[], None], steps: int, device: torch.device) -> tuple[float, float]:
    """Median seconds of a step after the first, and peak GiB."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(steps + SETTLE):
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else float("nan")
    return statistics.median(seconds[SETTLE:]), peak


def ours(shape: ModelSettings, stream: PackedStream, passes: int, device: torch.device) -> Callable[[], None]:
    """One step of ours: a stream in each of its passes."""
    with torch.device(device):
        model = Llama(shape, torch.bfloat16)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, 0.0 if weight.dim() > 1 else 1.0, shape.init_std)
    compile_layers(model)
    torch._dynamo.config.suppress_errors = False  # a layer that does not compile is to be seen
    optimizers = Optimizers(model, OptimizerSettings(lr=4e-4))
    layout = build_layout(stream.lengths, device=device)
    tokens, read, target = (torch.from_numpy(x).to(device) for x in (stream.tokens, stream.read, stream.target))
    scale = torch.full((len(target),), 1 / len(target) / passes, device=device)

    def step() -> None:
        for _ in range(passes):
            loss = linear_cross_entropy(model(tokens, layout, read), model.head_weight, target, scale)
            loss.backward()  # type: ignore[no-untyped-call]
        optimizers.clip()
        optimizers.step()
        optimizers.zero_grad()

    return step


def plain(shape: ModelSettings, tokens: np.ndarray, passes: int, device: torch.device) -> Callable[[], None]:
    """One step of the compiled Transformers loop on the same rows."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**{k: v for k, v in shape.to_hf(bos=1, eos=2).items() if k not in ("dtype", "torch_dtype")})
    config._attn_implementation = "sdpa"
    with torch.device(device):
        model = LlamaForCausalLM(config).float()
    model.config.use_cache = False
    compiled = torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-4, weight_decay=0.1, fused=True)
    ids = torch.from_numpy(tokens).to(device)

    def step() -> None:
        for _ in range(passes):
            with torch.autocast(device.type, dtype=torch.bfloat16):
                loss = compiled(input_ids=ids, labels=ids).loss / passes
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


KINDS = {  # parts of kernel names, the first that fits
    "attention": ("flash", "fmha", "sdpa"),
    "matrix products": ("gemm", "cutlass", "nvjet", "xmma", "cublas", "mm_"),
    "optimizer and clipping": ("adam", "foreach", "multi_tensor", "norm_kernel"),
    "fused pointwise": ("triton",),
    "copies and casts": ("memcpy", "memset", "copy", "cat"),
}


def where_time_goes(step: Callable[[], None]) -> dict[str, float]:
    """Share of kernel time by kind over one step, and how much of the step no kernel ran."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as trace:
        started = time.perf_counter()
        step()
        torch.cuda.synchronize()
        wall = time.perf_counter() - started
    found: dict[str, float] = {}
    for event in trace.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            name = event.name.lower()
            kind = next((k for k, parts in KINDS.items() if any(p in name for p in parts)), "other kernels")
            found[kind] = found.get(kind, 0.0) + event.time_range.elapsed_us() / 1e6
    busy = sum(found.values())
    return {**{k: round(v / wall, 3) for k, v in sorted(found.items())}, "no kernel": round(max(0, 1 - busy / wall), 3)}


def free() -> None:
    """Give the memory of what went before back."""
    gc.collect()
    torch.cuda.empty_cache()
    torch._dynamo.reset()


def of_peer(
    shape: ModelSettings, tokens: np.ndarray, options: argparse.Namespace, device: torch.device, peak: float | None
) -> dict[str, Any]:
    """The peer's figures, or why there are none."""
    try:
        seconds, memory = timed(plain(shape, tokens, options.passes, device), options.steps, device)
    except torch.OutOfMemoryError:
        return {"failed": "out of memory"}
    seconds /= options.passes
    found = {"tokens_a_second": round(tokens.size / seconds), "peak_gib": round(memory, 2)}
    whole = flatten(tokens, np.zeros(tokens.shape, np.int32))
    assert whole is not None
    return {**found, "mfu": round(step_flops(shape, whole.tally()) / seconds / peak, 4)} if peak else found


def one(size: str, notes: bool, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Ours and the peer on one size and one kind of rows."""
    shape, rows = shape_of(size), options.rows or ROWS.get(size, 8)
    tokens, stream = batch(shape, rows, notes)
    peak = peak_flops(device_name(device), torch.bfloat16)
    found: dict[str, Any] = {
        "size": size,
        "documents": "notes" if notes else "whole rows",
        "parameters": shape.parameters,
        "layers": shape.layers,
        "rows_a_pass": rows,
        "passes_a_step": options.passes,
        "context": shape.context,
        "attention": resolve("auto", build_layout(stream.lengths, device=device), torch.bfloat16, shape.head_dim),
    }
    step = ours(shape, stream, options.passes, device)
    seconds, memory = timed(step, options.steps, device)
    seconds /= options.passes
    found["ours"] = {"tokens_a_second": round(tokens.size / seconds), "peak_gib": round(memory, 2)}
    if peak:
        found["ours"]["mfu"] = round(step_flops(shape, stream.tally()) / seconds / peak, 4)
        found["where_time_goes"] = where_time_goes(step)
    del step
    free()
    if not notes and size not in options.no_peer:
        found["transformers"] = of_peer(shape, tokens, options, device, peak)
        free()
    print(json.dumps(found), file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["lang1-100m", "lang1-1b", "lang1-7b"])
    parser.add_argument("--rows", type=int, help="rows of a pass, instead of those chosen for 80 GB")
    parser.add_argument("--no-peer", nargs="*", default=[], help="sizes that only ours trains")
    parser.add_argument("--passes", type=int, default=4, help="passes of a step")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "train_h100.json")
    options = parser.parse_args()
    device = torch.device(options.device)
    runs: list[dict[str, Any]] = []
    for size, notes in [(size, notes) for notes in (False, True) for size in options.sizes]:
        runs.append(one(size, notes, options, device))
        write(options.out, runs, device)


def write(out: Path, runs: list[dict[str, Any]], device: torch.device) -> None:
    """What is known so far."""
    both = [(r["ours"]["tokens_a_second"], r.get("transformers", {}).get("tokens_a_second")) for r in runs]
    ratios = [a / b for a, b in both if b]
    mfus = {r["size"]: r["ours"].get("mfu") for r in runs if r["documents"] == "whole rows"}
    result = {
        "name": "train_h100",
        "ratio": round(min(ratios), 2) if ratios else None,
        "aim": "MFU of at least 50 % at 1B and 40 % at 100M, whole rows",
        "met": all((mfus.get(size) or 0) >= aim for size, aim in AIMS.items()),
        "figures": {**{f"mfu_{k}": v for k, v in mfus.items()}, "runs": runs},
        "machine": f"{device_name(device)}, {platform.machine()}, {os.cpu_count()} cores",
        "versions": versions(),
        "commit": subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip(),
        "command": "python benchmarks/train_h100.py",
    }
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
