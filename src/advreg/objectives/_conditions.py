"""Conditions on metrics, for stop rules and matches."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from advreg._core.types import Output, PerExample, Target


@dataclass(frozen=True)
class Within:
    """A condition on a metric of an output and its target: `low <= function(output, target) <= high`.

    Example:
        >>> import torch
        >>> from advreg import point_error
        >>> close = Within(point_error, high=1.0)
        >>> close(torch.tensor([[[0.0, 0.5]], [[0.0, 2.0]]]), torch.zeros(2, 1, 2))
        tensor([ True, False])
    """

    function: PerExample
    low: float = -math.inf
    high: float = math.inf

    def __call__(self, output: Output, target: Target) -> Tensor:
        """Whether it holds, `(B,)` bool."""
        value = self.function(output, target)
        return (value >= self.low) & (value <= self.high)
