"""Size of pixels and voxels, for all images or for each, and targets that bring it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

Spacing: TypeAlias = float | Sequence[float] | Tensor
"""The size of a pixel: one number, or one for each spatial axis, in the order of the tensor's axes."""


def split_spacing(target: Any, spacing: Spacing = 1.0) -> tuple[Any, Spacing]:
    """The mask and the spacing that a target holds, or the mask and a spacing that all share.

    Raises:
        TypeError: A mapping without a mask.
    """
    if not isinstance(target, Mapping):
        return target, spacing
    if "mask" not in target or not set(target) <= {"mask", "spacing"}:
        raise TypeError(
            f"a target of masks must be a tensor, or hold 'mask' and 'spacing'; got a mapping of "
            f"{list(target)}: name the head if the model has several, on('mask', hausdorff)"
        )
    return target["mask"], target.get("spacing", spacing)


def pixel_sizes(spacing: Spacing, count: int, axes: int, device: torch.device, *, rows: bool) -> Tensor:
    """The size of a pixel for each example, `(B, axes)`; one row for each only where that is allowed."""
    exact = isinstance(spacing, Tensor) and spacing.dtype == torch.float64
    sizes = torch.as_tensor(spacing, dtype=torch.float64 if exact else torch.float32, device=device)
    fits = sizes.ndim == 0 or sizes.shape == (axes,) or (rows and sizes.shape == (count, axes))
    if not fits:
        remedy = (
            f"one row for each example, ({count}, {axes})"
            if rows
            else 'for one row for each example pass the target {"mask": mask, "spacing": spacing}'
        )
        raise ValueError(
            f"spacing must be one number, or one for each of {axes} spatial axes; got shape "
            f"{tuple(sizes.shape)}: {remedy}"
        )
    if not bool((sizes > 0).all()) or not bool(sizes.isfinite().all()):
        raise ValueError(f"spacing must be positive and finite; got {sizes.flatten().tolist()[:6]}")
    return sizes.expand(count, axes)
