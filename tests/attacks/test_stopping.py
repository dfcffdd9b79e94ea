"""Examples that leave when they are finished, radii that shrink, and what an OOD attack says of a match."""

import math

import pytest
import torch
from networks import TwoHeads, batch, two_heads

from advreg import (
    Adamax,
    J_IND_reg,
    J_IND_seg,
    J_OOD_reg,
    J_OOD_seg,
    Momentum,
    Steepest,
    Threat,
    dice,
    l2,
    linf,
    on,
    ood_attack,
    pgd_attack,
    point_error,
    weighted,
)
from advreg.objectives import Within
from advreg.rules import Shrinking

OPTIONS = {"objective": on("contour", J_IND_reg), "threat": Threat(linf, 0.1), "steps": 12}


class Counting(TwoHeads):
    def __init__(self):
        super().__init__()
        self.load_state_dict(two_heads().state_dict())
        self.sizes = []

    def forward(self, x):
        self.sizes.append(len(x))
        return super().forward(x)


def trace(x, y, **options):
    """Each example's objective at each step, without a stop rule."""
    rows = [
        pgd_attack(two_heads(), x, y, keep="last", **OPTIONS | options | {"steps": n}).value
        for n in range(13)
    ]
    return torch.stack(rows)


@pytest.mark.parametrize(
    "rule", [Steepest(0.1), Momentum(0.1), Adamax(0.1)], ids=lambda rule: type(rule).__name__
)
def test_an_example_leaves_at_its_first_point_that_qualifies(rule):
    x, y = batch(6)
    values = trace(x, y, rule=rule)
    limit = values.quantile(0.5).item()
    model = Counting().eval()
    found = pgd_attack(
        model, x, y, rule=rule, stop=lambda out, y: J_IND_reg(out["contour"], y["contour"]) > limit, **OPTIONS
    )
    reached = values > limit
    assert torch.equal(found.finished, reached.any(0))
    assert 0 < found.finished.sum() < 6
    first = reached.float().argmax(0)
    assert torch.equal(found.step[found.finished], first[found.finished])
    torch.testing.assert_close(found.value[found.finished], values[first, torch.arange(6)][found.finished])
    torch.testing.assert_close(found.value[~found.finished], values.amax(0)[~found.finished])
    sizes = [6 - int((reached.cumsum(0) > 0)[n - 1].sum()) if n else 6 for n in range(13)]
    assert model.sizes[:13] == sizes  # nobody is carried on who has finished


def test_restarts_go_on_with_those_that_are_left():
    x, y = batch(6)
    limit = trace(x, y, seed=3).amax(0).median().item()
    model = Counting().eval()
    found = pgd_attack(
        model,
        x,
        y,
        restarts=2,
        seed=3,
        stop=lambda out, y: J_IND_reg(out["contour"], y["contour"]) > limit,
        **OPTIONS,
    )
    *climbing, clean = model.sizes
    assert len(climbing) == 26
    assert climbing == sorted(climbing, reverse=True)  # the second run takes nobody back
    assert climbing[13] < 6
    assert clean == 6
    assert climbing[-1] >= 6 - int(found.finished.sum())
    assert torch.equal(found.finished, J_IND_reg(two_heads()(found.x)["contour"], y["contour"]) > limit)


def test_per_example_radii_bounds_and_masks_go_along():
    x, y = batch(5)
    threat = Threat(
        linf,
        torch.linspace(0.02, 0.1, 5),
        bounds=(torch.zeros_like(x), torch.ones_like(x)),
        mask=torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) > 0.3,
    )
    limit = pgd_attack(two_heads(), x, y, **OPTIONS | {"threat": threat}).value.median().item()
    found = pgd_attack(
        two_heads(),
        x,
        y,
        stop=lambda out, y: J_IND_reg(out["contour"], y["contour"]) >= limit,
        **OPTIONS | {"threat": threat},
    )
    assert 0 < found.finished.sum() < 5
    assert threat.contains(found.x, x).all()


def test_finished_at_once_means_no_step():
    x, y = batch(3)
    found = pgd_attack(two_heads(), x, y, stop=lambda out, y: torch.ones(3, dtype=torch.bool), **OPTIONS)
    assert found.finished.all()
    assert (found.step == 0).all()


def test_a_stop_rule_that_says_no_bool_is_named():
    x, y = batch(3)
    with pytest.raises(TypeError, match="stop must say for each example whether it is finished"):
        pgd_attack(
            two_heads(), x, y, stop=lambda out, y: point_error(out["contour"], y["contour"]), **OPTIONS
        )


def test_a_shrinking_radius_ends_in_the_threat_and_climbs_higher():
    x, y = batch(4)
    options = {**OPTIONS, "threat": Threat(l2, 0.3), "steps": 20, "objective": on("mask", J_IND_seg)}
    plain, shrunk = (
        pgd_attack(two_heads(), x, y, schedule=schedule, **options) for schedule in (None, Shrinking())
    )
    assert options["threat"].contains(shrunk.x, x).all()
    assert ((shrunk.step >= 12) | (shrunk.step == -1)).all()
    assert shrunk.value.mean() > 0.98 * plain.value.mean()
    with pytest.raises(ValueError, match=r"schedule must be 1 in the end; got 2"):
        pgd_attack(two_heads(), x, y, schedule=lambda share: 2.0, **options)


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
