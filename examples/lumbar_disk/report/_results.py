"""Results in a study's folder, read: what figures, claims and report are made from.

`study.json` tells of the run. Each folder `models/NAME` holds one model: `model.json` tells of it,
`table.csv` is its evaluation (see `advreg.evaluation.Table`) and `examples.npz` a few discs under attack. A
model without `model.json`, which is written last, counts as missing: a run in progress can be read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advreg.evaluation import Interval, Table
from lumbar_disk._core.files import read_arrays, read_json, reading
from lumbar_disk.report._paper import PAPER_SIZE, ordered
from lumbar_disk.study import MEASURES, By, Examples, Measure

RESTORE = "Restore it, or run the study again in another folder."
PARTS = (("recipe", "size"), ("patients", "test"), ("discs", "test"), ("data", "sources"))  # of study.json
MODEL = ("steps", "parameters", "warm_start", "seconds_training", "seconds_evaluation")  # of model.json

Cells = Mapping[tuple[str, str, float], Interval]  # by measure, model and radius


@dataclass(frozen=True, eq=False)
class Results:
    """Results that one run of the study wrote, or has written so far.

    Attributes:
        about: `study.json`: command, environment, recipe, data.
        models: `model.json` of each model that is there, in the order of the paper's tables.
        tables: The evaluation of each, one row per disc, attack and measure.
        examples: Arrays of some discs under attack, of the models that have any.
        missing: Models of the study that are not there.
    """

    about: Mapping[str, Any]
    models: Mapping[str, Mapping[str, Any]]
    tables: Mapping[str, Table]
    examples: Mapping[str, Examples]
    missing: tuple[str, ...]

    @property
    def size(self) -> int:
        """Side of a crop in pixels."""
        return int(self.about["recipe"]["size"])


def read_results(folder: Path, order: Callable[[set[str]], tuple[str, ...]] = ordered) -> Results:
    """Read a folder of results.

    Args:
        folder: What the study wrote.
        order: Gives, for the models that are there, all of the study in their order, as `ordered` does.

    Raises:
        FileNotFoundError: If it holds no `study.json`.
        ValueError: If `study.json` lacks a part, or a file is damaged; the message names it.
    """
    path = folder / "study.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there: expected the folder of a study. Make one with `lumbar-disk study`, or "
            "give the folder that its --out named."
        )
    about = read_json(path, remedy=RESTORE)
    needed = ("command", "environment", "recipe", "data", "patients", "discs", "wall_seconds")
    absent = [name for name in needed if name not in about]
    if absent:
        raise ValueError(
            f"{path}: expected {', '.join(needed)}; got no {', '.join(absent)}. It was written by another "
            "version; run the study again."
        )
    with reading(path, RESTORE):
        lacking = [f"{name}, {part}" for name, part in PARTS if part not in about[name]]
        if lacking:
            raise ValueError(f"it has no {'; no '.join(lacking)}")
    there = {path.parent.name: path.parent for path in (folder / "models").glob("*/model.json")}
    names = order(set(there))
    present = [name for name in names if name in there]
    return Results(
        about,
        {name: read_json(there[name] / "model.json", *MODEL) for name in present},
        {name: Table.load(there[name] / "table.csv") for name in present},
        {
            name: read_arrays(there[name] / "examples.npz", remedy=_remake(there[name]))
            for name in present
            if (there[name] / "examples.npz").is_file()
        },
        tuple(name for name in names if name not in there),
    )


def cells(results: Results, by: By = "paper") -> dict[tuple[str, str, float], Interval]:
    """Each cell of Tables 1 to 3: the mean over the test discs, with its interval over patients.

    Patients, not discs, are resampled: discs of one patient are alike. Point errors are scaled to the paper's
    crops of 128 pixels.

    Args:
        results: What `read_results` returned.
        by: Under which attack.

    Returns:
        The cells that were computed; the others are absent.
    """
    found = {}
    for name, table in results.tables.items():
        for measure in MEASURES.values():
            for one in chosen(table, measure, by).means(by=["radius"]):
                found[measure.name, name, one.radius] = scaled(results, measure, one)
    return found


def scaled(results: Results, measure: Measure, one: Any) -> Interval:
    """A mean with its interval in the paper's units: errors in pixels of its crops."""
    scale = PAPER_SIZE / results.size if measure.unit else 1.0
    return Interval(scale * one.mean, scale * one.low, scale * one.high)


def chosen(table: Table, measure: Measure, by: By = "paper", **columns: Any) -> Table:
    """The rows that one of the tables reports under an attack, of some radius if `columns` say so."""
    return table.where(attack=measure.attack(by), head=measure.head, metric=measure.metric, **columns)


def _remake(folder: Path) -> str:
    """How to have a model's evaluation made again."""
    return f"Delete it and {folder / 'model.json'}, and run the study again with the same command."
