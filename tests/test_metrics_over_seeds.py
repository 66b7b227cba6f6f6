"""Figures over several trainings: by hand, against t-tests, and how often the interval holds the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from lang1.common.errors import InputError
from lang1.metrics.intervals import around, in_log_odds, student_p
from lang1.metrics.over_seeds import WEIGHT, OverSeeds, Pooled, difference_over_seeds, over_seeds, spread


def _noise(shape: tuple[int, ...], seed: int = 0, scale: float = 0.02) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=scale, size=shape)


def test_one_training_has_the_interval_of_its_patients() -> None:
    draws = 0.8 + _noise((1, 400))
    found = over_seeds([0.8], draws, 30, share=True)
    assert (found.low, found.high) == pytest.approx(in_log_odds(draws[0], 0.8, df=30))
    gap = over_seeds([0.03], draws - 0.77, 30)
    assert (gap.low, gap.high) == pytest.approx(around(draws[0] - 0.77, 0.03, df=30))
    assert gap.p == pytest.approx(student_p(draws[0] - 0.77, 0.03, df=30))
    assert found.seeds == 1 and found.between is None


def test_equal_trainings_are_as_sure_as_one() -> None:
    draws = 0.8 + _noise((1, 400))
    one, three = over_seeds([0.8], draws, 30, share=True), over_seeds([0.8] * 3, np.repeat(draws, 3, 0), 30, share=True)
    assert (one.low, one.high) == pytest.approx((three.low, three.high))
    assert three.between == pytest.approx(0.0, abs=1e-12)


def test_without_luck_of_patients_it_is_students_t_test() -> None:
    values = np.array([0.02, 0.05, 0.03, 0.06])
    found = over_seeds(values, np.repeat(values[:, None], 50, 1), 1000)
    test = stats.ttest_1samp(values, 0.0)
    assert found.p == pytest.approx(test.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval()))


def test_without_luck_of_patients_and_pairs_it_is_welchs_test() -> None:
    one, other = np.array([0.81, 0.84, 0.80]), np.array([0.75, 0.74])
    still = [(v, np.repeat(v[:, None], 50, 1)) for v in (one, other)]
    found = difference_over_seeds(still[0], still[1], 1000)
    test = stats.ttest_ind(one, other, equal_var=False)
    assert found.value == pytest.approx(one.mean() - other.mean())
    assert found.p == pytest.approx(test.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval()))


def test_by_hand_with_like_trainings() -> None:
    values, draws = np.array([0.10, 0.14]), np.array([[0.1], [0.14]]) + _noise((2, 300))
    df, like = 40.0, Pooled(0.0004, 3.0)
    of_patients = np.var(draws.mean(axis=0), ddof=1)
    own = sum(np.var(d - draws.mean(axis=0), ddof=1) for d in draws) / 1
    shrunk = (3 * (0.0004 + own) + np.var(values, ddof=1)) / 4
    part = max(shrunk - own, 0) / 2
    error = math.sqrt(of_patients + part)
    freedom = error**4 / (of_patients**2 / df + (shrunk / 2) ** 2 / 4)
    reach = stats.t.ppf(0.975, freedom) * error
    found = over_seeds(values, draws, df, pooled=like)
    assert (found.low, found.high) == pytest.approx((0.12 - reach, 0.12 + reach))
    assert spread(values, draws) == pytest.approx(np.var(values, ddof=1) - own)


def test_like_trainings_weigh_no_more_than_allowed() -> None:
    values, draws = [0.1, 0.2], np.array([[0.1], [0.2]]) + _noise((2, 100))
    few, many = (over_seeds(values, draws, 40, pooled=Pooled(1e-4, df)) for df in (WEIGHT, 1000.0))
    assert few == many


def test_degenerate_inputs() -> None:
    still = np.full((2, 100), 1.0)
    top = over_seeds([1.0, 1.0], still, 19, share=True)
    assert top.high == 1.0 and top.low == pytest.approx(0.025 ** (1 / 20))
    bottom = over_seeds([0.0], 1 - still[:1], 19, share=True)
    assert bottom.low == 0.0 and bottom.high == pytest.approx(1 - 0.025 ** (1 / 20))
    same = over_seeds([0.0], np.zeros((1, 50)), 10)
    assert (same.value, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)
    gaps = 0.8 + _noise((2, 100))
    gaps[0, :30] = np.nan
    assert math.isnan(over_seeds([0.8, 0.8], gaps, 10, share=True).low)
    gaps[0, :30] = 0.8
    gaps[1, :5] = np.nan
    some = over_seeds([0.8, 0.8], gaps, 10, share=True)
    assert 0 < some.low < 0.8 < some.high < 1
    assert math.isnan(over_seeds([float("nan")], gaps[:1], 10).low)
    for values, draws in (([], np.empty((0, 5))), ([0.5], np.zeros(5)), ([0.5, 0.6], np.zeros((1, 5)))):
        with pytest.raises(InputError):
            over_seeds(values, draws, 10)
    with pytest.raises(InputError):
        difference_over_seeds(([0.5], np.zeros((1, 5))), ([0.5], np.zeros((1, 6))), 10)


def test_a_share_stays_inside_where_a_draw_is_perfect() -> None:
    draws = np.minimum(0.97 + _noise((2, 200), scale=0.03), 1.0)
    found = over_seeds([0.97, 0.96], draws, 12, share=True)
    assert 0 < found.low < found.value < found.high <= 1
    # What is known of like trainings is in log-odds: near 1 that is little on the plain scale.
    like = over_seeds([0.97, 0.96], draws, 12, share=True, pooled=Pooled(0.04, 100.0))
    assert like.high - like.low < 1.2 * (found.high - found.low)


def _simulated(rng: np.random.Generator, seeds: int, luck: float, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Figures whose truth is 0: patients' luck of variance 1, 0.7 of it shared by all trainings, and theirs."""
    shared, own = rng.normal(scale=math.sqrt(0.7)), rng.normal(scale=math.sqrt(0.3), size=seeds)
    values = shared + own + rng.normal(scale=luck, size=seeds)
    again = math.sqrt(0.7) * noise[0] + math.sqrt(0.3) * noise[1 : seeds + 1]
    return values, values[:, None] + again


@pytest.mark.parametrize("luck", [0.3, 1.5])
def test_one_training_holds_the_luck_of_like_ones(luck: float) -> None:
    rng = np.random.default_rng(int(10 * luck))
    noise = rng.normal(size=(6, 150))
    held = 0
    for _ in range(500):
        values, draws = _simulated(rng, 1, luck, noise)
        like = Pooled(float(luck**2 * rng.chisquare(8) / 8), 8.0)
        found = over_seeds(values, draws, 80, pooled=like)
        held += found.low <= 0 <= found.high
    assert abs(100 * held / 500 - 95) <= 2.5


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("luck", [0.3, 1.5])
def test_intervals_hold_the_truth(seeds: int, luck: float) -> None:
    rng = np.random.default_rng([seeds, int(10 * luck)])
    noise = rng.normal(size=(6, 150))
    repeats = 1000
    made = [_simulated(rng, seeds, luck, noise) for _ in range(repeats)]
    apart = np.array([spread(values, draws) for values, draws in made])
    assert apart.mean() == pytest.approx(luck**2, abs=0.15 * (0.3 + luck**2))
    held, wide = 0, []
    for values, draws in made:
        like = Pooled(float(rng.choice(apart, 10).mean()), 10.0 * (seeds - 1))
        found: OverSeeds = over_seeds(values, draws, 80, pooled=like)
        held += found.low <= 0 <= found.high
        wide.append(found.high - found.low)
    ideal = 2 * 1.96 * math.sqrt(0.7 + 0.3 / seeds + luck**2 / seeds)
    assert abs(100 * held / repeats - 95) <= 2.5  # twice the Monte-Carlo error is 1.4
    assert np.quantile(wide, 0.95) < 2.2 * ideal
