"""Pictures of the page on guarantees, in inks that can be read on a light and on a dark page."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import norm

from advreg.evaluation import Table
from advreg.plotting import plot_bounds

INK, CLEAN, MOVED, BOUND = "#7c7c7c", "#2f8fd0", "#dd6b20", "#1f9e77"
RESULTS = Path("examples/lumbar_disk/results/certified-medium-spider/models")  # from the repository
SIGMA = 0.25
_INKED = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")


def clouds() -> None:
    """Two clouds of noisy inputs, and how much of each lies on the far side."""
    ax = _axes()
    at, shift = np.linspace(-3.4, 4.4, 400), 1.0
    for centre, colour, name in ((0.0, CLEAN, "$x$ + noise"), (shift, MOVED, r"$x + \delta$ + noise")):
        density, worse = norm.pdf(at, centre), at >= shift
        ax.plot(at, density, color=colour, label=name)
        ax.fill_between(at[worse], density[worse], color=colour, alpha=0.35, linewidth=0)
    moved, clean = ({"color": one, "arrowprops": {"arrowstyle": "-", "color": one}} for one in (MOVED, CLEAN))
    ax.annotate("half of these ...", (1.9, 0.2), (2.3, 0.33), **moved)
    ax.annotate("... are\n$\\Phi(-R/\\sigma)$\nof these", (1.2, 0.12), (-3.5, 0.3), **clean)
    ax.set(yticks=[], xlabel=r"along $\delta$, in $\sigma$; here $R = \|\delta\| = \sigma$", ylim=(0, 0.52))
    ax.legend(frameon=False, loc="upper left", ncols=2)


def curve() -> None:
    """A metric along one direction, its median under noise, and what is guaranteed."""
    ax = _axes()
    random = np.random.default_rng(3)
    at = np.linspace(-3, 3, 6001)
    teeth = np.sin(19 * at) ** 6 * random.uniform(0.2, 1, at.shape)
    metric = 0.9 - 0.35 / (1 + np.exp(-4 * (at - 0.45))) - 0.12 * teeth
    centres = np.linspace(-0.75, 0.75, 121)
    sorted_, order = np.sort(metric), np.argsort(metric)

    def quantile(centre: float, share: float) -> float:
        """Of the metric under noise around a point."""
        weight = norm.pdf(at[order], centre, SIGMA)
        return float(sorted_[np.searchsorted(weight.cumsum() / weight.sum(), share)])

    ax.plot(at, metric, color=INK, linewidth=0.5, alpha=0.6, label=r"metric of $x + \delta$")
    ax.plot(centres, [quantile(one, 0.5) for one in centres], color=MOVED, label="its median under noise")
    bound = [quantile(0.0, float(norm.cdf(-abs(one) / SIGMA))) for one in centres]
    ax.plot(centres, bound, color=BOUND, linestyle="--", label="guaranteed, from noise around $x$")
    ax.fill_between(centres, bound, 0.35, color=BOUND, alpha=0.12, linewidth=0)
    ax.axvline(0, color=INK, linewidth=0.6)
    ax.set(xlabel=r"$\delta$", ylim=(0.35, 1.12), yticks=[0.4, 0.6, 0.8, 1.0], xlim=(-0.75, 0.75))
    ax.legend(frameon=False, loc="upper right", fontsize="small")


def mask() -> None:
    """Dice of the study's network, found and guaranteed."""
    _found_and_guaranteed("mask", "dice", "Dice of the mask")


def contour() -> None:
    """Point error of the study's network, found and guaranteed."""
    _found_and_guaranteed("contour", "point_error", "point error in pixels")


def _found_and_guaranteed(head: str, metric: str, label: str) -> None:
    ax = _axes()
    table = Table.load(RESULTS / "P10_noise_0.5" / "table.csv")
    plot_bounds(table, head=head, metric=metric, ax=ax)
    ax.set(xlabel="L2 radius", ylabel=label)
    ax.margins(y=0.3)  # for the legend


def _axes() -> plt.Axes:
    plt.rcParams.update(dict.fromkeys(_INKED, INK))
    return plt.subplots(figsize=(4.5, 3.4), layout="constrained")[1]
