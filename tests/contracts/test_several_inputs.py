"""Models of several inputs: some are attacked, each in its threat; others go along with their examples."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import pytest
import torch
from networks import seeded
from torch import nn

from advreg import (
    Execution,
    J_IND_reg,
    J_OOD_reg,
    Keys,
    Steepest,
    Threat,
    auto_attack,
    diagnose,
    evaluate,
    l2,
    linf,
    on,
    ood_attack,
    pgd_attack,
    radius_curve,
)
from advreg.attacks import random_noise, score_attack, square_attack, tradeoff
from advreg.execution import AssumptionError
from advreg.objectives import per_example, shared
from advreg.tasks import Task
from advreg.threats import Product
from advreg.training import AdversarialLoss, Adversary, L_rand, Noise

IMAGE, BOTH = {"image": Threat(linf, 0.1)}, {"image": Threat(linf, 0.1), "age": Threat(l2, 0.3, bounds=None)}
WAYS = {"whole": Execution(), "parts": Execution(micro_batch=2), "bfloat16": Execution("bfloat16")}
ways = pytest.mark.parametrize("execution", WAYS.values(), ids=WAYS)
threats = pytest.mark.parametrize("threat", [IMAGE, BOTH], ids=["one", "two"])
RISK = Task(J_IND_reg, "higher")


class Patient(nn.Module):
    """An image, numbers, a word for each example; the scale of the two numbers is the same for all."""

    def __init__(self):
        super().__init__()
        self.image, self.age, self.out = nn.Linear(12, 5), nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x):
        letters = x["age"].new_tensor([len(name) for name in x["name"]])[:, None]
        hidden = self.image(x["image"].flatten(1)) + letters * self.age(x["age"])
        return self.out(torch.tanh(hidden)) * x["scale"]


def patients(count=7):
    draw = torch.Generator().manual_seed(3)
    return {
        "image": 0.2 + 0.6 * torch.rand(count, 3, 4, generator=draw),
        "age": torch.randn(count, 3, generator=draw),
        "name": ["x" * (1 + place % 3) for place in range(count)],
        "scale": torch.tensor([1.0, -2.0]),
    }, torch.randn(count, 2, generator=draw)


def some(x, places):
    return {
        **x,
        **{key: x[key][places] for key in ("image", "age")},
        "name": [x["name"][place] for place in places],
    }


@pytest.fixture
def net():
    return seeded(Patient).eval()


def sound(net, x, y, found, threat):
    """The value is that of the inputs that came back; what is attacked is inside, all else the caller's."""
    with torch.no_grad():
        expected = J_IND_reg(net(found.x), y)
    torch.testing.assert_close(found.value, expected, rtol=1e-5, atol=1e-6)
    for key, value in x.items():
        if key in threat:
            assert threat[key].contains(found.x[key], value).all()
            assert not torch.equal(found.x[key], value)
        else:
            assert found.x[key] is value or torch.equal(found.x[key], value)


@ways
@threats
def test_what_comes_back_is_what_was_measured(net, threat, execution):
    x, y = patients()
    before = {key: value.clone() for key, value in x.items() if isinstance(value, torch.Tensor)}
    found = pgd_attack(
        net, x, y, objective=J_IND_reg, threat=threat, steps=15, restarts=2, execution=execution
    )
    sound(net, x, y, found, threat)
    assert (found.gain > 0).all()
    assert all(torch.equal(x[key], value) for key, value in before.items())


@threats
@pytest.mark.parametrize("parts", [None, 3])
def test_an_example_alone_is_attacked_as_in_its_batch(net, threat, parts):
    x, y = patients()
    options = {"objective": J_IND_reg, "threat": threat, "steps": 8, "rule": Steepest(0.25)}
    whole = pgd_attack(net, x, y, execution=Execution(micro_batch=parts), **options)
    for place in range(7):
        alone = pgd_attack(net, some(x, [place]), y[[place]], index=torch.tensor([place]), **options)
        torch.testing.assert_close(alone.value[0], whole.value[place])
        for key in threat:
            torch.testing.assert_close(alone.x[key][0], whole.x[key][place])


def test_one_attacked_input_is_attacked_as_it_is_by_itself(net):
    x, y = patients()
    x |= {"age": x["age"][:1].repeat(7, 1), "name": ["x"] * 7}
    options = {"objective": J_IND_reg, "steps": 8, "seed": 5}

    def alone(image):
        return net({**x, "image": image, "age": x["age"][: len(image)], "name": ["x"] * len(image)})

    expected = pgd_attack(alone, x["image"], y, threat=IMAGE["image"], **options)
    found = pgd_attack(net, x, y, threat=IMAGE, **options)
    assert torch.equal(found.x["image"], expected.x)
    assert torch.equal(found.value, expected.value)


def test_two_inputs_of_a_linear_model_reach_the_optimum_of_their_product():
    """max <a, d> + <b, e> over |d| <= r in Linf and |e| <= s in L2 is r |a|_1 + s |b|_2."""
    draw = torch.Generator().manual_seed(1)
    a, b = torch.randn(4, 2, 3, generator=draw), torch.randn(5, generator=draw)
    x = (torch.full((6, 4, 2, 3), 0.5), torch.zeros(6, 5))
    radius = torch.linspace(0.05, 0.3, 6)
    found = pgd_attack(
        lambda both: (both[0] * a).sum((1, 2, 3)) + both[1] @ b,
        x,
        None,
        objective=lambda value, _: value,
        threat={1: Threat(l2, 0.7, bounds=None), 0: Threat(linf, radius)},
        rule=Steepest(0.5),
        steps=30,
    )
    expected = radius * a.abs().sum() + 0.7 * b.norm()
    torch.testing.assert_close(found.gain, expected, rtol=1e-4, atol=1e-5)


@threats
def test_those_who_are_finished_leave_with_their_inputs(net, threat):
    x, y = patients()
    limit = pgd_attack(net, x, y, objective=J_IND_reg, threat=threat, steps=12).value.median()

    def stop(output, target):
        return J_IND_reg(output, target) >= limit

    found = pgd_attack(
        net, x, y, objective=J_IND_reg, threat=threat, steps=20, stop=stop, restarts=2,
        execution=Execution(micro_batch=3),
    )  # fmt: skip
    assert 0 < found.finished.sum() < 7
    with torch.no_grad():
        torch.testing.assert_close(found.value, J_IND_reg(net(found.x), y))


@threats
def test_auto_attack_and_tradeoff(net, threat):
    x, y = patients()
    found = auto_attack(net, x, y, heads={"": RISK}, threat=threat, budget=60)
    sound(net, x, y, found[""], threat)

    def both(given):
        return {"a": net(given), "b": -net(given)}

    front = tradeoff(
        both, x, {"a": y, "b": y}, heads={"a": RISK, "b": RISK}, threat=threat, points=3, steps=5
    )
    for point in range(3):
        moved = {**front.x, **{key: front.x[key][point] for key in threat}}
        with torch.no_grad():
            expected = torch.stack([J_IND_reg(net(moved), y), J_IND_reg(-net(moved), y)], 1)
        torch.testing.assert_close(front.values[point], expected)


@ways
@pytest.mark.parametrize(
    "attack",
    [
        partial(square_attack, queries=30),
        partial(score_attack, steps=3, draws=4),
        partial(random_noise, draws=10),
    ],
    ids=["square", "score", "noise"],
)
def test_without_a_gradient(net, attack, execution):
    x, y = patients()
    found = attack(net, x, y, objective=J_IND_reg, threat=IMAGE, execution=execution)
    sound(net, x, y, found, IMAGE)
    with pytest.raises(ValueError, match="moves one input at a time; got threats of"):
        attack(net, x, y, objective=J_IND_reg, threat=BOTH)


@pytest.mark.parametrize("count", [1, 7])
def test_pairs_of_out_of_distribution_inputs(net, count):
    inside, outside = patients()[0], some(patients()[0], list(range(count))[::-1])
    outside["image"] = outside["image"].flip(1)
    found = ood_attack(net, inside, outside, objective=J_OOD_reg, threat={"image": Threat(l2, 2.0)}, steps=20)
    with torch.no_grad():
        torch.testing.assert_close(found.value, J_OOD_reg(net(found.x), net(inside)), rtol=1e-4, atol=1e-5)
    assert (found.gain > 0).all()
    assert len(found.x["name"]) == 7


def test_evaluation_over_radii(net):
    x, y = patients()
    batches = [(some(x, [0, 1, 2]), y[:3]), (some(x, [3, 4, 5, 6]), y[3:])]
    attack = partial(pgd_attack, objective=J_IND_reg, steps=5)
    metrics, zero = {"": {"error": J_IND_reg}}, {"image": Threat(linf, 0.0)}
    apart, together = (
        radius_curve(net, batches, metrics, {"a": attack}, [0.0, 0.05, 0.1], threat=zero, together=together)
        for together in (False, True)
    )
    assert together.values() == pytest.approx(apart.values(), rel=1e-5)
    direct = [
        pgd_attack(net, *batch, objective=J_IND_reg, steps=5, threat=IMAGE, index=index).value
        for batch, index in zip(batches, (torch.arange(3), torch.arange(3, 7)), strict=True)
    ]
    assert apart.values()[-7:] == pytest.approx(torch.cat(direct).tolist(), rel=1e-5)
    two = evaluate(net, batches, metrics, partial(attack, threat=BOTH), radius=0.1)
    assert sum(two.values()) > sum(apart.values()[-7:])
    with pytest.raises(ValueError, match="a curve is over the radius of one input"):
        radius_curve(net, batches, metrics, {"a": attack}, [0.1], threat=BOTH)


def test_a_diagnosis(net):
    x, y = patients()
    options = {"objective": J_IND_reg, "steps": 20, "queries": 40}
    assert diagnose(net, x, y, threat=IMAGE, **options).passed
    with pytest.raises(ValueError, match="moves one input at a time"):
        diagnose(net, x, y, threat=BOTH, **options)


@pytest.mark.parametrize("together", [True, False])
def test_adversarial_training(net, together):
    x, y = patients()
    terms = {
        "noise": (0.2, Noise(IMAGE)),
        "attack": (0.3, Adversary(J_IND_reg, BOTH, Steepest(0.4), steps=5)),
    }
    total, parts = AdversarialLoss(J_IND_reg, terms, together=together)(net, x, y, seed=4)
    total.backward()
    assert all(p.grad is not None for p in net.parameters())
    torch.testing.assert_close(parts["clean"], J_IND_reg(net(x), y).mean().detach())
    assert parts["attack"] > parts["clean"]
    changed = Adversary(J_IND_reg, BOTH, Steepest(0.4), steps=5)(
        net, x, y, Keys(4, torch.arange(7)).fold_in(1)
    )
    torch.testing.assert_close(parts["attack"], J_IND_reg(net(changed), y).mean().detach())
    with pytest.raises(TypeError, match="pure noise stands in the place of one image"):
        L_rand(J_IND_reg, threat=IMAGE, pure=True)


@dataclass
class Given:
    image: torch.Tensor
    age: torch.Tensor


class Pair(NamedTuple):
    image: torch.Tensor
    age: torch.Tensor


@pytest.mark.parametrize("form", [dict, Given, Pair, "tuple", "list"])
@pytest.mark.parametrize("count", [2, 5])
def test_any_form_of_inputs(form, count):
    """Also where there are as many inputs as examples."""
    x, y = patients(count)
    parts = x["image"], x["age"]
    given = (
        tuple(parts)
        if form == "tuple"
        else list(parts)
        if form == "list"
        else form(image=parts[0], age=parts[1])
    )
    place = 0 if form in ("tuple", "list") else "image"

    def model(inputs):
        read = inputs.__getitem__ if isinstance(inputs, dict) else partial(getattr, inputs)
        image, age = inputs if form in ("tuple", "list") else (read("image"), read("age"))
        return image.flatten(1)[:, :2] * age[:, :2] + age[:, 1:]

    found = pgd_attack(
        model, given, y, objective=J_IND_reg, threat={place: Threat(linf, 0.1)}, steps=5,
        execution=Execution(micro_batch=1),
    )  # fmt: skip
    assert type(found.x) is type(given)
    with torch.no_grad():
        torch.testing.assert_close(found.value, J_IND_reg(model(found.x), y))


def test_what_is_as_long_as_the_batch_by_chance_is_refused_and_said():
    net, (x, y) = seeded(Patient).eval(), patients(2)
    with pytest.raises(AssumptionError):
        pgd_attack(net, x, y, objective=J_IND_reg, threat=IMAGE, steps=3, execution=Execution(micro_batch=1))
    told = {**x, "scale": shared(x["scale"]), "age": per_example(x["age"])}
    options = {"objective": J_IND_reg, "threat": IMAGE, "steps": 3}
    found = pgd_attack(net, told, y, execution=Execution(micro_batch=1), **options)
    sound(net, x, y, found, IMAGE)
    auto = auto_attack(net, told, y, heads={"": RISK}, threat=IMAGE, budget=60)
    sound(net, x, y, auto[""], IMAGE)


def test_a_product_holds_what_its_threats_hold():
    draw = torch.Generator().manual_seed(2)
    image, age = torch.rand(4, 2, 3, generator=draw), torch.randn(4, 5, generator=draw)
    far = torch.randn(4, 11, generator=draw)
    mask = torch.tensor([[True, False, True], [False, True, True]])
    own = Threat(linf, torch.tensor([0.1, 0.2, 0.0, 0.3]), mask=mask), Threat(l2, 0.5, bounds=None)
    product = Product(own, ((2, 3), (5,)))
    centre = torch.cat([image.flatten(1), age], 1)
    found = product.apart(product.project(far, centre))
    for threat, x, middle, point in zip(own, found, (image, age), product.apart(far), strict=True):
        assert torch.equal(x, threat.project(point, middle))
    assert product.contains(product.project(far, centre), centre).all()
    assert not product.contains(far, centre).any()
    assert torch.equal(product.movable[0, :6].reshape(2, 3), mask)
    assert product.largest == 0.5
    start = product.sample(centre, Keys(0, torch.arange(4)))
    assert product.contains(start, centre).all()
    half = product.take(torch.tensor([1, 3]), centre).scaled(0.5)
    assert torch.equal(half.threats[0].radius, torch.tensor([0.1, 0.15]))


X, Y = patients()


@pytest.mark.parametrize(
    ("x", "threat", "error", "says"),
    [
        (X, {"picture": Threat(linf, 0.1)}, KeyError, "the input has no head 'picture'.*'image', 'age'"),
        (X["image"], IMAGE, TypeError, "one input, Tensor: of one tensor pass Threat"),
        (X, {}, TypeError, "got no key"),
        (X, {"image": 0.1}, TypeError, "the threat of 'image' must be of type Threat; got 0.1"),
        (X, Threat(linf, 0.1), TypeError, "several inputs name what is attacked"),
        (X, {"name": Threat(linf, 0.1)}, TypeError, "inputs must be one tensor"),
        ({**X, "age": X["age"].double()}, BOTH, ValueError, "of one length, dtype and device"),
        ({**X, "age": X["age"][:5]}, BOTH, ValueError, "got 7 examples .* for 'image', and 5 of"),
        (X, {"image": Threat(linf, 0.1, bounds=(0.4, 0.6))}, ValueError, "must lie in the threat's bounds"),
    ],
)
def test_errors_say_what_was_expected(net, x, threat, error, says):
    with pytest.raises(error, match=says):
        pgd_attack(net, x, Y, objective=J_IND_reg, threat=threat, steps=2)


def test_a_start_is_like_the_inputs(net):
    start = {"image": X["image"] + 0.05}
    found = pgd_attack(net, X, Y, objective=J_IND_reg, threat=IMAGE, start=start, random_start=False, steps=0,
                       keep="last")  # fmt: skip
    torch.testing.assert_close(found.x["image"], X["image"] + 0.05)
    with pytest.raises(ValueError, match="the start of 'image' must be like x"):
        pgd_attack(net, X, Y, objective=J_IND_reg, threat=IMAGE, start={"image": X["image"][:3]})
    with pytest.raises(KeyError, match="no head 'image'"):
        pgd_attack(net, X, Y, objective=J_IND_reg, threat=IMAGE, start={"age": X["age"]})


def test_one_head_of_several(net):
    def model(x):
        return {"risk": net(x), "image": x["image"]}

    found = pgd_attack(model, X, {"risk": Y}, objective=on("risk", J_IND_reg), threat=IMAGE, steps=5)
    sound(net, X, Y, found, IMAGE)
