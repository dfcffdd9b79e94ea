"""Execution: how a model is run in an attack, and how it is left as it was.

Every attack runs its model through `running`, by an `Execution`: a new way to run a network reaches them all.
"""

from advreg._core.types import Input, Model
from advreg.execution._adapted import Adapted
from advreg.execution._assumptions import AssumptionError
from advreg.execution._batch import Batch
from advreg.execution._execution import Execution, Running, running
from advreg.execution._expectation import expectation
from advreg.execution._frozen import evaluating, frozen, is_frozen
from advreg.execution._heads import heads
from advreg.execution._memory import Parts, room
from advreg.execution._precision import Precision
from advreg.execution._pruning import pruned
from advreg.execution._sliding import SlidingWindow

__all__ = [
    "Adapted",
    "AssumptionError",
    "Batch",
    "Execution",
    "Input",
    "Model",
    "Parts",
    "Precision",
    "Running",
    "SlidingWindow",
    "evaluating",
    "expectation",
    "frozen",
    "heads",
    "is_frozen",
    "pruned",
    "room",
    "running",
]
