"""Projected gradient ascent, the paper's Algorithm 1."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from numbers import Integral
from typing import Any, Literal

from torch import Tensor

from advreg._core.checks import check_function, check_objective
from advreg._core.keys import Keys
from advreg._core.types import Input, Model, Output, PerExample, Target
from advreg.attacks._best import Track, gain, worse
from advreg.attacks._result import AttackResult
from advreg.attacks._run import Plan, judged, looked_at, report, search
from advreg.execution import Batch, Execution, running
from advreg.objectives import heads_read
from advreg.rules import Adamax, Rule
from advreg.threats import Threats


def pgd_attack(
    model: Model,
    x: Input,
    y: Target,
    *,
    objective: PerExample,
    threat: Threats,
    rule: Rule[Any] = Adamax(0.2),
    steps: int = 100,
    start: Input | None = None,
    random_start: bool = True,
    restarts: int = 1,
    keep: Literal["best", "last"] = "best",
    judge: PerExample | None = None,
    stop: Callable[[Output, Target], Tensor] | None = None,
    schedule: Callable[[float], float] | None = None,
    execution: Execution | None = None,
    seed: int = 0,
    index: Tensor | None = None,
) -> AttackResult:
    """Projected gradient ascent of an objective inside a threat around each input: the paper's Algorithm 1.

    Costs `restarts * (steps + 1)` forward passes and `restarts * steps` gradients of the input, never one of
    a parameter; and for the check of what every attack assumes one forward pass of the clean input and two
    of one example. Only what the heads that are read need is computed (see `advreg.execution.pruned`). The
    model is left bit for bit as it was, also if something raises (see `frozen`). Examples must not interact,
    and neither model nor objective may know of the batch what is not in `x` or `y`: parts of it run one after
    another, and what is finished leaves it. Randomness belongs to the example, by `seed` and `index`, so that
    results do not depend on the batch.

    Args:
        model: Inputs to whatever the objective reads. Call `.eval()` on it first.
        x: Clean inputs `(B, *input)`, the centres of the threat. Or whatever a model of several inputs takes,
            a mapping, tuple or dataclass, in which `threat` names the tensors that are attacked; the others
            are cut, repeated and moved along with their examples, as targets are.
        y: The target that the objective compares with, of any structure: tensors, arrays, mappings,
            dataclasses, one entry for each example, flat rows; see `advreg.objectives.per_example`.
        objective: `(output, target) -> (B,)`, to be maximised. For one head of several, `on(key, f)`; for
            several at once `weighted`, `advreg.objectives.normalised` or `worst_head`. One with a method
            `at(share)`, as `advreg.objectives.SegPGD`, changes with the share of steps done.
        threat: Norm, radius, bounds and mask. Of several inputs those that are attacked, each with its own,
            by key or place: `{"image": Threat(linf, 0.03), "age": Threat(l2, 1.0, bounds=None)}`.
        rule: How a step is made; by default the paper's, Adamax with alpha = radius / 5.
        steps: Gradient steps of each run; the paper takes 100.
        start: The paper's x_init, like `x`, where it differs from `x`.
        random_start: Begin at a random point of the threat, as the paper does.
        restarts: Independent runs, each from another random start; the best is kept per example.
        keep: "best": the worst input met, the clean one included, so that the gain is never negative.
            "last": where the run ends, as the paper reports.
        judge: `(output, target) -> (B,)`, what is really to become large, such as `negate(dice)`, where the
            objective is only its differentiable stand-in: the worst input, value and gain are in its terms.
        stop: `(output, target) -> (B,)` bool. An example for which it holds is finished: that point is its
            result, and it leaves the batch, so that the others cost less. With `keep="best"` the clean input
            is asked first.
        schedule: From the share of steps done, 0 to 1, to the factor on the radius, 1 in the end; see
            `Shrinking`. Only points inside the threat itself are results.
        execution: How the model is run; see `advreg.Execution`.
        seed: With `index`, decides the random starts.
        index: Each example's place in its data set, int64 `(B,)`; by default 0 to B - 1.

    Returns:
        An `AttackResult`.

    Raises:
        TypeError: Inputs that are not floating point; an objective that does not return `(B,)`.
        ValueError: Inputs outside the bounds or not finite; a model that normalises by batch statistics;
            an objective without a gradient, or not finite; options that contradict each other. As an
            `advreg.execution.AssumptionError`: examples interact, or two passes differ.
        KeyError: A head that output or target lacks; an input that `x` lacks.

    Warns:
        UserWarning: The gradient of an example is zero at every step; the model drew random numbers; memory
            ran out, so that the batch is attacked in parts.

    Example:
        >>> import torch
        >>> from advreg import J_IND_reg, Threat, linf, pgd_attack
        >>> model = torch.nn.Linear(2, 1)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, -2.0]])), model.bias.data.zero_()
        >>> x, y = torch.full((1, 2), 0.5), torch.full((1, 1), -0.5)
        >>> result = pgd_attack(model, x, y, objective=J_IND_reg, threat=Threat(linf, 0.1))
        >>> result.x, result.gain
        (tensor([[0.6000, 0.4000]]), tensor([0.0900]))

    Source:
        Chen et al., Algorithm 1; Madry et al., arXiv:1706.06083.
    """
    _check_options(steps, restarts, keep, random_start=random_start)
    check_objective(objective)
    if judge is not None:
        check_function("judge", judge)
    batch = Batch.of(x, y, threat, start)
    keys = Keys.of(batch.x, seed, index)
    plan = Plan(objective, rule, steps, judge, stop, schedule, restarts, random_start, keep == "best")
    if plan.factor(steps) != 1:
        raise ValueError(f"schedule must be 1 in the end; got {plan.factor(steps)} after {steps} steps")
    with running(model, heads_read(objective, judge, stop), batch.inputs(), execution) as network:
        resized = restarts > 1 or stop is not None or len(batch.x) > network.parts.size
        batch, clean = looked_at(network, plan, batch, resized=resized)
        met = clean if plan.best else Track.of(batch.x)
        with network.quick() as quick:
            track = search(quick, plan, batch, keys, network.parts, met)
        if network.rounds:
            look = partial(judged, network.exact, plan)
            track = track.again(network.parts.run(look, batch._replace(x=track.x)))
    if plan.best:  # in the network's own precision
        track = track.keeping(~track.finished & ~worse(track.value, clean.value), batch.x, clean.value, -1)
    report(track, tried=steps > 0)
    found = batch.inputs(track.x)
    return AttackResult(found, track.value, gain(track.value, clean.value), track.step, track.finished)


def _check_options(steps: Any, restarts: Any, keep: str, *, random_start: bool) -> None:
    for name, value in (("steps", steps), ("restarts", restarts)):
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"{name} must be a whole number; got {value!r} of type {type(value).__name__}")
    if steps < 0 or restarts < 1:
        raise ValueError(f"steps must be 0 or more and restarts 1 or more; got {steps} and {restarts}")
    if keep not in ("best", "last"):
        raise ValueError(f"keep must be 'best' or 'last'; got {keep!r}")
    if restarts > 1 and not random_start:
        raise ValueError(
            f"{restarts} restarts without a random start would all be the same run: pass random_start=True"
        )
