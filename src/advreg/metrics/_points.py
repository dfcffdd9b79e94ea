"""Distances of points, `(B, K, D)`."""

from __future__ import annotations

import torch
from torch import Tensor

from advreg._core.checks import same_shape


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
