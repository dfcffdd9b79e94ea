"""Tasks: what a head is for, and the attacks that are strong against it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from advreg._core.types import PerExample
from advreg.metrics import point_error
from advreg.objectives import J_IND_reg, absolute_error, negate
from advreg.rules import Adaptive, Decayed, Rule, Shrinking, Steepest

PLAIN = Decayed(Steepest(2.0))  # signs that begin at two radii and shrink to nothing: no size to choose


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
    rule: Rule[Any] = PLAIN
    schedule: Callable[[float], float] | None = None


@dataclass(frozen=True)
class Task:
    """Task of a head: a metric, which way it is worse, and the attacks on it, the strongest first.

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
            object.__setattr__(self, "members", smooth_members(damage, "metric"))
        if math.isnan(self.worst):
            object.__setattr__(self, "worst", self.sign * math.inf)

    @property
    def sign(self) -> int:
        """What makes a larger number worse."""
        return 1 if self.worse == "higher" else -1


def smooth_members(error: PerExample, name: str) -> tuple[Member, ...]:
    """Attacks on an error that has a gradient of its own."""
    members = (
        Member(f"{name}, long steps", error, PLAIN, Shrinking(((0.3, 2.0),))),
        Member(name, error, Decayed(Steepest(1.0)), Shrinking(((0.3, 1.5),))),
        Member(f"APGD, {name}, shrinking radius", error, Adaptive(), Shrinking()),
        Member(f"APGD, {name}", error, Adaptive()),
    )
    if error is not point_error:
        return members
    return (
        *members,
        Member("absolute differences", absolute_error),
        Member("squares, shrinking radius", J_IND_reg, PLAIN, Shrinking()),
    )
