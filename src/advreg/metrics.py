"""What is measured: Dice of masks and of contours, point error, AUROC. One number per example.

Shapes: masks are `(B, C, *spatial)`, contours `(B, K, 2)`.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from advreg.contours import rasterise
from advreg.looking import once

Activation = Literal["sigmoid", "softmax", "none"]
"""How a mask head is to be read: logits of independent channels, of exclusive classes, or probabilities."""


def soft_dice(
    output: Tensor, target: Tensor, *, activation: Activation = "sigmoid", ignore_index: int | None = None
) -> Tensor:
    """Differentiable Dice: `2 sum(p m) / (sum p + sum m)` with p the probabilities; mean over channels.

    A channel that is empty in both (`sum p + sum m = 0`) counts as 1; one that is empty in the target alone
    counts as 0, without a gradient.

    Args:
        output: `(B, C, *spatial)`: logits, or probabilities with `activation="none"`.
        target: The mask, shaped like `output`, values in [0, 1], any dtype; with "softmax" also class
            numbers `(B, *spatial)`.
        activation: How to read `output`.
        ignore_index: Where the target is this number, neither prediction nor target counts.

    Returns:
        `(B,)` in [0, 1].

    Raises:
        ValueError: Shapes that differ (nothing is broadcast); target values outside [0, 1].

    Example:
        >>> import torch
        >>> from advreg import soft_dice
        >>> mask = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
        >>> soft_dice(100 * (mask - 0.5), mask)
        tensor([1.])
        >>> soft_dice(torch.full_like(mask, 0.5), mask, activation="none")
        tensor([0.5000])

    Source:
        Chen et al., Eqs 2, 5 and 7.
    """
    mask, counted = mask_like(output, target, activation, ignore_index)
    return _dice(probabilities(output, activation), mask.to(output.dtype), counted)


def dice(
    output: Tensor, target: Tensor, *, activation: Activation = "sigmoid", ignore_index: int | None = None
) -> Tensor:
    """Dice of the decided mask: `2 |A ∩ B| / (|A| + |B|)`; mean over channels.

    Two empty masks agree, 1; an empty prediction of something scores 0. The decision is logit > 0,
    probability > 0.5, or the largest class.

    Args:
        output: As for `soft_dice`.
        target: As for `soft_dice`; values above 0.5 are inside.
        activation: How to read `output`.
        ignore_index: As for `soft_dice`.

    Returns:
        `(B,)` in [0, 1].

    Raises:
        ValueError: As for `soft_dice`.

    Source:
        Chen et al., Eq 15.
    """
    mask, counted = mask_like(output, target, activation, ignore_index)
    wide = torch.promote_types(output.dtype, torch.float32)
    return _dice(decide(output, activation).to(wide), (mask > 0.5).to(wide), counted)


def contour_dice(output: Tensor, target: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Dice of the regions that two contours enclose, by `rasterise`.

    Args:
        output: `(B, K, 2)`, points (x, y) in pixels.
        target: `(B, L, 2)`.
        size: Rows and columns (H, W) of the image.

    Returns:
        `(B,)` in [0, 1]; two regions without a pixel agree, 1.

    Example:
        >>> import torch
        >>> from advreg import contour_dice
        >>> square = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]])
        >>> contour_dice(square, square + torch.tensor([1.0, 0.0]), size=(4, 4))
        tensor([0.5000])

    Source:
        Chen et al., Eq 14.
    """
    a, b = rasterise(output, size)[:, None], rasterise(target, size)[:, None]
    return _dice(a.float(), b.float())


def point_error(output: Tensor, target: Tensor) -> Tensor:
    """Mean Euclidean distance between corresponding points, in the units of the points.

    Args:
        output: `(B, K, D)`.
        target: `(B, K, D)`.

    Returns:
        `(B,)`.

    Raises:
        ValueError: Shapes that differ.

    Source:
        Chen et al., Eq 13.
    """
    same_shape(output, target)
    distance: Tensor = torch.linalg.vector_norm(output - target, dim=-1)
    return distance.flatten(1).mean(1)


def auroc(scores: Tensor, positive: Tensor) -> Tensor:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    Args:
        scores: `(N,)`, larger for positives.
        positive: `(N,)` bool.

    Returns:
        A float64 scalar in [0, 1].

    Raises:
        ValueError: Shapes that differ, NaN, or only one of the two classes.

    Example:
        >>> import torch
        >>> from advreg import auroc
        >>> auroc(torch.tensor([0.1, 0.4, 0.4, 0.9]), torch.tensor([False, False, True, True])).item()
        0.875

    Source:
        Hanley and McNeil, Radiology 143, 1982.
    """
    high, low = _positive_and_negative(scores, positive, "AUROC")
    wins: Tensor = torch.searchsorted(low, high) + torch.searchsorted(low, high, right=True)
    area: Tensor = wins.double().mean() / (2 * len(low))
    return area


def aupr(scores: Tensor, positive: Tensor) -> Tensor:
    """Area under the precision-recall curve: the average precision, ties counted together.

    `sum of (recall_n - recall_n-1) * precision_n` over the distinct scores from the largest down. It depends
    on how many there are of each class: for scores that say nothing it is the share of the positives.

    Args:
        scores: `(N,)`, larger for positives.
        positive: `(N,)` bool.

    Returns:
        A float64 scalar in [0, 1].

    Raises:
        ValueError: As for `auroc`.

    Example:
        >>> import torch
        >>> from advreg.metrics import aupr
        >>> scores, positive = torch.tensor([0.1, 0.4, 0.4, 0.9]), torch.tensor([False, False, True, True])
        >>> round(aupr(scores, positive).item(), 4)
        0.8333

    Source:
        Davis and Goadrich, The relationship between precision-recall and ROC curves, ICML 2006; the sum is
        scikit-learn's `average_precision_score`.
    """
    high, low = _positive_and_negative(scores, positive, "AUPR")
    hits = len(high) - torch.searchsorted(high, high)
    false = len(low) - torch.searchsorted(low, high)
    return (hits.double() / (hits + false)).mean()


def fpr_at_tpr(scores: Tensor, positive: Tensor, *, tpr: float = 0.95) -> Tensor:
    """The false positive rate at the largest threshold that catches this share of the positives.

    Args:
        scores: `(N,)`, larger for positives.
        positive: `(N,)` bool.
        tpr: The share of positives to catch, at least: what scores the threshold or more is called positive.

    Returns:
        A float64 scalar in [0, 1]: the share of the negatives that are called positive as well.

    Raises:
        ValueError: As for `auroc`; a share outside (0, 1].

    Example:
        >>> import torch
        >>> from advreg.metrics import fpr_at_tpr
        >>> fpr_at_tpr(torch.tensor([0.1, 0.4, 0.4, 0.9]), torch.tensor([False, False, True, True])).item()
        0.5

    Source:
        Hendrycks et al., Deep anomaly detection with outlier exposure, arXiv:1812.04606 (FPR95).
    """
    if not 0 < tpr <= 1:
        raise ValueError(f"tpr must be in (0, 1]; got {tpr}")
    high, low = _positive_and_negative(scores, positive, "FPR")
    caught = torch.arange(len(high), 0, -1, dtype=torch.float64, device=high.device) / len(high)
    threshold = high[(caught >= tpr).sum() - 1]
    return (low >= threshold).double().mean()


def probabilities(output: Tensor, activation: Activation) -> Tensor:
    """A mask head's output as probabilities, `(B, C, *spatial)`."""
    if activation == "sigmoid":
        return output.sigmoid()
    if activation == "softmax":
        return output.softmax(1)
    if activation == "none":
        return output
    raise ValueError(f"activation must be 'sigmoid', 'softmax' or 'none'; got {activation!r}")


def decide(output: Tensor, activation: Activation) -> Tensor:
    """A mask head's output as a mask, `(B, C, *spatial)` bool; a mask of zeros and ones stays as it is."""
    if activation == "softmax":
        return torch.zeros_like(output, dtype=torch.bool).scatter_(
            1, output.argmax(1, keepdim=True), value=True
        )
    return output > (0.5 if activation == "none" else 0.0)


def mask_like(
    output: Tensor, target: Tensor, activation: Activation, ignore_index: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """The target as a mask shaped like `output`, and where it counts; checked, never broadcast.

    What counts is bool, `(B, C, *spatial)` or, of class numbers, `(B, 1, *spatial)`; None: everything.
    """
    given, tensors = target, isinstance(output, Tensor) and isinstance(target, Tensor)
    numbers = tensors and activation == "softmax" and target.shape == output.shape[:1] + output.shape[2:]
    if not numbers:
        same_shape(output, target)
    if output.ndim < 4:
        raise ValueError(
            f"a mask must be (B, C, *spatial) with two spatial dimensions or more; got {tuple(output.shape)}:"
            " add the channel with mask.unsqueeze(1) to output and target, for a 1D signal a dimension too"
        )
    if numbers:
        target = target.long().unsqueeze(1)
    elif activation == "softmax" and ignore_index is not None:
        raise ValueError(
            "with activation='softmax', ignore_index needs class numbers (B, *spatial); got one channel "
            "for each class: pass target.argmax(1)"
        )
    counted = None if ignore_index is None else target != ignore_index
    if counted is not None:
        target = target.masked_fill(~counted, 0)
    top = output.shape[1] - 1 if numbers else 1
    once(given, (mask_like, top, ignore_index), partial(_check_range, target, top, numbers, counted))
    if numbers:
        target = torch.zeros_like(output, dtype=torch.bool).scatter_(1, target, value=True)
    return target, counted


def _check_range(target: Tensor, top: int, numbers: bool, counted: Tensor | None) -> None:
    low, high = target.amin().item(), target.amax().item()
    if not 0 <= low <= high <= top:
        remedy = (
            "class numbers count the channels of the output" if numbers else "pass a mask, (t > threshold)"
        )
        remedy += "; to leave a value out, ignore_index=255" if counted is None else ""
        raise ValueError(f"target values must lie in [0, {top}]; got [{low:.6g}, {high:.6g}]: {remedy}")


def same_shape(output: Tensor, target: Tensor) -> None:
    """Refuse to broadcast: `(B, 1)` against `(B,)` would silently compare every pair of examples."""
    if not isinstance(output, Tensor) or not isinstance(target, Tensor):
        raise TypeError(
            f"output and target must be tensors; got {type(output).__name__} and {type(target).__name__}: "
            "for one head of several, wrap the function, on('mask', f)"
        )
    if output.shape != target.shape:
        raise ValueError(
            f"output and target must have the same shape, nothing is broadcast; got {tuple(output.shape)} "
            f"and {tuple(target.shape)}: reshape the target like the output"
        )


def _positive_and_negative(scores: Tensor, positive: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """The scores of either class, sorted; checked."""
    same_shape(scores, positive)
    if scores.ndim != 1 or bool(scores.isnan().any()):
        raise ValueError(
            f"scores must be (N,) without NaN; got {tuple(scores.shape)}, NaN {bool(scores.isnan().any())}"
        )
    positive = positive.bool()
    high, low = scores[positive].sort().values, scores[~positive].sort().values
    if len(high) == 0 or len(low) == 0:
        raise ValueError(f"{name} needs both classes; got {len(high)} positives and {len(low)} negatives")
    return high, low


def _dice(a: Tensor, b: Tensor, counted: Tensor | None = None) -> Tensor:
    if counted is not None:
        a, b = torch.where(counted, a, 0), torch.where(counted, b, 0)
    overlap, total = (a * b).flatten(2).sum(2), a.flatten(2).sum(2) + b.flatten(2).sum(2)
    share = 2 * overlap / torch.where(total > 0, total, 1)
    return torch.where(total > 0, share, 1).mean(1)
