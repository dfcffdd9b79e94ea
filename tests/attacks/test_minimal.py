"""Critical radii against a linear model's, in each norm, and what they report."""

import math

import pytest
import torch
from tests.networks import TwoHeads, seeded, uniform

from advreg import Execution, Threat, l1, l2, linf, point_error
from advreg.attacks import critical_radius
from advreg.tasks import Member, Task, masks

LOWER = Task(lambda output, target: output[:, 0], "lower")
HIGHER = Task(lambda output, target: output[:, 0], "higher")


@pytest.mark.parametrize(("norm", "dual"), [(linf, 1), (l2, 2), (l1, math.inf)])
@pytest.mark.parametrize(("task", "sign"), [(LOWER, -1), (HIGHER, 1)])
def test_the_critical_radius_of_a_linear_model_is_known(norm, dual, task, sign):
    weights, x = uniform(6) - 0.4, uniform(5, 6)
    values = sign * (x @ weights)
    threshold = float(values.max()) + 0.05
    true = ((threshold - values) / weights.norm(dual)).double()
    threat = Threat(norm, 3.0, bounds=None)
    model = lambda x: (x @ weights)[:, None]  # noqa: E731 - as short as it is
    found = critical_radius(model, x, x, task, sign * threshold, threat, budget=250)
    assert (found.radius >= true * (1 - 1e-4)).all()
    assert (found.radius <= true * 1.03).all()
    assert (sign * found.value > threshold).all()
    torch.testing.assert_close(norm.size(found.x - x).double(), found.radius)


def test_examples_have_radii_of_their_own_at_which_the_metric_has_crossed():
    net, x = seeded(TwoHeads).eval(), uniform(6, 1, 8, 8)
    with torch.no_grad():
        out = net(x)
    y = {"contour": out["contour"], "mask": (out["mask"] > 0).float()}
    threat = Threat(linf, 0.5)
    for head, task, threshold in (("mask", masks(), 0.7), ("contour", Task(point_error, "higher"), 0.3)):
        whole = critical_radius(net, x, y, task, threshold, threat, head=head, budget=90)
        assert whole.radius.isfinite().all()
        assert (task.sign * whole.value > task.sign * threshold).all()
        assert threat.contains(whole.x, x).all()
        assert (whole.passes <= 90).all()
        with torch.no_grad():
            torch.testing.assert_close(task.metric(net(whole.x)[head], y[head]), whole.value)
        torch.testing.assert_close(threat.distance(whole.x, x).double(), whole.radius)


def test_passes_are_gradients_of_the_input_of_each_example():
    weights, x, counted = uniform(6) - 0.4, uniform(1, 6), []

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            counted.append(len(gradient))
            return gradient

    threshold = float((x @ weights)[0]) - 0.05
    for budget in (1, 7, 50, 250):
        counted.clear()
        model = lambda x: (Counted.apply(x) @ weights)[:, None]  # noqa: E731 - as short as it is
        found = critical_radius(model, x, x, LOWER, threshold, Threat(l2, 3.0, bounds=None), budget=budget)
        assert sum(counted) == found.passes.item() <= budget


def test_what_has_crossed_and_what_never_crosses():
    x = torch.tensor([[0.2], [0.9]])
    found = critical_radius(lambda x: x, x, x, LOWER, 0.5, Threat(l2, 0.1, bounds=None), budget=50)
    assert found.radius.tolist() == [0.0, math.inf]
    assert found.passes.tolist() == [0, 50]
    assert torch.equal(found.x, x)
    torch.testing.assert_close(found.value, x[:, 0])


def test_a_mask_and_a_scale_bound_what_moves():
    weights, x = torch.tensor([1.0, 5.0]), torch.full((1, 2), 0.5)
    mask = torch.tensor([True, False])
    found = critical_radius(
        lambda x: (x @ weights)[:, None],
        x,
        x,
        LOWER,
        2.8,
        Threat(l2, 0.5, bounds=None, mask=mask),
        budget=200,
    )
    assert found.radius.item() == pytest.approx(0.2, rel=0.03)
    scaled = Threat(linf, 0.5, bounds=None, scale=torch.tensor([0.5, 0.0]))
    found = critical_radius(lambda x: (x @ weights)[:, None], x, x, LOWER, 2.8, scaled, budget=200)
    assert found.radius.item() == pytest.approx(0.4, rel=0.03)


def test_mistakes_are_named():
    x = torch.rand(2, 3)
    with pytest.raises(TypeError, match="task"):
        critical_radius(lambda x: x, x, x, point_error, 0.5, Threat(l2, 1.0))
    with pytest.raises(ValueError, match="threshold must be a number"):
        critical_radius(lambda x: x, x, x, LOWER, math.nan, Threat(l2, 1.0))
    with pytest.raises(ValueError, match="largest radius"):
        critical_radius(lambda x: x, x, x, LOWER, 0.5, Threat(l2, math.inf))
    with pytest.raises(ValueError, match="budget must be 1"):
        critical_radius(lambda x: x, x, x, LOWER, 0.5, Threat(l2, 1.0), budget=0)
    with pytest.raises(ValueError, match="own precision"):
        critical_radius(
            torch.nn.Linear(3, 1), x, x, LOWER, -9.0, Threat(l2, 1.0), execution=Execution("bfloat16")
        )


def test_an_example_has_the_same_radius_in_any_batch():
    net, x = seeded(TwoHeads).double().eval(), uniform(5, 1, 8, 8).double()
    with torch.no_grad():
        y = {"mask": (net(x)["mask"] > 0).double()}
    threat, index = Threat(linf, 0.5), torch.arange(5)
    told = {"task": masks(), "threshold": 0.7, "threat": threat, "head": "mask", "budget": 230}
    whole = critical_radius(net, x, y, index=index, execution=Execution(micro_batch=2), **told)
    for rows in ([3], [4, 0]):
        some = critical_radius(net, x[rows], {"mask": y["mask"][rows]}, index=index[rows], **told)
        torch.testing.assert_close(some.radius, whole.radius[rows], rtol=1e-6, atol=0)


def test_metrics_may_be_whole_numbers_or_flags():
    x = torch.full((2, 1), 0.25)
    members = (Member("value", HIGHER.metric),)
    count = Task(lambda output, target: (output[:, 0] > 0.5).long(), "higher", members)
    found = critical_radius(lambda x: x, x, x, count, 0, Threat(l2, 1.0, bounds=None), budget=60)
    assert found.value.tolist() == [1.0, 1.0]
    torch.testing.assert_close(found.radius, torch.full((2,), 0.25).double(), rtol=0.05, atol=0)


def test_a_gradient_that_is_not_finite_is_named():
    x = torch.full((2, 1), 0.25)
    rooted = Task(lambda output, target: (output[:, 0] * 0).sqrt() + output[:, 0], "higher")
    with pytest.raises(ValueError, match="gradient is not finite for examples 0, 1"):
        critical_radius(lambda x: x, x, x, rooted, 0.5, Threat(l2, 1.0, bounds=None), budget=5)
