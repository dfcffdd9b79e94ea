"""Step rules against torch's optimiser and the published recursions."""

import pytest
import torch

from advreg import Adamax, Steepest, Threat, l1, l2, linf
from advreg.rules import Adaptive, Decayed, Here, Momentum, Stepwise
from advreg.testing import check_rule

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
