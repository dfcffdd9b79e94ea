"""Intervals of a mean against another implementation, and their coverage."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from advreg.evaluation import bootstrap


def percentile_bootstrap(values, groups, resamples, seed):
    """Another way to the same: draw names of groups, pool their members, take the mean."""
    members = {}
    for value, group in zip(values, groups, strict=True):
        members.setdefault(group, []).append(value)
    names, rng = list(members), np.random.default_rng(seed)
    means = [
        np.mean(np.concatenate([members[names[i]] for i in rng.integers(len(names), size=len(names))]))
        for _ in range(resamples)
    ]
    return np.percentile(means, [2.5, 97.5])


def test_bootstrap_agrees_with_another_implementation():
    rng = np.random.default_rng(3)
    groups = [f"p{i}" for i, size in enumerate(rng.integers(1, 9, size=25)) for _ in range(size)]
    shift = {group: rng.normal() for group in groups}
    values = np.array([shift[group] + 0.1 * rng.normal() for group in groups])
    mean, low, high = bootstrap(values, groups)
    assert mean == pytest.approx(values.mean(), rel=1e-12)
    # Both are random: 4000 resamples know a percentile to about 2 % of the interval's length.
    assert (low, high) == pytest.approx(
        tuple(percentile_bootstrap(values, groups, 4000, 5)), abs=0.05 * (high - low)
    )


def test_groups_are_resampled_whole():
    # Twenty copies of five patients are five values, not a hundred.
    five = [0.1, 0.4, 0.5, 0.7, 0.9]
    alone = bootstrap(five)
    together = bootstrap(np.repeat(five, 20), np.repeat(np.arange(5), 20))
    assert together == pytest.approx(alone, rel=1e-12)
    blind = bootstrap(np.repeat(five, 20))
    assert blind.high - blind.low < 0.4 * (alone.high - alone.low)


@pytest.mark.parametrize("grouped", [False, True])
def test_nine_intervals_in_ten_hold_the_true_mean(grouped):
    rng = np.random.default_rng(0)
    repeats, patients, discs = 300, 40, 4
    hits = 0
    for _ in range(repeats):
        values = (rng.normal(size=(patients, 1)) + 0.3 * rng.normal(size=(patients, discs))).ravel()
        groups = np.repeat(np.arange(patients), discs)
        _, low, high = bootstrap(values, groups if grouped else None, confidence=0.9, resamples=400)
        hits += low <= 0 <= high
    # 0.9 nominal with a standard error of 0.017; blind to the patients, intervals are half as long as needed.
    assert hits / repeats > 0.84 if grouped else hits / repeats < 0.7


def test_the_bootstrap_is_decided_by_its_seed():
    values = np.random.default_rng(1).random(30)
    assert bootstrap(values, seed=4) == bootstrap(torch.from_numpy(values), seed=4)
    assert bootstrap(values, seed=4) != bootstrap(values, seed=5)
    assert bootstrap(values, torch.arange(30)) == bootstrap(values)
    wide, narrow = bootstrap(values, confidence=0.99), bootstrap(values, confidence=0.5)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


def test_the_bootstrap_of_scipy_before_1_15(monkeypatch):
    values, now = [0.1, 0.4, 0.5], stats.bootstrap
    expected = bootstrap(values)

    def before(data, statistic, *, random_state=None, **options):
        assert random_state is not None
        return now(data, statistic, rng=random_state, **options)

    monkeypatch.setattr(stats, "bootstrap", before)
    assert bootstrap(values) == expected


@pytest.mark.parametrize(("values", "groups"), [([0.5], None), ([0.25, 0.75], ["Ada", "Ada"])])
def test_one_group_has_a_mean_without_an_interval(values, groups):
    mean, low, high = bootstrap(values, groups)
    assert mean == 0.5
    assert math.isnan(low)
    assert math.isnan(high)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([],), {}, "that no row matches"),
        (([[1.0, 2.0]],), {}, r"got shape \(1, 2\)"),
        (([1.0, math.nan, math.inf],), {}, "got nan at 1, 2 in all"),
        (([1.0, 2.0], ["a"]), {}, "got 1 for 2 values"),
        (([1.0, 2.0],), {"confidence": 95}, "between 0 and 1"),
        (([1.0, 2.0],), {"resamples": 0}, "1 or more"),
    ],
)
def test_bootstrap_errors_teach(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap(*arguments, **options)
