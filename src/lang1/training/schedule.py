"""The learning rate over a run, as a factor of its peak: a function of the step alone."""

from __future__ import annotations

import math

from lang1.training.settings import ScheduleSettings


def warmup_steps(steps: int, schedule: ScheduleSettings) -> int:
    """Steps of the linear warm-up: a share of the run, or a number of steps, never more than the run has."""
    if schedule.warmup_steps is not None:
        return min(schedule.warmup_steps, steps)
    return math.ceil(schedule.warmup * steps)


def factor_at(step: int, steps: int, schedule: ScheduleSettings) -> float:
    """What the peak learning rate is multiplied by at ``step`` (from 0) of ``steps``.

    After the warm-up: ``cosine`` to ``final`` at the end (Loshchilov and Hutter, arXiv 1608.03983); ``wsd`` stays at
    the peak and falls to ``final`` over the last ``decay`` of the steps, linearly or as 1 - sqrt (warm-up, stable,
    decay: arXiv 2404.06395; the square root: arXiv 2405.18392, where it ends lowest); ``constant`` stays.
    """
    warmup = warmup_steps(steps, schedule)
    if step < warmup:
        return (step + 1) / warmup
    if schedule.kind == "constant":
        return 1.0
    if schedule.kind == "cosine":
        progress = (step - warmup) / max(1, steps - warmup)
        return schedule.final + (1 - schedule.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    length = min(math.ceil(schedule.decay * steps), steps - warmup)
    into = step - (steps - length)
    if into < 0:
        return 1.0
    progress = min(1.0, into / max(1, length))
    return 1 - (1 - schedule.final) * (math.sqrt(progress) if schedule.decay_shape == "sqrt" else progress)
