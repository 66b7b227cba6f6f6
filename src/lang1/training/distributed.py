"""The processes of one run: who they are, what they agree on, and how the model is shared out among them.

The contract is torchrun's environment (``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``LOCAL_WORLD_SIZE``, ``MASTER_ADDR``,
``MASTER_PORT``); whatever sets it, torchrun, Slurm or Ray, can start a run. A process alone is the same code in which
nothing is sent. Decisions (stop, skip, roll back) are taken from sums over all processes and so are the same on each.

Tensors go over NCCL on CUDA and over gloo on CPUs; flags and counts always go over gloo, so that asking the others
never waits for a GPU.
"""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from lang1.common.artefact import Draft, new_folder, partial_path
from lang1.common.errors import ArtefactError, InputError, Lang1Error, SettingsError
from lang1.common.progress import console
from lang1.model.decoder import Decoder
from lang1.model.precision import pick_device, set_threads

T = TypeVar("T")
Shard = Literal["auto", "none", "grad", "full"]
# Weights up to which only gradients and optimizer state are shared out: at 2 billion the fp32 weights are 8 GB a card.
GATHERED_ONCE = 2_000_000_000
_ERRORS: tuple[type[Lang1Error], ...] = (ArtefactError, InputError, SettingsError)


@dataclass(eq=False)
class Processes:
    """This process among those of its run.

    Attributes:
        rank: its number, from 0; rank 0 writes logs and manifests.
        size: how many there are.
        local_size: how many of them share this machine.
        device: where its part of the model lies.
        threads: CPU threads of this process.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    threads: int = 1

    def __post_init__(self) -> None:
        self._sharded: list[nn.Module] = []
        self._each_pass = False

    @property
    def first(self) -> bool:
        """Whether this is the process that writes what is written once."""
        return self.rank == 0

    def computed(self, dtype: torch.dtype) -> dict[str, Any]:
        """What the run is computed on, for the identity of its checkpoints."""
        return {"device": self.device.type, "dtype": str(dtype), "threads": self.threads, "processes": self.size}

    def folder(self, shared: Path) -> Path:
        """Where to write what every process writes alike: the shared folder for the first, one that is thrown away
        for the others."""
        return shared if self.first else Path(tempfile.mkdtemp(prefix="lang1-"))

    def total(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all processes, in fp64."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def most(self, value: int) -> int:
        """The largest value that any process gave."""
        return int(self._reduced([value], dist.ReduceOp.MAX)[0])

    def any(self, flag: bool) -> bool:
        """Whether any process said yes."""
        return bool(self.most(int(flag)))

    def wait(self) -> None:
        """Go on when all are here."""
        if self.size > 1:
            self.most(0)

    def mine(self, items: int) -> slice:
        """Which of ``items`` are this process's: the rank-th of as many even stretches as there are processes."""
        share, more = divmod(items, self.size)
        start = self.rank * share + min(self.rank, more)
        return slice(start, start + share + (self.rank < more))

    def told(self, text: str, by: int = 0) -> str:
        """What process ``by`` says, on every process."""
        if self.size == 1:
            return text
        said = np.frombuffer(text.encode(), dtype=np.uint8)
        length = torch.tensor([len(said)])
        dist.broadcast(length, src=by)
        message = torch.zeros(int(length), dtype=torch.uint8)
        if self.rank == by:
            message = torch.from_numpy(said.copy())
        if len(message):
            dist.broadcast(message, src=by)
        return message.numpy().tobytes().decode()

    @contextmanager
    def together(self) -> Iterator[None]:
        """What fails in one process, in a way that the user can mend, fails in all, with the same line."""
        failed: Lang1Error | None = None
        try:
            yield
        except Lang1Error as error:
            failed = error
        if self.size > 1:
            kind = next((i for i, e in enumerate(_ERRORS) if isinstance(failed, e)), 0)
            who = self.most(self.size - self.rank if failed else 0)
            if who:
                by = self.size - who
                kind = int(self.told(str(kind), by))
                raise _ERRORS[kind](self.told(str(failed), by)) from failed
        elif failed:
            raise failed

    def passes(self, parts: Sequence[T], of: Callable[[T], T_Part], nothing: Callable[[], T_Part]) -> Iterator[T_Part]:
        """Run ``of`` on each part; processes with fewer parts than another then run ``nothing``.

        Every process goes through the model equally often, since weights are gathered and gradients are reduced on
        the way. Gradients are reduced with the last pass, or with each where they must not be held whole.
        """
        count = self.most(len(parts))
        for number in range(count):
            self._reduce_gradients(number == count - 1 or self._each_pass)
            yield of(parts[number]) if number < len(parts) else nothing()

    def gradient_scale(self) -> float:
        """What losses are multiplied by before they are differentiated: gradients are averaged over the processes,
        while the loss is a share of the sum over all of them."""
        return float(self.size) if self._sharded else 1.0

    def share_out(self, model: Decoder, how: Shard, replicas: int | None) -> None:
        """Share the model out (FSDP2); nothing is done where a process is alone.

        Weights in fp32 are gathered, whatever is computed in: a run has the same numerics under any number of
        processes, at twice the traffic of gathering in bf16.

        Args:
            model: its layers and what is left over become the units that are gathered; on any device, also meta.
            how: ``none`` keeps a copy in each process; ``grad`` shares gradients and optimizer state, weights are
                gathered once a step; ``full`` gathers weights layer by layer, forwards and backwards; ``auto`` takes
                ``grad`` up to 2 billion weights.
            replicas: groups that each hold the whole model between them, so that weights are gathered inside a group
                alone (HSDP); None makes one a machine where there are several.

        Raises:
            SettingsError: ``replicas`` does not divide the number of processes.
        """
        if self.size == 1:
            return
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        if how == "auto":
            how = "grad" if sum(p.numel() for p in model.parameters()) <= GATHERED_ONCE else "full"
        copies = self.size if how == "none" else replicas or self.size // self.local_size
        if self.size % copies:
            raise SettingsError(f"replicas: {copies} groups cannot be made of {self.size} processes.")
        shape, names = ((self.size,), ("shard",)) if copies == 1 else ((copies, self.size // copies), ("copy", "shard"))
        mesh = init_device_mesh(self.device.type, shape, mesh_dim_names=names)
        # Hidden states come out as a view of padded rows; nothing changes them in place, which the warning is about.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        for layer in model.layers:
            fully_shard(layer, mesh=mesh, reshard_after_forward=how == "full")
        # The output embedding is read by the loss, outside the model: with the root unit it stays gathered until the
        # backward pass has used it.
        fully_shard(model, mesh=mesh, reshard_after_forward=False)
        self._sharded = [model, *model.layers]
        self._each_pass = how == "full"
        if model.device.type != "meta":
            self.prepare()

    def prepare(self) -> None:
        """Make the buffers into which weights are gathered, once weights have a device. Made by a first pass under
        ``inference_mode`` (an evaluation before training) they could not be used to train."""
        for unit in self._sharded:
            unit.unshard()  # type: ignore[operator]
        self.settle()

    def _reduce_gradients(self, yes: bool) -> None:
        if self._sharded:
            whole: Any = self._sharded[0]  # and with it its layers
            whole.set_requires_gradient_sync(yes)
            # Weights do not change between the passes of a step: where they fit, they stay gathered.
            whole.set_reshard_after_backward(yes)

    def settle(self) -> None:
        """Let go of gathered weights: after it, parameters are this process's own parts. Call it after forward passes
        without a backward one, before weights are read or changed."""
        for unit in self._sharded:
            unit.reshard()  # type: ignore[operator]

    def _reduced(self, values: Sequence[float], how: Any) -> list[float]:
        if self.size == 1:
            return [float(v) for v in values]
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, op=how)
        return [float(v) for v in tensor]


T_Part = TypeVar("T_Part")


@contextmanager
def processes(device: str, threads: int | None) -> Iterator[Processes]:
    """This process's place in its run, read from torchrun's environment; alone where there is none.

    Args:
        device: as in the settings; with CUDA each process takes the card of its number on its machine.
        threads: CPU threads of each process; None divides those of the machine among its processes.

    Raises:
        SettingsError: CUDA was asked for and is not there, or the environment names only part of what it must.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        picked = pick_device(device)
        yield Processes(device=picked, threads=set_threads(threads))
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise SettingsError(f"WORLD_SIZE is {size}, but {', '.join(missing)} is not set: start the run with torchrun.")
    rank = int(os.environ["RANK"])
    local, local_size = int(os.environ.get("LOCAL_RANK", rank)), int(os.environ.get("LOCAL_WORLD_SIZE", size))
    if not (0 <= rank < size and 0 <= local < local_size and size % local_size == 0):
        raise SettingsError(
            f"RANK {rank}, WORLD_SIZE {size}, LOCAL_RANK {local}, LOCAL_WORLD_SIZE {local_size} do not fit each other: "
            "start as many processes on each machine."
        )
    picked = pick_device(device)
    if picked.type == "cuda":
        if str(picked) == "cuda":  # no card is named
            if local >= torch.cuda.device_count():
                raise SettingsError(f"{local_size} processes on a machine with {torch.cuda.device_count()} GPUs.")
            picked = torch.device("cuda", local)
        torch.cuda.set_device(picked)
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    used = set_threads(threads or max(1, available // local_size))
    started = dist.is_initialized()  # by who calls, for several runs one after the other
    if not started:
        dist.init_process_group("cpu:gloo,cuda:nccl" if picked.type == "cuda" else "gloo", rank=rank, world_size=size)
    quiet, console.quiet = console.quiet, rank > 0
    try:
        yield Processes(rank, size, local, local_size, picked, used)
    finally:
        console.quiet = quiet
        if not started:
            dist.destroy_process_group()


@contextmanager
def shared_folder(team: Processes, out: Path, kind: str, **about: Any) -> Iterator[Draft]:
    """:func:`~lang1.common.artefact.new_folder` for all processes: the first one makes and completes it.

    The others see the same partial folder, which must lie on storage that all machines share; what they put into their
    draft is not used. They go on when the folder is complete.

    Raises:
        ArtefactError: as ``new_folder``, or a process does not see the folder.
    """
    if team.size == 1:
        with new_folder(out, kind, **about) as draft:
            yield draft
        return
    made = new_folder(out, kind, **about)
    draft = Draft(partial_path(Path(out)))
    with team.together():
        if team.first:
            draft = made.__enter__()
    with team.together():
        if not _appears(draft.path):
            raise ArtefactError(f"{draft.path} is not seen by process {team.rank}: choose a folder that all can reach.")
    try:
        yield draft
    except BaseException as error:
        if team.first:
            made.__exit__(type(error), error, error.__traceback__)
        raise
    team.wait()  # whatever the others write is there before it is fingerprinted
    with team.together():
        if team.first:
            made.__exit__(None, None, None)


def _appears(path: Path) -> bool:
    for _ in range(50):  # network file systems show a new folder to others within seconds
        if path.is_dir():
            return True
        time.sleep(0.2)
    return False


def whole(weight: Tensor) -> Tensor:
    """A tensor put together from its parts, on every process; itself where it is not shared out."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def rows_of(weight: Tensor) -> tuple[Tensor, int, bool]:
    """The rows that this process holds of a tensor, the number of the first of them, and whether it is to store them
    (of several copies, the first is stored)."""
    if not isinstance(weight, DTensor):
        return weight, 0, not dist.is_initialized() or dist.get_rank() == 0
    mesh: DeviceMesh = weight.device_mesh
    place = mesh.get_coordinate()
    assert place is not None
    local = weight.to_local()
    parts = mesh.size(mesh.ndim - 1)
    each = -(-weight.shape[0] // parts)  # as torch.chunk cuts
    return local, min(place[-1] * each, weight.shape[0]), mesh.ndim == 1 or place[0] == 0


@torch.no_grad()
def gather(model: nn.Module, team: Processes) -> None:
    """Put the whole model together in the first process's memory, to be saved; no process can train it afterwards."""
    if team.size == 1:
        return
    team.settle()
    known: dict[int, nn.Parameter] = {}
    for module in list(model.modules()):
        parameters: dict[str, Any] = module._parameters
        for name, weight in list(parameters.items()):
            if not isinstance(weight, DTensor):
                continue
            if id(weight) not in known:
                full = weight.full_tensor()
                kept = full.cpu() if team.first else torch.empty(0)
                known[id(weight)] = nn.Parameter(kept, requires_grad=False)
            parameters[name] = known[id(weight)]
