"""Options that the commands have in common, and how they speak of mistakes."""

from __future__ import annotations

import os
import shlex
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer

from lumbar_disk._core import sharing
from lumbar_disk._core.files import reason
from lumbar_disk.data import SOURCES, Options, Prepared, decided
from lumbar_disk.network import UNet
from lumbar_disk.study import ATTACKED, Study, StudyRecipe, Work


class Size(StrEnum):
    """The study's recipes."""

    smoke = "smoke"
    small = "small"
    medium = "medium"
    paper = "paper"


def source(name: str) -> str:
    """Refuse a name that is no data source's."""
    if name not in SOURCES:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(SOURCES)}.")
    return name


NAMES = "|".join(SOURCES)
Data = Annotated[str, typer.Option(callback=source, metavar=NAMES, help="As for `prepare`.")]
Root = Annotated[Path | None, typer.Option(help="The folder of the data. For all but --data phantom.")]
Series = Annotated[
    list[str], typer.Option(help="SPIDER's series to read: t1, t2, t2_SPACE; may be repeated.")
]
Slices = Annotated[
    int,
    typer.Option(
        min=1, help="SPIDER's sagittal slices a volume, odd; those beside the mid-sagittal one train alone."
    ),
]
Overview = Annotated[
    Path | None,
    typer.Option(help="SPIDER's table of the split. By default ROOT/overview.csv, if it is there."),
]
Patients = Annotated[int, typer.Option(min=2, help="Phantoms to draw. For --data phantom.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1. By default a GPU where there is one.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; torch's choice by default.")]
Out = Annotated[
    Path, typer.Option(file_okay=False, help="Results folder; a run that was killed goes on in it.")
]
Recipe = Annotated[Size, typer.Option(help="The recipe to begin with.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a field of the recipe, such as width=16; may be repeated."),
]
Models = Annotated[
    list[str] | None, typer.Option("--models", help="Make these alone, such as P10_std; may be repeated.")
]
WithReport = Annotated[bool, typer.Option("--report/--no-report", help="Whether to end with the report.")]
CheckpointEvery = Annotated[float, typer.Option(min=0, help="Seconds between two checkpoints of a training.")]


MISTAKES = (OSError, ValueError, FloatingPointError, MemoryError, torch.OutOfMemoryError)


@contextmanager
def plainly(kept: Path | None = None) -> Iterator[None]:
    """Let mistakes end in one line and status 2, and interruptions in one that says what is kept.

    The status of an interruption is 128 and the signal's number: 130 for SIGINT, 143 for SIGTERM.

    Args:
        kept: The folder in which a run that is interrupted goes on; None if it begins anew.
    """
    try:
        with _ending():
            yield
    except MISTAKES as error:
        told = str(error)
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            told = (
                f"the memory is not enough ({reason(error)}). Use a smaller --set batch, or another --device."
            )
        elif isinstance(error, OSError) and error.strerror:
            told = error.strerror
            if error.filename:
                told = f"{error.filename} cannot be used: {told}. Give leave, or choose another path."
        typer.echo(f"lumbar-disk: {told}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt as stop:
        number = signal.Signals(stop.args[0] if stop.args else signal.SIGINT)
        goes_on = (
            "every file is whole or not there; the same command begins anew"
            if kept is None
            else f"what was finished is kept in {kept}, and the same command goes on from there"
        )
        typer.echo(f"\nlumbar-disk: ended by {number.name}; {goes_on}.", err=True)
        raise typer.Exit(128 + number) from None


@contextmanager
def _ending() -> Iterator[None]:
    """Let SIGTERM end the body as an interruption, so that it leaves nothing half done.

    The processes of torchrun end at once as ever, since they may be waiting for each other.
    """
    if threading.current_thread() is not threading.main_thread() or "TORCHELASTIC_RUN_ID" in os.environ:
        yield
        return

    def stop(number: int, _: object) -> None:
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def refuse_foreign(context: typer.Context, data: str) -> None:
    """Refuse options of other data sources."""
    others = {name for source in SOURCES.values() for name in source.options}
    foreign = sorted(others.difference(SOURCES[data].options))
    refuse(context, data, foreign if SOURCES[data].layout else ["root", *foreign])


def refuse_decided(context: typer.Context, wanted: Options, settings: Sequence[str] = ()) -> None:
    """Refuse a number of test patients where the data decide the split themselves.

    Args:
        context: The command's.
        wanted: The data.
        settings: Fields of a recipe that the command changes.
    """
    given = ["--test-patients"] if typed(context, "test_patients") else []
    given += ["--set test_patients" for one in settings if one.partition("=")[0].strip() == "test_patients"]
    if given and (split := decided(wanted)):
        raise typer.BadParameter(
            f"{given[0]} has no meaning where the split is given, here by {split}; leave it out."
        )


@contextmanager
def run_with(threads: int | None, device: str | None) -> Iterator[torch.device]:
    """Run with so many threads, and with the other processes of the same run, if there are any.

    Yields:
        Where to compute.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    with sharing.processes(device) as place:
        yield place


def maker(
    recipe: StudyRecipe,
    out: Path,
    device: torch.device,
    checkpoint_every: float,
    work: Callable[[Prepared], Work] = lambda _: ATTACKED,
) -> Callable[[Prepared], Study]:
    """How a study is made of the split discs.

    Raises:
        ValueError: A network that cannot be built.
    """
    with torch.device("meta"):
        UNet(recipe.width, recipe.size)
    return lambda split: Study(
        recipe, split, out, device, work(split), checkpoint_every=checkpoint_every, progress=True
    )


def wanted(
    recipe: StudyRecipe,
    data: str,
    root: Path | None,
    series: Sequence[str],
    patients: int,
    slices: int = 1,
    overview: Path | None = None,
) -> Options:
    """The data that a study of this recipe is made from."""
    return Options(
        data,
        root,
        tuple(series),
        recipe.size,
        patients,
        recipe.test_patients,
        recipe.seed,
        upright=recipe.upright,
        slices=slices,
        overview=overview,
    )


def refuse(context: typer.Context, data: str, names: Sequence[str]) -> None:
    """Refuse options that the kind of data has no use for."""
    for name in names:
        if typed(context, name):
            raise typer.BadParameter(f"--{name} has no meaning with --data {data}; leave it out.")


def command_of(context: typer.Context) -> str:
    """The command line that repeats this run."""
    words = ["lumbar-disk", str(context.info_name)]
    parameters = {parameter.name: parameter for parameter in context.command.params}
    for name, value in context.params.items():
        if not typed(context, name):
            continue
        parameter = parameters[name]
        if isinstance(value, bool):
            words.append((parameter.opts if value else parameter.secondary_opts)[0])
        else:
            for one in value if isinstance(value, list | tuple) else (value,):
                words += [parameter.opts[0], str(one)]
    return shlex.join(words)


def typed(context: typer.Context, name: str) -> bool:
    """Whether an option was given, rather than left at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
