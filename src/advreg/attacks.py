"""Attacks: a model, inputs and targets to the worst inputs found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypedDict, Unpack

import torch
from torch import Tensor

from advreg.batching import in_parts
from advreg.models import frozen
from advreg.objectives import keys_read
from advreg.precision import Precision, cast, lowered
from advreg.pruning import pruned
from advreg.randomness import Keys
from advreg.rules import Adamax, Rule, Stepwise
from advreg.search import Plan, Track, Within, judged_again, report, search
from advreg.threats import Threat
from advreg.types import Model, Output, PerExample, Target


@dataclass(frozen=True, eq=False)
class AttackResult:
    """What an attack found.

    Attributes:
        x: Adversarial inputs inside the threat, `(B, *input)`, detached.
        value: The objective at `x`, or the attack's judge, `(B,)`.
        gain: The same at `x` less at the centre, `(B,)`.
        step: The step at which `x` was found, `(B,)` int64; 0 is the start, -1 the centre itself.
        finished: Whether the attack's `stop` held at `x`, `(B,)` bool; False throughout without one.
    """

    x: Tensor
    value: Tensor
    gain: Tensor
    step: Tensor
    finished: Tensor


Attack: TypeAlias = Callable[[Model, Tensor, Target], AttackResult]
"""What evaluation and training take: often a `functools.partial` of `pgd_attack`."""


def pgd_attack(
    model: Model,
    x: Tensor,
    y: Target,
    *,
    objective: PerExample,
    threat: Threat,
    rule: Rule[Any] = Adamax(0.2),
    steps: int = 100,
    start: Tensor | None = None,
    random_start: bool = True,
    restarts: int = 1,
    keep: Literal["best", "last"] = "best",
    judge: PerExample | None = None,
    stop: Callable[[Output, Target], Tensor] | None = None,
    schedule: Callable[[float], float] | None = None,
    prune: bool = True,
    precision: Precision = "float32",
    seed: int = 0,
    index: Tensor | None = None,
) -> AttackResult:
    """Projected gradient ascent of an objective inside a threat around each input: the paper's Algorithm 1.

    Costs `restarts * (steps + 1)` forward passes, one more at the clean input unless it begins there, and
    `restarts * steps` gradients of the input; never a gradient of a parameter. Only what the heads that are
    read need is computed (see `advreg.pruning.pruned`). The model is left bit for
    bit as it was, also if something raises (see `frozen`). Results do not depend on batch size or order:
    randomness belongs to the example, by `seed` and `index`.

    Args:
        model: Inputs to whatever the objective reads. Call `.eval()` on it first.
        x: Clean inputs `(B, *input)`, the centres of the threat.
        y: The target that the objective compares with.
        objective: `(output, target) -> (B,)`, to be maximised. For one head of several, `on(key, f)`; for
            several at once `weighted`, `advreg.objectives.normalised` or `worst_head`. One with a method
            `at(share)`, as `advreg.surrogates.SegPGD`, changes with the share of steps done.
        threat: Norm, radius, bounds and mask.
        rule: How a step is made; by default the paper's, Adamax with alpha = radius / 5.
        steps: Gradient steps of each run; the paper takes 100.
        start: The paper's x_init, `(B, *input)`, where it differs from `x`.
        random_start: Begin at a random point of the threat, as the paper does.
        restarts: Independent runs, each from another random start; the best is kept per example.
        keep: "best": the worst input met, the clean one included, so that the gain is never negative.
            "last": where the run ends, as the paper reports.
        judge: `(output, target) -> (B,)`, what is really to become large, such as `negate(dice)`, where the
            objective is only its differentiable stand-in: the worst input, value and gain are in its terms.
        stop: `(output, target) -> (B,)` bool. An example for which it holds is finished: that point is its
            result, and it leaves the batch, so that the others cost less.
        schedule: From the share of steps done, 0 to 1, to the factor on the radius, 1 in the end; see
            `Shrinking`. Only points inside the threat itself are results.
        prune: Whether to leave out what the heads that are read do not need; results are the same.
        precision: In what the network computes on the way: "float32" is its own, "bfloat16" and "float16"
            take copies of its weights. Iterate, objective and what is reported keep the dtype of the input.
        seed: With `index`, decides the random starts.
        index: Each example's place in its data set, int64 `(B,)`; by default 0 to B - 1.

    Returns:
        An `AttackResult`.

    Raises:
        TypeError: Inputs that are not floating point; an objective that does not return `(B,)`.
        ValueError: Inputs outside the bounds or not finite; a model that normalises by batch statistics;
            an objective without a gradient, or not finite; options that contradict each other.
        KeyError: A head that output or target lacks.

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
    threat.validate(x)
    if start is not None and (start.shape != x.shape or start.dtype != x.dtype):
        raise ValueError(
            f"start must be like x, {x.dtype} of shape {tuple(x.shape)}; got {start.dtype} of shape "
            f"{tuple(start.shape)}"
        )
    keys = Keys(seed, torch.arange(len(x)) if index is None else index)
    plan = Plan(objective, judge, rule, steps, restarts, random_start, keep == "best", stop, schedule)
    if plan.factor(steps) != 1:
        raise ValueError(f"schedule must be 1 in the end; got {plan.factor(steps)} after {steps} steps")
    part = pruned(model, _read(objective, judge, stop), x) if prune else model

    def run(x: Tensor, y: Target, keys: Keys, threat: Threat, start: Tensor | None) -> tuple[Track, Tensor]:
        with lowered(model, precision):
            track, clean = search(cast(part, precision), x, y, keys, threat, start, plan)
        return (track, clean) if precision == "float32" else judged_again(part, x, y, track, plan)

    with frozen(model):
        tracks, cleans = zip(*in_parts(run, (x.detach(), y, keys, threat, start)), strict=True)
    track, clean = Track(*map(torch.cat, zip(*tracks, strict=True))), torch.cat(cleans)
    report(track, tried=steps > 0)
    return AttackResult(track.x, track.value, track.value - clean, track.step, track.finished)


def _read(*functions: Callable[[Output, Target], Tensor] | None) -> frozenset[str | int] | None:
    """The heads that any of them reads; None: it may be all."""
    read = [keys_read(f.function if isinstance(f, Within) else f) for f in functions if f is not None]
    known = [keys for keys in read if keys is not None]
    return frozenset().union(*known) if len(known) == len(read) else None


@dataclass(frozen=True)
class Shrinking(Stepwise):
    """A schedule: a radius that begins too large and shrinks to its size in stages.

    Args:
        stages: `(until, factor)` pairs, in order: before that share of the steps the radius is so many times
            its size.
        last: After the last of them; 1, so that the attack ends inside.

    Example:
        >>> [Shrinking()(share) for share in (0.0, 0.29, 0.3, 0.6, 1.0)]
        [2.0, 2.0, 1.5, 1.0, 1.0]

    Source:
        Croce et al., Robust semantic segmentation: strong adversarial attacks and fast training of robust
        models, arXiv:2306.12941: 2, 1.5 and 1 times the radius for 30, 30 and 40 % of the steps.
    """

    stages: tuple[tuple[float, float], ...] = ((0.3, 2.0), (0.6, 1.5))


class AttackOptions(TypedDict, total=False):
    """The options of `pgd_attack` that `ood_attack` passes on."""

    rule: Rule[Any]
    steps: int
    start: Tensor | None
    random_start: bool
    restarts: int
    keep: Literal["best", "last"]
    judge: PerExample | None
    schedule: Callable[[float], float] | None
    prune: bool
    precision: Precision
    seed: int
    index: Tensor | None


@dataclass(frozen=True, eq=False)
class OODResult(AttackResult):
    """What an out-of-distribution attack found.

    Attributes:
        closeness: For each condition by its name the metric at `x`, `(B,)`.
        matched: For each condition whether it holds there, `(B,)` bool. `finished` says whether all do.
    """

    closeness: Mapping[str, Tensor]
    matched: Mapping[str, Tensor]


def ood_attack(
    model: Model,
    x_in: Tensor | None,
    x_out: Tensor,
    *,
    objective: PerExample,
    threat: Threat,
    target: Target | None = None,
    match: Mapping[str, Within] | None = None,
    **options: Unpack[AttackOptions],
) -> OODResult:
    """Move out-of-distribution inputs until the model answers as it does for in-distribution ones.

    The target is the model's own output on `x_in`, as it is; the ball is centred on `x_out`. Pairs that
    match leave the batch, so that the others cost less.

    Args:
        model: As for `pgd_attack`.
        x_in: In-distribution inputs, `(B, *input)`, each the partner of one of `x_out`; one alone is the
            partner of all. None where `target` is given.
        x_out: Out-of-distribution inputs, `(B, *input)`: the centres, and where the attack begins. One alone
            is the partner of all of `x_in`.
        objective: What grows as the outputs come together, such as `on("mask", J_OOD_seg)`.
        threat: The paper's is `Threat(l2, 40.0)` around a 128 x 128 image; `Threat(l2, math.inf)` leaves the
            box alone.
        target: What is to be matched in place of the output on `x_in`.
        match: When a pair matches: conditions by name, all of which must hold; see `Within`.
        **options: As for `pgd_attack`; the paper's rule is `Adamax(0.01, relative=False)`.

    Returns:
        An `OODResult`, around `x_out`.

    Raises:
        ValueError: Batches that do not pair, and as for `pgd_attack`.

    Example:
        >>> import torch
        >>> from advreg import Adamax, J_OOD_reg, Threat, l2, ood_attack, point_error
        >>> model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Unflatten(1, (2, 2)))
        >>> result = ood_attack(model, torch.rand(4, 6), torch.rand(1, 6), objective=J_OOD_reg,
        ...                     threat=Threat(l2, 0.5), rule=Adamax(0.01, relative=False), steps=10,
        ...                     match={"points": Within(point_error, high=0.1)})
        >>> result.x.shape, list(result.closeness), bool((result.gain >= 0).all())
        (torch.Size([4, 6]), ['points'], True)

    Source:
        Chen et al., section 2.3, Eqs 6 and 7; Liang et al., arXiv:2009.08016.
    """
    if (x_in is None) == (target is None):
        raise ValueError("expected x_in, whose outputs are to be matched, or a target; got both or neither")
    if x_in is not None:
        x_in, x_out = _paired(x_in, x_out)
        threat.validate(x_in)
        with frozen(model), torch.no_grad():
            target = model(x_in)
    conditions = match or {}

    def stop(output: Output, wanted: Target) -> Tensor:
        return torch.stack([condition(output, wanted) for condition in conditions.values()]).all(0)

    found = pgd_attack(
        model,
        x_out,
        target,
        objective=objective,
        threat=threat,
        stop=stop if conditions else None,
        **options,
    )
    closeness, matched = {}, {}
    if conditions:
        with frozen(model), torch.no_grad():
            output = model(found.x)
            closeness = {name: condition.function(output, target) for name, condition in conditions.items()}
            matched = {name: condition(output, target) for name, condition in conditions.items()}
    return OODResult(found.x, found.value, found.gain, found.step, found.finished, closeness, matched)


def _paired(x_in: Tensor, x_out: Tensor) -> tuple[Tensor, Tensor]:
    """One to one; one alone with all of the other."""
    if len(x_in) == len(x_out):
        return x_in, x_out
    if 1 not in (len(x_in), len(x_out)):
        raise ValueError(
            f"x_in and x_out must pair one to one, or one with all; got {len(x_in)} and {len(x_out)}: repeat "
            "the shorter, for example x_out.repeat_interleave(n, dim=0)"
        )
    count = max(len(x_in), len(x_out))
    x_in, x_out = (x.expand(count, *x.shape[1:]) if len(x) == 1 else x for x in (x_in, x_out))
    return x_in, x_out.contiguous()


def _check_options(steps: int, restarts: int, keep: str, *, random_start: bool) -> None:
    if steps < 0 or restarts < 1:
        raise ValueError(f"steps must be 0 or more and restarts 1 or more; got {steps} and {restarts}")
    if keep not in ("best", "last"):
        raise ValueError(f"keep must be 'best' or 'last'; got {keep!r}")
    if restarts > 1 and not random_start:
        raise ValueError(
            f"{restarts} restarts without a random start would all be the same run: pass random_start=True"
        )
