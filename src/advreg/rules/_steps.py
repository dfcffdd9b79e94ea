"""Step rules: `Steepest`, `Momentum`, `Adamax`, and the contract that they keep."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from advreg._core.tensors import per_example, rows
from advreg.threats import Product, Threat


@dataclass(frozen=True, eq=False)
class Here:
    """Point that a rule steps from, and all that the rule may know of it.

    Attributes:
        x: The point, `(B, *input)`.
        gradient: The objective's gradient there, `(B, *input)`.
        value: The objective there, `(B,)`.
        threat: The threat that holds for the next point.
        centre: Its centre, `(B, *input)`.
        alpha: What the direction is multiplied by: a number, or one per example that broadcasts against `x`;
            of a threat with a scale it holds the scale, so that directions are measured in that.
        step: The number of steps made so far.
        steps: How many there will be in all; None where nobody knows.
        stretch: The first and the last step of those that share this radius.
    """

    x: Tensor
    gradient: Tensor
    value: Tensor
    threat: Threat | Product
    centre: Tensor
    alpha: float | Tensor = 1.0
    step: int = 0
    steps: int | None = None
    stretch: tuple[int, int | None] = (0, None)

    def steepest(self, g: Tensor) -> Tensor:
        """The paper's h: `argmax <g, d>` over `size(d) <= 1`, less what the mask or the box forbids."""
        return self.threat.steps_at(self.x).steepest(g)

    def movable(self, g: Tensor) -> Tensor:
        """A gradient less what is not finite where the mask lets nothing change, as of missing values."""
        mask = self.threat.movable
        return g if mask is None else torch.where(mask.to(g.device) | g.isfinite(), g, 0)

    def project(self, x: Tensor) -> Tensor:
        """The nearest point of the threat."""
        return self.threat.project(x, self.centre)


S = TypeVar("S")


class Rule(Protocol[S]):
    """Rule of a step. A value: all that changes is in the state that it is handed.

    The engine moves by `alpha * direction`, where `alpha = size * radius` if `relative`, else `size`
    (in the units of the input).
    """

    @property
    def size(self) -> float:
        """Length of a step, in radii or in the units of the input."""
        ...

    @property
    def relative(self) -> bool:
        """Whether `size` counts in radii."""
        ...

    def init(self, x: Tensor) -> S:
        """The state before the first step from `x`, `(B, *input)`."""
        ...

    def step(self, here: Here, state: S) -> tuple[Tensor, S]:
        """The direction to move in, `(B, *input)`, of a size of about one, and the next state.

        `here` holds the point, the objective and its gradient there, and the threat; see `Here`.
        """
        ...


@dataclass(frozen=True)
class Steepest:
    """Move along the norm's steepest direction: `x + alpha h(g)`. Plain PGD.

    Args:
        size: Length of a step: in radii, or in the units of the input if not `relative`.
        relative: Whether `size` counts in radii.

    Raises:
        TypeError: Numbers that are none, such as strings or bools; `relative` that is no bool.
        ValueError: Numbers out of range.

    Example:
        >>> import torch
        >>> from advreg import Steepest, Threat, linf
        >>> from advreg.attacks import ascend, value_and_gradient
        >>> function = value_and_gradient(lambda x: x[:, 0] - x[:, 1])
        >>> climb = ascend(function, torch.full((1, 2), 0.5), threat=Threat(linf, 0.5), rule=Steepest(0.2))
        >>> next(climb).x, next(climb).x
        (tensor([[0.5000, 0.5000]]), tensor([[0.6000, 0.4000]]))

    Source:
        Chen et al., Algorithm 1, line 4; Madry et al., arXiv:1706.06083.
    """

    size: float = 0.2
    relative: bool = True

    def __post_init__(self) -> None:
        check_size(self.size)
        check_relative(self.relative)

    def init(self, x: Tensor) -> None:
        """No state."""

    def step(self, here: Here, state: None) -> tuple[Tensor, None]:
        """`h(g)`."""
        return here.steepest(here.gradient), state


@dataclass(frozen=True)
class Momentum:
    """Move along the steepest direction of a running sum of gradients: `v = decay v + g / mean|g|`, `h(v)`.

    Args:
        size: Length of a step, as for `Steepest`.
        relative: Whether `size` counts in radii.
        decay: How much of the sum lives on, 0 to 1; 1 as published.

    Raises:
        TypeError: Numbers that are none, such as strings or bools; `relative` that is no bool.
        ValueError: Numbers out of range.

    Source:
        Dong et al., Boosting adversarial attacks with momentum, arXiv:1710.06081, Eqs 6 and 7.
    """

    size: float = 0.2
    relative: bool = True
    decay: float = 1.0

    def __post_init__(self) -> None:
        check_size(self.size)
        check_relative(self.relative)
        check_numbers(decay=self.decay)
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay must lie in [0, 1]; got {self.decay}")

    def init(self, x: Tensor) -> Tensor:
        """The running sum, zero, `(B, *input)`."""
        return torch.zeros_like(x)

    def step(self, here: Here, state: Tensor) -> tuple[Tensor, Tensor]:
        """`h(v)` and the next v."""
        gradient = here.movable(here.gradient)
        scale = rows(here.threat.stretched(gradient)).abs().mean(1)
        v = self.decay * state + gradient / per_example(torch.where(scale > 0, scale, 1), gradient)
        return here.steepest(v), v


class AdamaxState(NamedTuple):
    """The running mean of directions, the decaying maximum of their magnitude, and the number of steps."""

    mean: Tensor
    peak: Tensor
    steps: int


@dataclass(frozen=True)
class Adamax:
    """Adamax on the norm's steepest directions: the paper's rule for its attacks.

    With `d = h(g)`: `m = beta1 m + (1 - beta1) d`, `u = max(beta2 u, |d| + eps)`, and the direction is
    `m / ((1 - beta1^t) u)`. Fed the same directions, it equals `torch.optim.Adamax`.

    Args:
        size: The learning rate, as for `Steepest`: 0.2 radii is the paper's alpha = epsilon / 5.
        relative: Whether `size` counts in radii; the paper's OOD attack takes `Adamax(0.01, relative=False)`.
        betas: Decay of the mean and of the maximum.
        eps: Added to the magnitude, against division by zero.

    Raises:
        TypeError: Numbers that are none, such as strings or bools; `relative` that is no bool.
        ValueError: Numbers out of range.

    Source:
        Kingma and Ba, arXiv:1412.6980, Algorithm 2; Chen et al., sections 2.3 and 3.1.
    """

    size: float = 0.2
    relative: bool = True
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        check_size(self.size)
        check_relative(self.relative)
        if not isinstance(self.betas, (tuple, list)) or len(self.betas) != 2:
            raise TypeError(f"betas must be two numbers, such as (0.9, 0.999); got {self.betas!r}")
        check_numbers(**{"betas[0]": self.betas[0], "betas[1]": self.betas[1], "eps": self.eps})
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must lie in [0, 1); got {self.betas}")
        if not (self.eps >= 0 and math.isfinite(self.eps)):
            raise ValueError(f"eps must be zero or more and finite, such as 1e-8; got {self.eps}")

    def init(self, x: Tensor) -> AdamaxState:
        """Zero mean, zero maximum, no step taken."""
        return AdamaxState(torch.zeros_like(x), torch.zeros_like(x), 0)

    def step(self, here: Here, state: AdamaxState) -> tuple[Tensor, AdamaxState]:
        """`m / ((1 - beta1^t) u)` and the next m, u, t."""
        (beta1, beta2), steps = self.betas, state.steps + 1
        direction = here.steepest(here.gradient)
        mean = torch.lerp(state.mean, direction, 1 - beta1)
        tiny = max(self.eps, torch.finfo(direction.dtype).tiny)
        peak = torch.maximum(beta2 * state.peak, direction.abs() + tiny)
        return mean / ((1 - beta1**steps) * peak), AdamaxState(mean, peak, steps)


def check_size(size: float) -> None:
    """Insist on the length of a step.

    Raises:
        TypeError: No number.
        ValueError: Zero, less, NaN or infinity.
    """
    check_numbers(size=size)
    if not (size > 0 and math.isfinite(size)):
        raise ValueError(f"size must be above zero and finite; got {size}: to descend, negate the objective")


def check_numbers(**told: Any) -> None:
    """Insist on numbers, by name; what values they may have is for the caller to say.

    Raises:
        TypeError: Something else, such as a string, a bool or a tensor.
    """
    for name, value in told.items():
        if isinstance(value, bool) or not isinstance(value, Real):
            remedy = ": pass value.item()" if isinstance(value, Tensor) and value.numel() == 1 else ""
            raise TypeError(f"{name} must be a number; got {value!r} of type {type(value).__name__}{remedy}")


def check_relative(relative: Any) -> None:
    """Insist on a flag: a size in its place would count as True.

    Raises:
        TypeError: Something else.
    """
    if not isinstance(relative, bool):
        raise TypeError(
            "relative must be True, where size counts in radii, or False, where it is in the units of the "
            f"input; got {relative!r}"
        )
