"""Attacks: from a model, inputs and targets to the worst inputs found.

All that follow gradients are one engine, `ascend`, the paper's Algorithm 1.
"""

from advreg.attacks._ascend import Iterate, ValueAndGradient, ascend, value_and_gradient
from advreg.attacks._auto import AutoResult, Worst, auto_attack
from advreg.attacks._gradient_free import random_noise, score_attack, square_attack
from advreg.attacks._minimal import CriticalRadius, critical_radius
from advreg.attacks._ood import OODResult, ood_attack
from advreg.attacks._pgd import pgd_attack
from advreg.attacks._result import Attack, AttackResult
from advreg.attacks._run import last_iterate
from advreg.attacks._starts import power_start
from advreg.attacks._tradeoff import Front, tradeoff
from advreg.attacks._universal import UniversalResult, universal_attack
from advreg.attacks._walk import Nearest, nearest_in_distribution

__all__ = [
    "Attack",
    "AttackResult",
    "AutoResult",
    "CriticalRadius",
    "Front",
    "Iterate",
    "Nearest",
    "OODResult",
    "UniversalResult",
    "ValueAndGradient",
    "Worst",
    "ascend",
    "auto_attack",
    "critical_radius",
    "last_iterate",
    "nearest_in_distribution",
    "ood_attack",
    "pgd_attack",
    "power_start",
    "random_noise",
    "score_attack",
    "square_attack",
    "tradeoff",
    "universal_attack",
    "value_and_gradient",
]
