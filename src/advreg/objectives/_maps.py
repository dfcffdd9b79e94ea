"""Surrogate of depth heads: the share of pixels beyond a ratio, with a gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from advreg._core.maps import depths
from advreg._core.tensors import wide
from advreg._core.valid import mean_of_valid
from advreg.objectives._paths import between, check_path


@dataclass(frozen=True)
class SharpenedDelta:
    """`1 - delta` of depth, smooth at first and as hard as the metric in the end.

    The value is the mean over the pixels that count of `sigmoid(factor (|log(o / t)| / log(threshold) - 1))`,
    the factor being `first (last / first)^(share / until)`, and `last` from `until` on. An output of 0
    or less is wrong, without a gradient.

    Args:
        threshold: As for `advreg.metrics.delta`.
        first: The factor at the first step.
        last: The factor in the end.
        until: The share of the steps at which it is reached.
        share: Steps made over all steps; an attack sets it, by `at`.

    Raises:
        ValueError: A threshold of 1 or less; a path that leads nowhere.

    Example:
        >>> import torch
        >>> from advreg.objectives import SharpenedDelta
        >>> output, target = torch.tensor([[[1.0, 2.0]]]), torch.ones(1, 1, 2)
        >>> [round(SharpenedDelta().at(share)(output, target).item(), 3) for share in (0.0, 1.0)]
        [0.58, 0.503]

    Source:
        As for `SharpenedDice`; the measurements behind it: `benchmarks/heads.py`.
    """

    threshold: float = 1.25
    first: float = 1.0
    last: float = 5.0
    until: float = 0.6
    share: float = 1.0

    def __post_init__(self) -> None:
        check_path(self.first, self.last, self.until)
        if not 1 < self.threshold < math.inf:
            raise ValueError(
                f"threshold must be above 1 and finite, a ratio such as 1.25; got {self.threshold}"
            )

    def at(self, share: float) -> SharpenedDelta:
        """The objective after this share of the steps."""
        return replace(self, share=share)

    def __call__(self, output: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
        """The value, `(B,)` in [0, 1]; 0 without a pixel that counts."""
        output, target, there = depths(output, target, valid)
        guess = torch.where(there, wide(output), 1)
        truth = torch.where(there, target, 1).to(guess.dtype)
        lost = guess <= 0
        ratio = (torch.where(lost, truth, guess) / truth).log().abs() / math.log(self.threshold)
        factor = between(self.first, self.last, self.share / self.until)
        wrong = torch.where(lost, 1, (factor * (ratio - 1)).sigmoid())
        return mean_of_valid(torch.where(there, wrong, 0), there)
