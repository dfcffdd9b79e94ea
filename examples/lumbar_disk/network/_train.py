"""Training of a network: Adamax, a loss of (model, x, y), and checkpoints against kills. One loop.

Batch and loss are functions of the step, and chance belongs to the sample, so a run that goes on from a
checkpoint takes the very steps that it would have taken; there is no generator whose state could be lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from advreg import soft_dice
from advreg.training import AdversarialLoss
from lumbar_disk._core.files import differences, read_tensors, reading, write_tensors
from lumbar_disk._core.sharing import first, place
from lumbar_disk.data import Heads

Batch = tuple[Tensor, Heads, Tensor]  # images, what the network should answer, each sample's place


def loss(output: Heads, target: Heads) -> Tensor:
    """The training loss of each disc, the paper's Eq. (3): `L_reg + L_seg`.

    `L_reg` (Eq. 1) is the mean absolute error over the 352 coordinates, in pixels. `L_seg` (Eq. 2) is
    `0.5 (1 - soft Dice) + 0.5` binary cross-entropy, averaged over pixels.

    Args:
        output: `"contour"` `(B, 176, 2)` and `"mask"` `(B, 1, H, W)` logits.
        target: The true contours, and masks of 0 and 1, of the same shapes.

    Returns:
        `(B,)`.
    """
    regression = (output["contour"] - target["contour"]).abs().flatten(1).mean(1)
    entropy = F.binary_cross_entropy_with_logits(output["mask"], target["mask"], reduction="none")
    overlap = soft_dice(output["mask"], target["mask"])
    return regression + 0.5 * (1 - overlap) + 0.5 * entropy.flatten(1).mean(1)


def loss_with_reconstruction(output: Heads, target: Heads) -> Tensor:
    """`L + L_rec` of each disc; `L_rec` (Eq. 12) is the mean absolute error of the reconstruction.

    Args:
        output: As for `loss`, with `"reconstruction"` and `"image"` `(B, 1, H, W)`: what went in.
        target: As for `loss`.

    Returns:
        `(B,)`.
    """
    error = (output["reconstruction"] - output["image"]).abs().flatten(1).mean(1)
    return loss(output, target) + error


@dataclass(frozen=True)
class Checkpoint:
    """Checkpoint of a training: where it keeps its state, and what it must not be mixed with.

    Attributes:
        path: The file. It holds weights and their average, the optimiser's state, the step, and `identity`.
        identity: What decides the training's numbers, as JSON would hold it.
        every: Seconds between two writes.
    """

    path: Path
    identity: Mapping[str, Any]
    every: float = 30.0

    def load(
        self, net: nn.Module, average: nn.Module | None, optimiser: torch.optim.Optimizer
    ) -> tuple[int, float]:
        """Put back what the file holds.

        Returns:
            The next step, and the seconds that the steps before it took; zeros where there is no file.

        Raises:
            ValueError: If the file is damaged, or belongs to another training; the message says what differs.
        """
        if not self.path.exists():
            return 0, 0.0
        device = next(net.parameters()).device
        state = read_tensors(self.path, device, "identity", "net", "optimiser", "step", "seconds")
        if changed := differences(state["identity"], dict(self.identity)):
            raise ValueError(
                f"{self.path} belongs to another training: {'; '.join(changed)}. Go on with the recipe and "
                "the data that it was begun with, delete it to train anew, or choose another folder."
            )
        with reading(self.path):
            net.load_state_dict(state["net"])
            if average is not None:
                average.load_state_dict(state["average"])
            optimiser.load_state_dict(state["optimiser"])
        return state["step"], state["seconds"]

    def save(
        self,
        net: nn.Module,
        average: nn.Module | None,
        optimiser: torch.optim.Optimizer,
        step: int,
        seconds: float,
    ) -> None:
        """Write the state after `step` steps, whole or not at all."""
        state = {
            "identity": dict(self.identity),
            "net": net.state_dict(),
            "average": None if average is None else average.state_dict(),
            "optimiser": optimiser.state_dict(),
            "step": step,
            "seconds": seconds,
        }
        write_tensors(self.path, state)


def fit(
    net: nn.Module,
    batch: Callable[[int], Batch],
    criterion: Callable[[int], AdversarialLoss],
    *,
    steps: int,
    lr: float = 0.001,
    decay: float = 0.0,
    average: float = 0.0,
    seed: int = 0,
    precision: str = "float32",
    checkpoint: Checkpoint | None = None,
    name: str = "train",
    progress: bool = False,
) -> float:
    """Train a network in place.

    Under `torch.distributed` every process takes its part of each batch, and gradients are averaged over the
    processes; the first one writes the checkpoints.

    Args:
        net: The network; in eval mode afterwards.
        batch: From the step to this process's part of its batch.
        criterion: From the step to the loss then in force.
        steps: Optimiser steps.
        lr: Adamax's learning rate; the paper's is 0.001.
        decay: The share of the steps, at the end, over which the rate falls linearly to zero. The paper holds
            it; the fall is for short runs.
        average: Decay of the running average of the weights that the network ends with; 0 for none, as in the
            paper. A decay of `1 - 1 / n` averages about `n` steps.
        seed: Of the loss's chance, with the samples' places.
        precision: "float32", or "bfloat16" for autocast.
        checkpoint: Where to keep the state, and whence to go on.
        name: Stands before the progress bar.
        progress: Whether to show one.

    Returns:
        Seconds of training, those before a restart included.

    Raises:
        ValueError: If steps is not positive, or the checkpoint belongs to another training.
        FloatingPointError: If the loss is not finite.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1; got {steps}.")
    optimiser = torch.optim.Adamax(net.parameters(), lr=lr)
    averaging = get_ema_multi_avg_fn(average)  # type: ignore[no-untyped-call]  # torch's own gap
    averaged = AveragedModel(net, multi_avg_fn=averaging) if average else None
    begun, before = checkpoint.load(net, averaged, optimiser) if checkpoint else (0, 0.0)
    model = nn.parallel.DistributedDataParallel(net) if place()[1] > 1 else net
    net.train()
    began = saved = time.perf_counter()
    with tqdm(range(begun, steps), name, steps, initial=begun, unit="step", disable=not progress) as bar:
        for step in bar:
            x, y, index = batch(step)
            with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                total, parts = criterion(step)(model, x, y, seed=seed, index=index)
            if not total.isfinite():
                raise FloatingPointError(
                    f"the training loss is {total.item()} at step {step} of {steps}; lower lr (now {lr}), "
                    "and look at the images for values that are not finite."
                )
            for group in optimiser.param_groups:
                group["lr"] = lr * min(1.0, (1 - step / steps) / decay if decay else 1.0)
            optimiser.zero_grad()
            total.backward()  # type: ignore[no-untyped-call]  # torch's own gap
            optimiser.step()
            if averaged is not None:
                averaged.update_parameters(net)
            if step % 10 == 0:
                bar.set_postfix({part: f"{value.item():.2f}" for part, value in parts.items()})
            now = time.perf_counter()
            if checkpoint and first() and (step + 1 == steps or now - saved > checkpoint.every):
                checkpoint.save(net, averaged, optimiser, step + 1, before + now - began)
                saved = now
    if averaged is not None:
        net.load_state_dict(averaged.module.state_dict())
    net.eval()
    return before + time.perf_counter() - began
