"""The methods that `strength.py` compares: the paper's attack, this library's, and the peers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peers import peers
from peers_views import STUDY, Kind
from strength_scenes import Scene
from torch import Tensor, nn

from advreg import (
    Adamax,
    J_IND_reg,
    J_IND_seg,
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
from advreg.rules import Adaptive, Decayed, Momentum, Shrinking
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


def fifteen_lines(net, x, y, radius, passes, seed, *, head, objective, task):
    """An attack written by hand: signs, a cosine, a radius that shrinks, the best iterate by the metric."""
    worst, value, target = x, torch.full((len(x),), -torch.inf), y[head]
    chance = torch.Generator().manual_seed(seed)
    point = x + radius * (2 * torch.rand(x.shape, generator=chance) - 1)
    for step in range(passes + 1):
        share = step / passes
        size = radius * (2.0 if share < 0.3 else 1.5 if share < 0.6 else 1.0)
        point = (x + (point - x).clamp(-size, size)).clamp(0, 1).requires_grad_(step < passes)
        output = net(point)[head]
        if size == radius:
            damage = task.sign * task.metric(output.detach(), target)
            better = damage > value
            worst = torch.where(better.reshape(-1, *[1] * (x.ndim - 1)), point.detach(), worst)
            value = torch.where(better, damage, value)
        if step < passes:
            (slope,) = torch.autograd.grad(objective(output, target).sum(), point)
            point = point.detach() + size * (1 + math.cos(math.pi * share)) * slope.sign()
    return worst


def scene_entries(scene: Scene) -> list[Entry]:
    """The paper's attack, that by hand and `auto_attack`, the last two in each metric."""
    head = scene.kind.key
    kept = {"objective": scene.paper, "rule": Adamax(0.2), "keep": "last"}

    def paper(net, x, y, radius, passes, seed):
        return pgd(net, x, y, head, radius, passes, seed, **kept)

    def ours(task, net, x, y, radius, passes, seed):
        return auto(net, x, y, head, radius, passes, seed, task=task)

    found = [Entry("paper", "paper", head, __version__, paper)]
    for metric, task in scene.tasks.items():
        by_hand = partial(fifteen_lines, head=head, objective=scene.plain, task=task)
        found += [
            Entry("by hand", f"fifteen lines, {metric}", head, __version__, by_hand),
            Entry("ours", f"auto_attack, {metric}", head, __version__, partial(ours, task)),
        ]
    return found


def entries() -> tuple[list[Entry], dict[str, str]]:
    """Every method on the study's heads, and why libraries are missing."""

    def ours(method: Method, head: str) -> Callable:
        return lambda net, x, y, radius, passes, seed: method(net, x, y, head, radius, passes, seed)

    found = [
        Entry("paper" if name == "paper" else "ours", name, head, __version__, ours(method, head))
        for head in PAPER
        for name, method in methods(head).items()
    ]
    others, missing = theirs(STUDY)
    return found + others, missing


def theirs(kinds: Sequence[Kind]) -> tuple[list[Entry], dict[str, str]]:
    """The peers on such heads, and why libraries are missing."""
    found, missing = peers(kinds)
    return [Entry("peers", f"{p.library} {p.name}", p.head, p.version, p.attack) for p in found], missing
