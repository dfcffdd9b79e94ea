"""Surrogates of heat map heads by hand, their limits, and points that are not there."""

from functools import partial

import numpy as np
import pytest
import torch

from advreg.metrics import heatmap_error
from advreg.objectives import SharpenedHeatmap, heatmap_cross_entropy, second_peak
from advreg.testing import check_objective


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


MAPS, POINTS = normal(3, 4, 6, 7), 2.3 * normal(3, 4, 2, seed=1).abs()
ALL = {
    "expected": SharpenedHeatmap(),
    "soft-arg-max": SharpenedHeatmap(soft_argmax=True),
    "cross-entropy": heatmap_cross_entropy,
    "second peak": second_peak,
    "second peak, masked": partial(second_peak, masked=True),
}


def by_hand(kind, maps, points, stride=1.0):
    """One example's mean over its points, cell by cell."""
    found = []
    for each, (x, y) in zip(maps.numpy(), points.numpy(), strict=True):
        rows, columns = np.indices(each.shape)
        height, apart = each / (each.max() - each.mean()), np.hypot(stride * columns - x, stride * rows - y)
        near = (apart < 1.5 * stride) | (apart == apart.min())
        if kind == "second peak":
            found.append(height[~near].max() - height[near].max())
            continue
        p = np.exp((5 if kind == "cross-entropy" else 20) * height)
        p /= p.sum()
        if kind == "cross-entropy":
            found.append(-np.log(p[near].sum()))
        elif kind == "expected":
            found.append((p * apart).sum())
        else:
            found.append(np.hypot((p * columns).sum() * stride - x, (p * rows).sum() * stride - y))
    return np.mean(found)


@pytest.mark.parametrize("kind", ["expected", "soft-arg-max", "cross-entropy", "second peak"])
def test_by_hand(kind):
    expected = [by_hand(kind, maps, points) for maps, points in zip(MAPS, POINTS, strict=True)]
    torch.testing.assert_close(ALL[kind](MAPS, POINTS), torch.tensor(expected, dtype=torch.float64))
    strided = [by_hand(kind, maps, points, 3.0) for maps, points in zip(MAPS, 3 * POINTS, strict=True)]
    function = {
        "expected": SharpenedHeatmap(stride=3.0),
        "soft-arg-max": SharpenedHeatmap(stride=3.0, soft_argmax=True),
    }.get(kind, partial(ALL[kind], stride=3.0))
    torch.testing.assert_close(function(MAPS, 3 * POINTS), torch.tensor(strided, dtype=torch.float64))


@pytest.mark.parametrize("name", ALL)
def test_they_keep_the_contract(name):
    function = ALL[name]
    check_objective(function, MAPS, POINTS)
    torch.testing.assert_close(function(100 * MAPS + 3, POINTS), function(MAPS + 0.03, POINTS))
    assert function(MAPS.half(), POINTS).dtype == torch.float32
    output = MAPS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(output, POINTS).sum(), output)
    assert gradient.isfinite().all()
    assert "masked" in name or (gradient != 0).any((1, 2, 3)).all()
    flat = torch.zeros(1, 1, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(function(flat, torch.ones(1, 1, 2)).sum(), flat)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("soft_argmax", [False, True])
def test_sharpened_maps_tend_to_the_metric(soft_argmax):
    hard = SharpenedHeatmap(2.0, 1e5, soft_argmax=soft_argmax)
    torch.testing.assert_close(hard(MAPS, POINTS), heatmap_error(MAPS, POINTS), rtol=0, atol=1e-6)
    assert not torch.allclose(hard.at(0.0)(MAPS, POINTS), hard(MAPS, POINTS), atol=0.1)


@pytest.mark.parametrize("name", ALL)
def test_points_that_are_not_there_and_weights(name):
    function, valid = ALL[name], torch.tensor([[True, False, True, True], [False] * 4, [True] * 4])
    output = MAPS.masked_fill(~valid[..., None, None], torch.nan).requires_grad_()
    target = POINTS.masked_fill(~valid[..., None], torch.nan)
    value = function(output, target, valid=valid)
    kept = [0, 2, 3]
    torch.testing.assert_close(value[:1], function(MAPS[:1, kept], POINTS[:1, kept]))
    assert value[1] == 0
    (gradient,) = torch.autograd.grad(value.sum(), output)
    assert gradient.isfinite().all()
    one = torch.tensor([0.0, 7.0, 0.0, 0.0])
    torch.testing.assert_close(function(MAPS, POINTS, weights=one), function(MAPS[:, 1:2], POINTS[:, 1:2]))
    with pytest.raises(ValueError, match="must be finite; got NaN or infinity for examples 0, 1"):
        function(output, target)


def test_a_radius_that_covers_the_map_is_refused():
    for function in (heatmap_cross_entropy, second_peak):
        with pytest.raises(ValueError, match=r"radius must leave cells.*covers a map of 42 cells whole"):
            function(MAPS, POINTS, radius=99.0)


def test_what_is_lost_counts_for_nothing_where_it_is_masked():
    maps = torch.zeros(1, 2, 4, 4)
    maps[0, 0, 0, 0], maps[0, 1, 3, 3] = 1.0, 1.0
    maps.requires_grad_()
    (gradient,) = torch.autograd.grad(second_peak(maps, torch.zeros(1, 2, 2), masked=True).sum(), maps)
    assert (gradient[0, 1] == 0).all()
    assert (gradient[0, 0] != 0).any()
