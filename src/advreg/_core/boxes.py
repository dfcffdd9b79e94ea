"""Boxes of detectors, image by image, from the forms in which outputs and targets bring them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from advreg._core.checks import check_word
from advreg._core.device import check_values

BoxFormat = Literal["xyxy", "xywh", "cxcywh"]
"""How four numbers are a box: two corners; a corner and the size; the centre and the size."""

BoxActivation = Literal["softmax", "sigmoid"]
"""How dense logits are read: exclusive classes, the last of which is "no object"; or each class alone."""


class Truth(NamedTuple):
    """The objects of an image: corners `(K, 4)` and class numbers `(K,)`."""

    boxes: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Found:
    """What a detector found in an image: corners `(N, 4)`, and for each its classes.

    Attributes:
        boxes: Corners `(N, 4)`.
        log_p: Logarithms of the probabilities: of one class each, `(N,)`, or of all, `(N, C)`.
        log_q: The same of the opposites, log(1 - p).
        labels: The class of each, `(N,)`; None: `log_p` has all.
    """

    boxes: Tensor
    log_p: Tensor
    log_q: Tensor
    labels: Tensor | None

    def of(self, values: Tensor, labels: Tensor, other: float) -> Tensor:
        """Values of the classes asked for, `(K, N)`; `other` where a box has another class."""
        if self.labels is None:
            return values[:, labels].T
        return torch.where(self.labels == labels[:, None], values, other)

    def unknown(self) -> Tensor:
        """Whether NaN is among it, a bool scalar."""
        return self.boxes.isnan().any() | self.log_p.isnan().any()

    def best(self) -> tuple[Tensor, Tensor]:
        """The likeliest class of each box, as `log_p` and number, `(N,)`."""
        if self.labels is None:
            top = self.log_p.max(1)
            return top.values, top.indices
        return self.log_p, self.labels


def images(
    output: Any, target: Any, box_format: BoxFormat, activation: BoxActivation
) -> Iterator[tuple[Found, Truth]]:
    """What was found and what is there, one image after another.

    Raises:
        TypeError: An output or target of another form.
        ValueError: Shapes, formats and numbers that do not fit.
    """
    check_word("box_format", box_format, get_args(BoxFormat))
    check_word("activation", activation, get_args(BoxActivation))
    found = _listed(output) if _is_list(output) else _dense(output, activation)
    if not isinstance(target, Sequence) or isinstance(target, str):
        raise TypeError(
            'a target of boxes must be a list of {"boxes": (K, 4), "labels": (K,)}, one for each image; got '
            f"{type(target).__name__}{': write [target]' if isinstance(target, Mapping) else ''}"
        )
    if len(found) != len(target):
        raise ValueError(
            f"output and target must have the same number of images; got {len(found)} and {len(target)}"
        )
    corners = [_corners(one.boxes, box_format) for one in found]
    if corners:
        check_values(corners[0], partial(_check_found, corners, box_format))
    for number, (one, boxes, entry) in enumerate(zip(found, corners, target, strict=True)):
        classes = one.log_p.shape[1] if one.labels is None else None
        yield (
            Found(boxes, one.log_p, one.log_q, one.labels),
            _truth(entry, number, boxes, box_format, classes),
        )


def over_images(
    function: Callable[[Found, Truth], Tensor],
    output: Any,
    target: Any,
    box_format: BoxFormat,
    activation: BoxActivation,
) -> Tensor:
    """A function of what was found in an image and what is there, for each of them, `(B,)`."""
    values = [function(found, truth) for found, truth in images(output, target, box_format, activation)]
    return torch.stack(values) if values else torch.zeros(0)


def overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes `(N, 4)` and `(M, 4)`, to `(N, M)`; 0 of those without area."""
    low = torch.maximum(a[:, None, :2], b[:, :2])
    high = torch.minimum(a[:, None, 2:], b[:, 2:])
    inter = (high - low).clamp(min=0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1) for boxes in (a, b)]
    union = areas[0][:, None] + areas[1] - inter
    empty = union == 0  # not `~(union > 0)`: NaN is no disjointness
    return torch.where(empty, 0, inter / torch.where(empty, 1, union))


def _is_list(output: Any) -> bool:
    entries = isinstance(output, (list, tuple)) and type(output) in (list, tuple)
    return entries and all(isinstance(entry, Mapping) for entry in output)


def _listed(output: Sequence[Mapping[str, Any]]) -> list[Found]:
    """Lists of {"boxes", "scores", "labels"}, as of torchvision and post-processed transformers."""
    found = []
    for number, entry in enumerate(output):
        missing = [key for key in ("boxes", "scores", "labels") if key not in entry]
        if missing:
            raise TypeError(
                f"each image's output must have 'boxes', 'scores' and 'labels'; image {number} lacks "
                f"{missing}, it has {list(entry)}"
            )
        boxes, scores, labels = entry["boxes"], entry["scores"], entry["labels"]
        count = len(scores)
        if boxes.numel() == 0 and count == 0:
            boxes = boxes.reshape(0, 4)
        if boxes.shape != (count, 4) or scores.shape != (count,) or labels.shape != (count,):
            raise ValueError(
                "an image's output must have boxes (N, 4), scores (N,) and labels (N,); got "
                f"{tuple(boxes.shape)}, {tuple(scores.shape)} and {tuple(labels.shape)} for image {number}"
            )
        boxes, scores = _alike(boxes, scores)
        check_values(scores, partial(_check_scores, scores, number))
        tiny = torch.finfo(scores.dtype).tiny
        # Away from 0 and 1, where logarithms have no gradient that is a number.
        log_p = scores.clamp(min=tiny).log()
        log_q = (1 - scores).clamp(min=torch.finfo(scores.dtype).eps).log()
        found.append(Found(boxes, log_p, log_q, labels))
    return found


def _dense(output: Any, activation: BoxActivation) -> list[Found]:
    """Boxes `(B, Q, 4)` and logits `(B, Q, C)`, as of DETR."""
    boxes, logits = _pair(output)
    if boxes.ndim != 3 or logits.ndim != 3 or boxes.shape != (*logits.shape[:2], 4):
        raise ValueError(
            f"a dense output must be boxes (B, Q, 4) and logits (B, Q, C); got {tuple(boxes.shape)} and "
            f"{tuple(logits.shape)}"
        )
    boxes, logits = _alike(boxes, logits)
    if activation == "sigmoid":
        log_p, log_q = logsigmoid(logits), logsigmoid(-logits)
    else:
        if logits.shape[2] < 2:
            raise ValueError(
                "activation='softmax' needs a class besides 'no object', the last; got 1 logit for each box: "
                "use activation='sigmoid'"
            )
        log_p = logits.log_softmax(2)[..., :-1]
        # log(1 - p) of the likeliest class by the others: exact where p rounds to 1.
        first = torch.zeros_like(logits, dtype=torch.bool).scatter_(
            2, logits.argmax(2, keepdim=True), value=True
        )
        others = logits.masked_fill(first, -torch.inf).logsumexp(2, keepdim=True)
        top, total = first[..., :-1], logits.logsumexp(2, keepdim=True)
        log_q = torch.where(top, others - total, torch.log1p(-log_p.exp().masked_fill(top, 0)))
    whole = zip(boxes, log_p, log_q, strict=True)
    return [Found(*parts, labels=None) for parts in whole]


def _pair(output: Any) -> tuple[Tensor, Tensor]:
    boxes = logits = None
    if isinstance(output, Mapping):
        boxes, logits = (
            next((output[key] for key in keys if key in output), None)
            for keys in (("boxes", "pred_boxes"), ("logits", "pred_logits"))
        )
    elif isinstance(output, (tuple, list)) and len(output) == 2:
        boxes, logits = output
    if isinstance(boxes, Tensor) and isinstance(logits, Tensor):
        return boxes, logits
    held = f" of {list(output)}" if isinstance(output, Mapping) else ""
    raise TypeError(
        'boxes must be a list of {"boxes", "scores", "labels"}, one for each image, or a mapping of "boxes" '
        f'(or "pred_boxes") (B, Q, 4) and "logits" (or "pred_logits") (B, Q, C), or a pair of these; got '
        f"{type(output).__name__}{held}"
    )


def _alike(boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Both in one dtype, float32 at least."""
    dtype = torch.promote_types(torch.promote_types(boxes.dtype, scores.dtype), torch.float32)
    return boxes.to(dtype), scores.to(dtype)


def _corners(boxes: Tensor, box_format: BoxFormat) -> Tensor:
    if box_format == "xyxy":
        return boxes
    place, size = boxes[:, :2], boxes[:, 2:]
    low = place if box_format == "xywh" else place - size / 2
    return torch.cat([low, low + size], 1)


def _truth(entry: Any, number: int, like: Tensor, box_format: BoxFormat, classes: int | None) -> Truth:
    if not isinstance(entry, Mapping) or "boxes" not in entry or "labels" not in entry:
        came = f"a mapping of {list(entry)}" if isinstance(entry, Mapping) else type(entry).__name__
        raise TypeError(
            f"each image's target must have 'boxes' (K, 4) and 'labels' (K,); got {came} for image {number}"
        )
    boxes, labels = (torch.as_tensor(entry[key], device=like.device) for key in ("boxes", "labels"))
    if boxes.numel() == 0 and len(labels) == 0:
        boxes, labels = boxes.reshape(0, 4), labels.long()
    if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
        raise ValueError(
            f"an image's target must have boxes (K, 4) and labels (K,); got {tuple(boxes.shape)} and "
            f"{tuple(labels.shape)} for image {number}"
        )
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be class numbers; got {labels.dtype} for image {number}")
    corners = _corners(boxes.to(like.dtype), box_format)
    check_values(corners, partial(_check_truth, corners, labels, number, box_format, classes))
    return Truth(corners, labels.long())


def _check_truth(
    corners: Tensor, labels: Tensor, number: int, box_format: BoxFormat, classes: int | None
) -> None:
    if not bool(corners.isfinite().all()):
        raise ValueError(f"the boxes of a target must be finite; got NaN or infinity for image {number}")
    if not bool((corners[:, 2:] > corners[:, :2]).all()):
        row = int((corners[:, 2:] <= corners[:, :2]).any(1).nonzero()[0])
        remedy = (
            "box_format='xywh' or 'cxcywh' says that they are" if box_format == "xyxy" else "leave it out"
        )
        raise ValueError(
            f"a true box must have x2 > x1 and y2 > y1; got {corners[row].tolist()} as corners for image "
            f"{number}, box {row}: if these are no corners, {remedy}"
        )
    if classes is not None and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"labels must number the output's classes, 0 to {classes - 1}; got {int(labels.min())} to "
            f"{int(labels.max())} for image {number}: with activation='softmax' the last logit is 'no object'"
        )


def _check_scores(scores: Tensor, number: int) -> None:
    if bool(((scores < 0) | (scores > 1)).any()):
        raise ValueError(
            f"scores must be probabilities in [0, 1]; got [{scores.min().item():.4g}, "
            f"{scores.max().item():.4g}] for image {number}: pass scores.sigmoid()"
        )


def _check_found(corners: list[Tensor], box_format: BoxFormat) -> None:
    """Refuse a format in which most boxes end before they begin; a few may, of a network under attack."""
    ends = torch.cat(corners)
    astray = (ends[:, 2:] < ends[:, :2]).any(1)
    if len(ends) > 1 and 2 * int(astray.sum()) > len(ends):
        raise ValueError(
            f"boxes must have x2 >= x1 and y2 >= y1; {int(astray.sum())} of {len(ends)} do not, read as "
            f"{box_format!r}: say box_format='cxcywh', 'xywh' or 'xyxy'"
        )
