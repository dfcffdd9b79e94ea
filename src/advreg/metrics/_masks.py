"""Dice of masks, `(B, C, *spatial)`, soft and decided, and their IoU; how a mask head is read."""

from __future__ import annotations

from functools import partial
from typing import get_args

import torch
from torch import Tensor

from advreg._core.checks import check_word, examples, same_shape
from advreg._core.device import check_values
from advreg.metrics._channels import (
    Absent,
    Activation,
    channel_dice,
    over_channels,
    present,
    summable,
)


def soft_dice(
    output: Tensor,
    target: Tensor,
    *,
    activation: Activation = "sigmoid",
    ignore_index: int | None = None,
    absent: Absent | None = None,
) -> Tensor:
    """Differentiable Dice: `2 sum(p m) / (sum p + sum m)` with p the probabilities; mean over channels.

    A channel that is empty in both (`sum p + sum m = 0`) is 1; one that is empty in the target alone is 0,
    without a gradient: probabilities of logits are never 0, so that an empty mask, well predicted, has a
    `dice` of 1 and a soft Dice of 0. Sums are in float32 at least, under autocast too. NaN in an example's
    output, where it counts, makes its value NaN.

    Args:
        output: `(B, C, *spatial)`: logits, or probabilities with `activation="none"`.
        target: The mask, shaped like `output`, values in [0, 1], any dtype; with "softmax" also class
            numbers `(B, *spatial)`.
        activation: How to read `output`.
        ignore_index: Where the target is this number, neither prediction nor target counts.
        absent: What a channel does in which the target has nothing, as for `dice`.

    Returns:
        `(B,)` in [0, 1], float32 at least.

    Raises:
        ValueError: Shapes that differ (nothing is broadcast); target values outside [0, 1] or NaN; unknown
            words.

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
    p = probabilities(summable(output), activation)
    values = channel_dice(p, mask.to(p.dtype), counted)
    return over_channels(values, present(mask, counted), activation, absent)


def dice(
    output: Tensor,
    target: Tensor,
    *,
    activation: Activation = "sigmoid",
    ignore_index: int | None = None,
    absent: Absent | None = None,
) -> Tensor:
    """Dice of the decided mask: `2 |A ∩ B| / (|A| + |B|)`; mean over channels.

    The decision is logit > 0, probability > 0.5, or the largest class. Two empty masks agree, 1; where one
    alone is empty the Dice is 0. What a channel does that an example's truth lacks, `absent` says:

    - "ignore": it is left out of the mean, `sum of D_k over the k in the truth / their number`. Where
      classes exclude each other nothing is lost: a pixel that is wrongly given to an absent class is
      missing from the class that it belongs to. An average over classes that are not there says little:
      with 2 of 12 in the truth, a prediction without one right pixel would have 10 / 12 at best, and ten
      stray pixels, one for each absent class, would cost as much.
    - "count": it is 1 where the prediction lacks it too, otherwise 0, one false pixel being enough;
      `sum of D_k / C`, the macro average. Channels of their own need it, or else a finding where nothing is
      would go unseen.

    So the default is "ignore" with "softmax", and "count" with "sigmoid" and "none". Where the truth has
    nothing in any channel, an image without a lesion, every channel counts under both.

    Args:
        output: As for `soft_dice`. NaN cannot be decided: where it counts, the example scores NaN.
        target: As for `soft_dice`; values above 0.5 are inside.
        activation: How to read `output`.
        ignore_index: As for `soft_dice`.
        absent: "ignore", "count", or None for the default.

    Returns:
        `(B,)` in [0, 1].

    Raises:
        ValueError: As for `soft_dice`.

    Example:
        >>> import torch
        >>> from advreg import dice
        >>> numbers = torch.tensor([[[0, 0], [1, 1]]])  # the last of three classes is absent
        >>> logits = torch.nn.functional.one_hot(1 - numbers, 3).movedim(-1, 1).float()  # all wrong
        >>> dice(logits, numbers, activation="softmax")
        tensor([0.])
        >>> dice(logits, numbers, activation="softmax", absent="count")
        tensor([0.3333])

    Source:
        Chen et al., Eq 15; "ignore" is `ignore_empty` of MONAI's DiceMetric, but for empty images.
    """
    values, there = _decided_dice(output, target, activation, ignore_index)
    return over_channels(values, there, activation, absent)


def iou(
    output: Tensor,
    target: Tensor,
    *,
    activation: Activation = "sigmoid",
    ignore_index: int | None = None,
    absent: Absent | None = None,
) -> Tensor:
    """Intersection over union of the decided mask (Jaccard index): `|A ∩ B| / |A ∪ B|`; mean over channels.

    Of one channel it is `D / (2 - D)`, D being its `dice`, with which it shares the decision, empty masks and
    what absent channels do. With "softmax" it is the mean over an image's classes; the mIoU of a data set's
    tables sums intersections and unions over all images first, and is no mean over examples.

    Args:
        output: As for `dice`.
        target: As for `dice`.
        activation: As for `dice`.
        ignore_index: As for `dice`.
        absent: As for `dice`.

    Returns:
        `(B,)` in [0, 1]; NaN where NaN cannot be decided.

    Raises:
        ValueError: As for `soft_dice`.

    Example:
        >>> import torch
        >>> from advreg.metrics import iou
        >>> iou(torch.tensor([[[[1.0, 1.0, -1.0]]]]), torch.tensor([[[[0.0, 1.0, 1.0]]]]))
        tensor([0.3333])

    Source:
        Jaccard, 1912; Everingham et al., Pascal VOC, IJCV 88, 2010, section 4.3.
    """
    values, there = _decided_dice(output, target, activation, ignore_index)
    return over_channels(values / (2 - values), there, activation, absent)


def _decided_dice(
    output: Tensor, target: Tensor, activation: Activation, ignore_index: int | None
) -> tuple[Tensor, Tensor]:
    """The Dice of each channel of the decided mask, and which channels are in the truth, `(B, C)`."""
    mask, counted = mask_like(output, target, activation, ignore_index)
    inside, decided = mask > 0.5, decide(output, activation)
    wide = torch.promote_types(output.dtype, torch.float32)
    values = channel_dice(decided.to(wide), inside.to(wide), counted)
    unknown = output.isnan() if counted is None else output.isnan() & counted
    return torch.where(unknown.flatten(2).any(2), torch.nan, values), present(inside, counted)


def probabilities(output: Tensor, activation: Activation) -> Tensor:
    """A mask head's output as probabilities, `(B, C, *spatial)`."""
    check_word("activation", activation, get_args(Activation))
    if activation == "sigmoid":
        return output.sigmoid()
    return output.softmax(1) if activation == "softmax" else output


def decide(output: Tensor, activation: Activation) -> Tensor:
    """A mask head's output as a mask, `(B, C, *spatial)` bool; a mask of zeros and ones stays as it is."""
    check_word("activation", activation, get_args(Activation))
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
    check_word("activation", activation, get_args(Activation))
    tensors = isinstance(output, Tensor) and isinstance(target, Tensor)
    numbers = tensors and activation == "softmax" and target.shape == output.shape[:1] + output.shape[2:]
    if not numbers:
        if tensors and target.shape != output.shape:
            _refuse_numbers(output, target, activation)
        same_shape(output, target)
    if output.ndim < 3 or (output.ndim == 3 and not numbers and 2 * output.shape[1] > output.shape[2]):
        raise ValueError(
            f"a mask must be (B, C, *spatial); got {tuple(output.shape)}, which seems to lack its channel: "
            "add it with mask.unsqueeze(1) to output and target; for a signal (B, C, L) with more channels "
            "than half its length add a dimension, mask.unsqueeze(-1)"
        )
    if activation == "softmax" and output.shape[1] == 1:
        raise ValueError(
            "activation='softmax' needs two channels or more: over one it is 1 whatever the logit; "
            "got 1 channel: use activation='sigmoid'"
        )
    if numbers:
        check_values(target, partial(_refuse_nan, target))
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


def _refuse_numbers(output: Tensor, target: Tensor, activation: Activation) -> None:
    """Refuse class numbers, and masks, whose shape nearly is what it should be."""
    batch, channels, *spatial = output.shape if output.ndim > 1 else (*output.shape, 0)
    without, one = target.shape == (batch, *spatial), target.shape == (batch, 1, *spatial)
    if not (without or one):
        return
    if channels == 1:
        remedy = "the target lacks the channel: target.unsqueeze(1)"
    elif activation == "softmax":
        remedy = "class numbers are (B, *spatial): target.squeeze(1)"
    else:
        remedy = (
            f"if these are numbers of classes that exclude each other, pass activation='softmax'"
            f"{'' if without else ' and target.squeeze(1)'}; channels of their own need a mask for each, "
            f"{tuple(output.shape)}"
        )
    raise ValueError(
        f"output and target must have the same shape, nothing is broadcast; got {tuple(output.shape)} "
        f"and {tuple(target.shape)}: {remedy}"
    )


def _refuse_nan(target: Tensor) -> None:
    if bool(target.isnan().any()):
        raise ValueError(
            f"the target holds NaN in {examples(target.isnan())}: give such pixels a number of their own, "
            "target.nan_to_num(255), and pass ignore_index=255"
        )


def _check_range(target: Tensor, top: int, numbers: bool, counted: Tensor | None) -> None:
    _refuse_nan(target)
    low, high = target.amin().item(), target.amax().item()
    if not 0 <= low <= high <= top:
        remedy = (
            "class numbers count the channels of the output"
            if numbers
            else "pass a mask, (t > threshold); numbers of classes need an output with a channel for each, "
            "activation='softmax' and a target (B, *spatial)"
        )
        remedy += "; to leave a value out, ignore_index=255" if counted is None else ""
        raise ValueError(f"target values must lie in [0, {top}]; got [{low:.6g}, {high:.6g}]: {remedy}")
