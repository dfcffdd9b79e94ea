"""Certificates of thresholds, pixels and points, against closed forms."""

import math
from functools import partial

import pytest
import torch
from scipy.stats import norm
from tests.networks import TwoHeads, seeded, uniform

from advreg import Threat, auto_attack, l2, point_error
from advreg.attacks import critical_radius
from advreg.certificates import (
    certified_radius,
    certify_outputs,
    certify_pixels,
    draws,
    largest_radius,
    over_draws,
    smoothed,
    under_noise,
)
from advreg.tasks import Task, masks


def test_the_radius_of_a_linear_threshold_is_known():
    weights, x = uniform(9) - 0.3, uniform(30, 9)
    values = x @ weights
    threshold = float(values.min()) - 0.1
    task = Task(lambda output, target: output, "lower")
    true = ((values - threshold) / weights.norm()).double()
    found = certified_radius(lambda x: x @ weights, x, x, task, threshold, sigma=0.5, samples=2000)
    far = largest_radius(2000, 0.5)
    assert (found <= true).all()
    assert (found >= true.clamp(max=far) * 0.8 - 0.05).all()
    other = Task(lambda output, target: output, "higher")
    turned = certified_radius(lambda x: -x @ weights, x, x, other, -threshold, sigma=0.5, samples=2000)
    assert torch.equal(turned, found)
    hopeless = certified_radius(lambda x: x @ weights, x, x, task, 1e3, sigma=0.5, samples=100)
    assert (hopeless == 0).all()


def test_guaranteed_radii_are_below_those_that_are_found():
    net, x = seeded(TwoHeads).eval(), uniform(4, 1, 8, 8)
    with torch.no_grad():
        out = net(x)
    y, sigma = {"contour": out["contour"] + 0.1, "mask": (out["mask"] > 0).float()}, 0.25
    threat = Threat(l2, 5.0, bounds=None)
    for head, task, threshold in (("mask", masks(), 0.7), ("contour", Task(point_error, "higher"), 0.6)):
        low = certified_radius(net, x, y, task, threshold, sigma=sigma, head=head, samples=500)
        noisy = draws(net, sigma, 15)
        found = critical_radius(noisy, x, y, under_noise(task), threshold, threat, head=head, budget=60)
        assert (low <= found.radius).all()
        assert (low > 0).any()


def test_labels_of_a_step_are_certified_up_to_its_distance():
    sigma, tau = 0.25, 0.75
    x = torch.linspace(0, 1, 41)[None, None]
    found = certify_pixels(lambda x: x - 0.5, x, sigma=sigma, tau=tau, samples=2000)
    assert found.radius == pytest.approx(sigma * norm.ppf(tau), abs=1e-6)
    sure = found.labels[0] != -1
    distance = (x[0, 0] - 0.5).abs()
    assert not sure[distance < found.radius - 1e-3].any()  # within the radius the label does change
    assert sure[distance > found.radius * 1.4].all()
    assert torch.equal(found.labels[0][sure], (x[0, 0] > 0.5).long()[sure])
    worst = found.worst((x[:, 0] > 0.5).long())
    assert (worst[0][~sure] != (x[0, 0] > 0.5).long()[~sure]).all()


def test_scores_of_classes_are_voted_for():
    x = torch.tensor([[[0.0, 1.0, 2.0]]])
    found = certify_pixels(
        lambda x: {"seg": torch.cat([-(x**2), -((x - 1) ** 2), -((x - 2) ** 2)], 1)}, x, sigma=0.1, head="seg"
    )
    assert found.labels.tolist() == [[0, 1, 2]]
    assert found.classes == 3


def test_labels_change_with_the_chance_that_is_stated_at_most():
    """Of pixels on the very edge of the radius, whose label may not be given."""
    sigma, tau, tries = 0.25, 0.75, 300
    edge = 0.5 + sigma * norm.ppf(tau) - 1e-4
    x = torch.full((tries, 1, 20), edge)
    found = certify_pixels(lambda x: x - 0.5, x, sigma=sigma, tau=tau, samples=200, confidence=0.9)
    wrong = (found.labels != -1).any(1).sum()
    assert wrong <= tries * 0.1 + 4 * math.sqrt(tries * 0.09)


def test_intervals_of_outputs_hold_the_worst_case_and_are_tight():
    weights = uniform(9, 4) - 0.3
    x, radius, sigma = uniform(20, 9), 0.2, 0.5
    low, high = certify_outputs(lambda x: x @ weights, x, sigma=sigma, radius=radius, samples=2000)
    reach = radius * weights.norm(dim=0)
    assert (low <= x @ weights - reach).all()
    assert (high >= x @ weights + reach).all()
    assert (high - low <= 2 * reach + 0.5 * sigma * weights.norm(dim=0)).all()
    few = certify_outputs(lambda x: x @ weights, x, sigma=sigma, radius=radius, samples=3)
    assert few[0].isinf().all()
    assert few[1].isinf().all()


def test_the_smoothed_predictor_is_the_median_of_each_entry_and_the_vote_of_classes():
    net, x = seeded(TwoHeads).eval(), uniform(3, 1, 8, 8)
    drawn = draws(net, 0.25, 21)(x)
    found = smoothed(net, 0.25, 21)(x)
    assert torch.equal(found["contour"], drawn["contour"].median(1).values)
    votes = (drawn["mask"] > 0).float().mean(1) > 0.5
    assert torch.equal(found["mask"] > 0, votes)
    classes = smoothed(lambda x: {"seg": torch.cat([x, 1 - x], 1), "own": x}, 0.25, 40, votes=["seg"])(x)
    assert torch.allclose(classes["seg"].sum(1), torch.ones(3, 8, 8))
    clear = (x[:, 0] - 0.5).abs() > 0.2  # of 40 draws, whose median is off by a third of sigma at most
    assert torch.equal(classes["seg"].argmax(1)[clear], (x[:, 0] < 0.5).long()[clear])
    assert smoothed(lambda x: torch.cat([x, 1 - x], 1), 0.25, 5, votes=[""])(x).shape == (3, 2, 8, 8)


def test_draws_are_the_same_in_any_batch_and_run_no_head_that_nobody_reads():
    net, x = seeded(TwoHeads).eval(), uniform(4, 1, 8, 8)
    noisy = draws(net, 0.25, 5)
    assert torch.allclose(noisy(x)["mask"][2:3], noisy(x[2:3])["mask"], atol=1e-6)
    assert not torch.allclose(noisy(x)["mask"], draws(net, 0.25, 5, seed=1)(x)["mask"], atol=1e-3)
    read = []

    def declared(x, heads=("a", "b")):
        read.append(tuple(heads))
        return dict.fromkeys(heads, x)

    smoothed(declared, 0.1, 2)(x, heads=["a"])
    assert read == [("a",)]


def test_fresh_draws_are_each_inputs_own_and_the_same_for_the_same_input_in_any_batch():
    x = uniform(4, 1, 8, 8)
    x[1] = x[0]
    x[2] = x[0]
    x[2, 0, 3, 4] += 1e-6
    noisy = draws(lambda x: x, 1.0, 3, fresh=True)
    noise = noisy(x) - x[:, None]
    assert torch.equal(noise[0], noise[1])
    assert torch.equal(noisy(x[2:])[0], noisy(x)[2])
    for one, other in ((0, 2), (0, 3), (2, 3)):
        assert abs(float(torch.corrcoef(noise[[one, other]].flatten(1))[0, 1])) < 0.3
    assert len(set(noisy(torch.full((3,), 0.5)).flatten().tolist())) == 3  # inputs that are numbers
    turned = x.to(memory_format=torch.channels_last), x.mT.contiguous().mT, x.expand(2, *x.shape)[1]
    assert all(torch.equal(noisy(other), noisy(x)) for other in turned)
    for dtype in (torch.float64, torch.bfloat16):
        told = noisy(x.to(dtype))
        assert told.dtype == dtype
        assert not torch.equal(told[0] - told[3], (x[0] - x[3]).to(dtype).expand(3, 1, 8, 8))


def test_an_attack_on_few_fresh_draws_finds_more_on_others_than_on_few_common_ones():
    x, weights = 0.3 + 0.4 * uniform(6, 40), uniform(40, 30) - 0.5
    net, threat = (lambda x: (x @ weights).relu().sum(1, keepdim=True)), Threat(l2, 0.5)
    task, judge = Task(lambda output, target: output[:, 0], "higher"), draws(net, 0.5, 2000, seed=9)

    def found(fresh):
        noisy = draws(net, 0.5, 1, seed=1, fresh=fresh)
        attacked = auto_attack(noisy, x, x, heads={"": under_noise(task)}, threat=threat, budget=120)
        return over_draws(task.metric)(judge(attacked.x), x)

    assert found(True).mean() > found(False).mean() + 0.1


def test_gradients_go_through_the_noise():
    x = uniform(2, 3).double().requires_grad_()
    weights = uniform(3).double()
    out = draws(lambda x: x @ weights, 0.25, 7)(x)
    out.mean(1).sum().backward()
    torch.testing.assert_close(x.grad, weights.expand(2, 3))


def test_over_draws_reduces_each_draw_against_the_same_target():
    output = {"points": torch.tensor([[[[0.0, 0.0]], [[3.0, 4.0]], [[0.0, 1.0]]]])}
    target = torch.zeros(1, 1, 2)
    assert over_draws(point_error)(output["points"], target).tolist() == [1.0]
    assert over_draws(point_error, "mean")(output["points"], target).tolist() == [2.0]


def test_mistakes_are_named():
    x = uniform(2, 1, 4, 4)
    with pytest.raises(ValueError, match="tau must lie between"):
        certify_pixels(lambda x: x, x, sigma=0.1, tau=0.5)
    with pytest.raises(ValueError, match="samples must be 1 or more"):
        draws(lambda x: x, 0.1, 0)
    with pytest.raises(ValueError, match="must begin with the batch"):
        draws(lambda x: x.mean(), 0.1, 2)(x)
    with pytest.raises(TypeError, match="noise is added to one tensor"):
        draws(lambda x: x["image"], 0.1, 2)({"image": x})
    with pytest.raises(ValueError, match="below 1048576 in size"):
        smoothed(lambda x: x, 0.1, 2)(x + 2e6)
    with pytest.raises(TypeError, match="task"):
        under_noise(point_error)


def test_labels_are_voted_for_since_they_have_no_median():
    labels = smoothed(lambda x: (x > 0.5).long() * 2 + (x > 5).long(), 0.25, 51)(torch.tensor([[0.1], [0.9]]))
    assert labels.tolist() == [[0], [2]]
    flags = smoothed(lambda x: x > 0.5, 0.25, 51)(torch.tensor([[0.1], [0.9]]))
    assert flags.tolist() == [[False], [True]]


def test_numbers_that_would_be_silently_wrong_are_refused():
    x = uniform(2, 1, 4, 4)
    for radius in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="radius must be 0 or more"):
            certify_outputs(lambda x: x, x, sigma=0.1, radius=radius)
    with pytest.raises(ValueError, match="first be 1 or more"):
        certify_pixels(lambda x: x, x, sigma=0.1, first=0)
    with pytest.raises(ValueError, match="threshold must be a number"):
        certified_radius(lambda x: x, x, x, masks(), math.nan, sigma=0.1)


@pytest.mark.parametrize("certificate", [certify_pixels, partial(certify_outputs, radius=0.1)])
def test_certificates_of_outputs_test_what_they_assume_and_teach(certificate):
    x = uniform(3, 1, 8, 8)
    with pytest.raises(ValueError, match="batch"):
        certificate(lambda x: x - x.mean(), x, sigma=0.25, samples=20)
    with pytest.raises(TypeError, match=r"the output must be one tensor; got a dict with \['mask'\]: name"):
        certificate(lambda x: {"mask": x}, x, sigma=0.25, samples=20)
    with pytest.raises(KeyError, match="no head 'lung'"):
        certificate(lambda x: {"mask": x}, x, sigma=0.25, samples=20, head="lung")


def test_of_several_inputs_one_gets_the_noise():
    x, age = uniform(3, 1, 4, 4), torch.full((3, 1), 0.5)

    def model(inputs):
        assert torch.equal(inputs["age"], inputs["age"].clamp(0.5, 0.5))
        return inputs["image"] - 0.5

    inputs, told = {"image": x, "age": age}, {"sigma": 0.25, "samples": 50}
    alone = certify_pixels(lambda x: x - 0.5, x, **told)
    found = certify_pixels(model, inputs, noisy_input="image", **told)
    assert torch.equal(found.labels, alone.labels)
    low, high = certify_outputs(model, inputs, noisy_input="image", radius=0.1, **told)
    assert (low < high).all()
    task = Task(lambda output, target: output.flatten(1).mean(1), "lower")
    radius = certified_radius(model, inputs, None, task, -1.0, noisy_input="image", **told)
    assert (radius > 0).all()


def test_draws_run_in_parts_where_no_gradient_asks_for_all_at_once():
    x, sizes = uniform(2, 1, 96, 96), []

    def model(x):
        sizes.append(len(x))
        return {"twice": 2 * x, "image": x}

    noisy = draws(model, 0.25, 60)
    whole = noisy(x.requires_grad_())
    assert sizes == [120]
    sizes.clear()
    with torch.no_grad():
        parts = noisy(x)
    assert max(sizes) < 60
    assert sum(sizes) == 120
    for key, value in parts.items():
        torch.testing.assert_close(value, whole[key])
