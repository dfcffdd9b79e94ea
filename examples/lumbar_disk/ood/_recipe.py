"""Recipe of the out-of-distribution attacks, beside the recipe of the models' training."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from lumbar_disk.study import SIZES, StudyRecipe

MODELS = ("P10_std", "P10_std_rec", "P10_adv_rs_rec")


@dataclass(frozen=True)
class OODRecipe:
    """Recipe of the out-of-distribution attacks: what decides their numbers, beside a study's recipe.

    Attributes:
        ood_radius: L2 radius around the starting image; the paper's 40 is for 128 pixels.
        ood_steps: Steps; the paper takes 4000.
        ood_alpha: Adamax's learning rate, in intensities.
        ood_weight: Of a detector's score, over its deviation on the training discs, in the aware attacks.
        contour_within: Mean distance, in pixels, at which the contours count as matched.
        mask_within: Dice at which the masks do.
    """

    ood_radius: float = 40.0
    ood_steps: int = 4000
    ood_alpha: float = 0.01
    ood_weight: float = 1.0
    contour_within: float = 0.1
    mask_within: float = 0.995

    def __post_init__(self) -> None:
        """Refuse what could only fail later."""
        if self.ood_steps < 1:
            raise ValueError(f"ood_steps must be at least 1; got {self.ood_steps}.")
        for name in ("ood_radius", "ood_alpha", "contour_within", "mask_within"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a positive number; got {getattr(self, name)}.")
        if not 0 <= self.ood_weight < math.inf:
            raise ValueError(f"ood_weight must be a number, at least 0; got {self.ood_weight}.")


_SIZES = {
    "smoke": OODRecipe(ood_radius=20.0, ood_steps=10),
    "small": OODRecipe(ood_radius=20.0, ood_steps=400),
    "medium": OODRecipe(ood_steps=400),
    "paper": OODRecipe(),
}


def ood_recipes(size: str) -> tuple[StudyRecipe, OODRecipe]:
    """The study in one of the three sizes: the training of its three models, and the attacks on them."""
    return replace(SIZES[size](), models=MODELS), _SIZES[size]
