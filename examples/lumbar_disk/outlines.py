"""Closed outlines in the plane: their area, and landmarks along them.

Points are (x, y) with y down, as on the screen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

POINTS = 176  # the paper's number of points on a contour


def landmarks(outline: Array, points: int = POINTS) -> NDArray[np.float64]:
    """Place points evenly along a closed outline, from its superior-anterior corner on.

    The corner is the point farthest along (-1, -1) in the disc's own axes, each axis scaled by its spread, so
    that it stays at the same anatomical place on tilted and on flat discs. From there the points run down the
    left (anterior) side, along the bottom, up the right side and back along the top: counter-clockwise on the
    screen, whatever the direction of the outline.

    Args:
        outline: ``(n, 2)`` corners (x, y) of a closed outline, the first repeated at the end or not.
        points: How many points to place.

    Returns:
        ``(points, 2)`` float64; the first is the corner, and the last is one spacing before it.

    Raises:
        ValueError: If the outline has fewer than three distinct points, or no area.
    """
    corners = np.asarray(outline, dtype=np.float64)
    corners = corners[np.any(corners != np.roll(corners, 1, axis=0), axis=1)]
    if corners.ndim != 2 or corners.shape[1:] != (2,) or len(corners) < 3 or signed_area(corners) == 0.0:
        raise ValueError(
            "an outline is an (n, 2) array of at least 3 distinct points around some area; got shape "
            f"{np.shape(outline)}, {len(corners)} distinct. Is the disc's mask empty, or a line one pixel "
            "thin?"
        )
    if signed_area(corners) > 0.0:  # clockwise on the screen, where y runs down
        corners = corners[::-1]
    corners = np.roll(corners, -_corner(corners), axis=0)
    return _even(corners, points)


def signed_area(outline: Array) -> float:
    """Return the area in a closed outline ``(n, 2)``, negative if it runs counter-clockwise on the screen."""
    x, y = np.asarray(outline, dtype=np.float64).T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) / 2)


def _even(corners: NDArray[np.float64], points: int) -> NDArray[np.float64]:
    """Place points evenly by arc length along a closed outline, from its first corner on."""
    closed = np.vstack([corners, corners[:1]])
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))])
    places = np.arange(points) * (along[-1] / points)
    return np.stack([np.interp(places, along, closed[:, i]) for i in range(2)], axis=1)


def _corner(corners: NDArray[np.float64]) -> int:
    """Return the place of the superior-anterior corner, farthest along (-1, -1) in the scaled own axes."""
    even = _even(corners, 4 * POINTS)
    spread, axes = np.linalg.eigh(np.cov(even.T))
    long, short = axes[:, 1], axes[:, 0]
    long = long * np.sign(long[0])  # towards posterior
    short = np.array(
        [-long[1], long[0]]
    )  # towards inferior: a quarter turn, so that the frame is never mirrored
    own = (corners - even.mean(axis=0)) @ np.stack([long, short], axis=1) / np.sqrt(spread[::-1])
    return int(np.argmin(own.sum(axis=1)))
