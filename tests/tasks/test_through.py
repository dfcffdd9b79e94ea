"""A task through a transform against the same network with the transform inside."""

import math

import pytest
import torch
from networks import seeded, uniform
from torch import nn

from advreg import J_IND_reg, Threat, auto_attack, linf, negate, on
from advreg.objectives import at, normalised, transformed
from advreg.tasks import Member, Task, classes, heatmaps, labels, masks, points, through, values

THREAT = Threat(linf, 0.1)
X = uniform(5, 1, 8, 8)


class Long(nn.Module):
    """One vector of all that a network has to say, (B, 64)."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 64))

    def forward(self, x):
        return self.layers(x)


def corners(output):
    return 8 * output[:, :6].unflatten(1, (3, 2))


CASES = {
    "points": (points(), corners, uniform(5, 3, 2)),
    "classes": (classes(), lambda output: output[:, 6:10], torch.tensor([0, 1, 2, 3, 0])),
    "labels": (labels(), lambda output: output[:, 10:16], (uniform(5, 6) > 0.5).long()),
    "masks": (masks(), lambda output: 9 * output.unflatten(1, (1, 8, 8)), (X > 0.5).float()),
    "heatmaps": (heatmaps(), lambda output: output.unflatten(1, (1, 8, 8)), 7 * uniform(5, 1, 2)),
    "values": (values(), torch.exp, uniform(5, 64)),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_attack_on_the_network_with_the_transform_inside(name):
    task, transform, y = CASES[name]
    model, options = seeded(Long).eval(), {"threat": THREAT, "budget": 60}
    seen = auto_attack(model, X, y, heads={"": through(transform, task)}, **options)[""]
    inside = auto_attack(lambda x: transform(model(x)), X, y, heads={"": task}, **options)[""]
    assert torch.equal(seen.x, inside.x)
    assert torch.equal(seen.value, inside.value)
    assert seen.names == inside.names
    assert (seen.value != seen.clean).any()


def test_everything_else_of_the_task_stays():
    task = masks()
    seen = through(torch.log, task)
    assert (seen.worse, seen.worst, seen.sign) == (task.worse, task.worst, task.sign)
    for mine, own in zip(seen.members, task.members, strict=True):
        assert (mine.name, mine.rule, mine.schedule) == (own.name, own.rule, own.schedule)
    output, target = uniform(2, 1, 4, 4), (uniform(2, 1, 4, 4) > 0.5).float()
    for share in (0.0, 0.3, 1.0):  # objectives that sharpen still do, negated and of one head too
        expected = at(task.members[0].objective, share)(output.log(), target)
        form = on("mask", negate(negate(seen.members[0].objective)))
        found = at(form, share)({"mask": output}, {"mask": target})
        torch.testing.assert_close(found, expected)
    twice = through(torch.exp, seen)
    torch.testing.assert_close(twice.metric(output, target), task.metric(output, target))


def test_the_target_has_a_transform_of_its_own():
    seen = through(lambda output: 64 * output, points(), target=lambda target: target["corners"])
    output = uniform(2, 3, 2)
    assert seen.metric(output, {"corners": 64 * output}).tolist() == [0, 0]
    torch.testing.assert_close(
        seen.metric(output, {"corners": 64 * output + 3}), torch.full((2,), 3 * math.sqrt(2))
    )


def test_several_heads_at_once_stay_normalised():
    both = normalised((1.0, on(0, J_IND_reg)), (2.0, on(1, J_IND_reg)))
    task = Task(on(0, J_IND_reg), "higher", (Member("both", both),))
    seen = through(lambda output: (output[:, :2], output[:, 2:]), task)
    objective = seen.members[0].objective
    assert objective.weights == (1.0, 2.0)
    y = (torch.zeros(5, 2), torch.zeros(5, 62))
    found = auto_attack(seeded(Long).eval(), X, y, heads={"": seen}, threat=THREAT, budget=10)[""]
    assert (found.value > found.clean).all()


def test_what_is_refused():
    with pytest.raises(
        TypeError, match=r"task must be of type Task; got .*points.*: write through\(transform"
    ):
        through(torch.log, points)
    with pytest.raises(TypeError, match="transform must be a function of an output; got 'sigmoid'"):
        through("sigmoid", points())
    with pytest.raises(TypeError, match="target must be a function of a target; got 3"):
        through(torch.log, points(), target=3)
    with pytest.raises(ValueError, match="transformed takes functions of one number per example"):
        transformed(torch.log, normalised((1.0, J_IND_reg)))
