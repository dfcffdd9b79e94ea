"""Threats on real data: missing values, open bounds, complex inputs; and what a user reads."""

import math
import re
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from advreg import Adamax, J_IND_reg, Keys, Steepest, Threat, diagnose, l1, l2, linf, pgd_attack
from advreg.attacks import random_noise, score_attack, square_attack
from advreg.rules import Adaptive, Decayed, Here, Momentum, Shrinking, Stepwise

NORMS = (linf, l2, l1)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WEIGHTS = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0, 0.25])
TINY = {"steps": 10, "queries": 30}
SHORT = {square_attack: {"queries": 80}, score_attack: {"steps": 15, "draws": 5}, random_noise: {"draws": 10}}


def ascent(output, target):
    return output[:, 0]


def linear(x):
    """A model whose best attack is known; what is missing counts as zero."""
    return torch.nan_to_num(x, 0.0) @ WEIGHTS.to(x.dtype)[:, None]


def gaps():
    """Inputs with missing values, of two kinds of NaN, and the mask of the others."""
    x = torch.full((3, 6), 0.5)
    x[0, 1] = x[1, 4] = x[1, 5] = math.nan
    other = torch.tensor([0x7FC12345], dtype=torch.int32).view(torch.float32)
    x[2, 3] = other[0]
    return x, ~x.isnan()


def bits(x):
    return x.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])


# Missing values


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(NORMS),
    st.sampled_from(DTYPES),
    st.integers(0, 2**32),
    st.sampled_from([0.0, 0.1, 1.0]),
    st.sampled_from([None, (0.0, 1.0), (0.0, math.inf)]),
    st.sampled_from([math.nan, math.inf, -1000.0]),
)
def test_what_lies_outside_the_mask_stays_and_counts_for_nothing(norm, dtype, seed, radius, bounds, filler):
    g = torch.Generator().manual_seed(seed)
    whole, far = torch.rand(4, 3, 5, generator=g).to(dtype), torch.randn(4, 3, 5, generator=g).to(dtype)
    mask = torch.rand(4, 3, 5, generator=g) < 0.7
    x, far = torch.where(mask, whole, filler), torch.where(mask, far, filler)
    threat, keys = Threat(norm, radius, bounds, mask), Keys(seed, torch.arange(4))
    threat.validate(x)
    for found, expected in (
        (threat.project(far, x), threat.project(torch.where(mask, far, whole), whole)),
        (threat.sample(x, keys), threat.sample(whole, keys)),
        (threat.sample(x, keys, start=far), threat.sample(whole, keys, torch.where(mask, far, whole))),
    ):
        assert torch.equal(bits(found)[~mask], bits(x)[~mask])
        assert torch.equal(found[mask], expected[mask])
        assert threat.contains(found, x).all()
    outside = x.clone()
    outside[0, 0, 0] = torch.where(mask[0, 0, 0], 5.0 + 2 * radius, 0.25)
    assert threat.contains(outside, x).tolist() == [False, True, True, True]


@pytest.mark.parametrize(
    ("norm", "rule"),
    [
        *product(NORMS, [Steepest(0.5), Momentum(0.5), Adaptive()]),
        (linf, Adamax(0.5)),
    ],  # l2: not its fixed point
    ids=repr,
)
def test_gradient_attacks_reach_the_optimum_beside_missing_values(norm, rule):
    x, mask = gaps()
    threat = Threat(norm, 0.1, mask=mask)
    result = pgd_attack(linear, x, torch.zeros(3, 1), objective=ascent, threat=threat, rule=rule, steps=60)
    open_weights = torch.where(mask, WEIGHTS, 0.0)
    dual = {linf: open_weights.abs().sum(1), l2: open_weights.norm(dim=1), l1: open_weights.abs().amax(1)}
    torch.testing.assert_close(result.gain, 0.1 * dual[norm], rtol=0.01, atol=0)
    assert torch.equal(bits(result.x)[~mask], bits(x)[~mask])
    assert threat.contains(result.x, x).all()


@pytest.mark.parametrize("norm", NORMS, ids=repr)
@pytest.mark.parametrize("attack", [square_attack, score_attack, random_noise])
def test_attacks_without_a_gradient_find_beside_missing_values_what_they_find_with_them_filled(norm, attack):
    x, mask = gaps()
    filled, y = torch.nan_to_num(x, 0.0), torch.zeros(3, 1)
    run = partial(attack, objective=ascent, threat=Threat(norm, 0.1, mask=mask), **SHORT[attack])
    found, expected = run(linear, x, y), run(linear, filled, y)
    assert torch.equal(found.x[mask], expected.x[mask])
    assert torch.equal(found.gain, expected.gain)
    assert torch.equal(bits(found.x)[~mask], bits(x)[~mask])
    assert (found.gain > 0).all()


def test_a_fill_value_outside_bounds_and_mask_stays_in_what_the_model_sees():
    x, mask = gaps()
    x, seen = torch.nan_to_num(x, -1000.0), []

    def model(points):
        seen.append(points.clone())
        return torch.where(points < -1, 0.0, points) @ WEIGHTS[:, None]

    score_attack(model, x, torch.zeros(3, 1), objective=ascent, threat=Threat(linf, 0.1, mask=mask), steps=2)
    for points in seen:
        if len(points) % len(x):  # one example alone, as the check has it
            continue
        held = points.reshape(-1, *x.shape)
        assert (held[:, ~mask] == -1000).all()
        assert ((held[:, mask] >= 0) & (held[:, mask] <= 1)).all()


@pytest.mark.parametrize("rule", [Steepest(0.5), Momentum(0.5), Adamax(0.5), Adaptive()], ids=repr)
def test_rules_do_not_spread_a_gradient_that_is_not_finite_outside_the_mask(rule):
    x, mask = gaps()
    threat = Threat(l2, 0.1, mask=mask)

    def stepped(outside):
        state, value = rule.init(x), torch.zeros(3)
        for step, weights in enumerate(
            (WEIGHTS, -0.01 * WEIGHTS.flip(0))
        ):  # whose sum depends on their sizes
            gradient = torch.where(mask, weights, outside)
            here = Here(x, gradient, value, threat, x, 0.1, step, 5, (0, 5))
            direction, state = rule.step(here, state)
        return direction

    found, expected = stepped(math.nan), stepped(0.0)
    assert torch.equal(found[mask], expected[mask])
    assert found[mask].isfinite().all()
    assert (found[mask] != 0).all()


@pytest.mark.parametrize("model", [linear, lambda x: linear((5 * x).round() / 5)], ids=["linear", "rounded"])
def test_a_diagnosis_beside_missing_values_is_that_of_the_filled_inputs(model):
    x, mask = gaps()
    x, mask = x + torch.linspace(0, 0.1, 3)[:, None], mask[:1]  # one mask for all
    x = torch.where(mask, torch.nan_to_num(x, 0.5), math.nan)
    told = {"objective": ascent, "threat": Threat(linf, 0.1, mask=mask), **TINY}
    found, expected = (
        diagnose(model, inputs, torch.zeros(3, 1), **told) for inputs in (x, torch.nan_to_num(x, 0.0))
    )
    assert found.to_json() == expected.to_json()
    assert found.passed == (model is linear), str(found)


def test_the_check_of_gradients_looks_only_where_the_input_may_change():
    x, mask = gaps()

    def model(x):  # 0 times NaN on the way back
        return torch.where(x.isnan(), 0.0, x * x) @ WEIGHTS[:, None]

    told = {"objective": ascent, "threat": Threat(linf, 0.1, mask=mask), **TINY}
    assert diagnose(model, x, torch.zeros(3, 1), **told)["gradients"].verdict == "pass"


def test_a_model_that_hands_missing_values_on_is_deterministic():
    x, mask = gaps()
    objective = lambda output, target: torch.nan_to_num(output, 0.0).sum(1)  # noqa: E731 - as short as it is
    net = nn.Identity()
    found = diagnose(net, x, x, objective=objective, threat=Threat(linf, 0.1, mask=mask), **TINY)
    assert found["determinism"].verdict == "pass"


# Open bounds


def positive(x):
    return x @ torch.tensor([[1.0], [2.0], [0.5], [1.0]])


def mixed(x):
    return x @ torch.tensor([[1.0], [-2.0], [0.5], [-1.0]])


@pytest.mark.parametrize("norm", NORMS, ids=repr)
def test_half_open_bounds_are_diagnosed_as_the_data_widened_by_the_radius(norm):
    x = torch.linspace(0.3, 0.9, 12).reshape(3, 4)
    low, high = float(x.min()) - torch.tensor(0.05), float(x.max()) + torch.tensor(0.05)
    infinite = torch.full((4,), math.inf)
    pairs = (
        ((0.0, math.inf), (0.0, high)),
        ((-math.inf, 1.0), (low, 1.0)),
        ((-math.inf, math.inf), (low, high)),
        ((torch.zeros(4), infinite), (torch.zeros(4), high)),
    )
    for opened, closed in pairs if norm is linf else pairs[1::2]:
        found, expected = (
            diagnose(mixed, x, torch.zeros(3, 1), objective=ascent, threat=threat, **TINY)
            for threat in (Threat(norm, 0.05, opened), Threat(norm, 0.05, closed))
        )
        assert found["unbounded"] == expected["unbounded"]  # the attack itself goes to twice the radius
        assert found.passed, str(found)
        skipped = [check.name for check in found.checks if check.verdict == "skipped"]
        assert skipped == ["mode", "transfer"]


def test_a_model_that_hides_its_gradient_is_found_out_under_half_open_bounds():
    x = torch.linspace(0.3, 0.9, 32).reshape(8, 4)
    rounded = lambda x: positive((5 * x).round() / 5)  # noqa: E731 - as short as it is
    told = {"objective": ascent, "threat": Threat(linf, 0.1, (0.0, math.inf)), **TINY}
    assert {"gradients", "unbounded"} <= set(diagnose(rounded, x, torch.zeros(8, 1), **told).flagged)


@pytest.mark.parametrize("norm", NORMS, ids=repr)
@pytest.mark.parametrize("attack", [square_attack, score_attack, random_noise])
@pytest.mark.parametrize("bounds", [(0.0, math.inf), (-math.inf, math.inf), (torch.zeros(4), torch.inf)])
def test_attacks_without_a_gradient_under_open_bounds(norm, attack, bounds):
    x, threat = torch.full((3, 4), 0.01), Threat(norm, 0.1, bounds)
    told = {"objective": ascent, "threat": threat, **SHORT[attack]}
    found = attack(lambda x: -positive(x), x, torch.zeros(3, 1), **told)
    assert threat.contains(found.x, x).all()
    assert (found.gain > 0).all()
    floor = 0.0 if bounds[0] is not -math.inf and torch.as_tensor(bounds[0]).min() == 0 else -1.0
    assert (found.x >= floor).all()
    if attack is square_attack and norm is linf:  # a vertex of ball and box, whose value is known
        reach = 0.01 if floor == 0 else 0.1
        torch.testing.assert_close(found.gain, torch.full((3,), 4.5 * reach), rtol=1e-5, atol=0)


# Dtypes


@pytest.mark.parametrize("norm", NORMS, ids=repr)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("default", [torch.float32, torch.float64], ids=str)
def test_a_mask_without_bounds_keeps_the_dtype(norm, dtype, default):
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        x, mask = torch.full((2, 4), 0.5, dtype=dtype), torch.tensor([True, True, False, True])
        threat = Threat(norm, 0.25, bounds=None, mask=mask)
        z = threat.project(x + torch.tensor([4.0, 0.0, 4.0, 0.0], dtype=dtype), x)
        start = threat.sample(x, Keys(0, torch.arange(2)))
    finally:
        torch.set_default_dtype(before)
    assert z.dtype == start.dtype == dtype
    assert z.tolist() == [[0.75, 0.5, 0.5, 0.5]] * 2
    wide = torch.tensor(0.125, dtype=torch.float64)  # sides of another dtype do not change it either
    assert norm.project(x, torch.tensor([9.0, 9.0]), -wide, wide).dtype == dtype


def test_an_attack_in_half_precision_with_a_mask_and_no_bounds():
    net, x = nn.Linear(4, 1).bfloat16(), torch.full((2, 4), 0.25).bfloat16()
    net.weight.data.copy_(torch.tensor([[0.5, -1.0, 1.0, 0.75]]))
    mask = torch.tensor([True, True, False, True])
    threat = Threat(linf, 0.5, bounds=None, mask=mask)
    found = pgd_attack(net, x, torch.zeros(2, 1).bfloat16(), objective=ascent, threat=threat, steps=20)
    best = x + 0.5 * net.weight.sign() * mask
    torch.testing.assert_close(found.x, best.detach(), rtol=0.01, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("radius", [1e30, 1e-30])
def test_samples_at_radii_that_the_dtype_does_not_hold(dtype, radius):
    x, keys = torch.full((2, 4), 0.5, dtype=dtype), Keys(0, torch.arange(2))
    z = Threat(linf, radius).sample(x, keys)
    assert z.isfinite().all()
    assert torch.equal(z, x) if radius < 1 else ((z == 0) | (z == 1)).all()


class Inexact:
    """A user's norm whose projection misses the centre at a radius of zero."""

    size, steepest, sample = l2.size, l2.steepest, l2.sample

    def project(self, d, radius, lower=None, upper=None):
        return l2.project(d, radius + 1e-6, lower, upper)


@pytest.mark.parametrize("norm", [*NORMS, Inexact()])
def test_a_radius_of_zero_gives_the_centre(norm):
    centre = torch.tensor([[-0.0, 0.5, 0.25], [0.1, 0.7, 1.0]])
    threat = Threat(norm, torch.tensor([0.0, 0.1]))
    z = threat.project(centre + torch.tensor([3.0, -1.0, 0.2]), centre)
    assert torch.equal(bits(z)[0], bits(centre)[0])
    assert not torch.equal(z[1], centre[1])


# Complex inputs


def test_complex_inputs_by_the_remedy_that_the_error_names():
    k = torch.fft.fft2(torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0)))
    weight = torch.fft.ifft2(torch.arange(12.0).reshape(3, 4))

    def model(k):
        return (k * weight).real.flatten(1).sum(1, keepdim=True)

    threat, told = Threat(l2, 0.5, bounds=None), {"objective": ascent, "steps": 40, "rule": Steepest(0.2)}
    with pytest.raises(TypeError, match=r"must be real.*got torch.complex64.*torch.view_as_real\(x\)"):
        pgd_attack(model, k, torch.zeros(2, 1), threat=threat, **told)
    real = torch.view_as_real(k)
    found = pgd_attack(
        lambda x: model(torch.view_as_complex(x)), real, torch.zeros(2, 1), threat=threat, **told
    )
    best = 0.5 * weight.abs().square().sum().sqrt()  # the norm of the complex numbers
    torch.testing.assert_close(found.gain, best.expand(2), rtol=1e-3, atol=0)


# Errors


class Own:
    size = project = steepest = sample = None


def attacked(x=None, threat=None, attack=pgd_attack, **told):
    x = torch.full((2, 4), 0.5) if x is None else x
    return attack(
        positive, x, torch.zeros(2, 1), objective=ascent, threat=threat or Threat(linf, 0.1), **told
    )


def diagnosed(**told):
    return attacked(attack=diagnose, **{**TINY, **told})


def missing():
    x = torch.full((2, 4), 0.5)
    x[1, 2] = math.nan
    return x


ERRORS = {
    "exchanged": (lambda: Threat(0.1, linf), TypeError, "norm must be.*got 0.1.*Threat(linf, 0.1)"),
    "norm by name": (lambda: Threat("linf", 0.1), TypeError, "got 'linf' of type str.*without quotes"),
    "norm as a class": (lambda: Threat(Own, 0.1), TypeError, "pass a value of the class, Own()"),
    "norm of another kind": (lambda: Threat(2, 0.1), TypeError, "got 2 of type int, without size, project"),
    "radius as a list": (lambda: Threat(linf, [0.1, 0.2]), TypeError, "got list [0.1, 0.2]: pass torch.as_"),
    "radius as an array": (lambda: Threat(linf, np.ones(2)), TypeError, "got ndarray.*torch.as_tensor"),
    "radius as a bool": (lambda: Threat(linf, True), TypeError, "got bool True: pass a number such as"),
    "radius as a string": (lambda: Threat(linf, "8/255"), TypeError, "got str '8/255'.*without quotes"),
    "radius None": (lambda: Threat(linf, None), TypeError, "radius must be one number.*got NoneType"),
    "radius of bools": (lambda: Threat(linf, torch.ones(2).bool()), TypeError, "a tensor of torch.bool"),
    "radius complex": (lambda: Threat(linf, 1j), TypeError, "radius must be one number.*got complex"),
    "radius NaN": (lambda: Threat(linf, math.nan), ValueError, "zero or more.*got nan. look for.*0 / 0"),
    "radius NaN in a tensor": (lambda: Threat(linf, torch.tensor([0.1, math.nan])), ValueError, "0 / 0"),
    "radius below zero": (lambda: Threat(linf, -1), ValueError, "got -1. To descend.*negate(objective)"),
    "bounds as a list": (lambda: Threat(linf, 0.1, [0, 1]), TypeError, "got list [0, 1]: write bounds=(0"),
    "bounds as an array": (lambda: Threat(linf, 0.1, np.ones(2)), TypeError, "bounds must be a tuple"),
    "three bounds": (lambda: Threat(linf, 0.1, (0, 0.5, 1)), ValueError, "two sides.*got 3.*(C, 1, ..., 1)"),
    "bounds exchanged": (lambda: Threat(linf, 0.1, (1, 0)), ValueError, "got 1 and 0: exchange them"),
    "bounds NaN": (lambda: Threat(linf, 0.1, (math.nan, 1)), ValueError, "got nan and 1.*-math.inf or math"),
    "bounds NaN in a tensor": (
        lambda: Threat(linf, 0.1, (0.0, torch.tensor([1.0, math.nan]))),
        ValueError,
        "where there is no limit pass",
    ),
    "a side of strings": (lambda: Threat(linf, 0.1, ("0", 1)), TypeError, "lower of the bounds.*got str '0'"),
    "a side None": (lambda: Threat(linf, 0.1, (0, None)), TypeError, "upper of.*NoneType.*infinity for a si"),
    "a side as an array": (lambda: Threat(linf, 0.1, (0, np.ones(3))), TypeError, "upper.*torch.as_tensor"),
    "sides that do not fit": (
        lambda: Threat(linf, 0.1, (torch.zeros(2), torch.ones(3))),
        ValueError,
        "broadcast against each other; got shapes (2,) and (3,)",
    ),
    "mask of numbers": (
        lambda: Threat(linf, 0.1, mask=torch.ones(4)),
        TypeError,
        "float32: pass mask.bool()",
    ),
    "mask as an array": (
        lambda: Threat(linf, 0.1, mask=np.ones(4, bool)),
        TypeError,
        "got ndarray.*torch.as_",
    ),
    "mask as a list": (lambda: Threat(linf, 0.1, mask=[True]), TypeError, "got list [True]: pass torch.as_"),
    "inputs as an array": (
        lambda: attacked(np.ones((2, 4))),
        TypeError,
        "one tensor.*got ndarray: pass torch",
    ),
    "inputs as a list": (lambda: attacked([[0.5] * 4] * 2), TypeError, "got list: pass torch.as_tensor(x)"),
    "inputs one by one": (lambda: attacked([torch.ones(4)] * 2), TypeError, "got list: pass torch.stack(x)"),
    "inputs of integers": (
        lambda: attacked(torch.ones(2, 4, dtype=torch.uint8)),
        TypeError,
        "floating point.*got torch.uint8.*x.float() / 255",
    ),
    "inputs with a gap": (
        lambda: attacked(missing()),
        ValueError,
        "finite; got NaN or infinity in example 1.*mask=x.isfinite()",
    ),
    "gap where the mask allows change": (
        lambda: attacked(missing(), Threat(linf, 0.1, mask=torch.tensor([False, True, True, True]))),
        ValueError,
        "NaN or infinity in example 1",
    ),
    "out of bounds where the mask allows change": (
        lambda: attacked(
            torch.full((2, 4), 2.0), Threat(linf, 0.1, mask=torch.tensor([False, True, True, True]))
        ),
        ValueError,
        "bounds [0, 1]; got [2, 2], outside in examples 0, 1",
    ),
    "queries in words": (lambda: attacked(attack=square_attack, queries="many"), TypeError, "got 'many' of"),
    "no queries": (lambda: attacked(attack=square_attack, queries=0), ValueError, "1 or more; got 0"),
    "window": (
        lambda: attacked(attack=square_attack, p=1.5),
        ValueError,
        "p must be above zero and at most 1",
    ),
    "window in words": (lambda: attacked(attack=square_attack, p="half"), TypeError, "p must be a number"),
    "half steps": (lambda: attacked(attack=score_attack, steps=2.5), TypeError, "steps must be a whole.*2.5"),
    "draws of yes": (lambda: attacked(attack=score_attack, draws=True), TypeError, "draws must be.*got True"),
    "reach": (lambda: attacked(attack=score_attack, reach=math.nan), ValueError, "reach must be.*got nan"),
    "directions": (
        lambda: attacked(attack=score_attack, directions="foo"),
        ValueError,
        "directions must be one of ('rademacher', 'normal'); got 'foo'",
    ),
    "noise": (lambda: attacked(attack=random_noise, draws=1.5), TypeError, "draws must be a whole number"),
    "array without a gradient": (
        lambda: attacked(np.ones((2, 4)), attack=random_noise),
        TypeError,
        "got ndarray: pass torch.as_tensor(x)",
    ),
    "transfer of nothing": (
        lambda: diagnosed(transfer=[None]),
        TypeError,
        "transfer must be a model.*got None of type NoneType.*leave transfer=None",
    ),
    "transfer by name": (
        lambda: diagnosed(transfer=[positive, "plain.pt"]),
        TypeError,
        "got 'plain.pt' of type str: load the model first",
    ),
    "transfer by one name": (lambda: diagnosed(transfer="plain.pt"), TypeError, "got 'plain.pt' of type str"),
    "transfer of a number": (lambda: diagnosed(transfer=3), TypeError, "transfer must be.*got 3 of type int"),
    "diagnosis of half steps": (lambda: diagnosed(steps=20.5), TypeError, "steps must be a whole.*got 20.5"),
    "diagnosis of many": (lambda: diagnosed(queries="many"), TypeError, "queries must be a whole.*'many'"),
    "judge NaN when clean": (
        lambda: diagnosed(judge=lambda o, t: torch.full((len(o),), math.nan)),
        ValueError,
        "judge must be finite at the clean inputs.*got nan in examples 0, 1: leave",
    ),
    "judge infinite when clean": (
        lambda: diagnosed(judge=lambda o, t: torch.full((len(o),), math.inf)),
        ValueError,
        "got inf in examples 0, 1",
    ),
    "objective NaN when clean": (
        lambda: attacked(
            attack=lambda *a, **k: diagnose(*a, **{**k, "objective": lambda o, t: o[:, 0] / 0, **TINY})
        ),
        ValueError,
        "the objective must be finite at the clean inputs",
    ),
}
for rule in (Steepest, Momentum, Adamax, Adaptive):
    for value in ("0.2", None, True, torch.tensor([0.2]), [0.2]):
        shown = re.sub(r"\W+", " ", str(value))
        ERRORS[f"{rule.__name__} of {type(value).__name__} {shown}"] = (
            partial(rule, value),
            TypeError,
            "size must be a number; got",
        )
    for value in (math.nan, math.inf, -0.2, 0):
        ERRORS[f"{rule.__name__} of {value}"] = (
            partial(rule, value),
            ValueError,
            "size must be above zero and finite",
        )
    ERRORS[f"{rule.__name__}, exchanged flag"] = (partial(rule, 0.2, 0.9), TypeError, "relative must be True")
ERRORS |= {
    "decay in words": (lambda: Momentum(decay="half"), TypeError, "decay must be a number; got 'half'"),
    "decay NaN": (lambda: Momentum(decay=math.nan), ValueError, "decay must lie in [0, 1]; got nan"),
    "one beta": (lambda: Adamax(betas=0.9), TypeError, "betas must be two numbers.*got 0.9"),
    "three betas": (lambda: Adamax(betas=(0.9, 0.9, 0.9)), TypeError, "betas must be two numbers"),
    "betas in words": (lambda: Adamax(betas=("0.9", 0.9)), TypeError, "betas[0] must be a number; got '0.9'"),
    "beta NaN": (lambda: Adamax(betas=(0.9, math.nan)), ValueError, "betas must lie in [0, 1)"),
    "eps below zero": (lambda: Adamax(eps=-1e-8), ValueError, "eps must be zero or more.*got -1e-08"),
    "eps NaN": (lambda: Adamax(eps=math.nan), ValueError, "eps must be zero or more"),
    "rho in words": (lambda: Adaptive(rho="most"), TypeError, "rho must be a number; got 'most'"),
    "inertia NaN": (lambda: Adaptive(inertia=math.nan), ValueError, "inertia in (0, 1]; got 0.75 and nan"),
    "decayed class": (lambda: Decayed(Steepest), TypeError, "rule must be a rule, such as Steepest(0.2)"),
    "decayed number": (lambda: Decayed(0.2), TypeError, "rule must be a rule.*got 0.2"),
    "decay that is a number": (lambda: Decayed(Steepest(), 0.5), TypeError, "decay must be a function"),
    "one flat stage": (lambda: Shrinking((0.5, 2.0)), TypeError, "pairs (until, factor).*((0.5, 2.0),)"),
    "stages as a number": (lambda: Stepwise(0.5), TypeError, "stages must be pairs"),
    "stage in words": (lambda: Stepwise((("half", 2.0),)), TypeError, "until must be a number; got 'half'"),
    "stages that fall": (lambda: Stepwise(((0.6, 2.0), (0.3, 1.0))), ValueError, "rise.*got [0.6, 0.3]"),
    "stages in per cent": (lambda: Stepwise(((30, 2.0),)), ValueError, "up to 1; got [30]"),
    "factor below zero": (lambda: Shrinking(((0.3, -2.0),)), ValueError, "factors must be zero or more"),
    "factor NaN": (lambda: Stepwise(((0.3, 1.0),), math.nan), ValueError, "factors must be zero or more"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_the_message_says_what_was_expected_what_came_and_what_to_do(case):
    call, kind, message = ERRORS[case]
    pattern = ".*".join(map(re.escape, message.split(".*")))
    with pytest.raises(kind, match=pattern):
        call()


def test_numbers_of_numpy_and_tensors_of_integers_are_numbers():
    x = torch.full((2, 4), 0.5)
    for radius in (np.float32(0.25), np.float64(0.25), torch.tensor(0.25), torch.tensor([0.25, 0.25])):
        assert Threat(linf, radius).project(x + 1, x).tolist() == [[0.75] * 4] * 2
    assert (
        Threat(linf, torch.tensor([1, 1]), (np.float32(0), 1)).project(x + 1, x).tolist() == [[1.0] * 4] * 2
    )
    assert Steepest(np.float32(0.5)).size == 0.5


def test_the_check_of_modes_looks_through_functions_and_says_what_it_could_not_look_at():
    net = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.Linear(3, 1))
    for train in (True, False):
        net.train(train)
        for model in (net, lambda x: net(x), net.forward, partial(net)):  # noqa: PLW0108 - a function around it
            assert diagnosed_of(model)["mode"].verdict == ("flag" if train else "pass")
    found = diagnosed_of(lambda x: x.sum(1, keepdim=True))["mode"]
    assert found.verdict == "skipped"
    assert "no layer was looked at: the model is a function in which no torch.nn.Module" in found.message
    assert found.evidence == {}


def diagnosed_of(model):
    x = torch.rand(2, 4, generator=torch.Generator().manual_seed(0))
    return diagnose(model, x, torch.zeros(2, 1), objective=J_IND_reg, threat=Threat(linf, 0.1), **TINY)
