"""Learning rates over a run, and the arithmetic of rules that carry settings over to other sizes."""

from __future__ import annotations

from itertools import pairwise

import pytest

from lang1.model.config import preset
from lang1.training import scaling
from lang1.training.schedule import factor_at, warmup_steps
from lang1.training.settings import OptimizerSettings, ScheduleSettings


def factors(steps: int, **settings: object) -> list[float]:
    schedule = ScheduleSettings.model_validate(settings)
    return [factor_at(step, steps, schedule) for step in range(steps)]


def test_warm_up_is_a_share_or_a_number_of_steps() -> None:
    assert warmup_steps(100, ScheduleSettings(warmup=0.05)) == 5
    assert warmup_steps(10_000, ScheduleSettings(warmup=0.5, warmup_steps=2_000)) == 2_000
    assert warmup_steps(100, ScheduleSettings(warmup_steps=2_000)) == 100
    for kind in ("cosine", "wsd", "constant"):
        rising = factors(20, kind=kind, warmup_steps=4)[:5]
        assert rising == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0], abs=1e-12 if kind != "cosine" else 0.01)
        assert factors(20, kind=kind, warmup_steps=0)[0] == 1.0


@pytest.mark.parametrize("shape", ["linear", "sqrt"])
def test_wsd_stays_at_the_peak_and_falls_over_its_last_share(shape: str) -> None:
    found = factors(100, kind="wsd", warmup=0.1, decay=0.2, decay_shape=shape, final=0.1)
    assert found[10:81] == [1.0] * 71
    assert all(a > b for a, b in pairwise(found[80:]))
    halfway = {"linear": 1 - 0.9 * 0.5, "sqrt": 1 - 0.9 * 0.5**0.5}[shape]
    assert found[90] == pytest.approx(halfway)
    assert 0.1 < found[99] < (0.15 if shape == "linear" else 0.13)
    # What is decayed begins after the warm-up, however long that is.
    assert factors(10, kind="wsd", warmup_steps=8, decay=1.0)[7] == 1.0


def test_a_constant_rate_stays() -> None:
    assert factors(10, kind="constant", warmup=0, final=0.1) == [1.0] * 10


def test_rules_by_hand() -> None:
    assert scaling.lr_for_width(4e-4, 2048, 4096) == pytest.approx(2e-4)
    assert scaling.lr_for_batch(4e-4, 1e6, 4e6) == pytest.approx(8e-4)
    assert scaling.batch_for_tokens(1e6, 1e11, 4e11) == pytest.approx(2e6)
    # Four times the steps at half the rate: a step forgets half as much of what it did, per run twice as much.
    assert scaling.decay_for_run(0.1, 1e-3, 5e-4, 1_000, 4_000) == pytest.approx(0.05)
    before, after = 1 / (1e-3 * 0.1 * 1_000), 1 / (5e-4 * 0.05 * 4_000)
    assert before == pytest.approx(after)
    assert scaling.muon_lr_for_shape(0.02) == 0.02


def test_a_suggestion_for_what_is_known_is_what_is_known_and_none_is_made_too_far_away() -> None:
    for known in (scaling.PAPER_1B, scaling.DEMO):
        shape = preset("lang1-1b", hidden_size=known.width)
        same = scaling.suggest(shape, known.tokens)
        assert same.known is known and not same.far
        assert (same.lr, same.batch) == pytest.approx((known.optimizer.lr, known.batch))
        assert same.weight_decay == pytest.approx(known.optimizer.weight_decay)
        assert same.steps == round(known.tokens / known.batch)
    wide = scaling.suggest(preset("lang1-7b"), scaling.PAPER_1B.tokens)
    assert wide.lr == pytest.approx(2e-4) and wide.weight_decay == pytest.approx(0.2) and wide.warmup_steps == 2_000
    mine = scaling.Known("mine", 512, 1e5, 1e9, OptimizerSettings(lr=1e-3))
    longer = scaling.suggest(preset("lang1-1b", hidden_size=512), 4e9, mine)
    assert (longer.batch, longer.lr) == pytest.approx((2e5, 1e-3 * 2**0.5))
    assert scaling.suggest(preset("lang1-nano"), 1e8).far
    table = scaling.table()
    assert "too far from any" in table and "| lang1-1b |" in table
