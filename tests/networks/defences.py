"""Honest models of several kinds, trained in seconds, and defences that only seem to work.

`HONEST` and `BROKEN` name functions of a seed that give a `Case`: a model with inputs, targets, an objective
and a threat. Shared by the tests of diagnosis and benchmarks/diagnostics.py.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import nn

from advreg import J_IND_reg, J_IND_seg, Steepest, Threat, l2, linf, on, pgd_attack
from advreg.objectives import PerExample

SIZE, POINTS = 16, 6


class Case(NamedTuple):
    model: nn.Module
    x: torch.Tensor
    y: Any
    objective: PerExample
    threat: Threat


class TwoHeads(nn.Module):
    """Images (B, 1, 16, 16) to {"contour": (B, 6, 2), "mask": logits (B, 1, 16, 16)}."""

    def __init__(self, width=8):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.GroupNorm(2, width),
            nn.LeakyReLU(0.1),
            nn.Conv2d(width, width, 3, padding=1),
            nn.LeakyReLU(0.1),
        )
        self.contour = nn.Sequential(
            nn.AvgPool2d(2), nn.Flatten(), nn.Linear(width * 64, 32), nn.Tanh(), nn.Linear(32, 2 * POINTS)
        )
        self.mask = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x):
        code = self.encoder(x)
        return {"contour": SIZE * self.contour(code).unflatten(1, (POINTS, 2)), "mask": self.mask(code)}


class Segmenter(nn.Module):
    """Images (B, 1, 16, 16) to (logits (B, 2, 16, 16), code): batch norm, dropout, max pooling."""

    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.1)
        )
        self.middle = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU())
        self.up = nn.Sequential(nn.ConvTranspose2d(16, 8, 2, stride=2), nn.ReLU(), nn.Conv2d(8, 2, 1))

    def forward(self, x):
        code = self.middle(self.down(x))
        return self.up(code), code


def discs(count, seed):
    """Bright discs in noise: images, contours in pixels (x, y), masks."""
    g = torch.Generator().manual_seed(seed)
    centre = 5 + 6 * torch.rand(count, 1, 2, generator=g)
    radius = 2.5 + 2 * torch.rand(count, 1, 1, generator=g)
    angle = torch.arange(POINTS) * 2 * torch.pi / POINTS
    contour = centre + radius * torch.stack([angle.cos(), angle.sin()], -1)
    grid = torch.stack(torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="xy"), -1)
    far = (grid - centre[:, :, None]).norm(dim=-1)[:, None].squeeze(2)
    mask = (far < radius[..., None]).float()
    x = 0.3 + 0.4 * torch.sigmoid(2 * (radius[..., None] - far))
    x = x + 0.05 * torch.randn(x.shape, generator=g)
    return x.clamp(0, 1), contour, mask


def fitted(model, loss, data, steps, rate=1e-2):
    """Train on random halves of the data, without touching the global generators."""
    g = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(steps):
            some = torch.randperm(len(data[0]), generator=g)[:32]
            optimiser.zero_grad()
            loss(model, *(part[some] for part in data)).backward()
            optimiser.step()
            schedule.step()
    return model.eval()


def seeded(make, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


@cache
def two_heads(seed):
    def loss(model, x, contour, mask):
        output = model(x)
        apart = (output["contour"] - contour).square().mean()
        return 0.1 * apart + nn.functional.binary_cross_entropy_with_logits(output["mask"], mask)

    return fitted(seeded(TwoHeads, seed), loss, discs(128, 100 + seed), 200)


@cache
def segmenter(seed):
    def loss(model, x, contour, mask):
        return nn.functional.cross_entropy(model(x)[0], mask[:, 0].long())

    return fitted(seeded(Segmenter, seed).train(), loss, discs(128, 100 + seed), 200)


def vectors(count, seed):
    """Twelve numbers in [-1, 1] to two: smooth, not linear, and not all of them matter."""
    g = torch.Generator().manual_seed(seed)
    x = 2 * torch.rand(count, 12, generator=g) - 1
    y = torch.stack([(2 * x[:, :4].sum(1)).sin() + x[:, 4], x[:, 5] * x[:, 6] + x[:, 7:10].sum(1)], 1)
    return x, y


@cache
def regressor(seed, *, robust):
    threat = Threat(linf, 0.1, bounds=(-1.0, 1.0))

    def loss(model, x, y):
        if robust:
            x = pgd_attack(
                model, x, y, objective=J_IND_reg, threat=threat, rule=Steepest(0.5), steps=3, keep="last"
            ).x
        return (model(x) - y).square().mean()

    def make():
        return nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))

    return fitted(seeded(make, seed), loss, vectors(512, 100 + seed), 300)


def _images(model, objective, threat, seed, count=16):
    x, contour, mask = discs(count, seed)
    return Case(model, x, {"contour": contour, "mask": mask}, objective, threat)


MASK, CONTOUR = on("mask", J_IND_seg), on("contour", J_IND_reg)
SMALL = Threat(linf, 0.08)


def of_mask(seed):
    return _images(two_heads(seed), MASK, SMALL, seed)


def of_contour(seed):
    return _images(two_heads(seed), CONTOUR, SMALL, seed)


def of_segmenter(seed):
    x, _, mask = discs(16, seed)
    y = (torch.cat([1 - mask, mask], 1), None)
    return Case(segmenter(seed), x, y, on(0, partial(J_IND_seg, activation="softmax")), Threat(l2, 0.6))


def of_regressor(seed, *, robust):
    x, y = vectors(32, seed)
    return Case(regressor(seed, robust=robust), x, y, J_IND_reg, Threat(linf, 0.1, bounds=(-1.0, 1.0)))


HONEST: dict[str, Callable[[int], Case]] = {
    "two heads, mask": of_mask,
    "two heads, contour": of_contour,
    "segmenter, L2": of_segmenter,
    "regressor": partial(of_regressor, robust=False),
    "regressor, adversarially trained": partial(of_regressor, robust=True),
}


class Rounded(nn.Module):
    """Rounds the input to a few levels: the gradient is zero everywhere."""

    def __init__(self, model, levels=8):
        super().__init__()
        self.model, self.levels = model, levels

    def forward(self, x):
        return self.model((x * self.levels).round() / self.levels)


class Saturated(nn.Module):
    """Scales the logits so that the sigmoid of the objective has no slope left; the decision is the same."""

    def __init__(self, model, scale=1e4):
        super().__init__()
        self.model, self.scale = model, scale

    def forward(self, x):
        output = self.model(x)
        return {**output, "mask": self.scale * output["mask"]}


class Noisy(nn.Module):
    """Adds random noise to the input, in eval mode too."""

    def __init__(self, model, size=0.1):
        super().__init__()
        self.model, self.size = model, size

    def forward(self, x):
        return self.model(x + self.size * torch.randn_like(x))


class Median(nn.Module):
    """A 3 x 3 median filter, as an image library does it: without a gradient."""

    def forward(self, x):
        with torch.no_grad():
            padded = nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")
            return padded.unfold(2, 3, 1).unfold(3, 3, 1).flatten(-2).median(-1).values


class Misled(nn.Module):
    """The input as it is, with the gradient of another: as large as an honest one, and wrong."""

    def __init__(self, model, other):
        super().__init__()
        self.model, self.other = model, other

    def forward(self, x):
        other = self.other(x)
        return self.model(x.detach() + other - other.detach())


class Detached(nn.Module):
    """A head that is detached from the input."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        output = self.model(x)
        return {**output, "contour": output["contour"].detach()}


BROKEN: dict[str, Callable[[int], Case]] = {
    "rounded input": lambda seed: _images(Rounded(two_heads(seed)), MASK, SMALL, seed),
    "saturated sigmoid": lambda seed: _images(Saturated(two_heads(seed)), MASK, SMALL, seed),
    "random noise": lambda seed: _images(Noisy(two_heads(seed)), MASK, SMALL, seed),
    "median filter": lambda seed: _images(nn.Sequential(Median(), two_heads(seed)), MASK, SMALL, seed),
    "misleading gradient": lambda seed: _images(
        Misled(two_heads(seed), lambda x: x.roll((8, 8), (-1, -2))), MASK, SMALL, seed
    ),
    "detached head": lambda seed: _images(Detached(two_heads(seed)), CONTOUR, SMALL, seed),
}

# Its mirror image is much like a disc: the gradient is partly right, and what an attack misses is little.
MILD: dict[str, Callable[[int], Case]] = {
    "gradient of the mirror image": lambda seed: _images(
        Misled(two_heads(seed), lambda x: x.flip(-1)), MASK, SMALL, seed
    ),
}
