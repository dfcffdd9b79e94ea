"""Study of the fifteen models: recipes, measures, one model, and the run that trains and evaluates them."""

from lumbar_disk.study._evaluation import Evaluation, Examples
from lumbar_disk.study._measures import CONTOUR_DICE, MASK_DICE, MEASURES, POINT_ERROR, By, Measure
from lumbar_disk.study._model import CLEAN, OBJECTIVES, batches, criterion
from lumbar_disk.study._recipes import (
    COMPONENTS,
    FIFTEEN,
    KINDS,
    PURE,
    SIZES,
    StudyRecipe,
    components_of,
    edited,
    kind_of,
    medium_recipe,
    paper_recipe,
    reconstructs,
    small_recipe,
    smoke_recipe,
    start_of,
)
from lumbar_disk.study._run import Study, Work, begun

__all__ = [
    "CLEAN",
    "COMPONENTS",
    "CONTOUR_DICE",
    "FIFTEEN",
    "KINDS",
    "MASK_DICE",
    "MEASURES",
    "OBJECTIVES",
    "POINT_ERROR",
    "PURE",
    "SIZES",
    "By",
    "Evaluation",
    "Examples",
    "Measure",
    "Study",
    "StudyRecipe",
    "Work",
    "batches",
    "begun",
    "components_of",
    "criterion",
    "edited",
    "kind_of",
    "medium_recipe",
    "paper_recipe",
    "reconstructs",
    "small_recipe",
    "smoke_recipe",
    "start_of",
]
