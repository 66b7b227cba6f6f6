"""The training loop that pretraining and finetuning share.

Everything that a step needs is a function of the settings and the step's number; what the loop itself carries from
step to step (weights, optimizer state, running means, the best validation) is in the checkpoint. So a resumed run is
the uninterrupted one, bit for bit on a CPU with the same number of threads.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from lang1.common.progress import Meter
from lang1.model.decoder import Decoder
from lang1.training.checkpoint import Checkpoints, restore, snapshot
from lang1.training.guard import StepGuard
from lang1.training.interrupt import Interrupt
from lang1.training.optim import Optimizers, factor_at
from lang1.training.settings import RunSettings, ScheduleSettings

METRICS = "metrics.jsonl"


class Work(Protocol):
    """What is being trained for. Subclass it: what carries nothing from step to step needs only the first three."""

    @property
    def tokens_per_step(self) -> float:
        """Expected tokens of a step, for the progress bar."""

    def losses(self, step: int) -> Iterator[tuple[Tensor, int]]:
        """The step's loss in parts that add up to it, with the tokens of each; each is differentiated in turn."""

    def validate(self, step: int) -> dict[str, float]:
        """Measures of the model as it stands; ``score``, where there is one, is better when higher."""

    @property
    def over(self) -> bool:
        """Whether there is nothing left to learn, so that the run ends before its last step."""
        return False

    def state(self) -> dict[str, Any]:
        """What it carries from step to step, as JSON values, for the checkpoint."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        return None


class Loop:
    """One training run inside a folder being written.

    Args:
        folder: the partial folder; metrics and checkpoints go there.
        model: trained in place.
        optimizers: of the model.
        work: losses and validation.
        steps: the whole run.
        settings: checkpoints, logging, guard.
        schedule: of the learning rate.
        validate_every: steps.
        patience: validations without a better score before the run ends; None never ends early.
        identity: what a resumed run must share with the stopped one.
        name: for the progress line.
    """

    def __init__(
        self,
        folder: Path,
        model: Decoder,
        optimizers: Optimizers,
        work: Work,
        steps: int,
        settings: RunSettings,
        schedule: ScheduleSettings,
        validate_every: int,
        identity: dict[str, Any],
        name: str,
        patience: int | None = None,
    ) -> None:
        self.folder, self.model, self.optimizers, self.work = folder, model, optimizers, work
        self.steps, self.settings, self.schedule, self.name = steps, settings, schedule, name
        self.validate_every, self.patience = validate_every, patience
        self.checkpoints = Checkpoints(folder, identity)
        self.guard = StepGuard(settings.spike_sigma)
        self.done = 0
        self.tokens = 0
        self.seconds = 0.0
        self.best_score: float | None = None
        self.best_step = 0
        self.best: dict[str, Tensor] = {}
        self.stale = 0  # validations since the best one
        self._recent = [0.0, 0.0]  # loss summed since the last log line, and steps

    def run(self) -> None:
        """Train to the end, from the last checkpoint where there is one; the best weights are left in the model.

        Raises:
            KeyboardInterrupt: after Ctrl-C or SIGTERM, once a checkpoint is written.
        """
        self._resume()
        started = time.monotonic() - self.seconds
        with (
            Interrupt() as interrupt,
            (self.folder / METRICS).open("a", encoding="utf-8") as log,
            Meter(self.name, self.steps * self.work.tokens_per_step, "tok") as meter,
        ):
            meter.start_at(self.tokens)
            while self.done < self.steps and not self._patience_over() and not self.work.over:
                before = self.tokens
                loss, norm, factor = self._step()
                self.seconds = time.monotonic() - started
                meter.add(self.tokens - before, f"loss {loss:.3f}")
                if self.done % self.settings.log_every == 0 or self.done == self.steps:
                    self._log(log, self._training_record(norm, factor))
                if self.done % self.validate_every == 0 or self.done == self.steps:
                    measures = self._validate()
                    self.seconds = time.monotonic() - started
                    if measures:
                        self._log(log, {"kind": "val", "step": self.done, "tokens": self.tokens, **measures})
                if interrupt.requested or self.done % self.settings.checkpoint_every == 0:
                    self._save()
                if interrupt.requested:
                    raise KeyboardInterrupt
        if self.best:
            restore(self.model, self.best)

    def _step(self) -> tuple[float, float, float]:
        factor = factor_at(self.done, self.steps, self.schedule)
        self.optimizers.set_factor(factor)
        total = 0.0
        for loss, tokens in self.work.losses(self.done):
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
            self.tokens += tokens
        norm = float(self.optimizers.clip())
        if self.guard.accept(total, norm):
            self.optimizers.step()
            self._recent[0] += total
            self._recent[1] += 1
        self.optimizers.zero_grad()
        self.done += 1
        return total, norm, factor

    def _training_record(self, norm: float, factor: float) -> dict[str, Any]:
        loss, steps = self._recent
        self._recent = [0.0, 0.0]
        return {
            "kind": "train",
            "step": self.done,
            "tokens": self.tokens,
            "loss": loss / steps if steps else None,
            "grad_norm": norm,
            "lr_factor": factor,
            "skipped": sum(self.guard.skipped.values()),
            "seconds": round(self.seconds, 2),
        }

    def _validate(self) -> dict[str, float]:
        measures = self.work.validate(self.done)
        score = measures.get("score")
        if score is not None:
            if self.best_score is None or score > self.best_score:
                self.best_score, self.best_step, self.stale = score, self.done, 0
                self.best = snapshot(self.model)
            else:
                self.stale += 1
        return measures

    def _patience_over(self) -> bool:
        return self.patience is not None and self.stale >= self.patience

    @staticmethod
    def _log(log: Any, record: dict[str, Any]) -> None:
        log.write(json.dumps(record) + "\n")
        log.flush()

    def _save(self) -> None:
        extra = {
            "tokens": self.tokens,
            "seconds": self.seconds,
            "guard": self.guard.state(),
            "best_score": self.best_score,
            "best_step": self.best_step,
            "stale": self.stale,
            "recent": self._recent,
            "work": self.work.state(),
        }
        self.checkpoints.save(self.done, self.model, self.optimizers, extra, self.best)

    def _resume(self) -> None:
        found = self.checkpoints.latest()
        if found is not None:
            restore(self.model, found.model)
            self.optimizers.load_state_tensors(found.optimizer)
            extra = found.extra
            self.done, self.best = found.step, found.best
            self.tokens, self.seconds = int(extra["tokens"]), float(extra["seconds"])
            self.best_score, self.best_step, self.stale = extra["best_score"], extra["best_step"], extra["stale"]
            self._recent = [float(x) for x in extra["recent"]]
            self.guard.load(extra["guard"])
            self.work.load_state(extra.get("work", {}))
        _cut_log(self.folder / METRICS, self.done)


def _cut_log(file: Path, step: int) -> None:
    """Drop what was logged after the checkpoint (it is about to be logged again), and a half-written last line."""
    if not file.exists():
        return
    kept = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record.get("step", 0) <= step:
            kept.append(line + "\n")
    file.write_text("".join(kept), encoding="utf-8")


def device_name(device: torch.device) -> str:
    """The device as a person would name it, for the record of costs."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
