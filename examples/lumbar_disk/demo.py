"""Demo of the study, the thinnest complete path: data, training, the paper's attack, a table, figures.

The attack is the paper's Algorithm 1 (section 2.3) with Adamax and alpha = eps / 5; the table's three
measures are its Eqs (13) to (15), the first two under attack on the contour, the third under attack on the
mask.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table as Layout

from advreg.evaluation import Table
from lumbar_disk._core.drawing import ANSWER, TRUTH, closed, edge, frame
from lumbar_disk._core.files import csv_text, write, write_tensors
from lumbar_disk.data import Discs, Options, Prepared, build
from lumbar_disk.network import Batch, UNet, fit, untrained
from lumbar_disk.study import CLEAN, CONTOUR_DICE, MASK_DICE, MEASURES, Evaluation, Examples
from lumbar_disk.virtual import ShapeModel, Stream
from lumbar_disk.weights import available, pretrained

__all__ = ["Recipe", "Report", "layout", "layout_shipped", "load", "phantom_recipe", "run", "spider_recipe"]

MODES = 10  # of the shape model: the paper's SSM-P10; of few discs as many as they vary in
COLUMNS = {f"{one.name}_px" if one.unit else one.name: one for one in MEASURES.values()}
HEADINGS = ("Linf radius", *(f"{one.label} (px)" if one.unit else one.label for one in MEASURES.values()))

Row = dict[str, float]


@dataclass(frozen=True)
class Recipe:
    """Recipe of a demo: everything that decides its numbers.

    Attributes:
        patients: How many phantoms to draw; None reads every patient of the SPIDER folder.
        test_patients: How many patients to keep for the test.
        size: Side of a crop in pixels; the paper's is 128.
        width: The network's width; the paper's is 64.
        steps: Training steps.
        batch: Discs per training step, and per attack.
        lr: Adamax's learning rate; the paper's is 0.001.
        radii: Linf radii of the attack, ascending, 0 first: the clean images.
        attack_steps: Steps of each attack; the paper takes 100.
        seed: Decides the phantoms, the split, the training and the attacks' random starts.
    """

    patients: int | None
    test_patients: int
    size: int
    width: int
    steps: int
    batch: int
    lr: float
    radii: tuple[float, ...]
    attack_steps: int
    seed: int


def phantom_recipe() -> Recipe:
    """The demo on synthetic patients: under three minutes on two cores."""
    return Recipe(
        patients=54,
        test_patients=6,
        size=128,
        width=16,
        steps=600,
        batch=16,
        lr=0.001,
        radii=(0.0, 0.01, 0.03, 0.07),
        attack_steps=100,
        seed=0,
    )


def spider_recipe() -> Recipe:
    """The demo on real patients; its settings were chosen on held-out training patients alone."""
    return replace(phantom_recipe(), patients=None, steps=4000)


@dataclass(frozen=True)
class Report:
    """Report of a demo: the table's rows by radius, those of networks that ship, and every file written."""

    rows: tuple[Row, ...]
    files: tuple[Path, ...]
    shipped: Mapping[str, tuple[Row, ...]] = field(default_factory=dict)


def load(
    recipe: Recipe, root: Path | None = None, *, series: str = "t2_SPACE", progress: bool = False
) -> Prepared:
    """Draw or read the patients of `wanted`; crop, and split by patient.

    Args:
        recipe: The recipe.
        root: SPIDER's folder; needed for real patients alone.
        series: Which of SPIDER's series.
        progress: Whether to show a progress bar.

    Raises:
        FileNotFoundError: If the folder is not SPIDER's; see `read_spider`.
        ValueError: If real patients are asked for without a root, every disc was refused, or there are too
            few patients to split.
    """
    return build(wanted(recipe, root, series=series), progress=progress)


def wanted(recipe: Recipe, root: Path | None = None, *, series: str = "t2_SPACE") -> Options:
    """The data of a demo: phantoms, or SPIDER where the recipe has no number of patients.

    Args:
        recipe: The recipe.
        root: SPIDER's folder; needed for real patients alone.
        series: Which of SPIDER's series.
    """
    options = Options(
        "spider" if recipe.patients is None else "phantom",
        root,
        series=(series,),
        size=recipe.size,
        test_patients=recipe.test_patients,
        seed=recipe.seed,
    )
    return options if recipe.patients is None else replace(options, patients=recipe.patients)


def trained(discs: Discs, recipe: Recipe, *, progress: bool = False) -> UNet:
    """Train a network with the standard loss, on virtual discs of SSM-P10 made from the given ones."""
    net = untrained(recipe.width, recipe.size, recipe.seed)
    stream = Stream(discs, ShapeModel.fit(discs.contours, min(MODES, len(discs) - 1)), seed=recipe.seed)

    def batch(step: int) -> Batch:
        samples = stream.at(torch.arange(step * recipe.batch, (step + 1) * recipe.batch))
        return samples.images, samples.target(), samples.index

    fit(net, batch, lambda _: CLEAN, steps=recipe.steps, lr=recipe.lr, decay=1 / 3, progress=progress)
    return net


def evaluation(recipe: Recipe) -> Evaluation:
    """The evaluation that a recipe asks for: each head attacked at each radius."""
    return Evaluation(recipe.radii, recipe.attack_steps, recipe.batch, recipe.seed, together=False)


def summary(table: Table) -> tuple[Row, ...]:
    """One row per radius: the mean over the test discs of each measure, under attack on its own head.

    Args:
        table: What `Evaluation.table` returned.
    """
    found: dict[float, Row] = {}
    for column, measure in COLUMNS.items():
        rows = table.where(attack=measure.head, head=measure.head, metric=measure.metric)
        for one in rows.means(by=["radius"]):
            found.setdefault(one.radius, {"radius": one.radius})[column] = one.mean
    return tuple(found.values())


def shipped(recipe: Recipe, test: Discs, *, progress: bool = False) -> dict[str, tuple[Row, ...]]:
    """The networks that this version ships, attacked on the same discs as the one that was trained.

    They have learned from real patients, at one size of crop; at another size there are none.

    Returns:
        The rows of each, by its name: the clean images, and the second largest radius.
    """
    few = replace(recipe, radii=tuple(dict.fromkeys((recipe.radii[0], recipe.radii[-2:][0]))))
    return {
        name: summary(evaluation(few).table(pretrained(name), test, progress=progress))
        for name, entry in available().items()
        if entry.size == recipe.size
    }


def run(recipe: Recipe, data: Prepared, out: Path, *, command: str, progress: bool = False) -> Report:
    """Train, attack, and write table, summary, weights and figures; attack the networks that ship, too.

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
    attacks = evaluation(recipe)
    rows = summary(attacks.table(net, data.test, progress=progress))
    shown = attacks.examples(net, data.test, shown_places(data.test))
    attacked = time.perf_counter()
    others = shipped(recipe, data.test, progress=progress)
    told = {
        "command": command,
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("advreg", "torch", "numpy")},
        "recipe": asdict(recipe),
        "threads": torch.get_num_threads(),
        "seconds": {"train": round(fitted - began, 1), "attack": round(attacked - fitted, 1)},
        "table": rows,
        "shipped": others,
        "data": data.manifest,
    }
    files = (
        write(out / "table.csv", csv_text([list(rows[0]), *(row.values() for row in rows)])),
        write(out / "table.md", _markdown(rows)),
        write(out / "summary.json", json.dumps(told, indent=2) + "\n"),
        write_tensors(out / "model.pt", net.state_dict()),
        write(out / "attack.png", attack_figure(shown).savefig),
        write(out / "curve.png", curve_figure(rows).savefig),
    )
    return Report(rows, files, others)


def layout_shipped(report: Report) -> Layout:
    """The table of the networks that ship, laid out for the terminal."""
    shown = Layout(title="Networks that ship, trained on real patients, on the same discs")
    for heading in ("network", *HEADINGS):
        shown.add_column(heading, justify="left" if heading == "network" else "right")
    for name, rows in report.shipped.items():
        for number, row in enumerate(rows):
            shown.add_row("" if number else name, *_cells(row), end_section=row is rows[-1])
    return shown


def layout(report: Report, recipe: Recipe, split: Prepared) -> Layout:
    """The table laid out for the terminal."""
    shown = Layout(
        title=f"{len(split.test)} unseen discs; width {recipe.width}, {len(split.train)} training discs",
        caption=f"Linf, {recipe.attack_steps} steps; mask Dice: attack on the mask; the rest: on the contour",
    )
    for heading in HEADINGS:
        shown.add_column(heading, justify="right")
    for row in report.rows:
        shown.add_row(*_cells(row))
    return shown


def _cells(row: Row) -> list[str]:
    """A row as people read it."""
    return [f"{row['radius']:g}", *(f"{row[name]:.{one.digits}f}" for name, one in COLUMNS.items())]


def _markdown(rows: Sequence[Row]) -> str:
    """The table as Markdown."""
    heading, *lines = (f"| {' | '.join(line)} |" for line in (HEADINGS, *map(_cells, rows)))
    return "\n".join([heading, f"|{'---:|' * len(HEADINGS)}", *lines]) + "\n"


def shown_places(test: Discs, count: int = 2) -> list[int]:
    """The discs of the figure: spread evenly over the test set, of unlike levels."""
    count = min(count, len(test))
    return [((2 * i + 1) * len(test) // (2 * count) + i) % len(test) for i in range(count)]


def attack_figure(examples: Examples) -> Figure:
    """Show a few test discs, one row per radius.

    Four columns for each disc: the image attacked on its mask; the contour head's answer under attack on the
    contour (the paper's Fig. 8); the mask head's answer under attack on the mask (Fig. 9); that attack's
    perturbation over its radius, from -1 (blue) to 1 (red). The truth is red, an answer green.

    Args:
        examples: What `Evaluation.examples` returned.

    Returns:
        The figure, not yet written.
    """
    radii, count = examples["radii"].tolist(), len(examples["places"])
    figure = Figure(figsize=(1 + 7.6 * count, 0.5 + 2.15 * len(radii)), dpi=110, layout="constrained")
    blocks = figure.subfigures(1, count, wspace=0.02, squeeze=False)
    for disc, block in enumerate(blocks[0]):
        name = f"patient {examples['patients'][disc]}, {examples['levels'][disc]}"
        block.suptitle(name, fontsize=12, parse_math=False)
        for number, row in enumerate(block.subplots(len(radii), 4, squeeze=False)):
            _attack_row(row, examples, number, disc)
    return figure


def curve_figure(rows: Sequence[Row]) -> Figure:
    """Draw the table against the radius: point error at the left, both Dice at the right (as Fig. 4).

    Args:
        rows: The demo's table, one mapping per radius.

    Returns:
        The figure, not yet written.
    """
    figure = Figure(figsize=(9.5, 3.8), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    radii = [row["radius"] for row in rows]
    left.plot(radii, [row["point_error_px"] for row in rows], "o-", color="tab:orange", label="contour head")
    left.set(ylabel="point error (pixels)", title="Attack on the contour")
    left.set_ylim(0, 1.1 * max(row["point_error_px"] for row in rows))
    right.plot(
        radii, [row["contour_dice"] for row in rows], "o-", color="tab:orange", label="contour head, attacked"
    )
    right.plot(radii, [row["mask_dice"] for row in rows], "s-", color="tab:blue", label="mask head, attacked")
    right.set(ylabel="Dice", ylim=(-0.02, 1.02), title="Attack on each head")
    for axes in (left, right):
        axes.set(xlabel="radius of the attack (Linf; images lie in [0, 1])", xticks=radii)
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def _attack_row(row: Sequence[Axes], examples: Examples, number: int, disc: int) -> None:
    """Fill the four pictures of one disc at one radius, the `number`-th."""
    image, truth = examples["images"][disc, 0], torch.from_numpy(examples["contours"][disc])
    contour = torch.from_numpy(examples["contour_contour"][number, disc])
    logits = torch.from_numpy(examples["mask_mask"][number, disc])
    masks = torch.from_numpy(examples["masks"][disc])
    radius, size = float(examples["radii"][number]), (image.shape[0], image.shape[1])
    found = {
        CONTOUR_DICE: CONTOUR_DICE.function(size)(contour[None], truth[None]).item(),
        MASK_DICE: MASK_DICE.function(size)(logits[None], masks[None]).item(),
    }
    seen = {head: examples[f"x_{head}"][number, disc, 0] for head in ("contour", "mask")}
    for axes, head in zip(row, ("mask", "contour", "mask"), strict=False):
        axes.imshow(seen[head], cmap="gray", vmin=0, vmax=1)
        closed(axes, truth, TRUTH)
    closed(row[1], contour, ANSWER)
    edge(row[2], logits[0].numpy(), ANSWER)
    limit = max(radius, 1e-9)
    row[3].imshow(seen["mask"] - image, cmap="seismic", vmin=-limit, vmax=limit)
    scores = (f"{measure.head}, Dice {value:.2f}" for measure, value in found.items())
    titles = ("clean" if radius == 0 else f"Linf {radius:g}", *scores, "perturbation / radius")
    for axes, title in zip(row, titles, strict=True):
        axes.set_title(title, fontsize=9)
        frame(axes, size)
