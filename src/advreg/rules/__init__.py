"""Rules: how a step is made from a gradient, and schedules over the steps."""

from advreg.rules._apgd import Adaptive
from advreg.rules._schedules import Decayed, Shrinking, Stepwise, cosine
from advreg.rules._steps import Adamax, Here, Momentum, Rule, Steepest

__all__ = [
    "Adamax",
    "Adaptive",
    "Decayed",
    "Here",
    "Momentum",
    "Rule",
    "Shrinking",
    "Steepest",
    "Stepwise",
    "cosine",
]
