"""The evaluation: the measures under the paper's attack and `auto_attack`, and the paper's for pictures."""

import pytest
import torch

from advreg import Threat, auto_attack, contour_dice, dice, linf, point_error
from advreg.tasks import masks, outlines, points
from lumbar_disk.data import crops, phantoms
from lumbar_disk.network import untrained
from lumbar_disk.study import MEASURES, OBJECTIVES, Evaluation

RADII = (0.0, 0.03)


@pytest.fixture(scope="module")
def evaluated():
    test = crops(phantoms(1, seed=4), size=64)
    net = untrained(2, 64, 0).eval()
    evaluation = Evaluation(RADII, steps=3, batch=2, seed=5, auto_passes=4)
    return test, net, evaluation.table(net, test), evaluation.examples(net, test, range(len(test)))


def test_each_disc_is_measured_at_each_radius_under_each_attack(evaluated):
    test, _, table, _ = evaluated
    attacks = ("contour", "mask", "auto point_error", "auto contour_dice", "auto mask_dice")
    assert tuple(dict.fromkeys(row.attack for row in table)) == attacks
    assert len(table) == len(test) * len(RADII) * len(attacks) * len(MEASURES)
    assert {(row.head, row.metric) for row in table} == {one.column for one in MEASURES.values()}
    assert {row.group for row in table} == set(test.patients)


def test_the_numbers_are_the_measures_of_the_pictures(evaluated):
    test, _, table, shown = evaluated
    for number, radius in enumerate(RADII):
        for attack in OBJECTIVES:
            contour, mask = (torch.from_numpy(shown[f"{head}_{attack}"][number]) for head in OBJECTIVES)
            expected = {
                "point_error": point_error(contour, test.contours),
                "contour_dice": contour_dice(contour, test.contours, size=(64, 64)),
                "mask_dice": dice(mask, test.masks),
            }
            for name, values in expected.items():
                head, metric = MEASURES[name].column
                rows = table.where(attack=attack, radius=radius, head=head, metric=metric)
                torch.testing.assert_close(
                    torch.from_numpy(rows.values()).float(), values, rtol=1e-3, atol=1e-3
                )


def test_pictures_stay_inside_the_threat_and_are_what_the_network_answers(evaluated):
    test, net, _, shown = evaluated
    for attack in OBJECTIVES:
        x = torch.from_numpy(shown[f"x_{attack}"])
        for number, radius in enumerate(RADII):
            assert (x[number] - test.images).abs().max() <= radius + 1e-6
            with torch.no_grad():
                again = net(x[number])
            for head, answer in again.items():
                found = torch.from_numpy(shown[f"{head}_{attack}"][number])
                torch.testing.assert_close(found, answer, rtol=1e-4, atol=1e-3)


def test_the_papers_attack_is_its_algorithm_to_the_last_step(evaluated):
    test, net, _, shown = evaluated
    radius = RADII[1]
    start = Evaluation((radius,), steps=0, batch=2, seed=5).examples(net, test, range(len(test)))
    for head, objective in OBJECTIVES.items():
        x = torch.from_numpy(start[f"x_{head}"][0]).requires_grad_()
        assert 0.8 * radius < (x - test.images).abs().max() <= radius
        optimiser = torch.optim.Adamax([x], lr=radius / 5, maximize=True)
        for _ in range(3):
            (gradient,) = torch.autograd.grad(objective(net(x), test.target()).sum(), x)
            x.grad = gradient.sign()
            optimiser.step()
            with torch.no_grad():
                inside = x.clamp(test.images - radius, test.images + radius).clamp(0, 1)
                x.copy_(inside)
        found = torch.from_numpy(shown[f"x_{head}"][1])
        apart = (found - x.detach()).abs() > 1e-4  # the sign of a gradient near 0 may turn by rounding
        assert apart.float().mean() < 0.01


@pytest.mark.parametrize(
    ("name", "task"),
    [("point_error", points()), ("contour_dice", outlines((64, 64))), ("mask_dice", masks())],
)
def test_auto_attack_attacks_the_measure_of_each_table(evaluated, name, task):
    test, net, table, _ = evaluated
    one = MEASURES[name]
    found = auto_attack(
        net,
        test.images,
        test.target(),
        heads={one.head: task},
        threat=Threat(linf, RADII[1]),
        budget=4,
        seed=5,
    )[one.head]
    rows = {"attack": one.attack("auto"), "head": one.head, "metric": one.metric}
    for radius, values in zip(RADII, (found.clean, found.value), strict=True):
        measured = torch.from_numpy(table.where(radius=radius, **rows).values()).float()
        torch.testing.assert_close(measured, values, rtol=1e-3, atol=1e-3)


def test_without_a_budget_there_is_the_papers_attack_alone(evaluated):
    test, net, table, _ = evaluated
    alone = Evaluation(RADII, steps=3, batch=2, seed=5).table(net, test)
    assert alone == table.where(attack=tuple(OBJECTIVES))
