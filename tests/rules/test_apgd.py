"""APGD against its paper, line by line."""

import math

import pytest
import torch

from advreg import Threat, linf, pgd_attack
from advreg.attacks import ascend, value_and_gradient
from advreg.rules import Adaptive, Shrinking


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
