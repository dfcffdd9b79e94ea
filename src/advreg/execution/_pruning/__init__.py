"""Pruning of models: only the part that some heads need."""

from advreg.execution._pruning._pruned import pruned

__all__ = ["pruned"]
