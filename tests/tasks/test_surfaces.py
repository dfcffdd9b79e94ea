"""The task of masks that are judged by the distance of surfaces."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from advreg import Threat, auto_attack, linf
from advreg.metrics import average_surface_distance, hausdorff, surface_dice
from advreg.tasks import masks, surfaces

RADIUS = 0.12


def smoothing(weight=0.4, bias=-2.2):
    """Mask logits: a 3 x 3 sum, weighted and shifted, above 0 where the mean exceeds 0.61."""
    net = nn.Conv2d(1, 1, 3, padding=1).eval().requires_grad_(False)
    net.weight.fill_(weight)
    net.bias.fill_(bias)
    return net


@pytest.fixture(scope="module")
def case():
    """A square that cannot be emptied, noise around it, and a faint spot far away."""
    g = torch.Generator().manual_seed(0)
    x = 0.3 + 0.05 * torch.rand(4, 1, 20, 24, generator=g)
    x[:, :, 4:11, 3:10] = 0.95
    x[:, :, 14:18, 18:22] += 0.2
    y = torch.zeros(4, 1, 20, 24)
    y[:, :, 4:11, 3:10] = 1
    return smoothing(), x, y


@pytest.mark.parametrize("budget", [20, 100])
@pytest.mark.parametrize(
    ("task", "least"),
    [(surfaces(), 10.0), (surfaces(percentile=100.0), 12.0), (surfaces("average_surface_distance"), 1.0)],
)
def test_a_false_positive_far_away_is_found(case, task, least, budget):
    net, x, y = case
    found = auto_attack(net, x, y, heads={"": task}, threat=Threat(linf, RADIUS), budget=budget)[""]
    assert found.clean.max() < 0.5 * least
    assert found.value.isfinite().all()  # the square stays
    assert found.value.min() > least
    torch.testing.assert_close(found.value, task.metric(net(found.x), y))


def test_surface_dice_falls(case):
    net, x, y = case
    task = surfaces("surface_dice", tolerance=1.5)
    found = auto_attack(net, x, y, heads={"": task}, threat=Threat(linf, RADIUS), budget=20)[""]
    assert (found.value < found.clean - 0.05).all()
    torch.testing.assert_close(found.value, surface_dice(net(found.x), y, tolerance=1.5))


def test_each_member_made_for_distance_does_harm(case):
    net, x, y = case
    task = surfaces()
    names = {member.name for member in masks().members}
    made = [member for member in task.members if member.name not in names]
    assert len(made) == 3
    for member in made:
        one = replace(task, members=(member,))
        found = auto_attack(net, x, y, heads={"": one}, threat=Threat(linf, RADIUS), budget=20)[""]
        assert (found.value > found.clean + 3).all(), member.name


def test_an_emptied_mask_is_the_worst_and_done():
    net, y = smoothing(), torch.zeros(1, 1, 12, 12)
    y[..., 4:7, 4:7] = 1
    x = 0.4 + 0.25 * y
    found = auto_attack(net, x, y, heads={"": surfaces()}, threat=Threat(linf, 0.2), budget=60)[""]
    assert found.value.item() == float("inf")
    assert found.passes.item() < 60
    nsd = surfaces("surface_dice", tolerance=0.0)
    assert auto_attack(net, x, y, heads={"": nsd}, threat=Threat(linf, 0.2), budget=60)[""].value.item() == 0


def test_each_image_has_its_own_spacing(case):
    net, x, y = case
    spacing = torch.tensor([[1.0, 1.0], [2.0, 2.0], [0.5, 1.5], [1.0, 3.0]])
    target = {"mask": y, "spacing": spacing}
    for metric, judge in (("hausdorff", hausdorff), ("average_surface_distance", average_surface_distance)):
        options = {"percentile": 95.0} if metric == "hausdorff" else {}
        found = auto_attack(
            net, x, target, heads={"": surfaces(metric)}, threat=Threat(linf, RADIUS), budget=20
        )[""]
        torch.testing.assert_close(found.value, judge(net(found.x), target, **options))
        for n in range(4):
            alone = auto_attack(
                net,
                x[n : n + 1],
                y[n : n + 1],
                heads={"": surfaces(metric, spacing=spacing[n].tolist())},
                threat=Threat(linf, RADIUS),
                budget=20,
                index=torch.tensor([n]),
            )[""]
            torch.testing.assert_close(alone.value, found.value[n : n + 1], rtol=0.05, atol=0.05)


def test_classes_of_a_volume():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 6, 8, 7, generator=g)

    def model(x):
        return 6 * nn.functional.avg_pool3d(x, 3, 1, 1)

    y = model(x).argmax(1)
    for task in (
        surfaces(activation="softmax", spacing=(3.0, 1.0, 1.0)),
        surfaces("surface_dice", tolerance=1.0, activation="softmax", include_background=False),
    ):
        found = auto_attack(model, x, y, heads={"": task}, threat=Threat(linf, 0.1), budget=20)[""]
        assert (task.sign * found.value > task.sign * found.clean).all()


def test_what_does_not_go_together():
    with pytest.raises(ValueError, match="metric must be"):
        surfaces("hd95")
    with pytest.raises(ValueError, match="tolerance belongs to 'surface_dice'"):
        surfaces("surface_dice")
    with pytest.raises(ValueError, match="tolerance belongs to 'surface_dice'"):
        surfaces(tolerance=1.0)
