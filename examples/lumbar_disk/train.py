"""Train the two-headed network on clean discs: Adamax and the paper's Eqs (1) to (3), in one loop.

Few discs need variety: each batch is turned, stretched, sheared, shifted and re-contrasted by chance
(`jitter`), image, contour and mask together. All chance comes from a generator of the training's own seed;
torch's global state is left as it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F
from tqdm import tqdm

from advreg import rasterise, soft_dice

from .unet import UNet

if TYPE_CHECKING:
    from .discs import Discs

Heads = dict[str, torch.Tensor]

# Bounds of the chance changes: turn in radians, logarithms of width and height, shear, shift as a share of
# the side, logarithm of gamma.
TURN, SCALE, SHEAR, SHIFT, GAMMA = 0.25, 0.2, 0.2, 0.06, 0.4


def loss(output: Heads, target: Heads) -> torch.Tensor:
    """Return the training loss of each disc, the paper's Eq. (3): ``L_reg + L_seg``.

    ``L_reg`` (Eq. 1) is the mean absolute error over the 352 coordinates, in pixels. ``L_seg`` (Eq. 2) is
    ``0.5 (1 - soft Dice) + 0.5`` binary cross-entropy, averaged over pixels.

    Args:
        output: ``"contour"`` ``(B, 176, 2)`` and ``"mask"`` ``(B, 1, H, W)`` logits.
        target: The true contours, and masks of 0 and 1, of the same shapes.

    Returns:
        ``(B,)``.
    """
    regression = (output["contour"] - target["contour"]).abs().flatten(1).mean(1)
    entropy = F.binary_cross_entropy_with_logits(output["mask"], target["mask"], reduction="none")
    overlap = soft_dice(output["mask"], target["mask"])
    return regression + 0.5 * (1 - overlap) + 0.5 * entropy.flatten(1).mean(1)


def fit(
    data: Discs,
    *,
    width: int,
    steps: int,
    batch: int = 16,
    lr: float = 0.001,
    seed: int = 0,
    progress: bool = False,
) -> UNet:
    """Train a network from scratch.

    The rate of learning falls linearly to zero over the last third of the steps. The paper holds it, through
    10,000 steps on 640,000 virtual samples; the fall is for short runs on few discs.

    Args:
        data: The training discs.
        width: The network's width; the paper's is 64.
        steps: Optimiser steps.
        batch: Discs per step, drawn with every disc equally often; the paper's is 64.
        lr: Adamax's learning rate; the paper's is 0.001.
        seed: Decides the first weights, the batches and their changes.
        progress: Whether to show a progress bar.

    Returns:
        The trained network, in eval mode.

    Raises:
        ValueError: If steps or batch is not positive.
        FloatingPointError: If the loss is not finite.
    """
    if steps < 1 or batch < 1:
        raise ValueError(f"steps and batch must be at least 1; got steps={steps}, batch={batch}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = UNet(width, data.images.shape[-1])
    chance = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adamax(net.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1.0, 3 * (1 - step / steps)))
    order = torch.empty(0, dtype=torch.long)
    with tqdm(range(steps), desc="train", unit="step", disable=not progress) as bar:
        for step in bar:
            while len(order) < batch:
                order = torch.cat([order, torch.randperm(len(data), generator=chance)])
            places, order = order[:batch], order[batch:]
            x, y = jitter(data.images[places], data.contours[places], chance)
            value = loss(net(x), y).mean()
            if not value.isfinite():
                raise FloatingPointError(
                    f"the training loss is {value.item()} at step {step} of {steps}; lower lr (now {lr}), "
                    "and look at the images for values that are not finite."
                )
            optimiser.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]  # torch's own gap
            optimiser.step()
            schedule.step()
            if step % 10 == 0:
                bar.set_postfix(loss=f"{value.item():.3f}")
    return net.eval()


def jitter(
    images: torch.Tensor, contours: torch.Tensor, chance: torch.Generator
) -> tuple[torch.Tensor, Heads]:
    """Turn, stretch, shear, shift and re-contrast each disc by chance; see `move` for the geometry.

    Contrast changes by a power of the intensity, which leaves 0 and 1 as they are.

    Args:
        images: ``(B, 1, S, S)`` in [0, 1].
        contours: ``(B, 176, 2)`` in pixels.
        chance: The source of randomness.

    Returns:
        The new images, and their target: contours, and masks rasterised from them.
    """

    def draw(bound: float) -> torch.Tensor:
        return (2 * torch.rand(len(images), generator=chance) - 1) * bound

    cos, sin = (turn := draw(TURN)).cos(), turn.sin()
    rotation = torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2)
    stretch = torch.diag_embed(torch.stack([draw(SCALE), draw(SCALE)], dim=1).exp())
    stretch[:, 0, 1] = draw(SHEAR)
    shift = torch.stack([draw(SHIFT), draw(SHIFT)], dim=1) * images.shape[-1]
    images, contours = move(images, contours, rotation @ stretch, shift)
    images = images ** draw(GAMMA).exp()[:, None, None, None]
    masks = rasterise(contours, (images.shape[-2], images.shape[-1]))
    return images, {"contour": contours, "mask": masks[:, None].to(images)}


def move(
    images: torch.Tensor, contours: torch.Tensor, linear: torch.Tensor, shift: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply exactly the same affine map to images and contours.

    Points move to ``linear (p - centre) + centre + shift``; images are read at the inverse, bilinearly, with
    the edge repeated outside. The identity leaves both as they were, to rounding.

    Args:
        images: ``(B, C, S, S)``.
        contours: ``(B, K, 2)``, (x, y) in pixels, pixel centres at integers.
        linear: ``(B, 2, 2)``, acts on (x, y) about the image's centre; invertible.
        shift: ``(B, 2)`` pixels (x, y).

    Returns:
        Images and contours of the same shapes.
    """
    side = images.shape[-1]
    centre = (side - 1) / 2
    moved = (contours - centre) @ linear.mT + centre + shift[:, None]
    # In grid_sample's units (align_corners=False) the image reaches from -1 to 1 about its centre: pixels
    # over side / 2.
    back = torch.linalg.inv(linear)
    offset = -(back @ (shift * (2 / side))[:, :, None])
    grid = F.affine_grid(torch.cat([back, offset], dim=2), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False), moved
