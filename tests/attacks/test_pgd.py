"""Projected gradient ascent: inside the threat, with numbers that are those of what is returned."""

from itertools import pairwise

import pytest
import torch
from networks import WRAPS, batch, two_heads

from advreg import (
    Adamax,
    J_IND_reg,
    J_IND_seg,
    J_OOD_reg,
    Steepest,
    Threat,
    l1,
    l2,
    linf,
    on,
    pgd_attack,
    weighted,
)
from advreg.rules import Momentum

REG, SEG = on("contour", J_IND_reg), on("mask", J_IND_seg)


JOINT = weighted((0.01, REG), (1.0, SEG))


@pytest.mark.parametrize("kind", WRAPS)
def test_ten_lines_attack_whatever_a_model_returns(kind):
    model, (x, y) = two_heads(kind), batch(4, kind)
    key = 1 if kind in ("tuple", "list") else "mask"
    result = pgd_attack(model, x, y, objective=on(key, J_IND_seg), threat=Threat(linf, 0.1), steps=10)
    plain = pgd_attack(
        lambda x: two_heads()(x)["mask"],
        x,
        y[1] if kind in ("tuple", "list") else (y["mask"] if kind == "dict" else y.mask),
        objective=J_IND_seg,
        threat=Threat(linf, 0.1),
        steps=10,
    )
    assert torch.equal(result.x, plain.x)
    assert (result.gain > 0).all()


@pytest.mark.parametrize("norm", [linf, l2, l1])
@pytest.mark.parametrize("rule", [Steepest(0.2), Momentum(0.2), Adamax(0.2)], ids=lambda r: type(r).__name__)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_result_is_inside_and_its_numbers_are_those_of_its_inputs(norm, rule, dtype):
    model, (x, y) = two_heads(dtype=dtype), batch(4, dtype=dtype)
    threat = Threat(norm, torch.tensor([0.0, 0.05, 0.5, 3.0]))
    result = pgd_attack(model, x, y, objective=JOINT, threat=threat, rule=rule, steps=6)
    assert result.x.dtype == dtype
    assert threat.contains(result.x, x).all()
    with torch.no_grad():
        value, clean = JOINT(model(result.x), y), JOINT(model(x), y)
    torch.testing.assert_close(result.value, value)
    torch.testing.assert_close(
        result.gain, value - clean, atol=1e-2 if dtype == torch.bfloat16 else 1e-5, rtol=0
    )
    assert torch.equal(result.x[0], x[0])
    assert (result.gain >= 0).all()


def test_seed_and_index_decide_the_random_start(model):
    x, y = batch(3)
    options = {"objective": REG, "threat": Threat(linf, 0.1), "steps": 0, "keep": "last"}
    first = pgd_attack(model, x, y, seed=1, **options)
    assert torch.equal(first.x, pgd_attack(model, x, y, seed=1, **options).x)
    assert not torch.equal(first.x, pgd_attack(model, x, y, seed=2, **options).x)
    other = pgd_attack(model, x, y, seed=1, index=torch.tensor([2, 1, 0]), **options)
    assert torch.equal(other.x[1], first.x[1])
    assert not torch.equal(other.x[0], first.x[0])


def test_best_is_the_maximum_over_the_run_and_never_below_the_clean_input(model):
    x, y = batch(5)
    options = {"objective": REG, "threat": Threat(linf, 0.2), "rule": Steepest(3.0), "random_start": False}
    last = [pgd_attack(model, x, y, steps=n, keep="last", **options) for n in range(9)]
    best = pgd_attack(model, x, y, steps=8, **options)
    values = torch.stack([result.value for result in last])
    torch.testing.assert_close(best.value, values.amax(0))
    assert torch.equal(best.step.clamp(min=0), values.argmax(0))
    assert all((result.step == n).all() for n, result in enumerate(last))
    # Nothing in the ball is worse than a target that the attack can only approach.
    towards = pgd_attack(
        model, x, model(x), objective=on("contour", J_OOD_reg), threat=Threat(linf, 0.2), steps=3
    )
    assert (towards.gain == 0).all()
    assert (towards.step == -1).all()
    assert torch.equal(towards.x, x)


def test_restarts_keep_the_best_of_each_example(model):
    x, y = batch(6)
    options = {"objective": SEG, "threat": Threat(l2, 0.5), "steps": 2, "keep": "last"}
    values = [pgd_attack(model, x, y, restarts=n, **options).value for n in (1, 2, 3, 6)]
    for fewer, more in pairwise(values):
        assert (more >= fewer).all()
    assert (values[-1] > values[0]).any()


def test_start_may_differ_from_the_centre(model):
    x, y = batch(3)
    start = (x + 0.02).clamp(0, 1)
    options = {"objective": REG, "threat": Threat(linf, 0.05), "steps": 0, "keep": "last"}
    assert torch.equal(pgd_attack(model, x, y, start=start, random_start=False, **options).x, start)
    near = pgd_attack(model, x, y, start=start, **options).x
    assert not torch.equal(near, start)
    assert Threat(linf, 0.05).contains(near, x).all()


def test_any_rank():
    volume = torch.nn.Conv3d(1, 1, 3, padding=1).eval()
    x, y = torch.rand(2, 1, 4, 5, 6), torch.ones(2, 1, 4, 5, 6)
    assert (pgd_attack(volume, x, y, objective=J_IND_seg, threat=Threat(linf, 0.1), steps=3).gain > 0).all()
    vector = torch.nn.Linear(5, 2)
    x, y = torch.rand(2, 5), torch.zeros(2, 2)
    assert (pgd_attack(vector, x, y, objective=J_IND_reg, threat=Threat(l1, 0.5), steps=5).gain > 0).all()


def test_autocast_passes_through(model):
    x, y = batch(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = pgd_attack(model, x, y, objective=REG, threat=Threat(linf, 0.1), steps=3)
    assert result.x.dtype == torch.float32
    assert (result.gain > 0).all()
