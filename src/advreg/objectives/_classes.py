"""Surrogates of class heads, scores `(B, C)` with class numbers `(B,)`: cross-entropy and margins.

Targets and errors are those of `advreg.metrics.accuracy`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from advreg._core.classes import class_numbers
from advreg._core.tensors import wide


def class_cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of class scores, `-log softmax(output)` of the true class, `(B,)`, in nats.

    It is computed from the log odds, so that its gradient survives where the probability rounds to 1.

    Args:
        output: Logits `(B, C)`.
        target: Class numbers `(B,)`.

    Returns:
        `(B,)`, zero or more, float32 at least.

    Raises:
        TypeError: As for `advreg.metrics.accuracy`.
        ValueError: As for `advreg.metrics.accuracy`.

    Example:
        >>> import torch
        >>> from advreg.objectives import class_cross_entropy
        >>> class_cross_entropy(torch.zeros(1, 4), torch.tensor([2]))  # log(4)
        tensor([1.3863])

    Source:
        Goodfellow, Bengio and Courville, Deep learning, 2016, section 6.2.2.
    """
    true, others = _true_and_others(output, target)
    return -logsigmoid(true - others.logsumexp(1))


def class_margin(output: Tensor, target: Tensor, *, rank: int = 1) -> Tensor:
    """Margin of class scores: the largest other logit minus the true one, `(B,)`; above 0 where wrong.

    Unlike probabilities it never saturates.

    Args:
        output: Logits `(B, C)`.
        target: Class numbers `(B,)`.
        rank: 1 for the largest of the other logits, 2 for the second, and so on; with fewer other classes the
            last.

    Returns:
        `(B,)`, float32 at least, in units of the logits.

    Raises:
        TypeError: As for `advreg.metrics.accuracy`.
        ValueError: As for `advreg.metrics.accuracy`; a rank below 1.

    Example:
        >>> import torch
        >>> from advreg.objectives import class_margin
        >>> class_margin(torch.tensor([[5.0, 2.0, 4.0]]), torch.tensor([0]))
        tensor([-1.])

    Source:
        Carlini and Wagner, arXiv:1608.04644, f6 without its bound.
    """
    if rank < 1:
        raise ValueError(f"rank must be 1, the largest other logit, or more; got {rank}")
    true, others = _true_and_others(output, target)
    return others.topk(min(rank, output.shape[1] - 1), 1).values[:, -1] - true


def difference_of_logits_ratio(output: Tensor, target: Tensor) -> Tensor:
    """Difference of logits ratio, DLR: the margin over the spread of the largest logits, `(B,)`.

    `(max of z_i over i != y, minus z_y) / (z_(1) - z_(3))`, z_(k) being the k-th largest logit. Neither a
    factor on the logits nor a shift changes it. Of two classes there is no third, and a ratio would be 1 or
    -1, without a gradient: there it is the margin itself.

    Args:
        output: Logits `(B, C)`.
        target: Class numbers `(B,)`.

    Returns:
        `(B,)`, float32 at least; in [-1, 1] where the true class is among the first three.

    Raises:
        TypeError: As for `advreg.metrics.accuracy`.
        ValueError: As for `advreg.metrics.accuracy`.

    Example:
        >>> import torch
        >>> from advreg.objectives import difference_of_logits_ratio
        >>> difference_of_logits_ratio(torch.tensor([[5.0, 1.0, 4.0]]), torch.tensor([0]))
        tensor([-0.2500])

    Source:
        Croce and Hein, arXiv:2003.01690, Eq 6.
    """
    margin = class_margin(output, target)
    if output.shape[1] < 3:
        return margin
    top = wide(output).topk(3, 1).values
    return margin / (top[:, 0] - top[:, 2] + 1e-12)


def _true_and_others(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The true class's logit, `(B,)`, and the logits `(B, C)` with minus infinity in its place."""
    number = class_numbers(output, target)[:, None]
    scores = wide(output)
    truth = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, number, value=True)
    return scores.gather(1, number)[:, 0], scores.masked_fill(truth, -math.inf)
