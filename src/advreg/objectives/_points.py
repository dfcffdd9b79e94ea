"""Surrogates of point and value heads: absolute and squared errors, the worst point."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from advreg._core.checks import same_shape


def absolute_error(output: Tensor, target: Tensor) -> Tensor:
    """Mean of `|output - target|`, `(B, ...)` each, in units of the output.

    Example:
        >>> import torch
        >>> from advreg.objectives import absolute_error
        >>> absolute_error(torch.tensor([[3.0, -4.0]]), torch.zeros(1, 2))
        tensor([3.5000])

    Source:
        The L1 norm of Chen et al., Eq 6, as a mean.
    """
    same_shape(output, target)
    return (output - target).flatten(1).abs().mean(1)


def huber(output: Tensor, target: Tensor, *, delta: float = 1.0) -> Tensor:
    """Mean of `d^2 / 2` where `|d| <= delta`, else `delta (|d| - delta / 2)`; `d = output - target`.

    Example:
        >>> import torch
        >>> from advreg.objectives import huber
        >>> huber(torch.tensor([[1.0, 4.0]]), torch.zeros(1, 2))
        tensor([2.])

    Source:
        Huber, Annals of Mathematical Statistics 35, 1964.
    """
    same_shape(output, target)
    if not delta > 0:
        raise ValueError(f"delta must be positive, in units of the output; got {delta}")
    return huber_loss(output, target, reduction="none", delta=delta).flatten(1).mean(1)


def worst_point(output: Tensor, target: Tensor) -> Tensor:
    """The largest Euclidean distance of corresponding points, `(B, ..., D)`; gradient 0 where they agree.

    Example:
        >>> import torch
        >>> from advreg.objectives import worst_point
        >>> worst_point(torch.tensor([[[0.0, 1.0], [3.0, 4.0]]]), torch.zeros(1, 2, 2))
        tensor([5.])

    Source:
        The maximum in place of the mean of Chen et al., Eq 13.
    """
    same_shape(output, target)
    distance: Tensor = torch.linalg.vector_norm(output - target, dim=-1)
    return distance.reshape(len(output), -1).amax(1)
