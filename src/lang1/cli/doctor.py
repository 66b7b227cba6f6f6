"""``lang1 doctor``: what this machine and this installation can do."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator

from lang1.common.artefact import versions

EXTRAS = {
    "generalist": ("transformers", "score any Hugging Face causal LM folder beside your own model (--generalist)"),
    "tensorboard": ("tensorboard", "watch a training in TensorBoard (watch.tensorboard=FOLDER)"),
    "mlflow": ("mlflow", "log a training to an MLflow store of your own (watch.mlflow=ADDRESS)"),
    "wandb": ("wandb", "log a training for W&B, on this machine unless told otherwise (watch.wandb=offline)"),
    "ray": ("ray", "run corpora and trainings on a Ray cluster (--launch ray)"),
}
TOOLS = {"g++": "torch.compile on a CPU (optional; training runs without it)"}


def examine() -> Iterator[str]:
    """Yield the lines that ``lang1 doctor`` prints."""
    import torch

    yield f"lang1 on {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    for name, version in versions().items():
        if name not in ("python",):
            yield f"  {name:<14} {version}"
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield f"CPU: {cpus} usable cores, {torch.get_num_threads()} torch threads, {_memory()}"
    yield f"  bfloat16 matrix units: {_bf16()}"
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            yield f"GPU {index}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    else:
        yield "GPU: none; training and scoring run on the CPU"
    for extra, (module, use) in EXTRAS.items():
        present = importlib.util.find_spec(module) is not None
        state = f"present{_version(module)}" if present else f"absent: pip install 'lang1[{extra}]'"
        yield f"extra {extra}: {state} – {use}"
    for tool, use in TOOLS.items():
        yield f"tool {tool}: {'present' if shutil.which(tool) else 'absent'} – {use}"


def _version(module: str) -> str:
    """In brackets; some packages come under another name than their module's."""
    for name in importlib.metadata.packages_distributions().get(module, []):
        return f" ({importlib.metadata.version(name)})"
    return ""


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB memory"
    except (ValueError, OSError, AttributeError):
        return "memory unknown"


def _bf16() -> str:
    import torch

    from lang1.model.precision import fast_bf16

    return "yes, used for training and scoring" if fast_bf16(torch.device("cpu")) else "no, float32 is used"
