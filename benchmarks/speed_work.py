"""What the benchmarks of speed and memory share: the work, the clock, and the order of a round."""

import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import torch

from advreg import Execution, J_IND_reg, J_IND_seg, Steepest, Threat, linf, on, pgd_attack
from lumbar_disk.network import UNet

HEADS = {"mask": on("mask", J_IND_seg), "contour": on("contour", J_IND_reg)}
LOSS = {"mask": "Dice", "contour": "squared error"}
RADIUS, REACH = 0.03, 2.5  # a step is REACH * radius / steps
BY_HAND = "by hand, gradient of the input alone"


class Undeclared(UNet):
    """The same network, whose forward does not take `heads`."""

    def forward(self, x):
        return super().forward(x)


class Clock:
    """When the gradient of a network's input came: of its `stem`'s, which every head needs."""

    def __init__(self, *networks):
        self.times = []
        for network in networks:
            network.stem.register_forward_pre_hook(self._tick)

    def _tick(self, _, inputs):
        if inputs[0].requires_grad:
            inputs[0].register_hook(lambda _: self.times.append(time.perf_counter()))

    def timed(self, call: Callable, steps: int) -> dict:
        """The seconds of a call, and of one of its steps: the median from one gradient to the next.

        A batch that runs in parts takes so many gradients for a step.
        """
        self.times.clear()
        start = time.perf_counter()
        found = call()
        whole = time.perf_counter() - start
        parts, more = divmod(len(self.times), steps)
        if more or not parts:
            raise RuntimeError(f"{len(self.times)} gradients of the input where {steps} were agreed")
        apart = [b - a for a, b in pairwise(self.times)]
        step = parts * statistics.median(apart) if steps > 1 else whole
        return {"found": found, "attack": whole, "step": step}


def data(batch: int, size: int = 128) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    chance = torch.Generator().manual_seed(0)
    x, mask = torch.rand(2, batch, 1, size, size, generator=chance)
    return x, {"contour": size * torch.rand(batch, 176, 2, generator=chance), "mask": (mask > 0.5).float()}


def network(kind: type[UNet], width: int, size: int = 128) -> UNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(width=width, size=size).eval()


def by_hand(model, x, y, head: str, steps: int, *, trainable: bool = False) -> torch.Tensor:
    """PGD as one would write it; the objective is evaluated at the last iterate, which a report needs."""
    model.requires_grad_(trainable)
    objective, alpha, adversarial = HEADS[head], REACH * RADIUS / steps, x
    for _ in range(steps):
        adversarial = adversarial.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(objective(model(adversarial), y).sum(), adversarial)
        with torch.no_grad():
            moved = adversarial + alpha * gradient.sign()
            adversarial = (x + (moved - x).clamp(-RADIUS, RADIUS)).clamp(0, 1)
    with torch.no_grad():
        objective(model(adversarial), y)
    return adversarial


def ours(model, x, y, head: str, steps: int, execution: Execution | None = None) -> torch.Tensor:
    """The same attack by this library."""
    threat, rule = Threat(linf, RADIUS), Steepest(REACH / steps)
    found = pgd_attack(
        model,
        x,
        y,
        objective=HEADS[head],
        threat=threat,
        rule=rule,
        steps=steps,
        random_start=False,
        keep="last",
        execution=execution,
    )
    return found.x


def in_turn(names: list[str], number: int) -> list[str]:
    """The order of a round."""
    place = number % len(names)
    return names[place:] + names[:place]
