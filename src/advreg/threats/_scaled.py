"""Euclidean projections onto a ball whose entries are each measured in a scale of their own, and a box."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from advreg._core.device import free
from advreg._core.tensors import per_example, rows, wide
from advreg.threats._projections import shrunk

_COARSE = 20  # rounds in the logarithm, until the multiplier is known to a thousandth


class ScaledPath(NamedTuple):
    """Path of the ball constraint's multiplier m: the projection is `clip(at(m, d, scale), lower, upper)`.

    `measure` of `d / scale`, summed over the entries, is what the ball limits; it never grows with m.
    """

    at: Callable[[Tensor, Tensor, Tensor], Tensor]
    measure: Callable[[Tensor], Tensor]


ELLIPSOID = ScaledPath(
    at=lambda m, d, scale: d * (scale.square() / (scale.square() + m)), measure=torch.square
)


WEIGHTED = ScaledPath(at=lambda m, d, scale: d - torch.clamp(d, -m / scale, m / scale), measure=torch.abs)


def project_scaled(
    size_of: Callable[[Tensor], Tensor],
    d: Tensor,
    radius: Tensor,
    lower: Tensor | None,
    upper: Tensor | None,
    scale: Tensor,
    path: ScaledPath,
) -> Tensor:
    """The nearest points of `{size_of(d / scale) <= radius} ∩ [lower, upper]`; scales are above zero.

    The multiplier is found by bisection, first of its logarithm, in which the point moves evenly whatever the
    scales are: in a number of rounds known before, without a look at a value.
    """
    full = wide(d)
    scale = scale.to(full.dtype).expand_as(full)
    boxed = full if lower is None and upper is None else torch.clamp(full, lower, upper)
    radius, size = radius.to(full.dtype), size_of(boxed / scale)
    inside = size <= radius * (1 + 4 * torch.finfo(full.dtype).eps)
    if free(d) and bool(inside.all()):
        return boxed.to(d.dtype)
    single = full.device.type == "mps"  # which has no float64
    fine = torch.float32 if single else torch.float64
    rounds, widest = (25, 80.0) if single else (28 if full.dtype == torch.float32 else 52, 300.0)
    # The search runs at entries and scales of one, so that no square overflows.
    length, most = _peak(full).to(fine), _peak(scale).to(fine)
    unit, share = rows(full).to(fine) / length, rows(scale).to(fine) / most
    low, high = (
        None if side is None else rows(side.expand_as(full)).to(fine) / length for side in (lower, upper)
    )
    limit = path.measure(torch.minimum(radius, size)[:, None].to(fine) * most / length)

    def at(m: Tensor) -> Tensor:
        z = path.at(m, unit, share)
        return z if low is None and high is None else torch.clamp(z, low, high)

    def outside(m: Tensor) -> Tensor:
        return path.measure(at(m) / share).sum(1, keepdim=True) > limit

    left = torch.full_like(limit, -widest)
    left, right = _halved(left, -left, lambda middle: outside(middle.exp()), _COARSE)
    _, right = _halved(left.exp(), right.exp(), outside, rounds)
    met = (at(right) * length).to(full.dtype).reshape(d.shape)
    met = shrunk(lambda z: size_of(z / scale), met, torch.minimum(radius, size))
    if lower is not None or upper is not None:
        met = torch.clamp(met, lower, upper)
    return torch.where(per_example(inside, d), boxed, met).to(d.dtype)


def _peak(d: Tensor) -> Tensor:
    """The largest magnitude of each example, `(B, 1)`; 1 where that is zero."""
    peak = rows(d).abs().amax(1, keepdim=True)
    return torch.where(peak > 0, peak, 1)


def _halved(
    left: Tensor, right: Tensor, outside: Callable[[Tensor], Tensor], rounds: int
) -> tuple[Tensor, Tensor]:
    """The bracket of where `outside` turns from true, at the left, to false, halved so many times."""
    for _ in range(rounds):
        middle = left + (right - left) / 2
        over = outside(middle)
        left, right = torch.where(over, middle, left), torch.where(over, right, middle)
    return left, right
