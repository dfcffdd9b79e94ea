"""Dice of the regions that contours enclose, `(B, K, 2)`."""

from __future__ import annotations

import torch
from torch import Tensor

from advreg._core.checks import check_finite_target
from advreg._core.valid import without_astray
from advreg.metrics._channels import channel_dice
from advreg.metrics._rasterise import rasterise


def contour_dice(output: Tensor, target: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Dice of the regions that two contours enclose, by `rasterise`.

    A contour with a point that is NaN or infinite encloses no region: such an output scores NaN.

    Args:
        output: `(B, K, 2)`, points (x, y) in pixels.
        target: `(B, L, 2)`.
        size: Rows and columns (H, W) of the image.

    Returns:
        `(B,)` in [0, 1]; two regions without a pixel agree, 1.

    Raises:
        ValueError: A shape that is not `(B, K, 2)`; NaN or infinity in the target.

    Example:
        >>> import torch
        >>> from advreg import contour_dice
        >>> square = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]])
        >>> contour_dice(square, square + torch.tensor([1.0, 0.0]), size=(4, 4))
        tensor([0.5000])

    Source:
        Chen et al., Eq 14.
    """
    check_finite_target(target)
    output, astray = without_astray(output)
    a, b = rasterise(output, size)[:, None], rasterise(target, size)[:, None]
    return torch.where(astray, torch.nan, channel_dice(a.float(), b.float())[:, 0])
