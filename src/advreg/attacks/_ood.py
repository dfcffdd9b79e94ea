"""Out-of-distribution attacks: inputs moved until the model answers as it does for others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, Unpack

import torch
from torch import Tensor

from advreg._core.checks import check_each
from advreg._core.targets import bare
from advreg._core.trees import map_tensors
from advreg._core.types import Input, Model, Output, PerExample, Target
from advreg.attacks._pgd import pgd_attack
from advreg.attacks._result import AttackResult
from advreg.attacks._walk import walked
from advreg.execution import Batch, Execution, frozen
from advreg.objectives import Within
from advreg.rules import Rule
from advreg.threats import Threat, Threats


class AttackOptions(TypedDict, total=False):
    """The options of `pgd_attack` that `ood_attack` passes on."""

    rule: Rule[Any]
    steps: int
    start: Input | None
    random_start: bool
    restarts: int
    keep: Literal["best", "last"]
    judge: PerExample | None
    schedule: Callable[[float], float] | None
    execution: Execution | None
    seed: int
    index: Tensor | None


@dataclass(frozen=True, eq=False)
class OODResult(AttackResult):
    """Result of an out-of-distribution attack.

    Attributes:
        closeness: For each condition by its name the metric at `x`, `(B,)`.
        matched: For each condition whether it holds there, `(B,)` bool. `finished` says whether all do.
    """

    closeness: Mapping[str, Tensor]
    matched: Mapping[str, Tensor]


def ood_attack(
    model: Model,
    x_in: Input | None,
    x_out: Input,
    *,
    objective: PerExample,
    threat: Threats,
    target: Target | None = None,
    match: Mapping[str, Within] | None = None,
    walk: bool = False,
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
            is the partner of all of `x_in`. Of a model of several inputs both are as for `pgd_attack`.
        objective: What grows as the outputs come together, such as `on("mask", J_OOD_seg)`.
        threat: The paper's is `Threat(l2, 40.0)` around a 128 x 128 image; `Threat(l2, math.inf)` leaves the
            box alone.
        target: What is to be matched in place of the output on `x_in`.
        match: When a pair matches: conditions by name, all of which must hold; see `Within`.
        walk: Whether to begin at the point of the threat that is nearest to `x_in`, without a random start. A
            walk straight there needs no gradient; it may match by itself, and the attack is then no weaker.
        **options: As for `pgd_attack`; the paper's rule is `Adamax(0.01, relative=False)`.

    Returns:
        An `OODResult`, around `x_out`.

    Raises:
        ValueError: Batches that do not pair; a walk without `x_in`, or beside another start; and as for
            `pgd_attack`.

    Example:
        >>> import torch
        >>> from advreg import Adamax, J_OOD_reg, Threat, l2, ood_attack, point_error
        >>> model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Unflatten(1, (2, 2)))
        >>> result = ood_attack(model, torch.rand(4, 6), torch.rand(1, 6), objective=J_OOD_reg,
        ...                     threat=Threat(l2, 0.5), rule=Adamax(0.01, relative=False), steps=10,
        ...                     match={"points": Within(point_error, high=0.1)})
        >>> result.x.shape, list(result.closeness), torch.equal(result.matched["points"], result.finished)
        (torch.Size([4, 6]), ['points'], True)

    Source:
        Chen et al., section 2.3, Eqs 6 and 7; Liang et al., arXiv:2009.08016.
    """
    if (x_in is None) == (target is None):
        raise ValueError("expected x_in, whose outputs are to be matched, or a target; got both or neither")
    if x_in is not None:
        check_each("threat", threat, Threat, "Threat(linf, 0.03)")
        answered = _relaxed(threat)  # x_in is answered, not changed
        x_in, x_out = _paired(Batch.of(x_in, None, answered), Batch.of(x_out, None, threat))
        with frozen(model), torch.no_grad():
            target = model(map_tensors(Tensor.clone, x_in))
        if walk:
            if options.get("start") is not None or options.get("random_start"):
                raise ValueError(
                    "a walk is a start of its own: leave start and random_start out, or walk=False"
                )
            options = {**options, "start": walked(x_in, x_out, answered), "random_start": False}
    elif walk:
        raise ValueError("a walk goes towards x_in; got a target in its place: pass x_in, or walk=False")
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
            output, wanted = model(map_tensors(Tensor.clone, found.x)), bare(target)
            closeness = {name: condition.function(output, wanted) for name, condition in conditions.items()}
            matched = {name: condition(output, wanted) for name, condition in conditions.items()}
    return OODResult(found.x, found.value, found.gain, found.step, found.finished, closeness, matched)


def _relaxed(threat: Threats) -> Threats:
    """The threat without levels."""
    if isinstance(threat, Threat):
        return threat.relaxed
    return {key: one.relaxed for key, one in threat.items()}


def _paired(inside: Batch, outside: Batch) -> tuple[Input, Input]:
    """The inputs of both, one to one; one alone with all of the other."""
    few, many = sorted((len(inside.x), len(outside.x)))
    if few not in (many, 1):
        raise ValueError(
            f"x_in and x_out must pair one to one, or one with all; got {len(inside.x)} and "
            f"{len(outside.x)}: repeat the shorter, for example x_out.repeat_interleave(n, dim=0)"
        )
    x_in, x_out = (one.repeat(many // len(one.x)) for one in (inside, outside))
    return x_in.inputs(), x_out.arguments()["x"]
