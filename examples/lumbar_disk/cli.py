"""The command ``lumbar-disk``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from . import demo as demonstration
from . import prepare as prepared
from . import recipes, sharing, spider, virtual
from . import report as reports
from . import study as fifteen
from .mesh import KernelName
from .sources import Options
from .unet import UNet

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


class Source(StrEnum):
    """Where the discs come from."""

    phantom = "phantom"
    spider = "spider"


class Data(StrEnum):
    """What `prepare` makes crops from."""

    spider = "spider"
    folder = "folder"
    mat = "mat"
    phantom = "phantom"


class Size(StrEnum):
    """The study's recipes."""

    smoke = "smoke"
    small = "small"
    paper = "paper"


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
    series: Annotated[str, typer.Option(help="Which of SPIDER's series to read.")] = "t2_SPACE",
    out: Annotated[
        Path | None,
        typer.Option(
            file_okay=False, help="Folder for the results. By default results/demo or results/spider."
        ),
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
        int | None, typer.Option(min=1, help="CPU threads; torch's choice by default.")
    ] = None,
) -> None:
    """Train a two-headed U-net on lumbar discs, then attack each head at several radii as the paper does.

    Prints the table and writes it with figures, weights and a summary. Options left out come from a
    recipe, one for each kind of --data.
    """
    recipe = recipes.phantom_recipe() if data is Source.phantom else recipes.spider_recipe()
    _refuse(context, data, ("root", "series") if data is Source.phantom else ("patients",))
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
        split = demonstration.load(recipe, root, series=series, progress=True)
    except (OSError, ValueError) as error:
        typer.echo(f"lumbar-disk: {error}", err=True)
        raise typer.Exit(2) from None
    folder = out or Path("results") / ("demo" if data is Source.phantom else data.value)
    report = demonstration.run(recipe, split, folder, command=_command(context), progress=True)
    console = Console()
    console.print(demonstration.layout(report, recipe, split))
    for path in report.files:
        console.print(f"wrote {path}", soft_wrap=True, highlight=False)


@app.command()
def prepare(
    context: typer.Context,
    data: Annotated[
        Data,
        typer.Option(
            help="SPIDER as downloaded, a folder of images and contours, the paper's .mat crops, or "
            "synthetic patients."
        ),
    ],
    root: Annotated[
        Path | None, typer.Option(help="The folder of the data. For all but --data phantom.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(dir_okay=False, help="File to write. By default results/DATA.npz.")
    ] = None,
    series: Annotated[
        list[str], typer.Option(help="SPIDER's series to read: t1, t2, t2_SPACE; may be repeated.")
    ] = [spider.SERIES],  # noqa: B006 - typer's way to give a list
    patients: Annotated[int, typer.Option(min=2, help="Phantoms to draw. For --data phantom.")] = 54,
    size: Annotated[int, typer.Option(min=16, help="Side of a crop in pixels.")] = 128,
    test_patients: Annotated[
        int,
        typer.Option(min=1, help="Patients drawn for the test, where no overview.csv of SPIDER decides it."),
    ] = 6,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split, and of phantoms.")] = 0,
) -> None:
    """Crop every disc, place its 176 landmarks, split by patient, and keep all of it in one file.

    The file names its sources and is checked against them: a second run leaves it alone unless a source or an
    option has changed. Discs that cannot be served are named with the reason, and left out.
    """
    _refuse_foreign(context, data)
    options = Options(data.value, root, tuple(series), size, patients, test_patients, seed)
    path = out or Path("results") / f"{data}.npz"
    try:
        manifest, reasons = prepared.prepare(options, path, command=_command(context), progress=True)
    except (OSError, ValueError) as error:
        typer.echo(f"lumbar-disk: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo("".join(f"{reason}\n" for reason in reasons), nl=False)
    typer.echo(f"{'wrote' if reasons else 'up to date:'} {path}\n{prepared.counts(manifest)}")


@app.command()
def augment(
    context: typer.Context,
    data: Annotated[
        Path,
        typer.Option("--prepared", help="What `lumbar-disk prepare` wrote; its training discs are used."),
    ],
    out: Annotated[
        Path, typer.Option(file_okay=False, help="Folder for report, figures and samples.")
    ] = Path("results/virtual"),
    components: Annotated[
        int, typer.Option(min=1, help="Modes of the shape model; the paper's are 3, 5 and 10.")
    ] = 10,
    count: Annotated[
        int, typer.Option(min=0, help="Samples to store, about 34 kB each at 128 pixels; 0 for none.")
    ] = 640_000,
    kernel: Annotated[
        KernelName, typer.Option(help="r2logr, the thin plate; r, as in the paper's released code.")
    ] = "r2logr",
    shard: Annotated[int, typer.Option(min=1, help="Samples per file.")] = 4096,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the samples.")] = 0,
) -> None:
    """Draw virtual discs from a shape model and bend real images to them, as the paper does.

    Reports the variation that the shape models cover and how many shapes are implausible, draws the paper's
    Fig. 2 and the modes, and stores the samples in shards. A run that is killed goes on where it was.
    """
    try:
        split = prepared.load(data)
        report = virtual.run(
            split.train,
            out,
            components=components,
            count=count,
            command=_command(context),
            manifest={"prepared": data.as_posix(), "arrays": split.manifest["arrays"]},
            seed=seed,
            kernel=kernel,
            shard=shard,
            progress=True,
        )
    except (OSError, ValueError) as error:
        typer.echo(f"lumbar-disk: {error}", err=True)
        raise typer.Exit(2) from None
    console = Console()
    console.print(virtual.layout(report))
    for path in (*report.files, *report.shards[:1]):
        console.print(f"wrote {path}", soft_wrap=True, highlight=False)
    if len(report.shards) > 1:
        console.print(f"and {len(report.shards) - 1} more shards", highlight=False)


@app.command()
def study(
    context: typer.Context,
    out: Annotated[
        Path, typer.Option(file_okay=False, help="Results folder; a run that was killed goes on in it.")
    ],
    size: Annotated[Size, typer.Option(help="The recipe to begin with.")] = Size.small,
    data: Annotated[Data, typer.Option(help="As for `prepare`.")] = Data.spider,
    root: Annotated[
        Path | None, typer.Option(help="The folder of the data. For all but --data phantom.")
    ] = None,
    series: Annotated[
        list[str], typer.Option(help="SPIDER's series to read: t1, t2, t2_SPACE; may be repeated.")
    ] = [spider.SERIES],  # noqa: B006 - typer's way to give a list
    patients: Annotated[int, typer.Option(min=2, help="Phantoms to draw. For --data phantom.")] = 54,
    models: Annotated[
        list[str] | None, typer.Option(help="Make these alone, such as P10_std; may be repeated.")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a field of the recipe, such as width=16; may be repeated."),
    ] = None,
    with_report: Annotated[
        bool, typer.Option("--report/--no-report", help="Whether to end with the report.")
    ] = True,
    checkpoint_every: Annotated[
        float, typer.Option(min=0, help="Seconds between two checkpoints of a training.")
    ] = 30.0,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1. By default a GPU where there is one.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; torch's choice by default.")
    ] = None,
) -> None:
    """Train the paper's fifteen models, attack each head at every radius, write the report.

    What the folder holds is not made again, so a run may be killed and started again at any moment, and
    several may share a folder, on one machine or more: each takes a model that no other has. Under torchrun
    (`torchrun --nproc-per-node N -m lumbar_disk study ...`) the processes share each model's batches.
    """
    _refuse_foreign(context, data)
    try:
        recipe = recipes.edited(recipes.SIZES[size](), setting or [])
        if models:
            recipe = replace(recipe, models=tuple(models))
        if threads is not None:
            torch.set_num_threads(threads)
        with torch.device("meta"):
            UNet(recipe.width, recipe.size)
        options = Options(
            data.value, root, tuple(series), recipe.size, patients, recipe.test_patients, recipe.seed
        )
        with sharing.processes(device) as place:
            split = fifteen.prepared(options, out, command=_command(context))
            fifteen.Study(recipe, split, out, place, checkpoint_every, progress=True).run(_command(context))
            files = reports.write(out) if with_report and sharing.first() else []
    except (OSError, ValueError) as error:
        typer.echo(f"lumbar-disk: {error}", err=True)
        raise typer.Exit(2) from None
    for path in files:
        typer.echo(f"wrote {path}")


@app.command()
def report(
    results: Annotated[
        Path, typer.Argument(help="A folder that `lumbar-disk study` wrote, whole or not yet.")
    ],
) -> None:
    """Write the study's report: the paper's tables, figures and claims, published and ours side by side.

    What is not made yet is named as missing, so a study may be looked at while it runs.
    """
    try:
        files = reports.write(results)
    except (OSError, ValueError) as error:
        typer.echo(f"lumbar-disk: {error}", err=True)
        raise typer.Exit(2) from None
    for path in files:
        typer.echo(f"wrote {path}")


def _refuse_foreign(context: typer.Context, data: Data) -> None:
    """Refuse options of other kinds of data."""
    foreign = {Data.phantom: ("root", "series"), Data.spider: ("patients",)}
    _refuse(context, data, foreign.get(data, ("series", "patients")))


def _refuse(context: typer.Context, data: str, names: Sequence[str]) -> None:
    """Refuse options that the kind of data has no use for."""
    for name in names:
        if _typed(context, name):
            raise typer.BadParameter(f"--{name} has no meaning with --data {data}; leave it out.")


def _command(context: typer.Context) -> str:
    """Return the command line that repeats this run."""
    words = ["lumbar-disk", str(context.info_name)]
    for name, value in context.params.items():
        if _typed(context, name):
            for one in value if isinstance(value, list | tuple) else (value,):
                words += ["--" + name.replace("_", "-"), str(one)]
    return shlex.join(words)


def _typed(context: typer.Context, name: str) -> bool:
    """Return whether an option was given, rather than left at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
