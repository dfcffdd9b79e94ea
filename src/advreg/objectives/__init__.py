"""Objectives: what an attack maximises, `(output, target) -> (B,)`.

The paper's four, `J_IND_reg`, `J_IND_seg`, `J_OOD_reg`, `J_OOD_seg`; `on` and the combinations, which say
which heads are meant; and surrogates, which an attack may ascend in place of a metric: smoother, or still
rising where the metric is flat. Each is larger where the model is worse; bind options with
`functools.partial`.

Surrogates of masks read logits, `(B, C, *spatial)`, and share these arguments:

- `target`: a mask shaped like `output`, decided at 0.5; with "softmax" class numbers `(B, *spatial)`, or
  one channel for each class.
- `activation`: "sigmoid" reads C channels of two classes each, outside and inside; "softmax" reads C
  classes, two or more, that exclude each other.
- `ignore_index`: pixels whose target is this number are left out; an example without any others gives 0.

They raise ValueError for shapes that differ, for targets out of range or NaN, and for another activation.
Half precision is computed, and returned, in float32. NaN in an output, where it counts, makes the value NaN.

Objectives of points and values take `valid`, bool, which says what is there of a target: what is not counts
for nothing, and has no gradient. It must be cut with the batch, so take it from the target:
`lambda output, target: J_IND_reg(output, target, valid=target.isfinite().all(-1))`.
"""

from advreg._core.targets import per_example, shared
from advreg._core.types import Output, PerExample, Target
from advreg.objectives._boxes import false_boxes, missed_boxes
from advreg.objectives._classes import class_cross_entropy, class_margin, difference_of_logits_ratio
from advreg.objectives._combine import (
    Normalised,
    at,
    heads_read,
    negate,
    normalised,
    on,
    transformed,
    weighted,
    worst_head,
)
from advreg.objectives._conditions import Within
from advreg.objectives._contours import contour_overlap
from advreg.objectives._heatmaps import SharpenedHeatmap, heatmap_cross_entropy, second_peak
from advreg.objectives._labels import SharpenedLabels, label_cross_entropy, label_margin
from advreg.objectives._maps import SharpenedDelta
from advreg.objectives._masks import (
    SegPGD,
    cosine_weighted,
    cross_entropy,
    jensen_shannon,
    margin,
    masked_cross_entropy,
    tversky,
)
from advreg.objectives._paper import J_IND_reg, J_IND_seg, J_OOD_reg, J_OOD_seg
from advreg.objectives._points import absolute_error, huber, worst_point
from advreg.objectives._sharpened import SharpenedDice, SharpenedOverlap
from advreg.objectives._surfaces import boundary, distance_cross_entropy, far_false_positives

__all__ = [
    "J_IND_reg",
    "J_IND_seg",
    "J_OOD_reg",
    "J_OOD_seg",
    "Normalised",
    "Output",
    "PerExample",
    "SegPGD",
    "SharpenedDelta",
    "SharpenedDice",
    "SharpenedHeatmap",
    "SharpenedLabels",
    "SharpenedOverlap",
    "Target",
    "Within",
    "absolute_error",
    "at",
    "boundary",
    "class_cross_entropy",
    "class_margin",
    "contour_overlap",
    "cosine_weighted",
    "cross_entropy",
    "difference_of_logits_ratio",
    "distance_cross_entropy",
    "false_boxes",
    "far_false_positives",
    "heads_read",
    "heatmap_cross_entropy",
    "huber",
    "jensen_shannon",
    "label_cross_entropy",
    "label_margin",
    "margin",
    "masked_cross_entropy",
    "missed_boxes",
    "negate",
    "normalised",
    "on",
    "per_example",
    "second_peak",
    "shared",
    "transformed",
    "tversky",
    "weighted",
    "worst_head",
    "worst_point",
]
