"""Smooth deformations: against scipy, there and back, discs whose centres, points and masks move together."""

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from scipy.ndimage import map_coordinates

from advreg.metrics import rasterise
from advreg.transforms import Deformation

SHAPES = [(2, 1, 9), (3, 2, 12, 9), (1, 1, 6, 5, 7), (2, 1, 1, 7)]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def images(*shape, dtype=torch.float32, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def some(warp, x, scale, seed=1):
    like = warp.parameters(x)
    uniform = torch.rand(like.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return scale * (2 * uniform - 1).to(like.dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_at_zero_nothing_changes_and_elsewhere_something_does(shape, dtype):
    x, warp = images(*shape, dtype=dtype), Deformation(2)
    same = warp(x, warp.parameters(x))
    assert same.dtype == dtype
    assert torch.equal(same, x)
    moved = warp(x, some(warp, x, 2.0))
    assert (moved != x).flatten(1).any(1).all()
    assert ((moved >= x.min()) & (moved <= x.max())).all()
    alone = warp(x[-1:], some(warp, x, 2.0)[-1:])
    torch.testing.assert_close(alone, moved[-1:])
    points = torch.rand(shape[0], 4, len(shape) - 2).to(dtype)
    assert torch.equal(warp.back(points, warp.parameters(x), shape[2:]), points)
    assert torch.equal(warp.forth(points, warp.parameters(x), shape[2:]), points)


def displacement(p, size, cells):
    """`phi` of one image at its pixels, (axes, *spatial), by scipy's splines."""
    along = []
    for n, c in zip(size, cells, strict=True):
        spacing = max(n - 1, 1) / c
        knots = spacing * np.arange(-3, c + 4)
        along.append(np.array([BSpline(knots, np.eye(c + 3)[k], 3)(np.arange(n)) for k in range(c + 3)]))
    grid = p.reshape(len(size), *(c + 3 for c in cells))
    for weights in along:
        grid = np.moveaxis(np.tensordot(grid, weights, (1, 0)), 1, 1) if grid.ndim > 1 else grid
    return grid


@pytest.mark.parametrize(
    ("shape", "cells"), [((2, 1, 9), 3), ((2, 2, 12, 9), (4, 2)), ((2, 1, 6, 5, 7), (1, 2, 3))]
)
def test_it_reads_where_scipys_splines_say(shape, cells):
    x, warp = images(*shape, dtype=torch.float64), Deformation(cells)
    size = shape[2:]
    each = cells if isinstance(cells, tuple) else (cells,) * len(size)
    p = some(warp, x, 2.0)
    moved = warp(x, p)
    for k in range(shape[0]):
        phi = displacement(p[k].numpy(), size, each)
        here = np.stack(np.meshgrid(*(np.arange(n) for n in size), indexing="ij")) + phi
        for channel in range(shape[1]):
            expected = map_coordinates(x[k, channel].numpy(), here, order=1, mode="nearest")
            np.testing.assert_allclose(moved[k, channel].numpy(), expected, atol=1e-10)
        pixels = np.stack(np.meshgrid(*(np.arange(n) for n in size), indexing="ij"), -1).reshape(
            -1, len(size)
        )
        points = torch.from_numpy(pixels[:, ::-1].astype(float).copy())[None]
        back = warp.back(points, p[k : k + 1], size)[0].flip(-1).numpy()
        np.testing.assert_allclose(back, here.reshape(len(size), -1).T, atol=1e-10)


@pytest.mark.parametrize(("shape", "cells"), [((2, 1, 9), 2), ((2, 1, 8, 7), 2), ((1, 1, 5, 4, 6), 1)])
def test_derivatives_are_those_of_finite_differences(shape, cells):
    x, warp = images(*shape, dtype=torch.float64), Deformation(cells)
    p, size = some(warp, x, 0.3 * warp.reach(shape[2:])), shape[2:]
    points = 1 + torch.rand(shape[0], 3, len(size), generator=torch.Generator().manual_seed(3)).double()
    for function, at in (
        (lambda p: warp(x, p), p),
        (lambda x: warp(x, p), x),
        (lambda p: warp.back(points, p, size), p),
        (lambda p: warp.forth(points, p, size, rounds=60), p),
        (lambda p: warp.unwarped(x, p, rounds=40), p),
    ):  # along random directions, as a whole Jacobian of sixty rounds takes a minute
        assert torch.autograd.gradcheck(function, at.clone().requires_grad_(), fast_mode=True)
    at_rest = warp.parameters(x).requires_grad_()
    (gradient,) = torch.autograd.grad((warp(x, at_rest) * images(*shape, seed=5)).sum(), at_rest)
    assert (gradient != 0).any(1).all()  # an attack can begin at nothing


@pytest.mark.parametrize(("size", "cells"), [((40,), 4), ((30, 24), 3), ((14, 12, 16), 2)])
def test_below_its_reach_no_map_folds_and_points_come_back(size, cells):
    x, warp = torch.zeros(4, 1, *size, dtype=torch.float64), Deformation(cells)
    for seed in range(2):
        p = 0.98 * warp.reach(size) * some(warp, x, 1.0, seed).sign()  # the worst corners of the cube
        fine = torch.rand(4, 200, len(size), generator=torch.Generator().manual_seed(seed)).double()
        points = (fine * (torch.tensor(size).flip(0) - 1)).requires_grad_()
        there = warp.back(points, p, size)
        rows = [
            torch.autograd.grad(there[..., k].sum(), points, retain_graph=True)[0] for k in range(len(size))
        ]
        assert (torch.linalg.det(torch.stack(rows, -2)) > 0).all()
        gentle = 0.6 * p
        undone = warp.forth(warp.back(points.detach(), gentle, size), gentle, size)
        torch.testing.assert_close(undone, points.detach(), atol=1e-3, rtol=0)
    with pytest.raises(
        ValueError, match=r"could not be undone to 0.01 pixels.*keep them below reach\(size\)"
    ):
        warp.forth(points.detach(), 10 * p, size)


def test_a_disc_its_centre_its_contour_and_its_mask_move_together():
    size, warp = (48, 40), Deformation(3)
    angle = torch.linspace(0, 2 * torch.pi, 65)[:-1].double()
    centre = torch.tensor([20.0, 25.0]).double()
    contour = (centre + 8 * torch.stack([angle.cos(), angle.sin()], -1))[None].expand(3, -1, -1)
    mask = rasterise(contour, size)[:, None].double()
    p = some(warp, mask, 0.7 * warp.reach(size), seed=4)
    shown = warp(mask, p)
    there = warp.forth(contour, p, size)
    assert (there - contour).norm(dim=-1).amax() > 2  # pixels
    drawn = rasterise(there, size)[:, None]
    agree = 2 * (drawn & (shown > 0.5)).sum((1, 2, 3)) / (drawn.sum((1, 2, 3)) + (shown > 0.5).sum((1, 2, 3)))
    assert (agree > 0.97).all()
    # The centre of mass of what is shown is where the points' is.
    y, x = torch.meshgrid(*(torch.arange(n).double() for n in size), indexing="ij")
    mass = shown[:, 0] / shown.sum((1, 2, 3))[:, None, None]
    middle = torch.stack([(mass * x).sum((1, 2)), (mass * y).sum((1, 2))], -1)
    pixels = torch.stack([x, y], -1).reshape(1, -1, 2).expand(3, -1, -1)
    inside = rasterise(there, size).reshape(3, -1, 1)
    own = (pixels * inside).sum(1) / inside.sum(1)
    torch.testing.assert_close(middle, own, atol=0.15, rtol=0)
    # Brought back, the mask and the points are what they were.
    again = warp.unwarped(shown, p)
    agree = (
        2 * ((again > 0.5) & (mask > 0)).sum((1, 2, 3)) / ((again > 0.5).sum((1, 2, 3)) + mask.sum((1, 2, 3)))
    )
    assert (agree > 0.97).all()
    torch.testing.assert_close(warp.back(there, p, size), contour, atol=1e-4, rtol=0)


def test_refusals():
    x, warp = images(2, 1, 8, 8), Deformation((2, 2))
    p = warp.parameters(x)
    for error, message, call in (
        (ValueError, "cells must be 1 or more", lambda: Deformation(0)),
        (TypeError, "cells must be a whole number", lambda: Deformation(2.5)),
        (ValueError, "one for each spatial axis", lambda: Deformation((2, 2, 2))(x, p)),
        (ValueError, r"parameters must be of shape \(2, 50\)", lambda: warp(x, p[:, 1:])),
        (ValueError, r"points must be \(B, K, 2\)", lambda: warp.back(torch.zeros(2, 5, 3), p, (8, 8))),
    ):
        with pytest.raises(error, match=message):
            call()
