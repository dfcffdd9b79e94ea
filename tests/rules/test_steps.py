import math
from itertools import pairwise

import pytest
import torch

from advreg import Adamax, Momentum, Steepest, Threat, l1, l2, linf, pgd_attack
from advreg.attacks import ascend, value_and_gradient
from advreg.rules import Adaptive, Decayed, Here, Shrinking, Stepwise, cosine
from advreg.testing import check_rule

SUM = value_and_gradient(lambda x: x.sum(1))
SHIPPED = [
    Steepest(0.2),
    Momentum(0.2),
    Momentum(0.2, decay=0.5),
    Adamax(0.2),
    Adaptive(),
    Adaptive(0.5, inertia=1.0),
    Decayed(Steepest(1.0)),
    Decayed(Momentum(0.2), Stepwise(((0.5, 1.0),), last=0.1)),
]


def here(gradient, norm):
    """As the engine tells it, far from any limit."""
    zero = torch.zeros_like(gradient)
    return Here(zero, gradient, zero[:, 0], Threat(norm, 1.0, bounds=None), zero)


@pytest.mark.parametrize("rule", SHIPPED)
def test_the_shipped_rules_keep_the_contract(rule):
    check_rule(rule)


@pytest.mark.parametrize("norm", [linf, l2, l1])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9)])
def test_adamax_equals_torch_fed_the_same_directions(norm, betas):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3, 20, dtype=torch.float64, generator=g)
    parameter = torch.nn.Parameter(x.clone())
    optimiser = torch.optim.Adamax([parameter], lr=0.05, betas=betas, maximize=True)
    rule = Adamax(0.05, betas=betas)
    state = rule.init(x)
    for _ in range(60):
        gradient = torch.randn(3, 20, dtype=torch.float64, generator=g)
        parameter.grad = norm.steepest(gradient)
        optimiser.step()
        direction, state = rule.step(here(gradient, norm), state)
        x = x + rule.size * direction
        torch.testing.assert_close(x, parameter.detach(), rtol=1e-12, atol=1e-12)


def test_momentum_is_the_published_recursion():
    g = torch.randn(10, 2, 5, generator=torch.Generator().manual_seed(0))
    rule, v = Momentum(0.2, decay=0.8), torch.zeros(2, 5)
    state = rule.init(v)
    for gradient in g:
        v = 0.8 * v + gradient / gradient.abs().mean(1, keepdim=True)
        direction, state = rule.step(here(gradient, linf), state)
        assert torch.equal(direction, v.sign())


def test_adamax_survives_half_precision():
    x = torch.zeros(2, 3, dtype=torch.float16)
    rule = Adamax(0.2)
    direction, _ = rule.step(here(torch.tensor([[1.0, 0.0, -1.0]] * 2).half(), linf), rule.init(x))
    torch.testing.assert_close(direction.float(), torch.tensor([[1.0, 0.0, -1.0]] * 2), rtol=0, atol=2e-3)


@pytest.mark.parametrize("size", [0.0, -0.1, float("inf"), float("nan")])
@pytest.mark.parametrize("rule", [Steepest, Momentum, Adamax, Adaptive])
def test_a_size_that_is_no_length_is_refused(rule, size):
    with pytest.raises(ValueError, match="size must be above zero and finite"):
        rule(size)


def test_decays_are_checked():
    with pytest.raises(ValueError, match=r"decay must lie in \[0, 1\]; got 1.5"):
        Momentum(0.2, decay=1.5)
    with pytest.raises(ValueError, match="betas must lie in"):
        Adamax(0.2, betas=(0.9, 1.0))
    with pytest.raises(
        ValueError, match=r"rho must lie in \(0, 1\) and inertia in \(0, 1\]; got 1.0 and 0.75"
    ):
        Adaptive(rho=1.0)


def test_decays_follow_the_share_of_steps_done():
    centre = torch.full((1, 1), 0.5)
    climb = ascend(SUM, centre, threat=Threat(linf, 0.5), rule=Decayed(Steepest(0.2)), steps=4)
    points = [next(climb).x.item() for _ in range(5)]
    moved = [b - a for a, b in pairwise(points)]
    assert moved == pytest.approx([0.1 * cosine(k / 4) for k in range(4)], rel=1e-5)


@pytest.mark.parametrize("rule", [Adaptive(), Decayed(Steepest(0.2))])
def test_rules_that_plan_ahead_ask_for_the_number_of_steps(rule):
    climb = ascend(SUM, torch.full((1, 2), 0.5), threat=Threat(linf, 0.1), rule=rule)
    next(climb)
    with pytest.raises(ValueError, match="pass steps= to ascend"):
        next(climb)


def apgd_by_hand(function, x, radius, steps, rho=0.75):
    """APGD of one example under Linf in a box, line by line as in its paper."""

    def project(z):
        return torch.clamp(x + (z - x).clamp(-radius, radius), 0, 1)

    def look(z):
        z = z.clone().requires_grad_()
        value = function(z)
        return value.item(), torch.autograd.grad(value, z)[0]

    marks = [0.0, 0.22]
    while marks[-1] < 1:
        marks.append(marks[-1] + max(marks[-1] - marks[-2] - 0.03, 0.06))
    marks = sorted({math.ceil(p * steps) for p in marks})
    eta, points = 2 * radius, [x]
    value, gradient = look(x)
    best, best_value, best_gradient = x, value, gradient
    values, best_before, halved = [value], value, True
    at, before = x, x
    for k in range(steps):
        if k in marks[1:]:
            since = marks[marks.index(k) - 1]
            rises = sum(values[i + 1] > values[i] for i in range(since, k))
            stuck = not halved and best_before == best_value
            halved = rises < rho * (k - since) or stuck
            best_before = best_value
            if halved:
                eta, at, gradient = eta / 2, best, best_gradient
        z = project(at + eta * gradient.sign())
        step = project(at + 0.75 * (z - at) + 0.25 * (at - before)) if k else z
        before, at = at, step
        points.append(at)
        value, gradient = look(at)
        values.append(value)
        if value > best_value:
            best, best_value, best_gradient = at, value, gradient
    return points


@pytest.mark.parametrize("seed", range(3))
def test_adaptive_is_apgd(seed):
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(5, 7, dtype=torch.float64, generator=g)
    x = torch.rand(3, 7, dtype=torch.float64, generator=g)

    def function(z):  # curved, with many local maxima
        return torch.sin(9 * z @ w.T).sum(-1) + (z @ w.T).square().sum(-1) / 9

    climb = ascend(value_and_gradient(function), x, threat=Threat(linf, 0.3), rule=Adaptive(), steps=50)
    ours = torch.stack([next(climb).x for _ in range(51)])
    for row in range(3):
        theirs = torch.stack(apgd_by_hand(function, x[row], 0.3, 50))
        torch.testing.assert_close(ours[:, row], theirs, rtol=1e-9, atol=1e-9)


def test_adaptive_starts_anew_where_the_radius_changes():
    x = torch.full((2, 6), 0.5)
    w = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    climb = ascend(
        value_and_gradient(lambda z: (w * z).sum(1)),
        x,
        threat=Threat(linf, 0.1),
        rule=Adaptive(),
        steps=20,
        schedule=Shrinking(),
    )
    sizes = [linf.size(next(climb).x - x)[0].item() for _ in range(21)]
    assert sizes[1:6] == pytest.approx([0.2] * 5)
    assert sizes[6:12] == pytest.approx([0.15] * 6)
    assert sizes[12:] == pytest.approx([0.1] * 9)


def test_a_radius_of_zero_moves_nothing():
    x, radius = torch.rand(2, 4), torch.tensor([0.0, 0.1])
    model = torch.nn.Linear(4, 2)
    found = pgd_attack(
        model,
        x,
        torch.zeros(2, 2),
        objective=lambda o, y: o.sum(1),
        threat=Threat(linf, radius),
        rule=Adaptive(),
    )
    assert torch.equal(found.x[0], x[0])
    assert not torch.equal(found.x[1], x[1])
