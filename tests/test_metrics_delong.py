"""Closed-form AUROC intervals: against brute force over pairs, with several rows a patient, and at the edges."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lang1.common.errors import InputError
from lang1.metrics.auroc import auroc
from lang1.metrics.bootstrap import rank_draws, resample_counts
from lang1.metrics.delong import area_parts, delong, delong_difference
from lang1.metrics.intervals import around, bca, in_log_odds, percentile


def by_pairs(y: np.ndarray, s: np.ndarray, who: np.ndarray) -> tuple[float, float]:
    """Obuchowski's estimate and variance, written out as in the paper, from all pairs."""
    x, z = s[y], s[~y]
    psi = (x[:, None] > z[None, :]) + 0.5 * (x[:, None] == z[None, :])
    area = psi.mean()
    v10, v01 = psi.mean(axis=1), psi.mean(axis=0)
    people = np.unique(who)
    ten = np.array([(v10[who[y] == p] - area).sum() for p in people])
    one = np.array([(v01[who[~y] == p] - area).sum() for p in people])
    i10, i01, i = len(np.unique(who[y])), len(np.unique(who[~y])), len(people)
    m, n = len(x), len(z)
    s10 = i10 / ((i10 - 1) * m) * (ten**2).sum()
    s01 = i01 / ((i01 - 1) * n) * (one**2).sum()
    s11 = i / (i - 1) * (ten * one).sum()
    return float(area), float(s10 / m + s01 / n + 2 * s11 / (m * n))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_equals_the_formula_over_all_pairs(data: st.DataObject) -> None:
    n = data.draw(st.integers(6, 30))
    y = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    s = np.array(data.draw(st.lists(st.integers(-3, 3), min_size=n, max_size=n)), dtype=float)
    who = np.array(data.draw(st.lists(st.integers(0, 8), min_size=n, max_size=n)))
    if min(len(np.unique(who[y])), len(np.unique(who[~y]))) < 2:
        parts = area_parts(y, s, who)
        assert math.isnan(parts.variance_with(parts))
        return
    area, variance = by_pairs(y, s, who)
    parts = area_parts(y, s, who)
    assert parts.value == pytest.approx(area) and parts.value == pytest.approx(auroc(y, s))
    assert parts.variance_with(parts) == pytest.approx(variance, abs=1e-12)
    weighted = area_parts(y, s, who, np.full(n, 2.5))
    assert weighted.variance_with(weighted) == pytest.approx(variance, abs=1e-12)
    assert weighted.value == pytest.approx(area)


def test_whole_weights_act_as_copies_of_rows_of_one_patient() -> None:
    rng = np.random.default_rng(0)
    y, s, who, times = rng.random(60) < 0.4, rng.normal(size=60), rng.integers(0, 25, 60), rng.integers(0, 4, 60)
    copied = [np.repeat(v, times) for v in (y, s, who)]
    weighted, plain = area_parts(y, s, who, times), area_parts(copied[0], copied[1], copied[2])
    assert weighted.value == pytest.approx(plain.value) == pytest.approx(auroc(y, s, times))
    assert weighted.case_patients == plain.case_patients


def test_copies_of_a_patients_rows_add_nothing() -> None:
    """Twice the same rows under the same patients is no new information; taken for independent it would seem so."""
    rng = np.random.default_rng(1)
    y, s, who = rng.random(300) < 0.2, rng.normal(size=300), np.arange(300)
    s = s + y
    once = delong(y, s, who)
    twice = [np.tile(v, 2) for v in (y, s, who)]
    clustered, naive = delong(*twice), delong(twice[0], twice[1])
    assert clustered.error == pytest.approx(once.error, rel=1e-9)
    assert naive.error == pytest.approx(once.error / math.sqrt(2), rel=0.02)
    assert once.method.startswith("DeLong") and clustered.method == "Obuchowski, 600 rows of 300 patients"


def test_agrees_with_the_patient_bootstrap() -> None:
    rng = np.random.default_rng(2)
    who = np.repeat(np.arange(500), 3)
    u = rng.normal(size=500)[who]
    y = rng.random(1500) < 1 / (1 + np.exp(-(u - 1)))
    a, b = u + rng.normal(size=1500), 0.4 * u + rng.normal(size=1500)
    resamples = resample_counts(who, 2_000)
    draws = [rank_draws(y, s, resamples).auroc for s in (a, b)]
    assert delong(y, a, who).error == pytest.approx(draws[0].std(), rel=0.06)
    gap = delong_difference(y, a, b, who)
    assert gap.error == pytest.approx((draws[0] - draws[1]).std(), rel=0.06)
    assert gap.value == pytest.approx(auroc(y, a) - auroc(y, b))
    one = delong(y, a, who)
    for low, high in (
        percentile(draws[0]),
        bca(draws[0], one.value, area_parts(y, a, who).influence),
        in_log_odds(draws[0], one.value),
        around(draws[0], one.value),
    ):
        assert (low, high) == (pytest.approx(one.low, abs=0.006), pytest.approx(one.high, abs=0.006))


def test_bca_undoes_bias_and_skewness() -> None:
    """An exponential mean: the exact interval is the gamma's, longer above; BCa comes nearer to it than percentile."""
    from scipy import stats

    rng = np.random.default_rng(3)
    n = 30
    x = rng.exponential(size=n)
    draws = rng.choice(x, (20_000, n)).mean(axis=1)
    exact = np.array([2 * n * x.mean() / stats.chi2.ppf(q, 2 * n) for q in (0.975, 0.025)])
    gap = {
        "bca": np.abs(np.array(bca(draws, x.mean(), x - x.mean())) - exact).max(),
        "percentile": np.abs(np.array(percentile(draws)) - exact).max(),
    }
    assert gap["bca"] < gap["percentile"]


def test_student_widens_and_edges_are_honest() -> None:
    draws = np.random.default_rng(4).beta(40, 10, 500)
    normal, student = in_log_odds(draws, 0.8), in_log_odds(draws, 0.8, df=10)
    assert student[0] < normal[0] < 0.8 < normal[1] < student[1] < 1
    assert around(draws, 0.8, df=10)[0] < around(draws, 0.8)[0]
    # Perfect order of few: no spread to measure, so the exact bound of as many independent pairs.
    perfect = delong([0, 0, 0, 1, 1], [1, 2, 3, 4, 5])
    assert (perfect.value, perfect.high) == (1.0, 1.0) and perfect.low == pytest.approx(0.025**0.5)
    worst = delong([1, 1, 0, 0, 0], [1, 2, 3, 4, 5])
    assert (worst.value, worst.low) == (0.0, 0.0) and worst.high == pytest.approx(1 - 0.025**0.5)
    flat = delong([0, 1, 0, 1], [0.3] * 4)
    assert flat.value == 0.5
    same = delong_difference([0, 1, 0, 1, 1], [1, 2, 2, 3, 1], [10, 20, 20, 30, 10])
    assert (same.value, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)
    one_class = delong([1, 1, 1], [0.1, 0.2, 0.3])
    assert all(math.isnan(v) for v in (one_class.value, one_class.low, one_class.high))
    assert all(math.isnan(v) for v in percentile([float("nan")] * 3 + [0.5]))
    assert all(math.isnan(v) for v in (*bca([], 0.5), *in_log_odds([], 0.5), *around([0.5], 0.5)))
    with pytest.raises(InputError, match="NaN"):
        delong([0, 1], [0.1, float("nan")])
    with pytest.raises(InputError, match="subjects: 3 rows"):
        delong([0, 1], [0.1, 0.2], [1, 2, 3])
