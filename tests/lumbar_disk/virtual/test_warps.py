"""Splines against scipy, their own landmarks and affine maps; the mesh against exact evaluation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RBFInterpolator
from scipy.ndimage import map_coordinates

from lumbar_disk.virtual import _mesh as mesh
from lumbar_disk.virtual import _warps as warps
from lumbar_disk.virtual import border_anchors, fit_splines, folding, resample, warp

SIZE = (128, 128)
KERNELS = ("r2logr", "r")


def ring(seed, batch=2, points=176, bumps=8.0):
    """Disc-like closed contours: thin ellipses with bumps, about as irregular as annotated discs."""
    rng = np.random.default_rng(seed)
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    wave = sum(
        rng.normal(size=(batch, 2, 1)) * np.cos(k * angle + rng.uniform(0, 6, (batch, 2, 1))) / k**2
        for k in range(2, 20)
    )
    around = np.stack([np.cos(angle), np.sin(angle)])
    semi = np.stack([rng.uniform(35, 45, batch), rng.uniform(10, 16, batch)], 1)[..., None]
    tilt = rng.uniform(-0.6, 0.6, batch)
    turn = np.stack([np.cos(tilt), -np.sin(tilt), np.sin(tilt), np.cos(tilt)], 1).reshape(batch, 2, 2)
    return torch.from_numpy((63.5 + turn @ (semi * around + bumps / 4 * wave)).swapaxes(1, 2).copy())


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("smoothing", [0.0, 30.0])
def test_equal_to_scipy(kernel, smoothing):
    source, target = ring(0), ring(1)
    tps = fit_splines(source, target, kernel=kernel, smoothing=smoothing)
    points = torch.rand(2, 300, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 127
    for b in range(2):
        oracle = RBFInterpolator(
            source[b].numpy(),
            target[b].numpy(),
            kernel={"r2logr": "thin_plate_spline", "r": "linear"}[kernel],
            degree=1,
            smoothing=smoothing,
        )
        np.testing.assert_allclose(tps(points)[b].numpy(), oracle(points[b].numpy()), atol=1e-8)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(seed=st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_landmarks_and_anchors_are_interpolated(kernel, dtype, seed):
    source, target = ring(seed).to(dtype), ring(seed + 1).to(dtype)
    anchors = border_anchors(SIZE).to(dtype)
    tps = fit_splines(source, target, kernel=kernel, anchors=anchors)
    assert tps(source).dtype == dtype
    assert (tps(source) - target).abs().max() < (1e-4 if dtype == torch.float32 else 1e-7)
    assert (tps(anchors.expand(2, -1, -1)) - anchors).abs().max() < 1e-4


@pytest.mark.parametrize("kernel", KERNELS)
def test_affine_maps_are_reproduced_everywhere(kernel):
    source = ring(0)
    turn = torch.tensor([[0.9, 0.3], [-0.2, 1.1]], dtype=torch.float64)
    tps = fit_splines(source, source @ turn + 3.0, kernel=kernel)
    y, x = torch.meshgrid(*(torch.arange(128.0, dtype=torch.float64),) * 2, indexing="ij")
    expected = torch.stack([x, y], -1) @ turn + 3.0
    assert (tps.grid(SIZE, exact=True) - expected).abs().max() < 1e-7
    assert (tps.grid(SIZE) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("kernel", KERNELS)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([(128, 128), (130, 111), (97, 128)]))
@settings(max_examples=12, deadline=None)
def test_the_mesh_is_within_its_tolerance_of_exact_evaluation(kernel, seed, size):
    source, target = ring(seed).clamp(0, 96), ring(seed + 1)
    source += torch.rand(source.shape, generator=torch.Generator().manual_seed(seed)) / 4  # nothing coincides
    tps = fit_splines(source, target, kernel=kernel, anchors=border_anchors(size))
    assert (tps.grid(size) - tps.grid(size, exact=True)).norm(dim=-1).max() < warps.TOLERANCE


@pytest.mark.parametrize("kernel", KERNELS)
def test_shapes_of_ordinary_irregularity_need_no_exact_evaluation(kernel):
    tps = fit_splines(ring(0, 8), ring(1, 8), kernel=kernel, anchors=border_anchors(SIZE))
    assert not len(tps._wrong(tps.grid(SIZE)))
    error = (tps.grid(SIZE) - tps.grid(SIZE, exact=True)).norm(dim=-1).amax((1, 2))
    assert error.max() < warps.TOLERANCE / 2
    assert error.min() > 0  # it is the mesh that was tested


@pytest.mark.parametrize("kernel", KERNELS)
def test_colliding_and_outlying_landmarks_stay_within_the_tolerance(kernel):
    source, target = ring(0, 3), ring(1, 3)
    source[0, 5] = source[0, 4] + 1e-4
    source[1, 7] = torch.tensor([-9.0, 60.0])
    tps = fit_splines(source, target, kernel=kernel, anchors=border_anchors(SIZE))
    assert tps.weights[0].abs().max() > 100 * tps.weights[2].abs().max()
    error = (tps.grid(SIZE) - tps.grid(SIZE, exact=True)).norm(dim=-1).amax((1, 2))
    assert error.max() < warps.TOLERANCE
    assert error[1] < 1e-5 < error[2]  # beyond the mesh: evaluated exactly


def test_a_grid_that_the_mesh_gets_wrong_is_evaluated_exactly(monkeypatch):
    tps = fit_splines(ring(0, 9), ring(1, 9), anchors=border_anchors(SIZE))
    tps.weights[4] *= 300
    exact = tps.grid(SIZE, exact=True)
    assert (tps.grid(SIZE) - exact).norm(dim=-1).max() < warps.TOLERANCE
    monkeypatch.setattr(warps, "_SAFETY", 0)
    assert (tps.grid(SIZE) - exact).norm(dim=-1)[4].max() > warps.TOLERANCE


def test_a_result_does_not_depend_on_the_batch():
    source, target = ring(0, 11), ring(1, 11)
    anchors = border_anchors(SIZE)
    together = fit_splines(source, target, anchors=anchors).grid(SIZE)
    for b in (0, 7, 10):
        alone = fit_splines(source[b : b + 1], target[b : b + 1], anchors=anchors).grid(SIZE)
        assert (together[b] - alone[0]).abs().max() < 1e-3


def test_near_and_smooth_parts_meet_smoothly():
    ratio = torch.linspace(0.97, 1.0, 4, dtype=torch.float64)
    for kernel in KERNELS:
        assert mesh._near_kernel(kernel, ratio)[-1] == 0
        assert mesh._near_kernel(kernel, ratio).abs().max() < 1e-9


def test_the_mesh_splines_reproduce_polynomials_of_degree_seven():
    ends, back = mesh._axis(32)
    nodes = (mesh.SPACING * torch.arange(ends.shape[1], dtype=torch.float64) - mesh.MARGIN) / 32
    pixels = torch.arange(32, dtype=torch.float64) / 32
    for power in range(8):
        assert torch.allclose(back @ nodes**power, pixels**power, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(128, 128), (37, 50), (1, 3)])
@pytest.mark.parametrize("kernel", KERNELS)
def test_an_identity_warp_leaves_every_bit(kernel, size, dtype):
    image = torch.rand(2, 3, *size, dtype=dtype, generator=torch.Generator().manual_seed(0)) - 0.5
    shape = ring(0).to(dtype)
    assert torch.equal(
        warp(image, fit_splines(shape, shape, kernel=kernel, anchors=border_anchors((128, 128)))), image
    )


def test_resampling_is_bilinear_with_pixel_centres_at_integers():
    rng = np.random.default_rng(0)
    image = rng.random((37, 50))
    places = rng.uniform(-3, 53, (1, 20, 30, 2))
    expected = map_coordinates(image, [places[0, ..., 1], places[0, ..., 0]], order=1, mode="nearest")
    found = resample(torch.from_numpy(image)[None, None], torch.from_numpy(places))
    np.testing.assert_allclose(found[0, 0].numpy(), expected, atol=1e-12)


def test_a_warp_moves_the_image_with_its_landmarks():
    y, x = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    virtual, real = ring(0, 1), ring(1, 1)
    tps = fit_splines(virtual, real, anchors=border_anchors(SIZE))
    warped = warp(torch.stack([x, y])[None], tps)  # an image that tells where it was looked up
    at = resample(warped.double(), virtual[:, None])[0, :, 0].mT
    assert (at - real[0]).norm(dim=1).max() < 0.5  # between pixels the warp bends more than bilinearly


def test_folding_counts_the_squares_that_are_turned_over():
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(33.0), indexing="ij")
    flipped = torch.where(x < 8, 16 - x, x)  # eight of 32 columns of squares run backwards
    maps = torch.stack([torch.stack([a, y], -1) for a in (x, -x, flipped, 0 * x)])
    assert folding(maps).tolist() == pytest.approx([0.0, 1.0, 8 / 32, 1.0])


def test_a_spline_that_swaps_landmarks_folds_and_a_gentle_one_does_not():
    square = torch.tensor([[[40.0, 40.0], [40.0, 80.0], [80.0, 80.0], [80.0, 40.0]]])
    swapped = square[:, [2, 3, 0, 1]]
    anchors = border_anchors(SIZE)
    tps = fit_splines(torch.cat([square, square]), torch.cat([swapped, square + 2]), anchors=anchors)
    shares = folding(tps.grid(SIZE))
    assert shares[0] > 0.01
    assert shares[1] == 0


@pytest.mark.parametrize("size", [(128, 128), (64, 96)])
def test_sixteen_anchors_on_the_border(size):
    anchors = border_anchors(size)
    height, width = size
    assert len({tuple(point) for point in anchors.tolist()}) == 16
    on_side = (anchors[:, 0] == 0) | (anchors[:, 0] == width - 1)
    on_end = (anchors[:, 1] == 0) | (anchors[:, 1] == height - 1)
    assert bool((on_side | on_end).all())
    assert (on_side & on_end).sum() == 4
    for axis, length in ((0, width), (1, height)):
        assert {0.0, length / 4, length / 2, 3 * length / 4, length - 1.0} == set(anchors[:, axis].tolist())


SQUARE = torch.tensor([[[4.0, 4.0], [4.0, 27.0], [27.0, 27.0], [27.0, 4.0]]])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fit_splines(SQUARE[0], SQUARE[0]), ValueError, r"must both be \(B, K, 2\)"),
        (lambda: fit_splines(SQUARE, SQUARE[:, :3]), ValueError, r"must both be \(B, K, 2\)"),
        (lambda: fit_splines(SQUARE / 0, SQUARE), ValueError, "must be finite"),
        (lambda: fit_splines(SQUARE, SQUARE, kernel="cubic"), ValueError, "unknown kernel 'cubic'"),
        (lambda: fit_splines(SQUARE, SQUARE, smoothing=-1.0), ValueError, "smoothing must be 0"),
        (lambda: fit_splines(SQUARE, SQUARE, anchors=SQUARE), ValueError, r"anchors must be \(A, 2\)"),
        (
            lambda: fit_splines(
                torch.cat([SQUARE, SQUARE[:, [0, 0, 1, 2]]]), torch.cat([SQUARE, SQUARE + 1])
            ),
            ValueError,
            "no spline for example 1: two of its source points",
        ),
        (lambda: fit_splines(SQUARE[..., :1].expand(1, 4, 2), SQUARE), ValueError, "no spline for example 0"),
        (lambda: fit_splines(SQUARE, SQUARE)(SQUARE[0]), ValueError, "one set per spline"),
        (
            lambda: warp(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), fit_splines(SQUARE, SQUARE)),
            TypeError,
            "uint8",
        ),
        (lambda: warp(torch.zeros(2, 1, 8, 8), fit_splines(SQUARE, SQUARE)), ValueError, "of one batch"),
    ],
)
def test_errors_teach(call, error, message):
    with pytest.raises(error, match=message):
        call()
