"""Attacks: a model, inputs and targets to the worst inputs found."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple, TypeAlias, TypedDict, Unpack

import torch
from torch import Tensor

from advreg.ascent import ascend
from advreg.models import frozen, heads
from advreg.norms import per_example, rows
from advreg.objectives import keys_read
from advreg.randomness import Keys
from advreg.rules import Adamax
from advreg.threats import Threat, examples
from advreg.types import Model, PerExample, Rule, Target


@dataclass(frozen=True, eq=False)
class AttackResult:
    """What an attack found.

    Attributes:
        x: Adversarial inputs inside the threat, `(B, *input)`, detached.
        value: The objective at `x`, `(B,)`.
        gain: The objective at `x` less the objective at the centre, `(B,)`.
        step: The step at which `x` was found, `(B,)` int64; 0 is the start, -1 the centre itself.
    """

    x: Tensor
    value: Tensor
    gain: Tensor
    step: Tensor


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
    seed: int = 0,
    index: Tensor | None = None,
) -> AttackResult:
    """Projected gradient ascent of an objective inside a threat around each input: the paper's Algorithm 1.

    Costs `restarts * (steps + 1)` forward passes, one more at the clean input unless it begins there, and
    `restarts * steps` gradients of the input; never a gradient of a parameter. Of a model whose forward takes
    `heads=`, only the heads that the objective reads are computed (see `heads`). The model is left bit for
    bit as it was, also if something raises (see `frozen`). Results do not depend on batch size or order:
    randomness belongs to the example, by `seed` and `index`.

    Args:
        model: Inputs to whatever the objective reads. Call `.eval()` on it first.
        x: Clean inputs `(B, *input)`, the centres of the threat.
        y: The target that the objective compares with.
        objective: `(output, target) -> (B,)`, to be maximised. For one head of several, `on(key, f)`.
        threat: Norm, radius, bounds and mask.
        rule: How a step is made; by default the paper's, Adamax with alpha = radius / 5.
        steps: Gradient steps of each run; the paper takes 100.
        start: The paper's x_init, `(B, *input)`, where it differs from `x`.
        random_start: Begin at a random point of the threat, as the paper does.
        restarts: Independent runs, each from another random start; the best is kept per example.
        keep: "best": the worst input met, the clean one included, so that the gain is never negative.
            "last": where the run ends, as the paper reports.
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
        UserWarning: The gradient of an example is zero at every step; the model drew random numbers.

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
    centre = x.detach()

    part = heads(model, keys_read(objective))

    def function(point: Tensor) -> Tensor:
        return objective(part(point), y)

    with frozen(model):
        kept, health = _Kept.nothing(centre), _Health.of(centre)
        clean: Tensor | None = None
        for restart in range(restarts):
            first = threat.sample(centre, keys.fold_in(restart), start) if random_start else start
            climb = ascend(function, centre, threat=threat, rule=rule, start=first)
            for step, iterate in enumerate(islice(climb, steps + 1)):
                value = iterate.value
                health = health.after(value, iterate.gradient, step)
                if first is None and step == 0:
                    clean = value  # the run begins at the centre
                if keep == "best" or step == steps:
                    kept = kept.or_better(iterate.x, value, step)
        if clean is None:
            with torch.no_grad():
                clean = function(centre)
            health = health.after(clean, None, -1)
        if keep == "best":
            kept = _Kept(centre, clean, torch.full_like(kept.step, -1)).or_better(*kept)
    health.report()
    return AttackResult(kept.x, kept.value, kept.value - clean, kept.step)


class AttackOptions(TypedDict, total=False):
    """The options of `pgd_attack` that `ood_attack` passes on."""

    rule: Rule[Any]
    steps: int
    start: Tensor | None
    random_start: bool
    restarts: int
    keep: Literal["best", "last"]
    seed: int
    index: Tensor | None


def ood_attack(
    model: Model,
    x_in: Tensor,
    x_out: Tensor,
    *,
    objective: PerExample,
    threat: Threat,
    **options: Unpack[AttackOptions],
) -> AttackResult:
    """Move out-of-distribution inputs until the model answers as it does for in-distribution ones.

    The target is the model's own output on `x_in`, as it is; the ball is centred on `x_out`.

    Args:
        model: As for `pgd_attack`.
        x_in: In-distribution inputs, `(B, *input)`, each the partner of one of `x_out`.
        x_out: Out-of-distribution inputs, `(B, *input)`: the centres, and where the attack begins.
        objective: What grows as the outputs come together, such as `on("mask", J_OOD_seg)`.
        threat: The paper's is `Threat(l2, 40.0)` around a 128 x 128 image.
        **options: As for `pgd_attack`; the paper's rule is `Adamax(0.01, relative=False)`.

    Returns:
        An `AttackResult`, around `x_out`.

    Raises:
        ValueError: Batches that do not pair, and as for `pgd_attack`.

    Example:
        >>> import torch
        >>> from advreg import Adamax, J_OOD_reg, Threat, l2, ood_attack
        >>> model = torch.nn.Linear(3, 2)
        >>> result = ood_attack(model, torch.rand(4, 3), torch.rand(4, 3), objective=J_OOD_reg,
        ...                     threat=Threat(l2, 0.5), rule=Adamax(0.01, relative=False), steps=10)
        >>> bool((result.gain >= 0).all())
        True

    Source:
        Chen et al., section 2.3, Eqs 6 and 7; Liang et al., arXiv:2009.08016.
    """
    if len(x_in) != len(x_out):
        raise ValueError(
            f"x_in and x_out must pair one to one; got {len(x_in)} and {len(x_out)}: repeat the shorter, for "
            "example x_out.repeat_interleave(n, dim=0)"
        )
    threat.validate(x_in)
    with frozen(model), torch.no_grad():
        target = model(x_in)
    return pgd_attack(model, x_out, target, objective=objective, threat=threat, **options)


class _Kept(NamedTuple):
    """The best candidates so far: `(B, *input)`, `(B,)`, `(B,)`."""

    x: Tensor
    value: Tensor
    step: Tensor

    @staticmethod
    def nothing(centre: Tensor) -> _Kept:
        """Worse than any candidate."""
        value = centre.new_full(centre.shape[:1], -torch.inf)
        return _Kept(centre, value, torch.full_like(value, -1, dtype=torch.int64))

    def or_better(self, x: Tensor, value: Tensor, step: int | Tensor) -> _Kept:
        """Each example's better one; what is here already in a tie."""
        better = value > self.value
        return _Kept(
            torch.where(per_example(better, self.x), x, self.x),
            torch.where(better, value, self.value),
            torch.where(better, step, self.step),
        )


@dataclass(frozen=True, eq=False)
class _Health:
    """What went wrong on the way, per example, `(B,)`; read once at the end, so that no step waits for it."""

    sick: Tensor
    since: Tensor
    moved: Tensor
    tried: bool

    @staticmethod
    def of(centre: Tensor) -> _Health:
        never = torch.zeros(len(centre), dtype=torch.bool, device=centre.device)
        return _Health(never, torch.full_like(never, -1, dtype=torch.int64), never, tried=False)

    def after(self, value: Tensor, gradient: Tensor | None, step: int) -> _Health:
        sick, moved = ~value.isfinite(), self.moved
        if gradient is not None:
            steepness = rows(gradient).abs().amax(1)
            sick, moved = sick | ~steepness.isfinite(), moved | (steepness > 0)
        since = torch.where(sick & ~self.sick, step, self.since)
        return _Health(self.sick | sick, since, moved, tried=self.tried or gradient is not None)

    def report(self) -> None:
        if bool(self.sick.any()):
            since = int(self.since[self.sick].min())
            when = "on the clean input" if since < 0 else f"at step {since}"
            raise ValueError(
                f"the objective or its gradient is not finite for {examples(self.sick)}, first {when}: look "
                "for a square root or norm at zero, a logarithm of zero, or float16 overflow"
            )
        if self.tried and not bool(self.moved.all()):
            warnings.warn(
                f"the gradient is zero at every step for {examples(~self.moved)}, so nothing moved: the "
                "objective may be saturated (attack logits, not rounded or clipped outputs), or start where "
                "it is flat (use random_start=True); such a result says nothing about robustness",
                stacklevel=3,
            )


def _check_options(steps: int, restarts: int, keep: str, *, random_start: bool) -> None:
    if steps < 0 or restarts < 1:
        raise ValueError(f"steps must be 0 or more and restarts 1 or more; got {steps} and {restarts}")
    if keep not in ("best", "last"):
        raise ValueError(f"keep must be 'best' or 'last'; got {keep!r}")
    if restarts > 1 and not random_start:
        raise ValueError(
            f"{restarts} restarts without a random start would all be the same run: pass random_start=True"
        )
