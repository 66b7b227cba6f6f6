"""Steps that would harm the model are skipped and counted: NaN or infinite loss, and sudden spikes.

The judgement needs the loss and the gradient norm as numbers before the update: one wait for the device a step, which
the loop has anyway since it sums the loss over the processes.
"""

from __future__ import annotations

import math
from typing import Any

# Steps before spikes are judged: the first gradients of a run fall fast.
SETTLE = 20
MEMORY = 0.98
LOSS_MEMORY = 0.9
# A deviation counts as at least this share of the mean. The steps of finetuning that hold a rare outcome have gradients
# several times the usual, and skipping them (1 in 100 at a floor of a tenth) would skip what there is to learn. Losses
# vary less: at 6 deviations a loss must exceed its mean by three tenths.
NORM_FLOOR = 0.5
LOSS_FLOOR = 0.05


class NormLevel:
    """A running mean and deviation of the gradient norm."""

    def __init__(self) -> None:
        self.mean = 0.0
        self.square = 0.0

    @property
    def deviation(self) -> float:
        return max(math.sqrt(max(self.square - self.mean**2, 0.0)), NORM_FLOOR * self.mean)

    def learn(self, value: float, seen: int) -> None:
        share = max(1 - MEMORY, 1 / (seen + 1))
        self.mean += share * (value - self.mean)
        self.square += share * (value**2 - self.square)


class LossLevel:
    """A running mean and deviation of the loss, which falls while it is watched.

    The deviation is that of differences between one step and the next (von Neumann 1941): its trend does not count as
    noise, as it would in the deviation from a mean of fifty steps, above which early garbage does not stand out.
    """

    def __init__(self) -> None:
        self.mean = 0.0
        self.square = 0.0
        self.last = 0.0

    @property
    def deviation(self) -> float:
        return max(math.sqrt(self.square / 2), LOSS_FLOOR * self.mean)

    def learn(self, value: float, seen: int) -> None:
        if seen:
            self.square += max(1 - MEMORY, 1 / seen) * ((value - self.last) ** 2 - self.square)
        self.mean += max(1 - LOSS_MEMORY, 1 / (seen + 1)) * (value - self.mean)
        self.last = value


class StepGuard:
    """Judges each step by its loss and gradient norm against running means and deviations of both.

    Args:
        sigma: a norm further above its mean than so many deviations is a spike.
        loss_sigma: the same of the loss (6 is what the skip-step optimizers of OLMo-core take); None does not judge it.
    """

    def __init__(self, sigma: float, loss_sigma: float | None = None) -> None:
        self.sigma, self.loss_sigma = sigma, loss_sigma
        self.seen = 0
        self.norm = NormLevel()
        self.loss = LossLevel()
        self.skipped: dict[str, int] = {}

    def judge(self, loss: float, norm: float) -> str | None:
        """Why not to take the step, which is counted; None where it is to be taken.

        ``non-finite``, ``loss spike``, or ``spike`` (of the norm alone, the loss being as usual).
        """
        reason = self._reason(loss, norm)
        if reason is None:
            self._learn(loss, norm)
        else:
            self.skipped[reason] = self.skipped.get(reason, 0) + 1
            if reason != "non-finite":
                # A level that stays high is no spike: let the means follow, slowly.
                self._learn(min(loss, self.loss.mean + self.loss.deviation), min(norm, 2 * self.norm.mean))
        return reason

    def accept(self, loss: float, norm: float) -> bool:
        """Whether to take the step; see :meth:`judge`."""
        return self.judge(loss, norm) is None

    def _reason(self, loss: float, norm: float) -> str | None:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return "non-finite"
        if self.seen < SETTLE:
            return None
        if self.loss_sigma is not None and loss > self.loss.mean + self.loss_sigma * self.loss.deviation:
            return "loss spike"
        return "spike" if norm > self.norm.mean + self.sigma * self.norm.deviation else None

    def _learn(self, loss: float, norm: float) -> None:
        self.norm.learn(norm, self.seen)
        self.loss.learn(loss, self.seen)
        self.seen += 1

    def state(self) -> dict[str, Any]:
        return {
            "seen": self.seen,
            "norm": [self.norm.mean, self.norm.square],
            "loss": [self.loss.mean, self.loss.square, self.loss.last],
            "skipped": dict(self.skipped),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.seen = int(state["seen"])
        self.norm.mean, self.norm.square = (float(x) for x in state["norm"])
        self.loss.mean, self.loss.square, self.loss.last = (float(x) for x in state["loss"])
        self.skipped = {str(k): int(v) for k, v in state["skipped"].items()}
