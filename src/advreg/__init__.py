"""Adversarial robustness of networks that return several things at once.

Seven concepts: a norm is a geometry, a threat is the set that an adversary may move in, an objective is what
it maximises, a rule makes a step from a gradient, an attack takes a model, inputs and targets to a result; a
task says what a head is for, an execution how a model is run.

What is used most stands here; the rest in the rooms below, `advreg.attacks`, `advreg.tasks` and so on, which
are loaded when first asked for.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from advreg import (
        attacks,
        certificates,
        detectors,
        diagnosis,
        evaluation,
        execution,
        metrics,
        objectives,
        plotting,
        rules,
        tasks,
        testing,
        threats,
        training,
        transforms,
    )
    from advreg.attacks import auto_attack, ood_attack, pgd_attack
    from advreg.diagnosis import diagnose
    from advreg.evaluation import evaluate, radius_curve
    from advreg.execution import Execution
    from advreg.metrics import contour_dice, dice, point_error, soft_dice
    from advreg.objectives import J_IND_reg, J_IND_seg, J_OOD_reg, J_OOD_seg, negate, on, weighted
    from advreg.rules import Adamax, Steepest
    from advreg.threats import Keys, Threat, l1, l2, linf

__version__ = version("advreg")

__all__ = [
    "Adamax",
    "Execution",
    "J_IND_reg",
    "J_IND_seg",
    "J_OOD_reg",
    "J_OOD_seg",
    "Keys",
    "Steepest",
    "Threat",
    "attacks",
    "auto_attack",
    "certificates",
    "contour_dice",
    "detectors",
    "diagnose",
    "diagnosis",
    "dice",
    "evaluate",
    "evaluation",
    "execution",
    "l1",
    "l2",
    "linf",
    "metrics",
    "negate",
    "objectives",
    "on",
    "ood_attack",
    "pgd_attack",
    "plotting",
    "point_error",
    "radius_curve",
    "rules",
    "soft_dice",
    "tasks",
    "testing",
    "threats",
    "training",
    "transforms",
    "weighted",
]

_ROOMS = {
    "attacks": ("auto_attack", "ood_attack", "pgd_attack"),
    "certificates": (),
    "detectors": (),
    "diagnosis": ("diagnose",),
    "evaluation": ("evaluate", "radius_curve"),
    "execution": ("Execution",),
    "metrics": ("contour_dice", "dice", "point_error", "soft_dice"),
    "objectives": ("J_IND_reg", "J_IND_seg", "J_OOD_reg", "J_OOD_seg", "negate", "on", "weighted"),
    "plotting": (),
    "rules": ("Adamax", "Steepest"),
    "tasks": (),
    "testing": (),
    "threats": ("Keys", "Threat", "l1", "l2", "linf"),
    "training": (),
    "transforms": (),
}


def __getattr__(name: str) -> Any:
    """Load the room that a name stands in, when the name is first asked for."""
    for room, names in _ROOMS.items():
        if name == room or name in names:
            module = import_module(f"advreg.{room}")
            found = module if name == room else getattr(module, name)
            globals()[name] = found
            return found
    raise AttributeError(f"module 'advreg' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    """What stands here, loaded or not."""
    return sorted([*globals(), *__all__])
