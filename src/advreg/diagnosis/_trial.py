"""Trial of an attack: what the checks of a diagnosis share, and how a rival is compared with the attack.

Most checks ask what share of the damage the attack misses. With the gain of an example what an attack raised
the judge's value by over the clean input, and a rival attack,

    missed = mean(max(0, rival - attack)) / mean(max(rival, attack))

over the examples: 0 if the rival is better for none, 1 if the attack finds nothing. An honest model whose
attack stops at local maxima misses some per cent. A rival counts if it misses more than `MISSED` and the
bootstrap interval over the examples is above `SURE`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from advreg._core.bootstrap import Interval, bootstrap
from advreg._core.keys import Keys
from advreg._core.trees import map_tensors
from advreg._core.types import Input, Model, PerExample
from advreg.attacks import AttackResult, pgd_attack
from advreg.diagnosis._gradient_flow import slope
from advreg.diagnosis._report import Check
from advreg.diagnosis._thresholds import SURE
from advreg.execution import AssumptionError, Batch, Execution, running
from advreg.objectives import at, heads_read
from advreg.threats import Threat


@dataclass(eq=False)
class Trial:
    """The attack on trial, the model that it attacks, and what checks share."""

    model: Model
    whole: Batch
    objective: PerExample
    judge: PerExample | None
    others: Sequence[Model]
    steps: int
    queries: int
    keys: Keys
    execution: Execution | None
    clean: Tensor = field(init=False)
    refused: str = ""

    @property
    def x(self) -> Tensor:
        """What is attacked, the clean inputs, `(B, *input)`."""
        return self.whole.x

    @property
    def threat(self) -> Threat:
        """Where they may move."""
        assert isinstance(self.whole.threat, Threat)  # as `Batch.single` has seen to
        return self.whole.threat

    def inputs(self, x: Tensor) -> Input:
        """What the model takes at some points, in memory of its own."""
        return map_tensors(Tensor.clone, self.whole.inputs(x))

    def expect_noise(self) -> None:
        """Let attacks run on a model that was found to be random."""
        self.execution = replace(self.execution or Execution(), noisy=True)

    @cached_property
    def attack(self) -> Tensor:
        """The gain of the attack on trial, `(B,)`."""
        return self.gain(self.climb())

    def batch(self, x: Tensor) -> Batch:
        """Some inputs with their targets."""
        return self._settled._replace(x=x)

    @cached_property
    def _settled(self) -> Batch:
        """The batch, and how its target belongs to the examples: as outputs and targets, cut out, show."""
        execution = replace(self.execution or Execution(), noisy=True)  # whether it is, another check says
        functions = {"objective": at(self.objective, 1.0)}
        if self.judge is not None:
            functions["judge"] = self.judge
        reads = heads_read(*functions.values())
        with running(self.model, reads, self.whole.inputs(), execution) as network:
            cuts = len(self.x) > network.parts.size
            return network.examine(self.whole, functions, resized=cuts).batch.settled()

    def value(self, x: Tensor) -> Tensor:
        """The judge's value at some inputs, `(B,)`."""
        judge = self.judge or self.objective
        inputs = self.whole.inputs(x)
        with running(self.model, heads_read(judge), inputs, self.execution) as network, torch.no_grad():

            def judged(part: Batch) -> Tensor:
                return judge(network.exact(part.inputs()), part.y).detach()

            return torch.cat(list(network.parts.run(judged, self.batch(x))))

    def slope(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The objective at some inputs, `(B,)`, and its gradient, `(B, *input)`; None where it has none."""

        def sloped(part: Batch) -> tuple[Tensor, Tensor | None]:
            return slope(self.model, part, self.objective)

        parts = (self.execution or Execution()).parts(self.whole.inputs(x))
        values, gradients = zip(*parts.run(sloped, self.batch(x)), strict=True)
        known = [gradient for gradient in gradients if gradient is not None]
        return torch.cat(values), torch.cat(known) if len(known) == len(gradients) else None

    def gain(self, x: Tensor) -> Tensor:
        """The gain there over the clean inputs, `(B,)`.

        A judge that is infinite or NaN, such as the distance to an emptied mask, is worse than any number: it
        counts as twice the largest gain that the attack on trial finds, or what else is largest here.
        """
        rise = self.value(x) - self.clean
        if bool(rise.isfinite().all()):
            return rise
        worst = max(self._worst, largest(rise))
        return rise.nan_to_num(worst, worst, 0.0)

    @cached_property
    def _worst(self) -> float:
        rise = self.value(self.climb()) - self.clean
        return 2 * max(largest(rise), largest(self.clean.abs()), torch.finfo(rise.dtype).tiny)

    def options(self) -> dict[str, Any]:
        """The options of every attack."""
        told: dict[str, Any] = {"objective": self.objective}
        told |= {"seed": self.keys.seed, "index": self.keys.index, "execution": self.execution}
        return told if self.judge is None else {**told, "judge": self.judge}

    def climb(self, model: Model | None = None, **options: Any) -> Tensor:
        """The inputs that the gradient attack finds, `(B, *input)`, on this model or on another."""
        return self.run(pgd_attack, model, **{"steps": self.steps, **options})

    def run(self, attack: Callable[..., AttackResult], model: Model | None = None, **options: Any) -> Tensor:
        """The inputs that an attack finds, `(B, *input)`; the clean ones where it cannot run."""
        try:
            told = {**self.options(), **options}
            batch = self.whole._replace(threat=told.pop("threat", self.threat))
            if "start" in told:
                told["start"] = batch.inputs(told["start"])
            found = attack(self.model if model is None else model, **batch.arguments(), **told)
            return batch.attacked(found.x)
        except AssumptionError:
            raise
        except ValueError:  # detached, or not finite: the check of gradients says so; inputs were checked
            if model is not None:
                raise
            return self.x

    def missed(self, rival: Tensor, attack: Tensor | None = None) -> Interval:
        """The share of the damage, by gains `(B,)`, that the attack misses; see the module."""
        attack = (self.attack if attack is None else attack).double()
        rival = rival.double()
        both = float(torch.maximum(rival, attack).clamp(min=0).mean())
        if both <= 0:
            return Interval(0.0, 0.0, 0.0)
        mean, low, high = bootstrap(((rival - attack).clamp(min=0) / both).tolist(), resamples=2000)
        return Interval(mean, mean if math.isnan(low) else low, mean if math.isnan(high) else high)

    def rivals(self, name: str, gains: Mapping[str, Tensor], limit: float, says: str, remedy: str) -> Check:
        """A check that fails where a rival finds what the attack misses."""
        evidence = {"gain of gradient": average(self.attack)}
        evidence |= {f"gain of {rival}": average(gain) for rival, gain in gains.items()}
        beaten, most = [], ("", 0.0)
        for rival, gain in gains.items():
            missed = self.missed(gain)
            evidence |= {f"missed beside {rival}": missed.mean, f"missed beside {rival}, low": missed.low}
            most = max(most, (rival, missed.mean), key=lambda pair: pair[1])
            if missed.mean > limit and missed.low > SURE:
                beaten.append(f"{rival} ({missed.mean:.0%})")
        if not beaten:
            beside = f"; at most {most[1]:.0%} is missed, beside {most[0]}" if most[0] else ""
            return Check(name, "pass", evidence, f"{says} nothing much that the attack misses{beside}")
        message = f"{says} damage that the attack misses: {', '.join(beaten)}; {limit:.0%} is allowed"
        return Check(name, "flag", evidence, message, remedy)


def largest(values: Tensor) -> float:
    """The largest finite value; 0 where there is none."""
    finite = values[values.isfinite()]
    return float(finite.max()) if len(finite) else 0.0


def average(gain: Tensor) -> float:
    """The mean over the examples."""
    return float(gain.double().mean())
