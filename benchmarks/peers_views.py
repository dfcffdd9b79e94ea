"""A network with a contour and a mask, as other libraries can take it; and its passes, counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advreg import J_IND_seg


def pixel_entropy(output: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(output, target, reduction="none").flatten(1).mean(1)


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().flatten(1).mean(1)


LOSSES = {
    "mask": {"cross-entropy": pixel_entropy, "Dice": J_IND_seg},
    "contour": {"squared error": squared_error},
}


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
    """The mask as class logits per pixel, `(B, 2, H, W)`; with `third`, and one class that never wins."""

    def __init__(self, net: nn.Module, *, third: bool = False) -> None:
        super().__init__()
        self.net, self.third = net, third

    def forward(self, x: Tensor) -> Tensor:
        z = self.net(x)["mask"]
        rest = [z.clamp(max=0) - 1] if self.third else []
        return torch.cat([torch.zeros_like(z), z, *rest], dim=1)


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
