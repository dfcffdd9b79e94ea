"""Metrics of masks, surfaces, contours, points, boxes, classes, depth and flow; detection measures.

Each is `(output, target) -> (B,)`. Shapes: masks are `(B, C, *spatial)`, contours and points `(B, K, 2)`,
heat maps `(B, K, H, W)`, class scores and logits of labels `(B, C)`, depth `(B, H, W)` or `(B, 1, H, W)`,
flow `(B, 2, H, W)`; of detection measures, scores `(N,)`.
"""

from advreg._core.boxes import BoxActivation, BoxFormat
from advreg._core.spacing import Spacing
from advreg.metrics._boxes import average_precision, box_iou, box_quality
from advreg.metrics._channels import Absent, Activation, channel_dice, over_channels
from advreg.metrics._classes import accuracy, label_accuracy, label_f1
from advreg.metrics._contours import contour_dice
from advreg.metrics._detection import Detection, aupr, auroc, detection, fpr_at_tpr, threshold
from advreg.metrics._heatmaps import heatmap_error, heatmap_points
from advreg.metrics._maps import abs_rel, delta, end_point_error, rmse, sq_rel
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
    "abs_rel",
    "accuracy",
    "aupr",
    "auroc",
    "average_precision",
    "average_surface_distance",
    "box_iou",
    "box_quality",
    "channel_dice",
    "contour_dice",
    "decide",
    "delta",
    "detection",
    "dice",
    "distance_map",
    "end_point_error",
    "fpr_at_tpr",
    "hausdorff",
    "heatmap_error",
    "heatmap_points",
    "iou",
    "label_accuracy",
    "label_f1",
    "mask_like",
    "over_channels",
    "point_error",
    "probabilities",
    "rasterise",
    "rmse",
    "soft_dice",
    "soft_rasterise",
    "sq_rel",
    "surface_dice",
    "threshold",
]
