"""Network of the paper: a ResNet-18-like encoder, a contour head on its code, a U-net decoder (Fig. 3).

What the paper leaves open follows the study's released code, layer by layer: kernels, biases, group counts.
Other widths and sizes keep its proportions: where a group count does not divide the channels, the most groups
that divide both stand in its place; the code is one pixel at every size.
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

    At the paper's width and size it has 38,998,721 parameters, and a forward pass of one image needs 1.162
    GFLOP, as `torch.utils.flop_counter` counts.

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
        self.bottleneck = nn.Conv2d(code, code, size // 64, bias=False)
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
            Up(code, 8 * width, groups=1, stride=size // 64), Up(8 * width, 8 * width, groups=2)
        )
        merged = ((4 * width, 4), (2 * width, 8), (width, 16), (width // 2, 32))
        self.merges = nn.ModuleList(Merge(4 * c, c, groups) for c, groups in merged)
        self.ups = nn.ModuleList(Up(c, c, groups) for c, groups in merged[:-1])
        self.mask = nn.Sequential(
            Up(width // 2, width // 2, groups=32, kernel=7),
            _transposed(width // 2, 2 if reconstruction else 1, kernel=5, stride=2, bias=True),
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
            y = merge(torch.cat([maps[3 - i], y], dim=1))
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
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            _norm(outputs // 4, outputs),
            nn.LeakyReLU(),
            nn.Conv2d(outputs, outputs, 1, bias=False),
        )
        shortcut: list[nn.Module] = []
        if stride != 1:
            shortcut.append(nn.AvgPool2d(stride))
        if inputs != outputs:
            shortcut.append(nn.Conv2d(inputs, outputs, 1, bias=False))
        self.shortcut = nn.Sequential(*shortcut)
        self.join = nn.Sequential(_norm(outputs // 4, outputs), nn.LeakyReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `(B, inputs, h, w)` to `(B, outputs, h / stride, w / stride)`."""
        joined: torch.Tensor = self.join(self.main(x) + self.shortcut(x))
        return joined


class Merge(nn.Sequential):
    """Merging of two concatenated maps: conv 3x3, norm, LeakyReLU."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        super().__init__(convolution, _norm(groups, outputs), nn.LeakyReLU())


class Up(nn.Sequential):
    """A transposed convolution to `stride` times the resolution, norm, LeakyReLU."""

    def __init__(self, inputs: int, outputs: int, groups: int, kernel: int = 3, stride: int = 2) -> None:
        convolution = _transposed(inputs, outputs, kernel, stride)
        super().__init__(convolution, _norm(groups, outputs), nn.LeakyReLU())


def _transposed(
    inputs: int, outputs: int, kernel: int, stride: int, *, bias: bool = False
) -> nn.ConvTranspose2d:
    """Make a transposed convolution of odd kernel whose output is exactly `stride` times its input."""
    return nn.ConvTranspose2d(inputs, outputs, kernel, stride, kernel // 2, stride - 1, bias=bias)


def _norm(groups: int, channels: int) -> nn.GroupNorm:
    """Make a GroupNorm of the paper's group count, or of the most of its divisors that the channels allow."""
    return nn.GroupNorm(gcd(groups, channels), channels)
