"""Rules: how a step is made from a gradient, and schedules over the steps. Frozen values.

The engine moves by `alpha * direction` with `alpha = size * radius`, so a rule means the same at every
radius: the paper's alpha = epsilon / 5 is size 0.2. With `relative=False` alpha is `size` itself, in the
units of the input: the paper's 0.01 in training is `Steepest(0.01, relative=False)`.
"""

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
