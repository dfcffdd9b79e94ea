from itertools import pairwise

import pytest

from lumbar_disk.report import PAPER_MODELS, PAPER_RADII, PAPER_SETTINGS, published
from lumbar_disk.report._paper import TABLES, ordered
from lumbar_disk.study import FIFTEEN, MEASURES, PURE, StudyRecipe


def test_every_table_has_the_fifteen_models_at_the_seven_radii():
    assert len(PAPER_MODELS) == len(set(PAPER_MODELS)) == 15
    assert len(PAPER_RADII) == 7
    assert list(TABLES) == list(MEASURES) == ["point_error", "contour_dice", "mask_dice"]
    assert [one.table for one in MEASURES.values()] == [1, 2, 3]
    for table in TABLES.values():
        assert set(table) == set(PAPER_MODELS)
        assert all(tuple(row) == PAPER_RADII for row in table.values())


@pytest.mark.parametrize(
    ("measure", "model", "radius", "value"),
    [
        ("point_error", "P3_std", 0.0, 2.4913),
        ("point_error", "P3_std", 0.2, 10.5399),
        ("point_error", "P5_rand", 0.07, 20.3922),
        ("point_error", "P10_adv_s", 0.2, 18.1757),
        ("point_error", "P3_adv_rs", 0.0, 2.657),  # below the caption in the text
        ("point_error", "P10_adv_rs", 0.2, 9.6021),
        ("contour_dice", "P3_std", 0.0, 0.8772),
        ("contour_dice", "P10_rand", 0.03, 0.5834),
        ("contour_dice", "P10_adv_rs", 0.2, 0.6131),
        ("mask_dice", "P3_std", 0.03, 0.177),
        ("mask_dice", "P10_std", 0.1, 0.0),
        ("mask_dice", "P5_adv_r", 0.05, 0.4216),
        ("mask_dice", "P10_adv_rs", 0.2, 0.0538),
    ],
)
def test_values_are_as_printed(measure, model, radius, value):
    assert published(measure, model, radius) == value


def test_values_are_of_their_kind():
    for table in ("contour_dice", "mask_dice"):
        assert all(0 <= value <= 1 for row in TABLES[table].values() for value in row.values())
    for row in TABLES["point_error"].values():
        assert all(earlier < later for earlier, later in pairwise(row.values()))
    for row in TABLES["mask_dice"].values():
        assert all(earlier >= later for earlier, later in pairwise(row.values()))
    for model, row in TABLES[
        "contour_dice"
    ].items():  # it prints one rise, of 0.002, in a network that has collapsed
        assert all(
            earlier > later or (model, radius) == ("P3_std", 0.1)
            for earlier, (radius, later) in zip(row.values(), list(row.items())[1:], strict=False)
        )


@pytest.mark.parametrize("model", PAPER_MODELS)
def test_an_attack_moves_each_measure_the_way_that_it_calls_worse(model):
    for measure in MEASURES.values():
        row = TABLES[measure.name][model]
        assert (row[0.2] > row[0.0]) == (measure.worse == "higher")


def test_the_names_and_the_settings_are_those_of_the_recipes():
    assert FIFTEEN == PAPER_MODELS
    assert set(ordered(set())) == {*PAPER_MODELS, *PURE}
    ours = StudyRecipe()
    assert {name: getattr(ours, name) for name in PAPER_SETTINGS} == PAPER_SETTINGS


def test_pure_noise_stands_beside_the_papers_rand_and_unknown_names_beside_nothing():
    assert published("contour_dice", "P5_rand_pure", 0.01) == published("contour_dice", "P5_rand", 0.01)
    assert published("contour_dice", "mine", 0.01) is None
    assert published("contour_dice", "P5_rand", 0.02) is None
