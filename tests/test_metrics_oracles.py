"""Agreement with packages made by others: frozen answers always, live ones on large inputs where a package is there."""

import json
from typing import Any

import metric_oracles as oracles
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from lang1.metrics.auroc import auroc, class_aurocs, patient_weights, weighted_auroc
from lang1.metrics.calibration import expected_calibration_error
from lang1.metrics.delong import delong, delong_difference
from lang1.metrics.multiple import benjamini_hochberg, holm
from lang1.metrics.operating import net_benefit
from lang1.metrics.probability import average_precision, brier_of_shares, brier_rows, scaled_brier

FROZEN = json.loads(oracles.FROZEN.read_text(encoding="utf-8"))
# confidenceinterval works in float32.
SINGLE = 3e-7


def two(p: np.ndarray) -> np.ndarray:
    return np.stack([1 - p, p], axis=1)


def agree(data: dict[str, Any], answers: dict[str, Any]) -> None:
    y, a, b = (np.asarray(data[key]) for key in ("y", "a", "b"))
    if "net_benefit" in answers:
        assert net_benefit(y, a, oracles.THRESHOLDS) == pytest.approx(answers["net_benefit"], abs=1e-12)
    if "ece" in answers:
        assert expected_calibration_error(y, two(a)) == pytest.approx(answers["ece"], abs=1e-9)
    if "delong" in answers:
        found, said = delong(y, a, logit=False), answers["delong"]
        assert found.value == pytest.approx(said["value"], abs=SINGLE)
        if 0 < found.value < 1:  # at 1 the package's interval is a point; ours is not
            bounds = [max(0.0, said["low"]), min(1.0, said["high"])]
            assert [found.low, found.high] == pytest.approx(bounds, abs=2 * SINGLE)
    if "test" in answers:
        test = delong_difference(y, a, b)
        assert (test.z, test.p) == (
            pytest.approx(-answers["test"]["z"], rel=1e-6),  # its z is of b minus a
            pytest.approx(answers["test"]["p"], rel=1e-6),
        )


@pytest.mark.parametrize("name", FROZEN["answers"])
def test_frozen_answers(name: str) -> None:
    agree(FROZEN["inputs"][name], FROZEN["answers"][name])
    assert {key: np.asarray(v).tolist() for key, v in oracles.small()[name].items()} == FROZEN["inputs"][name]


@pytest.mark.parametrize("name", FROZEN["families"])
def test_frozen_corrections(name: str) -> None:
    said = FROZEN["families"][name]
    assert holm(oracles.FAMILIES[name]) == pytest.approx(said["holm"], abs=1e-12)
    assert benjamini_hochberg(oracles.FAMILIES[name]) == pytest.approx(said["bh"], abs=1e-12)


LARGE = [oracles.made(20_000, 11), oracles.made(20_000, 12, 2), oracles.made(20_000, 13, 1, 0.02)]


@pytest.mark.parametrize(
    ("package", "key", "ask"),
    [
        ("dcurves", "net_benefit", oracles.net_benefit_dcurves),
        ("torchmetrics", "ece", oracles.ece_torchmetrics),
        ("confidenceinterval", "delong", oracles.delong_confidenceinterval),
        ("MLstatkit", "test", oracles.delong_mlstatkit),
    ],
)
def test_live_answers(package: str, key: str, ask: Any) -> None:
    pytest.importorskip(package)
    for data in LARGE:
        agree(data, {key: ask(data)})


def test_live_multiclass_calibration() -> None:
    pytest.importorskip("torchmetrics")
    rng = np.random.default_rng(5)
    table = rng.dirichlet(np.ones(4), 5_000)
    labels = rng.integers(0, 4, 5_000)
    said = oracles.ece_multiclass_torchmetrics(labels, table)
    assert expected_calibration_error(labels, table) == pytest.approx(said, abs=1e-7)


def test_live_corrections() -> None:
    pytest.importorskip("statsmodels")
    p = np.random.default_rng(6).random(3_000) ** 3
    said = oracles.corrected_statsmodels(p.tolist())
    assert holm(p) == pytest.approx(said["holm"]) and benjamini_hochberg(p) == pytest.approx(said["bh"])


@pytest.mark.parametrize("data", LARGE)
def test_large_weighted_inputs_agree_with_scikit_learn(data: dict[str, Any]) -> None:
    rng = np.random.default_rng(7)
    y, a, weight = data["y"], data["a"], rng.gamma(1.0, size=len(data["y"]))
    weight[:50] = 0
    for w in (None, weight):
        assert auroc(y, a, w) == pytest.approx(roc_auc_score(y, a, sample_weight=w), abs=1e-12)
        assert average_precision(y, a, w) == pytest.approx(average_precision_score(y, a, sample_weight=w), abs=1e-12)
        brier = np.average(brier_rows(y, two(a)), weights=w)
        assert brier == pytest.approx(brier_score_loss(y, a, sample_weight=w), abs=1e-12)
    who = rng.integers(0, 700, len(y))
    own = patient_weights(who)
    sums = np.bincount(who, own)
    assert sums[sums > 0] == pytest.approx(1)
    share = y.mean()
    reference = brier_score_loss(y, np.full(len(y), share))
    assert brier_of_shares([1 - share, share]) == pytest.approx(reference)
    assert scaled_brier(brier_rows(y, two(a)).mean(), reference) == pytest.approx(
        1 - brier_score_loss(y, a) / reference
    )


def test_one_versus_rest_averages_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(8)
    labels = rng.choice(4, 900, p=[0.5, 0.3, 0.15, 0.05])
    table = rng.dirichlet(np.ones(4), 900).round(2)
    table[:, 0] = 1 - table[:, 1:].sum(axis=1)
    each = class_aurocs(labels, table)
    said = roc_auc_score(labels, table, multi_class="ovr", average="weighted")
    assert weighted_auroc(each, np.bincount(labels)) == pytest.approx(said)
    assert np.mean(list(each.values())) == pytest.approx(roc_auc_score(labels, table, multi_class="ovr"))
    shares = np.bincount(labels) / len(labels)
    flat = np.tile(shares, (len(labels), 1))
    assert brier_of_shares(shares) == pytest.approx(
        brier_score_loss(labels, flat, labels=range(4), scale_by_half=False)
    )
