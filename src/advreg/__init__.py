"""Adversarial robustness of networks that return several things at once.

Five concepts: a norm is a geometry, a threat is the set that an adversary may move in, an objective is what
it maximises, a rule makes a step from a gradient, an attack takes a model, inputs and targets to a result.
"""

from importlib.metadata import version

from advreg.ascent import Iterate, ascend
from advreg.attacks import Attack, AttackResult, pgd_attack
from advreg.auto import auto_attack
from advreg.contours import rasterise
from advreg.diagnostics import diagnose
from advreg.evaluation import evaluate, radius_curve
from advreg.matching import ood_attack
from advreg.metrics import auroc, contour_dice, dice, point_error, soft_dice
from advreg.models import frozen
from advreg.norms import l1, l2, linf
from advreg.objectives import J_IND_reg, J_IND_seg, J_OOD_reg, J_OOD_seg, negate, on, weighted
from advreg.projections import dykstra
from advreg.randomness import Keys
from advreg.rules import Adamax, Momentum, Rule, Steepest
from advreg.threats import Threat
from advreg.types import Model, Norm, Output, PerExample, Target

__version__ = version("advreg")

__all__ = [
    "Adamax",
    "Attack",
    "AttackResult",
    "Iterate",
    "J_IND_reg",
    "J_IND_seg",
    "J_OOD_reg",
    "J_OOD_seg",
    "Keys",
    "Model",
    "Momentum",
    "Norm",
    "Output",
    "PerExample",
    "Rule",
    "Steepest",
    "Target",
    "Threat",
    "ascend",
    "auroc",
    "auto_attack",
    "contour_dice",
    "diagnose",
    "dice",
    "dykstra",
    "evaluate",
    "frozen",
    "l1",
    "l2",
    "linf",
    "negate",
    "on",
    "ood_attack",
    "pgd_attack",
    "point_error",
    "radius_curve",
    "rasterise",
    "soft_dice",
    "weighted",
]
