"""Evaluation: metrics of every head under attack, one row per example; resumable, and shared by processes."""

from advreg._core.bootstrap import Interval, bootstrap
from advreg._core.files import written_whole
from advreg.evaluation._batches import Batches
from advreg.evaluation._curves import evaluate, radius_curve
from advreg.evaluation._jobs import Metrics
from advreg.evaluation._table import Row, Table

__all__ = [
    "Batches",
    "Interval",
    "Metrics",
    "Row",
    "Table",
    "bootstrap",
    "evaluate",
    "radius_curve",
    "written_whole",
]
