"""The part of the study's recipe that moves its numbers: one change at a time, judged on training patients.

The training patients are split again, by patient: some train, some judge. No test patient is looked at. Each
row is a study of its own, of `P10_std` and `P10_adv_rs`, in a folder of `--work`: a run that was killed goes
on, and several may share the folder.

    python benchmarks/recipes.py --root FOLDER [--only 'upright*'] [--table]

The table is made of all rows that are there.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

import torch
from speed_table import setting

from advreg.evaluation import Table, written_whole
from lumbar_disk.data import Options, Prepared, hold_out, planned
from lumbar_disk.study import Study, edited, small_recipe

SPIDER_SPLIT = 5  # patients that judge, of SPIDER's twenty training patients
BEFORE = (  # the small recipe of version 0.1
    "width=16", "batch=32", "std_epochs=30", "epochs=20", "batches=50", "lr=0.001", "decay=0.3333333", "alpha=0.02",
    "attack_steps=6", "real=0", "average=0", "upright=no",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A change of the recipe: against which row, and what it sets."""

    name: str
    after: str | None
    settings: tuple[str, ...]


ROWS = (
    Row("as in 0.1", None, ()),
    Row("upright crops", "as in 0.1", ("upright=yes",)),
    Row("weights averaged", "upright crops", ("average=0.99",)),
    Row("rate 0.003", "upright crops", ("lr=0.003",)),
    Row("width 8", "upright crops", ("width=8",)),
    Row("width 32", "upright crops", ("width=32",)),
    Row("half of the discs real", "upright crops", ("real=0.5",)),
    Row("all discs real", "upright crops", ("real=1",)),
)


def settings(row: Row) -> tuple[str, ...]:
    """What a row sets, with all that the rows before it do."""
    before = next((one for one in ROWS if one.name == row.after), None)
    return (*(settings(before) if before else BEFORE), *row.settings)


def inner(whole: Prepared, count: int) -> Prepared:
    """The training patients alone, some of them held out to judge."""
    held = hold_out(whole.train.patients, count, seed=0)
    train, judge = whole.train.split(held)
    return replace(whole, train=train, test=judge, manifest={**whole.manifest, "test_patients": held})


def make(row: Row, options: argparse.Namespace) -> None:
    recipe = edited(small_recipe(), [*COMMON, *settings(row)])
    wanted = Options(
        "spider",
        options.root,
        size=recipe.size,
        test_patients=recipe.test_patients,
        seed=recipe.seed,
        upright=recipe.upright,
    )
    data = planned(wanted, options.work / f"{recipe.size}-{recipe.upright}.npz", command="recipes.py")
    data.write()
    share = options.work / f"virtual-{recipe.size}-{recipe.upright}"
    share.mkdir(parents=True, exist_ok=True)
    folder(row, options.work).mkdir(parents=True, exist_ok=True)
    link = folder(row, options.work) / "virtual"
    if not link.exists():
        link.symlink_to(share.resolve())
    study = Study(
        recipe,
        inner(data.data(), options.judges),
        folder(row, options.work),
        torch.device("cpu"),
        progress=False,
    )
    study.run("recipes.py")


COMMON = ("models=P10_std", "radii=0,0.03,0.07", "eval_steps=50", "virtual=16000")


MEASURED = (("mask", "dice", False), ("contour", "dice", False), ("contour", "point_error", True))


def folder(row: Row, work: Path) -> Path:
    return work / "".join(c if c.isalnum() or c in ".-" else "_" for c in row.name)


def numbers(path: Path) -> dict[str, list[float]]:
    """Per model what the paper's attack leaves: mask Dice, contour Dice, point error at each radius."""
    size = json.loads((path / "study.json").read_text(encoding="utf-8"))["recipe"]["size"]
    found = {}
    for model in ("P10_std", "P10_adv_rs"):
        file = path / "models" / model / "table.csv"
        if not file.exists():
            continue
        table = Table.load(file)
        for head, metric, scale in MEASURED:
            rows = table.where(attack=head, head=head, metric=metric)
            radii = sorted({row.radius for row in rows})
            means = [float(rows.where(radius=radius).values().mean()) for radius in radii]
            found[f"{model} {head} {metric}"] = [one * (128 / size if scale else 1) for one in means]
        about = json.loads((path / "models" / model / "model.json").read_text(encoding="utf-8"))
        found[f"{model} seconds"] = [about["seconds_training"], about["parameters"]]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=["*"])
    parser.add_argument("--judges", type=int, default=SPIDER_SPLIT)
    parser.add_argument("--work", type=Path, default=Path("results/recipes"))
    parser.add_argument("--table", action="store_true", help="make the table alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for row in ROWS:
        if not options.table and any(fnmatch(row.name, one) for one in options.only):
            began = time.time()
            make(row, options)
            print(
                row.name,
                round(time.time() - began),
                json.dumps(numbers(folder(row, options.work))),
                flush=True,
            )


if __name__ == "__main__":
    main()
