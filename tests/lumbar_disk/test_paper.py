from itertools import pairwise

import pytest

from lumbar_disk import recipes
from lumbar_disk.paper import MEASURES, MODELS, RADII, SETTINGS, TABLES, ordered, published


def test_every_table_has_the_fifteen_models_at_the_seven_radii():
    assert len(MODELS) == len(set(MODELS)) == 15
    assert len(RADII) == 7
    assert set(TABLES) == set(MEASURES) == {1, 2, 3}
    for table in TABLES.values():
        assert set(table) == set(MODELS)
        assert all(tuple(row) == RADII for row in table.values())


@pytest.mark.parametrize(
    ("number", "model", "radius", "value"),
    [
        (1, "P3_std", 0.0, 2.4913),
        (1, "P3_std", 0.2, 10.5399),
        (1, "P5_rand", 0.07, 20.3922),
        (1, "P10_adv_s", 0.2, 18.1757),
        (1, "P3_adv_rs", 0.0, 2.657),  # below the caption in the text
        (1, "P10_adv_rs", 0.2, 9.6021),
        (2, "P3_std", 0.0, 0.8772),
        (2, "P10_rand", 0.03, 0.5834),
        (2, "P10_adv_rs", 0.2, 0.6131),
        (3, "P3_std", 0.03, 0.177),
        (3, "P10_std", 0.1, 0.0),
        (3, "P5_adv_r", 0.05, 0.4216),
        (3, "P10_adv_rs", 0.2, 0.0538),
    ],
)
def test_values_are_as_printed(number, model, radius, value):
    assert published(number, model, radius) == value


def test_values_are_of_their_kind():
    for table in (2, 3):
        assert all(0 <= value <= 1 for row in TABLES[table].values() for value in row.values())
    for row in TABLES[1].values():
        assert all(earlier < later for earlier, later in pairwise(row.values()))
    for row in TABLES[3].values():
        assert all(earlier >= later for earlier, later in pairwise(row.values()))
    for model, row in TABLES[2].items():  # it prints one rise, of 0.002, in a network that has collapsed
        assert all(
            earlier > later or (model, radius) == ("P3_std", 0.1)
            for earlier, (radius, later) in zip(row.values(), list(row.items())[1:], strict=False)
        )


def test_the_names_and_the_settings_are_those_of_the_recipes():
    assert recipes.FIFTEEN == MODELS
    assert set(ordered(set())) == {*MODELS, *recipes.PURE}
    ours = recipes.StudyRecipe()
    assert {name: getattr(ours, name) for name in SETTINGS} == SETTINGS


def test_pure_noise_stands_beside_the_papers_rand_and_unknown_names_beside_nothing():
    assert published(2, "P5_rand_pure", 0.01) == published(2, "P5_rand", 0.01)
    assert published(2, "mine", 0.01) is None
    assert published(2, "P5_rand", 0.02) is None
