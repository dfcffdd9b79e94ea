"""Task for point heads."""

from __future__ import annotations

from advreg.metrics import point_error
from advreg.tasks._task import Task, smooth_members


def points() -> Task:
    """A head of points, `(B, K, D)`: `point_error`, higher is worse, without an end.

    Example:
        >>> from advreg.tasks import points
        >>> points().worse
        'higher'
    """
    return Task(point_error, "higher", smooth_members(point_error, "distance"))
