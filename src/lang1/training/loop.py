"""The training loop that pretraining and finetuning share.

Everything that a step needs is a function of the settings and the step's number; what the loop itself carries from
step to step (weights, optimizer state, running means, the best validation) is in the checkpoint. So a resumed run is
the uninterrupted one, bit for bit on a CPU with the same number of threads.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from lang1.common.progress import Meter
from lang1.model.decoder import Decoder
from lang1.model.llama import Llama
from lang1.training.checkpoint import Checkpoints, restore, snapshot
from lang1.training.guard import StepGuard
from lang1.training.interrupt import Interrupt
from lang1.training.optim import Optimizers, factor_at
from lang1.training.settings import RunSettings, ScheduleSettings
from lang1.training.throughput import Tally, Throughput, peak_flops, peak_memory_gib
from lang1.training.watch import METRICS, Evaluate, RunLog, Stopped, Watcher, cut_log

__all__ = ["METRICS", "Loop", "Work", "device_name"]


class Work(Protocol):
    """What is being trained for. Subclass it: what carries nothing from step to step needs only the first three.

    Attributes:
        tally: what its losses passed through the model since it was made.
    """

    tally: Tally

    @property
    def tokens_per_step(self) -> float:
        """Expected tokens of a step, for the progress bar."""

    def losses(self, step: int) -> Iterator[tuple[Tensor, int]]:
        """The step's loss in parts that add up to it, with the tokens of each; each is differentiated in turn."""

    def validate(self, step: int) -> dict[str, float]:
        """Measures of the model as it stands; ``score``, where there is one, is better when higher."""

    def shares(self, steps: int) -> dict[str, float]:
        """What the first ``steps`` steps consisted of: realised shares by source or task, which add up to 1."""
        return {}

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
        identity: what a resumed run must share with the stopped one.
        name: for the progress line.
        patience: validations without a better score before the run ends; None never ends early.
        watchers: see every record of the log.
        evaluate: an evaluation on the way, at the steps that ``settings.watch.evaluation`` names.
        about: further fields of the log's ``start`` records.
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
        watchers: Sequence[Watcher] = (),
        evaluate: Evaluate | None = None,
        about: dict[str, Any] | None = None,
    ) -> None:
        self.folder, self.model, self.optimizers, self.work = folder, model, optimizers, work
        self.steps, self.settings, self.schedule, self.name = steps, settings, schedule, name
        self.validate_every, self.patience = validate_every, patience
        self.watchers, self.evaluate, self.about = watchers, evaluate, about or {}
        self.device = model.device
        self.peak = peak_flops(device_name(self.device), model.dtype)
        # Of other architectures the arithmetic is not known here, and no MFU is given.
        self.throughput = Throughput(model.settings if isinstance(model, Llama) else None, self.peak)
        self.checkpoints = Checkpoints(folder, identity)
        self.guard = StepGuard(settings.spike_sigma)
        self.done = 0
        self.tokens = 0
        self.seconds = 0.0
        self.best_score: float | None = None
        self.best_step = 0
        self.best: dict[str, Tensor] = {}
        self.stale = 0  # validations since the best one
        self.evaluated = -1  # the last step that was evaluated on the way
        self._recent = [0.0, 0.0]  # loss summed since the last log line, and steps
        self._mfu = ""  # of the last log line, for the progress line

    def run(self) -> None:
        """Train to the end, from the last checkpoint where there is one; the best weights are left in the model.

        Raises:
            KeyboardInterrupt: after Ctrl-C or SIGTERM, once a checkpoint is written.
        """
        self._resume()
        started = time.monotonic() - self.seconds
        with (
            Interrupt() as interrupt,
            RunLog(self.folder / METRICS, self.watchers) as log,
            Meter(self.name, self.steps * self.work.tokens_per_step, "tok") as meter,
        ):
            log.write(self._start_record())
            meter.start_at(self.tokens)
            self._evaluate(log, interrupt)
            self._stop_if_asked(interrupt)
            while self.done < self.steps and not self._patience_over() and not self.work.over:
                before = self.tokens
                loss, norm, factor = self._step()
                self.seconds = time.monotonic() - started
                if self.done % self.settings.log_every == 0 or self.done == self.steps:
                    log.write(self._training_record(norm, factor))
                meter.add(self.tokens - before, f"loss {loss:.3f}{self._mfu}")
                if self.done % self.validate_every == 0 or self.done == self.steps:
                    measures = self._validate()
                    self.seconds = time.monotonic() - started
                    if measures:
                        log.write({"kind": "val", "step": self.done, "tokens": self.tokens, **measures})
                self._evaluate(log, interrupt)
                self.seconds = time.monotonic() - started
                self._stop_if_asked(interrupt)
                if self.done % self.settings.checkpoint_every == 0:
                    self._save()
        if self.best:
            restore(self.model, self.best)

    def _step(self) -> tuple[float, float, float]:
        self.throughput.begin()
        tallied, tokens_before = self.work.tally.copy(), self.tokens
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
        self.throughput.end(self.work.tally.since(tallied), self.tokens - tokens_before)
        return total, norm, factor

    def _start_record(self) -> dict[str, Any]:
        return {
            "kind": "start",
            "step": self.done,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 2),
            "run": self.name,
            "model": self.model.name,
            "parameters": self.model.parameter_count,
            "steps": self.steps,
            "device": device_name(self.device),
            "peak_flops": self.peak,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            **self.about,
            "settings": self.settings.model_dump(mode="json"),
            "watch": self.settings.watch.model_dump(mode="json"),
        }

    def _training_record(self, norm: float, factor: float) -> dict[str, Any]:
        loss, steps = self._recent
        self._recent = [0.0, 0.0]
        rates = self.throughput.take()
        self._mfu = f", MFU {100 * rates['mfu']:.0f} %" if "mfu" in rates else ""
        return {
            "kind": "train",
            "step": self.done,
            "tokens": self.tokens,
            "loss": loss / steps if steps else None,
            "grad_norm": norm,
            "lr": self.optimizers.settings.lr * factor,
            "lr_factor": factor,
            "skipped": sum(self.guard.skipped.values()),
            **{f"skipped/{reason}": count for reason, count in self.guard.skipped.items()},
            **{f"share/{part}": share for part, share in self.work.shares(self.done).items()},
            "seconds": round(self.seconds, 2),
            **rates,
            "peak_memory_gib": peak_memory_gib(self.device),
        }

    def _evaluate(self, log: RunLog, interrupt: Interrupt) -> None:
        """Evaluate on the way where it is due; an evaluation that is interrupted is done when the run goes on."""
        due = self.settings.watch.evaluation.due(self.done, self.steps)
        if self.evaluate is None or not due or self.evaluated == self.done or interrupt.requested:
            return
        try:
            measures = self.evaluate(self.done, lambda: interrupt.requested)
        except Stopped:
            return
        self.evaluated = self.done
        if measures:
            log.write({"kind": "eval", "step": self.done, "tokens": self.tokens, **measures})

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

    def _stop_if_asked(self, interrupt: Interrupt) -> None:
        if interrupt.requested:
            self._save()
            raise KeyboardInterrupt

    def _patience_over(self) -> bool:
        return self.patience is not None and self.stale >= self.patience

    def _save(self) -> None:
        extra = {
            "tokens": self.tokens,
            "seconds": self.seconds,
            "guard": self.guard.state(),
            "best_score": self.best_score,
            "best_step": self.best_step,
            "stale": self.stale,
            "evaluated": self.evaluated,
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
            self.evaluated = int(extra.get("evaluated", -1))
            self._recent = [float(x) for x in extra["recent"]]
            self.guard.load(extra["guard"])
            self.work.load_state(extra.get("work", {}))
        cut_log(self.folder / METRICS, self.done)


def device_name(device: torch.device) -> str:
    """The device as a person would name it, for the record of costs."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
