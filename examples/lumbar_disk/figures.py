"""The demo's two figures: discs under attack (the paper's Figs 1, 8 and 9), and the table as curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from advreg import contour_dice, dice

from .discs import Discs
from .train import Heads

TRUTH, ANSWER = "red", "lime"


class Attacked(Protocol):
    """Adversarial images ``x`` ``(N, 1, S, S)`` and the network's ``output`` for them."""

    @property
    def x(self) -> torch.Tensor:
        """The images."""

    @property
    def output(self) -> Heads:
        """The answers of both heads."""


def attack_figure(found: Mapping[float, Mapping[str, Attacked]], test: Discs, count: int = 2) -> Figure:
    """Show a few test discs, one row per radius.

    Four columns for each disc: the image attacked on its mask; the contour head's answer under attack on the
    contour (the paper's Fig. 8); the mask head's answer under attack on the mask (Fig. 9); that attack's
    perturbation over its radius, from -1 (blue) to 1 (red). The truth is red, an answer green.

    Args:
        found: By radius, then by the head that was attacked.
        test: The test discs.
        count: How many to show, spread evenly over the test set.

    Returns:
        The figure, not yet written.
    """
    count = min(count, len(test))
    places = [((2 * i + 1) * len(test) // (2 * count) + i) % len(test) for i in range(count)]  # unlike levels
    figure = Figure(figsize=(1 + 7.6 * count, 0.5 + 2.15 * len(found)), dpi=110, layout="constrained")
    blocks = figure.subfigures(1, count, wspace=0.02, squeeze=False)
    for block, place in zip(blocks[0], places, strict=True):
        block.suptitle(f"patient {test.patients[place]}, {test.levels[place]}", fontsize=12)
        axes = block.subplots(len(found), 4, squeeze=False)
        for row, (radius, heads) in zip(axes, found.items(), strict=True):
            _attack_row(row, radius, heads, test, place)
    return figure


def curve_figure(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Draw the table against the radius: point error at the left, both Dice at the right (as Fig. 4).

    Args:
        rows: The demo's table, one mapping per radius.

    Returns:
        The figure, not yet written.
    """
    figure = Figure(figsize=(9.5, 3.8), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    radii = [row["radius"] for row in rows]
    left.plot(radii, [row["point_error_px"] for row in rows], "o-", color="tab:orange", label="contour head")
    left.set(ylabel="point error (pixels)", title="Attack on the contour")
    left.set_ylim(0, 1.1 * max(row["point_error_px"] for row in rows))
    right.plot(
        radii, [row["contour_dice"] for row in rows], "o-", color="tab:orange", label="contour head, attacked"
    )
    right.plot(radii, [row["mask_dice"] for row in rows], "s-", color="tab:blue", label="mask head, attacked")
    right.set(ylabel="Dice", ylim=(-0.02, 1.02), title="Attack on each head")
    for axes in (left, right):
        axes.set(xlabel="radius of the attack (Linf; images lie in [0, 1])", xticks=radii)
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def _attack_row(
    row: Sequence[Axes], radius: float, heads: Mapping[str, Attacked], test: Discs, place: int
) -> None:
    """Fill one radius' four pictures of one disc."""
    truth = test.contours[place]
    size = (test.images.shape[-2], test.images.shape[-1])
    contour = heads["contour"].output["contour"][place]
    logits = heads["mask"].output["mask"][place]
    scores = (
        contour_dice(contour[None], truth[None], size=size).item(),
        dice(logits[None], test.masks[place][None]).item(),
    )
    seen = {head: heads[head].x[place, 0] for head in heads}
    for axes, head in zip(row, ("mask", "contour", "mask"), strict=False):
        axes.imshow(seen[head].numpy(), cmap="gray", vmin=0, vmax=1)
        _closed(axes, truth, TRUTH)
    _closed(row[1], contour, ANSWER)
    if bool((logits > 0).any()) and bool((logits < 0).any()):
        row[2].contour(logits[0].numpy(), levels=[0.0], colors=[ANSWER], linewidths=1.3)
    change = seen["mask"] - test.images[place, 0]
    row[3].imshow(change.numpy(), cmap="seismic", vmin=-max(radius, 1e-9), vmax=max(radius, 1e-9))
    name = "clean" if radius == 0 else f"Linf {radius:g}"
    titles = (name, f"contour, Dice {scores[0]:.2f}", f"mask, Dice {scores[1]:.2f}", "perturbation / radius")
    for axes, title in zip(row, titles, strict=True):
        axes.set_title(title, fontsize=9)
        axes.set(xticks=[], yticks=[], xlim=(-0.5, size[1] - 0.5), ylim=(size[0] - 0.5, -0.5))


def _closed(axes: Axes, contour: torch.Tensor, colour: str) -> None:
    """Draw a closed contour ``(K, 2)``."""
    x, y = torch.cat([contour, contour[:1]]).numpy().T
    kwargs: dict[str, Any] = {"color": colour, "linewidth": 1.3}
    axes.plot(x, y, **kwargs)
