"""Bounds on quantiles from samples: which order statistic lies below a quantile, at a confidence."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.special import bdtr, ndtr, ndtri  # type: ignore[import-untyped]  # scipy ships no types


class Look(NamedTuple):
    """One look at the samples so far: how many there are, and the chance that its bounds may fail with."""

    samples: int
    alpha: float


def looks(samples: int, alpha: float, *, adaptive: bool, first: int = 100) -> list[Look]:
    """The looks at samples that grow twofold, up to all of them; one look, unless it may stop earlier.

    Bounds may be read, and sampling stopped, at any of the looks: each has an equal share of the chance to
    fail (Bonferroni), so that all of them hold together.

    Example:
        >>> [look.samples for look in looks(1000, 0.001, adaptive=True)]
        [125, 250, 500, 1000]
    """
    counts = [samples]
    while adaptive and counts[0] >= 2 * first:
        counts.insert(0, -(-counts[0] // 2))
    return [Look(count, alpha / len(counts)) for count in counts]


def below(samples: int, probability: float, alpha: float) -> int:
    """The largest k for which the k-th smallest of the samples exceeds a quantile with chance alpha at most.

    The k-th smallest is above the quantile of `probability` only where fewer than k samples are at or below
    it, and the number of those is binomial. 0 where no sample will do.

    Example:
        >>> below(1000, 0.5, 0.001)
        451

    Source:
        Chiang et al., Detection as regression: certified object detection by median smoothing, NeurIPS 2020,
        section 4; David and Nagaraja, Order statistics, section 7.1.
    """
    return int((bdtr(np.arange(samples + 1), samples, probability) <= alpha).sum())


def above(samples: int, probability: float, alpha: float) -> int:
    """The smallest k for which the k-th smallest is below a quantile with chance alpha at most; or n + 1."""
    return samples + 1 - below(samples, 1 - probability, alpha)


def shifted(radius: float, sigma: float) -> float:
    """The quantile at an input that the median of no input within a radius is below: `Phi(-radius / sigma)`.

    Example:
        >>> shifted(0.0, 0.25), round(shifted(0.25, 0.25), 3)
        (0.5, 0.159)
    """
    return float(ndtr(-radius / sigma))


def largest_radius(samples: int, sigma: float, confidence: float = 0.999) -> float:
    """The largest radius for which so many samples give any bound at all.

    The smallest of n samples bounds the quantile p where `(1 - p)^n <= 1 - confidence`.

    Args:
        samples: Draws of noise.
        sigma: Their deviation.
        confidence: Of each bound.

    Example:
        >>> from advreg.certificates import largest_radius
        >>> round(largest_radius(1000, 0.25), 2), round(largest_radius(10_000, 0.25), 2)
        (0.62, 0.8)

    Source:
        Cohen et al., arXiv:1902.02918, section 4.
    """
    return float(-sigma * ndtri(-math.expm1(math.log1p(-confidence) / samples)))
