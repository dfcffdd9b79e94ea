"""Inputs from elsewhere that are moved until the model answers as for others: which heads match, and when."""

import math

import pytest
import torch
from networks import batch, two_heads

from advreg import (
    Adamax,
    J_OOD_reg,
    J_OOD_seg,
    Threat,
    dice,
    l1,
    l2,
    linf,
    on,
    ood_attack,
    point_error,
    weighted,
)
from advreg.attacks import nearest_in_distribution
from advreg.objectives import Within

JOINT = weighted((0.05, on("contour", J_OOD_reg)), (1.0, on("mask", J_OOD_seg)))


OOD = {
    "objective": JOINT,
    "threat": Threat(l2, 6.0),
    "rule": Adamax(0.03, relative=False),
    "random_start": False,
    "steps": 150,
    "match": {
        "contour": Within(on("contour", point_error), high=0.2),
        "mask": Within(lambda out, y: dice(out["mask"], (y["mask"] > 0).float()), low=0.8),
    },
}


def test_an_ood_attack_says_which_heads_match_how_closely_and_when():
    x_in, _ = batch(5)
    x_out = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(9)) * 0.3
    model = two_heads()
    found = ood_attack(model, x_in, x_out, **OOD)
    with torch.no_grad():
        mine, theirs = model(found.x), model(x_in)
    torch.testing.assert_close(found.closeness["contour"], point_error(mine["contour"], theirs["contour"]))
    assert torch.equal(found.matched["contour"], found.closeness["contour"] <= 0.2)
    assert torch.equal(found.matched["mask"], found.closeness["mask"] >= 0.8)
    assert torch.equal(found.finished, found.matched["contour"] & found.matched["mask"])
    assert found.finished.any()
    assert (found.step[found.finished] < 150).all()
    assert OOD["threat"].contains(found.x, x_out).all()


def test_one_image_pairs_with_all_and_a_target_stands_in_for_x_in():
    x_in, _ = batch(4)
    x_out = torch.zeros(1, 1, 8, 8)
    options = OOD | {"steps": 5, "match": None}
    model = two_heads()
    many = ood_attack(model, x_in, x_out, **options)
    assert many.x.shape == x_in.shape
    with torch.no_grad():
        target = model(x_in)
    given = ood_attack(model, None, x_out.expand_as(x_in).contiguous(), target=target, **options)
    assert torch.equal(many.x, given.x)
    assert ood_attack(model, x_in[:1], x_in[1:], **options).x.shape == x_in[1:].shape
    with pytest.raises(ValueError, match="got both or neither"):
        ood_attack(model, x_in, x_out, target=target, **options)
    assert not many.closeness


def test_an_infinite_radius_leaves_the_box_alone():
    x_in, _ = batch(3)
    x_out = torch.full_like(x_in, 0.9)
    found = ood_attack(two_heads(), x_in, x_out, **OOD | {"threat": Threat(l2, math.inf)})
    assert found.x.min() >= 0
    assert found.x.max() <= 1
    assert found.gain.min() > 0


def test_ood_attack_matches_the_outputs_of_another_input(model):
    x_in, _ = batch(4)
    x_out = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(8))
    threat, options = Threat(l2, 3.0), {"steps": 200, "rule": Adamax(0.02)}
    with torch.no_grad():
        wanted, before = model(x_in), model(x_out)
    contour = ood_attack(model, x_in, x_out, objective=on("contour", J_OOD_reg), threat=threat, **options)
    mask = ood_attack(model, x_in, x_out, objective=on("mask", J_OOD_seg), threat=threat, **options)
    assert threat.contains(contour.x, x_out).all()
    with torch.no_grad():
        matched, covered = model(contour.x)["contour"], model(mask.x)["mask"]
    apart = J_OOD_reg(before["contour"], wanted["contour"])
    assert (J_OOD_reg(matched, wanted["contour"]) > 0.2 * apart).all()
    aim = wanted["mask"] > 0
    assert (dice(covered, aim) > dice(before["mask"], aim) + 0.1).all()


def test_a_walk_matches_without_a_step_and_the_attack_goes_on_from_there():
    x_in, _ = batch(6)
    x_out = torch.rand(x_in.shape, generator=torch.Generator().manual_seed(5))
    model, far = two_heads(), (x_in - x_out).flatten(1).norm(dim=1)
    own = OOD | {"threat": Threat(l2, 1.0001 * float(far.median()))}
    standing = ood_attack(model, x_in, x_out, walk=True, **(own | {"steps": 0}))
    share = (own["threat"].radius / far).clamp(max=1)[:, None, None, None]
    torch.testing.assert_close(standing.x, x_out + share * (x_in - x_out), rtol=0, atol=1e-5)
    reached = far <= own["threat"].radius
    assert 0 < reached.sum() < 6
    assert standing.finished[reached].all()  # a real image lies inside the ball: it matches itself
    going = ood_attack(model, x_in, x_out, walk=True, **own)
    assert (going.value >= standing.value - 1e-5).all() | going.finished.all()
    assert (going.finished >= standing.finished).all()
    assert (going.step[standing.finished] == 0).all()


def test_a_walk_of_several_inputs_keeps_those_that_are_not_attacked():
    g = torch.Generator().manual_seed(0)
    x_in, x_out = ({"a": torch.rand(3, 4, generator=g), "b": torch.rand(3, 2, generator=g)} for _ in range(2))

    def model(x):
        return x["a"].sum(1, keepdim=True) + x["b"][:, :1]

    threat = {"a": Threat(l2, 10.0)}
    found = ood_attack(model, x_in, x_out, objective=J_OOD_reg, threat=threat, walk=True, steps=0)
    torch.testing.assert_close(found.x["a"], x_in["a"])
    assert torch.equal(found.x["b"], x_out["b"])


def test_a_walk_needs_somewhere_to_go_and_no_other_start():
    x_in, _ = batch(2)
    with pytest.raises(ValueError, match="a walk is a start of its own"):
        ood_attack(two_heads(), x_in, 1 - x_in, walk=True, **(OOD | {"start": x_in}))
    with pytest.raises(ValueError, match="a walk goes towards x_in; got a target"):
        ood_attack(two_heads(), None, x_in, target=two_heads()(x_in), walk=True, **OOD)


@pytest.mark.parametrize("norm", [l1, l2, linf], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_nearest_is_that_of_all_pairs_one_by_one(norm, dtype):
    g = torch.Generator().manual_seed(1)
    x_out, images = (
        torch.rand(5, 1, 4, 4, generator=g).to(dtype),
        torch.rand(9, 1, 4, 4, generator=g).to(dtype),
    )
    found = nearest_in_distribution(x_out, images, norm)
    for number, one in enumerate(x_out):
        sizes = [float(norm.size((one - image)[None].double())) for image in images.double()]
        assert int(found.place[number]) == sizes.index(min(sizes))
        assert float(found.distance[number]) == pytest.approx(min(sizes), rel=1e-5)


def test_the_nearest_refuses_what_does_not_pair():
    x = torch.rand(2, 3)
    for arguments, message in (
        ((x, torch.rand(2, 4)), "of one shape"),
        ((x, x[:0]), "of one shape"),
        ((x, x / 0), "must be finite"),
        ((x, x, None), "norm must be l2, l1 or linf"),
    ):
        with pytest.raises(ValueError, match=message):
            nearest_in_distribution(*arguments)
