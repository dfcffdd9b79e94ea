"""Metrics: Dice of masks and contours, point errors, `(output, target) -> (B,)`; detection measures.

Shapes: masks are `(B, C, *spatial)`, contours and points `(B, K, 2)`, scores `(N,)`.
"""

from advreg.metrics._channels import Absent, Activation, channel_dice, over_channels
from advreg.metrics._contours import contour_dice
from advreg.metrics._detection import Detection, aupr, auroc, detection, fpr_at_tpr, threshold
from advreg.metrics._masks import decide, dice, mask_like, probabilities, soft_dice
from advreg.metrics._points import point_error
from advreg.metrics._rasterise import rasterise, soft_rasterise

__all__ = [
    "Absent",
    "Activation",
    "Detection",
    "aupr",
    "auroc",
    "channel_dice",
    "contour_dice",
    "decide",
    "detection",
    "dice",
    "fpr_at_tpr",
    "mask_like",
    "over_channels",
    "point_error",
    "probabilities",
    "rasterise",
    "soft_dice",
    "soft_rasterise",
    "threshold",
]
