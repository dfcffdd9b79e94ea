"""Surrogate of contour heads: the overlap of regions, with a gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from advreg._core.checks import check_finite_target
from advreg._core.valid import without_astray
from advreg.metrics import rasterise, soft_dice, soft_rasterise


def contour_overlap(
    output: Tensor, target: Tensor, *, size: tuple[int, int], softness: float = 1.0
) -> Tensor:
    """`1 - Dice` of the regions that two contours enclose: `contour_dice` with a gradient.

    Contours are `(B, K, 2)` and `(B, L, 2)`, points (x, y) in pixels of an image of `size`, (H, W). The
    output's region is soft, `soft_rasterise`; the target's is hard, as the metric has it, so that the value
    tends to `1 - contour_dice` as `softness`, in pixels, goes to 0. An output with a point that is not finite
    gives NaN.

    Example:
        >>> import torch
        >>> from advreg.objectives import contour_overlap
        >>> square = torch.tensor([[[0.5, 0.5], [2.5, 0.5], [2.5, 2.5], [0.5, 2.5]]])
        >>> contour_overlap(square + torch.tensor([1.0, 0.0]), square, size=(4, 4), softness=0.01)
        tensor([0.5000])

    Source:
        Chen et al., Eq 14.
    """
    check_finite_target(target)
    output, astray = without_astray(output)
    region = soft_rasterise(output, size, softness)[:, None]
    overlap = soft_dice(region, rasterise(target, size)[:, None], activation="none")
    return 1 - torch.where(astray, torch.nan, overlap)
