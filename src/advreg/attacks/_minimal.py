"""Minimal attacks: the smallest radius at which a metric crosses a threshold, example by example."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import NamedTuple

import torch
from torch import Tensor

from advreg._core.checks import check_each, check_kind, one_per_example
from advreg._core.device import seen
from advreg._core.keys import Keys
from advreg._core.tensors import per_example
from advreg._core.trees import map_tensors
from advreg._core.types import Input, Model, Output, PerExample, Target
from advreg.attacks._ascend import value_and_gradient
from advreg.attacks._best import Track, joined
from advreg.attacks._run import report
from advreg.execution import Batch, Execution, Running, running
from advreg.objectives import at, heads_read, negate, on
from advreg.rules import Here, Steepest
from advreg.tasks import Task
from advreg.threats import Threat, Threats

_RUN = 100  # the number of descents is the root of the budget over this
_BEGIN, _NEAR = 64, 16  # the first ball is the largest one over this; the start is random in one over that
_COARSE, _FINE = 6, 2  # steps in a ball: until something crosses and as long as half the radius does; then
_CHANGE = (0.1, 0.002)  # of the radius from ball to ball, first and last, along half a cosine of the budget
_SIZE = (0.7, 0.03)  # of a step, in radii, likewise
_TURN = 2  # steps until the next member of the task has its turn


@dataclass(frozen=True, eq=False)
class CriticalRadius:
    """Result of `critical_radius`.

    Attributes:
        radius: The smallest distance found at which the metric is beyond the threshold, `(B,)` float64, in
            the threat's norm; 0 where it is on the clean input, infinite where none was found.
        x: The input there; the clean one where none was found.
        value: The task's metric there, `(B,)`.
        clean: The task's metric on the clean inputs, `(B,)`.
        passes: What was spent on each, forward passes with a gradient of the input, `(B,)` int64.
    """

    radius: Tensor
    x: Input
    value: Tensor
    clean: Tensor
    passes: Tensor


def critical_radius(
    model: Model,
    x: Input,
    y: Target,
    task: Task,
    threshold: float,
    threat: Threats,
    *,
    head: str | int = "",
    budget: int = 500,
    execution: Execution | None = None,
    seed: int = 0,
    index: Tensor | None = None,
) -> CriticalRadius:
    """Find the smallest radius at which a metric is worse than a threshold: a minimal attack on any head.

    "How much until the mask has a Dice below 0.7", or until points are off by more than 3 pixels: a search
    over a radius of each example's own. A ball grows until something crosses, is halved until nothing does,
    and then shrinks a little after each crossing and grows a little after each failure; gradient steps in it
    climb the objectives of the task's members, which take turns. From a budget of 225 on there are several
    such descents, from other random points. That a ball holds no crossing proves nothing, since attacks are
    not monotone in the radius: what counts is the nearest point that crossed. It is an upper bound of the
    true critical radius; with `advreg.certificates.certified_radius` there is one from below.

    Args:
        model: As for `pgd_attack`.
        x: Clean inputs `(B, *input)`; of a model of several inputs as for `pgd_attack`.
        y: The target.
        task: What the head is for: its metric, which way it is worse, and the attacks on it.
        threshold: The number that the metric must be worse than, strictly.
        threat: Norm, bounds and mask. Its radius is the largest that is looked at; it must be finite.
        head: The key of the head; "" for a model whose output is the head itself.
        budget: Passes per example, each a forward pass and the gradient of the input.
        execution: How the model is run, in its own precision; see `advreg.Execution`.
        seed: With `index`, decides all chance.
        index: Each example's place in its data set, int64 `(B,)`.

    Returns:
        A `CriticalRadius`.

    Raises:
        TypeError: Something else than a task.
        ValueError: A threshold that is NaN; an infinite radius; a budget below 1; an execution of another
            precision; and as for `pgd_attack`.

    Example:
        >>> import torch
        >>> from advreg import J_IND_reg, Threat, l2
        >>> from advreg.attacks import critical_radius
        >>> from advreg.tasks import Task
        >>> x = torch.full((2, 4), 0.5)
        >>> model, task = lambda x: x.sum(1, keepdim=True), Task(lambda output, y: output[:, 0], "lower")
        >>> found = critical_radius(model, x, x, task, threshold=1.5, threat=Threat(l2, 1.0), budget=200)
        >>> print(found.radius.numpy().round(2))  # (2 - 1.5) / |(1, 1, 1, 1)|
        [0.25 0.25]

    Source:
        Rony et al., DDN, arXiv:1811.09600; Pintor et al., FMN, arXiv:2102.12827: balls that shrink and grow,
        for decisions; here a metric decides.
    """
    check_kind("task", task, Task, "masks()")
    check_each("threat", threat, Threat, "Threat(l2, 5.0)")
    if math.isnan(threshold):
        raise ValueError("threshold must be a number that the metric can cross; got NaN")
    if budget < 1:
        raise ValueError(f"budget must be 1 pass or more; got {budget}")
    batch = Batch.single(x, y, threat)
    if math.isinf(batch.threat.largest):
        raise ValueError(
            "critical_radius needs a largest radius to begin with; got an infinite one: an image in [0, 1] "
            "can move by 1 under linf, and by the root of its size under l2"
        )
    metric = on(head, task.metric)
    judge = metric if task.worse == "higher" else negate(metric)
    with running(model, heads_read(judge), batch.inputs(), execution) as network:
        if network.rounds:
            raise ValueError(
                "whether a metric crosses a threshold is asked in the model's own precision; got "
                f"{execution}: leave precision out"
            )
        examined = network.examine(batch, {"the metric": judge}, resized=True)
        batch, clean = examined.batch, examined.values["the metric"]
        clean = clean if clean.is_floating_point() else clean.float()
        search = _Search(head, task, judge, task.sign * threshold, budget)
        crossed = clean > search.threshold
        track = Track.of(batch.x, clean)._replace(finished=crossed)
        found = _Nearest(torch.where(crossed, 0.0, math.inf).double(), track)
        left, spent = (~crossed).nonzero().flatten(), 0
        if len(left) > 0:
            keys = Keys.of(batch.x, seed, index)
            some = Keys(keys.seed, keys.index[left.to(keys.index.device)])
            own, spent = search.run(network, batch.take(left), some)
            found = found.putting(left, own)
    report(found.track, tried=True)
    passes = torch.where(crossed, 0, spent)
    sign, track = task.sign, found.track
    return CriticalRadius(found.radius, batch.inputs(track.x), sign * track.value, sign * clean, passes)


class _Nearest(NamedTuple):
    """The nearest point of each example that crossed: its distance, `(b,)` float64, and its track."""

    radius: Tensor
    track: Track

    def seeing(self, distance: Tensor, x: Tensor, value: Tensor, step: int) -> _Nearest:
        """With another point of each example, at a distance that is infinite where it did not cross."""
        nearer = distance < self.radius
        return _Nearest(torch.minimum(distance, self.radius), self.track.keeping(nearer, x, value, step))

    def joining(self, other: _Nearest) -> _Nearest:
        """With another descent of the same examples."""
        track = self.track.joining(other.track, other.radius < self.radius)
        return _Nearest(torch.minimum(other.radius, self.radius), track)

    def taken(self, some: Tensor | slice) -> _Nearest:
        """Of some of the examples."""
        return _Nearest(self.radius[some], self.track.taken(some))

    def putting(self, place: Tensor, other: _Nearest) -> _Nearest:
        """With what was found for some of the examples, at their places."""
        mine = self.taken(place).joining(other)
        return _Nearest(self.radius.index_copy(0, place, mine.radius), self.track.putting(place, mine.track))


class _Balls(NamedTuple):
    """Balls that a search looks into, one for each example, `(b,)`.

    Attributes:
        radius: Of the ball.
        tries: Steps made in it.
        fine: Whether a ball held no crossing since there was one.
    """

    radius: Tensor
    tries: Tensor
    fine: Tensor

    def next(self, over: Tensor, nearest: Tensor, largest: Tensor, change: float) -> _Balls:
        """The balls of the next step: smaller after a crossing, larger after some steps without one."""
        tries = self.tries + 1
        failed = ~over & (tries >= torch.where(self.fine, _FINE, _COARSE))
        fine = self.fine | (failed & nearest.isfinite())
        smaller = nearest * torch.where(fine, 1 - change, 0.5)
        larger = self.radius * torch.where(nearest.isinf(), 2.0, 1 + change)
        larger = torch.minimum(larger, nearest * (1 - change / 4)).minimum(largest)
        radius = torch.where(over, smaller, torch.where(failed, larger, self.radius))
        return _Balls(radius, torch.where(over | failed, 0, tries), fine)

    def size(self, share: float) -> Tensor:
        """Sizes of a step, in radii: smaller with each try in a coarse ball, in a fine one over time."""
        coarse = _SIZE[0] * (1 + torch.cos(math.pi * self.tries / _COARSE)) / 2
        return torch.where(self.fine, _eased(_SIZE, share), coarse)


class _Search(NamedTuple):
    """Search for the nearest crossings of a batch, within a budget.

    What goes by the number of a step goes alike for all examples, and all else is an example's own: the same
    is found for it in any batch.
    """

    head: str | int
    task: Task
    judge: PerExample
    threshold: float
    budget: int

    @torch.inference_mode(mode=False)
    def run(self, network: Running, batch: Batch, keys: Keys) -> tuple[_Nearest, int]:
        """Several descents, as further examples, each from another random point; what was spent on each."""
        times = max(1, round(math.sqrt(self.budget / _RUN)))
        steps, count = self.budget // times, len(batch.x)
        assert isinstance(batch.threat, Threat)
        # near the clean inputs, not at them, where the gradient of a distance may be zero
        near = replace(batch.threat, radius=_radii(batch) / (_BEGIN * _NEAR))
        starts = [near.sample(batch.x, keys.fold_in(number)) for number in range(times)]
        several = batch.repeat(times)._replace(start=torch.cat(starts))
        with network.quick() as quick:
            parts = list(network.parts.run(partial(self._descent, quick, steps), several))
        whole = _Nearest(torch.cat([part.radius for part in parts]), joined([part.track for part in parts]))
        runs = [whole.taken(slice(first, first + count)) for first in range(0, times * count, count)]
        return reduce(_Nearest.joining, runs), steps * times

    def _descent(self, model: Model, steps: int, batch: Batch) -> _Nearest:
        """Grow a ball from a small one until something crosses, halve it until nothing does, then refine."""
        threat, centre, output = batch.threat, batch.x, None
        assert isinstance(threat, Threat)
        assert batch.start is not None
        largest, x, rule = _radii(batch), batch.start, Steepest()
        balls = _Balls(largest / _BEGIN, torch.zeros_like(largest), torch.zeros_like(largest).bool())
        found = _Nearest(torch.full_like(largest, math.inf), Track.of(centre))
        for step in range(steps):
            share = step / steps
            member = self.task.members[step // _TURN % len(self.task.members)]
            objective = on(self.head, at(member.objective, share))

            def function(point: Tensor, objective: PerExample = objective) -> Tensor:
                nonlocal output
                output = model(batch.inputs(point))
                return objective(output, batch.y)

            with seen() if step else nullcontext():
                point = (
                    x if threat.levels is None else replace(threat, radius=balls.radius).project(x, centre)
                )
                value, gradient = value_and_gradient(function)(point)
                judged = _judged(self.judge, output, batch)
            distance, over = threat.distance(point, centre).double(), judged > self.threshold
            found = found.seeing(distance.where(over, math.inf), point, judged, step)
            found = found._replace(track=found.track.seeing(value, gradient, step))
            balls = balls.next(over, found.radius, largest, _eased(_CHANGE, share))
            relaxed = replace(threat, radius=balls.radius).relaxed
            here = Here(x, gradient, value, relaxed, centre, relaxed.length(1.0, centre), step, steps)
            direction, _ = rule.step(here, None)
            size = per_example(balls.size(share), centre).to(centre.dtype)
            x = relaxed.project(x + size * here.alpha * direction, centre)
        return found


def _radii(batch: Batch) -> Tensor:
    """The largest radius of each example, `(b,)` float64."""
    assert isinstance(batch.threat, Threat)
    radius = torch.as_tensor(batch.threat.radius, dtype=torch.float64, device=batch.x.device)
    return radius.expand(len(batch.x))


def _judged(judge: PerExample, output: Output, batch: Batch) -> Tensor:
    """The metric, larger where worse, `(b,)` in floating point."""
    with torch.no_grad():
        value = judge(map_tensors(Tensor.detach, output), batch.y)
    value = one_per_example(value, len(batch.x), "the metric")
    return value.clone() if value.is_floating_point() else value.float()


def _eased(ends: tuple[float, float], share: float) -> float:
    """From the first to the last along half a cosine."""
    first, last = ends
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2
