"""Task for point heads."""

from __future__ import annotations

from advreg.metrics import point_error
from advreg.tasks._task import Task, smooth_members


def points() -> Task:
    """A head of points, `(B, K, D)`: `point_error`, higher is worse, without an end.

    Where points are missing from the target, say so in a task of your own, whose members follow:
    `Task(lambda o, t: point_error(o, t, valid=t.isfinite().all(-1)), "higher")`.

    Example:
        >>> from advreg.tasks import points
        >>> points().worse
        'higher'
    """
    return Task(point_error, "higher", smooth_members(point_error, "distance"))
