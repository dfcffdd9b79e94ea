"""Surrogates of point and value heads: absolute and squared errors, the worst point.

`valid` is bool, shaped like the first dimensions of the output: `(B, K)` for points, `(B, 1, H, W)` for a
map. What is not valid counts for nothing, in value and gradient; an example without anything valid gives 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from advreg._core.valid import difference, distances, mean_of_valid


def absolute_error(output: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean of `|output - target|`, `(B, ...)` each, in units of the output; over what is `valid`.

    Example:
        >>> import torch
        >>> from advreg.objectives import absolute_error
        >>> absolute_error(torch.tensor([[3.0, -4.0]]), torch.zeros(1, 2))
        tensor([3.5000])

    Source:
        The L1 norm of Chen et al., Eq 6, as a mean.
    """
    return mean_of_valid(difference(output, target, valid).abs(), valid)


def huber(output: Tensor, target: Tensor, valid: Tensor | None = None, *, delta: float = 1.0) -> Tensor:
    """Mean of `d^2 / 2` where `|d| <= delta`, else `delta (|d| - delta / 2)`; over what is `valid`.

    Here `d = output - target`.

    Example:
        >>> import torch
        >>> from advreg.objectives import huber
        >>> huber(torch.tensor([[1.0, 4.0]]), torch.zeros(1, 2))
        tensor([2.])

    Source:
        Huber, Annals of Mathematical Statistics 35, 1964.
    """
    if not delta > 0:
        raise ValueError(f"delta must be positive, in units of the output; got {delta}")
    d = difference(output, target, valid)
    return mean_of_valid(huber_loss(d, torch.zeros_like(d), reduction="none", delta=delta), valid)


def worst_point(output: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """The largest Euclidean distance of corresponding points, `(B, ..., D)`, that are `valid`.

    Its gradient is 0 where they agree.

    Example:
        >>> import torch
        >>> from advreg.objectives import worst_point
        >>> worst_point(torch.tensor([[[0.0, 1.0], [3.0, 4.0]]]), torch.zeros(1, 2, 2))
        tensor([5.])

    Source:
        The maximum in place of the mean of Chen et al., Eq 13.
    """
    return distances(output, target, valid).flatten(1).amax(1)
