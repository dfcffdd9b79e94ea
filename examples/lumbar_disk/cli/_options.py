"""Options that the commands have in common, and how they speak of mistakes."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lumbar_disk.data import SOURCES, Options
from lumbar_disk.study import StudyRecipe


class Size(StrEnum):
    """The study's recipes."""

    smoke = "smoke"
    small = "small"
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
WithReport = Annotated[bool, typer.Option("--report/--no-report", help="Whether to end with the report.")]
CheckpointEvery = Annotated[float, typer.Option(min=0, help="Seconds between two checkpoints of a training.")]


@contextmanager
def plainly() -> Iterator[None]:
    """Let mistakes end in one line and status 2."""
    try:
        yield
    except (OSError, ValueError) as error:
        typer.echo(f"lumbar-disk: {error}", err=True)
        raise typer.Exit(2) from None


def refuse_foreign(context: typer.Context, data: str) -> None:
    """Refuse options of other data sources."""
    others = {name for source in SOURCES.values() for name in source.options}
    foreign = sorted(others.difference(SOURCES[data].options))
    refuse(context, data, foreign if SOURCES[data].layout else ["root", *foreign])


def wanted(
    recipe: StudyRecipe, data: str, root: Path | None, series: Sequence[str], patients: int
) -> Options:
    """The data that a study of this recipe is made from."""
    return Options(data, root, tuple(series), recipe.size, patients, recipe.test_patients, recipe.seed)


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
