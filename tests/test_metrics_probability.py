"""Probability scores, calibration and curves against scikit-learn and against calibration that is known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

from lang1.common.errors import InputError
from lang1.metrics.calibration import expected_calibration_error, in_the_large, reliability_curve, slope
from lang1.metrics.curves import roc_curve
from lang1.metrics.probability import average_precision, brier_rows, log_loss_rows


def two(p: np.ndarray) -> np.ndarray:
    return np.stack([1 - p, p], axis=1)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_average_precision_agrees_with_scikit_learn(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 40))
    labels = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    scores = np.array(data.draw(st.lists(st.integers(-3, 3), min_size=n, max_size=n)), dtype=float)
    weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)), dtype=float)
    if labels.any():
        assert average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    if (weights * labels).sum() > 0:
        expected = average_precision_score(labels, scores, sample_weight=weights)
        assert average_precision(labels, scores, weights) == pytest.approx(expected, abs=1e-12)


def test_no_case_has_no_average_precision() -> None:
    assert math.isnan(average_precision([0, 0], [0.1, 0.2]))


def test_brier_and_log_loss_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(300)
    y = rng.random(300) < p
    assert brier_rows(y, two(p)).mean() == pytest.approx(brier_score_loss(y, p))
    assert log_loss_rows(y, two(p)).mean() == pytest.approx(log_loss(y, p))
    table = rng.dirichlet(np.ones(5), 300)
    labels = rng.integers(0, 5, 300)
    assert brier_rows(labels, table).mean() == pytest.approx(
        brier_score_loss(labels, table, labels=range(5), scale_by_half=False)
    )
    assert log_loss_rows(labels, table).mean() == pytest.approx(log_loss(labels, table, labels=range(5)))
    assert np.isfinite(log_loss_rows([1], [[1.0, 0.0]])).all()


def test_ece_of_hand_worked_bins() -> None:
    # Two rows in the first bin (0.02, 0.04; one event), two in the last (0.96, 0.98; one event).
    p = np.array([0.02, 0.04, 0.96, 0.98])
    assert expected_calibration_error([0, 1, 1, 0], two(p)) == pytest.approx(
        0.5 * abs(0.03 - 0.5) + 0.5 * abs(0.97 - 0.5)
    )
    assert expected_calibration_error([0, 1], two(np.array([0.0, 1.0]))) == 0
    # Several classes: confidence of the top class against its accuracy.
    table = np.array([[0.6, 0.2, 0.2], [0.6, 0.2, 0.2]])
    assert expected_calibration_error([0, 1], table) == pytest.approx(0.1)


def test_recalibration_finds_known_intercept_and_slope() -> None:
    rng = np.random.default_rng(1)
    logit = rng.normal(-1, 1.5, 40_000)
    y = rng.random(40_000) < 1 / (1 + np.exp(-logit))
    right = 1 / (1 + np.exp(-logit))
    too_sharp = 1 / (1 + np.exp(-2 * logit))
    too_low = 1 / (1 + np.exp(-(logit - 0.7)))
    assert slope(y, right).low < 1 < slope(y, right).high
    assert slope(y, too_sharp).value == pytest.approx(0.5, abs=0.02)
    assert in_the_large(y, too_low).value == pytest.approx(0.7, abs=0.05)
    assert abs(in_the_large(y, right).value) < 0.05
    # The intercept alone makes predicted and observed totals equal; scikit-learn's unpenalised fit gives the slope.
    fitted = LogisticRegression(C=1e12, tol=1e-10).fit(np.log(too_low / (1 - too_low))[:, None], y)
    assert slope(y, too_low).value == pytest.approx(fitted.coef_[0, 0], abs=1e-4)


def test_cluster_robust_interval_widens_with_repeated_rows() -> None:
    rng = np.random.default_rng(2)
    p = rng.uniform(0.1, 0.9, 500)
    y = rng.random(500) < p
    once = in_the_large(y, p)
    thrice, who = np.tile(y, 3), np.tile(np.arange(500), 3)
    clustered = in_the_large(thrice, np.tile(p, 3), who)
    assert clustered.value == pytest.approx(once.value)
    assert clustered.high - clustered.low == pytest.approx(once.high - once.low, rel=0.01)
    naive = in_the_large(thrice, np.tile(p, 3))
    assert naive.high - naive.low == pytest.approx((once.high - once.low) / math.sqrt(3), rel=0.01)


def test_calibration_that_cannot_be_told_is_nan() -> None:
    assert math.isnan(slope([0, 1, 0], [0.2, 0.2, 0.2]).value)
    assert math.isnan(in_the_large([1, 1], [0.2, 0.9]).value)
    assert math.isnan(slope([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]).value)  # separated: infinite slope
    extreme = in_the_large([0, 1, 0, 1], [0.0, 1.0, 1.0, 0.0])
    assert np.isfinite(extreme.value)
    with pytest.raises(InputError, match="NaN"):
        slope([0, 1], [0.5, float("nan")])


def test_reliability_curve_keeps_every_row_and_ties_together() -> None:
    rng = np.random.default_rng(3)
    p = rng.random(1003)
    y = rng.random(1003) < p
    curve = reliability_curve(y, p)
    assert sum(curve.n) == 1003 and len(curve.n) == 10 and max(curve.n) - min(curve.n) <= 2
    assert np.abs(np.array(curve.x) - curve.y).max() < 0.2
    flat = reliability_curve([0, 1, 1, 0], [0.3, 0.3, 0.3, 0.3])
    assert flat.x == [pytest.approx(0.3)] and flat.y == [0.5] and flat.n == [4]


def test_roc_curve_is_thin_and_keeps_its_area() -> None:
    rng = np.random.default_rng(4)
    y = rng.random(5000) < 0.1
    s = rng.normal(size=5000) + y
    curve = roc_curve(y, s)
    assert len(curve.x) <= 200 and (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(curve.y, curve.x) == pytest.approx(roc_auc_score(y, s), abs=0.005)
    short = roc_curve([0, 1, 1], [0.1, 0.1, 0.9])
    assert short.x == [0, 0, 1] and short.y == [0, 0.5, 1]
    assert roc_curve([1, 1], [0.1, 0.2]).x == []
