"""The thinnest complete path through the study: data, training, the paper's attack, a table, figures.

The attack is the paper's Algorithm 1 (section 2.3) with Adamax and alpha = eps / 5; the table's three
measures are its Eqs (13) to (15), the first two under attack on the contour, the third under attack on the
mask.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch
from rich.table import Table
from tqdm import tqdm

from advreg import Adamax, Threat, contour_dice, dice, linf, pgd_attack, point_error

from . import figures, spider
from lumbar_disk.virtual import Stream
from lumbar_disk.data import Discs, Heads
from lumbar_disk._core.files import write
from lumbar_disk.study import CLEAN, OBJECTIVES, network
from lumbar_disk.data import Prepared, build
from lumbar_disk.study import Recipe
from lumbar_disk.virtual import ShapeModel
from lumbar_disk.data import Options
from lumbar_disk.network import Batch, fit
from lumbar_disk.network import UNet

MODES = 10  # of the shape model: the paper's SSM-P10; of few discs as many as they vary in
COLUMNS = ("radius", "point_error_px", "contour_dice", "mask_dice")

Row = dict[str, float]


@dataclass(frozen=True)
class Attacked:
    """The test set under attack on one head at one radius.

    Attributes:
        x: `(N, 1, S, S)` adversarial images; at radius 0 the clean ones.
        output: The network's answers to them, both heads.
    """

    x: torch.Tensor
    output: Heads


@dataclass(frozen=True)
class Report:
    """What `run` found and wrote: the table's rows by radius, and the files."""

    rows: tuple[Row, ...]
    files: tuple[Path, ...]


def load(
    recipe: Recipe, root: Path | None = None, *, series: str = spider.SERIES, progress: bool = False
) -> Prepared:
    """Draw phantoms, or read SPIDER where the recipe has no number of patients; crop, and split by patient.

    Args:
        recipe: The recipe.
        root: SPIDER's folder; needed for real patients alone.
        series: Which of SPIDER's series.
        progress: Whether to show a progress bar.

    Raises:
        FileNotFoundError: If the folder is not SPIDER's; see `spider.read`.
        ValueError: If real patients are asked for without a root, a file is not as it should be, or there are
            too few patients to split.
    """
    options = Options(
        "spider" if recipe.patients is None else "phantom",
        root,
        series=(series,),
        size=recipe.size,
        test_patients=recipe.test_patients,
        seed=recipe.seed,
    )
    if recipe.patients is not None:
        options = replace(options, patients=recipe.patients)
    return build(options, progress=progress)


def trained(discs: Discs, recipe: Recipe, *, progress: bool = False) -> UNet:
    """Train a network with the standard loss, on virtual discs of SSM-P10 made from the given ones."""
    net = network(recipe.width, recipe.size, recipe.seed)
    stream = Stream(discs, ShapeModel.fit(discs.contours, min(MODES, len(discs) - 1)), seed=recipe.seed)

    def batch(step: int) -> Batch:
        samples = stream.at(torch.arange(step * recipe.batch, (step + 1) * recipe.batch))
        return samples.images, samples.target(), samples.index

    fit(net, batch, lambda _: CLEAN, steps=recipe.steps, lr=recipe.lr, decay=1 / 3, progress=progress)
    return net


def attack(
    net: UNet, test: Discs, recipe: Recipe, *, progress: bool = False
) -> dict[tuple[float, str], Attacked]:
    """Attack each head at each radius with the paper's attack; radius 0 is the clean images.

    Returns:
        The test set under each attack, by radius and head.
    """
    found = {}
    places = torch.split(torch.arange(len(test)), recipe.batch)
    jobs = [(radius, head) for radius in recipe.radii for head in OBJECTIVES]
    with tqdm(total=len(jobs) * len(places), desc="attack", unit="batch", disable=not progress) as bar:
        for radius, head in jobs:
            bar.set_postfix(radius=radius, head=head)
            parts = []
            for part in places:
                parts.append(_worst(net, test, part, radius, head, recipe))
                bar.update()
            x = torch.cat(parts)
            with torch.inference_mode():
                outputs = [net(some) for some in torch.split(x, recipe.batch)]
            found[radius, head] = Attacked(
                x, {key: torch.cat([out[key] for out in outputs]) for key in OBJECTIVES}
            )
    return found


def table(found: dict[tuple[float, str], Attacked], test: Discs, radii: Sequence[float]) -> tuple[Row, ...]:
    """One row per radius, means over the test discs: `COLUMNS`, the paper's Eqs (13) to (15)."""
    size = (test.images.shape[-2], test.images.shape[-1])
    rows = []
    for radius in radii:
        contour, mask = found[radius, "contour"].output["contour"], found[radius, "mask"].output["mask"]
        measures = (
            point_error(contour, test.contours),
            contour_dice(contour, test.contours, size=size),
            dice(mask, test.masks),
        )
        rows.append(
            dict(zip(COLUMNS, (radius, *(measure.mean().item() for measure in measures)), strict=True))
        )
    return tuple(rows)


def run(recipe: Recipe, data: Prepared, out: Path, *, command: str, progress: bool = False) -> Report:
    """Train, attack, and write table, summary, weights and figures.

    Args:
        recipe: The recipe that `data` was loaded with.
        data: The split data.
        out: The folder to write to; made if it is not there. Files of an earlier run are replaced, each at
            once.
        command: What the user typed; goes into the summary.
        progress: Whether to show progress bars.

    Returns:
        The rows, and every file written.
    """
    out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    net = trained(data.train, recipe, progress=progress)
    fitted = time.perf_counter()
    found = attack(net, data.test, recipe, progress=progress)
    rows = table(found, data.test, recipe.radii)
    summary = {
        "command": command,
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("advreg", "torch", "numpy")},
        "recipe": asdict(recipe),
        "threads": torch.get_num_threads(),
        "seconds": {"train": round(fitted - began, 1), "attack": round(time.perf_counter() - fitted, 1)},
        "table": rows,
        "data": data.manifest,
    }
    images = {radius: {head: found[radius, head] for head in OBJECTIVES} for radius in recipe.radii}
    files = (
        write(out / "table.csv", lambda path: path.write_text(_csv(rows), encoding="utf-8")),
        write(out / "table.md", lambda path: path.write_text(_markdown(rows), encoding="utf-8")),
        write(
            out / "summary.json",
            lambda path: path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8"),
        ),
        write(out / "model.pt", lambda path: torch.save(net.state_dict(), path)),
        write(out / "attack.png", figures.attack_figure(images, data.test).savefig),
        write(out / "curve.png", figures.curve_figure(rows).savefig),
    )
    return Report(rows, files)


def layout(report: Report, recipe: Recipe, split: Prepared) -> Table:
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


def _worst(
    net: UNet, test: Discs, places: torch.Tensor, radius: float, head: str, recipe: Recipe
) -> torch.Tensor:
    """The adversarial images of some of the test discs."""
    some = test.take(places.tolist())
    if radius == 0:
        return some.images
    result = pgd_attack(
        net,
        some.images,
        some.target(),
        objective=OBJECTIVES[head],
        threat=Threat(linf, radius),
        rule=Adamax(0.2),
        steps=recipe.attack_steps,
        seed=recipe.seed,
        index=places,
    )
    return result.x


def _csv(rows: Sequence[Row]) -> str:
    """Format the table with full precision."""
    lines = [COLUMNS, *([repr(row[column]) for column in COLUMNS] for row in rows)]
    return "".join(",".join(line) + "\n" for line in lines)


def _markdown(rows: Sequence[Row]) -> str:
    """Format the table for people."""
    lines = ["| Linf radius | point error (px) | contour Dice | mask Dice |", "|---:|---:|---:|---:|"]
    lines += [
        f"| {row['radius']:g} | {row['point_error_px']:.2f} | {row['contour_dice']:.3f} | "
        f"{row['mask_dice']:.3f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"
