"""Projections against an independent solver, and their own laws."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from advreg import l1, l2, linf
from advreg.threats import dykstra

NORMS = [linf, l2, l1]


HALF = [torch.float16, torch.bfloat16]


DTYPES = [*HALF, torch.float32, torch.float64]


norms = st.sampled_from(NORMS)


seeds = st.integers(0, 2**32)


radii = st.floats(1e-3, 10)


def normal(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def box(seed, like):
    """Random sides around zero, some of them closed, some infinite."""
    g = torch.Generator().manual_seed(seed)
    low, high = (-torch.rand(like.shape, dtype=like.dtype, generator=g) for _ in range(2))
    kind = torch.rand(like.shape, generator=g)
    low = torch.where(kind < 0.2, 0, torch.where(kind > 0.8, -math.inf, low))
    return low, -high


def solve(d, radius, lower, upper, norm):
    """The projection of one vector by SLSQP; L1 by splitting into its positive and negative parts."""
    n = len(d)
    fence = [
        (None if np.isinf(a) else a, None if np.isinf(b) else b) for a, b in zip(lower, upper, strict=True)
    ]
    options = {"ftol": 1e-14, "maxiter": 1000}
    if norm is linf:
        fence = [(max(a, -radius), min(b, radius)) for a, b in zip(lower, upper, strict=True)]
        return minimize(
            lambda z: ((z - d) ** 2).sum(), np.zeros(n), jac=lambda z: 2 * (z - d), bounds=fence
        ).x
    if norm is l2:
        ball = {"type": "ineq", "fun": lambda z: radius**2 - (z**2).sum(), "jac": lambda z: -2 * z}
        start = np.clip(np.zeros(n), lower, upper)
        return minimize(
            lambda z: ((z - d) ** 2).sum(),
            start,
            jac=lambda z: 2 * (z - d),
            bounds=fence,
            constraints=ball,
            method="SLSQP",
            options=options,
        ).x
    split = [(0, max(b, 0)) for b in upper] + [(0, max(-a, 0)) for a in lower]
    ball = {"type": "ineq", "fun": lambda p: radius - p.sum(), "jac": lambda p: -np.ones(2 * n)}
    p = minimize(
        lambda p: ((p[:n] - p[n:] - d) ** 2).sum(),
        np.zeros(2 * n),
        bounds=split,
        constraints=ball,
        jac=lambda p: 2 * np.concatenate([p[:n] - p[n:] - d, d - p[:n] + p[n:]]),
        method="SLSQP",
        options=options,
    ).x
    return p[:n] - p[n:]


@settings(max_examples=150, deadline=None)
@given(norms, seeds, radii, st.integers(1, 6), st.booleans(), st.booleans())
def test_projection_is_what_an_independent_solver_finds(norm, seed, radius, n, boxed, looking):
    d = 2 * normal(seed, 1, n)
    low, high = box(seed, d) if boxed else (torch.full_like(d, -math.inf), torch.full_like(d, math.inf))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("advreg._core.device.free", lambda _: looking)  # as on an accelerator, where it is not
        z = norm.project(d, torch.tensor([radius], dtype=d.dtype), low, high)[0].numpy()
    found = solve(d[0].numpy(), radius, low[0].numpy(), high[0].numpy(), norm)
    ours, theirs = ((z - d[0].numpy()) ** 2).sum(), ((found - d[0].numpy()) ** 2).sum()
    assert ours <= theirs + 1e-7 * (1 + theirs)
    np.testing.assert_allclose(z, found, atol=2e-4)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([l2, l1]), seeds, st.integers(1, 3000), st.floats(-4, 4), st.floats(0, 6), st.booleans()
)
def test_without_looking_the_projection_is_the_same(norm, seed, n, magnitude, spread, boxed):
    chance = 2 * spread * torch.rand(3, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    d = normal(seed, 3, n) * 10 ** (chance - spread)
    radius = torch.full((3,), 10.0**magnitude, dtype=d.dtype)
    sides = box(seed + 1, d) if boxed else (None, None)
    expected = norm.project(d, radius, *sides)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("advreg._core.device.free", lambda _: False)
        found = norm.project(d, radius, *sides)
    assert (norm.size(found) <= radius * (1 + 1e-12)).all()
    farther = (found - d).norm(dim=1) - (expected - d).norm(dim=1)
    assert (farther <= 1e-12 * d.norm(dim=1)).all()


@settings(max_examples=100, deadline=None)
@given(norms, seeds, radii, st.sampled_from([(7,), (3, 5), (2, 3, 4), (1, 3, 4, 5)]))
def test_projection_is_feasible_idempotent_nearest_and_contracting(norm, seed, radius, shape):
    d, e = 3 * normal(seed, 4, *shape), 3 * normal(seed + 1, 4, *shape)
    radius = radius * torch.tensor([0.0, 0.1, 1.0, 10.0], dtype=d.dtype)
    low, high = box(seed, d)
    z, w = norm.project(d, radius, low, high), norm.project(e, radius, low, high)
    assert (norm.size(z) <= radius * (1 + 1e-12)).all()
    assert ((z >= low) & (z <= high)).all()
    torch.testing.assert_close(norm.project(z, radius, low, high), z, rtol=1e-12, atol=1e-14)
    assert (l2.size(z - w) <= l2.size(d - e) * (1 + 1e-12)).all()
    for point in (w, torch.zeros_like(d), z / 2):  # the angle at the nearest point is never acute
        assert (((d - z) * (point - z)).flatten(1).sum(1) <= 1e-10 * (1 + l2.size(d) ** 2)).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_float_dtype(norm, dtype):
    d = normal(0, 3, 2, 50, dtype=torch.float32).to(dtype)
    radius = torch.tensor([0.5, 2.0, 1e4])
    z = norm.project(d, radius, torch.tensor(-0.25, dtype=dtype), torch.tensor(0.5, dtype=dtype))
    exact = norm.project(d.double(), radius, torch.tensor(-0.25).double(), torch.tensor(0.5).double())
    assert z.dtype == dtype
    torch.testing.assert_close(
        z.double(), exact, rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps
    )
    assert norm.steepest(d).dtype == dtype
    torch.testing.assert_close(
        norm.size(norm.steepest(d)).double(), torch.ones(3).double(), rtol=0, atol=0.02
    )


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1.0, 1e15, 1e30])
def test_no_scale_overflows_or_vanishes(norm, scale):
    d = normal(3, 2, 100, dtype=torch.float32)
    ours = norm.project(scale * d, torch.tensor([scale, 3 * scale])) / scale
    torch.testing.assert_close(ours, norm.project(d, torch.tensor([1.0, 3.0])), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(norm.steepest(scale * d), norm.steepest(d))


@pytest.mark.parametrize("norm", NORMS)
def test_examples_do_not_interact(norm):
    d, radius = 2 * normal(5, 6, 3, 4), torch.rand(6, dtype=torch.float64)
    low, high = box(5, d)
    together = norm.project(d, radius, low, high)
    apart = [norm.project(d[i : i + 1], radius[i : i + 1], low[i : i + 1], high[i : i + 1]) for i in range(6)]
    torch.testing.assert_close(together, torch.cat(apart), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("norm", [l2, l1])
def test_a_box_that_excludes_zero(norm):
    d, radius = (
        torch.tensor([[3.0, -2.0, 0.1]], dtype=torch.float64),
        torch.tensor([2.0], dtype=torch.float64),
    )
    low, high = torch.tensor([[0.5, 0.25, -1.0]]).double(), torch.tensor([[2.0, 1.0, 1.0]]).double()
    z = norm.project(d, radius, low, high)
    assert (z >= low).all()
    assert (z <= high).all()
    assert norm.size(z).item() == pytest.approx(2.0)
    for point in (norm.project(normal(s, 1, 3), radius, low, high) for s in range(50)):
        assert ((d - z) * (point - z)).sum() <= 1e-12


@pytest.mark.parametrize("norm", [linf, l2, l1])
def test_dykstra_finds_the_same_point_from_the_ball_alone(norm):
    d, radius = 2 * normal(9, 5, 8), torch.tensor([0.1, 0.5, 1.0, 2.0, 9.0], dtype=torch.float64)
    low, high = box(9, d)
    found = dykstra(norm.project, d, radius, low, high, rounds=20000)
    torch.testing.assert_close(found, norm.project(d, radius, low, high), rtol=0, atol=1e-6)


def test_dykstra_does_not_stop_a_small_example_for_a_large_one():
    # The large one is done at once; the small one takes many rounds, each less than the large one's rounding.
    d = torch.cat([torch.full((1, 8), 1e12).double(), 2 * normal(4, 1, 8)])
    radius = torch.tensor([1e13, 0.7], dtype=torch.float64)
    low, high = torch.tensor([[-1e13], [-0.2]]).double(), torch.tensor([[1e13], [0.3]]).double()
    both = dykstra(l2.project, d, radius, low, high, rounds=20000)
    torch.testing.assert_close(both, l2.project(d, radius, low, high), rtol=0, atol=1e-9)
