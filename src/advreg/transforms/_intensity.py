"""Transforms of intensities: a gamma curve, and the smooth bias field of a scanner's coil."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial, reduce
from itertools import product
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from advreg._core.device import check_values
from advreg._core.tensors import per_example, wide
from advreg.transforms._checks import check_count, check_images, check_parameters


@dataclass(frozen=True)
class Gamma:
    """Gamma curve of contrast: `x' = low + (high - low) t^exp(p)`, where `t = (x - low) / (high - low)`.

    One parameter for each image. At zero the image is the same to the bit; `low` and `high` stay where they
    are, order is kept, and `-p` undoes `p`. What lies above `high` moves on by the same curve.

    Args:
        low: Where the curve begins, the darkest that intensities can be.
        high: Where it ends at the same value, for images in [0, 1] one.

    Raises:
        ValueError: Sides out of order; when called, intensities below `low`, which have no power.

    Example:
        >>> import torch
        >>> from advreg.transforms import Gamma
        >>> x = torch.tensor([[[0.0, 0.25, 1.0]]])
        >>> print(Gamma()(x, torch.full((1, 1), 0.5).log()).numpy())
        [[[0.  0.5 1. ]]]

    Source:
        Gonzalez and Woods, Digital image processing, section 3.2, power-law transformations.
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        sides: tuple[tuple[str, Any], ...] = (("low", self.low), ("high", self.high))
        for name, value in sides:
            if isinstance(value, bool) or not isinstance(value, Real):
                raise TypeError(f"{name} must be a number; got {value!r} of type {type(value).__name__}")
        if not (self.low < self.high and math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError(f"low and high must be finite, low the less; got {self.low} and {self.high}")

    def parameters(self, x: Tensor) -> Tensor:
        """The parameters that change nothing, zeros `(B, 1)`."""
        check_images(x, most=None)
        return x.new_zeros(len(x), 1)

    def __call__(self, x: Tensor, p: Tensor) -> Tensor:
        """Images `(B, ...)` of any rank, each with the curve of its parameter, `(B, 1)`.

        Raises:
            ValueError: Intensities below `low`.
        """
        check_images(x, most=None)
        check_parameters(p, x, 1)
        check_values(x, partial(self._refuse_below, x))
        full, exponent = wide(x), per_example(wide(p)[:, 0], x)
        rise = full - self.low
        share = rise / (self.high - self.low)
        inside = share > 0
        logarithm = torch.where(inside, share, 1).log()
        # t^exp(p) / t - 1: so that it is exactly zero at p = 0, and finite with its derivatives at t = 0.
        change = torch.expm1(torch.expm1(exponent) * logarithm)
        return (full + torch.where(inside, rise * change, 0)).to(x.dtype)

    def _refuse_below(self, x: Tensor) -> None:
        if bool((x < self.low).any()):
            raise ValueError(
                f"a gamma curve begins at {self.low:g}; got intensities down to {float(x.min()):.6g}: pass "
                f"Gamma(low={float(x.min()):.4g}, high=...), or put the normalisation into the model"
            )


@dataclass(frozen=True)
class BiasField:
    """Bias field, the uneven brightness of an MR coil: `x' = x exp(sum_k p_k L_k(u))`.

    `L_k` are the products of Legendre polynomials of a total degree up to `order`, on coordinates from -1 at
    the first pixel to 1 at the last of each axis; all channels share the field. Each is at most one, so that
    the brightness changes by a factor of at most `exp(|p|_1)`. At zero the image is the same to the bit, and
    `-p` undoes `p`. Intensities may leave the range that they had: clamp in the model where that matters.

    Args:
        order: The largest total degree; 0 for the brightness of the whole, 1 with a slope along each axis.

    Raises:
        TypeError: An order that is no whole number.
        ValueError: An order below zero.

    Example:
        >>> import torch
        >>> from advreg.transforms import BiasField
        >>> x, field = torch.ones(1, 1, 3), BiasField(order=1)
        >>> field.parameters(x).shape
        torch.Size([1, 2])
        >>> print(field(x, torch.tensor([[0.0, 0.6931472]])).numpy().round(3))
        [[[0.5 1.  2. ]]]

    Source:
        Van Leemput et al., Automated model-based bias field correction of MR images of the brain, IEEE
        Transactions on Medical Imaging 18, 1999 (exponential of polynomials); as an attack: Chen et al.,
        Realistic adversarial data augmentation for MR image segmentation, arXiv:2006.13322.
    """

    order: int = 3

    def __post_init__(self) -> None:
        check_count("order", self.order, 0)

    def parameters(self, x: Tensor) -> Tensor:
        """The parameters that change nothing, zeros `(B, P)`, P = (order + axes)! / (order! axes!)."""
        check_images(x)
        return x.new_zeros(len(x), math.comb(self.order + x.ndim - 2, x.ndim - 2))

    def __call__(self, x: Tensor, p: Tensor) -> Tensor:
        """Images `(B, C, *spatial)` of one to three spatial axes, each with the field of its parameters."""
        check_images(x)
        axes = x.shape[2:]
        check_parameters(p, x, math.comb(self.order + len(axes), len(axes)))
        full = wide(x)
        basis = torch.stack(list(self._products(axes, full)))  # (P, *spatial)
        field = (wide(p).to(full.dtype) @ basis.flatten(1)).reshape(len(x), 1, *axes)
        return (full * field.exp()).to(x.dtype)

    def _products(self, axes: torch.Size, like: Tensor) -> list[Tensor]:
        """The basis, by total degree and then as `itertools.product` orders the degrees of the axes."""
        along = [_legendre(entries, self.order, like) for entries in axes]
        degrees = sorted(product(range(self.order + 1), repeat=len(axes)), key=sum)

        def outer(each: tuple[int, ...]) -> Tensor:
            factors = [along[axis][degree] for axis, degree in enumerate(each)]
            return reduce(lambda a, b: a[..., None] * b, factors)

        return [outer(each) for each in degrees if sum(each) <= self.order]


def _legendre(entries: int, order: int, like: Tensor) -> list[Tensor]:
    """The Legendre polynomials of degree 0 to `order` at so many points from -1 to 1."""
    u = torch.linspace(-1, 1, entries, dtype=like.dtype, device=like.device)
    found = [torch.ones_like(u), u]
    for n in range(1, order):
        found.append(((2 * n + 1) * u * found[n] - n * found[n - 1]) / (n + 1))
    return found[: order + 1]
