"""Assumptions of every attack, tested on clean inputs: examples do not interact, a pass repeats itself."""

from advreg.execution._assumptions._examined import AssumptionError, Examined, Function, examined

__all__ = ["AssumptionError", "Examined", "Function", "examined"]
