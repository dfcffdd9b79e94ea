from dataclasses import dataclass, replace

import pytest

from lumbar_disk.study import FIFTEEN, StudyRecipe, edited, paper_recipe, small_recipe


def test_the_recipes_name_the_papers_models():
    assert len(FIFTEEN) == 15
    assert paper_recipe().models[:15] == FIFTEEN
    assert paper_recipe().steps("P3_std") * paper_recipe().batch == 640_000
    assert small_recipe().radii == (0.0, 0.01, 0.03, 0.05, 0.07, 0.1, 0.2)


@dataclass(frozen=True)
class Other:
    depth: int = 1


def test_settings_change_the_fields_of_their_own_recipe():
    settings = ["width=16", "radii=0,0.03", "stored=no", "depth=3"]
    recipe = edited(small_recipe(), settings, Other())
    assert recipe == replace(small_recipe(), width=16, radii=(0.0, 0.03), stored=False)
    assert edited(Other(), settings, small_recipe()) == Other(3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["depth=3"], r"got 'depth=3'\. Fields: models, size"),
        (["width"], "expected name=value"),
        (["stored=maybe"], "stored: expected a value like True; got 'maybe'"),
        (["batch=0"], "batch must be at least 1; got 0"),
        (["precision=half"], "precision must be one of float32, bfloat16; got 'half'"),
        (["kernel=cubic"], "kernel must be one of r2logr, r; got 'cubic'"),
        (["eval_steps=0"], "eval_steps must be at least 1; got 0"),
        (["auto_passes=-1"], "auto_passes must be 0, none, or more; got -1"),
        (["attack_steps=-3"], "attack_steps must be at least 1; got -3"),
        (["lr=nan"], "lr must be a positive number; got nan"),
        (["alpha=0"], "alpha must be a positive number; got 0.0"),
        (["radius=inf"], "radius and radii must be numbers, at least 0; got inf"),
        (["radii=0,nan"], "radius and radii must be numbers"),
        (["decay=2"], "decay must be a share from 0 to 1; got 2.0"),
        (["seed=-1"], "seed must be at least 0; got -1"),
    ],
)
def test_settings_that_are_none_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        edited(small_recipe(), settings)


def test_a_recipe_of_unknown_models_is_refused():
    with pytest.raises(ValueError, match=r"no such model: P4_std\. Choose from P3_std"):
        StudyRecipe(models=("P4_std",))
