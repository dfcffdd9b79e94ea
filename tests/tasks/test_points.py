"""Tasks of points, as coordinates and as heat maps: visibility, weights, sizes, and what is no point."""

import pytest
import torch
from networks import seeded, uniform
from torch import nn

from advreg import Threat, auto_attack, linf, point_error
from advreg.metrics import heatmap_error, heatmap_points
from advreg.objectives import at
from advreg.tasks import heatmaps, points

X = uniform(4, 1, 8, 8)
THREAT = Threat(linf, 0.1)
VISIBLE = torch.tensor([[1, 1, 0], [1, 0, 1], [0, 0, 1], [1, 1, 1]]).bool()


def coordinates(dims):
    return seeded(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3 * dims), nn.Unflatten(1, (3, dims)))
    ).eval()


def attacked(model, y, task, budget=60):
    return auto_attack(model, X, y, heads={"": task}, threat=THREAT, budget=budget)[""]


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_points_that_are_not_visible_in_each_form_of_the_target(dims):
    model = coordinates(dims)
    y = (model(X) + 0.3).detach().masked_fill(~VISIBLE[..., None], torch.nan)
    first = attacked(model, {"points": y, "visible": VISIBLE}, points())
    torch.testing.assert_close(first.value, point_error(model(first.x).detach(), y, valid=VISIBLE))
    assert (first.value > first.clean).all()
    hidden = {"points": y, "visible": torch.zeros_like(VISIBLE)}
    assert points().metric(model(X), hidden).tolist() == [0, 0, 0, 0]
    for target, task in (
        ({"points": y, "visible": 2 * VISIBLE.int()}, points()),
        (y, points(valid=lambda target: target.isfinite().all(-1))),
    ):
        found = attacked(model, target, task)
        assert torch.equal(found.x, first.x)
    with pytest.raises(
        ValueError, match=r"target must be finite; got NaN or infinity for examples 0, 1, 2: "
    ):
        attacked(model, y, points())
    with pytest.raises(ValueError, match="target must be finite"):
        attacked(model, {"points": y, "visible": torch.ones_like(VISIBLE)}, points())


def test_weights_and_sizes():
    model, y = coordinates(2), uniform(4, 3, 2)
    output, each = model(X).detach(), torch.tensor([1.0, 0.0, 3.0])
    apart = (output - y).norm(dim=2)
    expected = (apart * each).sum(1) / 4
    torch.testing.assert_close(points(weights=each).metric(output, y), expected)
    in_target = {"points": y, "weights": each.expand(4, 3), "visible": torch.ones(4, 3).bool()}
    torch.testing.assert_close(points().metric(output, in_target), expected)

    def size(target):
        return (target[:, 0] - target[:, 2]).norm(dim=1)

    sized = points(normalise=size)
    torch.testing.assert_close(sized.metric(output, y), apart.mean(1) / size(y))
    assert torch.equal(attacked(model, y, sized).x, attacked(model, y, points()).x)
    for member in points(weights=each).members:  # the second point weighs nothing
        moved = output.clone()
        moved[:, 1] += 9
        torch.testing.assert_close(member.objective(moved, y), member.objective(output, y))
        moved[:, 2] += 9
        assert (member.objective(moved, y) > member.objective(output, y)).all()
    squares = points(weights=each).members[-1].objective(output, y)
    torch.testing.assert_close(squares, (each * (output - y).square().sum(2)).sum(1))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (torch.tensor([1.0, 0.0, 1.0, 1.0]), "finite sizes above zero; got 0 for example 1: leave these"),
        (torch.full((4,), torch.nan), "finite sizes above zero; got nan"),
        (torch.ones(4, 1), r"normalise must return one number per example.*got shape \(4, 1\)"),
    ],
)
def test_sizes_that_are_refused(returned, message):
    with pytest.raises((ValueError, TypeError), match=message):
        points(normalise=lambda _: returned).metric(torch.zeros(4, 3, 2), torch.zeros(4, 3, 2))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 10), r"unflatten\(1, \(-1, 2\)\).*values\(\) or maps\(\)"),
        ((2, 1, 32, 32), r"for maps, such as depth.*maps\(\)"),
        (
            (2, 32, 32),
            r"4 coordinates each or fewer; got \(2, 32, 32\): for maps, such as depth, use maps\(\)",
        ),
        ((2, 2, 17), r"output.transpose\(1, 2\)"),
    ],
)
def test_what_is_no_points_is_told_which_task_it_has(shape, message):
    with pytest.raises(ValueError, match=message):
        points().metric(torch.zeros(shape), torch.zeros(shape))


class Maps(nn.Module):
    """Heat maps (B, 3, 8, 8)."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 3, 5, padding=2))

    def forward(self, x):
        return self.layers(x)


def test_heat_maps_in_each_form_of_the_target():
    model = seeded(Maps).eval()
    maps = model(X).detach()
    y = heatmap_points(maps, stride=4)
    first = attacked(model, y, heatmaps(stride=4))
    assert first.clean.tolist() == [0] * 4
    torch.testing.assert_close(first.value, heatmap_error(model(first.x), y, stride=4))
    assert (first.value > 0).any()
    assert torch.equal(attacked(model, maps, heatmaps(stride=4)).x, first.x)
    gaps = {"points": y.masked_fill(~VISIBLE[..., None], torch.nan), "visible": VISIBLE}
    found = attacked(model, gaps, heatmaps(stride=4))
    torch.testing.assert_close(found.value, heatmap_error(model(found.x), y, valid=VISIBLE, stride=4))
    assert not torch.equal(found.value, first.value)
    empty = maps.clamp(min=0).masked_fill(~VISIBLE[..., None, None], 0)
    again = attacked(model, empty, heatmaps(stride=4, valid=lambda target: target.amax((2, 3)) > 0))
    torch.testing.assert_close(again.value, found.value)


def test_members_of_heat_maps_are_larger_where_the_peak_is_far():
    at_truth, far = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    at_truth[0, 0, 1, 2], far[0, 0, 6, 6] = 1.0, 1.0
    target = torch.tensor([[[2.0, 1.0]]])
    for member in heatmaps().members:
        for share in (0.0, 1.0):
            form = at(member.objective, share)
            assert form(far, target) > form(at_truth, target), member.name


def test_options_that_are_refused():
    with pytest.raises(ValueError, match="stride must be above zero"):
        heatmaps(stride=0.0)
    with pytest.raises(TypeError, match="normalise must be a function"):
        points(normalise=torch.ones(4))
    with pytest.raises(KeyError, match="must have 'points', and may have 'visible' and 'weights'"):
        points().metric(torch.zeros(1, 2, 2), {"keypoints": torch.zeros(1, 2, 2)})
