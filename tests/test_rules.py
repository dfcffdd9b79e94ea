import pytest
import torch

from advreg import Adamax, Momentum, Steepest, l1, l2, linf
from advreg.testing import check_rule


@pytest.mark.parametrize(
    "rule", [Steepest(0.2), Momentum(0.2), Momentum(0.2, decay=0.5), Adamax(0.2)], ids=repr
)
def test_the_shipped_rules_keep_the_contract(rule):
    check_rule(rule)


@pytest.mark.parametrize("norm", [linf, l2, l1], ids=repr)
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
        direction, state = rule.step(gradient, state, norm)
        x = x + rule.size * direction
        torch.testing.assert_close(x, parameter.detach(), rtol=1e-12, atol=1e-12)


def test_momentum_is_the_published_recursion():
    g = torch.randn(10, 2, 5, generator=torch.Generator().manual_seed(0))
    rule, v = Momentum(0.2, decay=0.8), torch.zeros(2, 5)
    state = rule.init(v)
    for gradient in g:
        v = 0.8 * v + gradient / gradient.abs().mean(1, keepdim=True)
        direction, state = rule.step(gradient, state, linf)
        assert torch.equal(direction, v.sign())


def test_adamax_survives_half_precision():
    x = torch.zeros(2, 3, dtype=torch.float16)
    rule = Adamax(0.2)
    direction, _ = rule.step(torch.tensor([[1.0, 0.0, -1.0]] * 2).half(), rule.init(x), linf)
    torch.testing.assert_close(direction.float(), torch.tensor([[1.0, 0.0, -1.0]] * 2), rtol=0, atol=2e-3)


@pytest.mark.parametrize("size", [0.0, -0.1, float("inf"), float("nan")])
@pytest.mark.parametrize("rule", [Steepest, Momentum, Adamax])
def test_a_size_that_is_no_length_is_refused(rule, size):
    with pytest.raises(ValueError, match="size must be above zero and finite"):
        rule(size)


def test_decays_are_checked():
    with pytest.raises(ValueError, match=r"decay must lie in \[0, 1\]; got 1.5"):
        Momentum(0.2, decay=1.5)
    with pytest.raises(ValueError, match="betas must lie in"):
        Adamax(0.2, betas=(0.9, 1.0))
