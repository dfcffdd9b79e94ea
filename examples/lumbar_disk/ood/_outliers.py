"""Outliers that a critic is trained on: images that are no discs, made from discs and from noise."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from advreg import Keys
from lumbar_disk.data import Discs
from lumbar_disk.ood._images import paint_out

GRIDS = (3, 5, 9, 17, 33)
"""Sides of the coarse grids of noise, which is scaled up smoothly."""
TILES = 4
"""Tiles along a side of a shuffled image."""
BEND = 0.35
"""Size of the displacements of a warped image, as a share of its half side: beyond any spine."""


def outliers(discs: Discs, seed: int) -> Mapping[str, Tensor]:
    """Outliers by kind, one of each kind per disc, `(N, 1, S, S)` in [0, 1].

    Smooth noise of several scales, constant grey, and the discs themselves: turned by a right angle either
    way, upside down, inverted, their tiles shuffled, warped beyond any spine, the disc painted out, and the
    disc covered by what lies a quarter of the image above or below it.

    Args:
        discs: Discs of training patients; for a test, of others.
        seed: Of noise, tiles and warps; image `i` depends on the seed and `i` alone.

    Example:
        >>> from lumbar_disk.data import crops, phantoms
        >>> list(outliers(crops(phantoms(1, seed=0), size=64), seed=0))
        ['smooth', 'constant', 'turned', 'upside down', 'inverted', 'shuffled', 'warped',
         'painted', 'covered']
    """
    x, count, step = discs.images, len(discs), discs.images.shape[-1] // 4
    keys = Keys(seed, torch.arange(count))
    odd = (torch.arange(count) % 2 == 1)[:, None, None, None]
    pairs = zip(x, discs.masks, strict=True)
    painted = [paint_out(image[0].numpy(), mask[0].numpy() > 0) for image, mask in pairs]
    return {
        "smooth": _smooth(keys.fold_in(0), count, x.shape[-1]),
        "constant": keys.fold_in(1).uniform(x[:, :, :1, :1]).expand_as(x),
        "turned": torch.where(odd, x.rot90(1, (2, 3)), x.rot90(3, (2, 3))),
        "upside down": x.rot90(2, (2, 3)),
        "inverted": 1 - x,
        "shuffled": _shuffled(keys.fold_in(2), x),
        "warped": _warped(keys.fold_in(3), x),
        "painted": torch.from_numpy(np.stack(painted)).float()[:, None].clamp(0, 1),
        "covered": torch.where(discs.masks > 0, torch.where(odd, x.roll(step, 2), x.roll(-step, 2)), x),
    }


def varied(images: Tensor, times: int, seed: int) -> Tensor:
    """Discs as other patients and scanners might show them: turned, scaled and shifted a little, other greys.

    Args:
        images: `(N, 1, S, S)` in [0, 1].
        times: Variations of each.
        seed: Of the variations.

    Returns:
        `(times * N, 1, S, S)` in [0, 1]: up to 6 degrees, 10 % in size, 6 % of the side, a gamma of 0.74 to
        1.35, a gain of 15 %, and an offset of deviation 0.03.
    """
    x = images.repeat(times, 1, 1, 1)
    keys = Keys(seed, torch.arange(len(x)))
    angle, size, right, down, gamma, gain = keys.uniform(x.new_empty(len(x), 6)).mul(2).sub(1).unbind(1)
    cos, sin = (0.1 * angle).cos() * (1 + 0.1 * size), (0.1 * angle).sin() * (1 + 0.1 * size)
    rows = torch.stack([cos, -sin, 0.12 * right, sin, cos, 0.12 * down], 1).reshape(-1, 2, 3)
    moved = _sampled(x, affine_grid(rows, list(x.shape), align_corners=False))
    offset = 0.03 * keys.fold_in(1).normal(x[:, :, :1, :1])
    power, factor = (0.3 * gamma).exp()[:, None, None, None], (1 + 0.15 * gain)[:, None, None, None]
    return (moved.clamp(1e-4, 1) ** power * factor + offset).clamp(0, 1)


def _sampled(x: Tensor, places: Tensor) -> Tensor:
    return grid_sample(x, places, padding_mode="border", align_corners=False)


def _smooth(keys: Keys, count: int, size: int) -> Tensor:
    """Noise on coarse grids of several sides, scaled up."""
    which = torch.arange(count) % len(GRIDS)
    found = torch.empty(count, 1, size, size)
    for number, side in enumerate(GRIDS):
        coarse = keys.fold_in(number).uniform(torch.empty(count, 1, side, side))[which == number]
        if len(coarse):
            found[which == number] = interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    return found


def _shuffled(keys: Keys, x: Tensor) -> Tensor:
    """Tiles in another order, each image's own."""
    side = x.shape[-1] // TILES
    tiles = x.unfold(2, side, side).unfold(3, side, side).reshape(len(x), TILES**2, side, side)
    order = keys.uniform(torch.empty(len(x), TILES**2)).argsort(1)
    mixed = tiles.gather(1, order[:, :, None, None].expand_as(tiles))
    return mixed.reshape(len(x), TILES, TILES, side, side).transpose(2, 3).reshape_as(x)


def _warped(keys: Keys, x: Tensor) -> Tensor:
    """Images along a smooth random displacement."""
    coarse = BEND * keys.normal(torch.empty(len(x), 2, 4, 4))
    bend = interpolate(coarse, x.shape[2:], mode="bicubic").movedim(1, 3)
    still = affine_grid(torch.eye(2, 3).expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return _sampled(x, still + bend)
