"""Packing, schedule, optimizers, guard and checkpoints, each alone."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lang1.common.errors import ArtefactError, SettingsError
from lang1.model.config import ModelSettings
from lang1.model.llama import Llama
from lang1.training.checkpoint import Checkpoints, restore
from lang1.training.guard import SETTLE, StepGuard
from lang1.training.optim import Optimizers, factor_at, orthogonal
from lang1.training.packing import flatten
from lang1.training.settings import OptimizerSettings, ScheduleSettings

SHAPE = ModelSettings(
    vocab_size=40, hidden_size=16, layers=2, heads=2, kv_heads=1, head_dim=8, intermediate_size=24, context=32
)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(2, 12), st.integers(0, 10_000))
def test_flatten_predicts_each_next_token_of_the_same_document_once(rows: int, length: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = np.arange(rows * length).reshape(rows, length)
    documents = np.cumsum(rng.random((rows, length)) < 0.3, axis=1).astype(np.int32)
    documents[-1, length // 2 :] = np.where(rng.random() < 0.5, -1, documents[-1, length // 2 :])
    expected = [
        (int(tokens[r, i]), int(tokens[r, i + 1]))
        for r in range(rows)
        for i in range(length - 1)
        if documents[r, i] == documents[r, i + 1] >= 0
    ]
    stream = flatten(tokens, documents)
    if stream is None:
        assert not expected
        return
    assert sorted(zip(stream.tokens[stream.read].tolist(), stream.target.tolist(), strict=True)) == sorted(expected)
    assert stream.lengths.sum() == len(stream.tokens) and (np.diff(stream.lengths) >= 0).all()


def test_schedule_warms_up_and_falls_to_its_end() -> None:
    schedule = ScheduleSettings(warmup=0.1, final=0.2)
    factors = [factor_at(step, 100, schedule) for step in range(100)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == pytest.approx(1.0)
    assert max(factors) == pytest.approx(1.0) and factors[99] == pytest.approx(0.2, abs=1e-3)
    assert all(a >= b for a, b in pairwise(factors[10:]))
    assert [factor_at(s, 10, ScheduleSettings(warmup=0, final=1)) for s in range(10)] == [1.0] * 10


@pytest.mark.parametrize("shape", [(24, 24), (48, 16), (16, 48)])
def test_orthogonal_brings_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrices).float())
    assert values.max() < 1.3 and values.median() > 0.6
    alone = orthogonal(matrices[1:2])[0].float()
    torch.testing.assert_close(orthogonal(matrices)[1].float(), alone, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_optimizer_state_survives_as_tensors(kind: str) -> None:
    def step(model: Llama, optimizers: Optimizers) -> None:
        model.logits_of(torch.arange(20)[None]).square().mean().backward()
        optimizers.clip()
        optimizers.step()
        optimizers.zero_grad()

    options = OptimizerSettings(kind=kind)  # type: ignore[arg-type]
    first, second = Llama(SHAPE), Llama(SHAPE)
    first.initialise(0)
    a, b = Optimizers(first, options), Optimizers(second, options)
    step(first, a)
    restore(second, {n: p.detach() for n, p in first.named_parameters()})
    b.load_state_tensors(a.state_tensors())
    for _ in range(2):
        step(first, a)
        step(second, b)
    for (name, x), (_, y) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert torch.equal(x, y), name
    with pytest.raises(ArtefactError, match="unknown weight 'other'"):
        b.load_state_tensors({"exp_avg/other": torch.zeros(1)})


def test_guard_skips_and_counts_nan_and_spikes_and_goes_on() -> None:
    guard = StepGuard(sigma=8)
    rng = np.random.default_rng(0)
    for _ in range(SETTLE + 10):
        assert guard.accept(1.0, 1 + 0.1 * float(rng.standard_normal()))
    assert not guard.accept(math.nan, 1.0)
    assert not guard.accept(1.0, math.inf)
    assert not guard.accept(1.0, 50.0)
    assert guard.accept(1.0, 1.1)
    assert guard.skipped == {"non-finite": 2, "spike": 1}
    copy = StepGuard(sigma=8)
    copy.load(guard.state())
    assert copy.state() == guard.state()
    for _ in range(400):  # a level that stays is not refused for ever
        if guard.accept(1.0, 20.0):
            break
    else:
        pytest.fail("a lasting level of the gradient norm was refused for ever")


def model_and_optimizers() -> tuple[Llama, Optimizers]:
    model = Llama(SHAPE)
    model.initialise(0)
    return model, Optimizers(model, OptimizerSettings())


def test_checkpoints_are_whole_newest_first_and_bound_to_their_settings(tmp_path: Path) -> None:
    model, optimizers = model_and_optimizers()
    checkpoints = Checkpoints(tmp_path, {"settings": {"optimizer": {"lr": 0.1}}})
    assert checkpoints.latest() is None
    for step in (1, 2, 3):
        checkpoints.save(step, model, optimizers, {"tokens": step})
    checkpoints.finish()
    assert [p.name for p in sorted(checkpoints.folder.iterdir())] == ["step-00000002", "step-00000003"]
    found = checkpoints.latest()
    assert found is not None and found.step == 3 and found.extra == {"tokens": 3}

    with pytest.raises(SettingsError, match=r"settings\.optimizer\.lr was 0\.1, now 0\.2"):
        Checkpoints(tmp_path, {"settings": {"optimizer": {"lr": 0.2}}}).latest()

    weights = checkpoints.folder / "step-00000003" / "rank-00000.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    older = checkpoints.latest()
    assert older is not None and older.step == 2
    weights = checkpoints.folder / "step-00000002" / "rank-00000.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(bytes(damaged))
    with pytest.raises(ArtefactError, match="damaged"):
        checkpoints.latest()
    checkpoints.drop()
    assert checkpoints.latest() is None


def test_a_half_written_checkpoint_is_never_read(tmp_path: Path) -> None:
    model, optimizers = model_and_optimizers()
    checkpoints = Checkpoints(tmp_path, {})
    (checkpoints.folder / ".partial").mkdir(parents=True)
    (checkpoints.folder / ".partial" / "state.json").write_text("{}")
    assert checkpoints.latest() is None
    checkpoints.save(1, model, optimizers, {})
    checkpoints.finish()
    found = checkpoints.latest()
    assert found is not None and found.step == 1
