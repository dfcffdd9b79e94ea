"""Grey levels: the grid that files hold, and how points land on it."""

import math

import pytest
import torch

from advreg import Keys, Threat, l1, l2, linf


def integers(*shape, levels=255, seed=0):
    return torch.randint(levels + 1, shape, generator=torch.Generator().manual_seed(seed))


def test_the_levels_are_to_the_bit_what_integers_over_levels_are():
    k = torch.arange(256).reshape(1, -1)
    x = k.float() / 255
    assert torch.equal(Threat(linf, 1.0, levels=255).project(x + 1e-4, x), x)
    k = torch.arange(4096).reshape(1, -1)
    for bounds, x in (((0.0, 1.0), k.float() / 4095), ((0.0, 4095.0), k.float())):
        far = x + 0.3 * bounds[1] / 4095
        assert torch.equal(Threat(linf, math.inf, bounds, levels=4095).project(far, x), x)


def test_a_radius_allows_the_whole_levels_that_fit_in_it():
    x = integers(4, 3, 8, 8).float() / 255
    up = torch.full_like(x, 9.0)
    for radius, count in ((8 / 255, 8), (0.03, 7), (7.999 / 255, 7), (0.9 / 255, 0), (1 / 255, 1)):
        moved = 255 * (Threat(linf, radius, levels=255).project(up, x) - x)
        expected = torch.clamp(torch.full_like(x, count), max=255 * (1 - x))
        torch.testing.assert_close(moved, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("norm", "radius"), [(l2, 0.3), (l1, 4.0)])
def test_a_ball_too_small_for_a_level_in_each_entry_is_filled_by_those_that_count_most(norm, radius):
    x = 0.25 + integers(3, 1, 32, 32, levels=127).float() / 255
    x = (255 * x).round() / 255
    d = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    threat = Threat(norm, radius, levels=255)
    moved = threat.project(x + d, x) - x
    assert threat.contains(x + moved, x).all()
    size = norm.size(moved)
    assert (size > 0.97 * radius).all()  # nothing is lost to rounding
    assert (size <= radius * (1 + 1e-4)).all()
    smooth = threat.relaxed.project(x + d, x) - x
    gone = (smooth.abs() * 255 < 1).float().mean()
    if norm is l2:
        assert gone > 0.2
        alike = torch.cosine_similarity(moved.flatten(1), d.flatten(1))
        assert (alike > 0.95 * torch.cosine_similarity(smooth.flatten(1), d.flatten(1))).all()


def test_samples_lie_on_the_grid_and_per_channel_bounds_have_grids_of_their_own():
    mean, std = torch.tensor([0.4, 0.5, 0.6])[:, None, None], torch.tensor([0.2, 0.25, 0.3])[:, None, None]
    k = integers(2, 3, 6, 6)
    x = (k / 255 - mean) / std
    scale = 1 / std
    threat = Threat(linf, 8 / 255, (-mean / std, (1 - mean) / std), scale=scale, levels=255)
    threat.validate(x)
    found = threat.sample(x, Keys(0, torch.arange(2)))
    grey = 255 * (found * std + mean)
    torch.testing.assert_close(grey, grey.round(), atol=1e-3, rtol=0)
    assert ((grey.round() - k).abs() <= 8).all()
    assert (grey.round() != k).any()


def test_what_levels_may_be_and_what_lies_on_them():
    for levels, error, message in (
        (0, ValueError, "1 or more"),
        (True, TypeError, "whole number"),
        (255.0, TypeError, "255 for 8 bits"),
    ):
        with pytest.raises(error, match=message):
            Threat(linf, 0.1, levels=levels)
    for bounds in (None, (0.0, math.inf)):
        with pytest.raises(ValueError, match="levels divide the bounds, which must be finite"):
            Threat(linf, 0.1, bounds, levels=255)
    threat = Threat(linf, 0.1, levels=255)
    with pytest.raises(ValueError, match=r"must lie on the 255 levels.*example 1: .*\(x \* 255\)\.round"):
        threat.validate(torch.tensor([[3 / 255], [3.3 / 255]]))
    with pytest.raises(ValueError, match="bfloat16 cannot hold 255 levels"):
        threat.validate(torch.zeros(1, 2, dtype=torch.bfloat16))
    masked = Threat(linf, 0.1, mask=torch.tensor([True, False]), levels=255)
    masked.validate(torch.tensor([[0.2, 0.1234]]))
    x = torch.tensor([[0.2, 0.4]])
    assert threat.contains(x + torch.tensor([[1 / 255, 0.0]]), x).all()
    assert not threat.contains(x + torch.tensor([[0.5 / 255, 0.0]]), x).any()


def test_a_radius_of_less_than_a_level_is_told():
    x = integers(2, 3).float() / 255
    with pytest.warns(UserWarning, match=r"a radius of 0.0039 is less than one of 255 levels, 0.00392157"):
        Threat(linf, torch.tensor([0.0039, 0.1]), levels=255).validate(x)
    with pytest.warns(UserWarning, match="pass a radius of whole levels, such as 0.00784314"):
        Threat(l2, 0.0039, scale=torch.tensor([0.5, 0.1, 0.0]), levels=255).validate(x)
    for radius in (0.0, 1 / 255):
        Threat(l1, radius, levels=255).validate(x)  # a warning would be an error here
