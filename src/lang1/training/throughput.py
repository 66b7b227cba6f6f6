"""How fast a run is: useful tokens a second, and which share of the device's peak they use (MFU).

The arithmetic that a step needs, and no more, is counted (``Tally``, ``step_flops``)::

    FLOP = 6 · (weights of the layers' matrices) · N              the body: each of the N tokens that pass the layers
         + 6 · (weights of the output embedding) · R              the head: the R tokens whose output is used
         + 12 · layers · (heads · head_dim) · P                   attention: P pairs of a token and one that it may see

With every token's output used and documents of T tokens (P = N · T) this is the customary
6·N_matmul + 12·L·d·T a token. Counted as there: 2 for multiply and add, 3 for the forward pass and the two products of
the backward pass; input embeddings are a lookup and count nothing; recomputation of activations counts nothing;
attention is counted without the causal discount, as PaLM (arXiv 2204.02311, appendix B), nanoGPT and torchtitan do, so
that figures can be compared. Weights that are not trained have no gradient of their own: 4 instead of 6; the
arithmetic of adapters beside them is not counted.

Two things are stricter than the custom. T is the length of the document that a token stands in and not of the row,
since nothing outside is computed: with packed short documents the customary formula would flatter. And of the last
layer only keys and values are counted for tokens whose output is not used (the model computes no more there, see
``Llama.forward``).

MFU is FLOP a second over the dense bf16 peak of the devices (``PEAKS``). It is not given for devices that are not in
the table, for CPUs, and for runs in fp32.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields

import torch

from lang1.model.config import ModelSettings

# Dense bf16 FLOP a second by a part of the name that CUDA gives the device; the first that fits counts. From NVIDIA's
# and AMD's data sheets, whose figures "with sparsity" are halved.
PEAKS: tuple[tuple[str, float], ...] = (
    ("GB200", 2500e12),
    ("B200", 2250e12),
    ("GH200", 989e12),
    ("H200 NVL", 835e12),
    ("H200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989e12),  # "NVIDIA H100 80GB HBM3" is the SXM board
    ("A100", 312e12),
    ("A40", 149.7e12),
    ("A30", 165e12),
    ("A10G", 70e12),
    ("A10", 125e12),
    ("L40S", 362e12),
    ("L40", 181e12),
    ("L4", 121e12),
    ("RTX 6000 Ada", 364.2e12),
    ("RTX A6000", 154.8e12),
    ("MI300X", 1307.4e12),
)


def peak_flops(device_name: str, dtype: torch.dtype) -> float | None:
    """The dense bf16 peak of a device by its name, FLOP/s; None where it is not known or the run is not in bf16."""
    if dtype != torch.bfloat16:
        return None
    return next((peak for part, peak in PEAKS if _names(part, device_name)), None)


def _names(part: str, device_name: str) -> bool:
    """Whether the words of ``part`` stand in the name as words: L4 is not L40S."""
    words = device_name.replace("-", " ").split()
    return all(word in words for word in part.split())


@dataclass
class Tally:
    """What passed through the model, added up: a work adds to it in ``losses``, the loop reads it.

    Attributes:
        tokens: that passed through the layers (N).
        useful: that were learnt from or needed for it; the rest fills up rows. In pretraining the predicted tokens, in
            finetuning those of notes and questions, each note once however many questions share it.
        read: whose output was used (R).
        pairs: of a token and one that it may see, itself included, both directions of a document counted (P).
        read_pairs: those of the tokens whose output was used.
    """

    tokens: int = 0
    useful: int = 0
    read: int = 0
    pairs: int = 0
    read_pairs: int = 0

    def since(self, before: Tally) -> Tally:
        """What came after ``before``, a copy taken earlier."""
        return Tally(*(now - then for now, then in zip(astuple(self), astuple(before), strict=True)))

    def add(self, other: Tally) -> None:
        """Add another tally to this one, in place."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def copy(self) -> Tally:
        return Tally(*astuple(self))


def step_flops(shape: ModelSettings, seen: Tally, trained: float = 1.0) -> float:
    """Floating-point operations of training on ``seen``, forward and backward; the module's head says what counts.

    Args:
        shape: of the model.
        seen: what passed through it.
        trained: the share of its weights that are trained; of the others no gradient is computed.
    """
    width, attention = shape.hidden_size, shape.heads * shape.head_dim
    keys_values = 2 * width * shape.kv_heads * shape.head_dim
    layer = keys_values + 2 * width * attention + 3 * width * shape.intermediate_size
    body = (shape.layers - 1) * layer * seen.tokens + keys_values * seen.tokens + (layer - keys_values) * seen.read
    head = width * shape.vocab_size * seen.read
    pairs = (shape.layers - 1) * seen.pairs + seen.read_pairs
    return (4.0 + 2.0 * trained) * (body + head) + 12.0 * attention * pairs


class Throughput:
    """The rate of training steps since it was last asked for, timed by this process's own monotonic clock.

    Only the steps are timed: validation, evaluations and checkpoints are not (a run's ``seconds`` hold them), nor is
    anything from before a restart.

    Args:
        shape: of the model; None where its arithmetic is not known.
        peak: FLOP a second of all devices together; None where that is not known.
        trained: the share of the model's weights that are trained.
        clock: seconds.
    """

    def __init__(
        self,
        shape: ModelSettings | None,
        peak: float | None,
        trained: float = 1.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.shape, self.peak, self.trained, self.clock = shape, peak, trained, clock
        self._seconds = 0.0
        self._padded = 0
        self._seen = Tally()
        self._began = 0.0

    def begin(self) -> None:
        """A step begins."""
        self._began = self.clock()

    def end(self, seen: Tally, padded: int) -> None:
        """It is over: what it passed through the model (of all processes), and tokens with what fills up the rows."""
        self._seconds += self.clock() - self._began
        self._padded += padded
        self._seen.add(seen)

    def take(self) -> dict[str, float]:
        """``tokens_per_second`` (useful ones), ``padded_per_second`` and, where it is known, ``mfu``; starts anew."""
        seconds, padded, seen = self._seconds, self._padded, self._seen
        self._seconds, self._padded, self._seen = 0.0, 0, Tally()
        if seconds <= 0:
            return {}
        found = {
            "tokens_per_second": round(seen.useful / seconds, 1),
            "padded_per_second": round(padded / seconds, 1),
        }
        if self.shape is not None and self.peak is not None:
            found["mfu"] = round(step_flops(self.shape, seen, self.trained) / seconds / self.peak, 4)
        return found


def peak_memory_gib(device: torch.device) -> float | None:
    """The most memory that this process held: of its CUDA device, else resident (Linux; None where not known)."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**30, 3)
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, kilobytes elsewhere
    return round(most / (2**30 if sys.platform == "darwin" else 2**20), 3)
