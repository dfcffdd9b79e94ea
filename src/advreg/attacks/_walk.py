"""Nearest in-distribution inputs: the limit of what any detector can hold, and the walk towards them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from advreg._core.tensors import wide
from advreg._core.types import Input
from advreg.execution import Batch
from advreg.threats import Norm, Threats, l1, l2, linf

_POWERS = {l1: 1.0, l2: 2.0, linf: float("inf")}


class Nearest(NamedTuple):
    """The nearest in-distribution input of each strange one.

    Attributes:
        distance: How far it is, `(B,)`.
        place: Which it is, `(B,)`.
    """

    distance: Tensor
    place: Tensor


def nearest_in_distribution(x_out: Tensor, images: Tensor, norm: Norm = l2) -> Nearest:
    """Nearest of some in-distribution inputs, and its distance: from that radius on detection is impossible.

    Where a ball around a strange input holds an in-distribution one, the adversary may hand that in. No
    detector of any kind can refuse it without refusing the input itself, and no attack is needed: report
    `(nearest.distance <= radius).float().mean()` beside every measure of detection under attack.

    Args:
        x_out: Out-of-distribution inputs, the centres of the threat, `(B, *input)`.
        images: In-distribution inputs, `(N, *input)`; the more of them, the nearer the limit.
        norm: `l2`, `l1` or `linf`.

    Returns:
        A `Nearest`.

    Raises:
        ValueError: Inputs of two shapes, none, or not finite; another norm.

    Example:
        >>> import torch
        >>> from advreg.attacks import nearest_in_distribution
        >>> images = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
        >>> nearest = nearest_in_distribution(torch.tensor([[1.0, 0.6], [0.3, 0.4]]), images)
        >>> nearest.distance.numpy().round(2), nearest.place.tolist()
        (array([0.4, 0.5], dtype=float32), [1, 0])

    Source:
        The ball is that of Chen et al., section 2.3, Eqs 6 and 7.
    """
    if norm not in _POWERS:
        raise ValueError(f"norm must be l2, l1 or linf; got {norm!r}")
    if x_out.shape[1:] != images.shape[1:] or not len(x_out) or not len(images):
        raise ValueError(
            f"x_out and images must be batches of inputs of one shape; got {tuple(x_out.shape)} and "
            f"{tuple(images.shape)}"
        )
    if not bool(x_out.isfinite().all() and images.isfinite().all()):
        raise ValueError("x_out and images must be finite; got NaN or infinity")
    far, near = (wide(one.detach()).flatten(1) for one in (x_out, images.to(x_out.device)))
    distance = torch.cdist(far, near, p=_POWERS[norm], compute_mode="donot_use_mm_for_euclid_dist")
    return Nearest(*distance.min(1))


def walked(x_in: Input, x_out: Input, threat: Threats) -> Input:
    """The point of the threat around `x_out` that is nearest to `x_in`: under L2 straight towards it."""
    inside, outside = (Batch.of(one, None, threat) for one in (x_in, x_out))
    point = outside.threat.project(inside.x, outside.x)
    there: Input = outside._replace(x=point).arguments()["x"]
    return there
