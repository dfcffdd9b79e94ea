"""What tasks are made of: their metrics, their members, and objectives that sharpen on the way."""

import math

import pytest
import torch
from networks import batch, two_heads
from torch import nn

from advreg import (
    J_IND_reg,
    J_IND_seg,
    Steepest,
    Threat,
    contour_dice,
    dice,
    l2,
    linf,
    pgd_attack,
    point_error,
)
from advreg.objectives import SharpenedDice, SharpenedOverlap, at, contour_overlap
from advreg.rules import Decayed
from advreg.tasks import Member, Task, masks, outlines, points

SIZE = (8, 8)
SQUARE = torch.tensor([[1.2, 1.3], [5.8, 1.1], [6.1, 5.9], [1.1, 6.2]])


def logits(*shape, seed=0, scale=2.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


OUTPUT, MASK = logits(3, 2, 5, 6), (logits(3, 2, 5, 6, seed=1) > 0.5).double()
CLASSES = torch.randint(0, 2, (3, 5, 6), generator=torch.Generator().manual_seed(2))
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


PATHS = {"first": 0.0}, {"first": -1.0}, {"last": 0.0}, {"until": 0.0}, {"until": 1.5}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("make", [SharpenedDice, lambda **path: SharpenedOverlap(SIZE, **path)])
def test_paths_that_lead_nowhere_are_refused(make, path):
    with pytest.raises(ValueError, match="first and last must be above zero and until in"):
        make(**path)


def test_a_sharpened_dice_needs_logits():
    with pytest.raises(ValueError, match="multiplies logits; got activation='none'"):
        SharpenedDice(activation="none")
    with pytest.raises(ValueError, match="activation='none'"):
        masks(activation="none")


def factor(first, last, until, share):
    """By logarithms: a straight line from log(first) to log(last) over the first `until` of the steps."""
    done = min(share / until, 1.0)
    return math.exp((1 - done) * math.log(first) + done * math.log(last))


@pytest.mark.parametrize(("first", "last", "until"), [(0.5, 3.0, 0.6), (1.0, 5.0, 1.0), (4.0, 0.5, 0.3)])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.59, 0.6, 0.61, 1.0])
def test_paths_are_geometric_and_stay_at_their_end(first, last, until, share):
    by = factor(first, last, until, share)
    sharpened = SharpenedDice(first, last, until).at(share)
    torch.testing.assert_close(sharpened(OUTPUT, MASK), J_IND_seg(by * OUTPUT, MASK))
    overlap = SharpenedOverlap(SIZE, first, last, until).at(share)
    expected = contour_overlap(CONTOURS, CONTOURS.flip(0), size=SIZE, softness=by)
    torch.testing.assert_close(overlap(CONTOURS, CONTOURS.flip(0)), expected)


def test_the_form_without_a_share_is_the_last():
    for sharpened, output, target in (
        (SharpenedDice(), OUTPUT, MASK),
        (SharpenedOverlap(SIZE), CONTOURS, CONTOURS.flip(0)),
    ):
        assert at(sharpened, 1.0) == sharpened
        assert torch.equal(sharpened(output, target), at(sharpened, 0.6)(output, target))
        assert not torch.allclose(sharpened(output, target), at(sharpened, 0.3)(output, target))
        assert at(at(sharpened, 0.2), 0.6) == at(sharpened, 0.6)


def test_the_factor_grows_towards_the_hard_dice():
    """A pixel on the right side counts ever less, one on the wrong side ever more."""
    output, target = torch.tensor([[[[1.0, -1.0]]]]), torch.tensor([[[[1.0, 0.0]]]])
    shares = torch.linspace(0, 1, 21).tolist()
    right = torch.cat([SharpenedDice().at(share)(output, target) for share in shares])
    wrong = torch.cat([SharpenedDice().at(share)(-output, target) for share in shares])
    assert (right.diff()[:12] < 0).all()
    assert (wrong.diff()[:12] > 0).all()
    assert (right.diff()[12:] == 0).all()
    sharp = SharpenedDice(1.0, 1e4)(OUTPUT, MASK)
    torch.testing.assert_close(sharp, 1 - dice(OUTPUT, MASK), rtol=0, atol=1e-6)
    edge = SharpenedOverlap(SIZE, 3.0, 1e-4)(CONTOURS, CONTOURS.flip(0))
    exact = contour_dice(CONTOURS, CONTOURS.flip(0), size=SIZE)
    torch.testing.assert_close(edge, 1 - exact.to(edge.dtype), rtol=0, atol=1e-3)


IGNORED = CLASSES.clone()
IGNORED[:, :2] = 255


@pytest.mark.parametrize(
    ("options", "target"),
    [
        ({}, MASK),
        ({"ignore_index": 0}, MASK),
        ({"activation": "softmax"}, CLASSES),
        ({"activation": "softmax", "ignore_index": 255}, IGNORED),
    ],
)
def test_at_a_factor_of_one_it_is_the_papers_objective(options, target):
    plain = SharpenedDice(1.0, 1.0, **options)
    for share in (0.0, 0.5, 1.0):
        torch.testing.assert_close(plain.at(share)(OUTPUT, target), J_IND_seg(OUTPUT, target, **options))
    torch.testing.assert_close(masks(**options).metric(OUTPUT, target), dice(OUTPUT, target, **options))
    twice = SharpenedDice(2.0, 2.0, **options)
    torch.testing.assert_close(twice(OUTPUT, target), J_IND_seg(2 * OUTPUT, target, **options))


def test_what_is_ignored_changes_no_member():
    options = {"activation": "softmax", "ignore_index": 255}
    other = OUTPUT.clone()
    other[:, :, :2] = logits(3, 2, 2, 6, seed=9)
    for member in masks(**options).members:
        assert torch.equal(member.objective(OUTPUT, IGNORED), member.objective(other, IGNORED))
        assert not torch.equal(
            member.objective(OUTPUT, IGNORED), member.objective(OUTPUT, IGNORED.where(IGNORED == 255, 1))
        )


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
    for member in masks().members[:-1]:  # the last, on purpose, forgets pixels that have flipped
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
