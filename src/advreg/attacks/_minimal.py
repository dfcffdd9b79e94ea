"""Minimal attacks: the smallest radius at which a metric crosses a threshold, example by example."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

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
from advreg.rules import Decayed, Rule, Steepest
from advreg.tasks import Task
from advreg.threats import Threat, Threats

_RUN = 100  # the number of descents is the root of the budget over this
_BEGIN, _NEAR = 64, 16  # the first ball is the largest one over this; the start is random in one over that
_COARSE, _FINE = 6, 2  # steps of a run: until something crosses and as long as half the radius does; then
_CHANGE = (0.1, 0.002)  # of the radius from run to run, first and last, along half a cosine of the budget
_SIZE = (0.7, 0.03)  # of a step, in radii, likewise


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
    and then shrinks a little after each crossing and grows a little after each failure. Every run is short,
    climbs the objective of one of the task's members, which take turns, and begins where the one before
    ended; from a budget of 225 on there are several such descents. That a run fails proves nothing, since
    attacks are not monotone in the radius: what counts is the nearest point that crossed. It is an upper
    bound of the true critical radius; with
    `advreg.certificates.certified_radius` there is one from below. Examples of a batch share the rounds of
    the search, so the radius found for one depends a little on the others; each is a true crossing.

    Args:
        model: As for `pgd_attack`.
        x: Clean inputs `(B, *input)`; of a model of several inputs as for `pgd_attack`.
        y: The target.
        task: What the head is for: its metric, which way it is worse, and the attacks on it.
        threshold: The number that the metric must be worse than, strictly.
        threat: Norm, bounds and mask. Its radius is the largest that is looked at; it must be finite.
        head: The key of the head; "" for a model whose output is the head itself.
        budget: Passes per example: a forward pass and the gradient of the input. A forward pass for each run
            comes on top, about one for two of these.
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
        found = network.examine(batch, {"the metric": judge}, resized=True)
        descent = _Search(network, found.batch, head, task, judge, task.sign * threshold, budget)
        return descent.run(found.values["the metric"], Keys.of(batch.x, seed, index))


class _Nearest(NamedTuple):
    """The nearest point of each example that crossed, its distance and judged value; and what was spent."""

    radius: Tensor
    x: Tensor
    value: Tensor
    passes: Tensor

    @staticmethod
    def of(x: Tensor, clean: Tensor, threshold: float) -> _Nearest:
        """Nothing but the clean inputs is known."""
        radius = torch.where(clean > threshold, 0.0, math.inf).double()
        return _Nearest(radius, x, clean, torch.zeros_like(radius, dtype=torch.int64))

    def seeing(self, rows: Tensor, track: Track, distance: Tensor, steps: int) -> _Nearest:
        """With what a run of so many steps found for the examples in some rows."""
        over = track.finished
        spent = torch.where(over, (track.step + 1).clamp(max=steps), steps)  # the point that crossed, too
        passes = self.passes.index_add(0, rows, spent)
        nearer = over & (distance < self.radius[rows])
        place = rows[nearer]
        return _Nearest(
            self.radius.index_copy(0, place, distance[nearer]),
            self.x.index_copy(0, place, track.x[nearer]),
            self.value.index_copy(0, place, track.value[nearer]),
            passes,
        )

    def joining(self, other: _Nearest) -> _Nearest:
        """With another descent of the same examples, which went on counting."""
        nearer = other.radius < self.radius
        return _Nearest(
            torch.where(nearer, other.radius, self.radius),
            torch.where(per_example(nearer, self.x), other.x, self.x),
            torch.where(nearer, other.value, self.value),
            other.passes,
        )


@dataclass(frozen=True)
class _Beyond:
    """Whether a number is worse than another, as a stop rule."""

    judge: PerExample
    threshold: float

    def __call__(self, output: Any, target: Target) -> Tensor:
        return self.judge(output, target) > self.threshold


@dataclass(frozen=True, eq=False)
class _Search:
    """Search for the nearest crossings of a batch, within a budget."""

    network: Running
    batch: Batch
    head: str | int
    task: Task
    judge: PerExample
    threshold: float
    budget: int

    @torch.inference_mode(mode=False)
    def run(self, clean: Tensor, keys: Keys) -> CriticalRadius:
        """Several descents, each from another random point near the clean inputs."""
        batch, count = self.batch, max(1, round(math.sqrt(self.budget / _RUN)))
        found = _Nearest.of(batch.x, clean, self.threshold)
        for number in range(count):
            last = (number + 1) * self.budget // count
            found = found.joining(self._descent(found, clean, last, number, keys))
        sign = self.task.sign
        x = batch.inputs(found.x)
        return CriticalRadius(found.radius, x, sign * found.value, sign * clean, found.passes)

    def _descent(self, before: _Nearest, clean: Tensor, budget: int, run: int, keys: Keys) -> _Nearest:
        """Grow a ball from a small one until something crosses, halve it until nothing does, then refine."""
        batch, begun = self.batch, int(before.passes.max())
        assert isinstance(batch.threat, Threat)
        mine = _Nearest.of(batch.x, clean, self.threshold)._replace(passes=before.passes)
        largest = torch.as_tensor(batch.threat.radius, dtype=torch.float64, device=batch.x.device)
        largest = largest.expand(len(batch.x))
        failed = torch.zeros_like(clean, dtype=torch.bool)  # since something crossed
        radius, number = largest / _BEGIN, 0
        # near the clean inputs, not at them, where the gradient of a distance may be zero
        start = replace(batch.threat, radius=radius / _NEAR).sample(batch.x, keys.fold_in(run))
        while bool((left := (mine.radius > 0) & (mine.passes < budget)).any()):
            rows = left.nonzero().flatten()
            endless, coarse = mine.radius[rows].isinf(), ~failed[rows]
            fine = not bool((endless | coarse).any())  # all examples of a round share its kind of run
            rows = rows if fine else rows[endless] if bool(endless.any()) else rows[coarse]
            spent = int(mine.passes[rows].max())
            cosine = (1 + math.cos(math.pi * max(0, spent - begun) / (budget - begun))) / 2
            change, size = (last + (first - last) * cosine for first, last in (_CHANGE, _SIZE))
            some = batch.take(rows)
            assert isinstance(some.threat, Threat)
            ball = replace(some.threat, radius=radius[rows])
            steps = min(_FINE if fine else _COARSE, budget - spent)
            track = self._tried(
                some._replace(threat=ball, start=start[rows]),
                Keys(keys.seed, keys.index[rows.to(keys.index.device)]),
                run + number,
                steps,
                Steepest(size) if fine else Decayed(Steepest(_SIZE[0])),
            )
            over = track.finished
            mine = mine.seeing(rows, track, ball.distance(track.x, some.x).double(), steps)
            nearest = mine.radius[rows]
            failed[rows] |= ~over & nearest.isfinite()
            start = start.index_copy(0, rows, track.x)
            smaller = nearest * torch.where(failed[rows], 1 - change, 0.5)
            larger = radius[rows] * torch.where(nearest.isinf(), 2.0, 1 + change)
            larger = torch.minimum(larger, nearest * (1 - change / 4)).minimum(largest[rows])
            radius = radius.index_copy(0, rows, torch.where(over, smaller, larger))
            number += 1
        return mine

    def _tried(self, some: Batch, keys: Keys, number: int, steps: int, rule: Rule[Any]) -> Track:
        """One short run in balls of the examples' own radii; finished where the threshold was crossed."""
        member = self.task.members[number % len(self.task.members)]
        stop = _Beyond(self.judge, self.threshold)
        plan = Plan(
            on(self.head, member.objective), rule, steps, self.judge, stop, random_start=False, best=True
        )
        with self.network.quick() as quick:
            return search(quick, plan, some, keys, self.network.parts, Track.of(some.x))
