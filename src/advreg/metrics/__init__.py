"""Metrics: Dice of masks and contours, point errors, detection measures. One number per example."""

from advreg.metrics._contours import contour_dice
from advreg.metrics._detection import aupr, auroc, fpr_at_tpr
from advreg.metrics._masks import Activation, decide, dice, mask_like, probabilities, soft_dice
from advreg.metrics._points import point_error
from advreg.metrics._rasterise import rasterise, soft_rasterise

__all__ = [
    "Activation",
    "aupr",
    "auroc",
    "contour_dice",
    "decide",
    "dice",
    "fpr_at_tpr",
    "mask_like",
    "point_error",
    "probabilities",
    "rasterise",
    "soft_dice",
    "soft_rasterise",
]
