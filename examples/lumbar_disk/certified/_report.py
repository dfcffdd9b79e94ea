"""Report of the certificates: one HTML page, the same in Markdown, a table and two figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from advreg.certificates import largest_radius
from advreg.evaluation import Interval, Table, bootstrap
from advreg.plotting import plot_bounds, plot_brackets
from lumbar_disk._core.drawing import GROUND, INK, inked
from lumbar_disk._core.files import csv_text, read_json
from lumbar_disk.certified._recipe import MODELS
from lumbar_disk.certified._run import CRITICAL, MEASURED
from lumbar_disk.report import (
    PAPER_SETTINGS,
    RESTORE,
    Picture,
    interval_text,
    page_content,
    read_results,
    write_drawing,
    write_pages,
)
from lumbar_disk.study import Measure, sigma_of

NOTHING = Interval(math.inf, math.nan, math.nan)  # is guaranteed beyond the reach of the noise


def is_certified(folder: Path) -> bool:
    """Whether a results folder holds certificates."""
    path = folder / "study.json"
    return path.exists() and "certified" in read_json(path, remedy=RESTORE)


def ordered(models: set[str]) -> tuple[str, ...]:
    """The models of the study in its order, then any others by name."""
    return (*MODELS, *sorted(models - set(MODELS)))


def write_report(folder: Path) -> list[Path]:
    """Write a folder's report: `report/report.html`, the same in Markdown, the table and the figures.

    Args:
        folder: What the study wrote, or has written so far.

    Returns:
        Every file written.

    Raises:
        FileNotFoundError: If the folder is not a study's.
        ValueError: If it is another study's, or something in it is not as it should be.
    """
    results = read_results(folder, ordered)
    about = results.about
    if "certified" not in about:
        raise ValueError(
            f"{folder}: expected a study of certificates; make one with `lumbar-disk certify`, or report "
            "another one with `lumbar-disk report`."
        )
    out = folder / "report"
    out.mkdir(exist_ok=True)
    others = about["certified"]["sigma"]["others"]
    sigmas = {name: sigma_of(name) or others for name in results.tables}
    recipe = about["recipe"]
    captions = {
        "1": "Mean over the test discs of what attacks find and of what is guaranteed, against the L2 radius",
        "2": "The critical radius of each disc: guaranteed from below, found from above",
    }
    plans = {"1": _drawn(results.tables, _bounds), "2": _drawn(results.tables, _brackets)}
    pictures, files = [], []
    for number, caption in captions.items():
        path = out / f"figure{number}.png"
        if results.tables:
            pictures.append(Picture(number, caption, caption, write_drawing(path, plans[number])))
            files.append(path)
        else:
            path.unlink(missing_ok=True)  # of an earlier run
            pictures.append(Picture(number, caption, "", {}))
    bounds = [row for name, table in results.tables.items() for row in _rows(name, sigmas[name], table)]
    brackets = [
        _bracketed(name, sigmas[name], table, one, recipe)
        for name, table in results.tables.items()
        for one in MEASURED
    ]
    content = page_content(results, (), PAPER_SETTINGS) | {
        "figures": pictures,
        "bounds": [_told(row) for row in bounds],
        "brackets": brackets,
        "compared": sum(row["compared"] for row in bounds),
        "violations": sum(row["violations"] for row in bounds),
        "recipe": recipe,
        "reach": largest_radius(recipe["cert_samples"], 1.0, recipe["cert_confidence"]),
        "discs": len({row.index for table in results.tables.values() for row in table}),
        "passes": {
            "certificate": recipe["cert_samples"],
            "attack": recipe["cert_passes"] * recipe["cert_draws"],
            "critical": recipe["cert_critical"] * recipe["cert_draws"],
        },
    }
    columns = (
        "model",
        "sigma",
        "measure",
        "radius",
        "found",
        "guaranteed",
        "gap",
        "largest gap",
        "violations",
    )
    lines = [
        [row[name].mean if isinstance(row[name], Interval) else row[name] for name in columns]
        for row in bounds
    ]
    return files + write_pages(out, "certified", content, {"bounds.csv": csv_text([columns, *lines])})


def _rows(name: str, sigma: float, table: Table) -> Iterator[dict[str, Any]]:
    """Of each measure and radius what was found, what is guaranteed, and how far both lie apart."""
    for one in MEASURED:
        radii = dict.fromkeys(row.radius for row in table if row.attack != CRITICAL)
        for radius in radii:
            found, held = (
                _chosen(table, one, bound).where(radius=radius) for bound in ("found", "guaranteed")
            )
            sign = 1 if one.worse == "lower" else -1
            gap = sign * (found.values() - held.values())
            groups, says = [row.group for row in found], bool(_bounded(held, one).all())
            yield {
                "model": name,
                "sigma": sigma,
                "measure": one.title,
                "digits": one.digits,
                "radius": radius,
                "found": bootstrap(found.values(), groups),
                "guaranteed": bootstrap(held.values(), groups) if says else NOTHING,
                "gap": float(gap.mean()) if says else math.inf,
                "largest gap": float(gap.max()) if says else math.inf,
                "compared": int(_bounded(held, one).sum()) if radius else 0,
                "violations": int((gap < 0).sum()) if radius else 0,
            }


def _bounded(held: Table, one: Measure) -> NDArray[np.bool_]:
    """Of which discs anything is guaranteed: better than the worst number that there is."""
    worst = 0.0 if one.worse == "lower" else math.inf
    bounded: NDArray[np.bool_] = held.values() != worst
    return bounded


def _chosen(table: Table, one: Measure, bound: str) -> Table:
    """The rows of a measure: found under the attack on it, or guaranteed."""
    attack = one.attack("auto") if bound == "found" else "smoothing"
    return table.where(head=one.head, metric=one.metric, bound=bound, attack=attack)


def _critical(table: Table, one: Measure) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The critical radii of the discs, guaranteed and found."""
    rows = table.where(attack=CRITICAL, head=one.head)
    return rows.where(bound="guaranteed").values(), rows.where(bound="found").values()


def _bracketed(
    name: str, sigma: float, table: Table, one: Measure, recipe: Mapping[str, Any]
) -> dict[str, Any]:
    """The medians of a model's brackets, over the discs that are right without an attack, for the page."""
    low, high = _critical(table, one)
    ordered, right = (low <= high).mean(), high > 0
    low, high = low[right], high[right]
    reach = largest_radius(recipe["cert_samples"], sigma, recipe["cert_confidence"])
    ratio = np.divide(high, low, out=np.full_like(high, np.inf), where=low > 0)
    medians = {"guaranteed": low, "found": high, "ratio": ratio}
    return {
        "model": name,
        "measure": one.label,
        **{key: f"{np.median(radii):.2f}" if len(low) else "" for key, radii in medians.items()},
        "ordered": f"{ordered:.0%}",
        "discs": f"{len(low)} of {len(right)}",
        "limited": int((low > reach - 0.01 * sigma).sum()),
        "none": int(np.isinf(high).sum()),
    }


def _told(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as the page shows it."""
    digits = row["digits"]

    def text(value: float) -> str:
        return "nothing" if math.isinf(value) else f"{value:.{digits}f}"

    told = {key: row[key] for key in ("model", "measure", "violations")}
    told |= {key: f"{row[key]:g}" for key in ("sigma", "radius")}
    for side in ("found", "guaranteed"):
        told[side] = text(row[side].mean)
        told[f"{side}_interval"] = interval_text(text, row[side].low, row[side].high)
    return told | {"gap": text(row["gap"]), "largest": text(row["largest gap"])}


def _drawn(
    tables: Mapping[str, Table], panel: Callable[[Axes, Table, Measure], None]
) -> Callable[..., Figure]:
    """How to draw a panel for each model and measure: models across, or down where the page is narrow."""

    def draw(*, tall: bool) -> Figure:
        with rc_context(inked(INK, GROUND)):
            count = len(tables)
            shape = (2 * count, 1) if tall else (2, count)
            figure = Figure((4.2 * shape[1] + 0.2, 3.2 * shape[0]), dpi=120, layout="constrained")
            grid = figure.subplots(*shape, squeeze=False)
            for column, (name, table) in enumerate(tables.items()):
                for row, one in enumerate(MEASURED):
                    ax = grid[row * count + column, 0] if tall else grid[row, column]
                    panel(ax, table, one)
                    ax.set_title(name, fontsize=10, parse_math=False)
        return figure

    return draw


def _bounds(ax: Axes, table: Table, one: Measure) -> None:
    """The band between found and guaranteed."""
    held = _chosen(table, one, "guaranteed")
    radii = [
        radius for radius in {row.radius for row in held} if _bounded(held.where(radius=radius), one).all()
    ]
    both = Table(tuple(row for row in _chosen(table, one, "found") + held if row.radius in radii))
    plot_bounds(both, head=one.head, metric=one.metric, ax=ax)
    ax.set_ylabel(one.title)
    ax.set_xlabel("L2 radius")


def _brackets(ax: Axes, table: Table, one: Measure) -> None:
    """The brackets of the critical radii."""
    low, high = (torch.from_numpy(radii.copy()) for radii in _critical(table, one))
    plot_brackets(low, high, ax=ax, label=f"critical L2 radius, {one.label}")
