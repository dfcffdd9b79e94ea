"""The command ``lumbar-disk``."""

from __future__ import annotations

import shlex
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from . import demo as study
from . import recipes
from .unet import UNet

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


class Source(StrEnum):
    """Where the discs come from."""

    phantom = "phantom"
    spider = "spider"


@app.callback()
def main() -> None:
    """Adversarial robustness of lumbar-disc shape reconstruction from MR images (Chen et al.)."""


@app.command()
def demo(
    context: typer.Context,
    data: Annotated[
        Source, typer.Option(help="Synthetic patients, or the SPIDER data set under --root.")
    ] = Source.phantom,
    root: Annotated[
        Path | None,
        typer.Option(help="SPIDER's folder, with images/*.mha and masks/*.mha. For --data spider."),
    ] = None,
    series: Annotated[str, typer.Option(help="Which of SPIDER's series: t1, t2 or t2_SPACE.")] = "t2_SPACE",
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results.  [default: results/demo or results/spider]")
    ] = None,
    patients: Annotated[int | None, typer.Option(min=2, help="Phantoms to draw. For --data phantom.")] = None,
    test_patients: Annotated[int | None, typer.Option(min=1, help="Patients kept for the test.")] = None,
    size: Annotated[
        int | None, typer.Option(min=64, help="Side of a crop in pixels, a multiple of 64.")
    ] = None,
    width: Annotated[
        int | None, typer.Option(min=2, help="Width of the network, even; the paper's is 64.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps.")] = None,
    attack_steps: Annotated[int | None, typer.Option(min=1, help="Steps of each attack.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of phantoms, split, training and attacks.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads.  [default: torch's choice]")
    ] = None,
) -> None:
    """Train a two-headed U-net on lumbar discs, then attack each head at several radii as the paper does.

    Prints the table and writes it with figures, weights and a summary. Options left out take the recipe of
    --data.
    """
    recipe = recipes.phantom_recipe() if data is Source.phantom else recipes.spider_recipe()
    for name in ("root", "series") if data is Source.phantom else ("patients",):
        if _typed(context, name):
            raise typer.BadParameter(f"--{name} has no meaning with --data {data.value}; leave it out.")
    options: dict[str, Any] = {
        "patients": patients,
        "test_patients": test_patients,
        "size": size,
        "width": width,
        "steps": steps,
        "attack_steps": attack_steps,
        "seed": seed,
    }
    recipe = replace(recipe, **{name: value for name, value in options.items() if value is not None})
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        with torch.device("meta"):
            UNet(recipe.width, recipe.size)  # a size it refuses is better known before the work than after
        split = study.load(recipe, root, series=series, progress=True)
    except (FileNotFoundError, ValueError) as error:
        typer.echo(f"lumbar-disk: {error}", err=True)
        raise typer.Exit(2) from None
    folder = out or Path("results") / ("demo" if data is Source.phantom else data.value)
    report = study.run(recipe, split, folder, command=_command(context), progress=True)
    console = Console()
    console.print(_shown(report, recipe, split))
    for path in report.files:
        console.print(f"wrote {path}", soft_wrap=True, highlight=False)


def _command(context: typer.Context) -> str:
    """Return the command line that repeats this run."""
    words = ["lumbar-disk", str(context.info_name)]
    for name, value in context.params.items():
        if _typed(context, name):
            words += ["--" + name.replace("_", "-"), str(value)]
    return shlex.join(words)


def _typed(context: typer.Context, name: str) -> bool:
    """Return whether an option was given, rather than left at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _shown(report: study.Report, recipe: recipes.Recipe, split: study.Data) -> Table:
    """Lay the table out for the terminal."""
    shown = Table(
        title=f"{len(split.test)} unseen discs; width {recipe.width}, {len(split.train)} training discs",
        caption=f"Linf, {recipe.attack_steps} steps; mask Dice: attack on the mask; the rest: on the contour",
    )
    for heading in ("Linf radius", "point error (px)", "contour Dice", "mask Dice"):
        shown.add_column(heading, justify="right")
    for row in report.rows:
        shown.add_row(
            f"{row['radius']:g}",
            f"{row['point_error_px']:.2f}",
            f"{row['contour_dice']:.3f}",
            f"{row['mask_dice']:.3f}",
        )
    return shown
