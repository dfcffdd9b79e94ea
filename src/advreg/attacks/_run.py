"""Loop of every attack: restarts, the best point of each example, and leaving when finished."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from advreg._core.checks import examples, one_per_example
from advreg._core.keys import Keys
from advreg._core.trees import map_tensors, take
from advreg._core.types import Model, Output, PerExample, Target
from advreg.attacks._ascend import ascend, weighed
from advreg.attacks._best import Track, joined
from advreg.execution import Parts
from advreg.execution._memory import Part, chosen
from advreg.objectives import Normalised, at
from advreg.rules import Rule
from advreg.threats import Threat

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
                return one_per_example(value, count, "a judge").clone()  # of what may be overwritten
            value = at(self.objective, 1.0)(output, target)
            if isinstance(self.objective, Normalised):
                return weighed(value, self.objective.weights)
            return one_per_example(value, count, "an objective").clone()


@torch.inference_mode(mode=False)
def search(model: Model, plan: Plan, whole: Part, keys: Keys, parts: Parts) -> tuple[Track, Tensor | None]:
    """Climb from every start; each example's track and, where the climb began there, its clean value, `(B,)`.

    Restarts of few examples run together, as further examples, up to the size of a part; with a stop rule one
    after the other, since an example that is finished needs no further one.
    """
    x, count = whole[0], len(whole[0])
    track, clean = Track.of(x), None
    together = 1 if plan.stop is not None else max(1, parts.size // count)
    for first in range(0, plan.restarts, together):
        restarts = range(first, min(first + together, plan.restarts))
        left = track.place if plan.stop is None else track.place[~track.finished]
        if len(left) == 0:
            break
        rows = whole if len(left) == count else chosen(whole, left)
        if plan.random_start:
            some = Keys(keys.seed, keys.index[left.to(keys.index.device)])
            starts = [rows[2].sample(rows[0], some.fold_in(restart), rows[3]) for restart in restarts]
            rows = (*rows[:3], starts[0])
            if len(restarts) > 1:
                rows = (*chosen(rows, left.repeat(len(restarts)))[:3], torch.cat(starts))
        runs = list(parts.run(partial(climbed, model, plan), rows))
        found = joined([run for run, _ in runs])
        mine = track if len(left) == count else track.taken(left)
        for run in found.runs(len(left)):
            mine = mine.joining(run)
        track = track.putting(left, mine)
        if rows[3] is None:
            clean = torch.cat([value for _, value in runs])
    return track, clean


@torch.inference_mode(mode=False)
def climbed(
    model: Model, plan: Plan, x: Tensor, y: Target, threat: Threat, start: Tensor | None
) -> tuple[Track, Tensor]:
    """One run of some examples, in their order, and what the first point is worth, `(b,)`."""
    work = _Search(model, plan, x, y, threat, start, Track.of(x))
    return work.climb()


@torch.inference_mode(mode=False)
def judged(
    model: Model, plan: Plan, x: Tensor, y: Target, threat: Threat, start: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """What inputs are worth, `(B,)`, and for which of them the stop rule holds; None without one."""
    del threat, start
    with torch.no_grad():
        output = model(x)
        over = None if plan.stop is None else stopped(plan.stop, output, y, len(x))
        return plan.valued(output, y, len(x)), over


@dataclass(eq=False)
class _Search:
    """The examples that are not finished, `(b, ...)`, and the tracks of those that are."""

    model: Model
    plan: Plan
    centre: Tensor
    target: Target
    threat: Threat
    start: Tensor | None
    track: Track
    done: list[Track] = field(default_factory=list)
    step: int = 0
    output: Output = None

    def function(self, point: Tensor) -> Tensor:
        """The objective, for the examples that are left; the output is kept for stop rule and judge."""
        output = self.model(point)
        self.output = output if self.plan.looks else None
        return self.plan.ascended(self.step)(output, self.target)

    def climb(self) -> tuple[Track, Tensor]:
        """One run: the tracks, in the batch's order, and what the first point is worth."""
        plan = self.plan
        weights = plan.objective.weights if isinstance(plan.objective, Normalised) else None
        run = ascend(
            self.function,
            self.centre,
            threat=self.threat,
            rule=plan.rule,
            start=self.start,
            steps=plan.steps,
            schedule=plan.schedule,
            weights=weights,
        )
        iterate = next(run)
        first = iterate.value
        for step in range(plan.steps + 1):
            self.step = step
            value, inside = iterate.value, plan.factor(step) == 1
            self.track = self.track.seeing(value, iterate.gradient, step)
            if plan.judge is not None or plan.changes:
                value = plan.valued(self.output, self.target, len(value))
                self.track = self.track.seeing(value, None, step)
            first = value if step == 0 else first
            if inside and (plan.best or step == plan.steps):
                self.track = self.track.keeping(value > self.track.value, iterate.x, value, step)
            keep = self.leave(iterate.x, value, step) if inside else None
            if step == plan.steps or len(self.track.place) == 0:
                break
            iterate = run.send(keep)
        track = joined([*self.done, self.track])
        return (track.taken(track.place.argsort()) if self.done else track), first

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
        self.centre, self.target = take((self.centre, self.target), keep)
        return keep


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
