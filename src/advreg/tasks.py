"""What the heads of a model are for, and which attacks are strong against each: what `auto_attack` takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from torch import Tensor

from advreg.adaptive import Adaptive
from advreg.attacks import Shrinking
from advreg.metrics import Activation, contour_dice, dice, point_error, soft_dice
from advreg.objectives import J_IND_reg, negate
from advreg.rules import Decayed, Momentum, Rule, Steepest
from advreg.surrogates import absolute_error, contour_overlap, masked_cross_entropy
from advreg.types import PerExample

__all__ = ["Member", "SharpenedDice", "SharpenedOverlap", "Task", "masks", "outlines", "points"]

_PLAIN = Decayed(Steepest(2.0))  # signs that begin at two radii and shrink to nothing: no size to choose


@dataclass(frozen=True)
class Member:
    """One way to attack a head: what is ascended, by which rule, in a ball of which radius.

    Args:
        name: What results call it.
        objective: A stand-in for the metric, `(head of output, head of target) -> (B,)`, larger where worse.
        rule: How a step is made.
        schedule: How the radius changes, as for `pgd_attack`.
    """

    name: str
    objective: PerExample
    rule: Rule[Any] = _PLAIN
    schedule: Callable[[float], float] | None = None


@dataclass(frozen=True)
class Task:
    """What a head is for: a metric, which way it is worse, and the attacks on it, the strongest first.

    Args:
        metric: `(head of output, head of target) -> (B,)`; it need not be differentiable.
        worse: Whether a "lower" or a "higher" number is worse.
        members: The attacks; by default some on the metric itself, which then must be differentiable.
        worst: The number than which nothing is worse, by default an infinite one; an example that reaches
            it is done.

    Raises:
        ValueError: A direction that is neither.

    Example:
        >>> from advreg import J_IND_reg
        >>> from advreg.tasks import Task
        >>> Task(J_IND_reg, "higher").worst
        inf
    """

    metric: PerExample
    worse: Literal["lower", "higher"]
    members: tuple[Member, ...] = ()
    worst: float = math.nan

    def __post_init__(self) -> None:
        if self.worse not in ("lower", "higher"):
            raise ValueError(f"worse must be 'lower' or 'higher'; got {self.worse!r}")
        if not self.members:
            damage = self.metric if self.worse == "higher" else negate(self.metric)
            object.__setattr__(self, "members", _smooth(damage, "metric"))
        if math.isnan(self.worst):
            object.__setattr__(self, "worst", self.sign * math.inf)

    @property
    def sign(self) -> int:
        """What makes a larger number worse."""
        return 1 if self.worse == "higher" else -1


@dataclass(frozen=True)
class SharpenedDice:
    """`1 - soft_dice` of logits times a factor that grows as the attack goes on.

    Small factors give every pixel a gradient, also one that is decided far on the wrong or the right side;
    large ones are the hard Dice that is reported. The factor is `first (last / first)^(share / until)`, and
    `last` from `until` on.

    Args:
        first: The factor at the first step.
        last: The factor in the end.
        until: The share of the steps at which it is reached.
        activation: As for `soft_dice`: "sigmoid" or "softmax".
        ignore_index: As for `soft_dice`.
        share: Steps made over all steps; an attack sets it, by `at`.

    Example:
        >>> import torch
        >>> from advreg.tasks import SharpenedDice
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

    def __post_init__(self) -> None:
        _check_path(self.first, self.last, self.until)
        if self.activation == "none":
            raise ValueError(
                "SharpenedDice multiplies logits; got activation='none': attack what comes before"
            )

    def at(self, share: float) -> SharpenedDice:
        """The objective after this share of the steps."""
        return replace(self, share=share)

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """The value, `(B,)` in [0, 1]."""
        scaled = _between(self.first, self.last, self.share / self.until) * output
        return 1 - soft_dice(scaled, target, activation=self.activation, ignore_index=self.ignore_index)


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
        _check_path(self.first, self.last, self.until)

    def at(self, share: float) -> SharpenedOverlap:
        """The objective after this share of the steps."""
        return replace(self, share=share)

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """The value, `(B,)` in [0, 1]."""
        softness = _between(self.first, self.last, self.share / self.until)
        return contour_overlap(output, target, size=self.size, softness=softness)


def masks(*, activation: Activation = "sigmoid", ignore_index: int | None = None) -> Task:
    """A head of masks, from logits: the hard `dice`, lower is worse, 0 is the worst.

    Args:
        activation: "sigmoid" for channels of their own, "softmax" for classes that exclude each other.
        ignore_index: As for `dice`.

    Example:
        >>> from advreg.tasks import masks
        >>> [member.name for member in masks().members][:2]
        ['sharper Dice, shrinking radius', 'sharpened Dice, fixed radius']
    """
    options: dict[str, Any] = {"activation": activation, "ignore_index": ignore_index}
    shrinking = Shrinking()
    plain, sharp = SharpenedDice(**options), SharpenedDice(1.0, 5.0, 0.6, **options)
    soft, momentum = SharpenedDice(0.2, 3.0, 0.8, **options), Decayed(Momentum(2.0, decay=0.5))
    hard, balanced = (
        SharpenedDice(2.0, 2.0, **options),
        partial(masked_cross_entropy, balanced=True, **options),
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


def points() -> Task:
    """A head of points, `(B, K, D)`: `point_error`, higher is worse, without an end.

    Example:
        >>> from advreg.tasks import points
        >>> points().worse
        'higher'
    """
    return Task(point_error, "higher", _smooth(point_error, "distance"))


def outlines(size: tuple[int, int]) -> Task:
    """A head of contours, `(B, K, 2)`, judged by `contour_dice` (Eq 14): lower is worse, 0 is the worst.

    Args:
        size: Rows and columns (H, W) of the image.

    Example:
        >>> from advreg.tasks import outlines
        >>> outlines((64, 64)).worst
        0.0
    """
    sharpened, hard = SharpenedOverlap(size), partial(contour_overlap, size=size)
    short, wider = Decayed(Steepest(1.0)), Shrinking(((0.3, 1.5),))
    return Task(
        partial(contour_dice, size=size),
        "lower",
        (
            Member("sharpened overlap", sharpened, short, wider),
            Member("overlap", hard),
            Member("APGD, sharpened overlap, shrinking radius", sharpened, Adaptive(), Shrinking()),
            Member("distance", point_error, short, wider),
            Member("APGD, overlap", hard, Adaptive()),
        ),
        worst=0.0,
    )


def _smooth(error: PerExample, name: str) -> tuple[Member, ...]:
    """Attacks on an error that has a gradient of its own."""
    members = (
        Member(name, error, Decayed(Steepest(1.0)), Shrinking(((0.3, 1.5),))),
        Member(f"APGD, {name}, shrinking radius", error, Adaptive(), Shrinking()),
        Member(f"{name}, long steps", error, _PLAIN, Shrinking(((0.3, 2.0),))),
        Member(f"APGD, {name}", error, Adaptive()),
    )
    if error is not point_error:
        return members
    return (
        *members,
        Member("absolute differences", absolute_error),
        Member("squares, shrinking radius", J_IND_reg, _PLAIN, Shrinking()),
    )


def _between(first: float, last: float, share: float) -> float:
    """From first to last in equal ratios, and last from a share of 1 on."""
    ratio: float = (last / first) ** min(1.0, share)
    return first * ratio


def _check_path(first: float, last: float, until: float) -> None:
    if not (first > 0 and last > 0 and 0 < until <= 1):
        raise ValueError(
            f"first and last must be above zero and until in (0, 1]; got {first}, {last} and {until}"
        )
