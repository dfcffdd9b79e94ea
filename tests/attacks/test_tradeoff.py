"""Fronts whose shape is known: a corner, a line, an arc."""

import pytest
import torch
from networks import batch, two_heads

from advreg import Threat, dice, l2, linf, on, pgd_attack, point_error
from advreg.attacks import Front, tradeoff
from advreg.plotting import plot_front
from advreg.tasks import Task, masks, points

RADIUS = 0.1


def rise(output, target):
    return (output - target).sum(1)


def fall(output, target):
    return (target - output).sum(1)


RISE = Task(rise, "higher")


def test_heads_that_read_other_pixels_fall_together():
    def model(x):
        return {"left": x[:, :3], "right": x[:, 3:]}

    x = torch.full((4, 6), 0.5)
    task = Task(fall, "lower")
    front = tradeoff(model, x, model(x), heads={"left": RISE, "right": task}, threat=Threat(linf, RADIUS))
    assert torch.allclose(front.values[1:-1, :, 0], torch.full((3, 4), 3 * RADIUS), atol=1e-5)
    assert torch.allclose(front.values[1:-1, :, 1], torch.full((3, 4), -3 * RADIUS), atol=1e-5)
    assert torch.allclose(front.values[0, :, 0], torch.full((4,), 3 * RADIUS), atol=1e-5)
    assert torch.allclose(front.values[-1, :, 1], torch.full((4,), -3 * RADIUS), atol=1e-5)
    assert front.worse == ("higher", "lower")
    assert (front.clean == 0).all()


def test_opposed_heads_pay_for_each_other():
    def model(x):
        return {"up": x, "down": -x}

    x = torch.full((3, 5), 0.5)
    front = tradeoff(
        model, x, model(x), heads={"up": RISE, "down": RISE}, threat=Threat(linf, RADIUS), points=4
    )
    ends = torch.tensor([5 * RADIUS, 5 * RADIUS, -5 * RADIUS, -5 * RADIUS])[:, None].expand(4, 3)
    assert torch.allclose(front.values[..., 0], ends, atol=1e-5)
    assert torch.allclose(front.values[..., 1], -ends, atol=1e-5)
    assert front.nondominated().all()


def test_between_linear_heads_the_front_is_the_arc():
    g = torch.Generator().manual_seed(0)
    a, b = torch.nn.functional.normalize(torch.randn(2, 20, generator=g), dim=1)
    b = torch.nn.functional.normalize(b - 0.7 * a, dim=0)

    def model(x):
        return {"a": 7 * (x @ a)[:, None], "b": 0.1 * (x @ b)[:, None]}

    x = torch.full((6, 20), 0.5)
    front = tradeoff(model, x, model(x), heads={"a": RISE, "b": RISE}, threat=Threat(l2, RADIUS), points=7)
    weight = front.weights[:, None]
    best = RADIUS * torch.nn.functional.normalize((1 - weight) * a + weight * b, dim=1)
    assert torch.allclose(front.x - x, best[:, None].expand_as(front.x), atol=1e-3)
    assert front.nondominated()[1:-1].all()
    assert (front.values[..., 0].diff(dim=0) < 0).all()
    assert (front.values[..., 1].diff(dim=0) > 0).all()


def test_the_ends_attack_one_head_alone_as_its_task_says():
    model, (x, y) = two_heads(), batch()
    threat, heads = Threat(linf, RADIUS), {"contour": points(), "mask": masks()}
    front = tradeoff(model, x, y, heads=heads, threat=threat, points=2, steps=12, seed=5)
    for place, (key, task) in enumerate(heads.items()):
        member = task.members[0]
        alone = pgd_attack(
            model,
            x,
            y,
            objective=on(key, member.objective),
            threat=threat,
            rule=member.rule,
            schedule=member.schedule,
            steps=12,
            keep="last",
            seed=5,
        )
        assert torch.equal(front.x[place], alone.x)


def test_values_are_the_metrics_at_inputs_inside_the_threat():
    model, (x, y) = two_heads(), batch()
    threat = Threat(l2, 0.5)
    front = tradeoff(
        model, x, y, heads={"contour": points(), "mask": masks()}, threat=threat, points=3, steps=8
    )
    for inputs, values in zip((x, *front.x), (front.clean, *front.values), strict=True):
        output = model(inputs)
        assert threat.contains(inputs, x).all()
        assert torch.allclose(values[:, 0], point_error(output["contour"], y["contour"]))
        assert torch.allclose(values[:, 1], dice(output["mask"], y["mask"]))
    assert front.weights.tolist() == [0, 0.5, 1]
    assert front.values.shape == (3, 4, 2)
    assert torch.equal(front.means(), front.values.mean(1))
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_an_examples_front_is_its_own():
    model, (x, y) = two_heads(dtype=torch.float64), batch(dtype=torch.float64)
    options = {
        "heads": {"contour": points(), "mask": masks()},
        "threat": Threat(l2, 0.3),
        "points": 3,
        "steps": 5,
    }
    together = tradeoff(model, x, y, **options)
    own = {key: value[2:3] for key, value in y.items()}
    alone = tradeoff(model, x[2:3], own, index=torch.tensor([2]), **options)
    assert torch.allclose(alone.x[:, 0], together.x[:, 2], atol=1e-9)


def front_of(values, worse):
    count = values.shape[0]
    return Front(
        ("a", "b"), torch.linspace(0, 1, count), torch.zeros(*values.shape[:2], 1), values, values[0], worse
    )


@pytest.mark.parametrize("worse", [("higher", "higher"), ("higher", "lower"), ("lower", "lower")])
def test_nondominated_by_brute_force(worse):
    values = torch.randint(0, 5, (7, 30, 2), generator=torch.Generator().manual_seed(2)).float()
    found = front_of(values, worse).nondominated()
    signs = [1 if way == "higher" else -1 for way in worse]
    for example in range(30):
        damage = [[s * v for s, v in zip(signs, row, strict=True)] for row in values[:, example].tolist()]
        for place, own in enumerate(damage):
            beaten = any(
                p[0] >= own[0] and p[1] >= own[1] and (p[0] > own[0] or p[1] > own[1]) for p in damage
            )
            assert bool(found[place, example]) is not beaten


def test_the_figure_shows_the_means():
    pytest.importorskip("matplotlib", reason="plots are optional")
    front = front_of(torch.rand(5, 3, 2), ("higher", "lower"))
    ax = plot_front(front, label="plain")
    line, clean = ax.lines
    assert torch.allclose(torch.tensor(line.get_xydata()).float(), front.means())
    assert torch.allclose(torch.tensor(clean.get_xydata()[0]).float(), front.clean.mean(0))
    assert ax.get_ylabel() == "b (lower is worse)"
    assert ax.get_legend() is not None
    assert plot_front(front, ax) is ax


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"heads": {"mask": masks()}}, ValueError, "two heads"),
        ({"points": 1}, ValueError, "2 or more"),
        ({"heads": {"mask": masks(), "depth": points()}}, KeyError, "depth"),
        ({"heads": {"mask": masks(), "contour": Task(lambda o, t: o.sum(), "higher")}}, TypeError, "number"),
    ],
)
def test_errors_teach(options, error, words):
    x, y = batch()
    call = {"heads": {"contour": points(), "mask": masks()}, "threat": Threat(linf, RADIUS), "steps": 2}
    with pytest.raises(error, match=words):
        tradeoff(two_heads(), x, y, **{**call, **options})
