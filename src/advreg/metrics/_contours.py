"""Dice of the regions that contours enclose, `(B, K, 2)`."""

from __future__ import annotations

from torch import Tensor

from advreg.metrics._masks import mean_dice
from advreg.metrics._rasterise import rasterise


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
    return mean_dice(a.float(), b.float())
