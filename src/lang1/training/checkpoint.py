"""Checkpoints inside a partial folder: written beside training, whole or not at all, never pickled.

A checkpoint is ``checkpoints/step-N/``: one safetensors file a process (:mod:`lang1.training.shards`) and
``state.json``, written last: the step, what the run must share with one that resumes it, the run's own state, the
version of the code, and the SHA-256 of every file. Any number of processes reads it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import lang1
from lang1.common.artefact import file_sha256, read_json, write_json
from lang1.common.errors import ArtefactError, Lang1Error, SettingsError
from lang1.common.progress import say
from lang1.training.distributed import Processes
from lang1.training.optim import Optimizers
from lang1.training.shards import Held, Reader, copies, join, write_tensors

FOLDER = "checkpoints"
STATE = "state.json"
KEEP = 2
# Seconds after which a process that has not written its part is given up.
PATIENCE = 900.0
# Settings that decide where, how fast and how watchfully a run runs, not what it learns: they may change on resume.
FREE = frozenset(
    {"device", "threads", "compile", "tokens_per_pass", "shard", "replicas", "gc_every", "log_every", "order_log"}
    | {"checkpoint_every", "milestone_every", "keep_checkpoints", "keep_last", "max_rollbacks"}
)
# Of what was computed on, a change of these costs exactness to the bit and nothing more.
ROUNDING = ("device", "threads", "processes")


@dataclass
class Checkpoint:
    """A checkpoint that was found whole: the step to go on with, its tensors to be read, and the run's own state."""

    step: int
    tensors: Reader
    extra: dict[str, Any]

    def load(self, model: nn.Module, optimizers: Optimizers | None) -> dict[str, Tensor]:
        """Put weights and optimizer state back; returns the best weights so far (empty before the first)."""
        weights = trained(model)
        unknown = sorted(set(self.tensors.names("model")) ^ weights.keys())
        if unknown:
            raise ArtefactError(f"{self.tensors.folder}: not of this model (weight '{unknown[0]}'); start a new run.")
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(self.tensors.like(f"model/{name}", weight))
        if optimizers is not None:
            state = {}
            for name in self.tensors.names("optimizer"):
                weight_name = name.partition("/")[2]
                full = f"optimizer/{name}"
                same = self.tensors.index[full]["shape"] == list(getattr(weights.get(weight_name), "shape", ()))
                pattern = weights[weight_name] if same and weights[weight_name].dim() else None
                state[name] = self.tensors.rows(full) if pattern is None else self.tensors.like(full, pattern)
            optimizers.load_state_tensors(state)
        return {name: self.tensors.like(f"best/{name}", weights[name]) for name in self.tensors.names("best")}


class Checkpoints:
    """The checkpoints of one run.

    :meth:`save` copies the state to the CPU's memory and returns; a thread writes it. Every process writes its own
    part, and the first one makes the folder whole when all parts are there: they meet in the file system, so that
    nothing is sent between processes while training sends. A part that cannot be written is reported by the next
    :meth:`save` or :meth:`finish`.

    Args:
        partial: the folder being written; checkpoints lie in ``checkpoints/`` inside.
        identity: what a resumed run must share with the one that was stopped: ``settings``, ``inputs`` by
            fingerprint, ``tokenizer``, and what was ``computed`` on.
        team: the processes of the run.
        keep: how many of the newest stay.
        milestone_every: every so many steps one is kept for good.
        spare: one that is at least so many steps old stays too, to roll back to.
    """

    def __init__(
        self,
        partial: Path,
        identity: dict[str, Any],
        team: Processes | None = None,
        keep: int = KEEP,
        milestone_every: int | None = None,
        spare: int = 0,
    ) -> None:
        self.folder = partial / FOLDER
        self.team = team or Processes()
        self.identity = json.loads(json.dumps(identity, default=str))
        self.keep, self.milestone_every, self.spare = keep, milestone_every, spare
        self._writer: threading.Thread | None = None
        self._error: Exception | None = None
        self._noted = False

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizers: Optimizers | None,
        extra: dict[str, Any],
        best: dict[str, Tensor] | None = None,
    ) -> None:
        """Begin to write the state after ``step`` steps; waits for the one before.

        Raises:
            ArtefactError: the one before could not be written, or this one cannot be begun.
        """
        self.finish()
        self.team.settle()
        partial = self.folder / f".partial-{step:08d}"
        with self.team.together():
            if self.team.first:
                try:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    for old in self.folder.glob(".*"):  # left by a run that was killed
                        shutil.rmtree(old, ignore_errors=True)
                    partial.mkdir()
                except OSError as error:
                    raise self._failure(step, error) from error
        tensors: dict[str, Tensor] = {f"model/{name}": weight for name, weight in trained(model).items()}
        tensors |= {f"optimizer/{k}": v for k, v in (optimizers.state_tensors() if optimizers else {}).items()}
        tensors |= {f"best/{name}": weight for name, weight in (best or {}).items()}
        kept, held = copies(tensors)
        state = {
            "step": step,
            "identity": self.identity,
            "extra": json.loads(json.dumps(extra)),
            "processes": self.team.size,
            "code": code_version(),
        }
        self._writer = threading.Thread(
            target=self._write, args=(partial, step, kept, held, state), name=f"checkpoint {step}", daemon=True
        )
        self._writer.start()

    @property
    def failed(self) -> bool:
        """Whether a write has failed; :meth:`finish` says how. Nothing waits."""
        return self._error is not None

    def abandon(self) -> None:
        """The run ends by an error: give what is being written a little time, and keep silent about it."""
        if self._writer is not None:
            self._writer.join(timeout=30)

    def finish(self) -> None:
        """Wait until what was begun is written.

        Raises:
            ArtefactError: it could not be; the checkpoints before it are as they were.
        """
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        error, self._error = self._error, None
        with self.team.together():
            if isinstance(error, Lang1Error):
                raise error
            if error is not None:
                raise ArtefactError(f"{self.folder}: {type(error).__name__}: {error}")

    def latest(self, before: int | None = None) -> Checkpoint | None:
        """The newest whole checkpoint, or None; one that is damaged is passed over for the one before it.

        Args:
            before: only those of at most so many steps.

        Raises:
            SettingsError: it belongs to a run with other settings, inputs or tokenizer.
            ArtefactError: there are checkpoints and all are damaged.
        """
        names = json.loads(self.team.told(json.dumps([p.name for p in self._all()])))
        every = [self.folder / n for n in names if before is None or _step(n) <= before]
        damage = ""
        for folder in reversed(every):
            try:
                return self._read(folder)
            except ArtefactError as error:
                damage = str(error)
                say(f"{damage} The checkpoint before it is taken.")
        if every:
            raise ArtefactError(f"{damage} No older checkpoint is whole: remove {self.folder.parent} to start anew.")
        return None

    def drop(self, keep_last: bool = False) -> None:
        """The run is complete: remove all checkpoints but the milestones, and the last one where it is asked for."""
        self.finish()
        if self.team.first:
            every = self._all()
            last = every[-1:] if keep_last else []
            for folder in every:
                if folder not in last and not self._milestone(_step(folder.name)):
                    shutil.rmtree(folder, ignore_errors=True)
            if self.folder.is_dir() and not self._all():
                shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, partial: Path, step: int, kept: dict[str, Tensor], held: Held, state: dict[str, Any]) -> None:
        name = f"rank-{self.team.rank:05d}"
        try:
            digest = write_tensors(partial / f"{name}.safetensors", kept)
            write_json(partial / f"{name}.json", {"sha256": digest, "held": held})
            if self.team.first:
                self._complete(partial, step, state)
        except Exception as error:  # reported by finish(), in the thread that trains
            self._error = self._failure(step, error) if isinstance(error, OSError) else error
            mark, draft = partial / f"{name}.failed", partial / f"{name}.why"
            try:
                draft.write_text(str(self._error), encoding="utf-8")
                draft.replace(mark)
            except OSError:
                with contextlib.suppress(OSError):
                    mark.touch()  # an empty file finds place on a full disk

    def _complete(self, partial: Path, step: int, state: dict[str, Any]) -> None:
        names = [f"rank-{rank:05d}" for rank in range(self.team.size)]
        deadline = time.monotonic() + PATIENCE
        while not all((partial / f"{n}.json").exists() for n in names):
            failed = [n for n in names if (partial / f"{n}.failed").exists()]
            if failed or time.monotonic() > deadline:
                who = failed or [n for n in names if not (partial / f"{n}.json").exists()]
                why = (partial / f"{failed[0]}.failed").read_text(encoding="utf-8") if failed else ""
                line = f"{partial}: {who[0]} did not write its part of the checkpoint after step {step}."
                raise ArtefactError(why or line)
            time.sleep(0.02)
        parts = {f"{n}.safetensors": read_json(partial / f"{n}.json") for n in names}
        state["tensors"] = join({file: part["held"] for file, part in parts.items()})
        state["sha256"] = {file: part["sha256"] for file, part in parts.items()}
        write_json(partial / STATE, state)
        for n in names:
            (partial / f"{n}.json").unlink()
        _sync(partial)
        target = self.folder / f"step-{step:08d}"
        if target.exists():  # a run that was rolled back comes by the same step again
            aside = self.folder / f".old-{step:08d}"
            target.rename(aside)
            partial.rename(target)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            partial.rename(target)
        _sync(self.folder)
        self._prune(step)

    def _prune(self, newest: int) -> None:
        """Remove what is neither among the newest, nor a milestone, nor to roll back to. Ones later than the newest
        belong to a stretch that was rolled back."""
        every = self._all()
        past = [p for p in every if _step(p.name) <= newest]
        stay = {*past[-self.keep :], *(p for p in past if self._milestone(_step(p.name)))}
        if self.spare:
            old = [p for p in past if _step(p.name) <= newest - self.spare]
            # And the one that will be old enough next, or there would never be another.
            stay.update([*(old[-1:] or past[:1]), *past[len(old) : len(old) + 1]])
        for folder in every:
            if folder not in stay:
                shutil.rmtree(folder, ignore_errors=True)

    def _milestone(self, step: int) -> bool:
        return bool(self.milestone_every) and step > 0 and step % int(self.milestone_every or 1) == 0

    def _failure(self, step: int, error: OSError) -> ArtefactError:
        last = [_step(p.name) for p in self._all() if _step(p.name) <= step]
        then = f"goes on from step {last[-1]}" if last else "starts from the beginning"
        return ArtefactError(
            f"{self.folder}: the checkpoint after step {step} cannot be written ({error.strerror or error}). Free "
            f"space or allow writing there, then run the same command again: it {then}."
        )

    def _all(self) -> list[Path]:
        return sorted(self.folder.glob("step-*")) if self.folder.is_dir() else []

    def _read(self, folder: Path) -> Checkpoint:
        with self.team.together():
            state = read_state(folder)
            self._compare(folder, state)
            # Each process looks at its share of the files, and all go by what any of them finds.
            for file in sorted(state["sha256"])[self.team.rank :: self.team.size]:
                _verify(folder / file, state["sha256"][file])
        return Checkpoint(int(state["step"]), Reader(folder, state["tensors"]), state["extra"])

    def _compare(self, folder: Path, state: dict[str, Any]) -> None:
        before, now = state["identity"], self.identity
        if before.get("tokenizer") != now.get("tokenizer"):
            raise SettingsError(
                f"{self.folder.parent}: the unfinished run there was trained with another tokenizer than the corpus "
                "now has. Put that tokenizer back, choose another folder, or remove that one to start anew."
            )
        if _binding(before) != _binding(now):
            raise SettingsError(
                f"{self.folder.parent}: an unfinished run with other settings lies there "
                f"({_difference(_binding(before), _binding(now))}). Run it again with its own settings to finish it, "
                "choose another folder, or remove that one to start anew."
            )
        if self._noted:
            return
        self._noted = True
        computed = {k: (before.get("computed", {}).get(k), now.get("computed", {}).get(k)) for k in ROUNDING}
        changed = [f"{k} {a} before, {b} now" for k, (a, b) in computed.items() if a != b]
        if changed:
            say(f"Going on elsewhere ({'; '.join(changed)}): equal to rounding, no longer to the bit.")
        if state.get("code") != code_version():
            then = state.get("code", {})
            say(f"The checkpoint was written by other code ({then.get('lang1')}, torch {then.get('torch')}).")


def read_state(folder: Path) -> dict[str, Any]:
    """``state.json`` of a checkpoint.

    Raises:
        ArtefactError: it is missing or damaged.
    """
    state = read_json(folder / STATE)
    if not isinstance(state, dict) or not {"step", "identity", "extra", "tensors", "sha256"} <= state.keys():
        raise ArtefactError(f"{folder / STATE} is damaged.")
    return state


def open_checkpoint(folder: Path) -> Checkpoint:
    """A checkpoint read by itself, outside its run.

    Raises:
        ArtefactError: it is missing or damaged.
    """
    state = read_state(folder)
    for file, expected in state["sha256"].items():
        _verify(folder / file, expected)
    return Checkpoint(int(state["step"]), Reader(folder, state["tensors"]), state["extra"])


def _verify(file: Path, expected: str) -> None:
    try:
        if file_sha256(file) != expected:
            raise ArtefactError(f"{file} is damaged: its content changed since it was written.")
    except FileNotFoundError as error:
        raise ArtefactError(f"{file} is missing: a part of the checkpoint was removed.") from error
    except OSError as error:
        raise ArtefactError(f"{file} is damaged ({error.strerror}).") from error


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that are trained, by name: frozen ones are those of the model that the run starts from."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


@torch.no_grad()
def restore(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy named weights into a model; those that are not trained may be missing."""
    for name, weight in model.named_parameters():
        if weight.requires_grad or name in tensors:
            weight.copy_(tensors[name])


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a model's trained weights by name (of this process's parts of them)."""
    return {name: weight.detach().clone() for name, weight in trained(model).items()}


@functools.cache
def code_version() -> dict[str, str]:
    """Versions of lang1 and torch, and a hash of the source on which a run's numbers depend."""
    root = Path(lang1.__file__).parent
    digest = hashlib.sha256()
    for room in ("model", "training", "corpus"):
        for file in sorted((root / room).rglob("*.py")):
            digest.update(file.read_bytes())
    return {"lang1": lang1.__version__, "torch": torch.__version__, "source": digest.hexdigest()[:16]}


def _step(name: str) -> int:
    return int(name.rpartition("-")[2])


def _sync(folder: Path) -> None:
    """Make renames inside a folder durable; not every file system allows it."""
    try:
        place = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        with contextlib.suppress(OSError):
            os.fsync(place)
    finally:
        os.close(place)


def _binding(identity: dict[str, Any]) -> dict[str, Any]:
    """What must not change: all but the settings that are free and what a run happens to be computed on."""
    kept = dict(identity)
    if isinstance(kept.get("settings"), dict):
        kept["settings"] = {k: v for k, v in kept["settings"].items() if k not in FREE}
    if isinstance(kept.get("computed"), dict):
        kept["computed"] = {k: v for k, v in kept["computed"].items() if k not in ROUNDING}
    return kept


def _difference(before: Any, now: Any, where: str = "") -> str:
    """The first place where two settings differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key):
                return _difference(before.get(key), now.get(key), f"{where}.{key}" if where else str(key))
    return f"{where} was {before!r}, now {now!r}"
