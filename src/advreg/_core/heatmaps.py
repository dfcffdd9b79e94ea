"""Heat maps, `(B, K, H, W)`: where they are largest, and the points that targets mean; checked."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from advreg._core.checks import check_tensors, examples, same_shape
from advreg._core.device import check_values
from advreg._core.valid import spread


def cells(output: Tensor, stride: float) -> Tensor:
    """The points (x, y) of a heat map's cells, `(H W, 2)`, in float32 at least."""
    height, width = output.shape[2:]
    dtype = torch.promote_types(output.dtype, torch.float32)
    across = torch.arange(width, device=output.device, dtype=dtype)
    down = torch.arange(height, device=output.device, dtype=dtype)
    return stride * torch.stack(torch.meshgrid(across, down, indexing="xy"), -1).flatten(0, 1)


def peaks(maps: Tensor, stride: float) -> Tensor:
    """The points (x, y) where maps are largest, `(B, K, 2)`; NaN for a map with NaN."""
    flat = maps.flatten(2)
    found = cells(maps, stride)[flat.argmax(2)]
    return torch.where(flat.isnan().any(2, keepdim=True), torch.nan, found)


def meant(output: Tensor, target: Tensor, valid: Tensor | None, stride: float) -> Tensor:
    """The points `(B, K, 2)` that a target of heat maps means: points, or maps like the output.

    Raises:
        TypeError: Something else than tensors; a `valid` that is not bool.
        ValueError: Other shapes; a target's map that is NaN, infinite or flat, where it is valid; a stride
            that is not above zero.
    """
    check_stride(stride)
    check_tensors(output, target)
    check_maps(output)
    if target.ndim == 4:
        same_shape(output, target)
        given = None if valid is None else spread(valid, target[:, :, 0, 0])
        check_values(target, partial(_refuse_flat, target, given))
        found = peaks(target, stride)
        return found if given is None else torch.where(given[..., None], found, torch.nan)
    if target.shape != (*output.shape[:2], 2):
        raise ValueError(
            f"the target of heat maps must be points (x, y), {(*output.shape[:2], 2)}, or heat maps, "
            f"{tuple(output.shape)}; got {tuple(target.shape)}"
        )
    return target.to(torch.promote_types(output.dtype, torch.float32))


def check_stride(stride: float) -> None:
    """Insist on a stride above zero.

    Raises:
        ValueError: Another.
    """
    if not (stride > 0 and math.isfinite(stride)):
        raise ValueError(f"stride must be above zero, image pixels for each cell; got {stride}")


def check_maps(output: Tensor) -> None:
    """Insist on `(B, K, H, W)`.

    Raises:
        ValueError: Another shape.
    """
    if output.ndim != 4:
        remedy = (
            "for coordinates use points()"
            if output.ndim < 4
            else "for the last of several stages select it with through()"
        )
        raise ValueError(f"heat maps must be (B, K, H, W); got {tuple(output.shape)}: {remedy}")


def _refuse_flat(target: Tensor, given: Tensor | None) -> None:
    flat = target.flatten(2)
    sick = (flat.amax(2) == flat.amin(2)) | ~flat.isfinite().all(2)
    if flat.shape[2] == 1:
        sick = ~flat.isfinite().all(2)
    sick = sick if given is None else sick & given
    if bool(sick.any()):
        raise ValueError(
            "a target's heat map must have a largest value; got flat, NaN or infinite ones in "
            f"{examples(sick)}: say which points are there with valid=, bool (B, K), as a task "
            "heatmaps(valid=lambda target: target.amax((2, 3)) > 0)"
        )
