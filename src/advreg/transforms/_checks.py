"""Checks of images and parameters that all transforms make."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from torch import Tensor


def check_images(x: Any, *, most: int | None = 3) -> None:
    """Insist on images `(B, C, *spatial)` of one to three spatial axes; None as `most` for any rank.

    Raises:
        TypeError: No floating-point tensor.
        ValueError: Another rank.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        came = str(x.dtype) if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(
            f"images must be a floating-point tensor (B, C, *spatial); got {came}: x.float() / 255"
        )
    if most is not None and not 3 <= x.ndim <= most + 2:
        raise ValueError(
            f"images must be (B, C, *spatial) with one to {most} spatial axes; got shape {tuple(x.shape)}: "
            "add the channel, x.unsqueeze(1)"
        )


def check_parameters(p: Any, x: Tensor, count: int) -> None:
    """Insist on parameters `(B, count)` for the images.

    Raises:
        TypeError: No floating-point tensor.
        ValueError: Another shape.
    """
    if not isinstance(p, Tensor) or not p.is_floating_point():
        came = str(p.dtype) if isinstance(p, Tensor) else type(p).__name__
        raise TypeError(f"parameters must be a floating-point tensor (B, {count}); got {came}")
    if p.shape != (len(x), count):
        raise ValueError(
            f"parameters must be of shape ({len(x)}, {count}), a row for each image; got {tuple(p.shape)}: "
            "begin with transform.parameters(x)"
        )


def check_count(name: str, value: Any, least: int) -> None:
    """Insist on a whole number of `least` or more.

    Raises:
        TypeError: No whole number.
        ValueError: Less.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, {least} or more; got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more; got {value}")
