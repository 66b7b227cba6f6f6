"""Blocks never see each other: every attention backend against the dense mask, and against documents alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lang1.model.attention import BACKENDS, attend, build_layout
from lang1.model.config import ModelSettings
from lang1.model.llama import Llama
from lang1.model.rotary import rotary

SHAPE = ModelSettings(
    vocab_size=50, hidden_size=32, layers=2, heads=4, kv_heads=2, head_dim=8, intermediate_size=48, context=64
)


def random_blocks(rng: np.random.Generator, lengths: list[int]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Positions and branches of notes followed by two questions each."""
    positions, branches = [], []
    for length in lengths:
        note = int(rng.integers(0, length + 1))
        first = int(rng.integers(note, length + 1))
        branch = np.zeros(length, dtype=np.int64)
        branch[note:first], branch[first:] = 1, 2
        position = np.arange(length)
        position[first:] = note + np.arange(length - first)
        positions.append(position)
        branches.append(branch)
    return np.concatenate(positions), np.concatenate(branches)


@pytest.mark.parametrize("backend", [b for b in BACKENDS if b != "dense"])
@pytest.mark.parametrize("shared", [False, True])
def test_backends_equal_the_dense_mask_forward_and_backward(backend: str, shared: bool) -> None:
    rng = np.random.default_rng(0)
    lengths = sorted(int(x) for x in rng.integers(1, 40, 9))
    positions, branch = random_blocks(rng, lengths) if shared else (None, None)
    layout = build_layout(lengths, positions, branch)
    assert len(layout.buckets) > 1
    generator = torch.Generator().manual_seed(0)
    n = len(layout.positions)  # with the unused rows at the end
    q, k, v = (torch.randn(n, h, 8, generator=generator).requires_grad_() for h in (4, 2, 2))
    cos, sin = rotary(layout.positions, 8, 10_000.0, torch.float32)
    weight = torch.randn(n, 32, generator=generator)
    found = {}
    for name in ("dense", backend):
        out = attend(q, k, v, cos, sin, layout, name)  # type: ignore[arg-type]
        found[name] = (out.detach(), *torch.autograd.grad(out, (q, k, v), weight))
    assert (found[backend][0][layout.tokens :] == 0).all()
    for ours, reference in zip(found[backend], found["dense"], strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-5, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=7), st.integers(0, 10_000))
def test_a_packed_stream_equals_its_documents_alone(lengths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = Llama(SHAPE)
    model.initialise(0)
    tokens = rng.integers(0, 50, sum(lengths))
    for backend in BACKENDS:
        model.backend = backend
        with torch.no_grad():
            packed = model(torch.from_numpy(tokens), build_layout(lengths))
            start = 0
            for length in lengths:
                alone = model(torch.from_numpy(tokens[start : start + length]), build_layout([length]))
                torch.testing.assert_close(packed[start : start + length], alone, atol=1e-5, rtol=1e-5)
                start += length


def test_changing_one_document_changes_no_other() -> None:
    model = Llama(SHAPE)
    model.initialise(1)
    tokens = torch.arange(30) % 50
    changed = tokens.clone()
    changed[:10] = 7
    for backend in BACKENDS:
        model.backend = backend
        with torch.no_grad():
            before, after = (model(t, build_layout([10, 20])) for t in (tokens, changed))
        assert not torch.allclose(before[:10], after[:10])
        torch.testing.assert_close(before[10:], after[10:], atol=0, rtol=0)


def test_reading_some_tokens_equals_reading_all() -> None:
    model = Llama(SHAPE)
    model.initialise(2)
    tokens, layout, read = torch.arange(30) % 50, build_layout([10, 20]), torch.tensor([3, 9, 29])
    with torch.no_grad():
        torch.testing.assert_close(model(tokens, layout, read), model(tokens, layout)[read], atol=1e-6, rtol=1e-6)


def test_bf16_stays_near_fp32_and_its_gradients_point_the_same_way() -> None:
    rng = np.random.default_rng(3)
    lengths = sorted(int(x) for x in rng.integers(2, 40, 9))
    tokens = torch.from_numpy(rng.integers(0, 50, sum(lengths)))
    grads = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = Llama(SHAPE, dtype)
        model.initialise(0)
        model.backend = "bmm"
        model.logits(model(tokens, build_layout(lengths))).square().sum().backward()
        grads[dtype] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    cosine = torch.nn.functional.cosine_similarity(grads[torch.float32], grads[torch.bfloat16], dim=0)
    assert cosine > 0.995
