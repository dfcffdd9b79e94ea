"""Tasks: what a head is for, which `auto_attack` and `tradeoff` take.

A task is a metric, which way it is worse, and members: attacks that are strong against it.
"""

from advreg.tasks._boxes import BoxMetric, boxes
from advreg.tasks._classes import classes, labels
from advreg.tasks._maps import MapMetric, maps
from advreg.tasks._masks import MaskMetric, masks
from advreg.tasks._outlines import outlines
from advreg.tasks._points import heatmaps, points
from advreg.tasks._surfaces import SurfaceMetric, surfaces
from advreg.tasks._task import Member, Task
from advreg.tasks._through import through
from advreg.tasks._values import values

__all__ = [
    "BoxMetric",
    "MapMetric",
    "MaskMetric",
    "Member",
    "SurfaceMetric",
    "Task",
    "boxes",
    "classes",
    "heatmaps",
    "labels",
    "maps",
    "masks",
    "outlines",
    "points",
    "surfaces",
    "through",
    "values",
]
