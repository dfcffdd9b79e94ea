"""Figures of results; needs matplotlib, `pip install "advreg[plot]"`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from advreg._core.optional import new_axes
from advreg.attacks import Front
from advreg.evaluation import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_curves", "plot_front"]

_LINES = ("-", "--", ":", "-.")
_MARKERS = "osD^vPX*"
_SIZE = (5.5, 3.8)


def plot_curves(
    tables: Mapping[str, Table],
    *,
    head: str,
    metric: str,
    attack: str | None = None,
    ax: Axes | None = None,
    confidence: float = 0.95,
    label: str | None = None,
) -> Axes:
    """Draw the mean of a metric against the radius, one curve per model, its bootstrap interval as a band.

    Args:
        tables: The table of each model, by the name that the legend shows.
        head: Which head.
        metric: Which metric.
        attack: Under which attack; by default under each, told apart by the line's style.
        ax: Where to draw; by default in a new figure of its own, `ax.figure`, that pyplot does not know.
        confidence: Of the interval, as for `bootstrap`.
        label: What the vertical axis says; by default the metric and the head.

    Returns:
        The axes, for titles, limits and `ax.figure.savefig(path)`.

    Raises:
        ValueError: A table without such rows, or without radii; the message says what it has.
        ImportError: matplotlib is not installed.

    Example:
        >>> from advreg.plotting import plot_curves
        >>> from advreg.evaluation import Row, Table
        >>> rows = [Row(i, "", r, "mask", "mask", "dice", 1 - r * i) for r in (0.0, 0.1) for i in range(5)]
        >>> ax = plot_curves({"plain": Table(rows)}, head="mask", metric="dice")
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('radius', 'dice of mask')
    """
    curves = {name: _curves(name, table, head, metric, attack, confidence) for name, table in tables.items()}
    attacks = list(dict.fromkeys(under for found in curves.values() for under in found))
    if ax is None:
        (ax,) = new_axes(_SIZE)
    for number, (name, found) in enumerate(curves.items()):
        for under, points in found.items():
            radii, means, lows, highs = zip(*points, strict=True)
            (line,) = ax.plot(
                radii,
                means,
                linestyle=_LINES[attacks.index(under) % len(_LINES)],
                marker=_MARKERS[number % len(_MARKERS)],
                markersize=4,
                color=f"C{number}",
                label=name if len(attacks) == 1 else f"{name}, attack: {under}",
            )
            ax.fill_between(radii, lows, highs, color=line.get_color(), alpha=0.15, linewidth=0)
    ax.set_xlabel("radius")
    ax.set_ylabel(label or (f"{metric} of {head}" if head else metric))
    ax.legend(frameon=False)
    return ax


def plot_front(front: Front, ax: Axes | None = None, *, label: str | None = None) -> Axes:
    """Draw what one input can do to two heads: the mean of each metric, from one end to the other.

    Args:
        front: Of `tradeoff`. The clean inputs are a cross.
        ax: As for `plot_curves`.
        label: What the legend calls it; by default there is no legend.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> import torch
        >>> from advreg.attacks import Front
        >>> from advreg.plotting import plot_front
        >>> values = torch.tensor([[[9.0, 0.8]], [[5.0, 0.1]]])
        >>> front = Front(("contour", "mask"), torch.tensor([0.0, 1.0]), torch.zeros(2, 1, 4), values,
        ...               torch.tensor([[1.0, 0.9]]), ("higher", "lower"))
        >>> plot_front(front).get_xlabel()
        'contour (higher is worse)'
    """
    ax = new_axes(_SIZE)[0] if ax is None else ax
    across, up = front.means().T.tolist()
    (line,) = ax.plot(across, up, marker="o", markersize=4, label=label)
    clean = front.clean.mean(0).tolist()
    ax.plot(clean[0], clean[1], marker="x", color=line.get_color(), linestyle="none")
    names = [f"{head} ({worse} is worse)" for head, worse in zip(front.heads, front.worse, strict=True)]
    ax.set_xlabel(names[0])
    ax.set_ylabel(names[1])
    if label is not None:
        ax.legend(frameon=False)
    return ax


def _curves(
    name: str, table: Table, head: str, metric: str, attack: str | None, confidence: float
) -> dict[str, list[tuple[float, float, float, float]]]:
    """Radius, mean, low and high, by attack, in order of the radius."""
    chosen = table.where(head=head, metric=metric)
    chosen = chosen if attack is None else chosen.where(attack=attack)
    if not len(chosen) or any(math.isnan(row.radius) for row in chosen):
        under = "" if attack is None else f" under attack {attack!r}"
        raise ValueError(
            f"expected rows with a radius of metric {metric!r} of head {head!r}{under}; the table {name!r} "
            f"is {table}: choose what it has, and tell evaluate its radius="
        )
    curves: dict[str, list[tuple[float, float, float, float]]] = {}
    for mean in chosen.means(("attack", "radius"), confidence=confidence):
        curves.setdefault(mean.attack, []).append((mean.radius, mean.mean, mean.low, mean.high))
    return {under: sorted(points) for under, points in curves.items()}
