"""Points that heat maps, `(B, K, H, W)`, mean, and how far they are off."""

from __future__ import annotations

from torch import Tensor

from advreg._core.heatmaps import check_maps, check_stride, meant, peaks
from advreg.metrics._points import point_error


def heatmap_points(output: Tensor, *, stride: float = 1.0) -> Tensor:
    """Points (x, y) at which heat maps are largest: arg-max decoding.

    A point is the cell's column and row, counted from 0, times the stride. Of equal values the first in
    reading order counts. It has no gradient.

    Args:
        output: `(B, K, H, W)`, logits, probabilities or any other scores.
        stride: Pixels of the image for each cell.

    Returns:
        `(B, K, 2)`, float32 at least; NaN for a map with NaN.

    Raises:
        ValueError: Another shape; a stride that is not above zero.

    Example:
        >>> import torch
        >>> from advreg.metrics import heatmap_points
        >>> maps = torch.zeros(1, 1, 4, 5)
        >>> maps[0, 0, 1, 3] = 1.0
        >>> heatmap_points(maps, stride=4)
        tensor([[[12.,  4.]]])

    Source:
        Newell, Yang and Deng, Stacked hourglass networks, arXiv:1603.06937, without its quarter of a pixel.
    """
    check_stride(stride)
    check_maps(output)
    return peaks(output, stride)


def heatmap_error(
    output: Tensor,
    target: Tensor,
    valid: Tensor | None = None,
    weights: Tensor | None = None,
    *,
    stride: float = 1.0,
) -> Tensor:
    """Mean distance of the points at which heat maps are largest from the true ones, in pixels.

    The points are those of `heatmap_points`, the mean that of `point_error`. It has no gradient.

    Args:
        output: `(B, K, H, W)`.
        target: The true points (x, y), `(B, K, 2)`, in pixels of the image; or true heat maps shaped like
            `output`, whose largest values are meant.
        valid: Which points count, bool `(B, K)`; by default all.
        weights: What each point weighs, `(B, K)` or `(K,)`; by default all the same.
        stride: Pixels of the image for each cell; 1 for distances in cells.

    Returns:
        `(B,)`, float32 at least, 0 for an example without a valid point; NaN where a map that counts holds
        NaN.

    Raises:
        TypeError: Something else than tensors; a `valid` that is not bool.
        ValueError: Other shapes; where it counts, NaN or infinity in the target, and a true heat map that is
            flat.

    Example:
        >>> import torch
        >>> from advreg.metrics import heatmap_error
        >>> maps = torch.zeros(1, 1, 4, 5)
        >>> maps[0, 0, 1, 3] = 1.0
        >>> heatmap_error(maps, torch.tensor([[[0.0, 1.0]]]))
        tensor([3.])

    Source:
        Chen et al., Eq 13, of the decoded points.
    """
    true = meant(output, target, valid, stride)
    return point_error(peaks(output, stride), true, valid, weights)
