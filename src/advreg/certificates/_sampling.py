"""Sampling of a network under noise: what all certificates share, from the arguments to the draws."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from advreg._core.checks import check_sigma
from advreg._core.keys import Keys
from advreg._core.types import Input, Model, PerExample, Target
from advreg.certificates._noise import slack, with_noise
from advreg.execution import Batch, Execution, Parts, running
from advreg.objectives import heads_read


@dataclass(frozen=True)
class Sampling:
    """Sampling of a network under noise, at a confidence.

    Args:
        sigma: Deviation of the noise.
        samples: Draws of it, at most.
        confidence: Of what is said of an example.
        jointly: The number of statements that hold at once (Bonferroni).
        noisy_input: Of several inputs the key of the one that noise is added to.
        execution: How the model is run.

    Raises:
        ValueError: Numbers that are out of range.
    """

    sigma: float
    samples: int
    confidence: float
    jointly: int = 1
    noisy_input: str | int | None = None
    execution: Execution | None = None

    def __post_init__(self) -> None:
        check_sigma(self.sigma)
        if self.samples < 1 or not 0 < self.confidence < 1 or self.jointly < 1:
            raise ValueError(
                "expected samples and jointly of 1 or more, and a confidence between 0 and 1; got "
                f"samples={self.samples}, jointly={self.jointly}, confidence={self.confidence}"
            )

    @property
    def alpha(self) -> float:
        """The chance that a statement may fail with."""
        return (1 - self.confidence) / self.jointly

    @contextmanager
    def noisy(
        self,
        model: Model,
        x: Input,
        y: Target,
        functions: Mapping[str, PerExample],
        seed: int,
        index: Tensor | None,
        reads: Iterable[str | int] | None = None,
    ) -> Iterator[Noisy]:
        """Run a model under noise.

        Args:
            model: The network.
            x: Its inputs.
            y: The target; None for certificates that need no truth.
            functions: What is asked of an output, by name, `(output, target) -> (B,)`: by it the assumptions
                are tested, that examples do not interact above all.
            seed: With `index`, decides the noise.
            index: Each example's place in its data set.
            reads: The heads that are read; None for those that the functions are known to read.
        """
        batch = Batch.unbounded(x, y, self.noisy_input)
        reads = heads_read(*functions.values()) if reads is None else reads
        with torch.no_grad(), running(model, reads, batch.inputs(), self.execution) as network:
            batch = network.examine(batch, functions, resized=True).batch
            with network.quick() as quick:
                yield Noisy(quick, network.parts, batch, Keys.of(batch.x, seed, index), self.sigma)


@dataclass(frozen=True, eq=False)
class Noisy:
    """A network under noise, at some examples.

    Attributes:
        model: The network.
        parts: What runs it in parts.
        batch: The examples, `B`.
        keys: Theirs.
        sigma: Deviation of the noise.
    """

    model: Model
    parts: Parts
    batch: Batch
    keys: Keys
    sigma: float

    @property
    def slack(self) -> float:
        """What the rounding of the inputs takes off each radius."""
        return slack(self.batch.x)

    def take(self, some: Tensor) -> Noisy:
        """Of some of the examples, by their places `(b,)`."""
        keys = Keys(self.keys.seed, self.keys.index.cpu()[some.cpu()])
        return Noisy(self.model, self.parts, self.batch.take(some.to(self.batch.x.device)), keys, self.sigma)

    def seen(self, look: Callable[[Model, Batch], Tensor], draws: range) -> Tensor:
        """What a function sees of the network under draws of each example's own noise, `(S, B, ...)`.

        As many run at once as fit.

        Args:
            look: The network and a part of the batch, with noise, to `(b, ...)`.
            draws: The numbers of the draws, `S`: the same number is the same noise.
        """
        count, found = len(self.batch.x), []
        together = max(1, self.parts.size // count)
        for first in range(draws.start, draws.stop, together):
            now = range(first, min(first + together, draws.stop))
            normal = (self.keys.fold_in(draw).fine_normal(self.batch.x) for draw in now)
            x = torch.cat([with_noise(self.batch.x, one, self.sigma) for one in normal])
            several = self.batch.repeat(len(now))._replace(x=x)
            values = torch.cat(list(self.parts.run(partial(look, self.model), several)))
            found.append(values.reshape(len(now), count, *values.shape[1:]))
        return torch.cat(found)
