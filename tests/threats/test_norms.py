"""The shipped norms keep the contract: sizes, steepest directions, samples."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from advreg import Keys, l1, l2, linf
from advreg.testing import check_norm

NORMS = [linf, l2, l1]


norms = st.sampled_from(NORMS)


seeds = st.integers(0, 2**32)


def normal(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(1,), (40,), (2, 3, 4)])
def test_the_shipped_norms_keep_the_contract(norm, shape):
    check_norm(norm, shape=shape)


@settings(max_examples=50, deadline=None)
@given(norms, seeds)
def test_steepest_is_the_maximiser(norm, seed):
    g = normal(seed, 3, 9)
    dual = {linf: g.abs().sum(1), l2: g.square().sum(1).sqrt(), l1: g.abs().amax(1)}[norm]
    torch.testing.assert_close((g * norm.steepest(g)).sum(1), dual)


@pytest.mark.parametrize(
    ("norm", "volume"), [(linf, 1.0), (l2, math.pi / 4), (l1, 0.5)], ids=["linf", "l2", "l1"]
)
def test_samples_are_uniform_in_the_ball(norm, volume):
    # In the plane, the share of the ball within half the radius is a quarter, whatever the norm; and each
    # ball fills its own share of the square.
    count = 20000
    points = norm.sample(torch.empty(count, 2), Keys(0, torch.arange(count)))
    size = norm.size(points)
    assert size.max() <= 1 + 1e-6
    assert (size < 0.5).double().mean().item() == pytest.approx(0.25, abs=0.012)
    inner_square = (points.abs() < 0.25).all(1).double().mean().item()
    assert inner_square == pytest.approx(0.0625 / volume, abs=0.01)
    assert points.mean(0).abs().max() < 0.02
