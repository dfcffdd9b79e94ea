"""The engine against closed-form optima, and against loops written out by hand."""

from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import batch, two_heads
from scipy.optimize import brentq

from advreg import (
    Adamax,
    Execution,
    J_IND_reg,
    J_IND_seg,
    Keys,
    Steepest,
    Threat,
    l1,
    l2,
    linf,
    on,
    pgd_attack,
)
from advreg.attacks import ascend, value_and_gradient
from advreg.rules import Adaptive, Momentum

SUM = value_and_gradient(lambda x: x.sum(1))
RULES = [Steepest(0.2), Momentum(0.2), Adamax(0.2), Adaptive()]


def optimum(norm, w, low, high, radius):
    """The largest <w, d> over size(d) <= radius and low <= d <= high, of one vector."""
    reach = np.where(w > 0, high, -low)  # how far each entry can go its own way
    if norm is linf:
        return (np.abs(w) * np.minimum(reach, radius)).sum()
    if norm is l1:
        left, value = radius, 0.0
        for i in np.argsort(-np.abs(w)):
            used = min(left, reach[i])
            left, value = left - used, value + used * abs(w[i])
        return value

    def size(t):
        return np.linalg.norm(np.minimum(t * np.abs(w), reach))

    if size(1e12) <= radius:
        return (np.abs(w) * reach).sum()
    t = brentq(lambda t: size(t) - radius, 0, 1e12, xtol=1e-15, maxiter=1000)
    return (np.abs(w) * np.minimum(t * np.abs(w), reach)).sum()


@pytest.mark.parametrize("boxed", [False, True], ids=["unboxed", "boxed"])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("norm", [linf, l2, l1])
def test_a_linear_function_is_climbed_to_its_closed_form_optimum(norm, rule, boxed):
    g = torch.Generator().manual_seed(0)
    w = torch.randn(5, 12, dtype=torch.float64, generator=g)
    centre = torch.rand(5, 12, dtype=torch.float64, generator=g)
    radius = torch.tensor([0.05, 0.2, 0.5, 1.0, 2.5], dtype=torch.float64)
    threat = Threat(norm, radius, bounds=(0.0, 1.0) if boxed else None)
    low, high = (-centre, 1 - centre) if boxed else (centre - 1e9, centre + 1e9)
    # In a boxed L1 ball a step of fixed length spreads its overshoot over all entries, and so ends within a
    # step of the optimum, not on it.
    # Adamax divides each entry by its own running maximum, so under L2 it follows the signs of a constant
    # gradient and not the gradient: it climbs to the optimum of <sign(w), d> instead.
    climbed = w.sign() if norm is l2 and isinstance(rule, Adamax) else w
    steps = 400 if norm is l1 and boxed else 150
    best = torch.full((5,), -torch.inf, dtype=torch.float64)
    for point in ascend(lambda x: ((w * x).sum(1), w), centre, threat=threat, rule=rule, steps=steps):
        assert threat.contains(point.x, centre).all()
        best = torch.maximum(best, (climbed * (point.x - centre)).sum(1))
    for i in range(5):
        expected = optimum(norm, climbed[i].numpy(), low[i].numpy(), high[i].numpy(), radius[i].item())
        assert best[i].item() == pytest.approx(expected, rel=3e-3 if norm is l1 and boxed else 1e-6)


def pgd_by_hand(model, x, y, radius, alpha, steps, start):
    """Fifteen lines that anybody would write."""
    adversarial, iterates = start.clone(), [start.clone()]
    for _ in range(steps):
        adversarial.requires_grad_()
        output = model(adversarial)
        objective = ((output["contour"] - y["contour"]) ** 2).sum()
        gradient = torch.autograd.grad(objective, adversarial)[0]
        adversarial = adversarial.detach() + alpha * gradient.sign()
        delta = torch.clamp(adversarial - x, -radius, radius)
        adversarial = torch.clamp(x + delta, 0, 1)
        iterates.append(adversarial)
    return iterates


@pytest.mark.parametrize("radius", [0.01, 0.03, 0.07, 0.3])
def test_steepest_linf_reproduces_the_hand_written_loop_bit_for_bit(model, radius):
    x, y = batch(6)
    x[0] = 0.0  # on the box
    x[1] = 1.0
    threat = Threat(linf, radius)
    start = threat.sample(x, Keys(0, torch.arange(6)))
    by_hand = pgd_by_hand(model, x, y, radius, 0.2 * radius, 10, start)
    climb = ascend(
        value_and_gradient(lambda x: on("contour", J_IND_reg)(model(x), y)),
        x,
        threat=threat,
        rule=Steepest(0.2),
        start=start,
    )
    for theirs, ours in zip(by_hand, climb, strict=False):
        assert torch.equal(ours.x, theirs)
    result = pgd_attack(
        model,
        x,
        y,
        objective=on("contour", J_IND_reg),
        threat=threat,
        rule=Steepest(0.2),
        steps=10,
        start=start,
        random_start=False,
        keep="last",
    )
    assert torch.equal(result.x, by_hand[-1])


def test_adamax_linf_follows_torchs_optimiser_through_a_network(model):
    x, y = batch(3)
    objective, threat = on("mask", J_IND_seg), Threat(linf, 0.05)
    parameter = torch.nn.Parameter(x.clone())
    optimiser = torch.optim.Adamax([parameter], lr=0.2 * 0.05, maximize=True)
    function = value_and_gradient(lambda x: objective(model(x), y))
    climb = ascend(function, x, threat=threat, rule=Adamax(0.2))
    for _, ours in zip(range(15), climb, strict=False):
        torch.testing.assert_close(ours.x, parameter.detach(), rtol=0, atol=1e-6)
        value = objective(model(parameter), y).sum()
        parameter.grad = torch.autograd.grad(value, parameter)[0].sign()
        optimiser.step()
        with torch.no_grad():
            parameter.copy_(x + (parameter - x).clamp(-0.05, 0.05)).clamp_(0, 1)


def test_absolute_sizes_are_in_units_of_the_input():
    centre = torch.full((2, 3), 0.5)
    threat = Threat(linf, torch.tensor([0.4, 0.1]))
    climb = ascend(SUM, centre, threat=threat, rule=Steepest(0.02, relative=False))
    _, first, *_ = islice(climb, 2)
    torch.testing.assert_close(first.x, centre + 0.02)


def test_relative_sizes_follow_each_examples_radius():
    centre = torch.full((2, 3), 0.5)
    climb = ascend(SUM, centre, threat=Threat(linf, torch.tensor([0.4, 0.1])), rule=Steepest(0.2))
    _, first, *_ = islice(climb, 2)
    torch.testing.assert_close(first.x, centre + torch.tensor([[0.08], [0.02]]))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_consumers_grad_mode_does_not_matter_and_is_left_alone(model, mode):
    x, y = batch(2)
    expected = pgd_attack(model, x, y, objective=on("contour", J_IND_reg), threat=Threat(linf, 0.1), steps=3)
    with mode():
        inside = x.clone()
        grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        climb = ascend(
            value_and_gradient(lambda x: on("contour", J_IND_reg)(model(x), y)),
            inside,
            threat=Threat(linf, 0.1),
            rule=Adamax(0.2),
        )
        for _ in islice(climb, 3):
            assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == (grad, inference)
        result = pgd_attack(
            model, inside, y, objective=on("contour", J_IND_reg), threat=Threat(linf, 0.1), steps=3
        )
    torch.testing.assert_close(result.x, expected.x, rtol=0, atol=0)


def test_each_step_costs_one_forward_and_one_gradient_of_the_input_alone():
    model = two_heads()
    x, y = batch(2)
    forwards, parameter_gradients = [], []
    model.register_forward_pre_hook(
        lambda _, inputs: forwards.extend([torch.is_grad_enabled()] * len(*inputs))
    )
    for parameter in model.parameters():
        parameter.register_hook(parameter_gradients.append)
    options = {"objective": on("mask", J_IND_seg), "threat": Threat(linf, 0.1), "steps": 7}
    options["execution"] = Execution(prune=False)
    pgd_attack(model, x, y, restarts=2, **options)
    looks = 2 + 1 + 1  # at the clean inputs, and at one of them alone, twice
    assert len(forwards) == looks + 2 * 2 * (7 + 1)
    forwards.clear()
    pgd_attack(model, x, y, random_start=False, **options)
    assert len(forwards) == looks + 2 * (7 + 1)
    assert parameter_gradients == []
    assert all(parameter.grad is None for parameter in model.parameters())


def test_each_point_is_evaluated_once_and_the_last_of_so_many_steps_not_at_all():
    calls = []

    def function(x):
        calls.append(x)
        return x.square().flatten(1).sum(1), 2 * x

    shape = {"threat": Threat(linf, 0.3), "rule": Steepest(0.5)}
    climb = ascend(function, torch.full((2, 3), 0.5), **shape)
    assert not calls  # nothing is evaluated before it is asked for
    endless = list(islice(climb, 7))
    assert len(calls) == 7
    points = list(ascend(function, torch.full((2, 3), 0.5), steps=6, **shape))
    assert len(calls) == 7 + 6
    for number, (ours, theirs) in enumerate(zip(points, endless, strict=True)):
        assert ours.step == theirs.step == number
        assert torch.equal(ours.x, theirs.x)
    assert (points[-1].value, points[-1].gradient) == (None, None)
    for point in points[:-1]:
        assert torch.equal(point.value, point.x.square().sum(1))
        assert torch.equal(point.gradient, 2 * point.x)


def test_no_steps_give_the_start_alone():
    (only,) = ascend(no_function, torch.full((1, 2), 0.5), threat=Threat(linf, 0.1), rule=Adaptive(), steps=0)
    assert only.step == 0
    assert only.value is None
    assert torch.equal(only.x, torch.full((1, 2), 0.5))


def no_function(x):
    raise AssertionError("nobody asked")


@given(st.lists(st.booleans(), min_size=3, max_size=3), st.integers(0, 4), st.sampled_from(RULES))
def test_examples_that_are_sent_away_leave_the_others_as_they_were(keep, when, rule):
    w = torch.tensor([[1.0, -2.0], [3.0, 0.5], [-1.0, 1.0]], dtype=torch.float64)
    centre = torch.tensor([[0.2, 0.9], [0.5, 0.5], [0.4, 0.1]], dtype=torch.float64)
    threat = Threat(linf, torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64))
    keep, left = torch.tensor(keep), w

    def function(x):
        return (left * x.square()).sum(1), 2 * left * x

    shape = {"threat": threat, "rule": rule, "steps": 5}
    whole = [point.x for point in ascend(function, centre, **shape)]
    climb, sent, xs = ascend(function, centre, **shape), None, []
    for step in range(6):
        point = climb.send(sent)
        xs.append(point.x)
        sent = keep if step == when else None
        left = left[keep] if step == when else left
    for step, (ours, theirs) in enumerate(zip(xs, whole, strict=True)):
        assert torch.equal(ours, theirs if step <= when else theirs[keep])


def test_several_columns_are_joined_as_unit_gradients():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 4, 6, dtype=torch.float64, generator=g)
    x = torch.randn(4, 6, dtype=torch.float64, generator=g)

    def columns(point):
        return torch.stack([(a * point).sum(1), 1e6 * (b * point.square()).sum(1), 0 * point.sum(1)], 1)

    value, gradient = value_and_gradient(columns, (2.0, -0.5, 3.0))(x)
    slope = 2 * b * x
    expected = 2.0 * a / a.norm(dim=1, keepdim=True) - 0.5 * slope / slope.norm(dim=1, keepdim=True)
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(value, 2.0 * (a * x).sum(1) - 5e5 * (b * x.square()).sum(1))


def test_a_functions_gradient_is_that_of_finite_differences():
    model, (x, y) = two_heads(dtype=torch.float64), batch(3, dtype=torch.float64)
    function = value_and_gradient(lambda x: on("mask", J_IND_seg)(model(x), y))
    _, gradient = function(x)
    d = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (up, _), (down, _) = function(x + 1e-5 * d), function(x - 1e-5 * d)
    torch.testing.assert_close((gradient * d).flatten(1).sum(1), (up - down) / 2e-5, rtol=1e-6, atol=1e-9)


def test_a_function_that_gives_no_gradient_is_refused():
    climb = ascend(lambda x: x.sum(1), torch.full((2, 3), 0.5), threat=Threat(linf, 0.1), rule=Steepest())
    with pytest.raises(TypeError, match="value_and_gradient"):
        next(climb)
