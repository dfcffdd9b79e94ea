"""Figures: discs under attack (the paper's Figs 1, 8 and 9), tables as curves, virtual samples (Fig. 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from advreg import contour_dice, dice

from lumbar_disk.virtual import Samples
from lumbar_disk.data import Discs, Heads
from lumbar_disk.virtual import ShapeModel

TRUTH, ANSWER = "red", "lime"


class Attacked(Protocol):
    """Adversarial images `x` `(N, 1, S, S)` and the network's `output` for them."""

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


def virtual_figure(real: Discs, samples: Samples) -> Figure:
    """Show how virtual samples come about, one per row (the paper's Fig. 2).

    Left, the real image that lends its texture, with its own shape; middle, the virtual shape over the real
    one (dashed); right, the virtual image with the virtual shape.

    Args:
        real: The discs of the stream.
        samples: Some of its samples.

    Returns:
        The figure, not yet written.
    """
    count = len(samples.index)
    figure = Figure(figsize=(8.0, 2.9 * count), dpi=110, layout="constrained")
    for row, place in zip(figure.subplots(count, 3, squeeze=False), range(count), strict=True):
        source = int(samples.source[place])
        before, after = real.contours[source], samples.contours[place]
        row[0].imshow(real.images[source, 0].numpy(), cmap="gray", vmin=0, vmax=1)
        closed(row[0], before, TRUTH)
        closed(row[1], before, "gray", "--")
        closed(row[1], after, TRUTH)
        row[2].imshow(samples.images[place, 0].numpy(), cmap="gray", vmin=0, vmax=1)
        closed(row[2], after, TRUTH)
        name = f"patient {real.patients[source]}, {real.levels[source]}"
        titles = (name, "virtual shape", f"virtual image {int(samples.index[place])}")
        for axes, title in zip(row, titles, strict=True):
            axes.set_title(title, fontsize=10)
            frame(axes, (samples.images.shape[-2], samples.images.shape[-1]))
    return figure


def modes_figure(model: ShapeModel, size: tuple[int, int]) -> Figure:
    """Show each mode of a shape model at -2 (blue), 0 (black) and +2 (red) standard deviations.

    Args:
        model: The shape model.
        size: Rows and columns (H, W) of the crop.

    Returns:
        The figure, not yet written.
    """
    count = len(model.modes)
    columns = min(count, 5)
    rows = -(-count // columns)
    figure = Figure(figsize=(2.6 * columns, 0.4 + 2.75 * rows), dpi=110, layout="constrained")
    figure.suptitle(
        f"{count} modes, {100 * model.explained:.1f} % of the variation: -2 (blue), 0, +2 (red) SD"
    )
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[count:]:
        axes.set_visible(False)
    for mode, axes in enumerate(grid[:count]):
        codes = torch.zeros(3, count)
        codes[:, mode] = torch.tensor([-2.0, 0.0, 2.0])
        for shape, colour in zip(model.decode(codes), ("tab:blue", "black", "tab:red"), strict=True):
            closed(axes, shape, colour)
        axes.set_title(f"mode {mode + 1}: {100 * float(model.shares[mode]):.1f} %", fontsize=10)
        frame(axes, size)
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
        closed(axes, truth, TRUTH)
    closed(row[1], contour, ANSWER)
    if bool((logits > 0).any()) and bool((logits < 0).any()):
        row[2].contour(logits[0].numpy(), levels=[0.0], colors=[ANSWER], linewidths=1.3)
    change = seen["mask"] - test.images[place, 0]
    row[3].imshow(change.numpy(), cmap="seismic", vmin=-max(radius, 1e-9), vmax=max(radius, 1e-9))
    name = "clean" if radius == 0 else f"Linf {radius:g}"
    titles = (name, f"contour, Dice {scores[0]:.2f}", f"mask, Dice {scores[1]:.2f}", "perturbation / radius")
    for axes, title in zip(row, titles, strict=True):
        axes.set_title(title, fontsize=9)
        frame(axes, size)


def closed(axes: Axes, contour: torch.Tensor, colour: str, style: str = "-") -> None:
    """Draw a closed contour `(K, 2)`."""
    x, y = torch.cat([contour, contour[:1]]).numpy().T
    axes.plot(x, y, color=colour, linewidth=1.3, linestyle=style)


def frame(axes: Axes, size: tuple[int, int]) -> None:
    """Show exactly the pixels of an image of `size`, without ticks."""
    axes.set(xticks=[], yticks=[], xlim=(-0.5, size[1] - 0.5), ylim=(size[0] - 0.5, -0.5), aspect="equal")
