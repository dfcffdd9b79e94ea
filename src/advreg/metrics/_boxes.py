"""Boxes of detectors: quality by score and overlap, average precision of an image."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from advreg._core.boxes import BoxActivation, BoxFormat, Found, Truth, over_images, overlaps
from advreg._core.tensors import wide


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes, each of `a` with each of `b`; differentiable.

    Args:
        a: Corners (x1, y1, x2, y2), `(N, 4)`. A box with x2 < x1 or y2 < y1 is empty.
        b: `(M, 4)`.

    Returns:
        `(N, M)` in [0, 1], float32 at least; 0 of two boxes without area; NaN where NaN is.

    Raises:
        ValueError: Other shapes.

    Example:
        >>> import torch
        >>> from advreg.metrics import box_iou
        >>> box_iou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[1.0, 0.0, 3.0, 2.0]]))
        tensor([[0.3333]])

    Source:
        Everingham et al., Pascal VOC, IJCV 88, 2010, Eq 3.
    """
    for boxes in (a, b):
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(f"boxes must be (N, 4); got {tuple(boxes.shape)}")
    return overlaps(wide(a), wide(b))


def box_quality(
    output: Any,
    target: Any,
    *,
    box_format: BoxFormat = "xyxy",
    activation: BoxActivation = "softmax",
) -> Tensor:
    """Quality of an image's detections, `mean over true objects of max over boxes of score x IoU`.

    score is the probability of the true object's class. Of an image without objects it is
    `1 - the highest score`. So an object that vanishes, moves or changes its class counts, and one that
    appears where nothing is; nothing needs a threshold. Beside true objects a false one does not count:
    `average_precision` sees it. Differentiable.

    Args:
        output: One entry for each image, a list of `{"boxes": (N, 4), "scores": (N,), "labels": (N,)}`, as of
            torchvision; N may differ, 0 among it. Or boxes `(B, Q, 4)` and logits `(B, Q, C)`, as of DETR: a
            pair, or a mapping of "boxes" or "pred_boxes" and "logits" or "pred_logits".
        target: A list of `{"boxes": (K, 4), "labels": (K,)}`, class numbers from 0 on in the order of the
            logits; K may be 0.
        box_format: Of output and target: "xyxy" corners, "xywh" a corner and the size, "cxcywh" the centre
            and the size. Their unit must be the same.
        activation: How dense logits are read: "softmax", the last class being "no object", or "sigmoid".

    Returns:
        `(B,)` in [0, 1], lower is worse; NaN where an image's output has NaN; float32 at least.

    Raises:
        TypeError: An output or target of another form, or without "labels".
        ValueError: Shapes, scores, class numbers that do not fit; true boxes that end before they begin, or
            most of the output's.

    Example:
        >>> import torch
        >>> from advreg.metrics import box_quality
        >>> box, none = torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.zeros(0, 4)
        >>> found = {"boxes": box, "scores": torch.tensor([0.9]), "labels": torch.tensor([3])}
        >>> nothing = {"boxes": none, "labels": none[:, 0].long()}
        >>> box_quality([found, found], [{"boxes": box, "labels": torch.tensor([3])}, nothing])
        tensor([0.9000, 0.1000])

    Source:
        Score times overlap as in Hall et al., Probabilistic object detection, arXiv:1811.10800, section 4,
        with each object's best box in place of an assignment.
    """
    return over_images(_quality, output, target, box_format, activation)


def average_precision(
    output: Any,
    target: Any,
    *,
    iou: float = 0.5,
    box_format: BoxFormat = "xyxy",
    activation: BoxActivation = "softmax",
) -> Tensor:
    """Average precision (AP) of an image's detections: the area below the envelope of precision over recall.

    `1 / K sum over k of the highest precision at a recall of k / K or more`. Boxes are ranked by score, all
    classes together, so that a false one of any class costs; each in turn takes the free true object of its
    class that it overlaps most, if by `iou` or more. Of an image without objects it is
    `1 - the highest score`. A dense output's box has its likeliest class.

    Args:
        output: As for `box_quality`.
        target: As for `box_quality`.
        iou: The overlap that a hit needs, in (0, 1].
        box_format: As for `box_quality`.
        activation: As for `box_quality`.

    Returns:
        `(B,)` in [0, 1], lower is worse; NaN where an image's output has NaN.

    Raises:
        TypeError: As for `box_quality`.
        ValueError: As for `box_quality`; `iou` out of range.

    Example:
        >>> import torch
        >>> from advreg.metrics import average_precision
        >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [5.0, 5.0, 6.0, 6.0]])
        >>> found = {"boxes": boxes, "scores": torch.tensor([0.6, 0.9]), "labels": torch.tensor([0, 0])}
        >>> average_precision([found], [{"boxes": boxes[:1], "labels": torch.tensor([0])}])
        tensor([0.5000])

    Source:
        Everingham et al., Pascal VOC, IJCV 88, 2010, section 4.2, of all points as from 2010 on.
    """
    if not 0 < iou <= 1:
        raise ValueError(f"iou must lie in (0, 1]; got {iou}")
    return over_images(partial(_precision, iou=iou), output, target, box_format, activation)


def _quality(found: Found, truth: Truth) -> Tensor:
    if len(truth.boxes) == 0:
        return _nothing_there(found)
    scores = found.of(found.log_p.exp(), truth.labels, 0.0)
    value = _linked(found)
    if len(found.boxes):
        value = (scores * overlaps(truth.boxes, found.boxes)).amax(1).mean()
    return torch.where(found.unknown(), torch.nan, value)


def _nothing_there(found: Found) -> Tensor:
    """One minus the highest score."""
    if found.log_p.numel() == 0:
        return 1 + _linked(found)
    return torch.where(found.unknown(), torch.nan, 1 - found.log_p.amax().exp())


def _linked(found: Found) -> Tensor:
    """Zero, with a graph: an image without a box leaves others their gradient."""
    return found.boxes[:0].sum() + found.log_p[:0].sum()


def _precision(found: Found, truth: Truth, iou: float) -> Tensor:
    count = len(truth.boxes)
    if count == 0:
        return _nothing_there(found)
    log_p, labels = found.best()
    order = log_p.argsort(descending=True, stable=True)
    near = overlaps(found.boxes, truth.boxes)[order]
    near = torch.where(labels[order, None] == truth.labels, near, 0)
    hits, free = torch.zeros_like(log_p), torch.ones(count, dtype=torch.bool, device=near.device)
    for row in (near >= iou).any(1).nonzero().flatten().tolist():
        best, place = torch.where(free, near[row], 0).max(0)
        if best >= iou:
            hits[row], free[place] = 1, False
    rank = torch.arange(1, len(hits) + 1, device=near.device)
    envelope = (hits.cumsum(0) / rank).flip(0).cummax(0).values.flip(0)
    return torch.where(found.unknown(), torch.nan, (envelope * hits).sum() / count)
