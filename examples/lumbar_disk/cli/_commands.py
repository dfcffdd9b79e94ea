"""Commands of `lumbar-disk`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from lumbar_disk import certified as certificates
from lumbar_disk import demo as demonstration
from lumbar_disk import ood as strange
from lumbar_disk import report as reports
from lumbar_disk import study as models
from lumbar_disk import virtual
from lumbar_disk import weights as exported
from lumbar_disk._core import sharing
from lumbar_disk.cli import _options as options
from lumbar_disk.data import Options, Prepared, counts, load
from lumbar_disk.data import prepare as prepare_file
from lumbar_disk.network import UNet

SERIES = list(Options("spider").series)

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


class DemoSource(StrEnum):
    """Data sources of the demo."""

    phantom = "phantom"
    spider = "spider"


@app.callback()
def main() -> None:
    """Adversarial robustness of lumbar-disc shape reconstruction from MR images (Chen et al.)."""


@app.command()
def demo(
    context: typer.Context,
    data: Annotated[
        DemoSource, typer.Option(help="Synthetic patients, or the SPIDER data set under --root.")
    ] = DemoSource.phantom,
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
    threads: options.Threads = None,
) -> None:
    """Train a two-headed U-net on lumbar discs, then attack each head at several radii as the paper does.

    Prints the table and writes it with figures, weights and a summary. Options left out come from a
    recipe, one for each kind of --data.
    """
    recipe = demonstration.phantom_recipe() if data == "phantom" else demonstration.spider_recipe()
    options.refuse_foreign(context, data)
    chosen: dict[str, Any] = {
        "patients": patients,
        "test_patients": test_patients,
        "size": size,
        "width": width,
        "steps": steps,
        "attack_steps": attack_steps,
        "seed": seed,
    }
    recipe = replace(recipe, **{name: value for name, value in chosen.items() if value is not None})
    if threads is not None:
        torch.set_num_threads(threads)
    with options.plainly():
        with torch.device("meta"):
            UNet(recipe.width, recipe.size)  # a size it refuses is better known before the work than after
        options.refuse_decided(context, demonstration.wanted(recipe, root, series=series))
        split = demonstration.load(recipe, root, series=series, progress=True)
        folder = out or Path("results") / ("demo" if data == "phantom" else data)
        report = demonstration.run(recipe, split, folder, command=options.command_of(context), progress=True)
    console = Console()
    console.print(demonstration.layout(report, recipe, split))
    if report.shipped:
        console.print(demonstration.layout_shipped(report))
    else:
        console.print("no network that ships was attacked: none is here for crops of this size")
    for path in report.files:
        console.print(f"wrote {path}", soft_wrap=True, highlight=False, markup=False)


@app.command()
def prepare(
    context: typer.Context,
    data: Annotated[
        str,
        typer.Option(
            callback=options.source,
            metavar=options.NAMES,
            help="SPIDER as downloaded, a folder of images and contours, the paper's .mat crops, SSMSpine, "
            "or synthetic patients.",
        ),
    ],
    root: options.Root = None,
    out: Annotated[
        Path | None, typer.Option(dir_okay=False, help="File to write. By default results/DATA.npz.")
    ] = None,
    series: options.Series = SERIES,
    slices: options.Slices = 1,
    overview: options.Overview = None,
    patients: options.Patients = 54,
    size: Annotated[int, typer.Option(min=16, help="Side of a crop in pixels.")] = 128,
    test_patients: Annotated[
        int,
        typer.Option(min=1, help="Patients drawn for the test, where the data do not decide the split."),
    ] = 6,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split, and of phantoms.")] = 0,
    upright: Annotated[bool, typer.Option(help="Whether crops are turned so that discs lie level.")] = True,
) -> None:
    """Crop every disc, place its 176 landmarks, split by patient, and keep all of it in one file.

    The file names its sources and is checked against them: a second run leaves it alone unless a source or an
    option has changed. Discs and images that cannot be served are named with the reason, and left out.
    """
    options.refuse_foreign(context, data)
    wanted = Options(
        data,
        root,
        tuple(series),
        size,
        patients,
        test_patients,
        seed,
        upright=upright,
        slices=slices,
        overview=overview,
    )
    path = out or Path("results") / f"{data}.npz"
    with options.plainly():
        options.refuse_decided(context, wanted)
        manifest, reasons = prepare_file(wanted, path, command=options.command_of(context), progress=True)
    typer.echo("".join(f"{reason}\n" for reason in reasons), nl=False)
    typer.echo(f"{'wrote' if reasons else 'up to date:'} {path}\n{counts(manifest)}")


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
        virtual.KernelName, typer.Option(help="r2logr, the thin plate; r, as in the paper's released code.")
    ] = "r2logr",
    shard: Annotated[int, typer.Option(min=1, help="Samples per file.")] = 4096,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the samples.")] = 0,
) -> None:
    """Draw virtual discs from a shape model and bend real images to them, as the paper does.

    Reports the variation that the shape models cover and how many shapes are implausible, draws the paper's
    Fig. 2 and the modes, and stores the samples in shards. A run that is killed goes on where it was.
    """
    with options.plainly(out):
        split = load(data)
        report = virtual.augment(
            split.train,
            out,
            components=components,
            count=count,
            command=options.command_of(context),
            manifest={"prepared": data.as_posix(), "arrays": split.manifest["arrays"]},
            seed=seed,
            kernel=kernel,
            shard=shard,
            progress=True,
        )
    console = Console()
    console.print(report.layout())
    for path in (*report.files, *report.shards[:1]):
        console.print(f"wrote {path}", soft_wrap=True, highlight=False, markup=False)
    if len(report.shards) > 1:
        console.print(f"and {len(report.shards) - 1} more shards", highlight=False)


def _made(
    context: typer.Context,
    wanted: Options,
    out: Path,
    make: Callable[[Prepared], models.Study],
    report: Callable[[Path], list[Path]] | None,
) -> None:
    """Prepare the data, make what is missing of a study, and end with its report."""
    command = options.command_of(context)
    models.begun(wanted, out, make, command=command).run(command)
    for path in report(out) if report and sharing.first() else []:
        typer.echo(f"wrote {path}")


@app.command()
def study(
    context: typer.Context,
    out: options.Out = Path("results/study"),
    size: options.Recipe = options.Size.small,
    data: options.Data = "spider",
    root: options.Root = None,
    series: options.Series = SERIES,
    slices: options.Slices = 1,
    overview: options.Overview = None,
    patients: options.Patients = 54,
    names: options.Models = None,
    setting: options.Settings = None,
    with_report: options.WithReport = True,
    checkpoint_every: options.CheckpointEvery = 30.0,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Train the paper's fifteen models, attack each head at every radius, write the report.

    What the folder holds is not made again, so a run may be killed and started again at any moment, and
    several may share a folder, on one machine or more: each takes a model that no other has. Under torchrun
    (`torchrun --nproc-per-node N -m lumbar_disk study ...`) the processes share each model's batches.
    """
    options.refuse_foreign(context, data)
    with options.plainly(out), options.run_with(threads, device) as place:
        recipe = models.edited(models.SIZES[size](), setting or [])
        recipe = replace(recipe, models=tuple(names)) if names else recipe
        wanted = options.wanted(recipe, data, root, series, patients, slices, overview)
        options.refuse_decided(context, wanted, setting or [])
        make = options.maker(recipe, out, place, checkpoint_every)
        _made(context, wanted, out, make, reports.write_report if with_report else None)


@app.command()
def ood(
    context: typer.Context,
    images: Annotated[
        Path, typer.Option("--ood", help="Folder of images that are no discs, or of folders of such images.")
    ],
    out: options.Out = Path("results/ood"),
    size: options.Recipe = options.Size.small,
    data: options.Data = "spider",
    root: options.Root = None,
    series: options.Series = SERIES,
    slices: options.Slices = 1,
    overview: options.Overview = None,
    patients: options.Patients = 54,
    setting: options.Settings = None,
    with_report: options.WithReport = True,
    checkpoint_every: options.CheckpointEvery = 30.0,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Train networks with a reconstruction output, and pass strange images off as discs, past detectors.

    Images start from a folder, from noise, and from synthetic anatomy without its disc; files that cannot be
    read are named and skipped. Runs may be killed and begun again, and may share the folder, as for `study`.
    """
    options.refuse_foreign(context, data)
    with options.plainly(out), options.run_with(threads, device) as place:
        training, attacks = strange.ood_recipes(size)
        recipe = models.edited(training, setting or [], attacks)
        attacks = models.edited(attacks, setting or [], training)
        wanted = options.wanted(recipe, data, root, series, patients, slices, overview)
        options.refuse_decided(context, wanted, setting or [])
        read = strange.read_images(images, recipe.size)

        def work(split: Prepared) -> models.Work:
            count = len(split.test)
            made = strange.made_images(count, recipe.size, recipe.seed, upright=recipe.upright)
            return strange.ood_work(attacks, (*read, *made))

        make = options.maker(recipe, out, place, checkpoint_every, work)
        _made(context, wanted, out, make, strange.write_report if with_report else None)


@app.command()
def certify(
    context: typer.Context,
    out: options.Out = Path("results/certified"),
    size: options.Recipe = options.Size.small,
    data: options.Data = "spider",
    root: options.Root = None,
    series: options.Series = SERIES,
    slices: options.Slices = 1,
    overview: options.Overview = None,
    patients: options.Patients = 54,
    setting: options.Settings = None,
    names: options.Models = None,
    with_report: options.WithReport = True,
    checkpoint_every: options.CheckpointEvery = 30.0,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Train networks under noise, certify them at L2 radii, and attack what the certificates speak of.

    Runs may be killed and begun again, and may share the folder, as for `study`; so may finished weights be
    laid into it.
    """
    options.refuse_foreign(context, data)
    with options.plainly(out), options.run_with(threads, device) as place:
        training, bounds = certificates.certified_recipes(size)
        recipe = models.edited(training, setting or [], bounds)
        recipe = replace(recipe, models=tuple(names)) if names else recipe
        bounds = models.edited(bounds, setting or [], training)
        wanted = options.wanted(recipe, data, root, series, patients, slices, overview)
        options.refuse_decided(context, wanted, setting or [])
        make = options.maker(
            recipe, out, place, checkpoint_every, lambda _: certificates.certified_work(bounds)
        )
        _made(context, wanted, out, make, certificates.write_report if with_report else None)


@app.command()
def report(
    results: Annotated[
        Path,
        typer.Argument(help="A folder that `lumbar-disk study`, `ood` or `certify` wrote, whole or not yet."),
    ],
) -> None:
    """Write a study's report: the paper's tables, figures and claims, published and ours side by side.

    What is not made yet is named as missing, so a study may be looked at while it runs.
    """
    with options.plainly():
        others = {strange: strange.is_ood, certificates: certificates.is_certified}
        room = next((room for room, mine in others.items() if mine(results)), reports)
        files = room.write_report(results)
    for path in files:
        typer.echo(f"wrote {path}")


@app.command("export-weights")
def export_weights(
    results: Annotated[Path, typer.Argument(help="A folder that `lumbar-disk study` wrote.")],
    out: Annotated[
        Path, typer.Option(file_okay=False, help="Folder for weights, cards and index; others in it stay.")
    ] = Path("results/weights"),
    names: Annotated[
        list[str] | None, typer.Option("--models", help="These alone, such as P10_std; may be repeated.")
    ] = None,
) -> None:
    """Write a study's finished networks in half precision, each with a card, and an index with checksums.

    `lumbar_disk.pretrained(NAME, folder=OUT)` loads them. A file can also be laid into a study's folder in
    the place of `models/NAME/weights.pt`, and the study is gone on from there.
    """
    with options.plainly():
        files = exported.export_weights(results, out, names)
    for path in files:
        typer.echo(f"wrote {path}")
