"""Balls whose entries are each measured in a scale: against a general solver, and in whatever units."""

import numpy as np
import pytest
import torch
from scipy.optimize import LinearConstraint, NonlinearConstraint, minimize

from advreg import Keys, Threat, l1, l2, linf

NORMS = [linf, l2, l1]
SIZES = {linf: lambda d: np.abs(d).max(), l2: lambda d: np.sqrt((d**2).sum()), l1: lambda d: np.abs(d).sum()}


def solved(norm, d, radius, scale, low, high):
    """The nearest point by a solver for any convex program, in parts of positive and negative change."""
    n = len(d)
    if norm is l2:
        ball = NonlinearConstraint(
            lambda z: ((z[:n] - z[n:]) / scale) @ ((z[:n] - z[n:]) / scale), 0, radius**2
        )
    elif norm is l1:
        ball = LinearConstraint(np.concatenate([1 / scale, 1 / scale])[None], 0, radius)
    else:
        ball = LinearConstraint(np.concatenate([np.diag(1 / scale), np.diag(1 / scale)], 1), 0, radius)
    sides = [(0, max(h, 0)) for h in high] + [(0, max(-b, 0)) for b in low]
    found = minimize(
        lambda z: ((z[:n] - z[n:] - d) ** 2).sum(),
        np.zeros(2 * n),
        bounds=sides,
        constraints=[ball],
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-14},
    )
    return found.x[:n] - found.x[n:]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", range(6))
def test_the_projection_is_that_of_a_general_solver(norm, seed):
    g = np.random.default_rng(seed)
    n = 5
    d, scale, radius = 2 * g.normal(size=n), 10 ** g.uniform(-0.7, 0.7, n), g.uniform(0.3, 2)
    low, high = -g.uniform(0, 1, n), g.uniform(0, 1, n)
    centre = torch.zeros(1, n, dtype=torch.float64)
    bounds = tuple(torch.as_tensor(side) for side in (low, high))
    threat = Threat(norm, radius, bounds, scale=torch.as_tensor(scale))
    found = threat.project(torch.as_tensor(d)[None], centre)[0].numpy()
    assert SIZES[norm](found / scale) <= radius * (1 + 1e-9)
    np.testing.assert_allclose(found, solved(norm, d, radius, scale, low, high), atol=2e-5)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_one_scale_for_all_is_another_radius(norm, dtype):
    g = torch.Generator().manual_seed(0)
    centre, far = torch.rand(3, 2, 5, generator=g).to(dtype), torch.randn(3, 2, 5, generator=g).to(dtype)
    scaled = Threat(norm, torch.tensor([0.2, 1.0, 3.0]), scale=torch.full((2, 1), 0.5))
    plain = Threat(norm, torch.tensor([0.1, 0.5, 1.5]))
    torch.testing.assert_close(scaled.project(far, centre), plain.project(far, centre))


@pytest.mark.parametrize("norm", [l2, l1])
def test_scales_that_are_far_apart_and_an_example_alone(norm):
    g = torch.Generator().manual_seed(1)
    centre, far = torch.zeros(4, 30), 1e3 * torch.randn(4, 30, generator=g)
    scale = 10 ** torch.linspace(-6, 6, 30)
    threat = Threat(norm, torch.tensor([1e-3, 1.0, 50.0, 1e4]), None, scale=scale)
    near = threat.project(far, centre)
    assert near.isfinite().all()
    assert threat.contains(near, centre).all()
    torch.testing.assert_close(norm.size(near / scale), threat.radius.clamp(max=1e9), rtol=1e-4, atol=0)
    for k in range(4):
        alone = Threat(norm, float(threat.radius[k]), None, scale=scale)
        assert torch.equal(alone.project(far[k : k + 1], centre[k : k + 1]), near[k : k + 1])


@pytest.mark.parametrize("norm", NORMS)
def test_a_scale_of_zero_is_closed_like_a_mask_and_may_hold_what_is_missing(norm):
    g = torch.Generator().manual_seed(2)
    centre, far = torch.rand(3, 3, 4, generator=g), torch.randn(3, 3, 4, generator=g)
    centre[:, 2] = torch.nan
    scale = torch.tensor([1.0, 0.3, 0.0])[:, None]
    threat = Threat(norm, 0.4, scale=scale)
    threat.validate(centre)
    for x in (threat.project(far, centre), threat.sample(centre, Keys(0, torch.arange(3)))):
        assert x[:, 2].isnan().all()
        assert threat.contains(x, centre).all()
        assert (x[:, :2] != centre[:, :2]).flatten(1).any(1).all()
    held = Threat(norm, 0.4).project(far[:, :2], centre[:, :2])
    open_ = Threat(norm, 0.4, scale=scale[:2]).project(far[:, :2], centre[:, :2])
    assert torch.equal(threat.project(far, centre)[:, :2], open_)
    assert not torch.equal(open_, held)


def test_random_starts_are_uniform_in_each_channels_range():
    centre = torch.full((1, 3, 40, 40), 0.5)
    scale = torch.tensor([1.0, 0.2, 0.0]).reshape(3, 1, 1)
    moved = Threat(linf, 0.3, scale=scale).sample(centre, Keys(3, torch.arange(1))) - centre
    for channel, width in enumerate((0.3, 0.06)):
        own = (moved[0, channel].flatten().sort().values / width + 1) / 2
        even = (torch.arange(1600) + 0.5) / 1600
        assert (own - even).abs().max() < 1.63 / 40  # Kolmogorov and Smirnov, one per cent
    assert (moved[0, 2] == 0).all()


def test_scales_per_example_go_with_their_examples():
    g = torch.Generator().manual_seed(4)
    centre, far = torch.rand(4, 6, generator=g), torch.randn(4, 6, generator=g)
    scale = torch.rand(4, 6, generator=g)
    threat = Threat(l2, 0.5, scale=scale)
    some = torch.tensor([2, 0])
    part = threat.take(some, centre)
    assert torch.equal(part.project(far[some], centre[some]), threat.project(far, centre)[some])


def test_what_a_scale_may_be():
    for scale, error, message in (
        (torch.tensor([-1.0]), ValueError, "scale must be zero or more and finite; got -1"),
        (torch.tensor([torch.inf]), ValueError, "the width of its bounds"),
        ([1.0, 2.0], TypeError, "broadcasts against the inputs.*as_tensor"),
    ):
        with pytest.raises(error, match=message):
            Threat(linf, 0.1, scale=scale)
    with pytest.raises(ValueError, match=r"got shape \(3, 1, 1\): for a radius per channel.*scale=radius"):
        Threat(linf, torch.full((3, 1, 1), 0.1))
    with pytest.raises(ValueError, match=r"scale must broadcast against the inputs \(2, 4, 5\)"):
        Threat(linf, 0.1, scale=torch.ones(3)).validate(torch.rand(2, 4, 5))

    class Own:
        def size(self, d):
            return l2.size(d)

        project, steepest, sample = l2.project, l2.steepest, l2.sample

    with pytest.raises(TypeError, match="measure d / scale in the norm's own methods"):
        Threat(Own(), 0.1, scale=torch.ones(3))
    with pytest.raises(TypeError, match="levels go with linf, l2 and l1"):
        Threat(Own(), 0.1, levels=255)
