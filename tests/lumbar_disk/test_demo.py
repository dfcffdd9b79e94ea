from dataclasses import replace

import pytest
import torch

from advreg import contour_dice, dice
from lumbar_disk import demo
from lumbar_disk.study import OBJECTIVES

TINY = replace(
    demo.phantom_recipe(),
    patients=3,
    test_patients=1,
    size=64,
    width=4,
    steps=60,
    attack_steps=3,
    batch=4,
    lr=0.01,
    seed=1,
)


@pytest.fixture(scope="module")
def attacked():
    data = demo.load(TINY)
    net = demo.trained(data.train, TINY)
    attacks = demo.evaluation(TINY)
    shown = attacks.examples(net, data.test, range(len(data.test)))
    return data, attacks.table(net, data.test), shown


def test_data_are_split_by_patient_and_accounted_for(attacked):
    data, _, _ = attacked
    assert set(data.train.patients) == set(data.manifest["train_patients"])
    assert set(data.test.patients) == set(data.manifest["test_patients"])
    assert not set(data.train.patients) & set(data.test.patients)
    assert {disc["source"] for disc in data.manifest["discs"]} == {"phantom 0", "phantom 1", "phantom 2"}


def test_attacks_harm_the_head_they_attack(attacked):
    data, _, shown = attacked
    target = data.test.target()
    for head, objective in OBJECTIVES.items():
        answers = [
            {one: torch.from_numpy(shown[f"{one}_{head}"][number]) for one in OBJECTIVES}
            for number in range(len(TINY.radii))
        ]
        harm = [objective(answer, target) for answer in answers]
        for worse in harm[1:]:  # the clean image counts among the candidates
            assert torch.all(worse >= harm[0] - 1e-3 * harm[0].abs())
        assert harm[-1].mean() > harm[0].mean()


def test_the_rows_are_the_means_of_each_head_under_its_own_attack(attacked):
    data, table, _ = attacked
    rows = demo.summary(table)
    assert [list(row) for row in rows] == [["radius", "point_error_px", "contour_dice", "mask_dice"]] * 4
    assert [row["radius"] for row in rows] == list(TINY.radii)
    for row in rows:
        for column, head, metric in (
            ("point_error_px", "contour", "point_error"),
            ("contour_dice", "contour", "dice"),
            ("mask_dice", "mask", "dice"),
        ):
            found = [
                one.value
                for one in table
                if (one.attack, one.head, one.metric, one.radius) == (head, head, metric, row["radius"])
            ]
            assert len(found) == len(data.test)
            assert row[column] == pytest.approx(sum(found) / len(found))


def test_the_figure_shows_every_radius_of_every_disc_with_its_dice(attacked):
    data, _, shown = attacked
    figure = demo.attack_figure(shown)
    titles = [axes.get_title() for block in figure.subfigs for axes in block.axes]
    count = len(shown["places"])
    assert len(titles) == count * 4 * len(TINY.radii)
    assert titles.count("clean") == titles.count("Linf 0.03") == count
    for disc in range(count):
        row = titles[4 * (4 * disc + 2) : 4 * (4 * disc + 3)]
        contour = torch.from_numpy(shown["contour_contour"][2, disc])[None]
        mask = torch.from_numpy(shown["mask_mask"][2, disc])[None]
        size = (TINY.size, TINY.size)
        dices = (
            contour_dice(contour, data.test.contours[disc][None], size=size).item(),
            dice(mask, data.test.masks[disc][None]).item(),
        )
        assert row[1:3] == [f"contour, Dice {dices[0]:.2f}", f"mask, Dice {dices[1]:.2f}"]
    empty = {"places": shown["places"][:1], "mask_mask": 0 * shown["mask_mask"] - 1}
    assert demo.attack_figure(shown | empty)  # an empty mask has no edge


def test_the_discs_shown_are_spread_over_the_test_set(attacked):
    data, _, _ = attacked
    assert demo.shown_places(data.test) == [1, 4]
    assert demo.shown_places(data.test.take([0])) == [0]


def test_networks_that_ship_are_attacked_on_the_same_discs_at_their_own_size():
    recipe = replace(
        demo.phantom_recipe(), patients=2, test_patients=1, attack_steps=2, radii=(0.0, 0.03, 0.07)
    )
    test = demo.load(recipe).test.take([0, 1])
    found = demo.shipped(recipe, test)
    assert sorted(found) == ["P10_adv_rs", "P10_std"]
    for clean, attacked in found.values():
        assert (clean["radius"], attacked["radius"]) == (0.0, 0.03)
        assert clean["mask_dice"] > max(0.7, attacked["mask_dice"])
    assert demo.shipped(replace(recipe, size=64), test) == {}
