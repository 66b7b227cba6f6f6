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
# A deviation counts as at least this share of the mean. The steps of finetuning that hold a rare outcome have gradients
# several times the usual, and skipping them (1 in 100 at a floor of a tenth) would skip what there is to learn. Losses
# vary less: at 6 deviations a loss must exceed its mean by three tenths.
NORM_FLOOR = 0.5
LOSS_FLOOR = 0.05


class Level:
    """A running mean and deviation of something that should not jump."""

    def __init__(self, floor: float) -> None:
        self.floor = floor
        self.mean = 0.0
        self.square = 0.0

    def above(self, value: float, sigma: float) -> bool:
        deviation = max(math.sqrt(max(self.square - self.mean**2, 0.0)), self.floor * self.mean)
        return value > self.mean + sigma * deviation

    def learn(self, value: float, share: float) -> None:
        self.mean += share * (value - self.mean)
        self.square += share * (value**2 - self.square)


class StepGuard:
    """Judges each step by its loss and gradient norm against running means and deviations of both.

    Args:
        sigma: a norm further above its mean than so many deviations is a spike.
        loss_sigma: the same of the loss (6 is what OLMo skips at, arXiv 2501.00656); None does not judge it.
    """

    def __init__(self, sigma: float, loss_sigma: float | None = None) -> None:
        self.sigma, self.loss_sigma = sigma, loss_sigma
        self.seen = 0
        self.norm = Level(NORM_FLOOR)
        self.loss = Level(LOSS_FLOOR)
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
                self._learn(min(loss, 2 * self.loss.mean), min(norm, 2 * self.norm.mean))
        return reason

    def accept(self, loss: float, norm: float) -> bool:
        """Whether to take the step; see :meth:`judge`."""
        return self.judge(loss, norm) is None

    def _reason(self, loss: float, norm: float) -> str | None:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return "non-finite"
        if self.seen < SETTLE:
            return None
        if self.loss_sigma is not None and self.loss.above(loss, self.loss_sigma):
            return "loss spike"
        return "spike" if self.norm.above(norm, self.sigma) else None

    def _learn(self, loss: float, norm: float) -> None:
        share = max(1 - MEMORY, 1 / (self.seen + 1))
        self.norm.learn(norm, share)
        self.loss.learn(loss, share)
        self.seen += 1

    def state(self) -> dict[str, Any]:
        return {
            "seen": self.seen,
            "norm": [self.norm.mean, self.norm.square],
            "loss": [self.loss.mean, self.loss.square],
            "skipped": dict(self.skipped),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.seen = int(state["seen"])
        self.norm.mean, self.norm.square = (float(x) for x in state["norm"])
        self.loss.mean, self.loss.square = (float(x) for x in state["loss"])
        self.skipped = {str(k): int(v) for k, v in state["skipped"].items()}
