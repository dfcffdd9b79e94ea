"""Patches: masks of rectangles, in which alone an adversary may move."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor


def patch_mask(shape: Sequence[int], size: Sequence[int], at: Sequence[int] | Tensor) -> Tensor:
    """Mask of a patch, a rectangle of pixels, in which alone a `Threat` lets images change.

    `Threat(linf, 1.0, mask=patch_mask(...))` lets images in [0, 1] take any value in the patch. For images of
    any number of spatial axes.

    Args:
        shape: The spatial shape of an image, `(H, W)`: `x.shape[2:]`.
        size: The patch's extent along each of these axes, `(h, w)`.
        at: Its first row and column: two numbers for all images, or int64 `(B, 2)`, for each its own.

    Returns:
        Bool, `(1, *shape)` for one place, to broadcast against images `(B, C, *shape)`, or `(B, 1, *shape)`.

    Raises:
        TypeError: Places or sizes that are not whole numbers.
        ValueError: Numbers that do not fit the axes; a patch that is empty, or sticks out of the image.

    Example:
        >>> import torch
        >>> from advreg import Threat, linf
        >>> from advreg.threats import patch_mask
        >>> print(patch_mask((3, 4), size=(2, 1), at=(1, 2))[0].int().numpy())
        [[0 0 0 0]
         [0 0 1 0]
         [0 0 1 0]]
        >>> each = patch_mask((8, 8), size=(3, 3), at=torch.tensor([[0, 0], [5, 5]]))
        >>> threat, x = Threat(linf, 1.0, mask=each), torch.full((2, 1, 8, 8), 0.5)
        >>> (threat.project(x + 9, x) != x).sum((1, 2, 3))
        tensor([9, 9])

    Source:
        Brown et al., Adversarial patch, arXiv:1712.09665; at a fixed place: Karmon et al., LaVAN,
        arXiv:1801.02608.
    """
    for name, value in (("shape", shape), ("size", size)):
        _check_whole(name, value)
    if len(size) != len(shape):
        raise ValueError(
            f"size must be one number for each of the axes {tuple(shape)}, without batch and channels; got "
            f"{tuple(size)}"
        )
    if not isinstance(at, Tensor):
        _check_whole("at", at)
    places = torch.as_tensor(at)
    if places.is_floating_point() or places.is_complex() or places.dtype == torch.bool:
        raise TypeError(f"at must be whole numbers, rows and columns; got {places.dtype}: pass at.long()")
    if places.ndim not in (1, 2) or places.shape[-1] != len(shape):
        raise ValueError(
            f"at must be ({len(shape)},) for all images or (B, {len(shape)}) for each; got "
            f"{tuple(places.shape)}"
        )
    extent, whole = torch.tensor(size).to(places), torch.tensor(shape).to(places)
    if bool((extent < 1).any()) or bool(((places < 0) | (places + extent > whole)).any()):
        raise ValueError(
            f"a patch must hold a pixel and lie in the image; got one of {tuple(size)} at "
            f"{places.reshape(-1, len(shape)).tolist()[:3]} in {tuple(shape)}: its first row can be 0 to "
            f"{shape[0] - size[0]}"
        )
    inside = torch.ones(1, dtype=torch.bool, device=places.device)
    for axis, entries in enumerate(shape):
        first = places[..., axis].reshape(-1, 1)
        place = torch.arange(entries, device=places.device)
        own = (place >= first) & (place < first + size[axis])
        inside = inside[..., None] & own.reshape(-1, *[1] * axis, entries)
    return inside if places.ndim == 1 else inside[:, None]


def _check_whole(name: str, value: Any) -> None:
    numbers = isinstance(value, Sequence) and not isinstance(value, str)
    if not numbers or not all(isinstance(n, Integral) and not isinstance(n, bool) for n in value):
        raise TypeError(f"{name} must be whole numbers, one for each spatial axis, (H, W); got {value!r}")
