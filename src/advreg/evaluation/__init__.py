"""Evaluation: metrics of every head under attack, one row per example; resumable, and shared by processes."""

from advreg._core.bootstrap import Interval, bootstrap
from advreg._core.files import written_whole
from advreg.evaluation._batches import Batches
from advreg.evaluation._curves import evaluate, radius_curve
from advreg.evaluation._jobs import Bounds, Cell, Metrics, Settings, measure
from advreg.evaluation._table import Bound, Row, Table

__all__ = [
    "Batches",
    "Bound",
    "Bounds",
    "Cell",
    "Interval",
    "Metrics",
    "Row",
    "Settings",
    "Table",
    "bootstrap",
    "evaluate",
    "measure",
    "radius_curve",
    "written_whole",
]
