"""The figure of `strength.py`: damage against passes; the paper's attack, the best peer, `auto_attack`."""

from typing import IO, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

SHOWN = {
    "dice": "Dice of the mask",
    "contour_dice": "Dice of the contour",
    "point_error": "point error, pixels",
}
LINES = {"paper": ("the paper's attack", "0.6"), "peer": ("best peer", "C1"), "ours": ("auto_attack", "C0")}


def plot(summary: list[dict[str, Any]], file: IO[bytes]) -> None:
    """One panel for each metric, model and radius.

    Args:
        summary: Of the tables; rows of fewer than three numbers of passes make short lines.
        file: Where to write it, as PNG.
    """
    places = sorted({(row["model"], row["radius"]) for row in summary})
    size = (2.1 * len(places), 2.0 * len(SHOWN) + 0.6)
    with mpl.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(SHOWN), len(places), squeeze=False, sharex=True)
        for line, (metric, name) in zip(axes, SHOWN.items(), strict=True):
            for ax, (model, radius) in zip(line, places, strict=True):
                rows = [
                    row
                    for row in summary
                    if (row["metric"], row["model"], row["radius"]) == (metric, model, radius)
                    and row["passes"] <= 500
                ]
                for key, (label, colour) in LINES.items():
                    points = [(row["passes"], row[key]["mean"]) for row in rows if row[key]]
                    ax.plot(*zip(*points, strict=True), "o-", color=colour, label=label, markersize=3)
                ax.set_xscale("log")
                ax.set_xticks(
                    sorted({row["passes"] for row in rows}), sorted({row["passes"] for row in rows})
                )
                ax.xaxis.set_minor_locator(NullLocator())
                ax.grid(alpha=0.2)
                if metric == next(iter(SHOWN)):
                    ax.set_title(f"{model}, radius {radius:g}")
            line[0].set_ylabel(name)
        for ax in axes[-1]:
            ax.set_xlabel("passes")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
        figure.savefig(file, dpi=130)
