"""Settings of the study's recipe, one change at a time, judged on training patients.

SPIDER's training patients are split again, by patient: fifteen train, five judge. No test patient is looked
at. Each row changes the row that it comes after, and is a study of its own in a folder of `--work`: a run
that was killed goes on, and several may share the folder. Adversarial training begins at the `P10_std` of the
row that it names.

    python benchmarks/recipes.py --root FOLDER --overview FILE [--rows 'upright*']

The table is made of all rows that are there; a row's differences are to the row before it.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

import torch
from speed_table import setting

from advreg.evaluation import Table, written_whole
from lumbar_disk.data import Options, Prepared, hold_out, planned
from lumbar_disk.study import COMPONENTS, Study, StudyRecipe, edited, small_recipe
from lumbar_disk.virtual import PUBLISHED, ShapeModel, Stream

JUDGES = 5  # patients, of SPIDER's twenty training patients
STANDARD, ADVERSARIAL = "P10_std", "P10_adv_rs"
BEFORE = (  # the small recipe of version 0.1, at twice its width and half its steps
    "width=16",
    "batch=32",
    "virtual=16000",
    "std_epochs=30",
    "epochs=8",
    "batches=50",
    "lr=0.001",
    "decay=0.3333333",
    "alpha=0.02",
    "attack_steps=6",
    "ramp=1",
    "real=0",
    "average=0",
    "upright=no",
    "radii=0,0.03,0.07",
    "eval_steps=50",
    "auto_passes=0",
)


@dataclass(frozen=True)
class Row:
    """A change of the recipe.

    Attributes:
        name: In words.
        after: The row that it changes.
        settings: Fields of the recipe, as `lumbar-disk study --set` takes them.
        slices: Of each volume.
        start: The row whose `P10_std` adversarial training begins at; None for a row of `P10_std` itself.
    """

    name: str
    after: str | None
    settings: tuple[str, ...] = ()
    slices: int = 1
    start: str | None = None

    @property
    def model(self) -> str:
        return STANDARD if self.start is None else ADVERSARIAL

    def all_settings(self) -> tuple[str, ...]:
        """With those of the rows before it."""
        return (*(ROWS[self.after].all_settings() if self.after else BEFORE), *self.settings)


UPRIGHT = "upright crops"
ROWS = {
    row.name: row
    for row in (
        Row("as in 0.1", None),
        Row(UPRIGHT, "as in 0.1", ("upright=yes",)),
        Row("three slices", UPRIGHT, slices=3),
        Row("half of the discs real", UPRIGHT, ("real=0.5",)),
        Row("all discs real", UPRIGHT, ("real=1",)),
        Row("rate 0.003", UPRIGHT, ("lr=0.003",)),
        Row("weights averaged", UPRIGHT, ("average=0.99",)),
        Row("width 8", UPRIGHT, ("width=8",)),
        Row("twice the steps", UPRIGHT, ("std_epochs=60",)),
        Row("adversarial, 6 steps of 0.02", UPRIGHT, start=UPRIGHT),
        Row("adversarial, 3 steps of 0.04", UPRIGHT, ("attack_steps=3", "alpha=0.04"), start=UPRIGHT),
        Row("adversarial, ramp over a quarter", UPRIGHT, ("ramp=0.25",), start=UPRIGHT),
        Row("adversarial, rate 0.003", UPRIGHT, ("lr=0.003",), start=UPRIGHT),
        Row("adversarial, half of the discs real", UPRIGHT, ("real=0.5",), start=UPRIGHT),
    )
}
MEASURED = (("mask", "dice"), ("contour", "dice"), ("contour", "point_error"))


def inner(whole: Prepared, middle: Prepared) -> Prepared:
    """The training patients alone, some of them held out to judge by their mid-sagittal slices."""
    held = hold_out(middle.train.patients, JUDGES, seed=0)
    train, judge = whole.train.split(held)[0], middle.train.split(held)[1]
    return replace(whole, train=train, test=judge, manifest={**whole.manifest, "test_patients": held})


def folder(row: Row, work: Path) -> Path:
    return work / "".join(c if c.isalnum() or c in ".-" else "_" for c in row.name)


def recipe_of(row: Row) -> StudyRecipe:
    return edited(small_recipe(), [*row.all_settings(), f"models={row.model}"])


def prepared(row: Row, slices: int, options: argparse.Namespace) -> Prepared:
    """The discs of a row's crops, kept in `--work`."""
    recipe = recipe_of(row)
    wanted = Options(
        "spider",
        options.root,
        size=recipe.size,
        seed=recipe.seed,
        upright=recipe.upright,
        slices=slices,
        overview=options.overview,
    )
    plan = planned(wanted, options.work / f"{crops(row, slices)}.npz")
    plan.write()
    return plan.data()


def crops(row: Row, slices: int) -> str:
    recipe = recipe_of(row)
    return f"{recipe.size}-{'upright' if recipe.upright else 'level'}-{slices}"


def make(row: Row, options: argparse.Namespace) -> None:
    """Train and judge, as far as it is not done yet; rows of the same crops share their virtual discs."""
    out, virtual = folder(row, options.work), options.work / f"virtual-{crops(row, row.slices)}"
    data = inner(prepared(row, row.slices, options), prepared(row, 1, options))
    virtual.mkdir(exist_ok=True)
    out.mkdir(exist_ok=True)
    if not (out / "virtual").exists():
        (out / "virtual").symlink_to(virtual.resolve(), target_is_directory=True)
    if row.start:
        begun = folder(ROWS[row.start], options.work) / "models" / STANDARD
        shutil.copytree(begun, out / "models" / STANDARD, dirs_exist_ok=True)
    Study(recipe_of(row), data, out, torch.device("cpu")).run("benchmarks/recipes.py")


def numbers(row: Row, work: Path) -> dict[str, float | list[float]] | None:
    """What the paper's attack leaves at each radius, points in pixels of 128, and the seconds of training."""
    path, recipe = folder(row, work) / "models" / row.model, recipe_of(row)
    if not (path / "model.json").exists():
        return None
    table, found = Table.load(path / "table.csv"), {}
    for head, metric in MEASURED:
        scale = 128 / recipe.size if metric == "point_error" else 1.0
        rows = table.where(attack=head, head=head, metric=metric)
        found[f"{head} {metric}"] = [
            scale * float(rows.where(radius=radius).values().mean()) for radius in recipe.radii
        ]
    about = json.loads((path / "model.json").read_text(encoding="utf-8"))
    return found | {"seconds": about["seconds_training"], "steps": about["steps"]}


def lines(rows: Sequence[Row], work: Path) -> list[str]:
    """The rows of one model's table."""
    columns = [f"{name}, clean | at 0.03 | at 0.07" for name in ("mask Dice", "contour Dice", "point error")]
    text = [f"| change | {' | '.join(columns)} | steps |", f"|---|{'---:|' * 10}"]
    for row in rows:
        if found := numbers(row, work):
            cells = [f"{one:.3f}" for key in ("mask dice", "contour dice") for one in found[key]]
            cells += [f"{one:.2f}" for one in found["contour point_error"]]
            text.append(f"| {row.name} | {' | '.join(cells)} | {found['steps']} |")
    return text


def covered(row: Row, options: argparse.Namespace) -> str:
    """How much of the variation the shape models of a row's crops cover, and how many virtual discs fold."""
    discs = prepared(row, 1, options).train
    models = [ShapeModel.fit(discs.contours, components) for components in COMPONENTS]
    folds = [Stream(discs, model).plausibility(1024)["folds"] for model in models]
    shares = [f"{100 * share:.1f} %" for share in (*(model.explained for model in models), *folds)]
    return f"| {row.name} | {' | '.join(shares)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--overview", type=Path, help="by default ROOT/overview.csv")
    parser.add_argument("--rows", nargs="*", default=["*"], help="patterns; none: the table alone")
    parser.add_argument("--work", type=Path, default=Path("results/recipes"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "recipes.md")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for row in ROWS.values():
        if any(fnmatch(row.name, one) for one in options.rows):
            make(row, options)
            print(row.name, json.dumps(numbers(row, options.work)), flush=True)
    told = {"root": "SPIDER"} | ({"overview": options.overview.name} if options.overview else {})
    text = ["# Settings that move the study's numbers\n", f"{setting('recipes.py', told)}\n"]
    names = [f"P{components}" for components in COMPONENTS]
    published = [f"{100 * share:.1f} %" for share in PUBLISHED.values()]
    text += [
        "## Shape models of the training patients: variation covered, and virtual discs whose map folds\n",
        f"| crops | {' | '.join((*names, *(f'{name} folds' for name in names)))} |",
        f"|---|{'---:|' * 6}",
        covered(ROWS["as in 0.1"], options),
        covered(ROWS[UPRIGHT], options),
        f"| published | {' | '.join(published)} | | | |\n",
    ]
    for model in (STANDARD, ADVERSARIAL):
        rows = [row for row in ROWS.values() if row.model == model]
        text += [f"## {model}\n", *lines(rows, options.work), ""]
    with written_whole(options.out) as file:
        file.write("\n".join(text))
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
