"""Measures of detection against scikit-learn's, ties included, their intervals, and thresholds."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from advreg.metrics import aupr, auroc, detection, fpr_at_tpr, threshold


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_auroc_is_scikit_learns_ties_included(pairs):
    scores, positive = zip(*pairs, strict=True)
    if len(set(positive)) == 2:
        ours = auroc(torch.tensor(scores, dtype=torch.float32), torch.tensor(positive))
        assert ours.item() == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40),
    st.sampled_from([0.1, 0.5, 0.95, 1.0]),
)
def test_aupr_and_fpr_are_scikit_learns_ties_included(pairs, share):
    scores, positive = zip(*pairs, strict=True)
    if len(set(positive)) == 2:
        given_ = torch.tensor(scores, dtype=torch.float32), torch.tensor(positive)
        assert aupr(*given_).item() == pytest.approx(average_precision_score(positive, scores), abs=1e-12)
        fpr, tpr, _ = roc_curve(positive, scores, drop_intermediate=False)
        assert fpr_at_tpr(*given_, tpr=share).item() == pytest.approx(fpr[tpr >= share].min(), abs=1e-12)


def normal(count, mean=0.0, seed=0):
    return np.random.default_rng(seed).normal(mean, 1, count)


def by_scikit_learn(low, high):
    scores, positive = np.concatenate([low, high]), np.repeat([0, 1], [len(low), len(high)])
    fpr, tpr, _ = roc_curve(positive, scores, drop_intermediate=False)
    return (
        roc_auc_score(positive, scores),
        average_precision_score(positive, scores),
        fpr[tpr >= 0.95].min(),
    )


few = st.lists(st.integers(0, 6), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(few, few)
def test_the_measures_are_scikit_learns_ties_included(low, high):
    found = detection(low, high, resamples=3)
    np.testing.assert_allclose([part.mean for part in found], by_scikit_learn(low, high), atol=1e-12)


def test_the_intervals_are_percentiles_of_resamples_of_either_side():
    low, high = normal(25).round(1), normal(20, 1.0, seed=1).round(1)
    rng = np.random.default_rng(5)
    found = [by_scikit_learn(rng.choice(low, len(low)), rng.choice(high, len(high))) for _ in range(400)]
    ours = detection(low, high, confidence=0.9, resamples=4000)
    expected = np.quantile(found, [0.05, 0.95], axis=0).T
    np.testing.assert_allclose([(part.low, part.high) for part in ours], expected, atol=0.06)
    assert ours == detection(low, high, confidence=0.9, resamples=4000)
    assert ours != detection(low, high, confidence=0.9, resamples=4000, seed=1)


def test_groups_are_resampled_whole():
    low, high = normal(40), normal(30, 1.0, seed=1)
    alone = detection(low, high, resamples=2000)
    names = np.repeat(np.arange(30), 7)
    # Copies in one group are one example: the interval stays. As examples of their own they would shrink it.
    copies = detection(low, high.repeat(7), groups_out=names, resamples=2000)
    assert copies.auroc.mean == pytest.approx(alone.auroc.mean)
    assert copies.auroc[1:] == pytest.approx(alone.auroc[1:], abs=0.015)
    free = detection(low, high.repeat(7), resamples=2000).auroc
    assert free.high - free.low < 0.85 * (copies.auroc.high - copies.auroc.low)
    both = detection(
        low.repeat(7), high, groups_in=[f"p{i}" for i in range(40) for _ in range(7)], resamples=2000
    )
    assert both.auroc[1:] == pytest.approx(alone.auroc[1:], abs=0.015)


def test_a_group_keeps_its_own_scores():
    # Each group holds one score below and one above all others: every resample has the same AUROC.
    pairs = list(range(10)) * 2
    assert detection([0.0] * 5, [-2.0] * 10 + [2.0] * 10, groups_out=pairs, resamples=99).auroc == (
        0.5,
        0.5,
        0.5,
    )
    assert detection([-2.0] * 10 + [2.0] * 10, [0.0] * 5, groups_in=pairs, resamples=99).auroc == (
        0.5,
        0.5,
        0.5,
    )


def test_chunks_of_resamples_do_not_repeat(monkeypatch):
    low, high = normal(25), normal(20, 1.0, seed=1)
    whole = detection(low, high, resamples=400)
    monkeypatch.setattr("advreg._core.bootstrap._AT_ONCE", 450)
    parts = detection(low, high, resamples=400)
    assert parts.auroc[1:] == pytest.approx(whole.auroc[1:], abs=0.03)
    assert parts.auroc.low < parts.auroc.high


def test_one_group_has_no_interval():
    found = detection(normal(9), normal(4, 1.0), groups_out=["the one image"] * 4)
    assert np.isfinite(found.auroc.mean)
    assert np.isnan([found.auroc.low, found.fpr95.high]).all()


def test_tensors_on_any_dtype_with_gradients_are_taken():
    scores = torch.tensor([0.5, 1.5, 2.5], dtype=torch.bfloat16, requires_grad=True)
    assert detection(scores, scores + 1, resamples=2).auroc.mean == pytest.approx(7 / 9)


@settings(max_examples=60, deadline=None)
@given(few, st.sampled_from([0.05, 0.5, 0.8, 0.95, 1.0]))
def test_the_threshold_is_the_smallest_that_lets_the_share_pass(scores, share):
    at = threshold(scores, share)
    assert np.mean(np.array(scores) <= at) >= share
    assert all(np.mean(np.array(scores) <= smaller) < share for smaller in set(scores) if smaller < at)


def test_the_threshold_serves_tensors_as_they_are():
    scores = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    assert (scores > threshold(scores, 0.9)).sum() == 100
