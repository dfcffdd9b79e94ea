"""Low precision on the way, full precision in what is reported, and a model that never notices."""

from functools import partial

import pytest
import torch
from networks import batch, two_heads
from torch import nn

from advreg import (
    Execution,
    J_IND_reg,
    J_IND_seg,
    Steepest,
    Threat,
    auto_attack,
    dice,
    linf,
    negate,
    on,
    pgd_attack,
    weighted,
)
from advreg.execution import frozen
from advreg.execution._precision import cast, lowered
from advreg.objectives import Within
from advreg.tasks import masks
from advreg.training import L_adv_rs

LOW = ["bfloat16", "float16"]
MASK, CONTOUR = on("mask", J_IND_seg), on("contour", J_IND_reg)
OPTIONS = {"threat": Threat(linf, 0.1), "rule": Steepest(0.2), "steps": 8}


def state(model):
    return {name: (id(tensor), tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}


def same(before, after):
    return before.keys() == after.keys() and all(
        before[name][0] == after[name][0] and torch.equal(before[name][1], after[name][1]) for name in before
    )


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("shift", torch.ones(4))
        self.register_buffer("count", torch.tensor(3))
        self.seen = []

    def forward(self, x):
        self.seen.append((x.dtype, self.first.weight.dtype, self.shift.dtype, self.count.dtype))
        assert self.first.weight is self.second.weight
        return self.second(self.first(x).relu()) + self.shift


@pytest.mark.parametrize("precision", LOW)
def test_the_network_computes_in_that_precision_and_is_left_as_it_was(precision):
    model = Tied()
    before, dtype = state(model), getattr(torch, precision)
    with lowered(model, precision):
        output = cast(model, precision)(torch.rand(2, 4))
    assert model.seen == [(dtype, dtype, dtype, torch.int64)]
    assert output.dtype == torch.float32
    assert same(before, state(model))
    with pytest.raises(ZeroDivisionError), lowered(model, precision):
        _ = 1 / 0
    assert same(before, state(model))


def test_another_precision_is_refused_before_anything_is_run():
    x, y = batch(2)
    with pytest.raises(ValueError, match=r"precision must be one of .*; got 'int8'"):
        pgd_attack(two_heads(), x, y, objective=MASK, execution=Execution("int8"), **OPTIONS)


@pytest.mark.parametrize("precision", LOW)
@pytest.mark.parametrize("objective", [MASK, CONTOUR, weighted((1e-3, CONTOUR), (1.0, MASK))])
def test_the_attack_is_as_strong_and_its_value_is_that_of_full_precision(precision, objective):
    model, (x, y) = two_heads(), batch(6)
    full = pgd_attack(model, x, y, objective=objective, **OPTIONS)
    seen = set()
    handle = model.encoder[0].register_forward_hook(lambda *args: seen.add(args[2].dtype))
    low = pgd_attack(model, x, y, objective=objective, execution=Execution(precision), **OPTIONS)
    handle.remove()
    assert seen == {getattr(torch, precision), torch.float32}  # on the way, and for what is reported
    assert low.x.dtype == torch.float32
    assert OPTIONS["threat"].contains(low.x, x).all()
    with torch.no_grad():
        assert torch.equal(low.value, objective(model(low.x), y))
        clean = objective(model(x), y)
    torch.testing.assert_close(low.gain, low.value - clean)
    assert (low.gain >= 0).all()
    assert low.value.mean() >= 0.99 * full.value.mean()


def test_the_judge_and_the_stop_rule_are_asked_again_in_full_precision():
    model, (x, y) = two_heads(), batch(6)
    judge = negate(on("mask", dice))
    with torch.no_grad():
        limit = judge(model(x), y).median().item() + 0.02
    found = pgd_attack(
        model,
        x,
        y,
        objective=MASK,
        judge=judge,
        stop=Within(judge, low=limit),
        execution=Execution("bfloat16"),
        **OPTIONS,
    )
    with torch.no_grad():
        value = judge(model(found.x), y)
    assert torch.equal(found.value, value)
    assert torch.equal(found.finished, value >= limit)
    assert found.finished.any()


def test_float16_keeps_gradients_that_it_cannot_hold():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = nn.Linear(3, 2), torch.rand(4, 3, requires_grad=True)
    scales = torch.tensor([1e-12, 1e-6, 1.0, 1e9])

    def gradient(run):
        return torch.autograd.grad((scales * run(x).square().sum(1)).sum(), x)[0]

    expected = gradient(model)
    with frozen(model), lowered(model, "float16"):
        came = gradient(cast(model, "float16"))
    largest = expected.abs().amax(1, keepdim=True)
    torch.testing.assert_close(came / largest, expected / largest, rtol=0, atol=5e-3)


def test_several_outputs_share_one_scale():
    model = nn.Linear(3, 2)
    x = torch.rand(4, 3, requires_grad=True)

    def both(x):
        return {"small": model(x)[:, :1], "large": model(x)[:, 1:], "name": "L4/L5", "count": torch.tensor(2)}

    def gradient(run):
        output = run(x)
        assert output["name"] == "L4/L5"
        assert output["count"].dtype == torch.int64
        return torch.autograd.grad((1e-7 * output["small"] + 1e-6 * output["large"]).sum(), x)[0]

    expected = gradient(both)
    with frozen(model), lowered(model, "float16"):
        came = gradient(cast(both, "float16"))
    torch.testing.assert_close(came, expected, rtol=1e-2, atol=0)


def test_training_attacks_in_low_precision_and_learns_in_its_own():
    model, (x, y) = two_heads().train(), batch(4)
    before = state(model)
    loss = L_adv_rs(
        weighted((1e-3, CONTOUR), (1.0, MASK)),
        reg=CONTOUR,
        seg=MASK,
        steps=4,
        execution=Execution("bfloat16"),
    )
    full = L_adv_rs(weighted((1e-3, CONTOUR), (1.0, MASK)), reg=CONTOUR, seg=MASK, steps=4)
    total, parts = loss(model, x, y, seed=0)
    reference, _ = full(model, x, y, seed=0)
    torch.testing.assert_close(total, reference, rtol=2e-2, atol=0)
    total.backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())
    assert same(before, state(model))
    assert parts["seg"] > parts["clean"]
    assert loss.terms["reg"][1].execution == Execution("bfloat16")


def test_auto_attack_reports_full_precision():
    model, (x, y) = two_heads(), batch(4)
    attack = partial(auto_attack, model, x, y, heads={"mask": masks()}, threat=Threat(linf, 0.1), budget=10)
    found = attack(execution=Execution("bfloat16"))["mask"]
    with torch.no_grad():
        assert torch.equal(found.value, dice(model(found.x)["mask"], y["mask"]))
    assert found.value.mean() <= attack()["mask"].value.mean() + 0.01
