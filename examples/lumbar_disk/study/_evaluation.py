"""Evaluation of a network: attacked at every radius, numbers and pictures (paper, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from advreg import Adamax, Threat, auto_attack, linf, pgd_attack, radius_curve
from advreg.evaluation import Table
from lumbar_disk.data import Discs
from lumbar_disk.study._measures import MEASURES, metrics
from lumbar_disk.study._model import OBJECTIVES

Examples = Mapping[str, NDArray[Any]]
"""Arrays of a few discs under attack: what `Evaluation.examples` returns, and what is read from its file."""


@dataclass(frozen=True)
class Evaluation:
    """Evaluation at every radius, by the paper's attack on each head and by `auto_attack` on each measure.

    The paper's attack ends where its last step ends: Adamax on the sign with alpha = radius / 5, from a
    random start. It may leave worse images that it met, and does not look for what the measure really is;
    `auto_attack` keeps the worst that an ensemble meets, in the terms of the measure itself. How far both lie
    apart is what the paper's attack overstates.

    Attributes:
        radii: Linf radii, 0 first: the clean images.
        steps: Of each of the paper's attacks.
        batch: Discs attacked together.
        seed: Of the random starts.
        auto_passes: Budget of `auto_attack` for each disc, measure and radius; 0 leaves it out.
        together: Whether batches that leave the machine idle are attacked at several radii at once.
    """

    radii: tuple[float, ...]
    steps: int
    batch: int
    seed: int
    auto_passes: int = 0
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
        """Attack at each radius, and measure both heads disc by disc.

        Args:
            net: The trained network.
            test: The test discs; a patient's discs are one group.
            device: Where to compute; by default where the discs are.
            journal: Where finished batches are kept, so that a run that was killed goes on.
            progress: Whether to show a progress bar.

        Returns:
            One row per disc, attack, radius and measure; `Measure.attack` names the attacks.

        Source:
            Chen et al., Eqs (13) to (15).
        """
        size = (test.images.shape[-2], test.images.shape[-1])
        places = torch.split(torch.arange(len(test)), self.batch)
        parts = [(test.take(some.tolist()), some) for some in places]
        return radius_curve(
            net,
            [(part.images, part.target(), some) for part, some in parts],
            metrics(size),
            self._papers() | self._auto(size),
            self.radii,
            together=self.together,
            groups=test.patients,
            journal=journal,
            seed=self.seed,
            device=device,
            progress=progress,
        )

    def _papers(self) -> dict[str, Callable[..., Any]]:
        """The paper's attack on each head, by its name."""
        attack = partial(pgd_attack, rule=Adamax(0.2), steps=self.steps, keep="last")
        return {head: partial(attack, objective=objective) for head, objective in OBJECTIVES.items()}

    def _auto(self, size: tuple[int, int]) -> dict[str, Callable[..., Any]]:
        """`auto_attack` on each measure, by its name; none without a budget."""
        return {
            one.attack("auto"): partial(
                auto_attack, heads={one.head: one.task(size)}, budget=self.auto_passes
            )
            for one in MEASURES.values()
            if self.auto_passes
        }

    def examples(
        self, net: nn.Module, test: Discs, places: Sequence[int], *, device: torch.device | None = None
    ) -> dict[str, Any]:
        """Attack a few test discs at every radius by the paper's attack, as `table` does, for pictures.

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
        for attacked, attack in self._papers().items():
            found = attack(
                net,
                x,
                y,
                threat=Threat(linf, radii),
                seed=self.seed,
                index=torch.tensor(places).repeat(count),
            )
            with torch.inference_mode():
                answers = {"x": found.x, **net(found.x)}
            for key, value in answers.items():
                arrays[f"{key}_{attacked}"] = value.cpu().unflatten(0, (count, len(places)))
        return {key: np.asarray(value) for key, value in arrays.items()}
