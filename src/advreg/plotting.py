"""Figures of results; needs matplotlib, `pip install "advreg[plot]"`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from advreg._core.optional import new_axes
from advreg.attacks import Front
from advreg.evaluation import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_bounds", "plot_brackets", "plot_curves", "plot_front"]

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


def plot_bounds(
    table: Table,
    *,
    head: str,
    metric: str,
    ax: Axes | None = None,
    confidence: float = 0.95,
    label: str | None = None,
) -> Axes:
    """Draw what attacks found and what a certificate guarantees against the radius, and the band between.

    The truth lies in the band: no adversary does more than the certificate says, and one did what was found.

    Args:
        table: Rows of both, `radius_curve(...) + certify(...)`, of the same examples. The attacks are on the
            noisy predictor, `advreg.certificates.draws`, of which the certificate speaks.
        head: Which head.
        metric: Which metric.
        ax: As for `plot_curves`.
        confidence: Of the bootstrap intervals of the means, which are drawn as bars.
        label: As for `plot_curves`.

    Returns:
        The axes.

    Raises:
        ValueError: A table that lacks what was found or what is guaranteed, or radii that both have.
        ImportError: matplotlib is not installed.

    Example:
        >>> from advreg.evaluation import Row, Table
        >>> from advreg.plotting import plot_bounds
        >>> rows = [Row(i, "", r, "auto", "mask", "dice", 1 - r * i) for r in (0.0, 0.1) for i in range(3)]
        >>> rows += [row._replace(bound="guaranteed", value=row.value - 0.1) for row in rows]
        >>> plot_bounds(Table(rows), head="mask", metric="dice").get_ylabel()
        'dice of mask'
    """
    chosen = table.where(head=head, metric=metric)
    sides = {}
    for bound in ("found", "guaranteed"):
        rows = chosen.where(bound=bound)
        if not len(rows):
            raise ValueError(
                f"expected rows of metric {metric!r} of head {head!r} that are {bound}; the table is "
                f"{table}: add what radius_curve found on draws(model, ...) and what certify guarantees"
            )
        sides[bound] = {mean.radius: mean for mean in rows.means(("radius",), confidence=confidence)}
    both = sorted(sides["found"].keys() & sides["guaranteed"].keys())
    if not both:
        raise ValueError(
            f"what is found has the radii {sorted(sides['found'])}, what is guaranteed "
            f"{sorted(sides['guaranteed'])}: take the same"
        )
    if ax is None:
        (ax,) = new_axes(_SIZE)
    found, held = ([sides[bound][radius].mean for radius in both] for bound in ("found", "guaranteed"))
    ax.fill_between(both, held, found, color="C0", alpha=0.2, linewidth=0, label="between them")
    for bound, marker, line in (("found", "o", "-"), ("guaranteed", "s", "--")):
        means = [sides[bound][radius] for radius in sorted(sides[bound])]
        radii, values = [mean.radius for mean in means], [mean.mean for mean in means]
        bars = [[mean.mean - mean.low for mean in means], [mean.high - mean.mean for mean in means]]
        ax.errorbar(
            radii,
            values,
            bars,
            color="C0",
            linestyle=line,
            marker=marker,
            markersize=4,
            capsize=2,
            label=bound,
        )
    ax.set_xlabel("L2 radius")
    ax.set_ylabel(label or (f"{metric} of {head}" if head else metric))
    ax.legend(frameon=False)
    return ax


def plot_brackets(
    guaranteed: Tensor, found: Tensor, *, ax: Axes | None = None, label: str = "critical radius"
) -> Axes:
    """Draw the bracket of each example's critical radius: guaranteed from below, found from above.

    Args:
        guaranteed: Radii `(B,)`, of `advreg.certificates.certified_radius`.
        found: Radii `(B,)`, of `advreg.attacks.critical_radius` on the noisy predictor; infinite where none
            was found, which an arrow shows.
        ax: As for `plot_curves`.
        label: What the horizontal axis says.

    Returns:
        The axes; examples in the order of what was found, the most fragile below.

    Raises:
        ValueError: Radii that do not pair.
        ImportError: matplotlib is not installed.

    Example:
        >>> import torch
        >>> from advreg.plotting import plot_brackets
        >>> plot_brackets(torch.tensor([0.1, 0.3]), torch.tensor([0.2, 0.5])).get_ylabel()
        'example'
    """
    low, high = (torch.as_tensor(radii).detach().cpu().double() for radii in (guaranteed, found))
    if low.ndim != 1 or low.shape != high.shape:
        raise ValueError(
            f"expected radii (B,) from below and from above; got {tuple(low.shape)} and {tuple(high.shape)}"
        )
    if ax is None:
        (ax,) = new_axes(_SIZE)
    order = high.argsort()
    low, high = low[order], high[order]
    places, endless = torch.arange(len(low)), high.isinf()
    edge = 1.05 * float(torch.cat([low, high[~endless]]).max()) if len(low) else 1.0
    ax.hlines(places, low, high.clamp(max=edge), color="C0", alpha=0.35, linewidth=2)
    ax.plot(low, places, "s", color="C0", markersize=4, label="guaranteed")
    ax.plot(high[~endless], places[~endless], "o", color="C1", markersize=4, label="found")
    if bool(endless.any()):
        ax.plot(
            [edge] * int(endless.sum()), places[endless], ">", color="C1", markersize=4, label="none found"
        )
    ax.set_xlabel(label)
    ax.set_ylabel("example")
    ax.set_xlim(left=0)
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
