"""Optimizers: AdamW, optionally Muon for the matrices inside the layers; state as named tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lang1.common.errors import ArtefactError
from lang1.model.decoder import Decoder
from lang1.training.schedule import factor_at
from lang1.training.settings import OptimizerSettings

__all__ = ["Muon", "Optimizers", "factor_at", "orthogonal"]


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal by Newton-Schulz iterations (Jordan et al. 2024).

    Like ``torch.optim.Muon`` (scaled by sqrt(max(1, rows / columns))), but matrices of one shape go through the
    iterations together, which on a CPU saves most of their overhead.
    """

    def __init__(self, params: list[nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[nn.Parameter]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape.setdefault(tuple(weight.shape), []).append(weight)
            for shape, weights in by_shape.items():
                updates = []
                for weight in weights:
                    assert weight.grad is not None
                    state = self.state[weight]
                    if "momentum" not in state:
                        state["momentum"] = torch.zeros_like(weight)
                    state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                    updates.append(weight.grad.lerp(state["momentum"], group["momentum"]))
                scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for weight, update in zip(weights, _orthogonal_of_all(updates), strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    _local(weight).add_(update.to(weight.dtype), alpha=-scale)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _orthogonal_of_all(updates: list[Any]) -> Sequence[Tensor]:
    """:func:`orthogonal` of matrices of one shape; of those that are shared out by rows, this process's rows.

    An orthogonal matrix cannot be found from some of its rows. So each process puts whole matrices together, another
    one each, works on these and sends the rows back: all do an equal part and none is computed twice.
    """
    first = updates[0]
    if not isinstance(first, DTensor):
        return orthogonal(torch.stack(updates)).unbind()
    mesh = first.device_mesh
    axis = mesh.ndim - 1  # of several copies, each has its own group
    group, size, rank = mesh.get_group(axis), mesh.size(axis), mesh.get_local_rank(axis)
    rows, columns = first.shape
    held = [max(0, min(rows - i * -(-rows // size), -(-rows // size))) for i in range(size)]  # as torch.chunk cuts
    done: list[Any] = []
    for begin in range(0, len(updates), size):
        some = [update.to_local() for update in updates[begin : begin + size]]
        sent = torch.cat([part.reshape(-1) for part in some])
        out = [held[rank] * columns if i < len(some) else 0 for i in range(size)]
        into = [n * columns if rank < len(some) else 0 for n in held]
        whole = sent.new_empty(sum(into))
        dist.all_to_all_single(whole, sent, into, out, group=group)
        if rank < len(some):
            whole = orthogonal(whole.view(1, rows, columns))[0].to(sent.dtype).reshape(-1)
        back = sent.new_empty(sum(out))
        dist.all_to_all_single(back, whole.contiguous(), out, into, group=group)
        done += (
            [part.view(held[rank], columns) for part in torch.split(back, held[rank] * columns)] if held[rank] else some
        )
    return done


def orthogonal(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Matrices (B, m, n) with their singular values brought near 1, in bf16 (quintic Newton-Schulz)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.to(torch.bfloat16)
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.transpose(1, 2)
    x = (x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-7).to(x.dtype)).contiguous()
    for _ in range(iterations):
        square = torch.bmm(x, x.transpose(1, 2))
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.transpose(1, 2) if tall else x


class Optimizers:
    """The optimizers of a model under one learning-rate factor, with their state as named tensors."""

    def __init__(self, model: Decoder, settings: OptimizerSettings) -> None:
        self.settings = settings
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        inside = {id(p) for layer in model.layers for p in layer.parameters()}
        inner = [(n, p) for n, p in named if p.dim() == 2 and id(p) in inside]
        outer = [(n, p) for n, p in named if not (p.dim() == 2 and id(p) in inside)]
        self.parameters = [p for _, p in named]
        self._names = {id(p): n for n, p in named}
        self._all: list[torch.optim.Optimizer] = []
        adam: list[dict[str, Any]] = [{"params": [p for _, p in outer], "weight_decay": 0.0}]
        if settings.kind == "muon":
            self._all.append(Muon([p for _, p in inner], settings.muon_lr, settings.weight_decay))
        else:
            adam.append({"params": [p for _, p in inner], "weight_decay": settings.weight_decay})
        self._all.append(torch.optim.AdamW(adam, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=True))

    def set_factor(self, factor: float) -> None:
        """Set every learning rate to ``factor`` times its peak."""
        for optimizer in self._all:
            peak = self.settings.muon_lr if isinstance(optimizer, Muon) else self.settings.lr
            for group in optimizer.param_groups:
                group["lr"] = peak * factor

    def clip(self) -> Tensor:
        """The norm of all gradients before clipping to ``settings.clip`` (0-d, fp32)."""
        bound = math.inf if self.settings.clip is None else self.settings.clip
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, bound)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def step(self) -> None:
        for optimizer in self._all:
            optimizer.step()

    def zero_grad(self) -> None:
        for weight in self.parameters:
            weight.grad = None

    def state_tensors(self) -> dict[str, Tensor]:
        """All state as ``<entry>/<parameter>`` tensors."""
        return {
            f"{key}/{self._names[id(weight)]}": torch.as_tensor(value).detach()
            for optimizer in self._all
            for weight, state in optimizer.state.items()
            for key, value in state.items()
        }

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take state from :meth:`state_tensors`.

        Raises:
            ArtefactError: it names a parameter that this model does not have.
        """
        by_name = {self._names[id(p)]: p for p in self.parameters}
        place = {id(p): o for o in self._all for g in o.param_groups for p in g["params"]}
        for name, value in tensors.items():
            key, _, parameter = name.partition("/")
            if parameter not in by_name:
                raise ArtefactError(f"checkpoint: optimizer state of unknown weight '{parameter}'; start a new run.")
            weight = by_name[parameter]
            place[id(weight)].state[weight][key] = (
                value if isinstance(value, DTensor) else value.clone().to(weight.device)
            )
