"""Network of the paper: a ResNet-18-like encoder, a contour head on its code, a U-net decoder (Fig. 3).

What the paper leaves open follows the study's released code (every layer's size, group counts); what both
leave open is settled here: LeakyReLU's slope is torch's 0.01; the first two transposed convolutions keep,
then halve the code's channels, the mirror image of the encoder's last two steps; a "x2" transposed
convolution has kernel 2 and stride 2; each convolution has a bias unless the GroupNorm behind it has one
group per channel, which would cancel it.
"""

from __future__ import annotations

from collections.abc import Collection
from math import gcd

import torch
from torch import nn

from lumbar_disk.data import POINTS, Heads

HEADS = ("contour", "mask")


class UNet(nn.Module):
    """U-net from a disc's image to its contour and its mask.

    At the paper's width and size it has 41,325,441 parameters.

    Args:
        width: Channels after the stem; the paper's 64. Stages have 2, 4, 8 and 16 times as many. Even.
        size: Side of the image in pixels; the paper's 128. A multiple of 64.
        reconstruction: Whether the decoder also answers with the image itself (section 2.5).

    Raises:
        ValueError: If width or size is not as stated.
    """

    def __init__(self, width: int = 64, size: int = 128, *, reconstruction: bool = False) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise ValueError(
                f"width must be an even number of channels, at least 2 (the paper's is 64); got {width}."
            )
        if size < 64 or size % 64:
            raise ValueError(f"size must be a multiple of 64 pixels (the paper's is 128); got {size}.")
        self.size = size
        self.heads = HEADS + (("reconstruction",) if reconstruction else ())
        code = 16 * width
        self.stem = nn.Sequential(
            nn.Conv2d(1, width // 2, 7, stride=2, padding=3),
            nn.LeakyReLU(),
            nn.Conv2d(width // 2, width, 5, stride=2, padding=2, bias=False),
            nn.GroupNorm(width, width),
            nn.LeakyReLU(),
        )
        self.stages = nn.ModuleList(
            nn.Sequential(Block(c, 2 * c, stride=2), Block(2 * c, 2 * c, stride=1))
            for c in (width, 2 * width, 4 * width, 8 * width)
        )
        self.bottleneck = nn.Conv2d(code, code, size // 64)
        self.contour = nn.Sequential(
            nn.GroupNorm(1, code),
            nn.LeakyReLU(),
            nn.Flatten(),
            nn.Linear(code, code, bias=False),
            nn.GroupNorm(1, code),
            nn.LeakyReLU(),
            nn.Linear(code, 2 * POINTS),
            nn.Unflatten(1, (POINTS, 2)),
        )
        self.expand = nn.Sequential(
            Up(code, code, groups=1, kernel=size // 64, stride=size // 64),
            Up(code, 8 * width, groups=2),
        )
        self.merges = nn.ModuleList(
            Merge(c, groups) for c, groups in ((8 * width, 4), (4 * width, 8), (2 * width, 16), (width, 32))
        )
        self.ups = nn.ModuleList(
            Up(c, c // 2, groups) for c, groups in ((8 * width, 4), (4 * width, 8), (2 * width, 16))
        )
        self.mask = nn.Sequential(
            Up(width, width // 2, groups=32, kernel=7),
            _transposed(width // 2, 2 if reconstruction else 1, kernel=5, stride=2),
        )

    def forward(self, x: torch.Tensor, heads: Collection[str] | None = None) -> Heads:
        """The heads' answers.

        Args:
            x: `(B, 1, size, size)` images in [0, 1].
            heads: Those wanted, by default all; the contour does without the decoder (see
                `advreg.execution.heads`).

        Returns:
            `"contour"`: `(B, 176, 2)` points (x, y) in pixels. `"mask"`: `(B, 1, size, size)` logits.
            `"reconstruction"`, where there is one: `(B, 1, size, size)` in [0, 1], and with it
            `"image"`, which is `x`, for a loss to compare it with.

        Raises:
            ValueError: If `x` has another shape, or there is no such head.
        """
        heads = self.heads if heads is None else heads
        if unknown := set(heads) - {*self.heads, "image"}:
            raise ValueError(f"this network has the heads {', '.join(self.heads)}; got {sorted(unknown)}.")
        if x.shape[1:] != (1, self.size, self.size):
            raise ValueError(
                f"this network takes images of shape (B, 1, {self.size}, {self.size}); got {tuple(x.shape)}. "
                "Crop to that size, or make UNet(size=...) with the images' size."
            )
        maps = [self.stem(x)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        code = self.bottleneck(maps[-1])
        answers = {}
        if "contour" in heads:
            answers["contour"] = self.contour(code) + self.size / 2
        if "mask" in heads or "reconstruction" in heads:
            logits = self._decode(code, maps)
            answers["mask"] = logits[:, :1]
            if "reconstruction" in heads:
                answers["reconstruction"], answers["image"] = logits[:, 1:].sigmoid(), x
        return answers

    def _decode(self, code: torch.Tensor, maps: list[torch.Tensor]) -> torch.Tensor:
        """Turn the code and the encoder's maps into what the decoder answers, before any sigmoid."""
        y = self.expand(code)
        for i, merge in enumerate(self.merges):
            y = merge(torch.cat([y, maps[3 - i]], dim=1))
            if i < len(self.ups):
                y = self.ups[i](y)
        logits: torch.Tensor = self.mask(y)
        return logits


def untrained(width: int, size: int, seed: int, *, reconstruction: bool = False) -> UNet:
    """An untrained network; the seed decides its weights, torch's global state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet(width, size, reconstruction=reconstruction)


class Block(nn.Module):
    """A residual block: conv 3x3, norm, LeakyReLU, conv 1x1, plus the shortcut, norm, LeakyReLU.

    The shortcut is average pooling where the block halves the resolution, and a 1x1 convolution where it
    widens.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1),
            _norm(outputs // 4, outputs),
            nn.LeakyReLU(),
            nn.Conv2d(outputs, outputs, 1),
        )
        shortcut: list[nn.Module] = []
        if stride != 1:
            shortcut.append(nn.AvgPool2d(stride))
        if inputs != outputs:
            shortcut.append(nn.Conv2d(inputs, outputs, 1))
        self.shortcut = nn.Sequential(*shortcut)
        self.join = nn.Sequential(_norm(outputs // 4, outputs), nn.LeakyReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `(B, inputs, h, w)` to `(B, outputs, h / stride, w / stride)`."""
        joined: torch.Tensor = self.join(self.main(x) + self.shortcut(x))
        return joined


class Merge(nn.Sequential):
    """Merging of a concatenated pair of maps to `outputs`, half the channels: conv 3x3, norm, LeakyReLU."""

    def __init__(self, outputs: int, groups: int) -> None:
        norm = _norm(groups, outputs)
        bias = norm.num_groups < outputs
        super().__init__(nn.Conv2d(2 * outputs, outputs, 3, padding=1, bias=bias), norm, nn.LeakyReLU())


class Up(nn.Sequential):
    """A transposed convolution to `stride` times the resolution, norm, LeakyReLU.

    A kernel larger than the stride overlaps, and is padded so that the output is exactly `stride` times the
    input.
    """

    def __init__(self, inputs: int, outputs: int, groups: int, kernel: int = 2, stride: int = 2) -> None:
        norm = _norm(groups, outputs)
        bias = norm.num_groups < outputs
        super().__init__(_transposed(inputs, outputs, kernel, stride, bias=bias), norm, nn.LeakyReLU())


def _transposed(
    inputs: int, outputs: int, kernel: int, stride: int, *, bias: bool = True
) -> nn.ConvTranspose2d:
    """Make a transposed convolution whose output is exactly `stride` times as large as its input."""
    padding = (kernel - stride + 1) // 2
    rest = stride + 2 * padding - kernel
    return nn.ConvTranspose2d(inputs, outputs, kernel, stride, padding, output_padding=rest, bias=bias)


def _norm(groups: int, channels: int) -> nn.GroupNorm:
    """Make a GroupNorm of the paper's group count, or of the most of its divisors that the channels allow."""
    return nn.GroupNorm(gcd(groups, channels), channels)
