"""What the phantom paints with: soft edges, smooth changes, textures. Pictures are arrays ``(H, W)``."""

from __future__ import annotations

import numpy as np
from scipy import ndimage  # type: ignore[import-untyped]  # scipy ships no types

from .outlines import Array


def paint(image: Array, signal: float | Array, cover: Array) -> None:
    """Lay a tissue over the picture, in place, where ``cover`` is 1; blend where it is between 0 and 1."""
    image += cover * (signal - image)


def step(depth: Array, width: float) -> Array:
    """Return the share of a pixel inside an edge: linear over ``width``, 0.5 on the edge."""
    return np.asarray(np.clip(depth / width + 0.5, 0.0, 1.0))


def band(t: Array, low: Array, high: Array, width: float) -> Array:
    """Return the share of each pixel between two edges."""
    return step(t - low, width) * step(high - t, width)


def ramp(depth: Array | float, width: float) -> Array:
    """Return a smooth change from 0 to 1 around ``depth`` 0."""
    return np.asarray(0.5 + 0.5 * np.tanh(np.asarray(depth) / width))


def bump(offset: Array, width: float) -> Array:
    """Return a smooth hill of height 1."""
    return np.asarray(np.exp(-((offset / width) ** 2)))


def texture(shape: tuple[int, ...], grain: float | tuple[float, float], rng: np.random.Generator) -> Array:
    """Return smooth noise of mean 0 and deviation about 1, ``grain`` pixels fine."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), grain, mode="wrap")
    return np.asarray(noise / noise.std())
