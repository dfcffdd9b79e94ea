"""Dice channel by channel, and its mean over channels of which some are absent from the truth."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from advreg._core.checks import check_word

Activation = Literal["sigmoid", "softmax", "none"]
"""How a mask head is to be read: logits of independent channels, of exclusive classes, or probabilities."""

Absent = Literal["ignore", "count"]
"""The part of a channel that an example's truth lacks: it is left out of the mean, or it counts."""


def channel_dice(a: Tensor, b: Tensor, counted: Tensor | None = None) -> Tensor:
    """Dice of each channel, `2 sum(a b) / (sum a + sum b)`; 1 where both are empty.

    Args:
        a: Masks or probabilities `(B, C, *spatial)`, floating point; half precision is summed in float32.
        b: Shaped like `a`.
        counted: Where they count, bool, `(B, C, *spatial)` or `(B, 1, *spatial)`; by default everywhere.

    Returns:
        `(B, C)`; NaN where NaN counts.

    Example:
        >>> import torch
        >>> from advreg.metrics import channel_dice
        >>> a, b = torch.eye(2).reshape(1, 2, 1, 2), torch.tensor([[[[1.0, 1.0]], [[0.0, 0.0]]]])
        >>> channel_dice(a, b).numpy().round(2)
        array([[0.67, 0.  ]], dtype=float32)

    Source:
        Dice, Ecology 26, 1945.
    """
    a, b = summable(a), summable(b)
    if counted is not None:
        a, b = torch.where(counted, a, 0), torch.where(counted, b, 0)
    overlap, total = (a * b).flatten(2).sum(2), a.flatten(2).sum(2) + b.flatten(2).sum(2)
    empty = total == 0  # not `~(total > 0)`: NaN is no agreement
    return torch.where(empty, 1, 2 * overlap / torch.where(empty, 1, total))


def present(mask: Tensor, counted: Tensor | None = None) -> Tensor:
    """Which channels of a mask `(B, C, *spatial)` have something in them that counts, `(B, C)` bool."""
    inside = mask > 0
    return (inside if counted is None else inside & counted).flatten(2).any(2)


def over_channels(
    values: Tensor, there: Tensor, activation: Activation, absent: Absent | None = None
) -> Tensor:
    """The mean over the channels that count; where no channel is in the truth, all of them do.

    Args:
        values: One number for each channel, `(B, C)`; one that is NaN always counts.
        there: Which channels are in each example's truth, `(B, C)` bool.
        activation: Decides what absent channels do, where `absent` does not.
        absent: "ignore" or "count"; by default "ignore" with "softmax" and "count" otherwise.

    Returns:
        `(B,)`.

    Raises:
        ValueError: Another word for `absent`.

    Example:
        >>> import torch
        >>> from advreg.metrics import over_channels
        >>> values, there = torch.tensor([[0.5, 1.0]]), torch.tensor([[True, False]])
        >>> over_channels(values, there, "softmax"), over_channels(values, there, "sigmoid")
        (tensor([0.5000]), tensor([0.7500]))

    Source:
        MONAI's `ignore_empty` is "ignore"; scikit-learn's macro average, with `zero_division=1`, "count".
    """
    if absent is None:
        absent = "ignore" if activation == "softmax" else "count"
    check_word("absent", absent, get_args(Absent))
    if absent == "count":
        return values.mean(1)
    counts = there | ~there.any(1, keepdim=True)
    return torch.where(counts | values.isnan(), values, 0).sum(1) / counts.sum(1)


def summable(values: Tensor) -> Tensor:
    """In float32 at least: sums of half precision over an image's pixels overflow or stand still."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
