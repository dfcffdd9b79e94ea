"""Task for mask heads."""

from __future__ import annotations

from functools import partial
from typing import Any

from advreg.metrics import Absent, Activation, dice
from advreg.objectives import (
    SharpenedDice,
    masked_cross_entropy,
)
from advreg.rules import Adaptive, Decayed, Momentum, Shrinking
from advreg.tasks._task import Member, Task


def masks(
    *, activation: Activation = "sigmoid", ignore_index: int | None = None, absent: Absent | None = None
) -> Task:
    """A head of masks, from logits: the hard `dice`, lower is worse, 0 is the worst.

    Structures that an image lacks are attacked too, by every member: one false pixel is enough.

    Args:
        activation: "sigmoid" for channels of their own, "softmax" for classes that exclude each other.
        ignore_index: As for `dice`.
        absent: As for `dice`: whether channels that an image lacks count.

    Raises:
        ValueError: Another activation, probabilities among them; another word for `absent`.

    Example:
        >>> from advreg.tasks import masks
        >>> [member.name for member in masks().members][:2]
        ['sharper Dice, shrinking radius', 'sharpened Dice, fixed radius']
    """
    pixels: dict[str, Any] = {"activation": activation, "ignore_index": ignore_index}
    options = {**pixels, "absent": absent}
    shrinking = Shrinking()
    plain, sharp = SharpenedDice(**options), SharpenedDice(1.0, 5.0, 0.6, **options)
    soft, momentum = SharpenedDice(0.2, 3.0, 0.8, **options), Decayed(Momentum(2.0, decay=0.5))
    hard, balanced = (
        SharpenedDice(2.0, 2.0, **options),
        partial(masked_cross_entropy, balanced=True, **pixels),
    )
    return Task(
        partial(dice, **options),
        "lower",
        (
            Member("sharper Dice, shrinking radius", sharp, schedule=shrinking),
            Member("sharpened Dice, fixed radius", plain),
            Member("softer Dice, shrinking radius", soft, schedule=shrinking),
            Member("APGD, hard Dice, shrinking radius", hard, Adaptive(), shrinking),
            Member("sharpened Dice, momentum, shrinking radius", plain, momentum, shrinking),
            Member("balanced cross-entropy", balanced, schedule=shrinking),
        ),
        worst=0.0,
    )
