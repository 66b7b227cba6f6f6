"""Going back to the last good checkpoint after repeated spikes, and leaving out the data that caused them.

What is left out are steps of the fixed order, by number: a step that is left out trains on nothing, and every other
step reads what it would have read. So the order stays a function of seed and step, the schedule keeps its place, and a
resumed run leaves out the same steps. The stretches are kept in checkpoints, in ``metrics.jsonl`` and in the manifest.
"""

from __future__ import annotations

from typing import Any

# The update before the first bad step can be what broke the model: it is left out too.
LEAD = 1
# Bad steps of these kinds, repeated, call for a rollback. A spike of the norm alone, with a loss as usual, does not:
# norms change their level when the data does, and the guard follows.
REPEATED = ("non-finite", "loss spike")


class Rollback:
    """Which steps were bad of late, and which stretches are left out.

    Args:
        after: so many bad steps (not finite, or a spike of the loss) ...
        window: ... among the last so many steps are repeated; a lone spike is only skipped.
        most: rollbacks before the run ends with an error.
    """

    def __init__(self, after: int | None, window: int, most: int) -> None:
        self.after, self.window, self.most = after, window, most
        self.bad: list[int] = []
        self.done: list[dict[str, Any]] = []

    def note(self, step: int, bad: bool) -> None:
        """A step (from 0) was taken, or was bad."""
        self.bad = [b for b in self.bad if b > step - self.window]
        if bad:
            self.bad.append(step)

    @property
    def due(self) -> bool:
        return self.after is not None and len(self.bad) >= self.after

    def begin(self) -> tuple[int, int]:
        """The stretch to leave out, first and last step; its first must be after the checkpoint that is taken."""
        return max(0, self.bad[0] - LEAD), self.bad[-1]

    def record(self, first: int, last: int, to: int) -> None:
        """The run went back to the state after ``to`` steps and leaves out [first, last]."""
        self.done.append({"to": to, "first": first, "last": last, "bad": list(self.bad)})
        self.bad = []

    def leaves_out(self, step: int) -> bool:
        return any(r["first"] <= step <= r["last"] for r in self.done)

    def state(self) -> dict[str, Any]:
        return {"bad": list(self.bad), "done": [dict(r) for r in self.done]}

    def load(self, state: dict[str, Any]) -> None:
        self.bad = [int(b) for b in state.get("bad", [])]
        self.done = [dict(r) for r in state.get("done", [])]
