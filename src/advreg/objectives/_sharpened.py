"""Sharpened surrogates: smooth at the first step of an attack, as hard as the metric in the end."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import Tensor

from advreg._core.checks import check_word
from advreg._core.device import free
from advreg._core.tensors import wide
from advreg.metrics import Absent, Activation, channel_dice, mask_like, over_channels, probabilities
from advreg.objectives._contours import contour_overlap
from advreg.objectives._paths import between, check_path
from advreg.objectives._pixels import refuse_probabilities


@dataclass(frozen=True)
class SharpenedDice:
    """`1 - soft_dice` of logits times a factor that grows as the attack goes on.

    Small factors give every pixel a gradient, also one that is decided far on the wrong or the right side;
    large ones are the hard Dice that is reported. The factor is `first (last / first)^(share / until)`, and
    `last` from `until` on.

    A channel that the target lacks, and that counts, has no gradient of its soft Dice; the hard one falls
    from 1 to 0 with the first false pixel. Such a channel's share is `(1 - m / (1 + |m|)) / 2` in place of
    its Dice, m being the largest logit times the factor (with "softmax" the lead over the other classes):
    above 1/2 without a false pixel, below with one, and never flat.

    Args:
        first: The factor at the first step.
        last: The factor in the end.
        until: The share of the steps at which it is reached.
        activation: As for `soft_dice`: "sigmoid" or "softmax".
        ignore_index: As for `soft_dice`.
        absent: As for `soft_dice`.
        share: Steps made over all steps; an attack sets it, by `at`.

    Example:
        >>> import torch
        >>> from advreg.objectives import SharpenedDice
        >>> logits, mask = torch.tensor([[[[2.0, -2.0]]]]), torch.tensor([[[[1.0, 0.0]]]])
        >>> [round(SharpenedDice().at(share)(logits, mask).item(), 3) for share in (0.0, 0.3, 1.0)]
        [0.269, 0.079, 0.002]

    Source:
        Continuation from a smooth to a hard objective; the measurements behind it: `benchmarks/strength.py`.
    """

    first: float = 0.5
    last: float = 3.0
    until: float = 0.6
    activation: Activation = "sigmoid"
    ignore_index: int | None = None
    share: float = 1.0
    absent: Absent | None = None

    def __post_init__(self) -> None:
        check_path(self.first, self.last, self.until)
        if self.activation == "none":
            raise ValueError(
                "SharpenedDice multiplies logits; got activation='none': attack what comes before"
            )
        refuse_probabilities(self.activation)
        if self.absent is not None:
            check_word("absent", self.absent, get_args(Absent))

    def at(self, share: float) -> SharpenedDice:
        """The objective after this share of the steps."""
        return replace(self, share=share)

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """The value, `(B,)` in [0, 1]."""
        mask, counted = mask_like(output, target, self.activation, self.ignore_index)
        scaled = between(self.first, self.last, self.share / self.until) * wide(output)
        p, inside = probabilities(scaled, self.activation), mask > 0.5
        there = (inside if counted is None else inside & counted).flatten(2).any(2)
        values = channel_dice(p, mask.to(p.dtype), counted)
        if not (free(there) and bool(there.all())):
            values = torch.where(there, values, _without_false_pixel(scaled, self.activation, counted))
        return 1 - over_channels(values, there, self.activation, self.absent)


@dataclass(frozen=True)
class SharpenedOverlap:
    """`contour_overlap` whose softness falls as the attack goes on: from far sight to the edge itself.

    The softness is `first (last / first)^(share / until)` pixels, and `last` from `until` on.

    Args:
        size: Rows and columns (H, W) of the image.
        first: The softness at the first step, in pixels.
        last: The softness in the end.
        until: The share of the steps at which it is reached.
        share: Steps made over all steps; an attack sets it, by `at`.

    Source:
        As for `SharpenedDice`.
    """

    size: tuple[int, int]
    first: float = 3.0
    last: float = 0.3
    until: float = 0.6
    share: float = 1.0

    def __post_init__(self) -> None:
        check_path(self.first, self.last, self.until)

    def at(self, share: float) -> SharpenedOverlap:
        """The objective after this share of the steps."""
        return replace(self, share=share)

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """The value, `(B,)` in [0, 1]."""
        softness = between(self.first, self.last, self.share / self.until)
        return contour_overlap(output, target, size=self.size, softness=softness)


def _without_false_pixel(scores: Tensor, activation: Activation, counted: Tensor | None) -> Tensor:
    """`(1 - m / (1 + |m|)) / 2` of each channel's largest lead m, `(B, C)`; 1 where no pixel counts."""
    lead = scores
    if activation == "softmax":
        top = scores.topk(2, dim=1).values
        first, second = top[:, :1], top[:, 1:]
        lead = scores - torch.where(scores == first, second, first)
    if counted is not None:
        lead = lead.masked_fill(~counted, -math.inf)
    largest = lead.flatten(2).amax(2).clamp(-_FAR, _FAR)
    return (1 - largest / (1 + largest.abs())) / 2


_FAR = 1e30  # infinite logits as finite ones
