"""Sums of radial kernels on all pixels of an image, by a particle-particle particle-mesh method.

A thin-plate spline is a sum of 192 kernels at 128 x 128 pixels: three million logarithms an image. Here each
kernel is split into a smooth part and a near part. The near part is zero beyond `REACH` pixels and is added
pixel by pixel around each landmark. The smooth part is carried to a mesh of every second pixel by splines of
degree seven, convolved there with the smooth kernel by the fast Fourier transform, and carried back to the
pixels by the same splines. What depends on the size of the image alone is computed once and kept.

Source: Hockney and Eastwood, Computer simulation using particles, 1988, chapter 8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from scipy.fft import next_fast_len  # type: ignore[import-untyped]  # scipy ships no types
from torch import Tensor

KernelName = Literal["r2logr", "r"]

UNIT = 64.0  # pixels: kernels are computed in units of half a crop, where their values are near one
SPACING = 2  # pixels between nodes of the mesh
REACH = 10.0  # pixels, radius of the near part
MARGIN = SPACING  # pixels around the image that the mesh covers

_DEGREE = 7
_SPLINE = (1.0, -8.0, 28.0, -56.0)  # of the seventh-degree B-spline's truncated powers, over 7!
_LOG = (0.0, 1.0, -1 / 2, 1 / 3, -1 / 4, 1 / 5)  # Taylor series of log t at t = 1
_ROOT = (1.0, 1 / 2, -1 / 8, 1 / 16, -5 / 128, 7 / 256)  # and of the square root of t


def radial(name: KernelName, squared: Tensor) -> Tensor:
    """The kernel as a function of the squared distance in units of 64 pixels.

    `r2logr`: `r^2 log r`. `r`: `-r`; its sign makes the spline's matrix positive definite where the
    side conditions hold, as it is for `r^2 log r`, and the spline itself does not depend on it.
    """
    return torch.xlogy(squared, squared).mul_(0.5) if name == "r2logr" else squared.sqrt().neg_()


def kernel_sum(name: KernelName, centres: Tensor, weights: Tensor, size: tuple[int, int]) -> Tensor:
    """`sum_i weights_i kernel(|x - centres_i| / 64)` at every pixel `x`, in float32.

    Args:
        name: The kernel.
        centres: `(B, K, 2)`, (x, y) in pixels, at most `MARGIN` pixels outside the image.
        weights: `(B, K, 2)`. The error grows with the largest of them: see `warps.TPS.grid`.
        size: Rows and columns `(H, W)`.

    Returns:
        `(B, 2, H, W)` float32.

    Example:
        >>> import torch
        >>> centres = torch.tensor([[[8.0, 9.0], [20.0, 5.0]]])
        >>> weights = torch.tensor([[[1.0, 0.0], [-1.0, 2.0]]])
        >>> pixel = torch.tensor([15.0, 12.0])
        >>> values = radial("r2logr", ((pixel - centres) / 64).square().sum(-1))
        >>> exact = (values[..., None] * weights).sum(1)
        >>> bool((kernel_sum("r2logr", centres, weights, (24, 32))[..., 12, 15] - exact).abs().max() < 1e-5)
        True
    """
    plan = _plan(name, size, centres.device)
    x, y = (_spread(centres[..., axis], len(plan.ends[axis])).float()[:, None] for axis in range(2))
    charges = y.mT @ (weights.float().mT[..., None] * x)
    mesh = plan.ends[1].mT @ charges @ plan.ends[0]
    spectrum = torch.fft.rfft2(mesh, s=plan.period) * plan.response
    smooth = torch.fft.irfft2(spectrum, s=plan.period)[..., : mesh.shape[-2], : mesh.shape[-1]]
    far: Tensor = plan.back[1] @ smooth @ plan.back[0].mT
    return far + _near(name, centres, weights, size)


def _near(name: KernelName, centres: Tensor, weights: Tensor, size: tuple[int, int]) -> Tensor:
    """The near part of the sum: the pixels around each centre, added up in a padded image."""
    height, width = size
    reach = math.ceil(REACH - 0.5)
    pad = 2 * reach + 1
    window = torch.arange(-reach, reach + 1, device=centres.device)
    limits = torch.tensor([width + reach, height + reach], device=centres.device)
    middle = torch.minimum(centres.round().long().clamp(min=-reach - 1), limits)
    offset = ((middle - centres)[..., None] + window).float() / REACH
    ratio = (offset[:, :, 1, :, None].square() + offset[:, :, 0, None, :].square()).clamp(max=1.0)
    values = _near_kernel(name, ratio).flatten(2)[:, None] * weights.float().mT.contiguous()[..., None]
    row, column = (middle[..., axis, None] + window + pad for axis in (1, 0))
    place = row[..., None] * (width + 2 * pad) + column[:, :, None]
    image = values.new_zeros(len(centres), 2, (height + 2 * pad) * (width + 2 * pad))
    image.scatter_add_(2, place.flatten(1)[:, None].expand(-1, 2, -1), values.flatten(2))
    return image.view(-1, 2, height + 2 * pad, width + 2 * pad)[:, :, pad:-pad, pad:-pad]


def _near_kernel(name: KernelName, ratio: Tensor) -> Tensor:
    """The kernel minus its smooth part, as a function of `t = (r / REACH)^2` in [0, 1]; zero at 1.

    The smooth part replaces the kernel's `log t` (or root) within the reach by its Taylor polynomial at 1,
    so that the two agree to the fifth derivative where they meet.
    """
    unit = (REACH / UNIT) ** 2
    series = _polynomial(ratio - 1, _LOG if name == "r2logr" else _ROOT)
    if name == "r2logr":
        return series.mul_(ratio).sub_(torch.xlogy(ratio, ratio)).mul_(-unit / 2)
    return series.sub_(ratio.sqrt()).mul_(math.sqrt(unit))


def _polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    value = torch.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value.mul_(x).add_(coefficient)
    return value


@dataclass(frozen=True, eq=False)
class _Plan:
    """Plan of a sum: what depends on kernel and image size alone; pairs are (along x, along y)."""

    ends: tuple[Tensor, Tensor]  # (splines, nodes): from values at the nodes to spline coefficients
    back: tuple[Tensor, Tensor]  # (pixels, nodes): interpolation from the nodes to the pixels
    period: tuple[int, int]  # of the Fourier transform: room for the convolution not to wrap
    response: Tensor  # the smooth kernel's transform


@lru_cache(maxsize=8)
def _plan(name: KernelName, size: tuple[int, int], device: torch.device) -> _Plan:
    (ends_x, back_x), (ends_y, back_y) = _axis(size[1]), _axis(size[0])
    period = (
        next_fast_len(2 * ends_y.shape[1] - 1, real=True),
        next_fast_len(2 * ends_x.shape[1] - 1, real=True),
    )
    far = [torch.fft.fftfreq(n, 1 / n, dtype=torch.float64) * (SPACING / UNIT) for n in period]
    squared = far[0].square()[:, None] + far[1].square()
    near = _near_kernel(name, (squared / (REACH / UNIT) ** 2).clamp(max=1.0))
    response = torch.fft.rfft2(radial(name, squared) - near).real

    def ready(tensor: Tensor) -> Tensor:
        return tensor.to(device, torch.float32)

    return _Plan((ready(ends_x), ready(ends_y)), (ready(back_x), ready(back_y)), period, ready(response))


def _axis(length: int) -> tuple[Tensor, Tensor]:
    """Spline coefficients and interpolation along one side of an image, float64.

    The splines are "not-a-knot": at both ends the highest derivative does not jump, so that polynomials up to
    degree seven are reproduced. With them the side conditions of a thin-plate spline survive the transfer.
    """
    count = max(math.ceil((length - 1 + 2 * MARGIN) / SPACING), _DEGREE) + 1
    nodes = SPACING * torch.arange(count, dtype=torch.float64) - MARGIN
    splines = len(nodes) + _DEGREE - 1
    jumps = torch.eye(splines, dtype=torch.float64).diff(n=_DEGREE + 1, dim=0)
    conditions = torch.cat([_spread(nodes, splines), jumps[: _DEGREE // 2], jumps[-(_DEGREE // 2) :]])
    ends = torch.linalg.inv(conditions)[:, : len(nodes)]
    return ends, _spread(torch.arange(length, dtype=torch.float64), splines) @ ends


def _spread(positions: Tensor, splines: int) -> Tensor:
    """The mesh's B-splines at positions along one side `(..., splines)`."""
    place = (positions + MARGIN) / SPACING + _DEGREE // 2  # the middle of spline 0 is at 0
    first = (place.floor() - _DEGREE // 2).clamp(0, splines - _DEGREE - 1)
    index = first[..., None] + torch.arange(_DEGREE + 1, device=positions.device)
    values = _b_spline(place[..., None] - index)
    return values.new_zeros(*positions.shape, splines).scatter_(-1, index.long(), values)


def _b_spline(x: Tensor) -> Tensor:
    """The centred B-spline of degree seven, with knots at the integers."""
    value = torch.zeros_like(x)
    for shift, coefficient in zip((4, 3, 2, 1), _SPLINE, strict=True):
        base = (shift - x.abs()).clamp_(min=0.0)
        cube = base * base * base  # a power of seven is several times as slow
        value += cube.square_().mul_(base).mul_(coefficient / math.factorial(_DEGREE))
    return value
