"""Objectives: what an attack maximises, `(output, target) -> (B,)`."""

from advreg._core.types import Output, PerExample, Target
from advreg.objectives._combine import (
    Normalised,
    at,
    heads_read,
    negate,
    normalised,
    on,
    weighted,
    worst_head,
)
from advreg.objectives._conditions import Within
from advreg.objectives._contours import contour_overlap
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

__all__ = [
    "J_IND_reg",
    "J_IND_seg",
    "J_OOD_reg",
    "J_OOD_seg",
    "Normalised",
    "Output",
    "PerExample",
    "SegPGD",
    "SharpenedDice",
    "SharpenedOverlap",
    "Target",
    "Within",
    "absolute_error",
    "at",
    "contour_overlap",
    "cosine_weighted",
    "cross_entropy",
    "heads_read",
    "huber",
    "jensen_shannon",
    "margin",
    "masked_cross_entropy",
    "negate",
    "normalised",
    "on",
    "tversky",
    "weighted",
    "worst_head",
    "worst_point",
]
