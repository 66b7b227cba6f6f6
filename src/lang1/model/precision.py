"""Which device and which number format to compute in: bf16 where the hardware multiplies it fast, fp32 elsewhere."""

from __future__ import annotations

import os
from typing import Literal

import torch

from lang1.common.errors import SettingsError

DeviceName = Literal["auto", "cpu", "cuda"]
PrecisionName = Literal["auto", "fp32", "bf16"]


def pick_device(name: str = "auto") -> torch.device:
    """The device to run on: CUDA where present, unless told otherwise.

    Raises:
        SettingsError: CUDA was asked for and is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise SettingsError("device: cuda was asked for, but this machine has none; use device=auto or device=cpu.")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise SettingsError(f"device: '{name}' is not a device; use auto, cpu or cuda.") from error


def fast_bf16(device: torch.device) -> bool:
    """Whether the device has matrix instructions for bf16 (a capability check, no timing: runs must repeat).

    On a CPU without AVX512-BF16 or AMX, bf16 products are emulated and slower than fp32; with AVX512-BF16 alone
    they measured four times as fast as fp32 at the sizes of lang1-nano.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def pick_dtype(device: torch.device, precision: str = "auto") -> torch.dtype:
    """The dtype of activations and matrix products; weights and their updates stay in fp32."""
    if precision == "auto":
        return torch.bfloat16 if fast_bf16(device) else torch.float32
    if precision not in ("fp32", "bf16"):
        raise SettingsError(f"precision: '{precision}' is unknown; use auto, fp32 or bf16.")
    return torch.bfloat16 if precision == "bf16" else torch.float32


def set_threads(threads: int | None) -> int:
    """Use ``threads`` CPU threads, else ``OMP_NUM_THREADS``, else as many as this process may run on; returns them.

    Sums are split by thread, so bit-identical reruns need the same number. Call it before other work in torch: numbers
    below 1e-38 count as zero from then on, and threads that torch starts later take that over. Gradients of a loss on
    a few answer tokens hold many of them, and a CPU handles them in microcode: the same finetuning step ran at 760
    tokens/s without this and at 20,000 with it.
    """
    torch.set_flush_denormal(True)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    count = threads or (int(asked) if asked.isdecimal() else 0) or available
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)
    return count
