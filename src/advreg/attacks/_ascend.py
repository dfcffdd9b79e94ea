"""Engine of attacks: Algorithm 1 as a generator, knowing neither model nor target."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from itertools import count
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from advreg._core.checks import one_per_example
from advreg._core.tensors import per_example, rows
from advreg._core.trees import take
from advreg.rules import Here, Rule
from advreg.threats import Product, Threat

ValueAndGradient: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Points `(B, *input)` to values `(B,)` and gradients `(B, *input)`; see `value_and_gradient`."""


class Iterate(NamedTuple):
    """One point of an ascent.

    Attributes:
        step: The number of steps that led here.
        x: The point, `(B, *input)`, inside the threat.
        value: The function there, `(B,)`; None at the last point, which is not evaluated.
        gradient: Its gradient there, `(B, *input)`; None at the last point.
    """

    step: int
    x: Tensor
    value: Tensor | None
    gradient: Tensor | None


def ascend(
    function: ValueAndGradient,
    centre: Tensor,
    *,
    threat: Threat | Product,
    rule: Rule[Any],
    start: Tensor | None = None,
    steps: int | None = None,
    schedule: Callable[[float], float] | None = None,
) -> Generator[Iterate, Tensor | None]:
    """Climb a function inside a threat: `x <- project(x + alpha * direction)`.

    N steps cost N values and gradients; the last point is yielded without them, since not everyone needs its
    value. Stopping, tracing and keeping the best are up to whoever consumes the iterates. Works under
    `torch.no_grad` and `torch.inference_mode`, and leaves the grad mode of the consumer alone.

    In a threat with levels the rule steps between the levels, where steps that are shorter than one add up;
    the function is asked, and points are yielded, on the level below or above each: its gradient there serves
    as that of the point between (a straight-through estimate).

    Args:
        function: Points `(B, *input)` to values `(B,)` and gradients `(B, *input)`; `value_and_gradient`
            makes one of any differentiable function. Examples must not interact.
        centre: The centre of the threat, `(B, *input)`.
        threat: Where `x` may be.
        rule: How a step is made.
        start: The first point, projected onto the threat first; by default the centre.
        steps: How many steps; None for no end, which a rule or schedule that must know the end refuses.
        schedule: From the share of steps done, 0 to 1, to the factor on the radius that holds for an
            iterate; 1 by default.

    Yields:
        `Iterate`, beginning with the start. Sending back which examples to keep, `(B,)` bool, drops the
        others from the next iterate on; `function` must follow. Of the rule's state, tensors that begin with
        the batch are taken to be per example.

    Raises:
        TypeError: A function that returns values alone; a rule that makes no steps, or its class.
        ValueError: A relative size and an infinite radius; a schedule without `steps`.

    Example:
        >>> from itertools import islice
        >>> import torch
        >>> from advreg import Steepest, Threat, linf
        >>> from advreg.attacks import ascend, value_and_gradient
        >>> centre, function = torch.full((1, 2), 0.5), value_and_gradient(lambda x: x.sum(1))
        >>> climb = ascend(function, centre, threat=Threat(linf, 0.3), rule=Steepest(0.5))
        >>> [round(point.value.item(), 2) for point in islice(climb, 4)]
        [1.0, 1.3, 1.6, 1.6]

    Source:
        Chen et al., section 2.3, Algorithm 1.
    """
    if isinstance(rule, type) or not callable(getattr(rule, "step", None)):
        came = f"the class {rule.__name__}" if isinstance(rule, type) else f"{rule!r:.60}"
        raise TypeError(f"rule must be an object that makes steps; got {came}: write Steepest(0.2)")
    if rule.relative and threat.largest == float("inf"):
        raise ValueError(
            f"a step of {rule.size} radii has no length at an infinite radius: give it in the units of the "
            f"input, {type(rule).__name__}(0.01, relative=False)"
        )
    factor, threat = _factor(schedule, steps), threat.to(centre.device)
    now = threat.scaled(factor(0))
    x = now.relaxed.project(centre if start is None else start, centre).detach()
    state = rule.init(x)
    alpha, stretch = _length(rule, now, centre), _stretch(factor, 1, steps)
    for step in count() if steps is None else range(steps):
        point = x if now.relaxed is now else now.project(x, centre)  # steps shorter than a level add up
        found = function(point)  # J and J'
        if not isinstance(found, tuple):
            raise TypeError(
                f"ascend takes a function of x that returns (value, gradient); got {type(found).__name__}: "
                "wrap one that returns values, value_and_gradient(function)"
            )
        value, gradient = found
        if threat.movable is not None:  # where nothing moves, a gradient may be missing as the input is
            gradient = torch.where(threat.free(x), gradient, 0)
        keep = yield Iterate(step, point, value, gradient)
        with torch.inference_mode(mode=False), torch.no_grad():
            if keep is not None:
                threat = threat.take(keep, centre)
                x, gradient, value, centre, state = take((x, gradient, value, centre, state), keep)
            if keep is not None or factor(step + 1) != factor(step):
                now = threat.scaled(factor(step + 1))  # of the point that this step leads to
                alpha, stretch = _length(rule, now, centre), _stretch(factor, step + 1, steps)
            here = Here(x, gradient, value, now.relaxed, centre, alpha, step, steps, stretch)
            direction, state = rule.step(here, state)  # line 4: alpha h(J')
            x = now.relaxed.project(x + alpha * direction, centre)  # line 4: clip
    yield Iterate(steps or 0, x if now.relaxed is now else now.project(x, centre), None, None)


def value_and_gradient(
    function: Callable[[Tensor], Tensor], weights: Sequence[float] | None = None
) -> ValueAndGradient:
    """The value of a differentiable function and its gradient, as the engine takes them.

    Args:
        function: Points `(B, *input)` to values `(B,)`; examples must not interact.
        weights: Where `function` returns several values, `(B, H)`: each one's gradient is scaled to a
            Euclidean size of one, and gradients and values are added with these weights.

    Returns:
        A function from points to values `(B,)` and gradients `(B, *input)`, both detached, in memory of their
        own.

    Raises:
        TypeError: When called: `function` does not return a tensor of `(B,)`.
        ValueError: When called: the value does not depend on the point.

    Example:
        >>> import torch
        >>> from advreg.attacks import value_and_gradient
        >>> value_and_gradient(lambda x: x.square().sum(1))(torch.tensor([[1.0, 2.0]]))
        (tensor([5.]), tensor([[2., 4.]]))
    """
    reentrant = False  # whether the network checkpoints in the way that torch.autograd.grad refuses

    @torch.inference_mode(mode=False)
    @torch.enable_grad()
    def evaluated(x: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal reentrant
        point = (x.clone() if x.is_inference() else x.detach()).requires_grad_()
        value = function(point)
        if weights is None:
            one_per_example(value, len(point), "an objective")
        if not value.requires_grad:
            raise ValueError(_DETACHED)
        if reentrant and weights is None:
            torch.autograd.backward(value, torch.ones_like(value))  # parameters are frozen and get none
            if point.grad is None:
                raise ValueError(_DETACHED)
            return value.detach().clone(), point.grad
        try:
            gradient = _gradient(value, point) if weights is None else _joined(value, point, weights)
        except RuntimeError as error:
            if "use_reentrant" not in str(error) or weights is not None:
                raise
            reentrant = True
            return evaluated(x)
        value = value.detach() if weights is None else weighed(value.detach(), weights)
        return value.clone(), gradient.clone()  # a replayed graph writes to the same memory again

    return evaluated


def weighed(values: Tensor, weights: Sequence[float]) -> Tensor:
    """The weighted sum of columns, `(B, H)` to `(B,)`."""
    columns = zip(weights, values.unbind(1), strict=True)
    return torch.stack([weight * column for weight, column in columns]).sum(0)


def _factor(schedule: Callable[[float], float] | None, steps: int | None) -> Callable[[int], float]:
    """From the number of an iterate to the factor on its radius."""
    if schedule is None:
        return lambda _: 1.0
    if steps is None:
        raise ValueError("a schedule goes by the share of the steps done; pass steps= as well")
    return lambda number: schedule(min(number / max(steps, 1), 1.0))


def _stretch(factor: Callable[[int], float], number: int, steps: int | None) -> tuple[int, int | None]:
    """The first and the last step, counted as the iterates they begin at, of those with this radius."""
    if steps is None:
        return 0, None
    first = last = number
    while first > 1 and factor(first - 1) == factor(number):
        first -= 1
    while last < steps and factor(last + 1) == factor(number):
        last += 1
    return first - 1, last


def _length(rule: Rule[Any], threat: Threat | Product, centre: Tensor) -> float | Tensor:
    """The paper's alpha: the size of a step in the units of the input, to broadcast against it."""
    return threat.length(rule.size, centre, relative=rule.relative)


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
