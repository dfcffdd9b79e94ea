"""Trade-off between two heads: what damage to the one costs in damage to the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from advreg._core.types import Input, Model, Target
from advreg.attacks._auto import check_tasks
from advreg.attacks._pgd import pgd_attack
from advreg.attacks._run import measured
from advreg.execution import Batch, Execution
from advreg.objectives import normalised, on
from advreg.tasks import Task
from advreg.threats import Threats


@dataclass(frozen=True, eq=False)
class Front:
    """The pairs of damage that `tradeoff` found: P points for each of B examples.

    Attributes:
        heads: The keys of the two heads, a and b.
        weights: The weight of b at each point, `(P,)`, from 0 to 1; that of a is what is left.
        x: Adversarial inputs inside the threat, `(P, B, *input)`; of a model of several inputs all of them,
            of which those that are attacked have P points.
        values: The metrics of a and b there, in their own terms, `(P, B, 2)`.
        clean: The same at the clean inputs, `(B, 2)`.
        worse: Of each metric, whether "lower" or "higher" is worse.
    """

    heads: tuple[str | int, str | int]
    weights: Tensor
    x: Input
    values: Tensor
    clean: Tensor
    worse: tuple[Literal["lower", "higher"], Literal["lower", "higher"]]

    def nondominated(self) -> Tensor:
        """The points with no better one for the adversary, `(P, B)` bool.

        That is: no other point of the same example is at least as bad in both heads and worse in one.
        """
        sign = self.values.new_tensor([1.0 if worse == "higher" else -1.0 for worse in self.worse])
        damage = sign * self.values
        other, own = damage[:, None], damage[None]
        beaten = (other >= own).all(-1) & (other > own).any(-1)
        return ~beaten.any(0)

    def means(self) -> Tensor:
        """The metrics at each point, averaged over the examples, `(P, 2)`."""
        return self.values.mean(1)


def tradeoff(
    model: Model,
    x: Input,
    y: Target,
    *,
    heads: Mapping[str | int, Task],
    threat: Threats,
    points: int = 5,
    steps: int = 100,
    execution: Execution | None = None,
    seed: int = 0,
    index: Tensor | None = None,
) -> Front:
    """Attack two heads with one and the same input, at several weights of the one against the other.

    For each weight w = 0, 1 / (points - 1), ..., 1 an attack ascends `normalised((1 - w, a), (w, b))`: each
    head's gradient is scaled to size one, so that w compares directions, not units. Where the front is one
    corner, the worst of both, the heads fall together; where it is a line, damage to the one is paid for by
    the other. The ends attack one head alone.

    Of each task the first member says what is ascended. Rule and schedule are those of the head that weighs
    more, the first head's where both weigh a half. Every attack begins at the same random point and its last
    point counts, as no one number says which point of a run is the worst of both. A gradient ascent finds a
    lower bound of the damage, and weighted sums miss points where the front bends inward.

    Costs `points * steps` forward passes, and backward passes: one for each head, at the ends one.

    Args:
        model: As for `pgd_attack`.
        x: Clean inputs `(B, *input)`; of a model of several inputs as for `pgd_attack`.
        y: The target.
        heads: Two keys of heads, and what each is for, as for `auto_attack`.
        threat: Norm, radius, bounds and mask.
        points: How many weights, 2 or more.
        steps: Of each attack.
        execution: How the model is run; see `advreg.Execution`.
        seed: With `index`, decides the random start.
        index: Each example's place in its data set, int64 `(B,)`.

    Returns:
        A `Front`.

    Raises:
        ValueError: Other than two heads; fewer than two points; and as for `pgd_attack`.
        KeyError: A head that output or target lacks.

    Example:
        >>> import torch
        >>> from advreg import Threat, linf
        >>> from advreg.attacks import tradeoff
        >>> from advreg.tasks import Task
        >>> model = lambda x: {"left": x[:, 0], "right": x[:, 1]}
        >>> off = lambda output, target: (output - target).abs()
        >>> x = torch.full((3, 2), 0.5)
        >>> front = tradeoff(model, x, model(x), heads={"left": Task(off, "higher"),
        ...                  "right": Task(off, "higher")}, threat=Threat(linf, 0.1), points=3)
        >>> front.means()[1].numpy().round(2), front.nondominated()[1]
        (array([0.1, 0.1], dtype=float32), tensor([True, True, True]))

    Source:
        The weighted-sum method: Miettinen, Nonlinear multiobjective optimization, 1999, section 3.1.
    """
    check_tasks(heads)
    if len(heads) != 2:
        raise ValueError(
            f"expected two heads and their tasks, {{'contour': points(), 'mask': masks()}}; got {list(heads)}"
        )
    if points < 2:
        raise ValueError(f"points must be 2 or more, the ends being one head alone each; got {points}")
    whole = Batch.of(x, y, threat)

    def both_of(points: Tensor) -> Tensor:
        batch = whole._replace(x=points)
        metrics = ((on(key, task.metric), f"the metric of head {key!r}") for key, task in heads.items())
        return torch.stack([measured(model, batch, f, execution, name)[1] for f, name in metrics], 1)

    clean = both_of(whole.x)
    (a, task_a), (b, task_b) = heads.items()
    first, second = task_a.members[0], task_b.members[0]
    on_a, on_b = on(a, first.objective), on(b, second.objective)
    weights = [number / (points - 1) for number in range(points)]
    found = []
    for weight in weights:
        both = (
            on_a if weight == 0 else on_b if weight == 1 else normalised((1 - weight, on_a), (weight, on_b))
        )
        leading = second if weight > 0.5 else first
        result = pgd_attack(
            model,
            x,
            y,
            objective=both,
            threat=threat,
            rule=leading.rule,
            steps=steps,
            keep="last",
            schedule=leading.schedule,
            execution=execution,
            seed=seed,
            index=index,
        )
        found.append(whole.attacked(result.x))
    return Front(
        (a, b),
        torch.tensor(weights),
        whole.inputs(torch.stack(found)),
        torch.stack([both_of(points) for points in found]),
        clean,
        (task_a.worse, task_b.worse),
    )
