"""The evaluation: the measures under the paper's attack, and the same attack for pictures."""

import pytest
import torch

from advreg import contour_dice, dice, point_error
from lumbar_disk.data import crops, phantoms
from lumbar_disk.network import untrained
from lumbar_disk.study import MEASURES, OBJECTIVES, Evaluation

RADII = (0.0, 0.03)


@pytest.fixture(scope="module")
def evaluated():
    test = crops(phantoms(1, seed=4), size=64)
    net = untrained(2, 64, 0).eval()
    evaluation = Evaluation(RADII, steps=3, batch=2, seed=5)
    return test, net, evaluation.table(net, test), evaluation.examples(net, test, range(len(test)))


def test_each_disc_is_measured_at_each_radius_under_each_attack(evaluated):
    test, _, table, _ = evaluated
    assert len(table) == len(test) * len(RADII) * len(OBJECTIVES) * len(MEASURES)
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
