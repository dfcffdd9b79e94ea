"""Attacks without a gradient: inside, never below the clean input, known answers."""

import pytest
import torch
from networks import Sizes, batch, two_heads
from networks.cuttable import Convolutions, SkipNet
from networks.cuttable import cost as convolutions

from advreg import (
    Execution,
    J_IND_reg,
    J_IND_seg,
    Steepest,
    Threat,
    dice,
    l1,
    l2,
    linf,
    negate,
    on,
    pgd_attack,
    weighted,
)
from advreg.attacks import random_noise, score_attack, square_attack
from advreg.execution import pruned

REG, SEG = on("contour", J_IND_reg), on("mask", J_IND_seg)


JOINT = weighted((0.01, REG), (1.0, SEG))


ATTACKS = {
    "square": (square_attack, {"queries": 30}),
    "score": (score_attack, {"steps": 5, "draws": 5}),
    "noise": (random_noise, {"draws": 10}),
}


each = pytest.mark.parametrize(("attack", "cost"), ATTACKS.values(), ids=ATTACKS)


@each
@pytest.mark.parametrize("norm", [linf, l2, l1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_results_are_inside_and_their_numbers_those_of_their_inputs(attack, cost, norm, dtype):
    model, (x, y) = two_heads(dtype=dtype), batch(4, dtype=dtype)
    threat = Threat(norm, torch.tensor([0.0, 0.05, 0.5, 3.0]))
    result = attack(model, x, y, objective=JOINT, threat=threat, **cost)
    assert result.x.dtype == dtype
    assert threat.contains(result.x, x).all()
    with torch.no_grad():
        value, clean = JOINT(model(result.x), y), JOINT(model(x), y)
    torch.testing.assert_close(result.value, value)
    assert torch.equal(result.x[0], x[0])
    assert (result.gain >= 0).all()
    assert result.gain[3] > 0
    atol = 1e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(result.gain, value - clean, atol=atol, rtol=0)
    assert result.step.dtype == torch.int64
    assert not result.finished.any()


@each
def test_no_gradient_is_taken_and_nothing_is_left_behind(attack, cost):
    model, (x, y) = two_heads(), batch(3)
    state, modes = torch.get_rng_state(), []

    def watched(x):
        modes.append(torch.is_grad_enabled() or x.requires_grad)
        return model(x)

    result = attack(watched, x.requires_grad_(), y, objective=JOINT, threat=Threat(linf, 0.1), **cost)
    assert modes
    assert not any(modes)
    assert not result.x.requires_grad
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@each
@pytest.mark.parametrize("shape", [(7,), (3, 9), (2, 6, 5), (1, 4, 5, 6)])
def test_any_rank(attack, cost, shape):
    x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    y = torch.zeros(3, 1)
    result = attack(
        lambda x: x.flatten(1).sum(1, keepdim=True),
        x,
        y,
        objective=J_IND_reg,
        threat=Threat(linf, 0.1),
        **cost,
    )
    assert (result.gain > 0).any()


@pytest.mark.parametrize("shape", [(6,), (2, 3, 4)])
def test_the_optimum_of_a_linear_model_is_known(shape):
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=g)
    x = 0.4 + 0.2 * torch.rand(4, *shape, generator=g)

    def model(x):
        return (x * weight).flatten(1).sum(1)

    def plain(output, target):
        return output

    best = 0.1 * weight.abs().sum()
    options = {"objective": plain, "threat": Threat(linf, 0.1)}
    square = square_attack(model, x, None, queries=300, **options)
    torch.testing.assert_close(square.gain, best.expand(4), rtol=0.15 if len(shape) > 1 else 1e-4, atol=0)
    score = score_attack(model, x, None, steps=30, rule=Steepest(0.2), draws=60, **options)
    torch.testing.assert_close(score.gain, best.expand(4), rtol=0.05, atol=0)
    for norm, size in ((l2, weight.norm()), (l1, weight.abs().max())):
        threat = Threat(norm, 0.1)
        far = score_attack(model, x, None, objective=plain, threat=threat, steps=40, draws=30)
        assert (far.gain > 0.8 * 0.1 * size).all()
        near = square_attack(model, x, None, objective=plain, threat=threat, queries=200)
        assert (near.gain > 0.5 * 0.1 * size).all()
        assert (near.gain <= 0.1 * size * (1 + 1e-4)).all()
    noise = random_noise(model, x, None, draws=200, **options)
    assert (noise.gain < best).all()


def test_the_search_goes_by_the_objective_and_the_judge_decides_what_is_kept():
    x = torch.full((2, 3), 0.5)
    options = {"objective": lambda o, _: o, "threat": Threat(linf, 0.1), "judge": negate(lambda o, _: o)}
    for attack, cost in ATTACKS.values():
        result = attack(lambda x: x.sum(1), x, None, **options, **cost)
        assert (result.gain >= 0).all()
        torch.testing.assert_close(result.value, -result.x.sum(1))


def test_the_mask_holds():
    model, (x, y) = two_heads(), batch(2)
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2:6] = True
    for attack, cost in ATTACKS.values():
        moved = attack(model, x, y, objective=JOINT, threat=Threat(l2, 1.0, mask=mask), **cost).x != x
        assert moved.any()
        assert not moved[:, :, ~mask].any()


def test_a_function_without_a_gradient_is_no_obstacle():
    model, (x, y) = two_heads(), batch(4)

    def rounded(x):
        return model((8 * x).round() / 8)

    threat = Threat(linf, 0.1)
    with pytest.warns(UserWarning, match="gradient is zero"):
        white = pgd_attack(rounded, x, y, objective=SEG, threat=threat, steps=5, random_start=False)
    assert (white.gain == 0).all()
    for attack, cost in ATTACKS.values():
        assert (attack(rounded, x, y, objective=SEG, threat=threat, **cost).gain > 0).any()


@each
def test_errors_teach(attack, cost):
    model, (x, y) = two_heads(), batch(2)
    with pytest.raises(ValueError, match="finite radius"):
        attack(model, x, y, objective=JOINT, threat=Threat(linf, float("inf")), **cost)
    with pytest.raises(ValueError, match="bounds"):
        attack(model, x + 2, y, objective=JOINT, threat=Threat(linf, 0.1), **cost)
    with pytest.raises(TypeError, match="one number per example"):
        attack(model, x, y, objective=lambda o, _: o["mask"], threat=Threat(linf, 0.1), **cost)
    with pytest.raises(ValueError, match="or more"):
        attack(model, x, y, objective=JOINT, threat=Threat(linf, 0.1), **dict.fromkeys(cost, 0))
    with pytest.raises(ValueError, match="not finite"):
        attack(model, x, y, objective=lambda o, t: SEG(o, t) / 0, threat=Threat(linf, 0.1), **cost)


# The network is run as in every attack: the part that is read, in parts, by an execution


PASSES = {"square": 30 + 1, "score": 5 * 11 + 2, "noise": 10 + 1}


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize(
    ("objective", "judge"), [(SEG, None), (REG, None), (SEG, negate(SEG)), (JOINT, None)]
)
def test_only_the_part_that_is_read_is_run(name, objective, judge):
    (attack, cost), model, x = ATTACKS[name], SkipNet(), torch.rand(3, 1, 8, 8)
    y = {"points": torch.zeros(3, 3, 2), "mask": torch.ones(3, 1, 8, 8), "depth": torch.zeros(3, 1, 8, 8)}
    heads = {REG: ("points",), SEG: ("mask",), JOINT: ("points", "mask")}[objective]
    by_name = {
        REG: on("points", J_IND_reg),
        SEG: SEG,
        JOINT: weighted((1.0, on("points", J_IND_reg)), (1.0, SEG)),
    }
    options = {"objective": by_name[objective], "judge": judge, "threat": Threat(linf, 0.1), **cost}
    attack(model, x, y, **options)  # which cuts the model
    found, ran = counted(attack, model, x, y, **options)
    whole, ran_whole = counted(attack, model, x, y, execution=Execution(prune=False), **options)
    assert ran_whole == convolutions(model, x) * len(calls(name))
    assert ran == convolutions(pruned(model, heads, x), x) * len(calls(name)) < ran_whole
    for field in ("x", "value", "gain", "step"):
        assert torch.equal(getattr(found, field), getattr(whole, field))


def calls(name):
    """The passes of one attack: a score attack sends its draws through at once; three begin each."""
    return range({"square": 3 + 30, "score": 3 + 5 * 2 + 1, "noise": 3 + 10}[name])


def counted(attack, *arguments, **options):
    with Convolutions() as counter:
        found = attack(*arguments, **options)
    return found, counter.count


@each
@pytest.mark.parametrize("micro_batch", [1, 2, 3, 100])
def test_parts_give_what_the_whole_gives(attack, cost, micro_batch):
    model, (x, y) = two_heads(dtype=torch.float64), batch(5, dtype=torch.float64)
    options = {"objective": JOINT, "threat": Threat(l2, torch.linspace(0.1, 1.0, 5)), "seed": 2, **cost}
    index = torch.tensor([5, 2, 900, 0, 1])
    whole = attack(model, x, y, index=index, **options)
    parts = attack(model, x, y, index=index, execution=Execution(micro_batch=micro_batch), **options)
    torch.testing.assert_close(parts.x, whole.x, rtol=0, atol=1e-9)
    torch.testing.assert_close(parts.value, whole.value)
    torch.testing.assert_close(parts.gain, whole.gain)
    assert torch.equal(parts.step, whole.step)


@pytest.mark.parametrize("name", ATTACKS)
def test_no_more_examples_come_at_once_than_a_part_holds(name):
    (attack, cost), model, (x, y) = ATTACKS[name], Sizes().eval(), batch(5)
    execution = Execution(micro_batch=2, prune=False)
    attack(model, x, y, objective=JOINT, threat=Threat(linf, 0.1), execution=execution, **cost)
    copies = 2 * cost.get("draws", 0) if name == "score" else 1
    assert set(model.sizes) <= {1, 2, copies, 2 * copies}
    assert sum(model.sizes) == 2 + 5 * PASSES[name]  # one of the clean inputs alone, twice


@each
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("judge", [None, negate(on("mask", dice))])
def test_what_is_reported_is_exact_whatever_the_precision_on_the_way(attack, cost, precision, judge):
    model, (x, y) = two_heads(), batch(4)
    seen, threat, measure = set(), Threat(linf, 0.1), judge or JOINT
    handle = model.encoder[0].register_forward_hook(lambda *args: seen.add(args[2].dtype))
    found = attack(
        model, x, y, objective=JOINT, judge=judge, threat=threat, execution=Execution(precision), **cost
    )
    handle.remove()
    assert seen == {getattr(torch, precision), torch.float32}
    assert found.x.dtype == torch.float32
    assert threat.contains(found.x, x).all()
    with torch.no_grad():
        assert torch.equal(found.value, measure(model(found.x), y))
        torch.testing.assert_close(found.gain, found.value - measure(model(x), y))
    assert (found.gain >= 0).all()
    assert (found.gain > 0).any()


@pytest.mark.parametrize("name", ["square", "noise"])
def test_a_batch_that_does_not_fit_goes_on_in_parts(name):
    class Small(Sizes):
        def forward(self, x):
            if len(x) > 3:
                raise torch.OutOfMemoryError("Tried to allocate")
            return super().forward(x)

    (attack, cost), (x, y) = ATTACKS[name], batch(5)
    options = {"objective": SEG, "threat": Threat(linf, 0.1), **cost}
    with pytest.warns(UserWarning, match="out of memory: the attack goes on with 3 examples at once"):
        found = attack(Small().eval(), x, y, execution=Execution(prune=False), **options)
    torch.testing.assert_close(found.value, attack(two_heads(), x, y, **options).value, rtol=1e-4, atol=1e-5)
