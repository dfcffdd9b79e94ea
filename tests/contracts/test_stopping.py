"""Examples leave at the first point that qualifies, and nobody else notices."""

import pytest
import torch
from networks import Sizes, batch, two_heads

from advreg import Adamax, J_IND_reg, J_IND_seg, Steepest, Threat, l2, linf, on, pgd_attack, point_error
from advreg.rules import Momentum, Shrinking

OPTIONS = {"objective": on("contour", J_IND_reg), "threat": Threat(linf, 0.1), "steps": 12}


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
    model = Sizes().eval()
    found = pgd_attack(
        model, x, y, rule=rule, stop=lambda out, y: J_IND_reg(out["contour"], y["contour"]) > limit, **OPTIONS
    )
    clean = J_IND_reg(two_heads()(x)["contour"], y["contour"]).detach()
    values = torch.cat([clean[None], values])  # step -1 is the clean input
    reached = values > limit
    assert torch.equal(found.finished, reached.any(0))
    assert 0 < found.finished.sum() < 6
    first = reached.float().argmax(0)
    assert torch.equal(found.step[found.finished], first[found.finished] - 1)
    torch.testing.assert_close(found.value[found.finished], values[first, torch.arange(6)][found.finished])
    torch.testing.assert_close(found.value[~found.finished], values.amax(0)[~found.finished])
    sizes = [6 - int((reached.cumsum(0) > 0)[n].sum()) for n in range(13)]
    assert model.sizes[:3] == [6, 1, 1]  # the check of the clean inputs
    assert model.sizes[3:16] == sizes  # nobody is carried on who has finished


def test_restarts_go_on_with_those_that_are_left():
    x, y = batch(6)
    limit = trace(x, y, seed=3).amax(0).median().item()
    model = Sizes().eval()
    found = pgd_attack(
        model,
        x,
        y,
        restarts=2,
        seed=3,
        stop=lambda out, y: J_IND_reg(out["contour"], y["contour"]) > limit,
        **OPTIONS,
    )
    clean, first, second, *climbing = model.sizes
    assert (first, second) == (1, 1)
    assert len(climbing) == 26
    assert climbing == sorted(climbing, reverse=True)  # the second run takes nobody back
    assert climbing[13] < 6
    assert clean == 6
    assert climbing[0] <= 6
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


@pytest.mark.parametrize("keep", ["best", "last"])
def test_finished_at_once_means_no_step(keep):
    x, y = batch(3)
    model = Sizes().eval()
    found = pgd_attack(
        model, x, y, stop=lambda out, y: torch.ones(len(out["mask"])) > 0, keep=keep, **OPTIONS
    )
    assert found.finished.all()
    clean = keep == "best"  # where the run ends, the clean input is no result
    assert (found.step == (-1 if clean else 0)).all()
    assert torch.equal(found.x, x) == clean
    assert model.sizes == ([3, 1, 1] if clean else [3, 1, 1, 3])


def test_a_clean_input_that_qualifies_is_finished_though_the_climb_never_is():
    """The random start leaves the region that qualifies: what is kept, the clean input, still counts."""
    x, y = torch.full((4, 2), 0.5), torch.zeros(4, 2)
    found = pgd_attack(
        torch.nn.Identity(),
        x,
        y,
        objective=lambda out, y: -(out - 0.5).square().sum(1),
        threat=Threat(linf, 0.1),
        rule=Steepest(0.7),
        stop=lambda out, y: (out - 0.5).abs().amax(1) < 1e-6,
        steps=3,
    )
    assert torch.equal(found.x, x)
    assert found.finished.all()
    assert (found.step == -1).all()


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
