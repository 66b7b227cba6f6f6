"""The training loop that pretraining and finetuning share.

Everything that a step needs is a function of the settings and the step's number; what the loop itself carries from
step to step (weights, optimizer state, running means, the best validation) is in the checkpoint. So a resumed run is
the uninterrupted one, bit for bit on a CPU with the same number of threads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from lang1.common.errors import ArtefactError, InputError
from lang1.common.progress import Meter, say
from lang1.model.decoder import Decoder
from lang1.model.llama import Llama
from lang1.training.checkpoint import Checkpoint, Checkpoints, restore, snapshot
from lang1.training.distributed import Processes
from lang1.training.guard import StepGuard
from lang1.training.housekeeping import collect, collected_by_hand, seed_step
from lang1.training.interrupt import Interrupt
from lang1.training.optim import Optimizers
from lang1.training.order_log import OrderLog
from lang1.training.rollback import LEAD, REPEATED, Rollback
from lang1.training.schedule import factor_at
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

    def read(self, step: int) -> Any:
        """What this process read of a step, as JSON values, for the order log."""
        return None

    def about(self, first: int, last: int) -> Any:
        """What the steps from ``first`` to ``last`` read, in all processes, as JSON values: where to look after a
        spike."""
        return None

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


class Step(NamedTuple):
    """What came of a step."""

    loss: float
    norm: float
    factor: float  # of the peak learning rate
    reason: str | None  # why it was not taken


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
        team: the processes that train; the model is shared out among them already.
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
        team: Processes | None = None,
    ) -> None:
        self.folder, self.model, self.optimizers, self.work = folder, model, optimizers, work
        self.steps, self.settings, self.schedule, self.name = steps, settings, schedule, name
        self.validate_every, self.patience = validate_every, patience
        self.watchers, self.evaluate, self.about = watchers, evaluate, about or {}
        self.team = team or Processes()
        self.device = model.device
        model.checkpointing = settings.checkpointing
        self.peak = peak_flops(device_name(self.device), model.dtype)
        # Of other architectures the arithmetic is not known here, and no MFU is given.
        every = self.peak * self.team.size if self.peak is not None else None
        weights = [(weight.numel(), weight.requires_grad) for weight in model.parameters()]
        trained = sum(size for size, learns in weights if learns) / sum(size for size, _ in weights)
        self.throughput = Throughput(model.settings if isinstance(model, Llama) else None, every, trained)
        self.checkpoints = Checkpoints(
            folder,
            identity,
            self.team,
            settings.keep_last,
            settings.milestone_every,
            spare=settings.rollback_window + LEAD if settings.rollback_after is not None else 0,
        )
        self.guard = StepGuard(settings.spike_sigma, settings.loss_sigma)
        self.rollback = Rollback(settings.rollback_after, settings.rollback_window, settings.max_rollbacks)
        self._order: OrderLog | None = None
        self.done = 0
        self.tokens = 0
        self.seconds = 0.0
        self.best_score: float | None = None
        self.best_step = 0
        self.best: dict[str, Tensor] = {}
        self.stale = 0  # validations since the best one
        self.validated = -1  # the last step that was validated
        self.evaluated = -1  # the last step that was evaluated on the way
        self._recent = [0.0, 0.0]  # loss summed since the last log line, and steps
        self._mfu = ""  # of the last log line, for the progress line

    def run(self) -> None:
        """Train to the end, from the last checkpoint where there is one; the best weights are left in the model.

        Raises:
            KeyboardInterrupt: after Ctrl-C or SIGTERM in any process, once a checkpoint is written.
            InputError: the loss spikes again after as many rollbacks as are allowed.
            ArtefactError: a checkpoint cannot be written or none is whole.
            SettingsError: an unfinished run with other settings lies in the folder.
        """
        self._resume()
        started = time.monotonic() - self.seconds
        # Only the first process keeps the record.
        record, watchers = (self.folder / METRICS, self.watchers) if self.team.first else (Path(os.devnull), ())
        with (
            Interrupt() as self.interrupt,
            collected_by_hand(),
            RunLog(record, watchers) as log,
            Meter(self.name, self.steps * self.work.tokens_per_step, "tok") as meter,
        ):
            log.write(self._start_record())
            meter.start_at(self.tokens)
            try:
                if self.done == 0:
                    self._save()  # to go back to; and a disk that cannot be written shows at once
                self._look(log)
                while self.done < self.steps and not self._patience_over() and not self.work.over:
                    before = self.tokens
                    note = self._advance(log)
                    self.seconds = time.monotonic() - started
                    meter.add(self.tokens - before, note)
                    self._look(log)
                    self.seconds = time.monotonic() - started
                    if self._asked():
                        raise Stopped
                    if self._checkpoint_due():
                        self._save()
                self.checkpoints.finish()
            except Stopped:
                self.optimizers.zero_grad()
                self._save()
                self.checkpoints.finish()
                raise KeyboardInterrupt from None
            except Exception:
                self.checkpoints.abandon()
                raise
            finally:
                if self._order is not None:
                    self._order.close()
        if self.best:
            restore(self.model, self.best)

    def _advance(self, log: RunLog) -> str:
        """One step, taken, skipped, left out or the one after which the run goes back; a note for the progress line."""
        if self.rollback.leaves_out(self.done):
            self.done += 1
            return "left out"
        step = self._step()
        if step.reason is not None:
            log.write(self._skip_record(step))
        if self.rollback.due:
            self._go_back(log)
            return f"went back to step {self.done}"
        if self.done % self.settings.log_every == 0 or self.done == self.steps:
            log.write(self._training_record(step))
        if self.done % self.settings.gc_every == 0:
            collect()
        return f"loss {step.loss:.3f}{self._mfu}"

    def _step(self) -> Step:
        self.throughput.begin()
        tallied = self.work.tally.copy()
        factor = factor_at(self.done, self.steps, self.schedule)
        self.optimizers.set_factor(factor)
        seed_step(self.settings.seed, self.done, self.team.rank)
        scale = self.team.gradient_scale()
        summed = torch.zeros((), dtype=torch.float64, device=self.device)
        tokens = 0
        for number, (loss, count) in enumerate(self.work.losses(self.done)):
            if number and self._asked():
                raise Stopped  # nothing of the step is kept: it is done again when the run goes on
            (loss if scale == 1 else loss * scale).backward()  # type: ignore[no-untyped-call]
            summed += loss.detach()
            tokens += count
        if self._order is not None:
            self._order.write(self.done, self.work.read(self.done))
        norm = float(self.optimizers.clip())
        seen = astuple(self.work.tally.since(tallied))
        # One exchange a step. The norm is the same everywhere; that of the first process is taken, so that all decide
        # by the same bits.
        total, norm, all_tokens, failed, *counted = self.team.total(
            [float(summed), norm if self.team.first else 0.0, tokens, float(self.checkpoints.failed), *seen]
        )
        if failed:
            self.checkpoints.finish()
        reason = self.guard.judge(total, norm)
        if reason is None:
            self.optimizers.step()
            self._recent[0] += total
            self._recent[1] += 1
        self.rollback.note(self.done, reason in REPEATED)
        self.optimizers.zero_grad()
        self.tokens += int(all_tokens)
        self.done += 1
        self.throughput.end(Tally(*map(int, counted)), int(all_tokens))
        return Step(total, norm, factor, reason)

    def _go_back(self, log: RunLog) -> None:
        """To the last checkpoint before the first of the bad steps; the steps from there to the last are left out."""
        first, last = self.rollback.begin()
        if len(self.rollback.done) >= self.rollback.most:
            raise InputError(
                f"{self.name}: the loss spiked again at step {last + 1}, after {self.rollback.most} rollbacks. Look at "
                f"what steps {first + 1} to {last + 1} read (kind 'skip' in {self.folder / METRICS}), or start anew "
                "with a lower optimizer.lr; max_rollbacks=N lets this run go on."
            )
        self.checkpoints.finish()
        found = self.checkpoints.latest(before=first)
        if found is None:
            raise ArtefactError(f"{self.checkpoints.folder}: no checkpoint of step {first} or before to go back to.")
        kept, bad = self.rollback.done, self.rollback.bad
        self._take(found)
        self.rollback.done, self.rollback.bad = kept, bad
        self.rollback.record(first, last, self.done)
        if self.team.first:
            log.cut(self.done)
        event = {"kind": "rollback", "step": self.done, "tokens": self.tokens, **self.rollback.done[-1]}
        log.write({**event, "read": self.work.about(first, last)})
        say(f"{len(bad)} bad steps: back to step {self.done}; steps {first + 1} to {last + 1} are left out.")
        self._save()
        self.checkpoints.finish()
        if self._order is not None:
            self._order.went_back(self.done)

    def _asked(self) -> bool:
        """Whether any process was asked to stop."""
        return self.team.any(self.interrupt.requested)

    def _checkpoint_due(self) -> bool:
        every, milestone = self.settings.checkpoint_every, self.settings.milestone_every
        return self.done % every == 0 or bool(milestone and self.done % milestone == 0)

    def _look(self, log: RunLog) -> None:
        """Validate and evaluate where it is due and was not done; asked to stop meanwhile, it is done next time.

        Raises:
            Stopped: some process was asked to stop.
        """
        with self._stoppable():
            due = self.done > 0 and (self.done % self.validate_every == 0 or self.done == self.steps)
            if due and self.validated != self.done:
                measures = self._validate()
                self.validated = self.done
                if measures:
                    log.write({"kind": "val", "step": self.done, "tokens": self.tokens, **measures})
            due = self.settings.watch.evaluation.due(self.done, self.steps)
            if self.evaluate is not None and due and self.evaluated != self.done:
                measures = self.evaluate(self.done, self._asked)
                self.evaluated = self.done
                if measures:
                    log.write({"kind": "eval", "step": self.done, "tokens": self.tokens, **measures})

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        """Every pass through the model asks first whether to stop: whoever validates need not think of it."""

        def ask(*_: Any) -> None:
            if self._asked():
                raise Stopped

        hook = self.model.register_forward_pre_hook(ask, prepend=True)
        try:
            yield
        finally:
            hook.remove()
            self.team.settle()

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
            "processes": self.team.size,
            "peak_flops": self.peak,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            **self.about,
            "settings": self.settings.model_dump(mode="json"),
            "watch": self.settings.watch.model_dump(mode="json"),
        }

    def _training_record(self, step: Step) -> dict[str, Any]:
        loss, steps = self._recent
        self._recent = [0.0, 0.0]
        rates = self.throughput.take()
        self._mfu = f", MFU {100 * rates['mfu']:.0f} %" if "mfu" in rates else ""
        return {
            "kind": "train",
            "step": self.done,
            "tokens": self.tokens,
            "loss": loss / steps if steps else None,
            "grad_norm": step.norm,
            "lr": self.optimizers.settings.lr * step.factor,
            "lr_factor": step.factor,
            "skipped": sum(self.guard.skipped.values()),
            **({"left_out": left} if (left := self._left_out()) else {}),
            **{f"skipped/{reason}": count for reason, count in self.guard.skipped.items()},
            **{f"share/{part}": share for part, share in self.work.shares(self.done).items()},
            "seconds": round(self.seconds, 2),
            **rates,
            "peak_memory_gib": peak_memory_gib(self.device),
        }

    def _skip_record(self, step: Step) -> dict[str, Any]:
        return {
            "kind": "skip",
            "step": self.done,
            "tokens": self.tokens,
            "reason": step.reason,
            "loss": step.loss,
            "grad_norm": step.norm,
            "read": self.work.about(self.done - 1, self.done - 1),
        }

    def _left_out(self) -> int:
        """Steps so far that were left out after a rollback."""
        return len({s for r in self.rollback.done for s in range(r["first"], min(r["last"] + 1, self.done))})

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

    def _save(self) -> None:
        extra = {
            "tokens": self.tokens,
            "seconds": self.seconds,
            "guard": self.guard.state(),
            "best_score": self.best_score,
            "best_step": self.best_step,
            "stale": self.stale,
            "validated": self.validated,
            "evaluated": self.evaluated,
            "rollback": self.rollback.state(),
            "recent": self._recent,
            "work": self.work.state(),
            # By which a milestone can be made a model of its own.
            "shape": self.model.settings.model_dump(mode="json") if isinstance(self.model, Llama) else None,
        }
        self.checkpoints.save(self.done, self.model, self.optimizers, extra, self.best)

    def _resume(self) -> None:
        found = self.checkpoints.latest()
        if found is not None:
            self._take(found)
        if self.team.first:
            cut_log(self.folder / METRICS, self.done)
        self._order = OrderLog(self.folder, self.team, self.done) if self.settings.order_log else None

    def _take(self, found: Checkpoint) -> None:
        """Everything that is carried from step to step, as it was."""
        self.best = found.load(self.model, self.optimizers)
        extra = found.extra
        self.done = found.step
        self.tokens, self.seconds = int(extra["tokens"]), float(extra["seconds"])
        self.best_score, self.best_step, self.stale = extra["best_score"], extra["best_step"], extra["stale"]
        self.validated, self.evaluated = int(extra["validated"]), int(extra["evaluated"])
        self._recent = [float(x) for x in extra["recent"]]
        self.guard.load(extra["guard"])
        self.rollback.load(extra["rollback"])
        self.work.load_state(extra.get("work", {}))


def device_name(device: torch.device) -> str:
    """The device as a person would name it, for the record of costs."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
