"""Dense maps, depth and flow: output and target in one layout, and the pixels that count; checked."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from advreg._core.checks import examples, same_shape
from advreg._core.device import check_values
from advreg._core.valid import spread


def one_layout(
    output: Tensor, target: Tensor, valid: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Output, target and valid in the layout of the output: `(B, H, W)` and `(B, 1, H, W)` are the same map.

    Raises:
        TypeError: Something else than tensors.
        ValueError: Shapes that differ otherwise; fewer than three dimensions.
    """
    if isinstance(output, Tensor) and isinstance(target, Tensor):
        if output.ndim < 3:
            raise ValueError(
                f"maps must be (B, H, W) or (B, C, H, W); got {tuple(output.shape)}: for numbers use values()"
            )
        target = _like(target, output)
    same_shape(output, target)
    if valid is not None:
        valid = _everywhere(valid, output)
    return output, target, valid


def depths(output: Tensor, target: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Output, target and where it counts, for maps of positive numbers; by default where the target is.

    Raises:
        ValueError: As for `one_layout`; a target that is negative, NaN or infinite, or 0 where it is valid.
    """
    output, target, valid = one_layout(output, target, valid)
    check_values(target, partial(_check_depth, target, valid))
    there = target > 0 if valid is None else valid
    return output, target, there


def check_flow(output: Tensor) -> None:
    """Insist on `(B, 2, H, W)`, or `(B, 3, D, H, W)`: one channel for each direction in space.

    Raises:
        ValueError: Another shape.
    """
    if output.ndim < 4 or output.shape[1] != output.ndim - 2:
        last = output.ndim > 3 and output.shape[-1] == output.ndim - 2
        remedy = (
            "move the channels, output.movedim(-1, 1) and target.movedim(-1, 1)"
            if last
            else "for depth or disparity use another metric, such as rmse"
        )
        raise ValueError(
            f"flow must be (B, 2, H, W), or (B, 3, D, H, W) in space; got {tuple(output.shape)}: {remedy}"
        )


def _like(other: Tensor, output: Tensor) -> Tensor:
    """Another map with or without the one channel, as the output has it."""
    if output.ndim == other.ndim + 1 and output.shape == (*other.shape[:1], 1, *other.shape[1:]):
        return other.unsqueeze(1)
    if other.ndim == output.ndim + 1 and other.shape == (*output.shape[:1], 1, *output.shape[1:]):
        return other.squeeze(1)
    return other


def _everywhere(valid: Tensor, output: Tensor) -> Tensor:
    """Which pixels are valid, for each channel of the output."""
    if isinstance(valid, Tensor) and output.ndim > 3 and valid.shape == (len(output), *output.shape[2:]):
        valid = valid.unsqueeze(1)
    elif isinstance(valid, Tensor):
        valid = _like(valid, output)
    if isinstance(valid, Tensor) and valid.shape == (len(output), 1, *output.shape[2:]):
        valid = valid.expand_as(output)
    return spread(valid, output).expand_as(output)


def _check_depth(target: Tensor, valid: Tensor | None) -> None:
    given = torch.ones_like(target, dtype=torch.bool) if valid is None else valid
    sick = given & ~target.isfinite()
    if bool(sick.any()):
        raise ValueError(
            f"the target must be finite; got NaN or infinity for {examples(sick)}: mark missing pixels by 0, "
            "target.nan_to_num(0, 0, 0), or say what is there with valid=, as a task "
            "maps(valid=torch.isfinite)"
        )
    low = given & ((target < 0) if valid is None else (target <= 0))
    if bool(low.any()):
        raise ValueError(
            f"depth must be positive, 0 where it is missing; got {target[low].amin().item():.6g} in "
            f"{examples(low)}: undo a normalisation of the target, leave pixels out with valid=, or judge by "
            "rmse"
        )
