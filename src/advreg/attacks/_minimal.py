"""Minimal attacks: the smallest radius at which a metric crosses a threshold, example by example."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from advreg._core.checks import check_each, check_kind
from advreg._core.keys import Keys
from advreg._core.tensors import per_example
from advreg._core.types import Input, Model, PerExample, Target
from advreg.attacks._best import Track
from advreg.attacks._run import Plan, search
from advreg.execution import Batch, Execution, Running, running
from advreg.objectives import heads_read, negate, on
from advreg.rules import Decayed, Steepest
from advreg.tasks import Task
from advreg.threats import Threat, Threats

_FIRST, _STEPS = 20, 10  # steps of a run at the whole radius, and of one that begins where another ended
_NEAR, _AGAIN = 0.02, 0.8  # an interval this short, as a share, is looked at again from further below


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

    "How much until the mask has a Dice below 0.7", or until points are off by more than 3 pixels: bisection
    over a radius of each example's own. Each try is a short run of one of the task's attacks, which begins at
    the nearest point that crossed so far; the members take turns. A try that fails says little, since attacks
    are not monotone in the radius, so what counts is the best point found, and intervals that have closed are
    opened again. What is found is an upper bound of the true critical radius; with
    `advreg.certificates.certified_radius` there is one from below.

    Args:
        model: As for `pgd_attack`.
        x: Clean inputs `(B, *input)`; of a model of several inputs as for `pgd_attack`.
        y: The target.
        task: What the head is for: its metric, which way it is worse, and the attacks on it.
        threshold: The number that the metric must be worse than, strictly.
        threat: Norm, bounds and mask. Its radius is the largest that is looked at; it must be finite.
        head: The key of the head; "" for a model whose output is the head itself.
        budget: Passes per example: a forward pass and the gradient of the input.
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
        Rony et al., DDN, arXiv:1811.09600; Pintor et al., FMN, arXiv:2102.12827, for decisions; here it is
        a metric that decides, by bisection.
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
        found = network.examine(batch, {"the metric": judge}, resized=True)
        bisection = _Bisection(network, found.batch, head, task, judge, task.sign * threshold, budget)
        return bisection.run(found.values["the metric"], Keys.of(batch.x, seed, index))


@dataclass(frozen=True)
class _Beyond:
    """Whether a number is worse than another, as a stop rule."""

    judge: PerExample
    threshold: float

    def __call__(self, output: Any, target: Target) -> Tensor:
        return self.judge(output, target) > self.threshold


@dataclass(frozen=True, eq=False)
class _Bisection:
    network: Running
    batch: Batch
    head: str | int
    task: Task
    judge: PerExample
    threshold: float
    budget: int

    @torch.inference_mode(mode=False)
    def run(self, clean: Tensor, keys: Keys) -> CriticalRadius:
        batch, count = self.batch, len(self.batch.x)
        assert isinstance(batch.threat, Threat)
        device = batch.x.device
        largest = torch.as_tensor(batch.threat.radius, dtype=torch.float64, device=device).expand(count)
        crossed = clean > self.threshold
        high = torch.where(crossed, 0.0, math.inf).to(largest)
        low, passes = torch.zeros_like(largest), torch.zeros_like(largest, dtype=torch.int64)
        x, value, start = batch.x.clone(), clean.clone(), batch.x.clone()
        number = 0
        while bool((left := (high > 0) & (passes < self.budget)).any()):
            rows = left.nonzero().flatten()
            first = high.isinf()[rows]
            radius = torch.where(first, largest[rows], (low[rows] + high[rows]) / 2)
            # All examples of a round share its kind of run; those without a crossing go first.
            rows, radius = (rows[first], radius[first]) if bool(first.any()) else (rows, radius)
            steps = min(_FIRST if bool(first.any()) else _STEPS, self.budget - int(passes[rows].max()))
            some = batch.take(rows)
            assert isinstance(some.threat, Threat)
            ball = replace(some.threat, radius=radius)
            some = some._replace(threat=ball, start=start[rows])
            own = Keys(keys.seed, keys.index[rows.to(keys.index.device)]).fold_in(number)
            track = self._tried(some, own, number, steps, random=bool(first.any()))
            over = track.finished
            distance = ball.distance(track.x, some.x).double()
            passes[rows] += torch.where(over, track.step.clamp(min=0), steps)
            nearer = over & (distance < high[rows])
            at = rows[nearer]
            x[at], value[at], high[at] = track.x[nearer], track.value[nearer], distance[nearer]
            low[rows[~over]] = torch.where(first.any(), torch.zeros_like(radius), radius)[~over]
            start[rows] = torch.where(per_example(over, track.x), track.x, start[rows])
            closed = (high - low < _NEAR * high) & high.isfinite()
            low = torch.where(closed, _AGAIN * high, low)
            number += 1
        sign = self.task.sign
        return CriticalRadius(high, batch.inputs(x), sign * value, sign * clean, passes)

    def _tried(self, some: Batch, keys: Keys, number: int, steps: int, *, random: bool) -> Track:
        """One short run in balls of the examples' own radii; finished where the threshold was crossed."""
        member = self.task.members[number % len(self.task.members)]
        rule, schedule = (member.rule, member.schedule) if random else (Decayed(Steepest(0.5)), None)
        stop = _Beyond(self.judge, self.threshold)
        plan = Plan(on(self.head, member.objective), rule, steps, self.judge, stop, schedule, 1, random, True)
        parts = self.network.parts
        met = Track.of(some.x)
        with self.network.quick() as quick:
            return search(quick, plan, some, keys, parts, met)
