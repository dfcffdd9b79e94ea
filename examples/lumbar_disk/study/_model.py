"""Model of the study: its loss and its virtual discs (paper, section 2.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from advreg import J_IND_reg, J_IND_seg, Keys, Steepest, Threat, linf, on
from advreg.objectives import PerExample
from advreg.training import AdversarialLoss, L_adv_r, L_adv_rs, L_adv_s, L_noise, L_rand, radius_ramp
from lumbar_disk._core.sharing import place
from lumbar_disk.data import Discs
from lumbar_disk.network import Batch, loss, loss_with_reconstruction
from lumbar_disk.study._recipes import StudyRecipe, kind_of, reconstructs, sigma_of
from lumbar_disk.virtual import Stored, Stream

OBJECTIVES: dict[str, PerExample] = {"contour": on("contour", J_IND_reg), "mask": on("mask", J_IND_seg)}
_REAL = -2  # the use of a sample's key that says whether a real disc stands in its place
CLEAN = AdversarialLoss(loss, {}, clean=1.0)  # Eq. (3) alone


def batches(recipe: StudyRecipe, source: Stream | Stored, discs: Discs) -> Callable[[int], Batch]:
    """The way from a step to this process's part of its batch: virtual discs, and by chance real ones.

    Args:
        recipe: The recipe.
        source: Of the virtual discs.
        discs: The real ones of the training set, on the device where to compute.

    Raises:
        ValueError: If the processes of this run cannot share a batch equally.
    """
    rank, share, device = place()[0], share_of(recipe), discs.images.device

    def batch(step: int) -> Batch:
        first = step * recipe.batch + rank * share
        index = torch.arange(first, first + share, device=device)
        samples = source.at(index % recipe.virtual)
        images, target = samples.images, samples.target()
        if recipe.real:
            keys = Keys(recipe.seed, index).fold_in(_REAL)
            chance, which = keys.uniform(index.new_empty(share, 2, dtype=torch.float64)).unbind(1)
            swapped = (chance < recipe.real).nonzero()[:, 0]
            real = discs.take((which[swapped] * len(discs)).long().tolist())
            images = images.index_copy(0, swapped, real.images)
            target = {head: one.index_copy(0, swapped, real.target()[head]) for head, one in target.items()}
        return images, target, index

    return batch


def share_of(recipe: StudyRecipe) -> int:
    """How many discs of a batch each process of this run takes.

    Raises:
        ValueError: If they cannot share it equally.
    """
    count = place()[1]
    if recipe.batch % count:
        raise ValueError(
            f"a batch of {recipe.batch} cannot be shared by {count} processes equally. Choose another number "
            "of processes, or --set batch to a multiple of it."
        )
    return recipe.batch // count


def criterion(recipe: StudyRecipe, name: str, epoch: int) -> AdversarialLoss:
    """The loss of an epoch: Eq. (3), or (8) to (11) with noise that grows over the recipe's `ramp`.

    Of the models for certificates Eq. (3) under their Gaussian noise.

    Args:
        recipe: The recipe.
        name: Of the model.
        epoch: Counted from 0.
    """
    kind = kind_of(name)
    task = loss_with_reconstruction if reconstructs(name) else loss
    if kind == "std":
        return AdversarialLoss(task, {}, clean=1.0)
    if (sigma := sigma_of(name)) is not None:
        return L_noise(task, sigma=sigma)
    growing = max(1, round(recipe.ramp * recipe.epochs))
    threat = Threat(linf, radius_ramp(recipe.radius, min(epoch, growing - 1), growing))
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
