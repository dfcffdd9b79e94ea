"""Figures of the study: robustness curves (the paper's Figs 4 to 7), discs under attack (Figs 8 and 9).

Each comes wide, for a page, and tall, for a phone. Curves are turned for a dark page; discs under attack
stand on black anyway, as images are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from advreg import contour_dice, dice
from advreg.evaluation import Interval
from lumbar_disk._core.drawing import ANSWER, COLOURS, GROUND, INK, TRUTH, closed, edge, frame, inked
from lumbar_disk.report._pages import Picture, write_drawing, write_photograph
from lumbar_disk.report._paper import PAPER_MODELS, PAPER_RADII, published
from lumbar_disk.report._results import Cells, Results
from lumbar_disk.study import MASK_DICE, MEASURES, Examples

MARKERS = "osD^vP"
THIN = 0.8  # of the lines under `auto_attack`, in points


@dataclass(frozen=True)
class Curves:
    """Curves of one of Figs 4 to 7: the models it compares, and what it shows."""

    models: tuple[str, ...]
    caption: str


CURVES = {
    4: Curves(
        tuple(name for name in PAPER_MODELS if name.endswith(("_std", "_rand"))),
        "Networks trained on clean images (std), and with random noise added to the images (rand)",
    ),
    5: Curves(
        ("P3_adv_rs", "P10_adv_rs", "P10_std"), "Adversarial training against attacks on both heads (adv_rs)"
    ),
    6: Curves(
        ("P3_adv_r", "P10_adv_r", "P10_std"), "Adversarial training against attacks on the contour (adv_r)"
    ),
    7: Curves(
        ("P3_adv_s", "P10_adv_s", "P10_std"), "Adversarial training against attacks on the mask (adv_s)"
    ),
}

OUTPUTS = {8: "contour", 9: "mask"}  # Figs 8 and 9 by the head that is attacked and shown
SHOWN = ("P10_std", "P10_rand", "P10_adv_rs")


def curve_figure(number: int, cells: Cells, auto: Cells | None = None, *, tall: bool = False) -> Figure:
    """Draw Fig. 4, 5, 6 or 7: the three measures against the radius, ours and the paper's.

    Ours are solid, with a band for the interval of each mean, and thin without a marker under `auto_attack`;
    the paper's are dashed and fainter. All are in the same colour.

    Args:
        number: Of the figure.
        cells: What `cells` returned.
        auto: The same under `auto_attack`, where there are any.
        tall: Whether to stack the three panels.

    Returns:
        The figure, not yet written.
    """
    models = CURVES[number].models
    with rc_context(inked(INK, GROUND)):
        count = len(MEASURES)
        size = (4.6, 9.6 * count / 3) if tall else (11.5 * count / 3, 4.3)
        figure = Figure(figsize=size, dpi=150, layout="constrained")
        panels = figure.subplots(*((count, 1) if tall else (1, count)))
        for axes, measure in zip(panels, MEASURES.values(), strict=True):
            for name, colour, marker in zip(models, COLOURS, MARKERS, strict=False):
                _curve(axes, cells, (measure.name, name), colour, marker)
                _thin(axes, auto or {}, (measure.name, name), colour)
            axes.set_title(f"{measure.symbol}: attack on the {measure.head}", fontsize=11)
            axes.set(xlabel="radius of the attack (Linf)", ylabel=measure.title)
            axes.set_ylim(*((0, None) if measure.unit else (-0.02, 1.02)))
            axes.locator_params(axis="x", nbins=5)
            axes.grid(alpha=0.15)
        there = {name for _, name, _ in cells}
        handles = [
            Line2D([], [], color=colour, marker=marker, label=name if name in there else f"{name} (missing)")
            for name, colour, marker in zip(models, COLOURS, MARKERS, strict=False)
        ]
        handles.append(Line2D([], [], color=INK, linestyle="--", alpha=0.6, label="published, same colour"))
        if auto:
            handles.append(Line2D([], [], color=INK, linewidth=THIN, label="auto_attack, same colour"))
        figure.legend(handles=handles, loc="outside lower center", ncols=2 if tall else 4, frameon=False)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once, however often it is saved
    return figure


def output_figure(number: int, examples: Mapping[str, Examples], *, tall: bool = False) -> Figure:
    """Draw Fig. 8 or 9: one test disc, three networks, all radii; truth red, answer green, Dice above.

    The disc is the first that the examples hold, so that nobody chose it.

    Args:
        number: Of the figure.
        examples: Arrays by model, at least those of one of `SHOWN`.
        tall: Whether radii run down rather than across.

    Returns:
        The figure, not yet written.
    """
    radii = sorted(
        {float(radius) for name in SHOWN if name in examples for radius in examples[name]["radii"]}
    )
    shape = (len(radii), len(SHOWN)) if tall else (len(SHOWN), len(radii))
    with rc_context(inked("white", "black")):
        figure = Figure((1.55 * shape[1] + 0.4, 1.78 * shape[0] + 0.3), dpi=110, layout="constrained")
        grid = figure.subplots(*shape, squeeze=False)
        for column, name in enumerate(SHOWN):
            found = _scores(number, examples[name]) if name in examples else {}
            for row, radius in enumerate(radii):
                place = (row, column) if tall else (column, row)
                axes = grid[place]
                text = f"Dice {found[radius]:.2f}" if radius in found else "missing"
                if radius in found:
                    _output(axes, OUTPUTS[number], examples[name], radius)
                over, left = (name, _named(radius)) if tall else (_named(radius), name)
                axes.set_title(f"{over}\n{text}" if place[0] == 0 else text, fontsize=10)
                axes.set(xticks=[], yticks=[])
                if place[1] == 0:
                    axes.set_ylabel(left, fontsize=11)
    return figure


def curve_text(number: int, cells: Cells) -> str:
    """Tell what Fig. 4, 5, 6 or 7 shows to whoever does not see it."""
    lines = []
    for name in CURVES[number].models:
        found = {
            radius: one.mean
            for (measure, model, radius), one in cells.items()
            if (measure, model) == (MASK_DICE.name, name)
        }
        if found:
            lines.append(_line(name, found))
    return (
        "Three charts against the radius of the attack: point error, contour Dice, mask Dice. Mask Dice by "
        f"radius: {' '.join(lines) or 'no model of this figure is there.'}"
    )


def output_text(number: int, examples: Mapping[str, Examples]) -> str:
    """Tell what Fig. 8 or 9 shows to whoever does not see it."""
    lines = [_line(name, _scores(number, examples[name])) for name in SHOWN if name in examples]
    return (
        f"A disc at each radius, with its true outline and the network's. Dice by radius: {' '.join(lines)}"
    )


def disc(examples: Mapping[str, Examples]) -> str | None:
    """The disc that Figs 8 and 9 show, or None if there is none."""
    for name in SHOWN:
        if name in examples:
            return f"patient {examples[name]['patients'][0]}, {examples[name]['levels'][0]}"
    return None


def _scores(number: int, arrays: Examples) -> dict[float, float]:
    """The Dice of the disc that Fig. 8 or 9 shows, by radius."""
    head = OUTPUTS[number]
    count = len(arrays["radii"])
    answers = torch.from_numpy(arrays[f"{head}_{head}"][:, 0])
    if head == "contour":
        truth = torch.from_numpy(arrays["contours"][:1]).expand(count, -1, -1)
        size = (arrays["images"].shape[-2], arrays["images"].shape[-1])
        found = contour_dice(answers, truth, size=size)
    else:
        found = dice(answers, torch.from_numpy(arrays["masks"][:1]).expand(count, -1, -1, -1))
    return {float(radius): value for radius, value in zip(arrays["radii"], found.tolist(), strict=True)}


def _curve(axes: Axes, cells: Cells, which: tuple[str, str], colour: str, marker: str) -> None:
    """Draw one model's measured curve, and the published one."""
    measure, name = which
    radii, found = _points(cells, which)
    axes.plot(radii, [one.mean for one in found], color=colour, marker=marker, markersize=4.5, zorder=3)
    axes.fill_between(
        radii, [one.low for one in found], [one.high for one in found], color=colour, alpha=0.18, linewidth=0
    )
    printed = [published(measure, name, radius) for radius in PAPER_RADII]
    values = [np.nan if value is None else value for value in printed]
    axes.plot(PAPER_RADII, values, color=colour, linestyle="--", linewidth=1.2, alpha=0.6)


def _thin(axes: Axes, cells: Cells, which: tuple[str, str], colour: str) -> None:
    """Draw one model's curve under `auto_attack`, if there is one."""
    radii, found = _points(cells, which)
    if radii:
        axes.plot(radii, [one.mean for one in found], color=colour, linewidth=THIN, zorder=2)


def _points(cells: Cells, which: tuple[str, str]) -> tuple[list[float], list[Interval]]:
    """The radii at which a model was measured, rising, and what was found there."""
    radii = sorted(radius for one, model, radius in cells if (one, model) == which)
    return radii, [cells[*which, radius] for radius in radii]


def _output(axes: Axes, head: str, arrays: Examples, radius: float) -> None:
    """Draw one network's answer at one radius."""
    row = int(np.flatnonzero(arrays["radii"] == radius)[0])
    image, answer = arrays[f"x_{head}"][row, 0, 0], arrays[f"{head}_{head}"][row, 0]
    axes.imshow(image, cmap="gray", vmin=0, vmax=1)
    closed(axes, torch.from_numpy(arrays["contours"][0]), TRUTH)
    if head == "contour":
        closed(axes, torch.from_numpy(answer), ANSWER)
    else:
        edge(axes, answer[0], ANSWER)
    frame(axes, (image.shape[0], image.shape[1]))


def _line(name: str, values: Mapping[float, float]) -> str:
    """A model's values by radius as a sentence."""
    return f"{name}: {', '.join(f'{values[radius]:.2f} at {radius:g}' for radius in sorted(values))}."


def _named(radius: float) -> str:
    """A radius as a heading."""
    return "clean" if radius == 0 else f"Linf {radius:g}"


def pictures(results: Results, cells: Cells, auto: Cells, out: Path) -> tuple[list[Picture], list[Path]]:
    """Write Figs 4 to 9 as far as they can be drawn.

    Args:
        results: Of the study.
        cells: What `cells` returned for it.
        auto: The same under `auto_attack`.
        out: The folder to write to.

    Returns:
        The figures for a page, and the files.
    """
    shown, files = [], []
    for number, curves in CURVES.items():
        path = out / f"figure{number}.png"
        sources = write_drawing(path, partial(curve_figure, number, cells, auto))
        files.append(path)
        shown.append(Picture(number, curves.caption, curve_text(number, cells), sources))
    for number, head in OUTPUTS.items():
        path = out / f"figure{number}.png"
        caption = f"The {head} of one test disc under attack on the {head}, by three networks"
        which = disc(results.examples)
        if which is None:
            path.unlink(missing_ok=True)  # of an earlier run
            shown.append(Picture(number, caption, "", {}))
            continue
        sources = write_photograph(path, partial(output_figure, number, results.examples))
        files.append(path)
        shown.append(Picture(number, f"{caption}: {which}", output_text(number, results.examples), sources))
    return shown, files
