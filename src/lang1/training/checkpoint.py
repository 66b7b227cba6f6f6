"""Checkpoints inside a partial folder: written whole or not at all, resumed exactly, never pickled."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lang1.common.artefact import read_json, write_json
from lang1.common.errors import ArtefactError, SettingsError
from lang1.training.optim import Optimizers

FOLDER = "checkpoints"
STATE = "state.json"
KEEP = 2


@dataclass
class Checkpoint:
    """A checkpoint that was read: the step to go on with, tensors by kind, and the run's own state."""

    step: int
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    best: dict[str, Tensor]  # weights of the best validation so far; empty before the first
    extra: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run.

    Args:
        partial: the folder being written; checkpoints lie in ``checkpoints/`` inside.
        identity: what a resumed run must share with the one that was stopped (settings, inputs' fingerprints).
    """

    def __init__(self, partial: Path, identity: dict[str, Any]) -> None:
        self.folder = partial / FOLDER
        self.identity = json.loads(json.dumps(identity, default=str))

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizers: Optimizers | None,
        extra: dict[str, Any],
        best: dict[str, Tensor] | None = None,
    ) -> None:
        """Write the state after ``step`` steps, then drop all but the newest two."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / ".partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        tensors = {
            "model": _own(trained(model)),
            "optimizer": _own(optimizers.state_tensors()) if optimizers is not None else {},
            "best": _own(best or {}),
        }
        hashes = {}
        for name, values in tensors.items():
            file = partial / f"{name}.safetensors"
            save_file(values, file)
            hashes[name] = hashlib.sha256(file.read_bytes()).hexdigest()
        state = {"step": step, "identity": self.identity, "extra": extra, "sha256": hashes}
        write_json(partial / STATE, state)
        target = self.folder / f"step-{step:08d}"
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        for old in self._all()[:-KEEP]:
            shutil.rmtree(old)

    def latest(self) -> Checkpoint | None:
        """The newest whole checkpoint, or None; one that is damaged is passed over for the one before it.

        Raises:
            SettingsError: it belongs to a run with other settings or inputs.
            ArtefactError: there are checkpoints and all are damaged.
        """
        every = self._all()
        damage = ""
        for folder in reversed(every):
            try:
                return self._read(folder)
            except ArtefactError as error:
                damage = str(error)
        if every:
            raise ArtefactError(f"{damage} No older checkpoint is whole: remove {self.folder.parent} to start anew.")
        return None

    def drop(self) -> None:
        """Remove all checkpoints: the run is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _all(self) -> list[Path]:
        return sorted(self.folder.glob("step-*")) if self.folder.is_dir() else []

    def _read(self, folder: Path) -> Checkpoint:
        state = read_json(folder / STATE)
        if not isinstance(state, dict) or not {"step", "identity", "extra", "sha256"} <= state.keys():
            raise ArtefactError(f"{folder / STATE} is damaged.")
        if state["identity"] != self.identity:
            raise SettingsError(
                f"{self.folder.parent}: an unfinished run with other settings lies there "
                f"({_difference(state['identity'], self.identity)}). Run it again with its own settings to finish it, "
                "choose another folder, or remove that one to start anew."
            )
        tensors = {}
        for name, expected in state["sha256"].items():
            file = folder / f"{name}.safetensors"
            try:
                if hashlib.sha256(file.read_bytes()).hexdigest() != expected:
                    raise ArtefactError(f"{file} is damaged: its content changed since it was written.")
                tensors[name] = load_file(file)
            except (OSError, SafetensorError) as error:
                raise ArtefactError(f"{file} is damaged ({error}).") from error
        return Checkpoint(int(state["step"]), tensors["model"], tensors["optimizer"], tensors["best"], state["extra"])


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that training changes, by name: all, or a few beside frozen ones that the start model has."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


@torch.no_grad()
def restore(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy named weights into a model."""
    for name, weight in trained(model).items():
        weight.copy_(tensors[name])


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a model's trained weights by name."""
    return {name: weight.detach().clone() for name, weight in trained(model).items()}


def _own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().to("cpu").contiguous() for k, v in tensors.items()}


def _difference(before: Any, now: Any, where: str = "") -> str:
    """The first place where two settings differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key):
                return _difference(before.get(key), now.get(key), f"{where}.{key}" if where else str(key))
    return f"{where} was {before!r}, now {now!r}"
