"""Tasks: what a head is for, which `auto_attack` and `tradeoff` take.

A task is a metric, which way it is worse, and members: attacks that are strong against it.
"""

from advreg.tasks._boxes import BoxMetric, boxes
from advreg.tasks._masks import MaskMetric, masks
from advreg.tasks._outlines import outlines
from advreg.tasks._points import points
from advreg.tasks._surfaces import SurfaceMetric, surfaces
from advreg.tasks._task import Member, Task

__all__ = [
    "BoxMetric",
    "MaskMetric",
    "Member",
    "SurfaceMetric",
    "Task",
    "boxes",
    "masks",
    "outlines",
    "points",
    "surfaces",
]
