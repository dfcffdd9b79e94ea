"""Results of attacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from advreg._core.types import Input, Model, Target


@dataclass(frozen=True, eq=False)
class AttackResult:
    """Result of an attack.

    Attributes:
        x: Adversarial inputs inside the threat, `(B, *input)`, detached; of a model of several inputs all of
            them, as the attack was given them, with those in place that it moved.
        value: The objective at `x`, or the attack's judge, `(B,)`.
        gain: The same at `x` less at the centre, `(B,)`.
        step: The step at which `x` was found, `(B,)` int64; 0 is the start, -1 the centre itself.
        finished: Whether the attack's `stop` held at `x`, `(B,)` bool; False throughout without one.
    """

    x: Input
    value: Tensor
    gain: Tensor
    step: Tensor
    finished: Tensor


Attack: TypeAlias = Callable[[Model, Tensor, Target], AttackResult]
"""Attack as evaluation takes it, often a `functools.partial` of `pgd_attack`."""
