"""Loop of every attack: restarts, the best point of each example, and leaving when finished."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from advreg._core.checks import check_objective, examples, one_per_example
from advreg._core.device import seen
from advreg._core.keys import Keys
from advreg._core.trees import map_tensors, tensors
from advreg._core.types import Model, Output, PerExample, Target
from advreg.attacks._ascend import Iterate, ascend, value_and_gradient, weighed
from advreg.attacks._best import Track, joined, worse
from advreg.execution import Batch, Execution, Parts, Running, running
from advreg.objectives import Normalised, at, heads_read
from advreg.rules import Rule

Stop = Callable[[Output, Target], Tensor]


class Plan(NamedTuple):
    """Plan of an attack: the arguments of `pgd_attack` that its loop needs."""

    objective: PerExample
    rule: Rule[Any]
    steps: int
    judge: PerExample | None = None
    stop: Stop | None = None
    schedule: Callable[[float], float] | None = None
    restarts: int = 1
    random_start: bool = True
    best: bool = False

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

    @property
    def weights(self) -> tuple[float, ...] | None:
        """The weights of several objectives whose gradients are scaled to one size; None for a single one."""
        return self.objective.weights if isinstance(self.objective, Normalised) else None

    def ascended(self, step: int) -> PerExample:
        """The form of the objective at a step."""
        return at(self.objective, step / max(self.steps, 1))

    def valued(self, output: Output, target: Target, count: int) -> Tensor:
        """The value that decides, `(count,)`: the judge's, or the objective's in its last form."""
        with torch.no_grad():
            if self.judge is not None:
                value = self.judge(map_tensors(Tensor.detach, output), target)
                value = one_per_example(value, count, "a judge")
                return value.clone() if value.is_floating_point() else value.float()  # it may be overwritten
            value = at(self.objective, 1.0)(output, target)
            if self.weights is not None:
                return weighed(value, self.weights)
            return one_per_example(value, count, "an objective").clone()

    def functions(self) -> dict[str, Callable[[Output, Target], Tensor]]:
        """What is asked of an output, by name, one number for each example."""

        def objective(output: Output, target: Target) -> Tensor:
            value = at(self.objective, 1.0)(output, target)
            return value if self.weights is None else weighed(value, self.weights)

        found: dict[str, Callable[[Output, Target], Tensor]] = {"objective": objective}
        if self.judge is not None:
            found["judge"] = self.judge
        if self.stop is not None:
            found["stop rule"] = partial(stopped, self.stop)
        return found


@torch.inference_mode(mode=False)
def search(model: Model, plan: Plan, whole: Batch, keys: Keys, parts: Parts, track: Track) -> Track:
    """Climb from every start, whatever is not finished in the track so far: each example's track.

    Restarts of few examples run together, as further examples, up to the size of a part; with a stop rule one
    after the other, since an example that is finished needs no further one.
    """
    count = len(whole.x)
    together = 1 if plan.stop is not None else max(1, parts.size // count)
    for first in range(0, plan.restarts, together):
        restarts = range(first, min(first + together, plan.restarts))
        left = track.place if plan.stop is None else track.place[~track.finished]
        if len(left) == 0:
            break
        batch = whole if len(left) == count else whole.take(left)
        if plan.random_start:
            some = Keys(keys.seed, keys.index[left.to(keys.index.device)])
            starts = [batch.threat.sample(batch.x, some.fold_in(number), batch.start) for number in restarts]
            batch = batch.repeat(len(restarts))._replace(start=torch.cat(starts))
        found = list(parts.run(partial(climbed, model, plan), batch))
        mine = track if len(left) == count else track.taken(left)
        for run in joined(found).runs(len(left)):
            mine = mine.joining(run)
        track = track.putting(left, mine)
    return track


@torch.inference_mode(mode=False)
def climbed(model: Model, plan: Plan, batch: Batch) -> Track:
    """One run of some examples: their tracks, in their order."""
    return _Climb(model, plan, batch).best()


@torch.inference_mode(mode=False)
def looked_at(network: Running, plan: Plan, batch: Batch, *, resized: bool) -> tuple[Batch, Track]:
    """Test an attack's assumptions on the clean inputs; the batch with its structure, and the track there.

    Raises:
        TypeError: A function that does not return `(B,)`.
        ValueError: An assumption that does not hold; an objective that is not finite.
    """
    batch, values = network.examine(batch, plan.functions(), resized=resized)
    objective = values["objective"]
    if not bool(objective.isfinite().all()):
        missing = [
            tensor for tensor in tensors(batch.y) if tensor.is_floating_point() and bool(tensor.isnan().any())
        ]
        remedy = (
            "the target holds NaN: leave such entries out (valid=, ignore_index), or give them a number"
            if missing
            else "look for a square root or norm at zero, a logarithm of zero, or float16 overflow"
        )
        raise ValueError(
            f"the objective or its gradient is not finite for {examples(~objective.isfinite())}, first on "
            f"the clean input: {remedy}"
        )
    value = values.get("judge", objective)
    track = Track.of(batch.x, value)
    return batch, track if plan.stop is None else track._replace(finished=values["stop rule"].bool())


@torch.inference_mode(mode=False)
def judged(model: Model, plan: Plan, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Values of inputs, `(B,)`, and for which of them the stop rule holds; None without one."""
    with torch.no_grad():
        output, count = model(batch.inputs()), len(batch.x)
        over = None if plan.stop is None else stopped(plan.stop, output, batch.y, count)
        return plan.valued(output, batch.y, count), over


@torch.inference_mode(mode=False)
def last_iterate(
    model: Model,
    batch: Batch,
    *,
    objective: PerExample,
    rule: Rule[Any],
    steps: int,
    execution: Execution | None = None,
) -> Tensor:
    """The end of one run of projected gradient ascent: what adversarial training needs, and no more.

    The loop is that of `pgd_attack`, so that objectives and rules mean the same; but neither the clean nor
    the last input is evaluated. Costs `steps` forward passes and gradients of the input; in parts, for which
    the target is cut, one more forward pass and two of one example, by which the cut is tested.

    Args:
        model: As for `pgd_attack`.
        batch: Inputs, targets, the threat and the start.
        objective: `(output, target) -> (B,)`, to be maximised.
        rule: How a step is made.
        steps: Gradient steps.
        execution: How the model is run; see `advreg.Execution`.

    Returns:
        The last inputs, `(B, *input)`, detached.

    Raises:
        TypeError: As for `pgd_attack`.
        ValueError: As for `pgd_attack`.

    Example:
        >>> import torch
        >>> from advreg import J_IND_reg, Steepest, Threat, linf
        >>> from advreg.attacks import last_iterate
        >>> from advreg.execution import Batch
        >>> batch = Batch(torch.full((1, 2), 0.5), torch.zeros(1, 2), Threat(linf, 0.1))
        >>> last_iterate(lambda x: x, batch, objective=J_IND_reg, rule=Steepest(0.5), steps=3)
        tensor([[0.6000, 0.6000]])

    Source:
        Chen et al., Algorithm 1.
    """
    check_objective(objective)
    plan = Plan(objective, rule, steps)
    with running(model, heads_read(objective), batch.inputs(), execution) as network:
        batch = batch.settled()
        if len(batch.x) > network.parts.size:  # only then is the target cut
            batch = network.examine(batch, plan.functions(), resized=True).batch

        def ended(quick: Model, part: Batch) -> Tensor:
            climb = _Climb(quick, plan, part)
            for iterate in climb.points():
                if iterate.value is not None:
                    climb.track = climb.track.seeing(iterate.value, iterate.gradient, iterate.step)
            report(climb.track, tried=False)  # a NaN that went on would end in the weights
            return iterate.x

        with network.quick() as quick:
            return torch.cat(list(network.parts.run(partial(ended, quick), batch)))


@torch.inference_mode(mode=False)
def measured(
    model: Model, batch: Batch, function: PerExample, execution: Execution | None, name: str
) -> tuple[Batch, Tensor]:
    """A function of the outputs for a batch and its targets, `(B,)`; `name` stands in messages.

    The batch comes back with the structure of its target, as the check of an attack's assumptions found it.
    """
    with running(model, heads_read(function), batch.inputs(), execution) as network:
        found = network.examine(batch, {name: function}, resized=len(batch.x) > network.parts.size)
        return found.batch, found.values[name]


@dataclass(eq=False)
class _Climb:
    """One run: the examples that are not finished, their tracks, and the tracks of those that are."""

    model: Model
    plan: Plan
    batch: Batch
    track: Track = field(init=False)
    done: list[Track] = field(default_factory=list)
    step: int = 0
    output: Output = None

    def __post_init__(self) -> None:
        self.track = Track.of(self.batch.x)

    def function(self, point: Tensor) -> Tensor:
        """The objective, for the examples that are left; the output is kept for stop rule and judge."""
        with seen() if self.step else nullcontext():
            output = self.model(self.batch.inputs(point))
            self.output = output if self.plan.looks else None
            return self.plan.ascended(self.step)(output, self.batch.y)

    def points(self) -> Generator[Iterate, Tensor | None]:
        """The iterates of Algorithm 1. Sending back flags drops examples; `batch` must follow."""
        plan, batch = self.plan, self.batch
        run = ascend(
            value_and_gradient(self.function, plan.weights),
            batch.x,
            threat=batch.threat,
            rule=plan.rule,
            start=batch.start,
            steps=plan.steps,
            schedule=plan.schedule,
        )
        keep = None
        for step in range(plan.steps + 1):
            self.step = step  # which form of the objective is evaluated next
            keep = yield run.send(keep)

    def best(self) -> Track:
        """The tracks, in the batch's order."""
        plan, run = self.plan, self.points()
        keep = None
        for step in range(plan.steps + 1):
            iterate = run.send(keep)
            value = self.look(iterate)
            inside = plan.factor(step) == 1  # points of a ball that is still too large are no results
            if inside and (plan.best or step == plan.steps):
                self.track = self.track.keeping(worse(value, self.track.value), iterate.x, value, step)
            keep = self.leave(iterate.x, value, step) if inside else None
            if len(self.track.place) == 0:
                break
        track = joined([*self.done, self.track])
        return track.taken(track.place.argsort()) if self.done else track

    def look(self, iterate: Iterate) -> Tensor:
        """The value of a point that decides, `(b,)`; what went wrong there is noted."""
        if iterate.value is not None:
            self.track = self.track.seeing(iterate.value, iterate.gradient, iterate.step)
            if self.plan.judge is None and not self.plan.changes:
                return iterate.value
        with seen() if self.step else nullcontext():
            if iterate.value is None:
                with torch.no_grad():
                    self.output = self.model(self.batch.inputs(iterate.x))
            value = self.plan.valued(self.output, self.batch.y, len(iterate.x))
        if self.plan.judge is None:  # a judge may be infinite: the worst that there is
            self.track = self.track.seeing(value, None, iterate.step)
        return value

    def leave(self, x: Tensor, value: Tensor, step: int) -> Tensor | None:
        """Let those go for which the stop rule holds; which ones stay, `(b,)` bool, or None for all."""
        if self.plan.stop is None:
            return None
        over = stopped(self.plan.stop, self.output, self.batch.y, len(value))
        if not bool(over.any()):
            return None
        self.done.append(self.track.keeping(over, x, value, step)._replace(finished=over).taken(over))
        self.track, self.batch = self.track.taken(~over), self.batch.take(~over)
        return ~over


def stopped(stop: Stop, output: Output, target: Target, count: int | None = None) -> Tensor:
    """The examples that are finished, `(count,)` bool."""
    with torch.no_grad():
        over = stop(map_tensors(Tensor.detach, output), target)
    whole = isinstance(over, Tensor) and over.ndim == 1 and count in (None, len(over))
    if not whole or over.dtype != torch.bool:
        came = (
            f"{over.dtype} of shape {tuple(over.shape)}" if isinstance(over, Tensor) else type(over).__name__
        )
        raise TypeError(
            f"stop must say for each example whether it is finished, bool of shape ({count or 'B'},); got "
            f"{came}: compare a metric with a threshold, for example dice(output, target) > 0.95"
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
