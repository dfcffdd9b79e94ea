"""Outlines in the plane: their area, even points along them, and which could be a disc's.

Points are (x, y) with y down, as on the screen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.floating[Any]]

POINTS = 176  # the paper's number of points on a contour

_CHUNK = 2**22  # pairs of edges looked at together


def signed_area(outline: Array) -> float:
    """The area in a closed outline `(n, 2)`, negative if it runs counter-clockwise on the screen."""
    x, y = np.asarray(outline, dtype=np.float64).T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) / 2)


def evenly(curve: Array, count: int) -> NDArray[np.float64]:
    """Place points evenly by arc length along an open curve, from its start to one spacing before its end.

    Args:
        curve: `(n, 2)` points (x, y), two of them or more.
        count: How many points to place.

    Returns:
        `(count, 2)` float64; the first is the curve's first.

    Example:
        >>> evenly(np.array([[0.0, 0.0], [1.0, 0.0], [4.0, 0.0]]), 4)[:, 0]
        array([0., 1., 2., 3.])
    """
    points = np.asarray(curve, dtype=np.float64)
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    places = np.arange(count) * (along[-1] / count)
    return np.stack([np.interp(places, along, points[:, i]) for i in range(2)], axis=1)


def plausible(contours: Tensor, size: tuple[int, int]) -> Tensor:
    """Tell which contours could be a disc in a crop: none that crosses or touches itself, or leaves the crop.

    Args:
        contours: `(B, K, 2)` closed polygons, points (x, y) in pixels.
        size: Rows and columns `(H, W)` of the crop; points must lie between its outer pixels' centres.

    Returns:
        `(B,)` bool.

    Raises:
        ValueError: If the contours are not `(B, K, 2)` with at least three points.

    Example:
        >>> import torch
        >>> square = torch.tensor([[1.0, 1.0], [1.0, 6.0], [6.0, 6.0], [6.0, 1.0]])
        >>> bow = square[[0, 2, 1, 3]]
        >>> plausible(torch.stack([square, bow, square + 3]), (8, 8)).tolist()
        [True, False, False]
    """
    if contours.ndim != 3 or contours.shape[-1] != 2 or contours.shape[1] < 3:
        raise ValueError(f"contours must be (B, K, 2) with K of at least 3; got {tuple(contours.shape)}.")
    limits = contours.new_tensor([size[1] - 1, size[0] - 1])
    inside = ((contours >= 0) & (contours <= limits)).flatten(1).all(1)
    step = max(1, _CHUNK // contours.shape[1] ** 2)
    crossed = torch.cat([_crosses_itself(part) for part in torch.split(contours.detach(), step)])
    return inside & ~crossed


def _crosses_itself(contours: Tensor) -> Tensor:
    """Which polygons have two edges with a point in common, other than the corner of neighbours, `(B,)`."""
    start = contours.to(torch.float32 if contours.device.type == "mps" else torch.float64)
    end = start.roll(-1, dims=1)
    edge = end - start
    # side[i, j]: on which side of edge i point j lies. Edges i and j meet if neither has both ends of the
    # other strictly on one side, and the boxes around them overlap.
    x, y = ((start[:, None, :, axis] - start[:, :, None, axis]) for axis in range(2))
    side = edge[..., 0, None] * y - edge[..., 1, None] * x
    apart = side.sign() * side.roll(-1, dims=2).sign() > 0
    low, high = torch.minimum(start, end), torch.maximum(start, end)
    before = (high[:, :, None] < low[:, None]).any(-1)
    meet = ~(apart | apart.mT | before | before.mT)
    number = torch.arange(start.shape[1], device=start.device)
    gap = (number[:, None] - number).remainder(len(number))
    distant = (gap > 1) & (gap < len(number) - 1)
    following = edge.roll(-1, dims=1)
    cross = edge[..., 0] * following[..., 1] - edge[..., 1] * following[..., 0]
    back = (cross == 0) & ((edge * following).sum(-1) <= 0)  # turns back on itself, or stands still
    return (meet & distant).flatten(1).any(1) | back.any(1)
