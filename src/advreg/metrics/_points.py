"""Distances of points, `(B, K, D)`."""

from __future__ import annotations

from torch import Tensor

from advreg._core.checks import same_shape
from advreg._core.valid import distances, mean_of_valid, refuse_points


def point_error(
    output: Tensor, target: Tensor, valid: Tensor | None = None, weights: Tensor | None = None
) -> Tensor:
    """Mean Euclidean distance between corresponding points, in the units of the points.

    `sum of ||o_k - t_k||_2 over the valid k / their number`, 0 for an example without a valid point; with
    weights `sum of w_k ||o_k - t_k||_2 / sum of w_k`.

    Args:
        output: `(B, K, D)`.
        target: `(B, K, D)`. Points that were not annotated must be told by `valid`.
        valid: Which points count, bool `(B, K)`; by default all. It must be cut with the batch: take it from
            the target, as below, or pack both, `point_error(output, y["points"], valid=y["visible"])`.
        weights: What each point weighs, `(B, K)`, or `(K,)` for all examples; by default all the same.

    Returns:
        `(B,)`, float32 at least.

    Raises:
        TypeError: A `valid` that is not bool.
        ValueError: Shapes that differ, or are not `(B, K, D)`; NaN or infinity in a valid point of the
            target; weights of another shape, below zero or not finite.

    Example:
        >>> import torch
        >>> from advreg import point_error
        >>> target = torch.tensor([[[0.0, 0.0], [torch.nan, torch.nan]]])
        >>> point_error(torch.tensor([[[3.0, 4.0], [9.0, 9.0]]]), target, valid=target.isfinite().all(-1))
        tensor([5.])

    Source:
        Chen et al., Eq 13.
    """
    same_shape(output, target)
    if output.ndim != 3:
        refuse_points(output)
    return mean_of_valid(distances(output, target, valid), valid, weights)
