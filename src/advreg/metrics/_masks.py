"""Dice of masks, `(B, C, *spatial)`, soft and decided; how a mask head is read."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from advreg._core.checks import same_shape
from advreg._core.device import check_values

Activation = Literal["sigmoid", "softmax", "none"]
"""How a mask head is to be read: logits of independent channels, of exclusive classes, or probabilities."""


def soft_dice(
    output: Tensor, target: Tensor, *, activation: Activation = "sigmoid", ignore_index: int | None = None
) -> Tensor:
    """Differentiable Dice: `2 sum(p m) / (sum p + sum m)` with p the probabilities; mean over channels.

    A channel that is empty in both (`sum p + sum m = 0`) counts as 1; one that is empty in the target alone
    counts as 0, without a gradient.

    Args:
        output: `(B, C, *spatial)`: logits, or probabilities with `activation="none"`.
        target: The mask, shaped like `output`, values in [0, 1], any dtype; with "softmax" also class
            numbers `(B, *spatial)`.
        activation: How to read `output`.
        ignore_index: Where the target is this number, neither prediction nor target counts.

    Returns:
        `(B,)` in [0, 1].

    Raises:
        ValueError: Shapes that differ (nothing is broadcast); target values outside [0, 1].

    Example:
        >>> import torch
        >>> from advreg import soft_dice
        >>> mask = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
        >>> soft_dice(100 * (mask - 0.5), mask)
        tensor([1.])
        >>> soft_dice(torch.full_like(mask, 0.5), mask, activation="none")
        tensor([0.5000])

    Source:
        Chen et al., Eqs 2, 5 and 7.
    """
    mask, counted = mask_like(output, target, activation, ignore_index)
    return mean_dice(probabilities(output, activation), mask.to(output.dtype), counted)


def dice(
    output: Tensor, target: Tensor, *, activation: Activation = "sigmoid", ignore_index: int | None = None
) -> Tensor:
    """Dice of the decided mask: `2 |A ∩ B| / (|A| + |B|)`; mean over channels.

    Two empty masks agree, 1; an empty prediction of something scores 0. The decision is logit > 0,
    probability > 0.5, or the largest class.

    Args:
        output: As for `soft_dice`.
        target: As for `soft_dice`; values above 0.5 are inside.
        activation: How to read `output`.
        ignore_index: As for `soft_dice`.

    Returns:
        `(B,)` in [0, 1].

    Raises:
        ValueError: As for `soft_dice`.

    Source:
        Chen et al., Eq 15.
    """
    mask, counted = mask_like(output, target, activation, ignore_index)
    wide = torch.promote_types(output.dtype, torch.float32)
    return mean_dice(decide(output, activation).to(wide), (mask > 0.5).to(wide), counted)


def probabilities(output: Tensor, activation: Activation) -> Tensor:
    """A mask head's output as probabilities, `(B, C, *spatial)`."""
    if activation == "sigmoid":
        return output.sigmoid()
    if activation == "softmax":
        return output.softmax(1)
    if activation == "none":
        return output
    raise ValueError(f"activation must be 'sigmoid', 'softmax' or 'none'; got {activation!r}")


def decide(output: Tensor, activation: Activation) -> Tensor:
    """A mask head's output as a mask, `(B, C, *spatial)` bool; a mask of zeros and ones stays as it is."""
    if activation == "softmax":
        return torch.zeros_like(output, dtype=torch.bool).scatter_(
            1, output.argmax(1, keepdim=True), value=True
        )
    return output > (0.5 if activation == "none" else 0.0)


def mask_like(
    output: Tensor, target: Tensor, activation: Activation, ignore_index: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """The target as a mask shaped like `output`, and where it counts; checked, never broadcast.

    What counts is bool, `(B, C, *spatial)` or, of class numbers, `(B, 1, *spatial)`; None: everything.
    """
    tensors = isinstance(output, Tensor) and isinstance(target, Tensor)
    numbers = tensors and activation == "softmax" and target.shape == output.shape[:1] + output.shape[2:]
    if not numbers:
        same_shape(output, target)
    if output.ndim < 4:
        raise ValueError(
            f"a mask must be (B, C, *spatial) with two spatial dimensions or more; got {tuple(output.shape)}:"
            " add the channel with mask.unsqueeze(1) to output and target, for a 1D signal a dimension too"
        )
    if numbers:
        target = target.long().unsqueeze(1)
    elif activation == "softmax" and ignore_index is not None:
        raise ValueError(
            "with activation='softmax', ignore_index needs class numbers (B, *spatial); got one channel "
            "for each class: pass target.argmax(1)"
        )
    counted = None if ignore_index is None else target != ignore_index
    if counted is not None:
        target = target.masked_fill(~counted, 0)
    top = output.shape[1] - 1 if numbers else 1
    check_values(target, partial(_check_range, target, top, numbers, counted))
    if numbers:
        target = torch.zeros_like(output, dtype=torch.bool).scatter_(1, target, value=True)
    return target, counted


def _check_range(target: Tensor, top: int, numbers: bool, counted: Tensor | None) -> None:
    low, high = target.amin().item(), target.amax().item()
    if not 0 <= low <= high <= top:
        remedy = (
            "class numbers count the channels of the output" if numbers else "pass a mask, (t > threshold)"
        )
        remedy += "; to leave a value out, ignore_index=255" if counted is None else ""
        raise ValueError(f"target values must lie in [0, {top}]; got [{low:.6g}, {high:.6g}]: {remedy}")


def mean_dice(a: Tensor, b: Tensor, counted: Tensor | None = None) -> Tensor:
    if counted is not None:
        a, b = torch.where(counted, a, 0), torch.where(counted, b, 0)
    overlap, total = (a * b).flatten(2).sum(2), a.flatten(2).sum(2) + b.flatten(2).sum(2)
    share = 2 * overlap / torch.where(total > 0, total, 1)
    return torch.where(total > 0, share, 1).mean(1)
