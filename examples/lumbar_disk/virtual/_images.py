"""Images looked up where a map says, and the places where a map folds.

Coordinates are (x, y) in pixels, pixel centres at integers, (0, 0) the centre of the top-left pixel.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def resample(images: Tensor, mapping: Tensor) -> Tensor:
    """Look up images at given places, bilinearly; beyond the border the border's value is repeated.

    Args:
        images: `(B, C, H, W)` float32 or float64, finite.
        mapping: `(B, H', W', 2)` where to look, (x, y) in pixels. At whole pixels the result is the image's
            own value, bit for bit.

    Returns:
        `(B, C, H', W')`.

    Raises:
        TypeError: If the images are not float32 or float64.
        ValueError: If shapes do not match.
    """
    if images.dtype not in {torch.float32, torch.float64}:
        raise TypeError(f"images must be float32 or float64; got {images.dtype}. Use images.float().")
    if images.ndim != 4 or mapping.ndim != 4 or mapping.shape[::3] != (len(images), 2):
        raise ValueError(
            f"expected images (B, C, H, W) and a mapping (B, H, W, 2) of one batch; got "
            f"{tuple(images.shape)} and {tuple(mapping.shape)}."
        )
    size = images.new_tensor([images.shape[-1], images.shape[-2]])
    # grid_sample wants places as shares of the image: exact in floating point where sides are powers of two.
    sides = [1 << (n - 1).bit_length() for n in images.shape[-2:]]
    padded = functional.pad(images, (0, sides[1] - images.shape[-1], 0, sides[0] - images.shape[-2]))
    inside = torch.minimum(mapping.to(images.dtype).clamp(min=0.0), size - 1)
    places = (2 * inside + 1) / images.new_tensor(sides[::-1]) - 1
    return functional.grid_sample(padded, places, mode="bilinear", padding_mode="zeros", align_corners=False)


def folding(mapping: Tensor) -> Tensor:
    """The share of an image that a map turns over or flattens: where its Jacobian is not positive.

    A square of four neighbouring pixels folds if the map turns over one of the four triangles at its corners.

    Args:
        mapping: `(B, H, W, 2)` where each pixel goes: `TPS.grid`.

    Returns:
        `(B,)` in [0, 1].

    Example:
        >>> import torch
        >>> y, x = torch.meshgrid(torch.arange(4.0), torch.arange(6.0), indexing="ij")
        >>> folding(torch.stack([torch.stack([x, y], -1), torch.stack([-x, y], -1)])).tolist()
        [0.0, 1.0]
    """
    along_x, along_y = mapping.diff(dim=2), mapping.diff(dim=1)
    turned = torch.zeros(mapping[:, 1:, 1:, 0].shape, dtype=torch.bool, device=mapping.device)
    for dx in (along_x[:, :-1], along_x[:, 1:]):
        for dy in (along_y[:, :, :-1], along_y[:, :, 1:]):
            turned |= dx[..., 0] * dy[..., 1] - dx[..., 1] * dy[..., 0] <= 0
    return turned.flatten(1).double().mean(1).to(mapping.dtype)
