"""Surrogates of detectors: objects that vanish, objects that appear."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from advreg._core.boxes import BoxActivation, BoxFormat, Found, Truth, over_images, overlaps


def missed_boxes(
    output: Any,
    target: Any,
    *,
    box_format: BoxFormat = "xyxy",
    activation: BoxActivation = "softmax",
) -> Tensor:
    """Odds against an image's true objects, `-mean over k of log(sum over j of odds_jk IoU_jk)`.

    odds_jk is p / (1 - p) of object k's class at box j; by the logarithm of the odds a sure detection has
    as much of a gradient as a doubtful one. Every box that overlaps an object counts: none may take over from
    another. An image without objects has the value of `false_boxes`.

    Args:
        output: As for `advreg.metrics.box_quality`. Scores that are 0 or 1 exactly have no gradient.
        target: As for `advreg.metrics.box_quality`.
        box_format: As for `advreg.metrics.box_quality`.
        activation: As for `advreg.metrics.box_quality`.

    Returns:
        `(B,)`, larger where objects vanish.

    Raises:
        TypeError: As for `advreg.metrics.box_quality`.
        ValueError: As for `advreg.metrics.box_quality`.

    Example:
        >>> import torch
        >>> from advreg.objectives import missed_boxes
        >>> box = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
        >>> found = {"boxes": box, "scores": torch.tensor([0.9]), "labels": torch.tensor([3])}
        >>> missed_boxes([found], [{"boxes": box, "labels": torch.tensor([3])}])  # -log 9
        tensor([-2.1972])

    Source:
        Untargeted vanishing as in Chow et al., TOG, arXiv:2004.04320, by log odds.
    """
    return over_images(_missed, output, target, box_format, activation)


def false_boxes(
    output: Any,
    target: Any,
    *,
    overlap: float = 0.5,
    box_format: BoxFormat = "xyxy",
    activation: BoxActivation = "softmax",
) -> Tensor:
    """Probability of false objects, `log(sum of p over boxes and classes without such an object there)`.

    A box and a class are false where no true object of that class overlaps the box by `overlap` or more. The
    logarithm leads to the likeliest false object first.

    Args:
        output: As for `missed_boxes`.
        target: As for `missed_boxes`.
        overlap: The intersection over union that makes a box true, in (0, 1].
        box_format: As for `missed_boxes`.
        activation: As for `missed_boxes`.

    Returns:
        `(B,)`, larger where objects appear; a constant -60 where an image has no box that could be false.

    Raises:
        TypeError: As for `missed_boxes`.
        ValueError: As for `missed_boxes`; `overlap` out of range.

    Example:
        >>> import torch
        >>> from advreg.objectives import false_boxes
        >>> box = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
        >>> found = {"boxes": box, "scores": torch.tensor([0.5]), "labels": torch.tensor([3])}
        >>> false_boxes([found], [{"boxes": box, "labels": torch.tensor([4])}])
        tensor([-0.6931])

    Source:
        Object fabrication as in Chow et al., TOG, arXiv:2004.04320.
    """
    if not 0 < overlap <= 1:
        raise ValueError(f"overlap must lie in (0, 1]; got {overlap}")
    return over_images(partial(_false, overlap=overlap), output, target, box_format, activation)


def _missed(found: Found, truth: Truth) -> Tensor:
    if len(truth.boxes) == 0:
        return _false(found, truth)
    near = overlaps(truth.boxes, found.boxes)
    odds = found.of(found.log_p - found.log_q, truth.labels, -torch.inf)
    counts = (near > 0) & (odds > -torch.inf)
    terms = torch.where(counts, odds, -torch.inf) + torch.where(counts, near, 1).log()
    return _known(found, -_log_sum(terms, 1).mean())


def _false(found: Found, truth: Truth, overlap: float = 0.5) -> Tensor:
    log_p = found.log_p
    near = overlaps(found.boxes, truth.boxes) >= overlap  # (N, K)
    if found.labels is None:
        classes = torch.arange(log_p.shape[1], device=log_p.device)
        right = (near.unsqueeze(2) & (truth.labels[:, None] == classes)).any(1)
    else:
        right = (near & (truth.labels == found.labels[:, None])).any(1)
    return _known(found, _log_sum(torch.where(right, -torch.inf, log_p).flatten(), 0))


def _known(found: Found, value: Tensor) -> Tensor:
    return torch.where(found.unknown(), torch.nan, value)


def _log_sum(terms: Tensor, axis: int) -> Tensor:
    """`logsumexp` above a floor, so that it is finite where there are no terms."""
    floor = terms.new_full((*terms.shape[:axis], 1), _NONE)
    return torch.cat([terms, floor], axis).logsumexp(axis)


_NONE = -60.0  # a log probability that is as good as none
