"""Task for mask heads."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, get_args

from advreg._core.checks import check_word
from advreg.metrics import Absent, Activation, dice, iou
from advreg.objectives import (
    SharpenedDice,
    masked_cross_entropy,
)
from advreg.rules import Adaptive, Decayed, Momentum, Shrinking
from advreg.tasks._task import Member, Task

MaskMetric = Literal["dice", "iou"]
"""A metric of decided masks, by the name that it has in `advreg.metrics`."""


def masks(
    *,
    metric: MaskMetric = "dice",
    activation: Activation = "sigmoid",
    ignore_index: int | None = None,
    absent: Absent | None = None,
) -> Task:
    """A head of masks, from logits: the hard `dice`, or `iou`, lower is worse, 0 is the worst.

    Masks are `(B, C, *spatial)`: signals, images or volumes, of channels of their own or, with "softmax", of
    classes that exclude each other, whose target is class numbers `(B, *spatial)` or one channel for each.

    Structures that an image lacks are attacked too, by every member: one false pixel is enough.

    Args:
        metric: "dice", or "iou", the intersection over union.
        activation: "sigmoid" for channels of their own, "softmax" for classes that exclude each other.
        ignore_index: As for `dice`.
        absent: As for `dice`: whether channels that an image lacks count.

    Raises:
        ValueError: Another metric; another activation, probabilities among them; another word for `absent`.

    Example:
        >>> from advreg.tasks import masks
        >>> [member.name for member in masks().members][:2]
        ['softer Dice, shrinking radius', 'sharpened Dice, momentum, shrinking radius']
    """
    check_word("metric", metric, get_args(MaskMetric))
    pixels: dict[str, Any] = {"activation": activation, "ignore_index": ignore_index}
    options = {**pixels, "absent": absent}
    shrinking = Shrinking()
    plain, sharp = SharpenedDice(**options), SharpenedDice(1.0, 5.0, 0.6, **options)
    soft, hard = SharpenedDice(0.2, 3.0, 0.8, **options), SharpenedDice(2.0, 2.0, **options)
    long, flat = Decayed(Momentum(2.0, decay=0.5)), partial(masked_cross_entropy, **pixels)
    sharper = Member("sharper Dice, shrinking radius", sharp, schedule=shrinking)
    fixed = Member("sharpened Dice, fixed radius", plain)
    softer = Member("softer Dice, shrinking radius", soft, schedule=shrinking)
    adaptive = Member("APGD, hard Dice, shrinking radius", hard, Adaptive(), shrinking)
    momentum = Member("sharpened Dice, momentum, shrinking radius", plain, long, shrinking)
    members: tuple[Member, ...]
    if activation == "softmax":
        # The true logit leads by more here: a factor that begins large leaves sure pixels no gradient.
        right = Member("cross-entropy of right pixels, shrinking radius", flat, schedule=shrinking)
        members = (fixed, sharper, softer, adaptive, momentum, right)
    else:
        # In small balls all are alike; in large ones, of robust networks, the first three find far more.
        balanced = Member("balanced cross-entropy", partial(flat, balanced=True), schedule=shrinking)
        members = (softer, momentum, balanced, sharper, fixed, adaptive)
    return Task(partial(dice if metric == "dice" else iou, **options), "lower", members, worst=0.0)
