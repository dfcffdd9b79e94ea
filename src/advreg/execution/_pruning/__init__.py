"""Pruning of models: only the part that some heads need."""

from advreg.execution._pruning._pruned import pruned
from advreg.execution._pruning._writes import differing, marks

__all__ = ["differing", "marks", "pruned"]
