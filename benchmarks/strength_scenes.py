"""Scenes for `strength.py` beside the study's: eleven classes of pixels, two key points, and depth.

Their images are made of digits that scikit-learn ships and photographs that scikit-image ships, cut into the
parts of `heads.py`: the networks are trained on one, the attacks' settings were chosen on another, and the
table is of a third. No digit and no photograph is in two of them.

- *segmentation*: two digits on a piece of a photograph; of each pixel the digit, or none.
- *points*: one digit on a piece of a photograph; its highest and its lowest point.
- *depth*: a piece of a photograph, seen by two eyes; of each pixel the disparity, which is one over depth.

The networks are a small U-Net, convolutions with a layer of points, and a cost volume with a soft arg min.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import skimage.data
import torch
from heads import PARTS, digits, extremes, pairs, smooth, trained
from peers_views import CLASSES, DEPTH, POINTS, Kind
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, interpolate, pad

from advreg import J_IND_reg, J_IND_seg, point_error
from advreg.evaluation import written_whole
from advreg.metrics import abs_rel
from advreg.objectives import cross_entropy as pixel_entropy
from advreg.tasks import Task, maps, masks, points

SIDE, LOW, IMAGES = 28, 16, 32
PHOTOGRAPHS = {
    "training": ("camera", "brick", "coins", "moon"),
    "chosen": ("grass", "cell"),
    "table": ("gravel", "clock"),
}


# Data


def backgrounds(part: str, count: int, chance: torch.Generator) -> Tensor:
    """Pieces of photographs, `(count, 1, SIDE, SIDE)`, dark enough for a digit to be seen."""
    names = PHOTOGRAPHS[part]
    found = []
    for name in names:
        image = torch.tensor(getattr(skimage.data, name)()).float()
        image = avg_pool2d(image[None] / 255, 2)[0]
        for _ in range(-(-count // len(names))):
            top, left = (int(torch.randint(edge - SIDE, (), generator=chance)) for edge in image.shape)
            found.append(image[top : top + SIDE, left : left + SIDE])
    return 0.6 * torch.stack(found[:count])[:, None]


def randomness(part: str) -> tuple[torch.Generator, int]:
    """A part's generator, and how many images it has."""
    return torch.Generator().manual_seed(11 + PARTS.index(part)), 1600 if part == "training" else IMAGES


def segmentation(part: str) -> tuple[Tensor, Tensor]:
    """Two digits of 12 x 12 on a photograph, `(N, 1, LOW, SIDE)`, and the classes of pixels, 0 for none."""
    (chance, count), (drawn, digit) = randomness(part), digits(part, 12)
    x = backgrounds(part, count, chance)[:, :, :LOW].clone()
    y = torch.zeros(count, LOW, SIDE, dtype=torch.long)
    for image, classes in zip(x[:, 0], y, strict=True):
        for half in range(2):
            which = int(torch.randint(len(drawn), (), generator=chance))
            top, left = torch.randint(3, (2,), generator=chance).tolist()
            left += 14 * half
            put(image, drawn[which, 0], top, left)
            classes[top : top + 12, left : left + 12][drawn[which, 0] > 0.4] = digit[which] + 1
    return x, y


def key_points(part: str) -> tuple[Tensor, Tensor]:
    """A digit of 12 x 12 on a photograph, and its highest and lowest point, (x, y) in pixels."""
    (chance, count), (drawn, place) = randomness(part), extremes(part)
    x, y = backgrounds(part, count, chance), torch.zeros(count, 2, 2)
    for image, both in zip(x[:, 0], y, strict=True):
        which = int(torch.randint(len(drawn), (), generator=chance))
        left, top = torch.randint(SIDE - 12, (2,), generator=chance).tolist()
        put(image, drawn[which, 0], top, left)
        both.copy_(place[which, 1:3] + torch.tensor([left, top]))
    return x, y


def put(image: Tensor, digit: Tensor, top: int, left: int) -> None:
    """Draw a digit's ink, as bright as 0.9, into an image."""
    there = image[top : top + 12, left : left + 12]
    there.copy_(there + digit * (0.9 - there))


def stereo(part: str) -> tuple[Tensor, Tensor]:
    """Two views, `(N, 2, 20, 20)`, and the disparity of the second's pixels; 0 where it is unknown."""
    disparity = interpolate(2.5 + smooth(part, 1), (20, 20), mode="bilinear").clamp(0.5, 5)
    known = torch.zeros_like(disparity)
    known[..., 2:-2, 2:-5] = 1  # what the first view does not see has no match
    return pairs(part, torch.cat([disparity, 0 * disparity], 1)), (known * disparity)[:, 0]


# Networks


class Pyramid(nn.Module):
    """A small U-Net: classes of pixels from three resolutions."""

    def __init__(self, inputs: int, outputs: int, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU())
        self.middle = self.lower(width, 2 * width)
        self.lowest = self.lower(2 * width, 4 * width)
        self.up = nn.Sequential(nn.Conv2d(6 * width, 2 * width, 3, padding=1), nn.ReLU())
        self.last = nn.Conv2d(3 * width, outputs, 1)

    @staticmethod
    def lower(before: int, after: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        middle = self.middle(first)
        wide = self.up(torch.cat([middle, interpolate(self.lowest(middle), scale_factor=2.0)], 1))
        return self.last(torch.cat([first, interpolate(wide, scale_factor=2.0)], 1))


def regressor() -> nn.Module:
    """Convolutions, then two points in pixels."""
    layers: list[nn.Module] = []
    for before, after in ((1, 16), (16, 32), (32, 48)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
    layers += [nn.Flatten(), nn.Linear(48 * 16, 96), nn.ReLU(), nn.Linear(96, 4), nn.Unflatten(1, (2, 2))]
    return nn.Sequential(*layers, Times(SIDE))


class Times(nn.Module):
    """A product with a number, so that layers before it compute shares of the image."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


class Matching(nn.Module):
    """Disparity from differences of the two views at disparities of 0 to 5, and a soft arg min.

    Source:
        Kendall et al., End-to-end learning of geometry and context for deep stereo regression,
        arXiv:1703.04309.
    """

    def __init__(self, most: int = 5, width: int = 8) -> None:
        super().__init__()
        self.most = most
        self.cost = nn.Sequential(
            nn.Conv2d(most + 2, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=2, dilation=2), nn.ReLU(),
            nn.Conv2d(width, most + 1, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        first, second = x[:, :1], x[:, 1:]
        moved = [pad(first, (0, d))[..., d:] for d in range(self.most + 1)]
        costs = [10 * (second - one).abs() for one in moved]
        p = self.cost(torch.cat([second, *costs], 1)).softmax(1)
        return (p * torch.arange(self.most + 1.0)[:, None, None]).sum(1) + 0.1


# Scenes


@dataclass(frozen=True)
class Scene:
    """A head, its data, its network, and what it is attacked by.

    Attributes:
        kind: The head, as peers know it.
        data: From a part to images and targets.
        model: The network before training.
        loss: Of training, `(output, target) -> ()`.
        tasks: By metric, the task that `auto_attack` is given to do damage in it.
        paper: What the paper's attack ascends.
        plain: What an attack written by hand ascends.
        steps: Of training.
    """

    kind: Kind
    data: Callable[[str], tuple[Tensor, Tensor]]
    model: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    tasks: Mapping[str, Task]
    paper: Callable[[Tensor, Tensor], Tensor]
    plain: Callable[[Tensor, Tensor], Tensor]
    steps: int

    def net(self, weights: Path) -> nn.Module:
        """The network, which returns its head by name; its weights are of a file, or trained and saved."""
        if weights.exists():
            net = self.model()
            net.load_state_dict(torch.load(weights, weights_only=True))
        else:
            net = trained(self.data, self.model, self.loss, self.steps)
            weights.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(weights, "wb") as file:
                torch.save(net.state_dict(), file)
        return Named(net, self.kind.key).eval().requires_grad_(requires_grad=False)

    def measured(self, output: Tensor, target: Tensor) -> dict[str, list[float]]:
        """Each metric, example by example."""
        return {name: task.metric(output, target).tolist() for name, task in self.tasks.items()}


class Named(nn.Module):
    """A network whose one head has a name."""

    def __init__(self, net: nn.Module, key: str) -> None:
        super().__init__()
        self.net, self.key = net, key

    def forward(self, x: Tensor, heads: tuple[str, ...] | None = None) -> dict[str, Tensor]:
        return {self.key: self.net(x)} if heads is None or self.key in heads else {}


def known_error(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of the disparities that are known."""
    return ((output - target).abs() * (target > 0)).sum() / (target > 0).sum()


def known_squares(output: Tensor, target: Tensor) -> Tensor:
    """`J_IND_reg` of the disparities that are known."""
    return J_IND_reg(output, target, target > 0)


SCENES = {
    "segmentation": Scene(
        CLASSES, segmentation, partial(Pyramid, 1, 11), cross_entropy,
        {name: masks(metric=name, activation="softmax") for name in ("dice", "iou")},
        partial(J_IND_seg, activation="softmax"), partial(pixel_entropy, activation="softmax"), 900,
    ),
    "points": Scene(
        POINTS, key_points, regressor, lambda output, y: point_error(output, y).mean(),
        {"point_error": points()}, J_IND_reg, point_error, 1500,
    ),
    "depth": Scene(
        DEPTH, stereo, Matching, known_error,
        {"abs_rel": maps(), "rmse": maps("rmse", valid=lambda target: target > 0)},
        known_squares, abs_rel, 600,
    ),
}  # fmt: skip
