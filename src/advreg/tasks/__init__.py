"""Tasks: what a head is for, and the attacks that are strong against it; what `auto_attack` takes."""

from advreg.tasks._masks import masks
from advreg.tasks._outlines import outlines
from advreg.tasks._points import points
from advreg.tasks._task import Member, Task

__all__ = [
    "Member",
    "Task",
    "masks",
    "outlines",
    "points",
]
