"""Automatic attack: an ensemble without a step size to choose, judged in the task's metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from advreg._core.keys import Keys
from advreg._core.types import Input, Model, Target
from advreg.attacks._best import worse
from advreg.attacks._pgd import pgd_attack
from advreg.attacks._result import AttackResult
from advreg.attacks._run import measured
from advreg.execution import Batch, Execution
from advreg.objectives import Within, negate, on
from advreg.tasks import Task
from advreg.threats import Threats

_RUN = 30  # the number of runs is the root of the budget over this, so that both they and their length grow


@dataclass(frozen=True, eq=False)
class Worst:
    """The worst that was found for one head.

    Attributes:
        x: Adversarial inputs inside the threat, `(B, *input)`, or all inputs of a model of several.
        value: The task's metric there, `(B,)`.
        clean: The task's metric at the clean inputs, `(B,)`.
        member: Which of `names` found it, `(B,)` int64; -1 for the clean input itself.
        passes: Steps that were spent on it, each a forward pass and a gradient of the input, `(B,)` int64.
        names: The members' names.
        not_tried: The names of those that never ran: members take turns, the first ones first, and the budget
            has fewer runs than there are members, or every example was as bad as can be before their turn. A
            budget of `30 n^2` reaches n members.
    """

    x: Input
    value: Tensor
    clean: Tensor
    member: Tensor
    passes: Tensor
    names: tuple[str, ...]
    not_tried: tuple[str, ...] = ()

    def found_by(self) -> list[str]:
        """The name of the member that found each example's input; "clean" where none did."""
        return ["clean" if place < 0 else self.names[place] for place in self.member.tolist()]


@dataclass(frozen=True, eq=False)
class AutoResult:
    """Result of `auto_attack`, head by head: `result["mask"].x`.

    Attributes:
        heads: The worst of each head.
    """

    heads: Mapping[str | int, Worst]

    def __getitem__(self, key: str | int) -> Worst:
        return self.heads[key]

    @property
    def x(self) -> Input:
        """The worst inputs, where one head alone was attacked, as `evaluate` asks for them."""
        if len(self.heads) > 1:
            raise AttributeError(
                f"each of the heads {list(self.heads)} has its own worst inputs: take result[head].x, or "
                "attack one head alone"
            )
        return next(iter(self.heads.values())).x


def auto_attack(
    model: Model,
    x: Input,
    y: Target,
    *,
    heads: Mapping[str | int, Task],
    threat: Threats,
    budget: int = 500,
    execution: Execution | None = None,
    seed: int = 0,
    index: Tensor | None = None,
) -> AutoResult:
    """Find the worst input for each head, by an ensemble of attacks, within a number of passes.

    The budget is divided equally among `sqrt(budget / 30)` runs, rounded: one of 20, two of 50 for 100, four
    of 125 for 500. They take turns through the head's members, each time from another random start. Every
    point that a run meets inside the threat is judged in the metric itself, and the worst is kept for each
    example. An example whose metric is as bad as can be leaves at once, and what it has left is not spent.

    What one example gets depends on its own seed and index alone, not on the batch.

    Args:
        model: As for `pgd_attack`.
        x: Clean inputs `(B, *input)`; of a model of several inputs as for `pgd_attack`.
        y: The target.
        heads: By the key of the head, "" for a model whose output is the head itself, what it is for; see
            `advreg.tasks`: `masks()`, `points()`, `classes()`, or a `Task` of your own.
        threat: As for `pgd_attack`. The radius must be finite, since every run begins at random.
        budget: Passes per example and head: a forward pass and the gradient of the input. Two forward passes
            for each run, one for the clean input, and two of one example for each of these, by which
            assumptions are checked, come on top.
        execution: How the model is run; see `advreg.Execution`.
        seed: With `index`, decides all chance.
        index: Each example's place in its data set, int64 `(B,)`.

    Returns:
        An `AutoResult`: for each head the worst inputs, the metric there, which member found them, and the
        passes used.

    Raises:
        ValueError: No heads; a budget below 1; and as for `pgd_attack`.

    Example:
        >>> import torch
        >>> from advreg import Threat, auto_attack, linf
        >>> from advreg.tasks import masks, points
        >>> model = lambda x: {"contour": 9 * x.mean((2, 3)).unsqueeze(-1), "mask": 8 * x - 4}
        >>> x = 0.3 + 0.4 * torch.rand(3, 1, 8, 8)
        >>> y = {"contour": model(x)["contour"], "mask": (x > 0.5).float()}
        >>> result = auto_attack(model, x, y, heads={"contour": points(), "mask": masks()},
        ...                      threat=Threat(linf, 0.1), budget=20)
        >>> bool((result["mask"].value < result["mask"].clean).all())
        True
        >>> result["contour"].value.numpy().round(2), result["contour"].passes
        (array([0.9, 0.9, 0.9], dtype=float32), tensor([20, 20, 20]))

    Source:
        Croce and Hein, arXiv:2003.01690 (an ensemble without parameters, the worst per example); Croce et
        al., arXiv:2306.12941 (segmentation).
    """
    check_tasks(heads)
    if budget < 1:
        raise ValueError(f"budget must be 1 pass or more; got {budget}")
    batch = Batch.of(x, y, threat)
    keys = Keys.of(batch.x, seed, index)
    attack = partial(pgd_attack, model, execution=execution)
    found = {}
    for key, task in heads.items():
        metric = on(key, task.metric)
        settled, clean = measured(model, batch, metric, execution, f"the metric of head {key!r}")
        found[key] = _worst(attack, settled, clean, key, task, budget, keys)
    return AutoResult(found)


def check_tasks(heads: Any) -> None:
    """Insist on a task for each head, by its key.

    Raises:
        TypeError: No mapping, or something else than a task for a head.
        ValueError: No heads.
    """
    if not isinstance(heads, Mapping):
        raise TypeError(
            f'expected a task for each head, by its key, {{"mask": masks()}}, or {{"": masks()}} for a model '
            f"that returns the head itself; got {type(heads).__name__}"
        )
    if not heads:
        raise ValueError('expected a task for one head or more, {"mask": masks()}; got none')
    for key, task in heads.items():
        if not isinstance(task, Task):
            name = getattr(task, "__name__", type(task).__name__)
            if getattr(task, "__module__", "").startswith("advreg.tasks"):
                raise TypeError(
                    f"expected a task for the head {key!r}; got the function {name}: call it, {name}()"
                )
            raise TypeError(
                f"expected a task for the head {key!r}, such as advreg.tasks.masks(); got {name}: make one "
                f"of a metric by Task({name}, worse='lower'), or worse='higher'"
            )


def runs(budget: int) -> list[int]:
    """Passes of each run.

    Example:
        >>> runs(20), runs(100), runs(500)
        ([20], [50, 50], [125, 125, 125, 125])
    """
    count = max(1, round(math.sqrt(budget / _RUN)))
    return [budget // count + (number < budget % count) for number in range(count)]


@torch.inference_mode(mode=False)  # what is taken from the target must serve autograd
def _worst(
    attack: Callable[..., AttackResult],
    batch: Batch,
    clean: Tensor,
    key: str | int,
    task: Task,
    budget: int,
    keys: Keys,
) -> Worst:
    metric, x = on(key, task.metric), batch.x
    judge = metric if task.worse == "higher" else negate(metric)
    nothing_worse = Within(judge, low=task.sign * task.worst)
    clean = task.sign * clean
    worst, value, index = x.clone(), clean.clone(), keys.index.to(x.device)
    member, passes = torch.full_like(index, -1), torch.zeros_like(index)
    left, tried = ~(clean >= nothing_worse.low), set[int]()
    for number, steps in enumerate(runs(budget)):
        if not bool(left.any()):
            break
        place = number % len(task.members)
        chosen = task.members[place]
        tried.add(place)
        rows = left.nonzero().flatten()
        some = batch.take(left)
        found = attack(
            **some.arguments(),
            objective=on(key, chosen.objective),
            rule=chosen.rule,
            steps=steps,
            judge=judge,
            stop=nothing_worse,
            schedule=chosen.schedule,
            seed=keys.fold_in(number).seed,
            index=index[rows],
        )
        better = worse(found.value, value[rows])
        at = rows[better]
        worst[at], value[at], member[at] = (
            batch.attacked(found.x)[better],
            found.value[better].to(value.dtype),
            place,
        )
        passes[rows] += torch.where(found.finished, found.step.clamp(min=0), steps)
        left[rows] = ~found.finished
    names = tuple(entry.name for entry in task.members)
    rest = tuple(name for place, name in enumerate(names) if place not in tried)
    return Worst(batch.inputs(worst), task.sign * value, task.sign * clean, member, passes, names, rest)
