"""What changes training inputs: the attack's own loop, and noise."""

import math

import pytest
import torch
from networks import Sizes, batch, two_heads

from advreg import (
    Adamax,
    Execution,
    J_IND_reg,
    J_IND_seg,
    Keys,
    Steepest,
    Threat,
    linf,
    negate,
    on,
    pgd_attack,
    weighted,
)
from advreg.objectives import SegPGD, SharpenedDice, normalised, worst_head
from advreg.rules import Adaptive, Decayed, Momentum
from advreg.training import Adversary, L_adv_rs, Noise, PureNoise

REG, SEG = on("contour", J_IND_reg), on("mask", J_IND_seg)
THREAT = Threat(linf, 0.1)
RULES = [
    Steepest(0.3),
    Momentum(0.3),
    Adamax(0.3),
    Adaptive(),
    Decayed(Steepest(2.0)),
    Decayed(Momentum(1.0)),
]
OBJECTIVES = {
    "one head": REG,
    "SegPGD": on("mask", SegPGD()),
    "sharpened": on("mask", SharpenedDice()),
    "negated form": negate(on("mask", SegPGD())),
    "weighted forms": weighted((0.1, REG), (1.0, on("mask", SharpenedDice()))),
    "normalised": normalised((1.0, REG), (0.5, SEG)),
    "normalised forms": normalised((1.0, REG), (0.5, on("mask", SegPGD()))),
    "worst head": worst_head((0.01, REG), (1.0, SEG)),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("random_start", [True, False])
def test_an_adversary_ends_where_the_attack_ends(name, rule, random_start):
    model, (x, y), keys = two_heads(), batch(3), Keys(7, torch.arange(3))
    adversary = Adversary(OBJECTIVES[name], THREAT, rule, 6, random_start)
    start = THREAT.sample(x, keys) if random_start else None
    options = {"objective": OBJECTIVES[name], "threat": THREAT, "rule": rule, "steps": 6}
    found = pgd_attack(model, x, y, start=start, random_start=False, keep="last", **options)
    moved = adversary(model, x, y, keys)
    assert torch.equal(moved, found.x)
    assert not torch.equal(moved, x if start is None else start)
    assert not moved.requires_grad


def test_the_forms_of_an_objective_matter_in_training():
    model, (x, y), keys = two_heads(), batch(3), Keys(7, torch.arange(3))
    ends = [
        Adversary(on("mask", form), THREAT, Steepest(0.3), 6)(model, x, y, keys)
        for form in (SegPGD(), Fixed(SegPGD().at(0.0)), Fixed(SegPGD().at(1.0)))
    ]
    assert not torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


class Fixed:
    """One form of an objective throughout."""

    def __init__(self, form):
        self.form = form

    def __call__(self, output, target):
        return self.form(output, target)


@pytest.mark.parametrize("steps", [0, 1, 5])
@pytest.mark.parametrize("execution", [Execution(prune=False), Execution(prune=False, micro_batch=2)])
def test_it_costs_its_steps_and_not_a_pass_more(steps, execution):
    model, (x, y) = Sizes().eval(), batch(4)
    keys = Keys(0, torch.arange(4))
    moved = Adversary(SEG, THREAT, Adaptive(), steps, execution=execution)(model, x, y, keys)
    looks = 0 if execution.micro_batch is None else 4 + 1 + 1  # the target is cut: that is tested
    assert sum(model.sizes) == looks + 4 * steps
    assert set(model.sizes) <= {execution.micro_batch or 4, 1}
    whole = Adversary(SEG, THREAT, Adaptive(), steps)(two_heads(), x, y, keys)
    torch.testing.assert_close(moved, whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rule", [Adaptive(), Decayed(Steepest(2.0))])
def test_losses_train_with_rules_that_plan_ahead(rule):
    model, (x, y) = two_heads().train(), batch(4)
    both = weighted((0.1, REG), (1.0, SEG))
    total, parts = L_adv_rs(both, reg=REG, seg=normalised((1.0, SEG)), threat=THREAT, rule=rule, steps=5)(
        model, x, y, seed=0
    )
    total.backward()
    assert parts["reg"] > parts["clean"]
    assert parts["seg"] > parts["clean"]
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_what_the_loop_refuses_is_refused_in_training_too():
    model, (x, y), keys = two_heads(), batch(3), Keys(7, torch.arange(3))
    with pytest.raises(TypeError, match="objective must be a function"):
        Adversary("mask", THREAT)(model, x, y, keys)
    with pytest.raises(ValueError, match="does not depend on the input"):
        Adversary(lambda out, y: out["contour"].detach().sum((1, 2)), THREAT)(model, x, y, keys)
    with pytest.raises(ValueError, match="no length at an infinite radius"):
        Adversary(REG, Threat(linf, math.inf), Steepest(0.2), random_start=False)(model, x, y, keys)


def test_random_noise_is_uniform_in_ball_and_box():
    x = torch.full((6, 4000), 0.02)
    keys = Keys(0, torch.arange(6))
    noisy = Noise(Threat(linf, 0.07))(None, x, None, keys)
    moved = noisy - x
    assert noisy.min() == 0
    assert moved.max() <= 0.07 + 1e-6
    assert (noisy == 0).float().mean() == pytest.approx(0.05 / 0.14, abs=0.02)
    assert moved[moved > -0.02].mean() == pytest.approx(0.025, abs=0.002)
    pure = PureNoise(0.07)(None, x, None, keys)
    assert 0 <= pure.min() < 0.001
    assert 0.069 < pure.max() <= 0.07
    assert pure.mean() == pytest.approx(0.035, abs=0.001)
    assert not torch.equal(pure[0], pure[1])
