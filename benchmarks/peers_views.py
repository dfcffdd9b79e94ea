"""Heads of a network, as other libraries can take them; and its passes, counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advreg import J_IND_seg


def pixel_entropy(output: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(output, target, reduction="none").flatten(1).mean(1)


def class_entropy(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target.long(), reduction="none").flatten(1).mean(1)


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().flatten(1).mean(1)


def distance(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).norm(dim=-1).flatten(1).mean(1)


def known_squares(output: Tensor, target: Tensor) -> Tensor:
    """Squared error where the target is above 0; the root mean square error has its direction."""
    return squared_error(torch.where(target > 0, output, target), target)


def relative_error(output: Tensor, target: Tensor) -> Tensor:
    """Error over the target where that is above 0."""
    known = target > 0
    return torch.where(known, (output - target).abs() / torch.where(known, target, 1), 0).flatten(1).mean(1)


@dataclass(frozen=True)
class Kind:
    """A head, as far as peers must know it.

    Attributes:
        key: Of the head in the output, and of its target.
        losses: What peers climb that can be given a loss, by name.
        logits: From the head to class logits of pixels, `(B, C, H, W)`; None where it has no classes.
        labels: From the target to the classes of pixels, `(B, H, W)`.
        structure: What pixels of a class other than 0 are called; an attack of minimal norm may aim at them.
    """

    key: str
    losses: Mapping[str, Callable[[Tensor, Tensor], Tensor]]
    logits: Callable[[Tensor], Tensor] | None = None
    labels: Callable[[Tensor], Tensor] | None = None
    structure: str = ""


def two_classes(z: Tensor) -> Tensor:
    """One logit of a pixel, `(B, 1, H, W)`, as the logits of two classes, `(0, z)`."""
    return torch.cat([torch.zeros_like(z), z], dim=1)


STUDY = (
    Kind(
        "mask",
        {"cross-entropy": pixel_entropy, "Dice": J_IND_seg},
        two_classes,
        lambda mask: mask[:, 0].long(),
        "the disc",
    ),
    Kind("contour", {"squared error": squared_error}),
)
CLASSES = Kind(
    "classes",
    {"cross-entropy": class_entropy, "Dice": partial(J_IND_seg, activation="softmax")},
    lambda z: z,
    lambda classes: classes,
    "structures",
)
POINTS = Kind("points", {"squared error": squared_error, "distance": distance})
DEPTH = Kind("depth", {"squared error": known_squares, "relative error": relative_error})


class Counting(nn.Module):
    """A network that counts examples forwards, and gradients of examples that came back to the input."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.forwards, self.gradients = net, 0, 0

    def forward(self, x: Tensor, heads: tuple[str, ...] | None = None) -> dict[str, Tensor]:
        self.forwards += len(x)
        if x.requires_grad:
            x = _Tick.apply(x, self)
        return self.net(x) if heads is None else self.net(x, heads=heads)


class _Tick(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, counter):
        ctx.counter = counter
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        ctx.counter.gradients += len(gradient)
        return gradient, None


class Head(nn.Module):
    """One head, as a user would take it."""

    def __init__(self, net: nn.Module, head: str) -> None:
        super().__init__()
        self.net, self.head = net, head

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[self.head]


class Pixels(nn.Module):
    """A head as class logits per pixel, `(B, C, H, W)`; with `third`, three or more: the third never wins."""

    def __init__(self, net: nn.Module, kind: Kind, *, third: bool = False) -> None:
        super().__init__()
        assert kind.logits is not None
        self.head, self.logits, self.third = Head(net, kind.key), kind.logits, third

    def forward(self, x: Tensor) -> Tensor:
        z = self.logits(self.head(x))
        lacks = self.third and z.shape[1] == 2
        return torch.cat([z, z.amin(1, keepdim=True) - 1], dim=1) if lacks else z


class Damaged(nn.Module):
    """A classifier of images, `(0, J(x) - J(clean))`: class 1 where an attack has done damage, `(B, 2)`."""

    def __init__(self, net: nn.Module, head: str, loss: Callable, x: Tensor, y: dict[str, Tensor]) -> None:
        super().__init__()
        self.head, self.loss, self.target = Head(net, head), loss, y[head]
        with torch.no_grad():
            self.clean = loss(self.head(x), self.target) + 1e-6  # the clean image itself is class 0

    def forward(self, x: Tensor) -> Tensor:
        if len(x) != len(self.target) and (
            len(x) > 1 or x.requires_grad
        ):  # one image: ART's look at the output
            raise ValueError(f"attack the whole batch of {len(self.target)}; got {len(x)} examples")
        margin = self.loss(self.head(x), self.target[: len(x)]) - self.clean[: len(x)]
        return torch.stack([torch.zeros_like(margin), margin], dim=1)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's and NumPy's global generators, which the peers draw from, seeded and put back."""
    before = np.random.get_state()  # noqa: NPY002 - ART draws from the global generator
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - as above
        try:
            yield
        finally:
            np.random.set_state(before)  # noqa: NPY002 - as above
