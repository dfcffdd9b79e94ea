"""Task for contour heads."""

from __future__ import annotations

from functools import partial

from advreg.metrics import contour_dice, point_error
from advreg.objectives import (
    SharpenedOverlap,
    contour_overlap,
)
from advreg.rules import Adaptive, Decayed, Shrinking, Steepest
from advreg.tasks._task import Member, Task


def outlines(size: tuple[int, int]) -> Task:
    """A head of contours, `(B, K, 2)`, judged by `contour_dice` (Eq 14): lower is worse, 0 is the worst.

    Args:
        size: Rows and columns (H, W) of the image.

    Example:
        >>> from advreg.tasks import outlines
        >>> outlines((64, 64)).worst
        0.0
    """
    sharpened, hard = SharpenedOverlap(size), partial(contour_overlap, size=size)
    short, wider = Decayed(Steepest(1.0)), Shrinking(((0.3, 1.5),))
    return Task(
        partial(contour_dice, size=size),
        "lower",
        (
            Member("sharpened overlap", sharpened, short, wider),
            Member("overlap", hard),
            Member("APGD, sharpened overlap, shrinking radius", sharpened, Adaptive(), Shrinking()),
            Member("distance", point_error, short, wider),
            Member("APGD, overlap", hard, Adaptive()),
        ),
        worst=0.0,
    )
