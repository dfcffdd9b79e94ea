"""Thresholds of the checks of a diagnosis."""

from __future__ import annotations

MISSED = 0.15
"""The share of the damage that a rival may find and the attack miss: noise, transfer, no gradient, steps."""


UNSTABLE = 0.25
"""The same for another step size or start, of which the best is an optimist's choice."""


SURE = 0.03
"""What the lower end of its interval must exceed."""


FALL = 0.05
"""How much of the largest gain may be lost as radius or steps grow."""


SHORT = 0.1
"""How much of the trivial worst case an unbounded attack may fall short of."""


STILL = 0.05
"""The share of examples that may have no gradient at a random point of the ball."""


EMPTY = 0.9
"""The share of entries, of those that may change, that may have none."""


FORETOLD = 0.1
"""What the gradient must foretell of the change that random points show, in the median."""


DELIVERED = 0.5
"""What a step of `NEARBY` radii along the gradient must deliver of what it foretells, in the median."""


NEARBY = 0.05
"""The length of that step, in radii."""


DIFFER = 1e-4
"""How far two passes on one input may differ, of the largest output: rounding on a GPU is below that."""


FACTORS = (0.25, 0.5, 1.0, 2.0)
"""Radii that are compared, in radii."""


SIZES = (0.05, 1.0)
"""Step sizes, in radii, beside the attack's own 0.2."""
