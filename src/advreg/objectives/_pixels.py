"""Pixels of a mask head's logits: K classes that exclude each other, and which of them is true."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from advreg._core.device import check_values
from advreg._core.tensors import wide
from advreg.metrics import Activation, mask_like


@dataclass(frozen=True)
class Pixels:
    """Logits `scores` and `truth` (bool), `(B, K, C, N)`; where they count, `(B, C, N)`.

    Exclusive classes are K channels and C = 1; C independent channels have K = 2, with logits (0, z).
    """

    scores: Tensor
    truth: Tensor
    counted: Tensor

    def true(self) -> Tensor:
        """The true class's logit, `(B, C, N)`."""
        return torch.where(self.truth, self.scores, 0).sum(1)

    def others(self) -> Tensor:
        """The logits `(B, K, C, N)`, the true class's at minus infinity."""
        return self.scores.masked_fill(self.truth, -math.inf)

    def gap(self) -> Tensor:
        """The log odds against the true class, `(B, C, N)`."""
        return self.others().logsumexp(1) - self.true()

    def cross_entropy(self) -> Tensor:
        """`softplus(gap)`, `(B, C, N)`."""
        return -logsigmoid(-self.gap())

    def right(self) -> Tensor:
        """Whether the true class is the one decided for, `(B, C, N)` bool."""
        return self.truth.gather(1, self.scores.argmax(1, keepdim=True)).squeeze(1)

    def balance(self) -> Tensor:
        """Weights `(B, C, N)`, of mean 1 over what counts, with the same sum for each class that is there."""
        count = (self.truth & self.counted[:, None]).sum(-1, keepdim=True)
        share = self.counted.sum((1, 2)) / (count > 0).sum((1, 2, 3)).clamp(min=1)
        return (self.truth / count.clamp(min=1)).sum(1) * share[:, None, None]

    def mean(self, values: Tensor) -> Tensor:
        """The mean over what counts, `(B,)`; 0 where nothing does."""
        total = torch.where(self.counted, values, 0).sum((1, 2))
        return total / self.counted.sum((1, 2)).clamp(min=1)


def read(output: Tensor, target: Tensor, activation: Activation, ignore_index: int | None) -> Pixels:
    """The pixels of a mask head's logits `(B, C, *spatial)`; targets as for `soft_dice`, decided at 0.5."""
    refuse_probabilities(activation)
    mask, counted = mask_like(output, target, activation, ignore_index)
    scores, truth = wide(output), mask > 0.5
    if counted is not None:
        scores = torch.where(counted, scores, 0)
    if activation == "sigmoid":
        scores, truth = torch.stack([torch.zeros_like(scores), scores], 1), torch.stack([~truth, truth], 1)
    else:
        if target.shape == output.shape:
            check_values(target, partial(_check_classes, truth))
        scores, truth = scores.unsqueeze(2), truth.unsqueeze(2)
    counted = torch.ones_like(truth[:, 0]) if counted is None else counted
    return Pixels(scores.flatten(3), truth.flatten(3), counted.flatten(2))


def refuse_probabilities(activation: Activation) -> None:
    """Refuse what is not read from logits."""
    if activation not in ("sigmoid", "softmax"):
        raise ValueError(
            f"activation must be 'sigmoid' or 'softmax', surrogates read logits; got {activation!r}: "
            "return the head before its activation"
        )


def _check_classes(truth: Tensor) -> None:
    if not bool((truth.sum(1) == 1).all()):
        raise ValueError(
            "with activation='softmax' each pixel of the target must have one class; got pixels with none or "
            "several: pass class numbers (B, *spatial), or activation='sigmoid'"
        )
