"""Augmentation of training discs: shape models with their report and figures, and samples on disk."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.table import Table

from lumbar_disk._core.drawing import TRUTH, closed, frame
from lumbar_disk._core.files import write
from lumbar_disk.data import Discs
from lumbar_disk.virtual._mesh import KernelName
from lumbar_disk.virtual._shapes import ShapeModel
from lumbar_disk.virtual._storage import fingerprint, generate, refuse_another
from lumbar_disk.virtual._stream import Samples, Stream

PUBLISHED = {3: 0.705, 5: 0.822, 10: 0.914}
"""The share of the variation that the paper's SSM-P3, P5 and P10 cover (section 2.1), by their modes."""

LOOKED_AT = 1000  # samples that the plausibility report looks at


@dataclass(frozen=True)
class Augmented:
    """Report of `augment`: what it found and wrote.

    Attributes:
        explained: Share of the training shapes' variation that each number of components covers.
        plausibility: As `Stream.plausibility` reports it, by number of components.
        files: Figures and summary.
        shards: The samples.
    """

    explained: dict[int, float]
    plausibility: dict[int, dict[str, float]]
    files: tuple[Path, ...]
    shards: tuple[Path, ...]

    def layout(self) -> Table:
        """Lay the shape models' report out for the terminal."""
        shown = Table(
            title="Shape models of the training discs",
            caption=f"implausible, fold: of the first {LOOKED_AT} virtual shapes; folded: of all pixels",
        )
        headings = (
            "model",
            "variation covered",
            "the paper's",
            "implausible, redrawn",
            "maps that fold",
            "folded",
        )
        for heading in headings:
            shown.add_column(heading, justify="right")
        for components, share in self.explained.items():
            found = self.plausibility[components]
            published = PUBLISHED.get(components)
            shown.add_row(
                f"SSM-P{components}",
                f"{100 * share:.1f} %",
                "" if published is None else f"{100 * published:.1f} %",
                *(f"{100 * found[name]:.1f} %" for name in ("implausible", "folds", "folded")),
            )
        return shown


def augment(
    train: Discs,
    out: Path,
    *,
    components: int,
    count: int,
    command: str,
    manifest: dict[str, Any],
    seed: int = 0,
    kernel: KernelName = "r2logr",
    shard: int = 4096,
    batch: int = 64,
    progress: bool = False,
) -> Augmented:
    """Fit the shape models, report on them, and store the first `count` virtual samples of one.

    Args:
        train: The training discs, which lend shapes and images.
        out: The folder to write to; made if it is not there.
        components: Of the shape model that the samples come from; the paper's are 3, 5 and 10.
        count: How many samples; the paper's are 640,000. 0 writes report and figures alone.
        command: What the user typed; goes into the summary.
        manifest: Where the training discs come from; goes into the summary.
        seed: Of the stream.
        kernel: Of the splines.
        shard: Samples per file.
        batch: Samples made at a time.
        progress: Whether to show a progress bar.

    Returns:
        The report and the files.

    Raises:
        ValueError: If there are too few discs for so many components, or `out` holds another stream.
    """
    models = {n: ShapeModel.fit(train.contours, n) for n in sorted({*PUBLISHED, components})}
    streams = {n: Stream(train, model, seed=seed, kernel=kernel) for n, model in models.items()}
    stream = streams[components]
    if count:
        refuse_another(stream, out, shard)
    plausibility = {n: streams[n].plausibility(LOOKED_AT) for n in streams}
    explained = {n: model.explained for n, model in models.items()}
    summary = {
        "command": command,
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("advreg", "torch", "numpy")},
        "stream": fingerprint(stream),
        "count": count,
        "explained": {n: {"ours": explained[n], "published": PUBLISHED.get(n)} for n in models},
        "plausibility": {"samples": LOOKED_AT} | {str(n): report for n, report in plausibility.items()},
        "data": manifest,
    }
    text = json.dumps(summary, indent=2) + "\n"
    out.mkdir(parents=True, exist_ok=True)
    shown = virtual_figure(train, stream.at(torch.arange(4)))
    files = (
        write(out / "augment.json", text),
        write(out / "figure2.png", shown.savefig),
        write(out / "modes.png", modes_figure(stream.model, stream.size).savefig),
    )
    shards = generate(stream, out, count, shard=shard, batch=batch, progress=progress) if count else []
    return Augmented(explained, plausibility, files, tuple(shards))


def virtual_figure(real: Discs, samples: Samples) -> Figure:
    """Show how virtual samples come about, one per row (the paper's Fig. 2).

    Left, the real image that lends its texture, with its own shape; middle, the virtual shape over the real
    one (dashed); right, the virtual image with the virtual shape.

    Args:
        real: The discs of the stream.
        samples: Some of its samples.

    Returns:
        The figure, not yet written.
    """
    count = len(samples.index)
    figure = Figure(figsize=(8.0, 2.9 * count), dpi=110, layout="constrained")
    for row, place in zip(figure.subplots(count, 3, squeeze=False), range(count), strict=True):
        source = int(samples.source[place])
        before, after = real.contours[source], samples.contours[place]
        row[0].imshow(real.images[source, 0].numpy(), cmap="gray", vmin=0, vmax=1)
        closed(row[0], before, TRUTH)
        closed(row[1], before, "gray", "--")
        closed(row[1], after, TRUTH)
        row[2].imshow(samples.images[place, 0].numpy(), cmap="gray", vmin=0, vmax=1)
        closed(row[2], after, TRUTH)
        name = f"patient {real.patients[source]}, {real.levels[source]}"
        titles = (name, "virtual shape", f"virtual image {int(samples.index[place])}")
        for axes, title in zip(row, titles, strict=True):
            axes.set_title(title, fontsize=10, parse_math=False)
            frame(axes, (samples.images.shape[-2], samples.images.shape[-1]))
    return figure


def modes_figure(model: ShapeModel, size: tuple[int, int]) -> Figure:
    """Show each mode of a shape model at -2 (blue), 0 (black) and +2 (red) standard deviations.

    Args:
        model: The shape model.
        size: Rows and columns (H, W) of the crop.

    Returns:
        The figure, not yet written.
    """
    count = len(model.modes)
    columns = min(count, 5)
    rows = -(-count // columns)
    figure = Figure(figsize=(2.6 * columns, 0.4 + 2.75 * rows), dpi=110, layout="constrained")
    figure.suptitle(
        f"{count} modes, {100 * model.explained:.1f} % of the variation: -2 (blue), 0, +2 (red) SD"
    )
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[count:]:
        axes.set_visible(False)
    for mode, axes in enumerate(grid[:count]):
        codes = torch.zeros(3, count)
        codes[:, mode] = torch.tensor([-2.0, 0.0, 2.0])
        for shape, colour in zip(model.decode(codes), ("tab:blue", "black", "tab:red"), strict=True):
            closed(axes, shape, colour)
        axes.set_title(f"mode {mode + 1}: {100 * float(model.shares[mode]):.1f} %", fontsize=10)
        frame(axes, size)
    return figure
