"""Blocks never see each other: every attention backend against the dense mask, and against documents alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lang1.model import attention
from lang1.model.attention import BACKENDS, Backend, attend, choose_backend, present
from lang1.model.config import ModelSettings
from lang1.model.decoder import Checkpointing
from lang1.model.layout import ENDS, TILE, Layout, build_layout, numbered, round_rows, visible_tiles
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


DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_CPU = ("bmm", "sdpa", "loop")


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("backend", [b for b in BACKENDS if b != "dense"])
def test_backends_equal_the_dense_mask_forward_and_backward(backend: Backend, kv_heads: int, shared: bool) -> None:
    """On a CPU in fp32; on a GPU the backends that want 16 bits in bf16, against the dense mask in fp32."""
    if not present(backend, DEVICE):
        pytest.skip(f"no {backend} attention with gradients on this machine")
    if shared and backend in ("varlen", "flash"):
        pytest.skip(f"{backend} attention knows no branches")
    width = 8 if backend in ON_CPU else 64
    rng = np.random.default_rng(0)
    lengths = sorted(int(x) for x in rng.integers(1, 40 if backend in ON_CPU else 200, 9))
    positions, branch = random_blocks(rng, lengths) if shared else (None, None)
    layout = build_layout(lengths, positions, branch, DEVICE)
    assert len(layout.buckets) > 1
    hold_to_the_dense_mask(backend, layout, kv_heads, width)


@pytest.mark.parametrize("blocks", [4, 5])
@pytest.mark.parametrize("kv_heads", [1, 4])
def test_even_blocks_as_rows_equal_the_dense_mask(kv_heads: int, blocks: int) -> None:
    layout = build_layout([32] * blocks, device=DEVICE)
    assert layout.even and bool(layout.tail) == (blocks == 5)
    hold_to_the_dense_mask("even", layout, kv_heads, 64)
    assert not build_layout([32, 31]).even


def hold_to_the_dense_mask(backend: Backend, layout: Layout, kv_heads: int, width: int) -> None:
    """Outputs and gradients of a backend and of the dense mask; on a GPU in the format that the backend wants."""
    halves = backend in ("varlen", "flash") or (backend == "even" and DEVICE.type == "cuda")
    dtype = torch.bfloat16 if halves else torch.float32
    generator = torch.Generator().manual_seed(0)
    n = len(layout.positions)  # with the unused rows at the end
    exact = [torch.randn(n, h, width, generator=generator).to(dtype).to(DEVICE) for h in (4, kv_heads, kv_heads)]
    weight = torch.randn(n, 4 * width, generator=generator).to(DEVICE)
    weight[layout.tokens :] = 0  # what stands in the tail is not read
    found = {}
    names: tuple[Backend, ...] = ("dense", backend)
    for name in names:
        kind = torch.float32 if name == "dense" else dtype
        q, k, v = (x.to(kind).requires_grad_() for x in exact)
        cos, sin = rotary(layout.positions, width, 10_000.0, kind)
        out = attend(q, k, v, cos, sin, layout, name)
        assert out.isfinite().all()
        grads = torch.autograd.grad(out, (q, k, v), weight.to(kind))
        found[name] = [x[: layout.tokens].float() for x in (out.detach(), *grads)]
    for ours, reference in zip(found[backend], found["dense"], strict=True):
        if DEVICE.type == "cpu":
            torch.testing.assert_close(ours, reference, atol=1e-5, rtol=1e-5)
        else:  # other orders of sums, and rounding to 16 bits inside some kernels
            gap = (ours - reference).abs()
            share = 2e-2 if backend not in ON_CPU else 1e-4
            assert gap.norm() < share * reference.norm() and gap.max() < 3 * share * reference.abs().max()


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("shared", [False, True])
def test_flex_attention_equals_the_dense_mask_forward(shared: bool) -> None:
    """Its tiles and its mask, on a CPU, where it computes no gradients; several tiles and a tail."""
    rng = np.random.default_rng(1)
    lengths = [3, 130, 250, 300]
    positions, branch = random_blocks(rng, lengths) if shared else (None, None)
    layout = build_layout(lengths, positions, branch)
    assert layout.tail
    generator = torch.Generator().manual_seed(0)
    n = len(layout.positions)
    q, k, v = (torch.randn(n, h, 16, generator=generator) for h in (4, 2, 2))
    cos, sin = rotary(layout.positions, 16, 10_000.0, torch.float32)
    with torch.no_grad():
        flex, dense = (attend(q, k, v, cos, sin, layout, name) for name in ("flex", "dense"))  # type: ignore[arg-type]
    torch.testing.assert_close(flex[: layout.tokens], dense[: layout.tokens], atol=1e-5, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=6), st.booleans(), st.integers(0, 10_000))
def test_tiles_hold_all_that_is_visible_and_whole_ones_nothing_else(
    lengths: list[int], shared: bool, seed: int
) -> None:
    _, own = random_blocks(np.random.default_rng(seed), lengths) if shared else (None, None)
    tail = round_rows(sum(lengths)) - sum(lengths)
    some, whole = visible_tiles(lengths, own, tail)
    block, branch = numbered(lengths, own, tail)
    rows = len(block)
    see = np.tri(rows, dtype=bool) & (block[:, None] == block[None])
    see &= (branch[None] == 0) | (branch[None] == branch[:, None])
    for query in range(len(some)):
        for key in range(len(some)):
            part = see[query * TILE : (query + 1) * TILE, key * TILE : (key + 1) * TILE]
            assert part.all() or not whole[query, key]
            assert some[query, key] or whole[query, key] or not part.any()
            assert not (some[query, key] and whole[query, key])
            if not shared:
                assert part.any() or not some[query, key]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=90))
def test_ends_cut_the_rows_into_the_blocks_and_a_tail(lengths: list[int]) -> None:
    layout = build_layout(lengths)
    ends = layout.ends
    steps = np.diff(ends.ends.numpy())
    assert tuple(steps[: len(lengths)]) == tuple(lengths)
    assert steps.sum() == len(layout.positions) and steps.min() >= 0 and steps.max() <= ends.longest
    assert len(ends.ends) % ENDS == 0 and ends.longest & (ends.longest - 1) == 0


def test_the_backend_fits_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert choose_backend(cpu, torch.bfloat16, 512) == "bmm" and choose_backend(cpu, torch.float32, 512) == "sdpa"
    assert choose_backend(cpu, torch.bfloat16, 2048) == "sdpa"
    there = {"flash", "varlen", "flex"}
    monkeypatch.setattr(attention, "present", lambda backend, device: backend in there)
    assert choose_backend(gpu, torch.bfloat16, 512) == "flash"
    there.remove("flash")
    assert choose_backend(gpu, torch.bfloat16, 512) == "varlen"
    assert choose_backend(gpu, torch.bfloat16, 512, branched=True) == "flex"
    assert choose_backend(gpu, torch.bfloat16, 512, head_dim=12) == "sdpa"
    assert choose_backend(gpu, torch.float32, 512) == "sdpa"
    there.clear()
    assert choose_backend(gpu, torch.bfloat16, 512, branched=True) == "sdpa"


@pytest.mark.parametrize("checkpointing", ["alternate", "layer"])
def test_computing_activations_again_changes_no_gradient(checkpointing: Checkpointing) -> None:
    grads = []
    for kind in ("none", checkpointing):
        model = Llama(SHAPE)
        model.initialise(0)
        model.checkpointing = kind  # type: ignore[assignment]
        hidden = model(torch.arange(30) % 50, build_layout([10, 20]), torch.tensor([3, 9, 29]))
        model.logits(hidden).square().sum().backward()
        grads.append([p.grad for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=7), st.integers(0, 10_000))
def test_a_packed_stream_equals_its_documents_alone(lengths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = Llama(SHAPE)
    model.initialise(0)
    tokens = rng.integers(0, 50, sum(lengths))
    for backend in (*ON_CPU, "dense"):
        model.backend = backend  # type: ignore[assignment]
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
    for backend in (*ON_CPU, "dense"):
        model.backend = backend  # type: ignore[assignment]
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
