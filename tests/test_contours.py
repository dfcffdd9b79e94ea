"""Rasterisation against scikit-image, pixel for pixel."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.draw import polygon2mask

from advreg import rasterise


def theirs(polygon, size):
    return polygon2mask(size, polygon[:, ::-1])


@pytest.mark.parametrize("grid", [None, 1, 2, 3, 7], ids=lambda grid: f"vertices on 1/{grid}")
def test_thousands_of_random_polygons_that_cross_themselves(grid):
    rng = np.random.default_rng(grid)
    for _ in range(600):
        size = tuple(int(n) for n in rng.integers(1, 24, 2))
        polygons = rng.uniform(-4, 26, (4, int(rng.integers(1, 12)), 2))
        if grid is not None:
            polygons = np.round(polygons * grid) / grid
        ours = rasterise(torch.tensor(polygons), size).numpy()
        for polygon, mask in zip(polygons, ours, strict=True):
            assert (mask == theirs(polygon, size)).all(), polygon


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_simple_smooth_contours_at_full_size(dtype):
    rng = np.random.default_rng(1)
    angle = np.linspace(0, 2 * np.pi, 176, endpoint=False)
    radius = 1 + 0.2 * np.sin(rng.integers(2, 6, (300, 1)) * angle + rng.uniform(0, 6, (300, 1)))
    scale = rng.uniform(1, 60, (300, 2, 1))
    contours = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1) * scale + rng.uniform(
        20, 100, (300, 2, 1)
    )
    contours = contours.transpose(0, 2, 1).astype(dtype)
    masks = rasterise(torch.tensor(contours), (128, 120)).numpy()
    for contour, mask in zip(contours, masks, strict=True):
        assert (mask == theirs(contour, (128, 120))).all()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(-2, 8), st.integers(-2, 8)), min_size=1, max_size=9))
def test_integer_polygons_with_repeated_and_collinear_points(points):
    polygon = np.array(points, dtype=float)
    assert (rasterise(torch.tensor(polygon)[None], (7, 6))[0].numpy() == theirs(polygon, (7, 6))).all()


def test_far_away_and_huge_polygons():
    square = torch.tensor([[[-1e12, -1e12], [1e12, -1e12], [1e12, 1e12], [-1e12, 1e12]]])
    assert rasterise(square, (5, 5)).all()
    assert not rasterise(square + 3e12, (5, 5)).any()


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match=r"contours must be \(B, K, 2\).*got \(4, 2\).*contour\[None\]"):
        rasterise(torch.zeros(4, 2), (3, 3))
    with pytest.raises(ValueError, match="must be finite"):
        rasterise(torch.full((1, 3, 2), torch.nan), (3, 3))
