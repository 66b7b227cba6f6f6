"""The arithmetic of tokens a second and MFU, against cases computed by hand and by brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lang1.model.config import ModelSettings, preset
from lang1.text.shared_note import EncodedGroups, assemble
from lang1.training.answers import tally_of
from lang1.training.packing import flatten
from lang1.training.throughput import PEAKS, Tally, Throughput, peak_flops, step_flops

SHAPE = ModelSettings(
    vocab_size=1000, hidden_size=64, layers=3, heads=4, kv_heads=2, head_dim=16, intermediate_size=128
)


class Clock:
    def __init__(self, at: float) -> None:
        self.now = at

    def __call__(self) -> float:
        return self.now


def test_one_whole_row_gives_the_customary_formula() -> None:
    """7B of the paper at 2,048 tokens: 6 x 6.607e9 + 12 x 32 x 4096 x 2048 = 42.9 GFLOP a token."""
    shape = preset("lang1-7b", vocab_size=32_000)
    row = Tally(tokens=2048, useful=2048, read=2048, pairs=2048**2, read_pairs=2048**2)
    matmul = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008) + 32_000 * 4096
    assert step_flops(shape, row) / 2048 == pytest.approx(6 * matmul + 12 * 32 * 4096 * 2048)
    assert step_flops(shape, row) / 2048 == pytest.approx(42.9e9, rel=2e-3)
    assert shape.flops_per_token == pytest.approx(6 * matmul, rel=1e-4)  # which counts norms, as weights


def test_tokens_that_are_not_read_cost_no_head_and_little_of_the_last_layer() -> None:
    """By hand: layer = 2·64·(64+32) attention + 3·64·128 MLP = 36,864; of it 4,096 are keys and values."""
    seen = Tally(tokens=10, useful=10, read=2, pairs=100, read_pairs=20)
    body = 2 * 36_864 * 10 + 4_096 * 10 + (36_864 - 4_096) * 2
    assert step_flops(SHAPE, seen) == 6 * (body + 64_000 * 2) + 12 * 64 * (2 * 100 + 20)
    assert step_flops(SHAPE, seen, trained=0.0) == 4 * (body + 64_000 * 2) + 12 * 64 * (2 * 100 + 20)


def test_the_rate_is_that_of_the_steps_since_it_was_last_taken() -> None:
    clock = Clock(1e6)  # a restarted process: the clock stands anywhere
    rate = Throughput(SHAPE, 1e9, clock=clock)
    seen = Tally(tokens=100, useful=90, read=90, pairs=1000, read_pairs=900)
    for _ in range(2):
        rate.begin()
        clock.now += 2.0
        rate.end(seen, 120)
        clock.now += 50.0  # a validation
    found = rate.take()
    assert found["tokens_per_second"] == 45.0 and found["padded_per_second"] == 60.0
    assert found["mfu"] == pytest.approx(step_flops(SHAPE, seen) / 2.0 / 1e9, abs=1e-4)
    assert rate.take() == {}
    rate.begin()
    clock.now += 1.0
    rate.end(seen, 120)
    assert rate.take()["tokens_per_second"] == 90.0
    assert "mfu" not in Throughput(SHAPE, None, clock=clock).take()


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GeForce GTX 1080", None),
        ("cpu, 2 threads", None),
    ],
)
def test_peaks_are_of_known_devices_only(name: str, peak: float | None) -> None:
    assert peak_flops(name, torch.bfloat16) == peak
    assert peak_flops(name, torch.float32) is None
    assert all(5e13 < value < 3e15 for _, value in PEAKS)


def test_a_packed_stream_is_tallied_as_its_documents() -> None:
    tokens = np.arange(16).reshape(2, 8)
    documents = np.array([[0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 1, -1, -1, -1, -1, -1]])
    stream = flatten(tokens, documents)
    assert stream is not None
    tally = stream.tally()  # pieces of 3, 5 and 2; the lone token of the second row is left out
    assert tally == Tally(tokens=10, useful=7, read=7, pairs=9 + 25 + 4, read_pairs=2 * 3 + 4 * 5 + 1 * 2)


@pytest.mark.parametrize("notes_read", [False, True])
def test_a_shared_note_is_tallied_as_what_its_mask_permits(notes_read: bool) -> None:
    rng = np.random.default_rng(0)
    sizes, asked = [4, 0, 7, 3], [[0, 1], [1, 0], [1], [0, 1, 1]]
    encoded = EncodedGroups(
        tasks=("a", "b"),
        question_tokens=(np.arange(3, dtype=np.int32), np.arange(5, dtype=np.int32)),
        note_tokens=rng.integers(0, 9, sum(sizes)).astype(np.int32),
        note_ends=np.cumsum([0, *sizes]),
        truncated=np.zeros(4, dtype=np.int64),
        item_ends=np.cumsum([0, *map(len, asked)]),
        item_task=np.array([t for ts in asked for t in ts]),
        item_label=np.zeros(8, dtype=np.int64),
        example_ids=[str(i) for i in range(8)],
    )
    batch = assemble(encoded, np.arange(4))
    group = np.repeat(np.arange(4), batch.lengths)
    same = group[:, None] == group[None]
    may = same & ((batch.branch[None] == 0) | (batch.branch[:, None] == batch.branch[None]))
    # Without the causal discount, of a note and a question alike: a pair counts in both directions of a branch.
    read = np.concatenate([batch.answer, batch.note_read]) if notes_read else batch.answer
    expected = Tally(len(batch.tokens), len(batch.tokens), len(read), int(may.sum()), int(may[read].sum()))
    assert tally_of(batch, notes_read) == expected
