"""Threats: the set that an adversary may move in, a ball of a norm, a box and a mask.

Projections are exact: the nearest point of ball ∩ box ∩ mask in Euclidean distance. Random points belong to
the example, by `Keys`.
"""

from advreg._core.keys import Keys
from advreg.threats._norms import Directions, Norm, l1, l2, linf
from advreg.threats._patches import patch_mask
from advreg.threats._product import Product, Threats
from advreg.threats._projections import dykstra
from advreg.threats._threat import Threat

__all__ = [
    "Directions",
    "Keys",
    "Norm",
    "Product",
    "Threat",
    "Threats",
    "dykstra",
    "l1",
    "l2",
    "linf",
    "patch_mask",
]
