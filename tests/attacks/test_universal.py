"""One perturbation for all images: closed forms, other images, the batches' cut, chance that is its own."""

import random

import numpy as np
import pytest
import torch
from networks import batch, two_heads, uniform
from torch.utils.data import DataLoader, TensorDataset

from advreg import (
    Adamax,
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
)
from advreg.attacks import universal_attack
from advreg.execution import AssumptionError
from advreg.objectives import per_example
from advreg.rules import Adaptive, Momentum

WEIGHT = torch.tensor([1.0, -2.0, 0.5, 3.0])


def value(output, target):
    """The output itself, in either direction as each image's target says."""
    return output * target


def linear(x):
    return (x * WEIGHT).sum(1)


def loader(x, y, size):
    return list(zip(x.split(size), y.split(size), strict=True))


@pytest.mark.parametrize("rule", [Steepest(0.2), Momentum(0.2), Adamax(0.2), Adaptive()], ids=repr)
@pytest.mark.parametrize("update", ["batch", "epoch"])
def test_the_optimum_of_a_linear_model_is_that_of_the_summed_gradient(rule, update):
    x, y = uniform(12, 4), torch.tensor([1.0, 1.0, -1.0]).repeat(4)
    total = (WEIGHT[None] * y[:, None]).sum(0)
    best = {
        linf: (0.1 * total.sign(), 0.1 * total.abs().sum()),
        l2: (0.1 * total / total.norm(), 0.1 * total.norm()),
        l1: (0.1 * torch.tensor([0, 0, 0, 1.0]), 0.1 * total.abs().max()),
    }
    for norm, (delta, most) in best.items():
        found = universal_attack(
            linear,
            loader(x, y, 6),
            objective=value,
            threat=Threat(norm, 0.1, None),
            rule=rule,
            epochs=60,
            update=update,
        )
        assert found.delta.shape == (1, 4)
        if norm is l2 and isinstance(rule, Adamax):
            continue  # its steps are of one size in each entry, and end beside the optimum
        torch.testing.assert_close(found.delta[0], delta, atol=0.01, rtol=0)
        assert found.gain.sum() >= 0.97 * most
        torch.testing.assert_close(found.value, value(linear(x + found.delta), y))
        torch.testing.assert_close(found.gain, found.value - value(linear(x), y), atol=1e-5, rtol=1e-4)


def test_images_are_judged_in_their_bounds_and_what_these_hold_has_no_say():
    x = torch.tensor([[0.0, 0.5], [0.0, 0.5], [0.4, 0.5]])
    weight = torch.tensor([[-5.0, 1.0], [-5.0, 1.0], [1.0, 1.0]])
    found = universal_attack(
        lambda x: x,
        [(x, weight)],
        objective=lambda output, w: (output * w).sum(1),
        threat=Threat(linf, 0.1),
        rule=Steepest(0.3),
        random_start=False,
    )
    # At zero the two images at the lower bound would like to fall, and cannot; the third wants to rise.
    inside = (x + found.delta).clamp(0, 1)
    torch.testing.assert_close(found.value, (inside * weight).sum(1))
    assert torch.equal(found.applied(x), inside)
    assert found.delta[0, 1] == pytest.approx(0.1)


def test_it_holds_for_images_that_it_has_not_seen_and_is_below_an_attack_on_each():
    model, (x, y) = two_heads(), batch(24)
    objective, threat = on("mask", J_IND_seg), Threat(linf, 0.2)
    pairs = [(x[k : k + 4], {name: part[k : k + 4] for name, part in y.items()}) for k in (0, 4, 8, 12)]
    found = universal_attack(model, pairs, objective=objective, threat=threat, epochs=8)
    assert found.value.shape == (16,)
    assert found.gain.mean() > 0
    held, target = x[16:], {name: part[16:] for name, part in y.items()}
    noise = threat.sample(held, torch_keys(8)) - held
    with torch.no_grad():
        clean = objective(model(held), target)
        moved = objective(model(found.applied(held)), target)
        random_ = objective(model((held + noise[:1]).clamp(0, 1)), target)
    assert (moved - clean).mean() > 0
    assert moved.mean() > random_.mean()
    each = pgd_attack(model, held, target, objective=objective, threat=threat, steps=20)
    assert (moved <= each.value + 1e-4).all()


def torch_keys(count):
    from advreg import Keys  # noqa: PLC0415 - of one test

    return Keys(5, torch.arange(count))


@pytest.mark.parametrize("norm", [linf, l2])
def test_by_epoch_the_cut_into_batches_and_parts_does_not_matter(norm):
    model, (x, y) = two_heads(dtype=torch.float64), batch(7, dtype=torch.float64)
    options = {
        "objective": on("contour", J_IND_reg),
        "threat": Threat(norm, 0.3),
        "epochs": 6,
        "update": "epoch",
    }

    def cut(sizes):
        first = 0
        for size in sizes:
            some = slice(first, first + size)
            yield x[some], {name: part[some] for name, part in y.items()}
            first += size

    whole = universal_attack(model, list(cut([7])), **options)
    for sizes, how in (([3, 4], None), ([2, 2, 3], None), ([7], Execution(micro_batch=2))):
        other = universal_attack(model, list(cut(sizes)), execution=how, **options)
        torch.testing.assert_close(other.delta, whole.delta, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(other.value, whole.value, rtol=1e-6, atol=1e-9)
    assert Threat(norm, 0.3, None).contains(whole.delta, torch.zeros_like(whole.delta)).all()


def test_a_shuffling_loader_goes_by_the_seed_and_leaves_the_callers_chance_alone():
    model, (x, y) = two_heads(), batch(8)
    data = TensorDataset(x, y["mask"])
    shuffled = DataLoader(data, batch_size=3, shuffle=True)
    options = {
        "objective": lambda output, target: J_IND_seg(output["mask"], target),
        "threat": Threat(linf, 0.1),
        "epochs": 3,
    }
    torch.manual_seed(1)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002 - the global one
    first = universal_attack(model, shuffled, seed=4, **options)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002 - the global one
    assert random.getstate() == states[2]
    torch.rand(7)
    again = universal_attack(model, shuffled, seed=4, **options)
    assert torch.equal(first.delta, again.delta)
    assert torch.equal(first.value, again.value)
    other = universal_attack(model, shuffled, seed=5, **options)
    assert not torch.equal(first.delta, other.delta)


def test_the_judge_decides_and_the_model_stays_as_it_was():
    model, (x, y) = two_heads(), batch(6)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    judge = on("mask", negate(dice))
    found = universal_attack(
        model,
        [(x, y)],
        objective=on("mask", J_IND_seg),
        threat=Threat(linf, 0.1),
        judge=judge,
        execution=Execution("bfloat16"),
    )
    with torch.no_grad():
        torch.testing.assert_close(found.value, judge(model(found.applied(x)), y))
        torch.testing.assert_close(found.gain, judge(model(found.applied(x)), y) - judge(model(x), y))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_mask_scale_and_levels_hold_for_the_perturbation_and_for_the_images():
    model, (x, y) = two_heads(), batch(6)
    x = (255 * x).round() / 255
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2:6, 3:7] = True
    for norm, radius in ((linf, 8 / 255), (l2, 0.2)):
        threat = Threat(norm, radius, mask=mask, levels=255)
        found = universal_attack(model, [(x, y)], objective=on("contour", J_IND_reg), threat=threat)
        grey = 255 * found.delta
        torch.testing.assert_close(grey, grey.round(), atol=1e-3, rtol=0)
        assert (found.delta[..., ~mask] == 0).all()
        assert (found.delta != 0).any()
        inside = found.applied(x)
        assert threat.contains(inside, x).all()
        torch.testing.assert_close(inside, (x + found.delta).clamp(0, 1), atol=1e-6, rtol=0)


def test_targets_of_any_structure_and_missing_values_outside_the_mask():
    model, (x, _) = two_heads(), batch(5)
    rows = torch.tensor([[0, 1.0], [0, 2.0], [1, 0.5], [2, 3.0], [4, 1.0]])

    def objective(output, target):
        sums = torch.zeros(len(output["contour"])).index_add(0, target[:, 0].long(), target[:, 1])
        return output["contour"].flatten(1).square().sum(1) * sums

    pairs = [(x, per_example(rows, number=0))]
    options = {"objective": objective, "threat": Threat(linf, 0.1), "epochs": 3}
    whole = universal_attack(model, pairs, **options)
    parts = universal_attack(model, pairs, execution=Execution(micro_batch=2), **options)
    torch.testing.assert_close(whole.delta, parts.delta)
    torch.testing.assert_close(whole.value, parts.value)


def test_refusals():
    model, (x, y) = two_heads(), batch(4)
    objective, threat = on("mask", J_IND_seg), Threat(linf, 0.1)

    def attack(loader=((x, y),), **changes):
        told = {"objective": objective, "threat": threat, "epochs": 1} | changes
        return universal_attack(model, loader, **told)

    cases = (
        ({"loader": iter([(x, y)])}, TypeError, r"anew in each epoch.*list\(...\)"),
        ({"loader": [(x[:0], y)]}, ValueError, "expected one image or more"),
        ({"loader": [x]}, TypeError, r"a batch must be \(x, y\)"),
        ({"loader": [(x, y), (x[..., :4], y)]}, ValueError, "one shape and dtype.*batch 1"),
        ({"loader": [(x + 3, y)]}, ValueError, "inputs must lie in the threat's bounds"),
        ({"loader": [(x, y), (x + 3, y)]}, ValueError, "inputs must lie in the threat's bounds"),
        ({"threat": Threat(linf, torch.full((4,), 0.1))}, ValueError, "got radius per image"),
        ({"threat": Threat(linf, 0.1, mask=torch.ones_like(x) > 0)}, ValueError, "got mask per image"),
        ({"threat": Threat(linf, float("inf"))}, ValueError, "needs a finite radius"),
        ({"epochs": 0}, ValueError, "expected epochs of 1 or more"),
        ({"update": "image"}, ValueError, "update must be 'batch' or 'epoch'"),
        ({"objective": on("mask", lambda o, t: J_IND_seg(o, t) * float("nan"))}, ValueError, "not finite"),
        (
            {"objective": lambda o, t: J_IND_seg(o["mask"], t["mask"]).mean().expand(4)},
            AssumptionError,
            "depend on the rest of its batch",
        ),
    )
    for changes, error, message in cases:
        with pytest.raises(error, match=message):
            attack(**changes)
    with pytest.warns(UserWarning, match="gradient is zero at every step"):
        attack(objective=on("mask", lambda o, t: 0 * J_IND_seg(o, t)))
