"""Evaluation of a network: each head attacked at every radius, numbers and pictures (paper, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from advreg import Adamax, Threat, linf, pgd_attack, radius_curve
from advreg.evaluation import Table
from lumbar_disk.data import Discs
from lumbar_disk.study._measures import metrics
from lumbar_disk.study._model import OBJECTIVES

Examples = Mapping[str, NDArray[Any]]
"""Arrays of a few discs under attack: what `Evaluation.examples` returns, and what is read from its file."""

RULE = Adamax(0.2)  # on the sign, alpha = radius / 5


@dataclass(frozen=True)
class Evaluation:
    """Evaluation by the paper's attack: Adamax with alpha = radius / 5, on each head at every radius.

    Attributes:
        radii: Linf radii, 0 first: the clean images.
        steps: Of each attack.
        batch: Discs attacked together.
        seed: Of the random starts.
        together: Whether batches that leave the machine idle are attacked at several radii at once.
    """

    radii: tuple[float, ...]
    steps: int
    batch: int
    seed: int
    together: bool = True

    def table(
        self,
        net: nn.Module,
        test: Discs,
        *,
        device: torch.device | None = None,
        journal: Path | None = None,
        progress: bool = False,
    ) -> Table:
        """Attack each head at each radius, and measure both heads disc by disc.

        Args:
            net: The trained network.
            test: The test discs; a patient's discs are one group.
            device: Where to compute; by default where the discs are.
            journal: Where finished batches are kept, so that a run that was killed goes on.
            progress: Whether to show a progress bar.

        Returns:
            One row per disc, attack, radius and measure.

        Source:
            Chen et al., Eqs (13) to (15).
        """
        places = torch.split(torch.arange(len(test)), self.batch)
        parts = [(test.take(some.tolist()), some) for some in places]
        return radius_curve(
            net,
            [(part.images, part.target(), some) for part, some in parts],
            metrics((test.images.shape[-2], test.images.shape[-1])),
            {
                head: partial(pgd_attack, objective=objective, rule=RULE, steps=self.steps)
                for head, objective in OBJECTIVES.items()
            },
            self.radii,
            together=self.together,
            groups=test.patients,
            journal=journal,
            seed=self.seed,
            device=device,
            progress=progress,
        )

    def examples(
        self, net: nn.Module, test: Discs, places: Sequence[int], *, device: torch.device | None = None
    ) -> dict[str, Any]:
        """Attack a few test discs at every radius, as `table` attacks them, for pictures.

        Args:
            net: The trained network.
            test: The test discs.
            places: Which of them.
            device: Where to compute; by default where the discs are.

        Returns:
            Arrays: `places, patients, levels, images, contours, masks` of the discs, `radii`, and for each
            attacked head `a` `x_a`, `contour_a` and `mask_a`, of shape `(radii, discs, ...)`.
        """
        some, count = test.take(places).to(device or test.images.device), len(self.radii)
        x = some.images.repeat(count, 1, 1, 1)
        y = {head: target.repeat(count, *[1] * (target.ndim - 1)) for head, target in some.target().items()}
        radii = torch.tensor(self.radii, device=x.device).repeat_interleave(len(places))
        arrays: dict[str, Any] = {
            "places": places,
            "patients": some.patients,
            "levels": some.levels,
            "radii": self.radii,
            "images": some.images.cpu(),
            "contours": some.contours.cpu(),
            "masks": some.masks.cpu(),
        }
        for attacked, objective in OBJECTIVES.items():
            found = pgd_attack(
                net,
                x,
                y,
                objective=objective,
                threat=Threat(linf, radii),
                rule=RULE,
                steps=self.steps,
                seed=self.seed,
                index=torch.tensor(places).repeat(count),
            )
            with torch.inference_mode():
                answers = {"x": found.x, **net(found.x)}
            for key, value in answers.items():
                arrays[f"{key}_{attacked}"] = value.cpu().unflatten(0, (count, len(places)))
        return {key: np.asarray(value) for key, value in arrays.items()}
