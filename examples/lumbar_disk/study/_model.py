"""One model of the study: its loss, its virtual discs, its evaluation, its pictures (paper, 2.4, 3.1)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from advreg import (
    Adamax,
    J_IND_reg,
    J_IND_seg,
    Steepest,
    Threat,
    contour_dice,
    dice,
    linf,
    on,
    pgd_attack,
    point_error,
    radius_curve,
)
from advreg.evaluation import Table
from advreg.objectives import PerExample
from advreg.training import AdversarialLoss, L_adv_r, L_adv_rs, L_adv_s, L_rand, radius_ramp

from . import sharing, train
from lumbar_disk.virtual import Stream
from lumbar_disk.data import Discs
from lumbar_disk.study._recipes import StudyRecipe, kind_of, reconstructs
from lumbar_disk.virtual import Stored
from lumbar_disk.network import UNet

OBJECTIVES: dict[str, PerExample] = {"contour": on("contour", J_IND_reg), "mask": on("mask", J_IND_seg)}
CLEAN = AdversarialLoss(train.loss, {}, clean=1.0)  # Eq. (3) alone
SHOWN = 2  # test discs whose adversarial images are kept for Figs 8 and 9


def network(width: int, size: int, seed: int, *, reconstruction: bool = False) -> UNet:
    """An untrained network; the seed decides its weights, torch's global state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet(width, size, reconstruction=reconstruction)


def batches(
    recipe: StudyRecipe, source: Stream | Stored, device: torch.device
) -> Callable[[int], train.Batch]:
    """The way from a step to this process's part of its batch of virtual discs.

    Raises:
        ValueError: If the processes of this run cannot share a batch equally.
    """
    rank, count = sharing.place()
    if recipe.batch % count:
        raise ValueError(f"a batch of {recipe.batch} cannot be shared by {count} processes equally.")
    share = recipe.batch // count

    def batch(step: int) -> train.Batch:
        first = step * recipe.batch + rank * share
        index = torch.arange(first, first + share, device=device)
        samples = source.at(index % recipe.virtual)
        return samples.images, samples.target(), index

    return batch


def criterion(recipe: StudyRecipe, name: str, epoch: int) -> AdversarialLoss:
    """The loss of an epoch: Eq. (3), or (8) to (11) with noise that grows from epoch to epoch.

    Args:
        recipe: The recipe.
        name: Of the model.
        epoch: Counted from 0.
    """
    kind = kind_of(name)
    task = train.loss_with_reconstruction if reconstructs(name) else train.loss
    if kind == "std":
        return AdversarialLoss(task, {}, clean=1.0)
    threat = Threat(linf, radius_ramp(recipe.radius, epoch, recipe.epochs))
    if kind in ("rand", "rand_pure"):
        return L_rand(task, threat=threat, pure=kind == "rand_pure")
    options: dict[str, Any] = {
        "threat": threat,
        "rule": Steepest(recipe.alpha, relative=False),
        "steps": recipe.attack_steps,
    }
    reg, seg = OBJECTIVES["contour"], OBJECTIVES["mask"]
    if kind == "adv_r":
        return L_adv_r(task, reg=reg, **options)
    if kind == "adv_s":
        return L_adv_s(task, seg=seg, **options)
    return L_adv_rs(task, reg=reg, seg=seg, **options)


def curve(
    net: nn.Module,
    test: Discs,
    recipe: StudyRecipe,
    device: torch.device,
    *,
    journal: Path,
    progress: bool = False,
) -> Table:
    """Attack each head at each radius, and measure both heads: the paper's Eqs. (13) to (15), disc by disc.

    Args:
        net: The trained network.
        test: The test discs; a patient's discs are one group.
        recipe: The recipe.
        device: Where to compute.
        journal: Where finished batches are kept until the table is written.
        progress: Whether to show a progress bar.
    """
    places = torch.split(torch.arange(len(test)), recipe.eval_batch)
    parts = [(test.take(some.tolist()), some) for some in places]
    size = (recipe.size, recipe.size)
    return radius_curve(
        net,
        [(part.images, part.target(), some) for part, some in parts],
        {
            "contour": {"point_error": point_error, "dice": partial(contour_dice, size=size)},
            "mask": {"dice": dice},
        },
        {
            head: partial(pgd_attack, objective=objective, rule=Adamax(0.2), steps=recipe.eval_steps)
            for head, objective in OBJECTIVES.items()
        },
        recipe.radii,
        together=True,
        groups=test.patients,
        journal=journal,
        seed=recipe.seed,
        device=device,
        progress=progress,
    )


def examples(
    net: nn.Module, test: Discs, recipe: StudyRecipe, device: torch.device
) -> dict[str, NDArray[Any]]:
    """A few test discs under attack at every radius, as the evaluation attacked them.

    Returns:
        Arrays: `places, patients, levels, images, contours, masks` of the discs, `radii`, and for each
        attacked head `a` `x_a`, `contour_a` and `mask_a`, of shape `(radii, discs, ...)`.
    """
    places = [(2 * i + 1) * len(test) // (2 * SHOWN) for i in range(SHOWN)]
    some, count = test.take(places).to(device), len(recipe.radii)
    x = some.images.repeat(count, 1, 1, 1)
    y = {head: target.repeat(count, *[1] * (target.ndim - 1)) for head, target in some.target().items()}
    radii = torch.tensor(recipe.radii, device=device).repeat_interleave(len(places))
    arrays: dict[str, Any] = {
        "places": places,
        "patients": some.patients,
        "levels": some.levels,
        "radii": recipe.radii,
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
            rule=Adamax(0.2),
            steps=recipe.eval_steps,
            seed=recipe.seed,
            index=torch.tensor(places).repeat(count),
        )
        with torch.inference_mode():
            answers = {"x": found.x, **net(found.x)}
        for key, value in answers.items():
            arrays[f"{key}_{attacked}"] = value.cpu().unflatten(0, (count, len(places)))
    return {key: np.asarray(value) for key, value in arrays.items()}


def save(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write arrays into an .npz file."""
    everything: dict[str, Any] = {**arrays}
    with path.open("wb") as file:
        np.savez_compressed(file, **everything)
