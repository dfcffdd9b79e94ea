"""Rasterisation against scikit-image, pixel for pixel."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.draw import polygon2mask

from advreg.metrics import rasterise, soft_rasterise
from advreg.metrics._rasterise import _soft_lines
from advreg.testing import check_objective


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


def distance_to_edges(polygon, size):
    """From each pixel's centre to the nearest edge."""
    pixels = np.stack(np.meshgrid(np.arange(size[1]), np.arange(size[0])), -1)[..., None, :]
    along = np.roll(polygon, -1, 0) - polygon
    share = ((pixels - polygon) * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-12)
    nearest = polygon + share.clip(0, 1)[..., None] * along
    return np.linalg.norm(pixels - nearest, axis=-1).min(-1)


def test_soft_masks_tend_to_scikit_images():
    """Polygons that cross themselves and leave the image."""
    rng = np.random.default_rng(3)
    size = (19, 23)
    for points in (3, 4, 9, 14):
        polygons = rng.uniform(-9, 30, (25, points, 2))
        soft = soft_rasterise(torch.tensor(polygons), size, 1e-4).numpy()
        assert (soft >= 0).all()
        assert (soft <= 1).all()
        for polygon, mask in zip(polygons, soft, strict=True):
            off = distance_to_edges(polygon, size) > 0.01
            np.testing.assert_allclose(mask[off], theirs(polygon, size)[off], atol=1e-6)


@pytest.mark.parametrize("softness", [0.3, 1.0, 2.5])
def test_a_straight_edge_is_a_sigmoid(softness):
    wide = torch.tensor([[[10.3, -1e3], [1e3, -1e3], [1e3, 1e3], [10.3, 1e3]]], dtype=torch.float64)
    expected = torch.sigmoid((torch.arange(30).double() - 10.3) / softness)
    lines = _soft_lines(wide, 20, 30, softness)
    torch.testing.assert_close(lines, expected.expand(1, 20, 30))
    soft = soft_rasterise(wide, (20, 30), softness)  # the columns, which do not cross the edge, are hard
    torch.testing.assert_close(soft, ((expected + (torch.arange(30) > 10.3)) / 2).expand(1, 20, 30))


def test_soft_masks_do_not_mind_direction_or_which_axis_comes_first():
    contours = torch.tensor(np.random.default_rng(4).uniform(0, 12, (6, 7, 2)))
    soft = soft_rasterise(contours, (11, 13))
    torch.testing.assert_close(soft, soft_rasterise(contours.flip(1), (11, 13)))
    torch.testing.assert_close(soft, soft_rasterise(contours.flip(2), (13, 11)).mT)
    check_objective(lambda o, _: soft_rasterise(o, (11, 13)).flatten(1).norm(dim=1), contours, contours)


def test_the_gradient_along_a_line_is_that_of_finite_differences():
    contours = torch.tensor(np.random.default_rng(5).uniform(-2, 9, (2, 5, 2)))

    def moved(x):
        return _soft_lines(torch.stack([x, contours[:, :, 1]], 2), 6, 7, 0.8)

    assert torch.autograd.gradcheck(moved, contours[:, :, 0].clone().requires_grad_())


def test_the_gradient_of_the_area_is_the_polygons():
    """Edges as long as several pixels: the shoelace formula's gradient, up to sampling by lines."""
    angle = torch.linspace(0, 2 * torch.pi, 9)[:-1].double()
    contour = 40.3 + torch.stack([28 * angle.cos() + 3 * (2 * angle).sin(), 24 * angle.sin()], 1)[None]
    contour.requires_grad_()
    x, y = contour.unbind(2)
    area = ((x * y.roll(-1, 1) - y * x.roll(-1, 1)) / 2).sum()
    soft = soft_rasterise(contour, (80, 80)).sum()
    assert soft.item() == pytest.approx(area.item(), rel=0.01)
    ours, theirs_ = (torch.autograd.grad(each, contour)[0] for each in (soft, area))
    torch.testing.assert_close(ours, theirs_, rtol=0.1, atol=0.6)


def test_no_point_drowns_the_others():
    """An edge that all but lies along a row of pixels."""
    contour = torch.tensor(
        [[[2.0, 5 - 1e-7], [20.0, 5 + 1e-7], [18.0, 15.0], [4.0, 14.0]]], dtype=torch.float64
    )
    contour.requires_grad_()
    (gradient,) = torch.autograd.grad(soft_rasterise(contour, (24, 24)).sum(), contour)
    assert gradient.abs().max() < 20
    flat = torch.tensor([[[0.0, 0.0], [3.0, 1e-45], [3.0, 2.0], [0.0, 2.0]]], requires_grad=True)
    (gradient,) = torch.autograd.grad(soft_rasterise(flat, (4, 4)).sum(), flat)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_soft_masks_of_any_precision(dtype):
    contour = torch.tensor([[[1.5, 1.5], [7.5, 2.0], [6.0, 7.0]]], dtype=dtype, requires_grad=True)
    soft = soft_rasterise(contour, (9, 9))
    (gradient,) = torch.autograd.grad(soft.sum(), contour)
    assert soft.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(soft.double(), soft_rasterise(contour.double(), (9, 9)), rtol=0, atol=1e-5)
    assert gradient.any()


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match=r"contours must be \(B, K, 2\).*got \(4, 2\).*contour\[None\]"):
        rasterise(torch.zeros(4, 2), (3, 3))
    with pytest.raises(ValueError, match="must be finite"):
        rasterise(torch.full((1, 3, 2), torch.nan), (3, 3))
    with pytest.raises(ValueError, match=r"softness must be positive.*got 0: for 0 call rasterise"):
        soft_rasterise(torch.zeros(1, 3, 2), (3, 3), 0)
    with pytest.raises(ValueError, match=r"contours must be \(B, K, 2\)"):
        soft_rasterise(torch.zeros(4, 2), (3, 3))
