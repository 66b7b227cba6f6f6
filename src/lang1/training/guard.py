"""Steps that would harm the model are skipped and counted: NaN or infinite loss, and sudden spikes."""

from __future__ import annotations

import math
from typing import Any

# Steps before spikes are judged: the first gradients of a run fall fast.
SETTLE = 20
MEMORY = 0.98
FLOOR = 0.5


class StepGuard:
    """Judges each step by its loss and gradient norm against a running mean and deviation of the norm.

    Args:
        sigma: a norm further above the mean than so many deviations is a spike. The deviation counts as at least
            half of the mean: the steps of finetuning that hold a rare outcome have gradients several times the usual,
            and skipping them (1 in 100 at a floor of a tenth) would skip what there is to learn.
    """

    def __init__(self, sigma: float) -> None:
        self.sigma = sigma
        self.seen = 0
        self.mean = 0.0
        self.square = 0.0
        self.skipped: dict[str, int] = {}

    def accept(self, loss: float, norm: float) -> bool:
        """Whether to take the step; a step that is not taken is counted by its reason."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.skipped["non-finite"] = self.skipped.get("non-finite", 0) + 1
            return False
        if self.seen >= SETTLE:
            deviation = max(math.sqrt(max(self.square - self.mean**2, 0.0)), FLOOR * self.mean)
            if norm > self.mean + self.sigma * deviation:
                self.skipped["spike"] = self.skipped.get("spike", 0) + 1
                # A level that stays high is no spike: let the mean follow, slowly.
                self._learn(min(norm, 2 * self.mean))
                return False
        self._learn(norm)
        return True

    def _learn(self, norm: float) -> None:
        share = max(1 - MEMORY, 1 / (self.seen + 1))
        self.mean += share * (norm - self.mean)
        self.square += share * (norm**2 - self.square)
        self.seen += 1

    def state(self) -> dict[str, Any]:
        return {"seen": self.seen, "mean": self.mean, "square": self.square, "skipped": dict(self.skipped)}

    def load(self, state: dict[str, Any]) -> None:
        self.seen, self.mean, self.square = int(state["seen"]), float(state["mean"]), float(state["square"])
        self.skipped = {str(k): int(v) for k, v in state["skipped"].items()}
