"""A scale means other units: every attack in it is the plain attack on inputs in these units."""

import pytest
import torch

from advreg import (
    Adamax,
    J_IND_reg,
    Steepest,
    Threat,
    auto_attack,
    diagnose,
    l1,
    l2,
    linf,
    ood_attack,
    pgd_attack,
)
from advreg.attacks import power_start, random_noise, score_attack, square_attack
from advreg.diagnosis import Diagnosis
from advreg.rules import Adaptive, Momentum
from advreg.tasks import points

SCALE = torch.tensor([1.0, 0.25, 4.0], dtype=torch.float64).reshape(3, 1, 1)
RULES = [Steepest(0.2), Momentum(0.2), Adamax(0.2), Adaptive(2.0), Adamax(0.03, relative=False)]


def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(100, 6)
        )
    return made.double().eval()


def data(count=3):
    g = torch.Generator().manual_seed(1)
    x = torch.rand(count, 3, 5, 5, generator=g, dtype=torch.float64)
    return x, torch.randn(count, 6, generator=g, dtype=torch.float64)


class InOtherUnits(torch.nn.Module):
    """The network on `u = x / scale`."""

    def __init__(self, inside):
        super().__init__()
        self.inside = inside

    def forward(self, u):
        return self.inside(u * SCALE)


@pytest.mark.parametrize("norm", [linf, l2, l1])
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_climb_in_a_scale_is_the_plain_climb_in_its_units(norm, rule):
    model, (x, y) = net(), data()
    options = {"objective": J_IND_reg, "rule": rule, "steps": 12, "seed": 3}
    there = pgd_attack(model, x, y, threat=Threat(norm, 0.4, None, scale=SCALE), **options)
    plain = pgd_attack(InOtherUnits(model), x / SCALE, y, threat=Threat(norm, 0.4, None), **options)
    if norm is linf:
        torch.testing.assert_close(there.x, plain.x * SCALE, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(there.value, plain.value, rtol=1e-6, atol=1e-8)
    else:  # a projection that is nearest in the input's units is not nearest in the others
        assert (there.gain > 0.6 * plain.gain).all()
    assert Threat(norm, 0.4, None, scale=SCALE).contains(there.x, x).all()


@pytest.mark.parametrize("attack", [square_attack, score_attack, random_noise])
def test_attacks_without_a_gradient_search_in_the_scale(attack):
    model, (x, y) = net(), data()
    options = {"objective": J_IND_reg, "seed": 3}
    there = attack(model, x, y, threat=Threat(linf, 0.4, None, scale=SCALE), **options)
    plain = attack(InOtherUnits(model), x / SCALE, y, threat=Threat(linf, 0.4, None), **options)
    torch.testing.assert_close(there.x, plain.x * SCALE, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(there.value, plain.value, rtol=1e-6, atol=1e-8)


def test_the_power_method_stretches_in_the_scale():
    model, (x, _) = net(), data()
    there = power_start(model, x, threat=Threat(linf, 0.4, None, scale=SCALE), seed=3)
    plain = power_start(InOtherUnits(model), x / SCALE, threat=Threat(linf, 0.4, None), seed=3)
    torch.testing.assert_close(there, plain * SCALE)


WEIGHT = torch.tensor([3.0, -1.0, 2.0, 5.0], dtype=torch.float64)


@pytest.mark.parametrize("rule", RULES[:4], ids=repr)
def test_optima_on_a_linear_model_have_closed_forms(rule):
    x, y = torch.full((1, 4), 0.5, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    scale = torch.tensor([1.0, 0.5, 0.1, 0.0], dtype=torch.float64)
    best = {
        linf: 0.1 * (scale * WEIGHT).abs().sum(),
        l2: 0.1 * (scale * WEIGHT).norm(),
        l1: 0.1 * (scale * WEIGHT).abs().max(),
    }
    for norm, most in best.items():
        found = pgd_attack(
            lambda x: (x * WEIGHT).sum(1),
            x,
            y,
            objective=lambda output, _: output,
            threat=Threat(norm, 0.1, None, scale=scale),
            rule=rule,
            steps=120,
        )
        assert found.gain.item() == pytest.approx(most.item(), rel=0.02 if norm is l2 else 1e-6)
        assert found.x[0, 3] == x[0, 3]


def test_a_step_has_the_length_of_each_channels_radius_and_a_closed_one_never_moves():
    model, (x, y) = net(), data()
    x = 0.3 + 0.4 * x
    radii = torch.tensor([0.1, 0.02, 0.0], dtype=torch.float64).reshape(3, 1, 1)
    for rule in (Steepest(0.5), Momentum(0.5), Adamax(0.5)):
        threat = Threat(linf, 1.0, scale=radii)
        found = pgd_attack(
            model,
            x,
            y,
            objective=J_IND_reg,
            threat=threat,
            rule=rule,
            steps=1,
            random_start=False,
            keep="last",
        )
        moved = (found.x - x).abs().amax((2, 3))
        torch.testing.assert_close(moved, (0.5 * radii).reshape(1, 3).expand(3, 3), atol=1e-7, rtol=0)
        assert torch.equal(found.x[:, 2], x[:, 2])


def test_every_entrance_takes_a_scale_and_an_example_alone_is_the_same():
    model, (x, y) = net(), data()
    x, threat = 0.2 + 0.6 * x, Threat(linf, 0.1, scale=SCALE / 8)
    whole = pgd_attack(model, x, y, objective=J_IND_reg, threat=threat, steps=6)
    alone = pgd_attack(
        model, x[1:2], y[1:2], objective=J_IND_reg, threat=threat, steps=6, index=torch.tensor([1])
    )
    torch.testing.assert_close(whole.x[1:2], alone.x)
    worst = auto_attack(
        torch.nn.Sequential(model, torch.nn.Unflatten(1, (3, 2))),
        x,
        y.unflatten(1, (3, 2)),
        heads={"": points()},
        threat=threat,
        budget=20,
    )
    assert threat.contains(worst.x, x).all()
    assert threat.contains(
        ood_attack(model, x.flip(0), x, objective=J_IND_reg, threat=threat, steps=3).x, x
    ).all()
    report = diagnose(model, x, y, objective=J_IND_reg, threat=threat, steps=10, queries=30)
    assert isinstance(report, Diagnosis)
    assert report.checks
