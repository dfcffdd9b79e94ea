"""The study's figures as files, and as renderings for a page: wide and tall, light and dark."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from .files import write
from .results import Cells, Results
from .study_figures import (
    CURVES,
    OUTPUTS,
    curve_figure,
    curve_text,
    darkened,
    disc,
    output_figure,
    output_text,
)

NARROW = "(max-width: 640px)"
DARK = "(prefers-color-scheme: dark)"


@dataclass(frozen=True)
class Picture:
    """A figure as a page shows it.

    Attributes:
        number: The paper's, such as 4 or "1b".
        caption: What stands below.
        alt: What it shows, for whoever does not see it.
        sources: Data URIs by media query, the narrowest first; "" is the rest. Empty if nothing was drawn.
    """

    number: int | str
    caption: str
    alt: str
    sources: dict[str, str]


def pictures(results: Results, cells: Cells, out: Path) -> tuple[list[Picture], list[Path]]:
    """Write Figs 4 to 9 as far as they can be drawn.

    Args:
        results: Of the study.
        cells: What `results.cells` returned for it.
        out: The folder to write to.

    Returns:
        The figures for a page, and the files.
    """
    shown, files = [], []
    for number, curves in CURVES.items():
        path = out / f"figure{number}.png"
        sources = drawing(path, partial(curve_figure, number, cells))
        files.append(path)
        shown.append(Picture(number, curves.caption, curve_text(number, cells), sources))
    for number, head in OUTPUTS.items():
        path = out / f"figure{number}.png"
        caption = f"The {head} of one test disc under attack on the {head}, by three networks"
        which = disc(results.examples)
        if which is None:
            path.unlink(missing_ok=True)  # of an earlier run
            shown.append(Picture(number, caption, "", {}))
            continue
        sources = photograph(path, partial(output_figure, number, results.examples))
        files.append(path)
        shown.append(Picture(number, f"{caption}: {which}", output_text(number, results.examples), sources))
    return shown, files


def drawing(path: Path, draw: Callable[..., Figure]) -> dict[str, str]:
    """Write a figure of lines, and render it for a page, light and dark.

    Args:
        path: The PNG file to write.
        draw: Draws it, given ``tall``, in the colours that `study_figures.darkened` knows.

    Returns:
        See `Picture.sources`.
    """
    page = draw(tall=False)
    write(path, page.savefig)
    wide, tall = _svg(page), _svg(draw(tall=True))
    drawn = {f"{NARROW} and {DARK}": darkened(tall), NARROW: tall, DARK: darkened(wide), "": wide}
    return {media: _uri("image/svg+xml", svg) for media, svg in drawn.items()}


def photograph(path: Path, draw: Callable[..., Figure]) -> dict[str, str]:
    """Write a figure of images, and render it for a page; see `drawing`."""
    write(path, draw(tall=False).savefig)
    return {
        NARROW: _uri("image/png", _saved(draw(tall=True))),
        "": _uri("image/png", path.read_bytes()),
    }


def _svg(figure: Figure) -> bytes:
    """Return a drawing as SVG, the same for the same figure."""
    with rc_context({"svg.hashsalt": "advreg"}):
        return _saved(figure, format="svg", metadata={"Date": None})


def _saved(figure: Figure, **options: Any) -> bytes:
    """Return what a figure writes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, **options)
    return buffer.getvalue()


def _uri(kind: str, content: bytes) -> str:
    """Return content as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
