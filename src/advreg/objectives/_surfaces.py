"""Surrogates made for distance: what is wrong counts the more the farther it is from the truth."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from advreg._core.spacing import Spacing, pixel_sizes, split_spacing
from advreg._core.tensors import per_example, positive, wide
from advreg.metrics import Activation, distance_map, mask_like, probabilities
from advreg.objectives._pixels import read, refuse_probabilities


def boundary(
    output: Tensor, target: Any, *, activation: Activation = "sigmoid", spacing: Spacing = 1.0
) -> Tensor:
    """Boundary loss: `mean of phi p`, phi the signed distance from the truth's border, p the probability.

    phi is negative inside the truth, positive outside, and counts in diagonals of the image; in a channel
    that the truth lacks it is 1. Ascending it empties the mask and fills what is far from it.

    Args:
        output: Logits `(B, C, *spatial)`.
        target: As for `advreg.metrics.hausdorff`, a mapping of "mask" and "spacing" among it.
        activation: "sigmoid" or "softmax".
        spacing: As for `advreg.metrics.hausdorff`.

    Returns:
        `(B,)` in [-1, 1].

    Raises:
        ValueError: As for the surrogates of masks; spacing as for `advreg.metrics.hausdorff`.

    Example:
        >>> import torch
        >>> from advreg.objectives import boundary
        >>> boundary(torch.tensor([[[[-9.0, -9.0, 9.0]]]]), torch.tensor([[[[1.0, 0.0, 0.0]]]]))
        tensor([0.3333])

    Source:
        Kervadec et al., Boundary loss for highly unbalanced segmentation, arXiv:1812.07032, Eq 5.
    """
    refuse_probabilities(activation)
    _, phi = _signed(output, target, activation, spacing)
    p = probabilities(wide(output), activation)
    return (phi.to(p.dtype) * p).flatten(1).mean(1)


def distance_cross_entropy(
    output: Tensor,
    target: Any,
    *,
    activation: Activation = "sigmoid",
    spacing: Spacing = 1.0,
    power: float = 2.0,
) -> Tensor:
    """Cross-entropy of the pixels that are still right, weighed by a power of their distance from the border.

    `mean of |phi|^power CE`, phi as for `boundary`; with "softmax" that of the pixel's true class. It falls
    when a pixel flips, so judge iterates by another measure.

    Args:
        output: As for `boundary`.
        target: As for `boundary`.
        activation: As for `boundary`.
        spacing: As for `boundary`.
        power: Of the distance, zero or more; 0 is `masked_cross_entropy`.

    Returns:
        `(B,)`.

    Raises:
        ValueError: As for `boundary`; a power below zero.

    Example:
        >>> import torch
        >>> from advreg.objectives import distance_cross_entropy
        >>> logits, mask = torch.tensor([[[[1.0, -1.0, -1.0]]]]), torch.tensor([[[[1.0, 0.0, 0.0]]]])
        >>> distance_cross_entropy(logits, mask)  # 0.3133 (1/4 + 1/4 + 1) / 3
        tensor([0.1566])

    Source:
        Karimi and Salcudean, Reducing the Hausdorff distance in medical image segmentation, arXiv:1904.10030,
        Eq 8, with cross-entropy in place of squares.
    """
    if not power >= 0:
        raise ValueError(f"power must be zero or more; got {power}")
    mask, phi = _signed(output, target, activation, spacing)
    pixels = read(output, split_spacing(target)[0], activation, None)
    weight = phi.abs() if activation == "sigmoid" else torch.where(mask, phi.abs(), 0).sum(1, keepdim=True)
    loss = pixels.right() * pixels.cross_entropy()
    return pixels.mean(weight.flatten(2).to(loss.dtype).pow(power) * loss)


def far_false_positives(
    output: Tensor,
    target: Any,
    *,
    activation: Activation = "sigmoid",
    spacing: Spacing = 1.0,
    power: float = 2.0,
) -> Tensor:
    """Probability far outside the truth: `log(mean of phi^power p over what is outside)`, mean over channels.

    phi is as for `boundary`. By the logarithm the pixels that are nearest to a false positive, and farthest
    from the truth, have the gradient: one of them decides a Hausdorff distance. A channel without a pixel
    outside counts as 0.

    Args:
        output: As for `boundary`.
        target: As for `boundary`.
        activation: As for `boundary`.
        spacing: As for `boundary`.
        power: Of the distance, zero or more.

    Returns:
        `(B,)`.

    Raises:
        ValueError: As for `distance_cross_entropy`.

    Example:
        >>> import torch
        >>> from advreg.objectives import far_false_positives
        >>> mask = torch.tensor([[[[1.0, 0.0, 0.0]]]])
        >>> near, far = torch.tensor([[[[9.0, 9.0, -9.0]]]]), torch.tensor([[[[9.0, -9.0, 9.0]]]])
        >>> far_false_positives(near, mask) < far_false_positives(far, mask)
        tensor([True])

    Source:
        The distance map of Kervadec et al., arXiv:1812.07032, as a weight of false positives.
    """
    if not power >= 0:
        raise ValueError(f"power must be zero or more; got {power}")
    refuse_probabilities(activation)
    mask, phi = _signed(output, target, activation, spacing)
    scores = wide(output)
    log_p = scores.log_softmax(1) if activation == "softmax" else torch.nn.functional.logsigmoid(scores)
    log_weight = power * phi.to(log_p.dtype).clamp(min=0).log() if power else torch.zeros_like(log_p)
    outside = ~mask
    terms = torch.where(outside, log_weight + log_p, -torch.inf).flatten(2)
    count = outside.flatten(2).sum(2)
    terms = torch.where((count > 0).unsqueeze(2), terms, 0)  # no row of infinities, whose gradient is NaN
    values = terms.logsumexp(2) - count.clamp(min=1).to(terms.dtype).log()
    values = torch.where(output.isnan().flatten(2).any(2), torch.nan, values)
    return torch.where((count > 0) | values.isnan(), values, 0).mean(1)


def _signed(output: Tensor, target: Any, activation: Activation, spacing: Spacing) -> tuple[Tensor, Tensor]:
    """The true mask, and the signed distance from its border in diagonals, `(B, C, *spatial)`."""
    own, found = split_spacing(target, spacing)
    mask, _ = mask_like(output, own, activation)
    sizes = pixel_sizes(found, len(output), output.ndim - 2, output.device, rows=own is not target)
    inside = mask > 0.5
    extent = torch.tensor(output.shape[2:], device=output.device) - 1
    diagonal = per_example(positive((sizes * extent).norm(dim=1)), output)
    apart = torch.where(inside, distance_map(~inside, sizes), distance_map(inside, sizes))
    share = (apart / diagonal).clamp(max=1)
    return inside, torch.where(inside, -share, share)
