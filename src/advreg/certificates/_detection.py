"""Guaranteed detection: what a detector of bounded slope catches, whatever an adversary does."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple, TypedDict, Unpack

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from advreg._core.bootstrap import Interval, bootstrap
from advreg.metrics import detection


class GuaranteedOptions(TypedDict, total=False):
    """The options of `guaranteed_detection` that `guaranteed_auroc` passes on."""

    allowance: float
    groups_in: Sequence[Hashable] | None
    groups_out: Sequence[Hashable] | None
    confidence: float
    resamples: int
    seed: int


class GuaranteedDetection(NamedTuple):
    """Detection measures that no adversary can make worse, with their intervals.

    AUPR is not among them: where scores tie it counts them together, so that it is not always least where all
    fall as far as they can.

    Attributes:
        auroc: See `advreg.metrics.auroc`; the guaranteed one is a lower bound.
        fpr95: See `advreg.metrics.fpr_at_tpr`; the guaranteed one is an upper bound.
    """

    auroc: Interval
    fpr95: Interval


def guaranteed_detection(
    scores_in: Tensor | ArrayLike,
    scores_out: Tensor | ArrayLike,
    radius: float,
    lipschitz: float = 1.0,
    *,
    allowance: float = 0.0,
    groups_in: Sequence[Hashable] | None = None,
    groups_out: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> GuaranteedDetection:
    """AUROC and FPR at 95 % TPR that no adversary can make worse within a radius, with intervals.

    A score with `|s(x) - s(y)| <= L |x - y|` falls by `L r` at most where an out-of-distribution input moves
    by r, whatever the adversary knows. Each measure is worst where every score falls by as much, so that it
    is at least (FPR: at most) that of `scores_in` and `scores_out - L r`: no sampling, no attack. Inputs that
    are in-distribution stay as they are.

    Args:
        scores_in: Scores of in-distribution inputs, `(N,)`, of none that the detector was fitted to.
        scores_out: Scores of out-of-distribution inputs before they are moved, `(M,)`.
        radius: How far an adversary moves an input, in the norm in which `lipschitz` holds.
        lipschitz: How fast the score moves at most; `LipschitzCritic.lipschitz` is that under L2, and 1 the
            distance from any set of inputs.
        allowance: What the rounding of scores may add to their fall, such as 1e-4 in float32.
        groups_in: As for `advreg.metrics.detection`, and so are groups_out, confidence, resamples and seed.
        groups_out: See there.
        confidence: See there.
        resamples: See there.
        seed: See there.

    Returns:
        A `GuaranteedDetection`.

    Raises:
        ValueError: As for `detection`; a radius, slope or allowance below zero, or not finite.

    Example:
        >>> from advreg.certificates import guaranteed_detection
        >>> inside, outside = [0.1, 0.3, 0.2, 0.5], [0.4, 0.8, 0.9]
        >>> [f"{guaranteed_detection(inside, outside, r).auroc.mean:.2f}" for r in (0.0, 0.25, 0.5, 1.0)]
        ['0.92', '0.75', '0.50', '0.00']

    Source:
        Bethune et al., ICML 2023, arXiv:2303.01978, section 3; Meinke et al., NeurIPS 2022
        (guaranteed AUROC).
    """
    found = detection(
        scores_in,
        _fallen(scores_out, radius, lipschitz, allowance),
        groups_in=groups_in,
        groups_out=groups_out,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )
    return GuaranteedDetection(found.auroc, found.fpr95)


def guaranteed_auroc(
    scores_in: Tensor | ArrayLike,
    scores_out: Tensor | ArrayLike,
    radius: float,
    lipschitz: float = 1.0,
    **options: Unpack[GuaranteedOptions],
) -> Interval:
    """AUROC that no adversary can make worse within a radius: the first of `guaranteed_detection`.

    Args:
        scores_in: Scores of in-distribution inputs, `(N,)`.
        scores_out: Scores of out-of-distribution inputs before they are moved, `(M,)`.
        radius: As for `guaranteed_detection`, and so are lipschitz and options.
        lipschitz: See there.
        **options: See there.

    Returns:
        The bound, and its interval over groups.

    Raises:
        ValueError: As for `guaranteed_detection`.

    Example:
        >>> from advreg.certificates import guaranteed_auroc
        >>> round(guaranteed_auroc([0.1, 0.3, 0.2, 0.5], [0.4, 0.8, 0.9], radius=0.25).mean, 2)
        0.75

    Source:
        As for `guaranteed_detection`.
    """
    return guaranteed_detection(scores_in, scores_out, radius, lipschitz, **options).auroc


def guaranteed_rate(
    scores_out: Tensor | ArrayLike,
    threshold: float,
    radius: float,
    lipschitz: float = 1.0,
    *,
    allowance: float = 0.0,
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Detection rate at a calibrated threshold that no adversary can make worse within a radius.

    The share of the inputs with `score - L r > threshold`, which `advreg.metrics.threshold` chooses.

    Args:
        scores_out: Scores of out-of-distribution inputs before they are moved, `(M,)`.
        threshold: What scores above it is refused.
        radius: As for `guaranteed_detection`, and so are lipschitz and allowance.
        lipschitz: See there.
        allowance: See there.
        groups: Which group, such as a patient, each belongs to, `(M,)`.
        confidence: As for `advreg.evaluation.bootstrap`, and so are resamples and seed.
        resamples: See there.
        seed: See there.

    Returns:
        The share, and its interval over groups.

    Raises:
        ValueError: As for `guaranteed_detection`; a threshold that is NaN.

    Example:
        >>> from advreg.certificates import guaranteed_rate
        >>> from advreg.metrics import threshold
        >>> limit = threshold([0.1, 0.3, 0.2, 0.5], tpr=1.0)
        >>> [round(guaranteed_rate([0.6, 0.8, 0.9], limit, r).mean, 2) for r in (0.0, 0.2, 0.5)]
        [1.0, 0.67, 0.0]

    Source:
        As for `guaranteed_detection`.
    """
    if math.isnan(threshold):
        raise ValueError("threshold must be a number; got nan")
    caught = _fallen(scores_out, radius, lipschitz, allowance) > threshold
    return bootstrap(caught.double(), groups, confidence=confidence, resamples=resamples, seed=seed)


def _fallen(scores: Tensor | ArrayLike, radius: float, lipschitz: float, allowance: float) -> Tensor:
    """Scores when each has fallen as far as it can, `(N,)`."""
    for name, value in (("radius", radius), ("lipschitz", lipschitz), ("allowance", allowance)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be a finite number of zero or more; got {value}")
    there = scores.detach().cpu() if isinstance(scores, Tensor) else scores  # not every device has float64
    own = torch.as_tensor(there, dtype=torch.float64)
    if bool(own.isnan().any()):
        raise ValueError(f"scores_out must be numbers; got {int(own.isnan().sum())} NaN of {own.numel()}")
    return own - (lipschitz * radius + allowance)
