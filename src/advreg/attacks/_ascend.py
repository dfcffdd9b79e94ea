"""Engine of attacks: Algorithm 1 as a generator, knowing neither model nor target."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from itertools import count
from typing import Any

import torch
from torch import Tensor

from advreg._core.checks import one_per_example
from advreg._core.tensors import per_example, rows
from advreg._core.trees import take
from advreg.rules import Here, Rule
from advreg.threats import Threat


class Iterate:
    """One point of an ascent.

    Attributes:
        x: The point, `(B, *input)`, inside the threat.
        gradient: The gradient whose step led here, `(B, *input)`; None at the start.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        x: Tensor,
        gradient: Tensor | None,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.x, self.gradient = x, gradient
        self._function, self._weights = function, weights
        self._graph: tuple[Tensor, Tensor] | None = None  # the point that requires a gradient, and its value

    @property
    def value(self) -> Tensor:
        """The function at `x`, `(B,)`: evaluated when it is first read, or when the next iterate needs it."""
        value = self._evaluate()[1].detach().clone()  # as in `slope`: it may be a view of an output
        return value if self._weights is None else weighed(value, self._weights)

    def slope(self) -> Tensor:
        """The function's gradient at `x`, `(B, *input)`; frees what it was computed from."""
        point, value = self._evaluate()
        gradient = _gradient(value, point) if self._weights is None else _joined(value, point, self._weights)
        self._graph = point.detach(), value.detach()
        return gradient.clone()  # a graph that is replayed gives it in the same memory again

    def _evaluate(self) -> tuple[Tensor, Tensor]:
        if self._graph is None:
            with torch.inference_mode(mode=False), torch.enable_grad():
                point = (self.x.clone() if self.x.is_inference() else self.x.detach()).requires_grad_()
                value = self._function(point)
                if self._weights is None:
                    one_per_example(value, len(point), "an objective")
                if not value.requires_grad:
                    raise ValueError(_DETACHED)
            self._graph = point, value
        return self._graph


def ascend(
    function: Callable[[Tensor], Tensor],
    centre: Tensor,
    *,
    threat: Threat,
    rule: Rule[Any],
    start: Tensor | None = None,
    steps: int | None = None,
    schedule: Callable[[float], float] | None = None,
    weights: Sequence[float] | None = None,
) -> Generator[Iterate, Tensor | None]:
    """Climb `function` inside a threat: `x <- project(x + alpha * direction)`, without end.

    An iterate is evaluated when its value is read, and its gradient taken when the next is asked for. So N
    steps cost N evaluations and N gradients, of the input alone, and one evaluation more where the last value
    is read. Stopping, tracing and keeping the best are up to whoever consumes the iterates. Works under
    `torch.no_grad` and `torch.inference_mode`, and leaves the grad mode of the consumer alone.

    Args:
        function: Points `(B, *input)` to values `(B,)`, differentiable. Examples must not interact.
        centre: The centre of the threat, `(B, *input)`.
        threat: Where `x` may be.
        rule: How a step is made.
        start: The first point, projected onto the threat first; by default the centre.
        steps: How many steps will be asked for, where a rule or a schedule needs to know.
        schedule: From the share of steps done, 0 to 1, to the factor on the radius that holds for an
            iterate; 1 by default.
        weights: Where `function` returns several values, `(B, H)`: each one's gradient is scaled to an
            Euclidean size of one, and they are added with these weights.

    Yields:
        `Iterate` with `x`, `value` and `gradient`, beginning with the start. Sending back which examples to
        keep, `(B,)` bool, drops the others from the next iterate on; `function` must follow. Of the rule's
        state, tensors that begin with the batch are taken to be per example.

    Raises:
        TypeError: `function` does not return a tensor of `(B,)`.
        ValueError: The value does not depend on the point; a relative size and an infinite radius; a
            schedule without `steps`.

    Example:
        >>> from itertools import islice
        >>> import torch
        >>> from advreg import Steepest, Threat, linf
        >>> from advreg.attacks import ascend
        >>> centre = torch.full((1, 2), 0.5)
        >>> climb = ascend(lambda x: x.sum(1), centre, threat=Threat(linf, 0.3), rule=Steepest(0.5))
        >>> [round(point.value.item(), 2) for point in islice(climb, 4)]
        [1.0, 1.3, 1.6, 1.6]

    Source:
        Chen et al., section 2.3, Algorithm 1.
    """
    if rule.relative and threat.largest == float("inf"):
        raise ValueError(
            f"a step of {rule.size} radii has no length at an infinite radius: give it in the units of the "
            f"input, {type(rule).__name__}(0.01, relative=False)"
        )
    factors, threat = _factors(schedule, steps), threat.to(centre.device)
    now = threat.scaled(factors(0))
    alpha = _length(rule, now, centre)
    x = now.project(centre if start is None else start, centre).detach()
    state, gradient, stretch = rule.init(x), None, _stretch(factors, 1, steps)
    for number in count(1):
        iterate = Iterate(function, x, gradient, weights)
        keep = yield iterate
        with torch.inference_mode(mode=False):
            gradient, value = iterate.slope(), iterate.value
            if keep is not None:
                threat = threat.take(keep, centre)
                x, gradient, value, centre, state = take((x, gradient, value, centre, state), keep)
            if keep is not None or factors(number) != factors(number - 1):
                now = threat.scaled(factors(number))
                alpha = _length(rule, now, centre)
                stretch = _stretch(factors, number, steps)
            with torch.no_grad():
                here = Here(x, gradient, value, now, centre, alpha, number - 1, steps, stretch)
                direction, state = rule.step(here, state)
                x = now.project(x + alpha * direction, centre)


def weighed(values: Tensor, weights: Sequence[float]) -> Tensor:
    """The weighted sum of columns, `(B, H)` to `(B,)`."""
    columns = zip(weights, values.unbind(1), strict=True)
    return torch.stack([weight * column for weight, column in columns]).sum(0)


def _factors(schedule: Callable[[float], float] | None, steps: int | None) -> Callable[[int], float]:
    """From an iterate's number to the factor on its radius."""
    if schedule is None:
        return lambda _: 1.0
    if steps is None:
        raise ValueError("a schedule goes by the share of the steps done; pass steps= as well")
    return lambda number: schedule(min(number / max(steps, 1), 1.0))


def _stretch(factors: Callable[[int], float], number: int, steps: int | None) -> tuple[int, int | None]:
    """The first and the last step, counted as the iterates they begin at, of those with this radius."""
    if steps is None:
        return 0, None
    first = last = number
    while first > 1 and factors(first - 1) == factors(number):
        first -= 1
    while last < steps and factors(last + 1) == factors(number):
        last += 1
    return first - 1, last


def _length(rule: Rule[Any], threat: Threat, centre: Tensor) -> float | Tensor:
    if not rule.relative:
        return rule.size
    if isinstance(threat.radius, Tensor):
        alpha = (rule.size * threat.radius.double()).to(centre.dtype)
        return per_example(alpha.expand(len(centre)), centre)
    return rule.size * threat.radius


def _gradient(value: Tensor, x: Tensor, *, retain: bool = False) -> Tensor:
    ones = torch.ones_like(value)
    (gradient,) = torch.autograd.grad(value, x, ones, retain_graph=retain, allow_unused=True)
    if gradient is None:
        raise ValueError(_DETACHED)
    return gradient


def _joined(values: Tensor, x: Tensor, weights: Sequence[float]) -> Tensor:
    """The sum of each column's gradient, scaled to a size of one and weighted; a zero one stays zero."""
    total = torch.zeros_like(x)
    for weight, column in zip(weights, values.unbind(1), strict=True):
        gradient = _gradient(column, x, retain=True)
        size = torch.linalg.vector_norm(rows(gradient), dim=1)
        total = total + weight * gradient / per_example(torch.where(size > 0, size, 1), gradient)
    return total


_DETACHED = (
    "the objective does not depend on the input through differentiable operations, so it has no gradient: "
    "look for .detach(), .item(), .argmax(), thresholds, numpy or torch.no_grad() in the model or the "
    "objective, and attack what comes before them"
)
