"""What tasks are made of: their metrics, their members, and the damage that each does."""

import math

import pytest
import torch
from networks import batch, two_heads
from torch import nn

from advreg import (
    J_IND_reg,
    Steepest,
    Threat,
    contour_dice,
    dice,
    l2,
    linf,
    pgd_attack,
    point_error,
)
from advreg.objectives import at
from advreg.rules import Decayed
from advreg.tasks import Member, Task, maps, masks, outlines, points, values

SIZE = (8, 8)


SQUARE = torch.tensor([[1.2, 1.3], [5.8, 1.1], [6.1, 5.9], [1.1, 6.2]])


def logits(*shape, seed=0, scale=2.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


OUTPUT, MASK = logits(3, 2, 5, 6), (logits(3, 2, 5, 6, seed=1) > 0.5).double()


CONTOURS = SQUARE.repeat(3, 1, 1).double() + 0.6 * logits(3, 4, 2, seed=3)


class Outline(nn.Module):
    """A contour (B, 4, 2) in pixels around a square, or mask logits, from an image (B, 1, 8, 8)."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.move = nn.Linear(64, 8)

    def forward(self, x):
        return SQUARE.to(x) + 4 * self.move(x.flatten(1)).unflatten(1, (4, 2)).tanh()


def test_a_task_attacks_its_metric_unless_it_is_told_otherwise():
    higher, lower = Task(J_IND_reg, "higher"), Task(dice_like, "lower")
    assert (higher.sign, higher.worst) == (1, math.inf)
    assert (lower.sign, lower.worst) == (-1, -math.inf)
    x, y = logits(4, 3), logits(4, 3, seed=1)
    for member in higher.members:
        assert torch.equal(member.objective(x, y), J_IND_reg(x, y))
    for member in lower.members:
        assert torch.equal(member.objective(x, y), -dice_like(x, y))
    assert len({member.name for member in higher.members}) == len(higher.members) > 1
    chosen = Task(J_IND_reg, "higher", (Member("mine", J_IND_reg),), worst=9.0)
    assert chosen.members == (Member("mine", J_IND_reg),)
    assert chosen.worst == 9.0
    assert Task(J_IND_reg, "lower", worst=0.0).worst == 0.0


def dice_like(output, target):
    return 1 / (1 + J_IND_reg(output, target))


def test_a_member_brings_its_own_rule_and_radius():
    member = Member("mine", J_IND_reg)
    assert member.rule == Decayed(Steepest(2.0))
    assert member.schedule is None


@pytest.mark.parametrize("worse", ["more", "Higher", "", None])
def test_a_direction_is_lower_or_higher(worse):
    with pytest.raises(ValueError, match=f"worse must be 'lower' or 'higher'; got {worse!r}"):
        Task(J_IND_reg, worse)


def test_the_metrics_of_the_shipped_tasks():
    assert torch.equal(masks().metric(OUTPUT, MASK), dice(OUTPUT, MASK))
    assert torch.equal(points().metric(CONTOURS, 0 * CONTOURS), point_error(CONTOURS, 0 * CONTOURS))
    other = CONTOURS.flip(0)
    assert torch.equal(outlines(SIZE).metric(CONTOURS, other), contour_dice(CONTOURS, other, size=SIZE))
    known = [(task.worse, task.worst) for task in (masks(), points(), outlines(SIZE))]
    assert known == [("lower", 0.0), ("higher", math.inf), ("lower", 0.0)]


def test_damage_is_counted_the_way_that_is_worse():
    better, worse = torch.full((1, 1, 4, 4), 9.0), torch.full((1, 1, 4, 4), -9.0)
    worse[..., 0] = 9.0
    target = torch.ones(1, 1, 4, 4)
    # cross-entropy, on purpose, forgets pixels that have flipped
    for member in (one for one in masks().members if "cross-entropy" not in one.name):
        for share in (0.0, 0.5, 1.0):
            form = at(member.objective, share)
            assert form(worse, target) > form(better, target), member.name
    square, away = SQUARE[None], SQUARE[None] + 1.5
    for task in (points(), outlines(SIZE)):
        for member in task.members:
            form = at(member.objective, 0.0)
            assert form(away, square) > form(square, square), member.name


def mask_case():
    model, (x, _) = two_heads(), batch(4)
    with torch.no_grad():
        right = (model(x)["mask"] > 0).float()
    return (lambda point: model(point)["mask"]), x, right


def softmax_case():
    model, x, y = mask_case()
    return (lambda point: model(point) * torch.tensor([-0.5, 0.5]).view(1, 2, 1, 1)), x, y.long().squeeze(1)


def contour_case():
    model, (x, _) = Outline().eval(), batch(4)
    return model, x, SQUARE.expand(4, 4, 2)


CASES = {
    "masks": (masks(), mask_case),
    "masks, softmax": (masks(activation="softmax", ignore_index=255), softmax_case),
    "points": (points(), contour_case),
    "outlines": (outlines(SIZE), contour_case),
    "own": (Task(J_IND_reg, "higher"), contour_case),
    "own, lower": (Task(dice_like, "lower"), contour_case),
}


MEMBERS = [(name, number) for name, (task, _) in CASES.items() for number in range(len(task.members))]


@pytest.mark.parametrize("norm", [linf, l2])
@pytest.mark.parametrize(("name", "number"), MEMBERS)
def test_every_member_does_damage_and_more_than_chance(name, number, norm):
    (task, case), threat = CASES[name], Threat(norm, 0.1 if norm is linf else 0.8)
    model, x, y = case()
    member = task.members[number]

    def damage(output, target):
        return task.sign * task.metric(output, target)

    found = pgd_attack(
        model,
        x,
        y,
        objective=member.objective,
        rule=member.rule,
        schedule=member.schedule,
        threat=threat,
        steps=15,
        judge=damage,
        keep="last",
    )
    assert threat.contains(found.x, x).all()
    random = pgd_attack(
        model, x, y, objective=task.members[0].objective, threat=threat, steps=0, judge=damage
    )
    assert found.value.mean() > random.value.mean()
    assert found.gain.mean() > 0


def test_an_error_with_a_gradient_begins_with_long_steps_in_a_radius_that_shrinks():
    for task in (Task(J_IND_reg, "higher"), points(), maps(), values()):
        first, second = task.members[:2]
        assert first.rule == Decayed(Steepest(2.0))
        assert [first.schedule(share) for share in (0.0, 0.5)] == [2.0, 1.0]
        assert second.rule == Decayed(Steepest(1.0))


def test_exclusive_classes_take_other_members_first():
    names = [member.name for member in masks(activation="softmax").members]
    assert names[:2] == ["sharpened Dice, fixed radius", "sharper Dice, shrinking radius"]
