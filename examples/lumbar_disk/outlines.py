"""Curves in the plane: the area in a closed one, even points along an open one.

Points are (x, y) with y down, as on the screen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

POINTS = 176  # the paper's number of points on a contour


def signed_area(outline: Array) -> float:
    """Return the area in a closed outline ``(n, 2)``, negative if it runs counter-clockwise on the screen."""
    x, y = np.asarray(outline, dtype=np.float64).T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) / 2)


def evenly(curve: Array, count: int) -> NDArray[np.float64]:
    """Place points evenly by arc length along an open curve, from its start to one spacing before its end.

    Args:
        curve: ``(n, 2)`` points (x, y), two of them or more.
        count: How many points to place.

    Returns:
        ``(count, 2)`` float64; the first is the curve's first.

    Example:
        >>> evenly(np.array([[0.0, 0.0], [1.0, 0.0], [4.0, 0.0]]), 4)[:, 0]
        array([0., 1., 2., 3.])
    """
    points = np.asarray(curve, dtype=np.float64)
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    places = np.arange(count) * (along[-1] / count)
    return np.stack([np.interp(places, along, points[:, i]) for i in range(2)], axis=1)
