"""Perturbations of training inputs: an attack, or noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

import torch
from torch import Tensor

from advreg._core.keys import Keys
from advreg._core.tensors import per_example
from advreg._core.types import Model, PerExample, Target
from advreg.attacks import ascend
from advreg.execution import Precision, frozen, pruned
from advreg.execution._precision import cast, lowered
from advreg.objectives import keys_read
from advreg.packing import packed
from advreg.rules import Rule, Steepest
from advreg.threats import Threat

Perturb: TypeAlias = Callable[[Model, Tensor, Target, Keys], Tensor]
"""What changes the inputs: `(model, x, y, keys) -> x'`, shaped like `x`. Chance comes from the keys alone.
The model comes in eval mode, and without the wrapper of a data-parallel one."""


@dataclass(frozen=True)
class Adversary:
    """A `Perturb`: projected gradient ascent of an objective, to its last iterate.

    It costs `steps` forward passes and gradients of the input: unlike `pgd_attack` it evaluates neither the
    clean nor the last input.

    Args:
        objective: What the attack maximises.
        threat: Where it may move.
        rule: How a step is made; by default the paper's, signs of length 0.01 at any radius.
        steps: Gradient steps; the paper takes 20.
        random_start: Begin at a random point of the threat, as the paper does.
        precision: In what the network computes the attack, as for `pgd_attack`; the loss keeps its own.

    Source:
        Chen et al., section 2.4; the plain sign is its released code's.
    """

    objective: PerExample
    threat: Threat
    rule: Rule[Any] = Steepest(0.01, relative=False)
    steps: int = 20
    random_start: bool = True
    precision: Precision = "float32"

    def __call__(self, model: Model, x: Tensor, y: Target, keys: Keys) -> Tensor:
        """The changed inputs."""
        self.threat.validate(x)
        part = pruned(model, keys_read(self.objective), x)
        centre, run = x.detach(), cast(part, self.precision)
        with frozen(model), packed(model, x, self.steps), lowered(model, self.precision):
            start = self.threat.sample(centre, keys) if self.random_start else None
            climb = ascend(
                lambda point: self.objective(run(point), y),
                centre,
                threat=self.threat,
                rule=self.rule,
                start=start,
            )
            return next(islice(climb, self.steps, None)).x


@dataclass(frozen=True)
class Noise:
    """A `Perturb`: a random point of the threat; for Linf, uniform noise in [-radius, radius] inside the box.

    Source:
        Chen et al., Eq 11: x_rand = x + noise.
    """

    threat: Threat

    def __call__(self, model: Model, x: Tensor, y: Target, keys: Keys) -> Tensor:
        """The noisy inputs."""
        del model, y
        self.threat.validate(x)
        return self.threat.sample(x.detach(), keys)


@dataclass(frozen=True)
class PureNoise:
    """A `Perturb`: uniform noise in [0, radius] in place of the image, as the paper's released code feeds it.

    Source:
        The paper's released code; its text says x + noise, which is `Noise`.
    """

    radius: float | Tensor

    def __call__(self, model: Model, x: Tensor, y: Target, keys: Keys) -> Tensor:
        """The noise, shaped like `x`."""
        del model, y
        radius = torch.as_tensor(self.radius, dtype=x.dtype, device=x.device).expand(len(x))
        return keys.uniform(x) * per_example(radius, x)
