"""What a step must not be disturbed by, and what it must not depend on: garbage collection, and random state."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_ODD = 0x9E3779B97F4A7C15


@contextmanager
def collected_by_hand() -> Iterator[None]:
    """Python's cyclic collector off, and what exists already out of its sight: left on, it stops a step whenever it
    likes, at another time in each process, and all wait for the slowest. Call :func:`collect` at fixed steps."""
    was = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was:
            gc.enable()


def collect() -> None:
    """Collect young garbage now, in every process at the same step."""
    gc.collect(1)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Set torch's random state to a function of seed, step and process, so that none needs to be carried along."""
    torch.manual_seed(((seed * _ODD) ^ (step * 0xBF58476D1CE4E5B9) ^ (rank * 0x94D049BB133111EB)) % (1 << 63))
