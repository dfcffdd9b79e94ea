"""Models and targets that several tests share."""

from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import nn

_NOTES: WeakKeyDictionary[nn.Module, list[Any]] = WeakKeyDictionary()


def notes(module):
    """What a network writes down of its passes: outside it, since an attack puts back its attributes."""
    return _NOTES.setdefault(module, [])


def seeded(make):
    """A network whose weights are the same in every process."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def uniform(*shape):
    """Inputs in [0, 1) that are the same in every process."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


class TwoHeads(nn.Module):
    """A contour (B, 5, 2) and mask logits (B, 1, 8, 8) from an image (B, 1, 8, 8)."""

    def __init__(self, wrap=lambda contour, mask: {"contour": contour, "mask": mask}):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.GroupNorm(2, 6), nn.LeakyReLU(0.1))
        self.contour = nn.Linear(6 * 64, 10)
        self.mask = nn.Conv2d(6, 1, 3, padding=1)
        self.wrap = wrap

    def forward(self, x):
        code = self.encoder(x)
        return self.wrap(self.contour(code.flatten(1)).unflatten(1, (5, 2)), self.mask(code))


class Pair(NamedTuple):
    contour: torch.Tensor
    mask: torch.Tensor


@dataclass
class Record:
    contour: torch.Tensor
    mask: torch.Tensor


WRAPS = {
    "dict": lambda contour, mask: {"contour": contour, "mask": mask},
    "tuple": lambda contour, mask: (contour, mask),
    "list": lambda contour, mask: [contour, mask],
    "namedtuple": Pair,
    "dataclass": Record,
}


def two_heads(kind="dict", dtype=torch.float32):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TwoHeads(WRAPS[kind]).to(dtype).eval()


def batch(count=4, kind="dict", dtype=torch.float32):
    g = torch.Generator().manual_seed(1)
    x = torch.rand(count, 1, 8, 8, generator=g).to(dtype)
    contour = torch.randn(count, 5, 2, generator=g).to(dtype)
    mask = (torch.rand(count, 1, 8, 8, generator=g) > 0.5).to(dtype)
    return x, WRAPS[kind](contour, mask)


class Sizes(TwoHeads):
    """The same two heads; remembers how many examples came at once."""

    def __init__(self):
        super().__init__()
        self.load_state_dict(two_heads().state_dict())

    @property
    def sizes(self):
        return notes(self)

    def forward(self, x):
        notes(self).append(len(x))
        return super().forward(x)
