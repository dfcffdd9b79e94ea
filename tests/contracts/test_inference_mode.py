"""Attacks called under `torch.inference_mode`, on inputs and targets made there, as in test loops."""

from functools import partial

import pytest
import torch
from networks import batch, two_heads

from advreg import (
    J_IND_seg,
    J_OOD_seg,
    Threat,
    auto_attack,
    diagnose,
    evaluate,
    linf,
    on,
    ood_attack,
    pgd_attack,
    soft_dice,
)
from advreg.attacks import random_noise, score_attack, square_attack, tradeoff
from advreg.tasks import masks, points

MASK, THREAT = on("mask", J_IND_seg), Threat(linf, 0.1)
HEADS = {"contour": points(), "mask": masks()}
OPTIONS = {"objective": MASK, "threat": THREAT}
ATTACKS = {
    "pgd": lambda net, x, y: pgd_attack(net, x, y, **OPTIONS, steps=3).value,
    "start": lambda net, x, y: pgd_attack(net, x, y, **OPTIONS, steps=3, start=x, restarts=2).value,
    "auto": lambda net, x, y: auto_attack(net, x, y, heads=HEADS, threat=THREAT, budget=20)["mask"].value,
    "tradeoff": lambda net, x, y: tradeoff(net, x, y, heads=HEADS, threat=THREAT, points=2, steps=2).values,
    "square": lambda net, x, y: square_attack(net, x, y, **OPTIONS, queries=5).value,
    "score": lambda net, x, y: score_attack(net, x, y, **OPTIONS, steps=2, draws=2).value,
    "noise": lambda net, x, y: random_noise(net, x, y, **OPTIONS, draws=3).value,
    "ood": lambda net, x, y: (
        ood_attack(net, x, x.flip(0), objective=on("mask", J_OOD_seg), threat=THREAT, steps=3).value
    ),
    "diagnose": lambda net, x, y: torch.tensor(
        [len(diagnose(net, x, y, **OPTIONS, steps=10, queries=30).flagged)]
    ),
    "evaluate": lambda net, x, y: torch.tensor(
        evaluate(
            net, [(x, y)], {"mask": {"dice": soft_dice}}, partial(pgd_attack, **OPTIONS, steps=3)
        ).values()
    ),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_results_are_those_of_a_call_outside(attack):
    net, (x, y) = two_heads(), batch(4)
    expected = attack(net, x, y)
    with torch.inference_mode():
        inside = {key: value.clone() for key, value in y.items()}
        found = attack(net, x.clone(), inside)
    assert torch.equal(found, expected)
    assert all(value.is_inference() for value in inside.values())
