"""Schedules over the steps of an attack: of the step's length (`Decayed`) and of the radius (`Shrinking`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor

from advreg.rules._steps import Here, Rule, check_numbers


def cosine(share: float) -> float:
    """The half cosine `(1 + cos(pi share)) / 2`: from 1 to 0 as the share of steps done goes from 0 to 1.

    Source:
        Loshchilov and Hutter, SGDR, arXiv:1608.03983, Eq 5.
    """
    return (1 + math.cos(math.pi * share)) / 2


@dataclass(frozen=True)
class Stepwise:
    """A factor that changes in stages, for `Decayed` and for the radius of an attack.

    Args:
        stages: `(until, factor)` pairs, in order: before that share of the steps the factor holds.
        last: The factor after the last of them.

    Raises:
        TypeError: Stages that are no pairs of numbers.
        ValueError: Shares that do not rise, or lie outside (0, 1]; factors below zero or not finite.

    Example:
        >>> halves = Stepwise(((0.5, 1.0), (0.75, 0.5)), last=0.25)
        >>> [halves(share) for share in (0.0, 0.5, 0.8)]
        [1.0, 0.5, 0.25]
    """

    stages: tuple[tuple[float, float], ...]
    last: float = 1.0

    def __post_init__(self) -> None:
        many = isinstance(self.stages, (tuple, list))
        if not many or not all(isinstance(one, (tuple, list)) and len(one) == 2 for one in self.stages):
            raise TypeError(
                "stages must be pairs (until, factor), a share of the steps and what holds before it, such "
                f"as ((0.3, 2.0), (0.6, 1.5)); got {self.stages!r}: one stage is written ((0.5, 2.0),)"
            )
        for until, factor in self.stages:
            check_numbers(until=until, factor=factor)
        check_numbers(last=self.last)
        ends = [0.0, *(until for until, _ in self.stages)]
        if not all(before < after <= 1 for before, after in pairwise(ends)):
            raise ValueError(
                f"stages must end at shares of the steps that rise, above 0 and up to 1; got {ends[1:]}"
            )
        factors = [*(factor for _, factor in self.stages), self.last]
        if not all(factor >= 0 and math.isfinite(factor) for factor in factors):
            raise ValueError(f"factors must be zero or more and finite; got {factors}")

    def __call__(self, share: float) -> float:
        """The factor at a share of the steps, 0 to 1."""
        return next((factor for until, factor in self.stages if share < until), self.last)


@dataclass(frozen=True)
class Decayed:
    """Another rule, its steps shortened as the attack goes on: by the half cosine, or in stages.

    Args:
        rule: The other rule.
        decay: From the share of steps done, 0 to 1, to a factor on the step.

    Raises:
        TypeError: A rule that is none, such as a class; a decay that is no function.

    Example:
        >>> from advreg import Steepest
        >>> from advreg.rules import Decayed, Momentum, Stepwise
        >>> smooth = Decayed(Steepest(1.0))
        >>> staged = Decayed(Momentum(0.2, decay=0.75), Stepwise(((0.5, 1.0), (0.75, 0.3)), last=0.1))

    Source:
        Loshchilov and Hutter, SGDR, arXiv:1608.03983.
    """

    rule: Rule[Any]
    decay: Callable[[float], float] = cosine

    def __post_init__(self) -> None:
        if isinstance(self.rule, type) or not all(hasattr(self.rule, name) for name in ("init", "step")):
            raise TypeError(f"rule must be a rule, such as Steepest(0.2); got {self.rule!r}")
        if not callable(self.decay):
            raise TypeError(
                "decay must be a function from the share of steps done, 0 to 1, to a factor, such as "
                f"advreg.rules.cosine; got {self.decay!r}"
            )

    @property
    def size(self) -> float:
        """As of the other rule: the longest step."""
        return self.rule.size

    @property
    def relative(self) -> bool:
        """As of the other rule."""
        return self.rule.relative

    def init(self, x: Tensor) -> Any:
        """As of the other rule."""
        return self.rule.init(x)

    def step(self, here: Here, state: Any) -> tuple[Tensor, Any]:
        """The other rule's direction times the factor."""
        if here.steps is None:
            raise ValueError(
                "a rule that decays must know how many steps there will be; got none: pass steps= to ascend"
            )
        direction, state = self.rule.step(here, state)
        return self.decay(here.step / max(here.steps, 1)) * direction, state


@dataclass(frozen=True)
class Shrinking(Stepwise):
    """A schedule: a radius that begins too large and shrinks to its size in stages.

    Args:
        stages: `(until, factor)` pairs, in order: before that share of the steps the radius is so many times
            its size.
        last: After the last of them; 1, so that the attack ends inside.

    Example:
        >>> [Shrinking()(share) for share in (0.0, 0.29, 0.3, 0.6, 1.0)]
        [2.0, 2.0, 1.5, 1.0, 1.0]

    Source:
        Croce et al., Robust semantic segmentation: strong adversarial attacks and fast training of robust
        models, arXiv:2306.12941: 2, 1.5 and 1 times the radius for 30, 30 and 40 % of the steps.
    """

    stages: tuple[tuple[float, float], ...] = ((0.3, 2.0), (0.6, 1.5))
