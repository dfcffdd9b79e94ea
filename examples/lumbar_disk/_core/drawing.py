"""Drawing that all figures share: colours, contours, frames, and drawings turned for a dark page."""

from __future__ import annotations

import re
from typing import Any

import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray

TRUTH, ANSWER = "red", "lime"
GROUND, INK = "#ffffff", "#1f2328"
COLOURS = ("#0067a5", "#c24a00", "#00795a", "#3d9fd8", "#b98200", "#b0508c")  # of a figure's curves
_DARK = {
    GROUND: "#16191d",
    INK: "#d6dae0",
    **dict(zip(COLOURS, ("#56a9e8", "#f0854a", "#35c49b", "#9ad0f5", "#eec55a", "#e59ac8"), strict=True)),
}


def closed(axes: Axes, contour: torch.Tensor, colour: str, style: str = "-") -> None:
    """Draw a closed contour `(K, 2)`."""
    x, y = torch.cat([contour, contour[:1]]).numpy().T
    axes.plot(x, y, color=colour, linewidth=1.3, linestyle=style)


def edge(axes: Axes, logits: NDArray[Any], colour: str, style: str = "solid", width: float = 1.3) -> None:
    """Draw the edge of a mask given as logits `(H, W)`; one that is empty or full has none."""
    if (logits > 0).any() and (logits < 0).any():
        axes.contour(logits, levels=[0.0], colors=[colour], linewidths=width, linestyles=style)


def frame(axes: Axes, size: tuple[int, int]) -> None:
    """Show exactly the pixels of an image of `size`, without ticks."""
    axes.set(xticks=[], yticks=[], xlim=(-0.5, size[1] - 0.5), ylim=(size[0] - 0.5, -0.5), aspect="equal")


def inked(ink: str, ground: str) -> dict[Any, str]:
    """Matplotlib's settings for the colours of writing and ground."""
    inks = (
        "text.color",
        "axes.edgecolor",
        "axes.labelcolor",
        "axes.titlecolor",
        "xtick.color",
        "ytick.color",
    )
    grounds = ("figure.facecolor", "axes.facecolor")
    return dict.fromkeys((*inks, "grid.color"), ink) | dict.fromkeys(grounds, ground)


def darkened(svg: bytes) -> bytes:
    """A drawing in `INK`, `GROUND` and `COLOURS`, saved as SVG, for a dark page."""
    return re.sub("|".join(_DARK), lambda found: _DARK[found[0]], svg.decode()).encode()
