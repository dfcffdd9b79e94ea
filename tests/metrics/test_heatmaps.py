"""Arg-max points of heat maps against numpy, and their distances."""

import math

import numpy as np
import pytest
import torch

from advreg import point_error
from advreg.metrics import heatmap_error, heatmap_points
from advreg.testing import check_objective


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


MAPS, POINTS = normal(3, 4, 5, 7), 5 * normal(3, 4, 2, seed=1).abs()


def by_hand(maps, stride=1.0):
    rows, columns = np.unravel_index(maps.flatten(2).numpy().argmax(2), maps.shape[2:])
    return torch.tensor(stride * np.stack([columns, rows], -1), dtype=torch.float64)


def test_points_are_columns_and_rows():
    torch.testing.assert_close(heatmap_points(MAPS), by_hand(MAPS))
    torch.testing.assert_close(heatmap_points(MAPS, stride=4), by_hand(MAPS, 4.0))


def test_errors_of_points_and_of_maps():
    torch.testing.assert_close(heatmap_error(MAPS, POINTS), (by_hand(MAPS) - POINTS).norm(dim=2).mean(1))
    other = normal(3, 4, 5, 7, seed=2)
    expected = (by_hand(MAPS, 2.0) - by_hand(other, 2.0)).norm(dim=2).mean(1)
    torch.testing.assert_close(heatmap_error(MAPS, other, stride=2.0), expected)
    check_objective(heatmap_error, MAPS, POINTS)


def test_points_that_are_not_there_and_weights():
    valid = torch.tensor([[True, False, True, True], [False] * 4, [True] * 4])
    target, other, maps = POINTS.clone(), normal(3, 4, 5, 7, seed=2), MAPS.clone()
    target[~valid], other[~valid], maps[~valid] = math.nan, 0, math.nan
    found = heatmap_error(maps, target, valid=valid)
    torch.testing.assert_close(found, point_error(by_hand(MAPS), POINTS, valid=valid))
    assert found[1] == 0
    points = by_hand(other)
    torch.testing.assert_close(
        heatmap_error(maps, other, valid=valid), point_error(by_hand(MAPS), points, valid=valid)
    )
    weights = torch.tensor([1.0, 2.0, 0.0, 0.5])
    apart = (by_hand(MAPS) - POINTS).norm(dim=2)
    torch.testing.assert_close(heatmap_error(MAPS, POINTS, weights=weights), (apart * weights).sum(1) / 3.5)
    with pytest.raises(ValueError, match=r"target must be finite; got NaN or infinity for examples 0, 1"):
        heatmap_error(maps, target)
    with pytest.raises(
        ValueError, match=r"got flat, NaN or infinite ones in examples 0, 1: .*heatmaps\(valid="
    ):
        heatmap_error(MAPS, other)


def test_nan_shows_and_half_precision_counts_far():
    maps = MAPS.clone()
    maps[1, 2, 0, 0] = math.nan
    assert heatmap_error(maps, POINTS).isnan().tolist() == [False, True, False]
    large = torch.zeros(1, 1, 3, 4001, dtype=torch.float16)
    large[0, 0, 2, 3999] = 1
    assert heatmap_points(large).tolist() == [[[3999.0, 2.0]]]


@pytest.mark.parametrize(
    ("output", "target", "message"),
    [
        (MAPS[0], POINTS, r"heat maps must be \(B, K, H, W\); got \(4, 5, 7\): for coordinates use points"),
        (MAPS[None], POINTS, r"select it with through\(\)"),
        (MAPS, POINTS[:, :3], r"points \(x, y\), \(3, 4, 2\), or heat maps.*got \(3, 3, 2\)"),
        (MAPS, POINTS.flatten(1), r"got \(3, 8\)"),
        (MAPS, MAPS[:, :1], "nothing is broadcast"),
    ],
)
def test_shapes_that_are_refused(output, target, message):
    with pytest.raises(ValueError, match=message):
        heatmap_error(output, target)


@pytest.mark.parametrize("stride", [0, -1.0, math.inf, math.nan])
def test_a_stride_is_above_zero(stride):
    with pytest.raises(ValueError, match="stride must be above zero"):
        heatmap_error(MAPS, POINTS, stride=stride)
