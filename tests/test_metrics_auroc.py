"""AUROC against scikit-learn, with ties and weights, and the rules for rare classes."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from lang1.common.errors import InputError
from lang1.metrics.auroc import auroc, class_aurocs, task_auroc


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_agrees_with_scikit_learn_on_ties_and_weights(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 40))
    labels = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    scores = np.array(data.draw(st.lists(st.integers(-3, 3), min_size=n, max_size=n)), dtype=float)
    weights = np.array(data.draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)), dtype=float)
    used = weights > 0
    if labels[used].all() or not labels[used].any():
        assert math.isnan(auroc(labels, scores, weights))
    else:
        expected = roc_auc_score(labels[used], scores[used], sample_weight=weights[used])
        assert auroc(labels, scores, weights) == pytest.approx(expected, abs=1e-12)
    if labels.any() and not labels.all():
        assert auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_binary_and_macro_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 600)
    table = rng.dirichlet(np.ones(4), 600)
    table[np.arange(600), labels] += 0.2
    table /= table.sum(axis=1, keepdims=True)
    expected = roc_auc_score(labels, table, multi_class="ovr", average="macro")
    assert task_auroc(labels, table) == pytest.approx(expected, abs=1e-12)
    binary = labels > 1
    two = np.stack([1 - table[:, 3], table[:, 3]], axis=1)
    assert task_auroc(binary, two) == pytest.approx(roc_auc_score(binary, table[:, 3]), abs=1e-12)


def test_rare_classes_are_left_out_of_the_macro_average() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1, 2], [100, 100, 19])
    table = rng.dirichlet(np.ones(3), len(labels))
    found = class_aurocs(labels, table)
    assert sorted(found) == [0, 1]
    assert task_auroc(labels, table) == pytest.approx((found[0] + found[1]) / 2)
    assert sorted(class_aurocs(labels, table, min_cases=19)) == [0, 1, 2]
    # Fewer than 20 non-cases are as uninformative as fewer than 20 cases.
    assert math.isnan(task_auroc(np.repeat([0, 1, 2], [100, 5, 5]), rng.dirichlet(np.ones(3), 110)))


def test_one_class_has_no_auroc() -> None:
    assert math.isnan(auroc([1, 1], [0.1, 0.2]))
    assert math.isnan(task_auroc([0, 0, 0], [[0.5, 0.5]] * 3))


def test_nan_and_misfits_are_refused() -> None:
    with pytest.raises(InputError, match="1 of 3 are NaN, first in row 1"):
        auroc([0, 1, 1], [0.1, float("nan"), 0.2])
    with pytest.raises(InputError, match="NaN"):
        task_auroc([0, 1], [[0.5, 0.5], [float("nan"), 0.5]])
    with pytest.raises(InputError, match="2 rows for 3"):
        auroc([0, 1, 1], [0.1, 0.2])
    with pytest.raises(InputError, match="2 classes"):
        task_auroc([0, 2], [[0.5, 0.5], [0.5, 0.5]])
    assert auroc([0, 1], [-math.inf, math.inf]) == 1.0
