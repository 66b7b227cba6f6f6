"""The vectorised patient bootstrap against a plain loop over the same counts, and what its intervals promise."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lang1.common.errors import InputError
from lang1.metrics.auroc import auroc
from lang1.metrics.bootstrap import (
    attained_share,
    mean_draws,
    rank_draws,
    resample_counts,
    task_draws,
)
from lang1.metrics.intervals import percentile, percentile_p
from lang1.metrics.probability import average_precision


def same(left: float, right: float) -> bool:
    return (math.isnan(left) and math.isnan(right)) or left == pytest.approx(right, abs=1e-12)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_equals_a_plain_loop_with_the_same_counts(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 30))
    labels = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    scores = np.array(data.draw(st.lists(st.integers(-3, 3), min_size=n, max_size=n)), dtype=float)
    who = np.array(data.draw(st.lists(st.integers(-5, 5), min_size=n, max_size=n)))
    resamples = resample_counts(who, n=60, seed=data.draw(st.integers(0, 5)))
    draws = rank_draws(labels, scores, resamples)
    means = mean_draws(scores, resamples)
    for r, weight in enumerate(resamples.weights().T):
        assert same(draws.auroc[r], auroc(labels, scores, weight))
        assert same(draws.average_precision[r], average_precision(labels, scores, weight))
        assert means[r] == pytest.approx(np.average(scores, weights=weight))
    own = np.array(data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.5]), min_size=n, max_size=n)))
    draws, means = rank_draws(labels, scores, resamples, own), mean_draws(scores, resamples, own)
    for r, weight in enumerate(resamples.weights().T * own):
        assert same(draws.auroc[r], auroc(labels, scores, weight))
        assert same(draws.average_precision[r], average_precision(labels, scores, weight))
        assert same(means[r], np.average(scores, weights=weight) if weight.sum() else math.nan)


def test_strata_keep_the_number_of_patients_with_events() -> None:
    rng = np.random.default_rng(4)
    who, case = rng.integers(0, 40, 100), rng.random(100) < 0.05
    resamples = resample_counts(who, n=50, stratify=case)
    with_event = np.unique(who[case])
    patients = np.unique(who)
    counts = resamples.counts[np.isin(patients, with_event)].sum(axis=0)
    assert (counts == len(with_event)).all() and (resamples.counts.sum(axis=0) == len(patients)).all()
    plain = resample_counts(who, n=50).counts[np.isin(patients, with_event)].sum(axis=0)
    assert plain.std() > 0
    assert (resample_counts(who, n=5, stratify=np.zeros(100)).counts == resample_counts(who, n=5).counts).all()


def test_patients_are_drawn_whole_and_independently_of_row_order() -> None:
    who = np.array([7, 7, 3, 9, 3, 3])
    resamples = resample_counts(who, n=200, seed=1)
    weights = resamples.weights()
    assert (weights[0] == weights[1]).all() and (weights[2] == weights[4]).all() and (weights[4] == weights[5]).all()
    assert (resamples.counts.sum(axis=0) == 3).all()
    shuffled = np.array([5, 0, 3, 1, 4, 2])
    again = resample_counts(who[shuffled], n=200, seed=1).weights()
    assert (again == weights[shuffled]).all()
    assert not (resample_counts(who, n=200, seed=2).weights() == weights).all()
    assert resample_counts(who, n=200, seed=1).counts.mean(axis=1) == pytest.approx(np.ones(3), abs=0.25)


def test_multiclass_draws_are_one_versus_rest() -> None:
    rng = np.random.default_rng(0)
    labels, table = rng.integers(0, 3, 80), rng.dirichlet(np.ones(3), 80)
    resamples = resample_counts(np.arange(80) // 2, n=20)
    draws = task_draws(labels, table, resamples, [0, 2])
    assert sorted(draws) == [0, 2]
    weight = resamples.weights()[:, 7]
    assert draws[2].auroc[7] == pytest.approx(auroc(labels == 2, table[:, 2], weight))


def test_intervals_cover_about_as_often_as_they_say() -> None:
    """Binormal scores with known AUROC 0.7602: 120 repeats of 95 % intervals; 85 % is 5 SE below nominal."""
    rng = np.random.default_rng(0)
    truth, hits = 0.7602499, 0
    for repeat in range(120):
        y = rng.random(300) < 0.3
        s = rng.normal(size=300) + y
        low, high = percentile(rank_draws(y, s, resample_counts(np.arange(300), n=300, seed=repeat)).auroc)
        hits += low <= truth <= high
    assert hits / 120 >= 0.85


def test_repeated_rows_of_a_patient_do_not_narrow_the_percentile() -> None:
    rng = np.random.default_rng(1)
    y = rng.random(200) < 0.3
    s = rng.normal(size=200) + y
    once = percentile(rank_draws(y, s, resample_counts(np.arange(200))).auroc)
    clustered = resample_counts(np.tile(np.arange(200), 4))
    four = percentile(rank_draws(np.tile(y, 4), np.tile(s, 4), clustered).auroc)
    assert four == pytest.approx(once, abs=1e-12)


def test_paired_difference_sees_what_unpaired_intervals_hide() -> None:
    rng = np.random.default_rng(2)
    y = rng.random(600) < 0.3
    better = rng.normal(size=600) + y
    worse = better + rng.normal(scale=0.7, size=600)
    resamples = resample_counts(np.arange(600), seed=3)
    a, b = rank_draws(y, better, resamples).auroc, rank_draws(y, worse, resamples).auroc
    assert percentile(a)[0] < percentile(b)[1]  # alone they overlap
    assert percentile(a - b)[0] > 0 and percentile_p(a - b) < 0.05
    assert percentile_p(a - a) == 1.0
    assert percentile_p(b - a) == percentile_p(a - b)
    assert percentile_p(np.ones(999)) == pytest.approx(0.002)


def test_attained_share_is_taken_on_the_same_resamples() -> None:
    assert attained_share(0.7, 0.9) == pytest.approx(0.5)
    assert np.isnan(attained_share(0.7, 0.5))
    rng = np.random.default_rng(4)
    y = rng.random(500) < 0.3
    s = rng.normal(size=500) + y
    own = rank_draws(y, s, resample_counts(np.arange(500))).auroc
    # Of itself a model attains exactly all, in every resample: an unpaired interval would not be a point.
    assert percentile(attained_share(own, own)) == (1.0, 1.0)


def test_what_cannot_be_told_is_nan_and_bad_input_is_refused() -> None:
    resamples = resample_counts([1, 2, 3], n=10)
    assert all(math.isnan(v) for v in percentile(rank_draws([0, 0, 0], [0.1, 0.2, 0.3], resamples).auroc))
    assert math.isnan(percentile_p([float("nan")]))
    with pytest.raises(InputError, match="no rows"):
        resample_counts([])
    with pytest.raises(InputError, match="NaN"):
        rank_draws([0, 1, 1], [0.1, float("nan"), 0.3], resamples)
    with pytest.raises(InputError, match="resamples of 3 rows"):
        rank_draws([0, 1], [0.1, 0.3], resamples)
