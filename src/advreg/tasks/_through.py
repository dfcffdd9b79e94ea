"""A task seen through a transform of the output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from advreg._core.checks import check_kind
from advreg._core.types import PerExample
from advreg.objectives import Normalised, normalised, transformed
from advreg.tasks._task import Task


def through(
    transform: Callable[[Any], Any], task: Task, *, target: Callable[[Any], Any] | None = None
) -> Task:
    """A task seen through a transform of the output: metric and members read `transform(output)`.

    For heads that say the same in other words: a slice of a long vector, logits at another resolution,
    coordinates in [0, 1] in place of pixels, probabilities in place of logits. Which way is worse, the worst,
    rules, schedules and the path of objectives that sharpen on the way stay those of the task.

    Args:
        transform: From the head's output to what the task reads; of each example alone, and differentiable,
            or else no member has a gradient.
        task: The task.
        target: The same for the target; by default the target is what the task reads already.

    Returns:
        A `Task`.

    Raises:
        TypeError: A transform that is no function, a task that is none.

    Example:
        >>> import torch
        >>> from advreg.tasks import points, through
        >>> pixels = through(lambda output: 64 * output.unflatten(1, (-1, 2)), points())
        >>> pixels.metric(torch.full((1, 4), 0.5), torch.full((1, 2, 2), 32.0))
        tensor([0.])
    """
    check_kind("task", task, Task, "through(transform, points())")
    seen = partial(_seen, transform, target)
    members = tuple(replace(member, objective=seen(member.objective)) for member in task.members)
    return replace(task, metric=seen(task.metric), members=members)


def _seen(
    transform: Callable[[Any], Any], target: Callable[[Any], Any] | None, function: PerExample
) -> PerExample:
    if isinstance(function, Normalised):  # which an attack knows by its type
        terms = function.columns.terms
        return normalised(*((weight, transformed(transform, term, target)) for weight, term in terms))
    return transformed(transform, function, target)
