"""How tasks are mixed when several are learnt jointly: weights, draws, and tasks that have learnt enough.

A task's share is its number of questions to the power 1/T: T = 1 goes by size, T = infinity gives every task the
same. Where a step visits notes with all of their questions, shares become weights in the loss; where it draws
questions, they become frequencies. Both make the same expected gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lang1.text.shared_note import EncodedGroups
from lang1.training.settings import Balance

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
LEAST_SURPRISE = 0.05  # nats, of a task with 1 % of positives: a task with fewer is not weighted up further
# Multiples of this, modulo 1, fill the unit interval evenly from any start on: every batch then holds each task's
# share of its questions to within about one (the golden ratio; Weyl 1916).
GOLDEN = (5**0.5 - 1) / 2


def visits_per_note(
    encoded: EncodedGroups, n_options: Mapping[str, int], oversample: float, rare_below: float
) -> Floats:
    """(G,) how often an epoch visits each note: ``oversample`` times where one of its labels is rare, else once."""
    repeats = np.ones(len(encoded))
    group_of_item = np.repeat(np.arange(len(encoded)), np.diff(encoded.item_ends))
    for index, task in enumerate(encoded.tasks):
        mine = encoded.item_task == index
        counts = np.bincount(encoded.item_label[mine], minlength=n_options[task])
        rare = counts < rare_below * max(1, counts.sum())
        repeats[group_of_item[mine][rare[encoded.item_label[mine]]]] = oversample
    return repeats


def task_shares(encoded: EncodedGroups, temperature: float | None = None) -> Floats:
    """Share of each task by its index, questions^(1/temperature) and None evenly; 0 for one without questions."""
    counts = np.bincount(encoded.item_task, minlength=len(encoded.tasks)).astype(np.float64)
    sizes = _sizes(counts, temperature)
    return np.asarray(sizes / max(1.0, sizes.sum()), dtype=np.float64)


def _sizes(counts: Floats, temperature: float | None) -> Floats:
    exponent = 0.0 if temperature is None else 1.0 / temperature
    return np.asarray(np.where(counts > 0, counts**exponent, 0.0), dtype=np.float64)


def task_weights(
    encoded: EncodedGroups, balance: Balance = "count", temperature: float | None = None, drawn: bool = False
) -> Floats:
    """Weight of an item of each task, by task index, so that tasks count by their shares in total; mean 1 an item.

    ``count``: shares of the sum of weights. ``surprise``: shares of the loss of a model that knows each task's class
    shares and nothing else; a task of rare outcomes, whose loss is small from the start, then counts like one of even
    classes.

    Args:
        encoded: training examples.
        balance: what counts.
        temperature: see :func:`task_shares`.
        drawn: items are drawn by their tasks' shares already.
    """
    counts = np.bincount(encoded.item_task, minlength=len(encoded.tasks)).astype(np.float64)
    sizes = _sizes(counts, temperature)
    weights = np.zeros(len(counts))
    for task in np.flatnonzero(counts):
        frequency = np.bincount(encoded.item_label[encoded.item_task == task]) / counts[task]
        surprise = float(-np.sum(frequency[frequency > 0] * np.log(frequency[frequency > 0])))
        weights[task] = 1.0 if drawn else sizes[task] / counts[task]
        weights[task] /= max(surprise, LEAST_SURPRISE) if balance == "surprise" else 1.0
    seen = sizes if drawn else counts
    total = float((weights * seen).sum())
    return np.asarray(weights * seen.sum() / total if total else weights, dtype=np.float64)


class QuestionOrder:
    """Which questions each step draws: a function of the seed and the step's number alone.

    Every task goes through its own questions in shuffled epochs; which task is drawn next follows a sequence in which
    any stretch holds each task's share.
    """

    def __init__(self, encoded: EncodedGroups, shares: Floats, per_step: int, seed: int) -> None:
        self.per_step, self.seed = per_step, seed
        self._edges = np.cumsum(shares)
        self._items = [np.flatnonzero(encoded.item_task == task) for task in range(len(shares))]
        self._start = float(np.random.default_rng([seed, 29]).random())
        self._used: list[Ints] = [np.zeros(len(shares), dtype=np.int64)]  # by step: draws of each task before it

    def items(self, step: int) -> Ints:
        """(per_step,) indices of the items of a step, in the order drawn."""
        while len(self._used) <= step:
            drawn = np.bincount(self._tasks(len(self._used) - 1), minlength=len(self._items))
            self._used.append(self._used[-1] + drawn)
        tasks = self._tasks(step)
        found = np.empty(len(tasks), dtype=np.int64)
        for task in np.unique(tasks):
            places = np.flatnonzero(tasks == task)
            found[places] = self._drawn(int(task), int(self._used[step][task]), len(places))
        return found

    def _tasks(self, step: int) -> Ints:
        place = np.arange(step * self.per_step, (step + 1) * self.per_step, dtype=np.float64)
        number = np.searchsorted(self._edges, (self._start + place * GOLDEN) % 1.0, side="right")
        last = np.flatnonzero(np.diff(self._edges, prepend=0.0) > 0)[-1]  # the edges may end just below 1
        tasks: Ints = np.minimum(number, last).astype(np.int64)
        return tasks

    def _drawn(self, task: int, first: int, count: int) -> Ints:
        mine = self._items[task]
        places = np.arange(first, first + count)
        found = np.empty(count, dtype=np.int64)
        for epoch in np.unique(places // len(mine)):
            order = np.random.default_rng([self.seed, 31, task, int(epoch)]).permutation(len(mine))
            here = places // len(mine) == epoch
            found[here] = mine[order[places[here] % len(mine)]]
        return found


@dataclass
class Standing:
    """How one task stands: its best validation and when that was, worse ones since, when it left the loss."""

    best: float | None = None
    step: int = 0
    stale: int = 0
    stopped: int | None = None


class TaskProgress:
    """Each task's best validation, and which tasks have learnt enough.

    A validation is worse for a task when it does not beat the task's own best. After ``patience`` such validations in
    a row the task leaves the loss for good: its questions are no longer asked, and what they cost is saved; the shares
    of the others among themselves stay as they are. It is still validated, and its best is still kept, since what the
    others learn may help it.
    """

    def __init__(self, tasks: Sequence[str], patience: int | None) -> None:
        self.patience = patience
        self._of = {task: Standing() for task in tasks}

    def judge(self, step: int, scores: Mapping[str, float]) -> list[str]:
        """Take in a validation; returns the tasks for which it is the best so far."""
        better = []
        for task, score in scores.items():
            mine = self._of[task]
            if mine.best is None or score > mine.best:
                mine.best, mine.step, mine.stale = score, step, 0
                better.append(task)
                continue
            mine.stale += 1
            if self.patience is not None and mine.stale >= self.patience and mine.stopped is None:
                mine.stopped = step
        return better

    @property
    def stopped(self) -> list[str]:
        """The tasks that have left the loss."""
        return [task for task, mine in self._of.items() if mine.stopped is not None]

    def summary(self) -> dict[str, Any]:
        """By task: its best validation, the step of that, and the step at which it left the loss or None."""
        return {t: {"best": m.best, "step": m.step, "stopped": m.stopped} for t, m in self._of.items()}

    def state(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {task: asdict(mine) for task, mine in self._of.items()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self._of = {task: Standing(**mine) for task, mine in state.items()}
