"""The methods that `strength.py` compares: the paper's attack, this library's, and the peers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peers import peers
from torch import Tensor, nn

from advreg import (
    Adamax,
    J_IND_reg,
    J_IND_seg,
    Momentum,
    Steepest,
    Threat,
    __version__,
    auto_attack,
    dice,
    linf,
    negate,
    on,
    pgd_attack,
    point_error,
)
from advreg.objectives import (
    SegPGD,
    SharpenedDice,
    absolute_error,
    contour_overlap,
    cosine_weighted,
    cross_entropy,
    huber,
    jensen_shannon,
    margin,
    masked_cross_entropy,
    tversky,
    worst_point,
)
from advreg.rules import Adaptive, Decayed, Shrinking
from advreg.tasks import masks, outlines, points

Heads = dict[str, Tensor]
Method = Callable[[nn.Module, Tensor, Heads, str, float, int, int], Tensor]
"""`(net, x, y, head, radius, passes, seed) -> x_adv`, for either head."""

SIZE = (64, 64)
PAPER = {"mask": J_IND_seg, "contour": J_IND_reg}
JUDGES = {"mask": negate(on("mask", dice)), "contour": on("contour", point_error)}
SURROGATES = {
    "mask": {
        "soft Dice": J_IND_seg,
        "sharpened Dice": SharpenedDice(1.0, 5.0, 0.6),
        "cross-entropy": cross_entropy,
        "masked cross-entropy": masked_cross_entropy,
        "balanced masked cross-entropy": partial(masked_cross_entropy, balanced=True),
        "Jensen-Shannon": jensen_shannon,
        "margin": margin,
        "CosPGD": cosine_weighted,
        "SegPGD": SegPGD(),
        "Tversky": tversky,
    },
    "contour": {
        "squared error": J_IND_reg,
        "distance": point_error,
        "L1": absolute_error,
        "Huber": huber,
        "worst point": worst_point,
        "contour overlap": partial(contour_overlap, size=SIZE),
    },
}
RULES: dict[str, dict[str, Any]] = {
    "Adamax": {"rule": Adamax(0.2)},
    "sign steps": {"rule": Steepest(0.2)},
    "momentum": {"rule": Momentum(0.2)},
    "cosine": {"rule": Decayed(Steepest(2.0))},
    "cosine, shrinking radius": {"rule": Decayed(Steepest(2.0)), "schedule": Shrinking()},
    "APGD": {"rule": Adaptive()},
    "APGD, shrinking radius": {"rule": Adaptive(), "schedule": Shrinking()},
}


def pgd(net, x, y, head, radius, passes, seed, *, objective, **options):
    """`pgd_attack` of one head."""
    threat = Threat(linf, radius)
    return pgd_attack(
        net, x, y, objective=on(head, objective), threat=threat, steps=passes, seed=seed, **options
    ).x


def auto(net, x, y, head, radius, passes, seed, *, task):
    """`auto_attack` of one head."""
    found = auto_attack(net, x, y, heads={head: task}, threat=Threat(linf, radius), budget=passes, seed=seed)
    return found.x


def restarted(net, x, y, head, radius, passes, seed, *, task):
    """The worst, per example, of `auto_attack` with 500 passes from one seed after the other."""
    worst, value, sign = x, None, task.sign
    for number in range(max(1, passes // 500)):
        found = auto_attack(
            net, x, y, heads={head: task}, threat=Threat(linf, radius), budget=500, seed=seed + number
        )[head]
        better = found.value > -torch.inf if value is None else sign * found.value > sign * value
        worst = torch.where(better[:, None, None, None], found.x, worst)
        value = torch.where(better, found.value, found.value if value is None else value)
    return worst


def methods(head: str) -> dict[str, Method]:
    """The paper's attack, and this library's: each rule with each surrogate, and the ensemble."""
    found: dict[str, Method] = {
        "paper": partial(pgd, objective=PAPER[head], rule=Adamax(0.2), keep="last"),
        "auto_attack": partial(auto, task=masks() if head == "mask" else points()),
        "auto_attack, restarts of 500 passes": partial(
            restarted, task=masks() if head == "mask" else points()
        ),
    }
    if head == "contour":
        found["auto_attack, outlines"] = partial(auto, task=outlines(SIZE))
    for name, objective in SURROGATES[head].items():
        for rule, options in RULES.items():
            found[f"{name}; {rule}"] = partial(pgd, objective=objective, judge=JUDGES[head], **options)
    return found


@dataclass(frozen=True)
class Entry:
    """One row of the tables, for one head."""

    group: str
    method: str
    head: str
    version: str
    attack: Callable[[nn.Module, Tensor, Heads, float, int, int], Tensor]
    """`(net, x, y, radius, passes, seed) -> x_adv`."""


def entries() -> tuple[list[Entry], dict[str, str]]:
    """Every method, and why libraries are missing."""

    def ours(method: Method, head: str) -> Callable:
        return lambda net, x, y, radius, passes, seed: method(net, x, y, head, radius, passes, seed)

    found = [
        Entry("paper" if name == "paper" else "ours", name, head, __version__, ours(method, head))
        for head in PAPER
        for name, method in methods(head).items()
    ]
    others, missing = peers()
    found += [Entry("peers", f"{p.library} {p.name}", p.head, p.version, p.attack) for p in others]
    return found, missing
