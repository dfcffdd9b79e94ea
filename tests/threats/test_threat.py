import math

import pytest
import torch

from advreg import Keys, Threat, l1, l2, linf

NORMS = [linf, l2, l1]
keys = Keys(0, torch.arange(3))


def points(*shape, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    return torch.rand(3, *shape, generator=g).to(dtype), torch.randn(3, *shape, generator=g).to(dtype)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(), (9,), (2, 6), (3, 6, 5), (1, 4, 5, 6), (2, 3, 4, 3, 2)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_projection_and_samples_are_inside_at_any_rank_and_dtype(norm, shape, dtype):
    centre, far = points(*shape, dtype=dtype)
    threat = Threat(norm, torch.tensor([0.05, 0.5, 2.0]))
    threat.validate(centre)
    for x in (
        threat.project(far, centre),
        threat.sample(centre, keys),
        threat.sample(centre, keys, start=far),
    ):
        assert x.dtype == dtype
        assert threat.contains(x, centre).all()
        assert ((x >= 0) & (x <= 1)).all()
    assert not threat.contains(far + 9, centre).any()


@pytest.mark.parametrize("norm", NORMS)
def test_bounds_per_channel_and_per_voxel_hold_exactly(norm):
    centre, far = points(2, 4, 4)
    channel = torch.tensor([0.2, 0.9]).reshape(2, 1, 1)
    voxel = torch.rand(4, 4, generator=torch.Generator().manual_seed(2)) / 10
    centre = centre.clamp(voxel, channel)
    threat = Threat(norm, 3.0, bounds=(voxel, channel))
    threat.validate(centre)
    x = threat.project(far, centre)
    assert ((x >= voxel) & (x <= channel)).all()
    assert threat.contains(x, centre).all()
    assert not threat.contains(torch.full_like(x, 0.95), centre).any()


@pytest.mark.parametrize("norm", NORMS)
def test_outside_the_mask_nothing_moves_and_inside_the_projection_is_that_of_the_rest(norm):
    centre, far = points(6, 6)
    mask = torch.zeros(6, 6, dtype=torch.bool)
    mask[1:4, 2:5] = True
    masked, plain = Threat(norm, 0.7, mask=mask), Threat(norm, 0.7)
    x = masked.project(far, centre)
    assert torch.equal(x[:, ~mask], centre[:, ~mask])
    torch.testing.assert_close(x[:, mask], plain.project(far[:, mask], centre[:, mask]))
    start = masked.sample(centre, keys)
    assert torch.equal(start[:, ~mask], centre[:, ~mask])
    assert (start[:, mask] != centre[:, mask]).any(1).all()
    assert not masked.contains(centre + 0.01, centre).any()
    g = masked.steps_at(centre).steepest(far)
    assert (g[:, ~mask] == 0).all()
    assert g.abs().sum() > 0


def test_a_masked_sample_is_as_large_as_the_whole_one():
    centre = torch.full((3, 400), 0.5)
    mask = torch.zeros(400, dtype=torch.bool)
    mask[:40] = True
    threat = Threat(l2, 1.0, bounds=None, mask=mask)
    assert (l2.size(threat.sample(centre, keys) - centre) > 0.95).all()


def test_an_infinite_radius_leaves_the_box():
    centre, far = points(5)
    assert torch.equal(Threat(l2, math.inf).project(far, centre), far.clamp(0, 1))


def test_box_before_ball_is_feasible_but_not_nearest():
    # The paper clips to the ball and then to the box; the exact projection uses the whole radius.
    centre, x = torch.zeros(1, 4), torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    clipped = (centre + (x - centre) / 2).clamp(0, 1)
    exact = Threat(l2, 1.0).project(x, centre)
    assert l2.size(clipped) < 0.75
    torch.testing.assert_close(exact, torch.tensor([[0.5**0.5, 0.5**0.5, 0, 0]]))


class BallOnly:
    """A user's norm without a box: an ellipsoid."""

    scale = torch.tensor([1.0, 2.0])

    def size(self, d):
        return l2.size(d * self.scale)

    def project(self, d, radius):
        low, high = torch.zeros_like(radius), torch.full_like(radius, 1e3)
        for _ in range(60):
            middle = (low + high) / 2
            out = self.size(d / (1 + middle[:, None] * self.scale**2)) > radius
            low, high = torch.where(out, middle, low), torch.where(out, high, middle)
        inside = self.size(d) <= radius
        return torch.where(inside[:, None], d, d / (1 + high[:, None] * self.scale**2))

    def steepest(self, g):
        return l2.steepest(g / self.scale) / self.scale

    def sample(self, like, keys):
        return l2.sample(like, keys) / self.scale


def test_a_norm_that_offers_only_its_ball_gets_the_box_by_dykstra():
    threat = Threat(BallOnly(), 0.5, bounds=(0.0, 0.3))
    centre, x = (
        torch.tensor([[0.1, 0.1]], dtype=torch.float64),
        torch.tensor([[2.0, 1.0]], dtype=torch.float64),
    )
    z = threat.project(x, centre)
    assert threat.contains(z, centre, atol=1e-6).all()
    grid = torch.cartesian_prod(*[torch.linspace(0, 0.3, 301, dtype=torch.float64)] * 2)
    grid = grid[threat.contains(grid, centre.expand_as(grid))]
    nearest = grid[(grid - x).square().sum(1).argmin()]
    torch.testing.assert_close(z[0], nearest, rtol=0, atol=2e-3)


def test_samples_follow_the_example_not_the_batch():
    centre, _ = points(7)
    threat = Threat(l2, torch.tensor([0.1, 0.2, 0.3]))
    alone = Threat(l2, 0.3).sample(centre[2:], Keys(0, torch.tensor([2])))
    torch.testing.assert_close(threat.sample(centre, keys)[2:], alone, rtol=0, atol=1e-7)


def test_distances_are_measured_in_norm_and_scale_where_something_moves():
    x = torch.tensor([[0.1, 0.5, math.nan], [0.0, 0.2, 0.3]])
    other = x + torch.tensor([0.3, -0.4, 0.0])
    mask, scale = torch.tensor([True, True, False]), torch.tensor([1.0, 2.0, 1.0])
    for norm, plain, scaled in ((linf, 0.4, 0.3), (l2, 0.5, 0.13**0.5), (l1, 0.7, 0.5)):
        found = Threat(norm, 1.0, mask=mask).distance(other, x)
        torch.testing.assert_close(found, torch.full((2,), plain))
        found = Threat(norm, 1.0, mask=mask, scale=scale).distance(other, x)
        torch.testing.assert_close(found, torch.full((2,), scaled))


def test_per_example_radii_on_contains():
    centre = torch.full((3, 2), 0.5)
    threat = Threat(linf, torch.tensor([0.1, 0.2, 0.3]))
    assert threat.contains(centre + 0.2, centre, atol=1e-6).tolist() == [False, True, True]
