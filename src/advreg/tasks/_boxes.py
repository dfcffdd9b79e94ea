"""Task for detectors."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, get_args

from advreg._core.checks import check_word
from advreg.metrics import BoxActivation, BoxFormat, average_precision, box_quality
from advreg.objectives import false_boxes, missed_boxes, negate, weighted
from advreg.rules import Adaptive, Shrinking
from advreg.tasks._task import Member, Task

BoxMetric = Literal["box_quality", "average_precision"]
"""A metric of detectors, by the name that it has in `advreg.metrics`."""


def boxes(
    metric: BoxMetric = "box_quality",
    *,
    iou: float | None = None,
    box_format: BoxFormat = "xyxy",
    activation: BoxActivation = "softmax",
) -> Task:
    """A head of boxes, a detector, judged image by image: lower is worse, 0 is the worst.

    Objects vanish, move or change their class; where an image has none, false ones appear. The output is a
    list of `{"boxes", "scores", "labels"}`, one for each image, or boxes `(B, Q, 4)` and logits `(B, Q, C)`;
    the target a list of `{"boxes", "labels"}`. A detector that throws boxes away below a score gives those
    no gradient, so that in an image where it keeps none nothing can appear: attack it with a low threshold.

    Args:
        metric: "box_quality", or "average_precision", which counts false objects beside true ones too.
        iou: Of "average_precision": the overlap that a hit needs, 0.5 by default.
        box_format: As for `advreg.metrics.box_quality`.
        activation: As for `advreg.metrics.box_quality`.

    Raises:
        ValueError: Another metric; an overlap that "box_quality" does not need.

    Example:
        >>> from advreg.tasks import boxes
        >>> boxes().worst, [member.name for member in boxes("average_precision", iou=0.75).members][0]
        (0.0, 'missed and false boxes')
    """
    check_word("metric", metric, get_args(BoxMetric))
    if metric == "box_quality" and iou is not None:
        raise ValueError(f"iou belongs to 'average_precision'; got {iou} with 'box_quality': leave it out")
    options: dict[str, Any] = {"box_format": box_format, "activation": activation}
    missed, quality = partial(missed_boxes, **options), negate(partial(box_quality, **options))
    false, shrinking = partial(false_boxes, **options), Shrinking()
    if metric == "box_quality":
        members = (
            Member("missed boxes", missed),
            Member("missed boxes, shrinking radius", missed, schedule=shrinking),
            Member("APGD, missed boxes, shrinking radius", missed, Adaptive(), shrinking),
            Member("quality, shrinking radius", quality, schedule=shrinking),
        )
        return Task(partial(box_quality, **options), "lower", members, worst=0.0)
    overlap = 0.5 if iou is None else iou
    both = weighted((1.0, missed), (1.0, false))
    members = (
        Member("missed and false boxes", both),
        Member("missed boxes, shrinking radius", missed, schedule=shrinking),
        Member("missed and false boxes, shrinking radius", both, schedule=shrinking),
        Member("quality, shrinking radius", quality, schedule=shrinking),
    )
    return Task(partial(average_precision, iou=overlap, **options), "lower", members, worst=0.0)
