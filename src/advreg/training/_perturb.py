"""Perturbations of training inputs: an attack, or noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from advreg._core.checks import check_each, check_objective, check_sigma
from advreg._core.keys import Keys
from advreg._core.tensors import per_example
from advreg._core.types import Input, Model, PerExample, Target
from advreg.attacks import last_iterate
from advreg.execution import Batch, Execution
from advreg.rules import Rule, Steepest
from advreg.threats import Threat, Threats

Perturb: TypeAlias = Callable[[Model, Input, Target, Keys], Input]
"""Perturbation of the inputs: `(model, x, y, keys) -> x'`, shaped like `x`. Chance comes from the keys alone.
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
        execution: How the model is run in the attack, see `advreg.Execution`; the loss runs it as it is.

    Source:
        Chen et al., section 2.4; the plain sign is its released code's.
    """

    objective: PerExample
    threat: Threats
    rule: Rule[Any] = Steepest(0.01, relative=False)
    steps: int = 20
    random_start: bool = True
    execution: Execution | None = None

    def __post_init__(self) -> None:
        check_objective(self.objective)
        check_each("threat", self.threat, Threat, "Threat(linf, 0.03)")

    def __call__(self, model: Model, x: Input, y: Target, keys: Keys) -> Input:
        """The changed inputs."""
        batch = Batch.of(x, y, self.threat)
        if self.random_start:
            batch = batch._replace(start=batch.threat.sample(batch.x, keys))
        last = last_iterate(
            model,
            batch,
            objective=self.objective,
            rule=self.rule,
            steps=self.steps,
            execution=self.execution,
        )
        return batch.inputs(last)


@dataclass(frozen=True)
class Noise:
    """A `Perturb`: a random point of the threat; for Linf, uniform noise in [-radius, radius] inside the box.

    Source:
        Chen et al., Eq 11: x_rand = x + noise.
    """

    threat: Threats

    def __post_init__(self) -> None:
        check_each("threat", self.threat, Threat, "Threat(linf, 0.03)")

    def __call__(self, model: Model, x: Input, y: Target, keys: Keys) -> Input:
        """The noisy inputs."""
        del model, y
        batch = Batch.of(x, None, self.threat)
        return batch.inputs(batch.threat.sample(batch.x, keys))


@dataclass(frozen=True)
class GaussianNoise:
    """A `Perturb`: Gaussian noise, not clipped, as a smoothed predictor will meet it.

    Args:
        sigma: Deviation of the noise, in units of the input; or the largest of several, of which each example
            gets a share of its own, uniform between 0 and 1, where `varied`.
        varied: Whether examples get noise of different size.
        noisy_input: Of a model of several inputs the key of the one that gets it.

    Raises:
        ValueError: A sigma that is not above zero and finite.

    Source:
        Cohen et al., Certified adversarial robustness via randomized smoothing, arXiv:1902.02918.
    """

    sigma: float
    varied: bool = False
    noisy_input: str | int | None = None

    def __post_init__(self) -> None:
        check_sigma(self.sigma)

    def __call__(self, model: Model, x: Input, y: Target, keys: Keys) -> Input:
        """The noisy inputs."""
        del model, y
        batch = Batch.unbounded(x, None, self.noisy_input)
        noise = self.sigma * keys.normal(batch.x)
        if self.varied:
            noise = noise * per_example(keys.fold_in(0).uniform(batch.x.new_empty(len(batch.x))), batch.x)
        return batch.inputs(batch.x + noise)


@dataclass(frozen=True)
class PureNoise:
    """A `Perturb`: uniform noise in [0, radius] in place of the image, as the paper's released code feeds it.

    Source:
        The paper's released code; its text says x + noise, which is `Noise`.
    """

    radius: float | Tensor

    def __call__(self, model: Model, x: Input, y: Target, keys: Keys) -> Input:
        """The noise, shaped like `x`."""
        del model, y
        if not isinstance(x, Tensor):
            raise TypeError(
                f"pure noise stands in the place of one image; got inputs of type {type(x).__name__}: take "
                "Noise(threat), with a threat for each input that is to be noisy"
            )
        radius = torch.as_tensor(self.radius, dtype=x.dtype, device=x.device).expand(len(x))
        return keys.uniform(x) * per_example(radius, x)
