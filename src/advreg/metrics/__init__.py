"""Metrics of masks, surfaces, contours, points and boxes, `(output, target) -> (B,)`; detection measures.

Shapes: masks are `(B, C, *spatial)`, contours and points `(B, K, 2)`, scores `(N,)`.
"""

from advreg._core.boxes import BoxActivation, BoxFormat
from advreg._core.spacing import Spacing
from advreg.metrics._boxes import average_precision, box_iou, box_quality
from advreg.metrics._channels import Absent, Activation, channel_dice, over_channels
from advreg.metrics._contours import contour_dice
from advreg.metrics._detection import Detection, aupr, auroc, detection, fpr_at_tpr, threshold
from advreg.metrics._masks import decide, dice, iou, mask_like, probabilities, soft_dice
from advreg.metrics._points import point_error
from advreg.metrics._rasterise import rasterise, soft_rasterise
from advreg.metrics._surfaces import (
    average_surface_distance,
    distance_map,
    hausdorff,
    surface_dice,
)

__all__ = [
    "Absent",
    "Activation",
    "BoxActivation",
    "BoxFormat",
    "Detection",
    "Spacing",
    "aupr",
    "auroc",
    "average_precision",
    "average_surface_distance",
    "box_iou",
    "box_quality",
    "channel_dice",
    "contour_dice",
    "decide",
    "detection",
    "dice",
    "distance_map",
    "fpr_at_tpr",
    "hausdorff",
    "iou",
    "mask_like",
    "over_channels",
    "point_error",
    "probabilities",
    "rasterise",
    "soft_dice",
    "soft_rasterise",
    "surface_dice",
    "threshold",
]
