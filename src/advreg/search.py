"""The loop of every attack: restarts, the best point of each example, and leaving when finished."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from advreg.ascent import ascend, one_per_example
from advreg.norms import per_example, rows
from advreg.objectives import Normalised, at
from advreg.randomness import Keys
from advreg.rules import Rule
from advreg.threats import Threat, examples
from advreg.trees import map_tensors, take
from advreg.types import Model, Output, PerExample, Target

Stop = Callable[[Output, Target], Tensor]


class Plan(NamedTuple):
    """How an attack runs; see `pgd_attack`."""

    objective: PerExample
    judge: PerExample | None
    rule: Rule[Any]
    steps: int
    restarts: int
    random_start: bool
    best: bool
    stop: Stop | None
    schedule: Callable[[float], float] | None

    def factor(self, step: int) -> float:
        """The factor on the radius at a step."""
        return 1.0 if self.schedule is None else self.schedule(step / max(self.steps, 1))

    @property
    def changes(self) -> bool:
        """Whether the objective changes on the way, so that its values at two steps cannot be compared."""
        return at(self.objective, 0.0) != at(self.objective, 1.0)

    @property
    def looks(self) -> bool:
        """Whether more is asked of an output than the objective that is ascended."""
        return self.judge is not None or self.stop is not None or self.changes

    def ascended(self, step: int) -> PerExample:
        """The form of the objective at a step."""
        return at(self.objective, step / max(self.steps, 1))

    def valued(self, output: Output, target: Target, count: int) -> Tensor:
        """What a result is judged by, `(count,)`: the judge, or the objective in its last form."""
        with torch.no_grad():
            if self.judge is not None:
                value = self.judge(map_tensors(Tensor.detach, output), target)
                return one_per_example(value, count, "a judge")
            value = at(self.objective, 1.0)(output, target)
            if isinstance(self.objective, Normalised):
                return value @ value.new_tensor(self.objective.weights)
            return one_per_example(value, count, "an objective")


class Track(NamedTuple):
    """What is known of each example; every field begins with the batch, `(B, ...)`.

    Attributes:
        place: Its place in the batch.
        x: The point kept.
        value: What is to become large there: the judge's number, or the objective.
        step: The step at which it was met; -1 for the centre.
        finished: Whether the stop rule held there.
        sick: Whether objective or gradient were not finite at some step.
        since: The first such step; -1 for the clean input.
        moved: Whether any gradient was not zero.
    """

    place: Tensor
    x: Tensor
    value: Tensor
    step: Tensor
    finished: Tensor
    sick: Tensor
    since: Tensor
    moved: Tensor

    @staticmethod
    def of(centre: Tensor) -> Track:
        """Nothing met yet: worse than any point."""
        place = torch.arange(len(centre), device=centre.device)
        never = torch.zeros_like(place, dtype=torch.bool)
        before = torch.full_like(place, -1)
        value = centre.new_full(centre.shape[:1], -torch.inf)
        return Track(place, centre, value, before, never, never, before, never)

    def keeping(self, better: Tensor, x: Tensor, value: Tensor, step: int) -> Track:
        """With another point where it is better, `(B,)` bool."""
        return self._replace(
            x=torch.where(per_example(better, self.x), x, self.x),
            value=torch.where(better, value, self.value),
            step=torch.where(better, step, self.step),
        )

    def seeing(self, value: Tensor, gradient: Tensor | None, step: int) -> Track:
        """With what a step shows of objective and gradient."""
        sick, moved = ~value.isfinite(), self.moved
        if gradient is not None:
            steepness = rows(gradient).abs().amax(1)
            sick, moved = sick | ~steepness.isfinite(), moved | (steepness > 0)
        since = torch.where(sick & ~self.sick, step, self.since)
        return self._replace(sick=self.sick | sick, since=since, moved=moved)

    def taken(self, some: Tensor) -> Track:
        """Of some of the examples, `(B,)` bool."""
        return Track(*(field[some] for field in self))


@torch.inference_mode(mode=False)
def search(
    model: Model, x: Tensor, y: Target, keys: Keys, threat: Threat, start: Tensor | None, plan: Plan
) -> tuple[Track, Tensor]:
    """Climb from every start; the track of each example in the batch's order, and the clean value, `(B,)`."""
    work = _Search(model, plan, keys.seed, x, y, keys.index, threat, start, Track.of(x))
    for restart in range(plan.restarts):
        if len(work.track.place):
            work.climb(restart)
    track, clean = work.joined(), work.clean
    if clean is None:
        with torch.no_grad():
            clean = plan.valued(model(x), y, len(x))
        track = track.seeing(clean, None, -1)
    if plan.best:
        track = track.keeping(~track.finished & (clean >= track.value), x, clean, -1)
    return track, clean


def judged_again(model: Model, x: Tensor, y: Target, track: Track, plan: Plan) -> tuple[Track, Tensor]:
    """The track and the clean value by another, more precise run of the model at the points kept."""
    with torch.no_grad():
        clean, output = plan.valued(model(x), y, len(x)), model(track.x)
        track = track._replace(value=plan.valued(output, y, len(x))).seeing(clean, None, -1)
    if plan.stop is not None:
        track = track._replace(finished=stopped(plan.stop, output, y, len(x)))
    if plan.best:
        track = track.keeping(~track.finished & (clean >= track.value), x, clean, -1)
    return track, clean


@dataclass(eq=False)
class _Search:
    """The examples that are not finished, `(b, ...)`, and the tracks of those that are."""

    model: Model
    plan: Plan
    seed: int
    centre: Tensor
    target: Target
    index: Tensor
    threat: Threat
    start: Tensor | None
    track: Track
    done: list[Track] = field(default_factory=list)
    clean: Tensor | None = None
    step: int = 0
    output: Output = None

    def function(self, point: Tensor) -> Tensor:
        """The objective, for the examples that are left; the output is kept for stop rule and judge."""
        output = self.model(point)
        self.output = output if self.plan.looks else None
        return self.plan.ascended(self.step)(output, self.target)

    def climb(self, restart: int) -> None:
        """One run, of those that are left."""
        plan, first = self.plan, self.start
        if plan.random_start:
            keys = Keys(self.seed, self.index).fold_in(restart)
            first = self.threat.sample(self.centre, keys, self.start)
        weights = plan.objective.weights if isinstance(plan.objective, Normalised) else None
        run = ascend(
            self.function,
            self.centre,
            threat=self.threat,
            rule=plan.rule,
            start=first,
            steps=plan.steps,
            schedule=plan.schedule,
            weights=weights,
        )
        iterate = next(run)
        for step in range(plan.steps + 1):
            self.step = step
            value, inside = iterate.value, plan.factor(step) == 1
            self.track = self.track.seeing(value, iterate.gradient, step)
            if plan.judge is not None or plan.changes:
                value = plan.valued(self.output, self.target, len(value))
                self.track = self.track.seeing(value, None, step)
            if first is None and self.clean is None:
                self.clean = value  # the run begins at the centre
            if inside and (plan.best or step == plan.steps):
                self.track = self.track.keeping(value > self.track.value, iterate.x, value, step)
            keep = self.leave(iterate.x, value, step) if inside else None
            if step == plan.steps or len(self.track.place) == 0:
                break
            iterate = run.send(keep)

    def leave(self, x: Tensor, value: Tensor, step: int) -> Tensor | None:
        """Let those go for which the stop rule holds; which ones stay, `(b,)` bool, or None for all."""
        if self.plan.stop is None:
            return None
        over = stopped(self.plan.stop, self.output, self.target, len(value))
        if not bool(over.any()):
            return None
        self.done.append(self.track.keeping(over, x, value, step)._replace(finished=over).taken(over))
        keep = ~over
        self.track, self.threat = self.track.taken(keep), self.threat.take(keep, self.centre)
        left = (self.centre, self.target, self.index.to(keep.device), self.start)
        self.centre, self.target, self.index, self.start = take(left, keep)
        return keep

    def joined(self) -> Track:
        """All tracks, in the batch's order."""
        if not self.done:
            return self.track
        whole = Track(*map(torch.cat, zip(*self.done, self.track, strict=True)))
        return whole.taken(whole.place.argsort())


@dataclass(frozen=True)
class Within:
    """A condition on a metric of an output and its target: `low <= function(output, target) <= high`.

    Example:
        >>> import torch
        >>> from advreg import point_error
        >>> close = Within(point_error, high=1.0)
        >>> close(torch.tensor([[[0.0, 0.5]], [[0.0, 2.0]]]), torch.zeros(2, 1, 2))
        tensor([ True, False])
    """

    function: PerExample
    low: float = -math.inf
    high: float = math.inf

    def __call__(self, output: Output, target: Target) -> Tensor:
        """Whether it holds, `(B,)` bool."""
        value = self.function(output, target)
        return (value >= self.low) & (value <= self.high)


def stopped(stop: Stop, output: Output, target: Target, count: int) -> Tensor:
    """Which examples are finished, `(count,)` bool."""
    with torch.no_grad():
        over = stop(map_tensors(Tensor.detach, output), target)
    if not isinstance(over, Tensor) or over.shape != (count,) or over.dtype != torch.bool:
        came = (
            f"{over.dtype} of shape {tuple(over.shape)}" if isinstance(over, Tensor) else type(over).__name__
        )
        raise TypeError(
            f"stop must say for each example whether it is finished, bool of shape ({count},); got {came}: "
            "compare a metric with a threshold, for example dice(output, target) > 0.95"
        )
    return over


def report(track: Track, *, tried: bool) -> None:
    """Raise or warn about what went wrong on the way; looked at once, so that no step waits for it."""
    if bool(track.sick.any()):
        since = int(track.since[track.sick].min())
        when = "on the clean input" if since < 0 else f"at step {since}"
        raise ValueError(
            f"the objective or its gradient is not finite for {examples(track.sick)}, first {when}: look "
            "for a square root or norm at zero, a logarithm of zero, or float16 overflow"
        )
    still = ~track.moved & ~track.finished
    if tried and bool(still.any()):
        warnings.warn(
            f"the gradient is zero at every step for {examples(still)}, so nothing moved: the "
            "objective may be saturated (attack logits, not rounded or clipped outputs), or start where "
            "it is flat (use random_start=True); such a result says nothing about robustness",
            stacklevel=3,
        )
