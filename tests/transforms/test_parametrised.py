"""Attacks on a transform's parameters: the worst of a search over all, cut like other inputs."""

import pytest
import torch
from networks import batch, two_heads
from torch import nn

from advreg import Execution, J_IND_reg, J_IND_seg, Steepest, l2, linf, on, pgd_attack
from advreg.attacks import random_noise, score_attack
from advreg.transforms import BiasField, Deformation, Gamma, Parametrised

SEG = on("mask", J_IND_seg)


def test_the_worst_gamma_is_that_of_a_search_over_all():
    model, (x, y) = two_heads(dtype=torch.float64), batch(4, dtype=torch.float64)
    both = Parametrised(model, Gamma())
    found = pgd_attack(
        both, both.inputs(x), y, objective=SEG, threat=both.threat(linf, 0.6), restarts=4, steps=60
    )
    with torch.no_grad():
        tried = torch.stack([SEG(model(x ** p.exp()), y) for p in torch.linspace(-0.6, 0.6, 401)])
        torch.testing.assert_close(SEG(model(both.image(found.x)), y), found.value)
    torch.testing.assert_close(found.value, tried.amax(0), rtol=1e-3, atol=1e-5)
    assert torch.equal(found.x["image"], x)
    assert (found.x["parameters"].abs() <= 0.6).all()


@pytest.mark.parametrize("transform", [Gamma(), BiasField(2), Deformation(2)], ids=repr)
def test_any_attack_moves_the_parameters_alone_and_parts_do_not_matter(transform):
    model, (x, y) = two_heads(), batch(5)
    both = Parametrised(model, transform)
    given, threat = both.inputs(x), both.threat(l2, 0.5)
    assert torch.equal(both.image(given), x)
    with torch.no_grad():
        clean = SEG(model(x), y)
    for attack, options in (
        (pgd_attack, {"steps": 6}),
        (pgd_attack, {"steps": 6, "execution": Execution(micro_batch=2)}),
        (score_attack, {"steps": 5}),
        (random_noise, {"draws": 5}),
    ):
        found = attack(both, given, y, objective=SEG, threat=threat, **options)
        assert torch.equal(found.x["image"], x)
        assert threat["parameters"].contains(found.x["parameters"], given["parameters"]).all()
        with torch.no_grad():
            value = SEG(model(transform(x, found.x["parameters"])), y)
        torch.testing.assert_close(found.value, value)
        torch.testing.assert_close(found.gain, value - clean, atol=1e-6, rtol=1e-4)
    whole = pgd_attack(both, given, y, objective=SEG, threat=threat, steps=6)
    one = {head: part[3:4] for head, part in y.items()}
    alone = pgd_attack(
        both, both.inputs(x[3:4]), one, objective=SEG, threat=threat, steps=6, index=torch.tensor([3])
    )
    torch.testing.assert_close(alone.x["parameters"], whole.x["parameters"][3:4], atol=1e-5, rtol=1e-4)


class Perfect(nn.Module):
    """A network that answers with the image as a mask's logits, and with the centre of its brightness."""

    def forward(self, x):
        weight = x / x.sum((1, 2, 3), keepdim=True)
        rows, columns = (torch.arange(n, dtype=x.dtype) for n in x.shape[2:])
        centre = torch.stack([(weight.sum((1, 2)) * columns).sum(1), (weight.sum((1, 3)) * rows).sum(1)], -1)
        return {"centre": centre[:, None], "mask": x}


def test_outputs_that_move_are_brought_back_so_that_a_network_that_follows_is_not_blamed():
    size, warp = (40, 40), Deformation(2)
    y, x = torch.meshgrid(*(torch.arange(n).double() for n in size), indexing="ij")
    blob = torch.exp(-((x - 18).square() + (y - 22).square()) / 30)[None, None].expand(3, 1, -1, -1)
    truth = Perfect()(blob)
    follows = Parametrised(Perfect(), warp, moves={"centre": "points", "mask": "image"})
    blamed = Parametrised(Perfect(), warp)
    given = follows.inputs(blob)
    options = {"rule": Steepest(0.2), "steps": 15}
    threat = follows.threat(linf, 0.5 * warp.reach(size))
    with torch.no_grad():
        for head in truth:
            torch.testing.assert_close(follows(given)[head], truth[head])
    objective = on("centre", J_IND_reg)
    still = pgd_attack(follows, given, truth, objective=objective, threat=threat, **options)
    far = pgd_attack(blamed, given, truth, objective=objective, threat=threat, **options)
    apart = [(model(found.x)["centre"] - truth["centre"]).norm(dim=-1).mean() for model, found in
             ((follows, still), (blamed, far))]  # fmt: skip
    assert apart[1] > 2  # pixels
    assert apart[0] < 0.35 * apart[1]
    with torch.no_grad():
        shift = (follows(far.x)["mask"] - truth["mask"]).abs().mean()
        unmoved = (blamed(far.x)["mask"] - truth["mask"]).abs().mean()
    assert shift < 0.1 * unmoved


def test_a_model_that_returns_the_head_itself_and_what_is_refused():
    x = torch.rand(2, 1, 8, 8)
    both = Parametrised(nn.Conv2d(1, 1, 1), Deformation(1), moves={"": "image"})
    assert both(both.inputs(x)).shape == (2, 1, 8, 8)
    scaled = both.threat(linf, 1.0, scale=torch.cat([torch.ones(16), torch.zeros(16)]))
    found = pgd_attack(
        both,
        both.inputs(x),
        torch.zeros(2, 1, 8, 8),
        objective=J_IND_reg,
        threat=scaled,
        keep="last",
        steps=3,
    )
    assert (found.x["parameters"][:, 16:] == 0).all()
    assert (found.x["parameters"][:, :16] != 0).any()
    for error, message, call in (
        (
            TypeError,
            r"transform must have parameters\(x\).*the class Gamma",
            lambda: Parametrised(nn.Identity(), Gamma),
        ),
        (
            TypeError,
            "heads move with a Deformation",
            lambda: Parametrised(nn.Identity(), Gamma(), {"a": "points"}),
        ),
        (
            ValueError,
            "must move as 'points' or 'image'",
            lambda: Parametrised(nn.Identity(), Deformation(), {"a": "box"}),
        ),
        (
            KeyError,
            "the output has no head 'a'",
            lambda: Parametrised(lambda x: {"b": x}, Deformation(1), {"a": "image"})(both.inputs(x)),
        ),
    ):
        with pytest.raises(error, match=message):
            call()


def test_a_function_around_modules_is_gone_through_like_a_module():
    inside, (x, y) = two_heads(), batch(3)
    options = {"objective": SEG, "steps": 4}
    found = []

    def around(image):
        return inside(image)

    for model in (inside, around):
        both = Parametrised(model, Gamma())
        found.append(pgd_attack(both, both.inputs(x), y, threat=both.threat(linf, 0.3), **options))
    assert torch.equal(found[0].x["parameters"], found[1].x["parameters"])
    assert all(parameter.requires_grad for parameter in inside.parameters())
