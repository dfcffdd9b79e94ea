"""Noise of randomised smoothing: Gaussian, and added so that no rounding can break a certificate."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from advreg._core.checks import examples

GRID = 2.0**-32
"""The distance of the numbers to which inputs and noise are rounded before they are added."""

_ODD = 0x5851F42D4C957F2D  # spreads the bits of a product over all 64
_LARGEST = 2.0**20  # sums of multiples of GRID below this are exact in float64


def with_noise(x: Tensor, normal: Tensor, sigma: float) -> Tensor:
    """`x + sigma * normal`, `(B, *input)`, in the dtype of `x`.

    Floating-point sums leak what was added to what: the last bits of `x + noise` tell inputs apart that the
    theory takes for alike, so that a network could read them, and certificates have been broken that way.
    Here input and noise are rounded to multiples of `GRID` and added in float64, exactly. The sum is then
    `Q(x) + Q(n) = Q(Q(x) + n)`: the network with the rounding in front of it is a function of `Q(x) + n`, of
    which smoothing speaks. What the rounding of the inputs costs is `slack`.

    Args:
        x: Inputs, `(B, *input)`.
        normal: Standard normal numbers in float64, `(B, *input)`, or `(1, *input)` for all alike.
        sigma: The deviation of the noise.

    Raises:
        ValueError: Inputs that are not finite, or too large for the grid.

    Source:
        Voracek and Hein, Sound randomized smoothing in floating-point arithmetic, ICLR 2023.
    """
    wide = x.double()
    if bool((sick := ~(wide.abs() < _LARGEST)).any()):
        raise ValueError(
            f"inputs to which noise is added must be finite and below {_LARGEST:.0f} in size; got others "
            f"for {examples(sick)}: scale them, as to [0, 1], and give sigma and radii in those units"
        )
    on_grid = wide + (_rounded(wide) - wide).detach()  # exactly the rounded number, with a gradient of 1
    return (on_grid + _rounded(sigma * normal)).to(x.dtype)


def fingerprint(x: Tensor) -> Tensor:
    """A whole number for each input, int64 `(B,)`, that another input hardly ever has."""
    bits = x.detach().double().reshape(len(x), -1).view(torch.int64)
    odd = 2 * torch.arange(bits.shape[1], device=x.device) + 1
    return ((bits ^ (bits >> 32)) * (odd * _ODD)).sum(1)


def slack(x: Tensor) -> float:
    """How much further apart two inputs like those of `x`, `(B, *input)`, can be once they are rounded."""
    return math.sqrt(math.prod(x.shape[1:])) * GRID


def _rounded(wide: Tensor) -> Tensor:
    return (wide / GRID).round() * GRID
