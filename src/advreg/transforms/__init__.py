"""Transforms with parameters that an adversary moves: contrast, bias fields, deformations; none at zero.

A transform is a function `(x, p) -> x'` of images `(B, C, *spatial)` and parameters `(B, P)`, with
`transform(x, 0) = x`. A `Threat` on the parameters bounds them; `Parametrised` makes a model of both.
"""

from advreg.transforms._deformation import Deformation
from advreg.transforms._intensity import BiasField, Gamma
from advreg.transforms._parametrised import Parametrised, Transform

__all__ = [
    "BiasField",
    "Deformation",
    "Gamma",
    "Parametrised",
    "Transform",
]
