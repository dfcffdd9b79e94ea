"""Optional dependencies: a progress bar by tqdm, figures by matplotlib; imported where they are used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@contextmanager
def progress_bar(
    total: int | None, unit: str, *, shown: bool, initial: int = 0
) -> Iterator[Callable[..., None]]:
    """A progress bar with the time left: a function to call after each unit, with what the bar then tells.

    Args:
        total: How many units there are; None where nobody knows.
        unit: What one is called.
        shown: Whether to show a bar at all.
        initial: How many are done already.

    Raises:
        ImportError: A bar is to be shown, and tqdm is not installed.
    """
    if not shown:
        yield lambda **_: None
        return
    try:
        from tqdm import tqdm  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise ImportError("progress=True needs tqdm: pip install tqdm, or progress=False") from error
    with tqdm(total=total, initial=initial, unit=unit) as bar:

        def advance(**told: object) -> None:
            bar.set_postfix(told, refresh=False)
            bar.update()

        yield advance


def new_axes(size: tuple[float, float], width_ratios: Sequence[float] = (1.0,)) -> tuple[Axes, ...]:
    """The axes, side by side, of a new figure that pyplot does not know.

    Args:
        size: Width and height of the figure in inches.
        width_ratios: One number for each of the axes.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise ImportError('figures need matplotlib: pip install "advreg[plot]"') from error
    columns = len(width_ratios)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(1, columns, width_ratios=width_ratios, squeeze=False)
    for ax in grid[0]:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25, linewidth=0.6)
        ax.set_axisbelow(True)
    return tuple(grid[0])
