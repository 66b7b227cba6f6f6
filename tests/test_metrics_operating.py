"""Operating points, net benefit and recalibration against counts by hand, and what may not change a ranking."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from lang1.common.errors import InputError
from lang1.metrics.auroc import auroc, task_auroc
from lang1.metrics.calibration import expected_calibration_error, in_the_large, slope, smooth_errors
from lang1.metrics.multiple import benjamini_hochberg, holm
from lang1.metrics.operating import net_benefit, net_benefit_of_all, operating_point, threshold_at_rate
from lang1.metrics.probability import log_loss_rows
from lang1.metrics.recalibration import fit_recalibration


def two(p: np.ndarray) -> np.ndarray:
    return np.stack([1 - p, p], axis=1)


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_points_and_net_benefit_count_rows(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 25))
    y = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    s = np.array(data.draw(st.lists(st.integers(0, 8), min_size=n, max_size=n))) / 8
    w = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)), dtype=float)
    at = data.draw(st.sampled_from([0.125, 0.25, 0.3, 0.5, 0.875]))
    for weight in (np.ones(n), w):
        tp, fp = weight[y & (s >= at)].sum(), weight[~y & (s >= at)].sum()
        fn, tn = weight[y & (s < at)].sum(), weight[~y & (s < at)].sum()
        point = operating_point(y, s, at, weight)
        for found, (top, bottom) in {
            point.sensitivity: (tp, tp + fn),
            point.specificity: (tn, tn + fp),
            point.ppv: (tp, tp + fp),
            point.npv: (tn, tn + fn),
            point.alert_rate: (tp + fp, weight.sum()),
        }.items():
            assert math.isnan(found) if not bottom else found == pytest.approx(top / bottom)
        if weight.sum():
            expected = (tp - fp * at / (1 - at)) / weight.sum()
            assert net_benefit(y, s, [at], weight)[0] == pytest.approx(expected)


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_alert_rate_is_never_exceeded_and_never_needlessly_low(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 30))
    s = np.array(data.draw(st.lists(st.integers(0, 6), min_size=n, max_size=n)), dtype=float)
    rate = data.draw(st.sampled_from([0.01, 0.1, 0.2, 0.5, 1.0]))
    at = threshold_at_rate(s, rate)
    assert (s >= at).mean() <= rate + 1e-12
    lower = s[s < at]
    if len(lower):
        assert (s >= lower.max()).mean() > rate


def test_net_benefit_of_all_is_a_model_that_flags_all() -> None:
    y = np.array([0, 1, 0, 0, 1])
    at = [0.01, 0.2, 0.5]
    assert net_benefit(y, np.ones(5), at) == pytest.approx(net_benefit_of_all(0.4, at))
    for thresholds in ([0.0], [1.0]):
        with pytest.raises(InputError, match="threshold"):
            net_benefit(y, np.ones(5) / 2, thresholds)
    with pytest.raises(InputError, match="probabilities"):
        net_benefit(y, np.full(5, 2.0), at)
    with pytest.raises(InputError, match="alert rate"):
        threshold_at_rate([0.1], 0.0)


def world(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logit = rng.normal(-1.5, 1.2, n)
    y = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(int)
    return y, 1 / (1 + np.exp(-logit)), 1 / (1 + np.exp(-(2 * logit + 1)))  # the last: too sharp and too high


def test_recalibration_mends_on_other_rows_and_agrees_with_scikit_learn() -> None:
    y_val, _, said_val = world(4_000, 0)
    y, right, said = world(6_000, 1)
    before = expected_calibration_error(y, two(said))
    for method in ("platt", "isotonic", "temperature"):
        fitted = fit_recalibration(method, y_val, two(said_val))
        assert fitted is not None
        after = fitted(two(said))
        assert after.sum(axis=1) == pytest.approx(1)
        assert log_loss_rows(y, after).mean() < log_loss_rows(y, two(said)).mean()
        if method != "temperature":  # one factor cannot move the level
            assert expected_calibration_error(y, after) < 0.4 * before
            assert abs(in_the_large(y, after[:, 1]).value) < 0.15
        if method != "isotonic":
            assert auroc(y, after[:, 1]) == pytest.approx(auroc(y, said), abs=1e-9)
    logit = np.log(said_val / (1 - said_val))[:, None]
    peer = LogisticRegression(C=1e12, tol=1e-10).fit(logit, y_val)
    platt = fit_recalibration("platt", y_val, two(said_val))
    assert platt is not None
    assert platt(two(said))[:, 1] == pytest.approx(
        peer.predict_proba(np.log(said / (1 - said))[:, None])[:, 1], abs=1e-4
    )
    isotonic = fit_recalibration("isotonic", y_val, two(said_val))
    assert isotonic is not None
    pool = IsotonicRegression(out_of_bounds="clip").fit(said_val, y_val)
    assert isotonic(two(said))[:, 1] == pytest.approx(pool.predict(said), abs=1e-12)
    assert right.mean() == pytest.approx(platt(two(said))[:, 1].mean(), abs=0.02)


def test_temperature_finds_the_factor_and_several_classes_sum_to_one() -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(5_000, 4))
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([rng.choice(4, p=p) for p in true])
    sharp = np.exp(3 * logits) / np.exp(3 * logits).sum(axis=1, keepdims=True)
    found = fit_recalibration("temperature", labels, sharp)
    assert found is not None
    assert found(sharp) == pytest.approx(true, abs=0.03)
    for method in ("platt", "isotonic"):
        one = fit_recalibration(method, labels, sharp)
        assert one is not None
        after = one(sharp)
        assert after.sum(axis=1) == pytest.approx(1) and (after >= 0).all()
        assert log_loss_rows(labels, after).mean() < log_loss_rows(labels, sharp).mean()
        assert task_auroc(labels, after) == pytest.approx(task_auroc(labels, sharp), abs=0.02)


def test_what_does_not_determine_a_map_gives_none() -> None:
    said = two(np.array([0.1, 0.2, 0.3, 0.4]))
    for method in ("platt", "isotonic", "temperature"):
        assert fit_recalibration(method, [0, 0, 0, 0], said) is None
    assert fit_recalibration("platt", [1, 1, 0, 0], two(np.array([0.1, 0.3, 0.2, 0.4]))) is None  # falls
    assert fit_recalibration("platt", [0, 0, 1, 1], said) is None  # separated: infinitely steep
    with pytest.raises(InputError, match="magic"):
        fit_recalibration("magic", [0, 1, 0, 1], said)


def test_smooth_errors_are_small_where_right_and_find_a_bend() -> None:
    y, right, wrong = world(20_000, 3)
    good, bad = smooth_errors(y, right), smooth_errors(y, wrong)
    assert good.mean < 0.01 < 0.05 < bad.mean < bad.p90 < bad.largest
    # The gap is known: mean |right - stated|, since `right` is the true risk.
    assert bad.mean == pytest.approx(np.abs(right - wrong).mean(), abs=0.01)
    assert math.isnan(smooth_errors([0, 0], [0.1, 0.2]).mean)
    flat = smooth_errors([0, 1, 0, 0], [0.5] * 4)
    assert (flat.mean, flat.largest) == (pytest.approx(0.25), pytest.approx(0.25))


def test_equal_mass_and_weighted_ece() -> None:
    p = np.array([0.02, 0.04, 0.96, 0.98])
    assert expected_calibration_error([0, 1, 1, 0], two(p), 2, equal_mass=True) == pytest.approx(
        0.5 * abs(0.03 - 0.5) + 0.5 * abs(0.97 - 0.5)
    )
    weights = [3.0, 1.0, 0.0, 0.0]
    assert expected_calibration_error([0, 1, 1, 0], two(p), weights=weights) == pytest.approx(abs(0.1 / 4 - 1 / 4))
    tied = two(np.full(9, 0.25))
    assert expected_calibration_error([1, *[0] * 8], tied, equal_mass=True) == pytest.approx(0.25 - 1 / 9)


def test_slope_of_the_recalibrated_is_one_on_the_rows_it_was_fitted_on() -> None:
    y, _, said = world(3_000, 4)
    fitted = fit_recalibration("platt", y, two(said))
    assert fitted is not None
    after = fitted(two(said))[:, 1]
    assert slope(y, after).value == pytest.approx(1, abs=1e-6)
    assert in_the_large(y, after).value == pytest.approx(0, abs=1e-6)


def test_corrections_by_hand_and_their_refusals() -> None:
    assert holm([0.01, 0.04, float("nan"), 0.03]).tolist() == pytest.approx([0.03, 0.06, math.nan, 0.06], nan_ok=True)
    assert benjamini_hochberg([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.04, 0.04])
    assert holm([]).tolist() == [] and benjamini_hochberg([]).tolist() == []
    with pytest.raises(InputError, match="outside"):
        holm([1.2])
