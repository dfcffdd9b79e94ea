"""Landmarks with correspondence: the same 176 points on every disc, from its mask or its outline.

Four arcs of 44 points follow each other in the order left (anterior), bottom, right (posterior), top
(paper, section 2.1). They meet at four corners, which are found in the disc's own frame: the long axis, a
parabola along its middle and a thickness that may taper from one end to the other. In that frame a tilted,
bent or wedge-shaped disc is a box, and each corner is a soft extreme along the box's diagonal. A hard extreme
jumps between neighbouring bumps of the outline when the disc is turned by a few degrees; the soft one moves
smoothly.

Coordinates are (x, y) in pixels, x to the right (posterior), y down (inferior), pixel centres at integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]  # scipy ships no types
from scipy.spatial import KDTree  # type: ignore[import-untyped]  # as above

from lumbar_disk.data._outlines import signed_area

Array = NDArray[np.float64]

ARCS = ("left", "bottom", "right", "top")
POINTS_PER_ARC = 44

_FEWEST_PIXELS = 40
_CRUMB = 0.05  # a component below this share of the largest is annotation noise
_LARGEST_GAP = 0.25  # of the disc's extent: the widest gap that is still one annotated disc with a hole in it
_SMOOTHING = 1.0  # pixels; of 0.7, 1 and 1.3 the best repeatability with a median Dice above 0.998
_SAMPLES = 1024  # points of the outline in which corners are sought
_SHARPNESS = 3.0  # of the soft extreme
_LENGTHWISE = (
    1.75  # weight of the long axis in a corner's score: keeps the corners at the ends of tapered discs
)
_THINNEST = 0.5  # of the mean squared half-thickness: bounds the taper
_DIAGONALS = np.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [1.0, -1.0]])  # where each arc starts


def outline(mask: NDArray[Any], name: str = "the disc") -> Array:
    """The sub-pixel outline of a disc's mask.

    Holes are filled, crumbs (components under 5 % of the largest) are left out, and the outline is the 0.5
    level of the mask smoothed by a Gaussian of one pixel. A disc annotated in pieces, as collapsed discs
    often are, is bridged by a strip 1.5 pixels wide along the shortest gap.

    Args:
        mask: `(H, W)` bool, true inside the disc.
        name: The disc, for messages.

    Returns:
        `(n, 2)` points (x, y), closed without repeating the first, counter-clockwise on the screen.

    Raises:
        TypeError: If the mask is not a 2D array of booleans.
        ValueError: If the mask is empty or smaller than 40 pixels, touches the image's border, or consists of
            pieces further apart than a quarter of the disc's extent.

    Example:
        >>> import numpy as np
        >>> mask = np.zeros((40, 60), bool)
        >>> mask[12:27, 10:50] = True
        >>> print(outline(mask).min(axis=0).round(1), outline(mask).max(axis=0).round(1))
        [ 9.5 11.5] [49.5 26.5]
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise TypeError(
            f"{name}: a mask is a 2D array of bool; got {mask.dtype} of shape {mask.shape}. "
            f"For labels pass one slice and compare: `labels == 201`."
        )
    if mask.sum() < _FEWEST_PIXELS:
        raise ValueError(
            f"{name}: its mask has {int(mask.sum())} pixels, and landmarks need at least {_FEWEST_PIXELS}. "
            f"Choose a slice nearer to the middle, or leave this disc out."
        )
    if mask[[0, -1]].any() or mask[:, [0, -1]].any():
        raise ValueError(
            f"{name}: its mask touches the image's border, so a part of it is not seen. "
            f"Use a larger field of view, or leave this disc out."
        )
    pad = 4
    soft = ndimage.gaussian_filter(
        ndimage.binary_fill_holes(np.pad(mask, pad)).astype(np.float64), _SMOOTHING
    )
    lines = cast("list[Array]", contour_generator(z=_joined(soft, name)).lines(0.5))
    points = max(lines, key=lambda line: abs(signed_area(line)))[:-1] - pad
    return points[::-1] if signed_area(points) > 0 else points


def landmarks(points: NDArray[np.floating[Any]], name: str = "the disc") -> Array:
    """Place the study's 176 landmarks on a disc's outline.

    With `u` along the disc's long axis and `v` across it, both scaled so that the disc fills
    `[-1, 1]^2`, the corner in the direction of the diagonal `(a, b)` is the (circular) mean position
    along the outline under the weights `exp(3 (1.75 a u + b v))`. Between two corners 44 points stand
    evenly by arc length, the first on the corner.

    Args:
        points: `(n, 2)` points (x, y) of the closed outline, the first repeated at the end or not, in
            either direction. From a mask: `outline`.
        name: The disc, for messages.

    Returns:
        `(176, 2)` float64: arcs left, bottom, right and top, that is, from the superior-anterior corner
        counter-clockwise on the screen. `landmarks(...)[::44]` are the corners.

    Raises:
        ValueError: If the outline is not finite, has fewer than four points or no area, or is so irregular
            that its four corners do not follow each other.

    Example:
        >>> import numpy as np
        >>> box = np.array([[10.0, 20.0], [50.0, 20.0], [50.0, 35.0], [10.0, 35.0]])
        >>> landmarks(box).shape
        (176, 2)
        >>> left, bottom, right, top = landmarks(box).reshape(4, 44, 2).mean(axis=1).round()
        >>> bool(left[0] < top[0] < right[0]), bool(top[1] < left[1] < bottom[1])
        (True, True)

    Source:
        Four landmark arcs as in section 2.1 of the paper.
    """
    corners = np.asarray(points, dtype=np.float64)
    if corners.ndim != 2 or corners.shape[1:] != (2,) or len(corners) < 4 or not np.isfinite(corners).all():
        raise ValueError(
            f"{name}: an outline is an (n, 2) array of at least 4 finite points (x, y); got shape "
            f"{corners.shape} with {int(np.isfinite(corners).sum())} finite numbers. "
            f"From a mask, call `outline` first."
        )
    area = signed_area(corners)
    if abs(area) < 1e-9 * max(float(np.ptp(corners, axis=0).max()) ** 2, 1e-300):
        raise ValueError(
            f"{name}: its outline encloses no area (its points lie on a line). "
            f"Look at this disc's annotation, or leave it out."
        )
    dense = _evenly(corners[::-1] if area > 0 else corners, np.arange(_SAMPLES) / _SAMPLES)
    frame = _Frame.of(dense)
    if frame.thickness[0] <= 0:
        raise ValueError(
            f"{name}: its outline crosses itself: what one part encloses, another takes away. Order its "
            f"points along the disc's edge, or leave this disc out."
        )
    starts = _corners(frame(dense) * [_LENGTHWISE, 1.0])
    lengths = np.diff(starts, append=starts[0]) % 1.0
    if not np.isclose(lengths.sum(), 1.0) or lengths.min() < 1e-3:
        raise ValueError(
            f"{name}: its four corners do not follow each other along the outline (they stand at "
            f"{', '.join(f'{start:.3f}' for start in starts)} of its length). It is not shaped like a disc: "
            f"look at its annotation, or leave it out."
        )
    places = starts[:, None] + lengths[:, None] * np.arange(POINTS_PER_ARC) / POINTS_PER_ARC
    return _evenly(dense, places.ravel() % 1.0)


def _joined(soft: Array, name: str) -> Array:
    """Leave out the crumbs of a soft mask and bridge its pieces, nearest first."""
    labels, count = ndimage.label(soft > 0.5)
    if count == 0:
        raise ValueError(
            f"{name}: its mask is nowhere two pixels thick, so it has no outline. "
            f"Choose a slice nearer to the middle, or leave this disc out."
        )
    sizes = np.bincount(labels.ravel())[1:]
    soft = np.where(np.isin(labels, 1 + np.flatnonzero(sizes < _CRUMB * sizes.max())), 0.0, soft)
    extent = float(np.ptp(np.argwhere(soft > 0.5), axis=0).max()) + 1.0
    while True:
        labels, count = ndimage.label(soft > 0.5)
        if count == 1:
            return soft
        largest = 1 + np.argmax(np.bincount(labels.ravel())[1:])
        body = np.argwhere(labels == largest).astype(np.float64)
        rest = np.argwhere((labels > 0) & (labels != largest)).astype(np.float64)
        gaps, nearest = KDTree(body).query(rest)
        to = int(np.argmin(gaps))
        if gaps[to] > _LARGEST_GAP * extent:
            raise ValueError(
                f"{name}: its mask has {count} separate components of "
                f"{', '.join(map(str, sorted(sizes.tolist(), reverse=True)[:count]))} pixels, {gaps[to]:.0f} "
                f"pixels apart where the whole is {extent:.0f} long; a gap of up to "
                f"{_LARGEST_GAP * extent:.0f} is bridged. "
                f"Keep the component that is the disc, or leave this disc out."
            )
        soft = np.maximum(soft, _strip(soft.shape, body[nearest[to]], rest[to]))


def _strip(shape: tuple[int, ...], start: Array, end: Array) -> Array:
    """A soft mask of a strip 1.5 pixels wide between two pixels (row, column)."""
    offset = np.moveaxis(np.indices(shape, dtype=np.float64), 0, -1) - start
    step = end - start
    along = np.clip(offset @ step / (step @ step), 0.0, 1.0)
    distance: Array = np.linalg.norm(offset - along[..., None] * step, axis=-1)
    return (1.25 - distance).clip(0.0, 1.0)


@dataclass(frozen=True)
class _Frame:
    """Frame of a disc: `u` along it and `v` across it, the disc filling about `[-1, 1]^2`."""

    centre: Array
    axes: Array  # columns: along (towards posterior), across (towards inferior)
    length: float  # half of the disc's
    middle: Array  # coefficients of 1, u, u^2: the parabola along its middle
    thickness: Array  # coefficients of 1, u: the squared half-thickness

    @classmethod
    def of(cls, points: Array) -> _Frame:
        """Fit a disc: principal axes, then its middle and its thickness by least squares over its area."""
        area = _moment(points, 0, 0)
        centre = np.array([_moment(points, 1, 0), _moment(points, 0, 1)]) / area
        shifted = points - centre
        xx, xy, yy = (_moment(shifted, i, 2 - i) / area for i in (2, 1, 0))
        spread, axes = np.linalg.eigh([[xx, xy], [xy, yy]])
        along = axes[:, 1] * (1.0 if axes[0, 1] >= 0 else -1.0)
        frame = np.stack([along, [-along[1], along[0]]], axis=1)
        length = float(np.sqrt(3.0 * spread[1]))
        local = shifted @ frame / [length, 1.0]
        gram = np.array([_moment(local, i, 0) for i in range(5)])
        middle = np.linalg.solve(
            gram[np.add.outer(range(3), range(3))], [_moment(local, i, 1) for i in range(3)]
        )
        local[:, 1] -= np.polynomial.polynomial.polyval(local[:, 0], middle)
        squares = [3.0 * _moment(local, i, 2) for i in range(2)]
        return cls(
            centre, frame, length, middle, np.linalg.solve(gram[np.add.outer(range(2), range(2))], squares)
        )

    def __call__(self, points: Array) -> Array:
        """Coordinates `(u, v)` of points `(n, 2)`."""
        u, v = ((points - self.centre) @ self.axes).T
        u = u / self.length
        inside = np.clip(u, -1.2, 1.2)
        squared = np.polynomial.polynomial.polyval(inside, self.thickness)
        v = v - np.polynomial.polynomial.polyval(inside, self.middle)
        return np.stack([u, v / np.sqrt(np.maximum(squared, _THINNEST * self.thickness[0]))], axis=1)


def _corners(local: Array) -> Array:
    """Where along an evenly sampled outline its four corners are, as shares of its length in `[0, 1)`."""
    score = local @ _DIAGONALS.T
    weights = np.exp(_SHARPNESS * (score - score.max(axis=0)))
    turn = np.exp(2j * np.pi * np.arange(len(local)) / len(local))
    mean: Array = np.angle(turn @ weights) / (2 * np.pi) % 1.0  # circular: the outline has no first point
    return mean


def _moment(points: Array, i: int, j: int) -> float:
    """`∫∫ x^i y^j dx dy` inside a polygon that is counter-clockwise on the screen, by Green's theorem."""
    nodes, weights = np.polynomial.legendre.leggauss(4)  # exact for i + j + 1 <= 7
    step = np.roll(points, -1, axis=0) - points
    x, y = np.moveaxis(points[:, None] + step[:, None] * (nodes[:, None] + 1) / 2, -1, 0)
    return float(np.sum((x**i * y ** (j + 1)) @ weights * step[:, 0]) / (2 * (j + 1)))


def _evenly(points: Array, places: Array) -> Array:
    """Points at the given places, shares of the length of a closed outline in `[0, 1)`."""
    closed = np.vstack([points, points[:1]])
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))])
    return np.stack([np.interp(places * along[-1], along, closed[:, k]) for k in range(2)], axis=1)
