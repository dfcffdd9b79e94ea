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
    l2,
    on,
    ood_attack,
    point_error,
    weighted,
)
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
