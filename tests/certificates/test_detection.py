"""Detection that no adversary can make worse."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advreg.certificates import guaranteed_auroc, guaranteed_detection, guaranteed_rate
from advreg.metrics import detection, threshold

SCORES = st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=12)
FEW = {"resamples": 20}


@given(SCORES, SCORES, st.floats(0, 3), st.floats(0, 2), st.randoms(use_true_random=False))
def test_no_fall_within_the_radius_makes_a_measure_worse(inside, outside, radius, lipschitz, random):
    """Whatever each score falls by, up to the slope times the radius."""
    held = guaranteed_detection(inside, outside, radius, lipschitz, allowance=1e-9, **FEW)
    fallen = [score - random.random() * lipschitz * radius for score in outside]
    found = detection(inside, fallen, **FEW)
    assert found.auroc.mean >= held.auroc.mean
    assert found.fpr95.mean <= held.fpr95.mean
    limit = threshold(inside, 0.9)
    share = guaranteed_rate(outside, limit, radius, lipschitz, allowance=1e-9, **FEW)
    assert np.mean(np.array(fallen) > limit) >= share.mean


def test_at_no_radius_it_is_the_measure_itself_and_it_falls_to_nothing():
    g = torch.Generator().manual_seed(0)
    inside, outside = torch.randn(30, generator=g), torch.randn(40, generator=g) + 2
    groups = {"groups_in": [n // 3 for n in range(30)], "groups_out": [n // 4 for n in range(40)]}
    plain = detection(inside, outside, **groups)
    assert guaranteed_detection(inside, outside, 0.0, **groups) == (plain.auroc, plain.fpr95)
    assert (
        guaranteed_auroc(inside, outside, 1.0, **groups)
        == guaranteed_detection(inside, outside, 1.0, **groups).auroc
    )
    means = [guaranteed_auroc(inside, outside, r).mean for r in (0, 0.5, 1, 2, 10)]
    assert means == sorted(means, reverse=True)
    assert means[-1] == 0
    assert guaranteed_auroc(inside, outside, 0.5, 2.0).mean == guaranteed_auroc(inside, outside, 1.0).mean


def test_whole_patients_are_resampled():
    outside, groups = [1.0, 1.0, 3.0, 3.0], ["Ada", "Ada", "Bob", "Bob"]
    rate = guaranteed_rate(outside, 1.5, 1.0, groups=groups)
    assert rate == (0.5, 0.0, 1.0)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda: guaranteed_auroc([0.0], [1.0], -1.0),
            "radius must be a finite number of zero or more; got -1",
        ),
        (lambda: guaranteed_auroc([0.0], [1.0], 1.0, float("inf")), "lipschitz must be a finite number"),
        (
            lambda: guaranteed_auroc([0.0], [1.0], 1.0, allowance=float("nan")),
            "allowance must be a finite number",
        ),
        (lambda: guaranteed_auroc([0.0], [float("nan")], 1.0), "scores_out must be numbers; got 1 NaN of 1"),
        (lambda: guaranteed_auroc([0.0], [], 1.0), "scores_out"),
        (lambda: guaranteed_rate([0.0], float("nan"), 1.0), "threshold must be a number"),
    ],
)
def test_refusals(act, message):
    with pytest.raises(ValueError, match=message):
        act()
