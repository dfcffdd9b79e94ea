"""Metrics of masks, contours, points, heat maps, classes, depth and flow; detection measures.

Each is `(output, target) -> (B,)`. Shapes: masks are `(B, C, *spatial)`, contours and points `(B, K, 2)`,
heat maps `(B, K, H, W)`, class scores and logits of labels `(B, C)`, depth `(B, H, W)` or `(B, 1, H, W)`,
flow `(B, 2, H, W)`; of detection measures, scores `(N,)`.
"""

from advreg.metrics._channels import Absent, Activation, channel_dice, over_channels
from advreg.metrics._classes import accuracy, label_accuracy, label_f1
from advreg.metrics._contours import contour_dice
from advreg.metrics._detection import Detection, aupr, auroc, detection, fpr_at_tpr, threshold
from advreg.metrics._heatmaps import heatmap_error, heatmap_points
from advreg.metrics._maps import abs_rel, delta, end_point_error, rmse, sq_rel
from advreg.metrics._masks import decide, dice, mask_like, probabilities, soft_dice
from advreg.metrics._points import point_error
from advreg.metrics._rasterise import rasterise, soft_rasterise

__all__ = [
    "Absent",
    "Activation",
    "Detection",
    "abs_rel",
    "accuracy",
    "aupr",
    "auroc",
    "channel_dice",
    "contour_dice",
    "decide",
    "delta",
    "detection",
    "dice",
    "end_point_error",
    "fpr_at_tpr",
    "heatmap_error",
    "heatmap_points",
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
    "threshold",
]
