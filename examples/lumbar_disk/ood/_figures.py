"""Figures of the out-of-distribution study: the paper's Figs 1(b), 10, 11 and 12, wide and tall.

Figs 10 and 11 are turned for a dark page; images stand on black.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from advreg import contour_dice, dice
from lumbar_disk._core.drawing import ANSWER, COLOURS, GROUND, INK, closed, edge, frame, inked
from lumbar_disk.ood._claims import ADV_REC, RECONSTRUCTION, STD, STD_REC
from lumbar_disk.ood._tables import AWARE, CLEAN_ONLY, DETECTOR, IN, LOSSES, NONE, UNAWARE, Measured
from lumbar_disk.study import CONTOUR_DICE, MASK_DICE, Examples

OUT = "#4da3ff"  # an answer to an image that is no disc: the paper's blue
ATTACKS = {"reg": "contour", "seg": "mask"}
WHO = {
    NONE: "OOD, no adversary",
    UNAWARE: "OOD, unaware adversary",
    AWARE + RECONSTRUCTION: "OOD, aware adversary",
}


def example_figure(arrays: Examples, *, tall: bool = False) -> Figure:
    """Draw Fig. 1(b): a disc, its clean partner, and the partner attacked on either head, with the answers.

    Args:
        arrays: Examples of the model trained on clean images.
        tall: Whether images run down rather than across.

    Returns:
        The figure, not yet written.
    """
    titles = {IN: "disc, x_in", NONE: f"{arrays['source']}, clean"}
    titles |= {name: f"x_out, {head} attacked" for name, head in ATTACKS.items()}
    columns = [(name, title) for name, title in titles.items() if f"x_{name}" in arrays]
    shape = (len(columns), 2) if tall else (2, len(columns))
    with rc_context(inked("white", "black")):
        figure = Figure((2.2 * shape[1] + 0.4, 2.45 * shape[0] + 0.3), dpi=120, layout="constrained")
        grid = figure.subplots(*shape, squeeze=False)
        for column, (name, title) in enumerate(columns):
            found = _alike(arrays, name)
            for row, head in enumerate(ATTACKS.values()):
                place = (column, row) if tall else (row, column)
                axes = grid[place]
                _answer(axes, arrays, name, head)
                text = "" if name == IN else f"Dice {found[head]:.2f}"
                text += " (not attacked)" if name in ATTACKS and head != ATTACKS[name] else ""
                over, left = (head, title) if tall else (title, head)
                head_line = "\n".join(filter(None, (over if place[0] == 0 else "", text)))
                axes.set_title(head_line, fontsize=10, parse_math=False)
                if place[1] == 0:
                    axes.set_ylabel(left, fontsize=10, parse_math=False)
    return figure


def example_text(arrays: Examples) -> str:
    """Tell what Fig. 1(b) shows to whoever does not see it."""
    lines = []
    for name, head in ((NONE, "contour"), (NONE, "mask"), *ATTACKS.items()):
        if f"x_{name}" in arrays:
            who = "clean" if name == NONE else f"attacked on the {head}"
            lines.append(f"{head} of the image {who} {_alike(arrays, name)[head]:.2f}.")
    return f"A disc and an image of {arrays['source']}. Dice with the answer to the disc: {' '.join(lines)}"


def dice_figure(measured: Measured, *, tall: bool = False) -> Figure:
    """Draw Fig. 10: how alike a network answers to discs and to what is none, before and under attack.

    Args:
        measured: What `measure` returned.
        tall: Whether to stack the panels.

    Returns:
        The figure, not yet written.
    """
    table = measured.tables[STD]
    with rc_context(inked(INK, GROUND)):
        figure = Figure(figsize=(4.6, 7.6) if tall else (11.5, 4.2), dpi=150, layout="constrained")
        panels = figure.subplots(*((2, 1) if tall else (1, 2)))
        shown = zip(panels, ATTACKS.items(), (CONTOUR_DICE, MASK_DICE), strict=True)
        for axes, (adversary, head), measure in shown:
            for who, colour in ((NONE, COLOURS[4]), (adversary, COLOURS[0])):
                rows = table.get((f"{measured.source}/{who}", *measure.column))
                name = "no adversary" if who == NONE else f"J_OOD_{who}"
                if rows is None:
                    axes.plot([], [], color=colour, label=f"{name} (missing)")
                    continue
                values = rows.values()
                label = f"{name}: mean {values.mean():.3f}"
                _histogram(axes, values.tolist(), np.linspace(0, 1, 41).tolist(), colour, label)
            axes.set_title(f"{head}s, {STD}, {measured.source}", fontsize=11, parse_math=False)
            axes.set(
                xlabel=f"Dice between the {head}s for disc and partner", ylabel="pairs", xlim=(-0.01, 1.01)
            )
            _finish(axes)
        _lay_out(figure)
    return figure


def dice_text(measured: Measured) -> str:
    """Tell what Fig. 10 shows to whoever does not see it."""
    lines = [
        f"{head} under J_OOD_{adversary} {getattr(pairs, head).mean:.3f}."
        for adversary, head in ATTACKS.items()
        if (pairs := measured.matchings.get((STD, measured.source, adversary)))
    ]
    return f"Two histograms of the Dice between outputs. Mean: {' '.join(lines) or 'not computed.'}"


def error_figure(measured: Measured, *, tall: bool = False) -> Figure:
    """Draw Fig. 11: reconstruction errors of discs and of what is none, under each adversary.

    Args:
        measured: What `measure` returned.
        tall: Whether to stack the panels.

    Returns:
        The figure, not yet written.
    """
    with rc_context(inked(INK, GROUND)):
        figure = Figure(figsize=(4.6, 9.4) if tall else (11.5, 5.0), dpi=150, layout="constrained")
        panels = figure.subplots(*((2, 1) if tall else (1, 2)))
        for axes, model in zip(panels, (STD_REC, ADV_REC), strict=True):
            there = model in measured.tables
            axes.set_title(f"{model}, {LOSSES[model]}{'' if there else ' (missing)'}", fontsize=11)
            axes.set(xlabel="reconstruction error", ylabel="images")
            shown = _errors(measured, model)
            top = max((value for values, _ in shown.values() for value in values), default=1.0)
            bins = np.linspace(0, 1.02 * top, 41).tolist()
            colours = (INK, COLOURS[4], COLOURS[1], COLOURS[5])
            for (name, (values, text)), colour in zip(shown.items(), colours, strict=False):
                _histogram(axes, values, bins, colour, f"{name}{text}")
            _finish(axes)
        _lay_out(figure)
    return figure


def error_text(measured: Measured) -> str:
    """Tell what Fig. 11 shows to whoever does not see it."""
    lines = [
        f"{model}: {name}{text}."
        for model in (STD_REC, ADV_REC)
        for name, (_, text) in _errors(measured, model).items()
        if text
    ]
    return f"Histograms of reconstruction errors, one chart per network. {' '.join(lines) or 'Not computed.'}"


def perturbation_figure(examples: Mapping[str, Examples], *, tall: bool = False) -> Figure:
    """Draw Fig. 12: what an attack adds to an image that is no disc, for two networks.

    Per network and disc four columns: the clean image; the attacked one; the difference alone, zero white and
    the ends of the colours at the limit that its title gives; the attacked one with the answers to it (blue)
    and to the disc (green), contours solid, edges of the masks dotted.

    Args:
        examples: Arrays by model.
        tall: Whether to stack the networks.

    Returns:
        The figure, not yet written.
    """
    there = {name: examples[name] for name in (STD_REC, ADV_REC) if _attacked(examples.get(name))}
    changes = {name: (one["x_unaware"] - one["x_none"])[:, 0] for name, one in there.items()}
    limit = max(float(np.quantile(np.abs(change), 0.995)) for change in changes.values()) or 1.0
    count = min([3, *map(len, changes.values())])
    with rc_context(inked("white", "black")):
        size = (4.8, 2 * (1.28 * count + 0.5)) if tall else (12.4, 1.6 * count + 0.6)
        figure = Figure(size, dpi=110, layout="constrained")
        blocks = figure.subfigures(*((2, 1) if tall else (1, 2)), squeeze=False).ravel()
        for block, name in zip(blocks, (STD_REC, ADV_REC), strict=True):
            block.set_facecolor("black")
            block.suptitle(f"{name}, {LOSSES[name]}{'' if name in there else ' (missing)'}", fontsize=11)
            if name not in there:
                continue
            for row, axes in enumerate(block.subplots(count, 4, squeeze=False)):
                _added(axes, there[name], row, limit)
    return figure


def perturbation_text(examples: Mapping[str, Examples]) -> str:
    """Tell what Fig. 12 shows to whoever does not see it."""
    lines = []
    for name in (STD_REC, ADV_REC):
        arrays = examples.get(name)
        if arrays is not None and _attacked(arrays):
            norm = float(np.sqrt(np.square(arrays["x_unaware"][0] - arrays["x_none"][0]).sum()))
            found = _alike(arrays, UNAWARE)
            lines.append(
                f"{name}: perturbation of L2 norm {norm:.1f}, contour Dice {found['contour']:.2f}, mask Dice "
                f"{found['mask']:.2f}."
            )
    return (
        f"Images before and after the attack, what it added, and the answers. First disc: {' '.join(lines)}"
    )


def drawable(examples: Mapping[str, Examples]) -> bool:
    """Whether there is anything to show in Fig. 12."""
    return any(_attacked(examples.get(name)) for name in (STD_REC, ADV_REC))


def _attacked(arrays: Examples | None) -> bool:
    """Whether examples hold what Fig. 12 shows."""
    return arrays is not None and "x_unaware" in arrays and len(arrays["x_unaware"]) > 0


def _alike(arrays: Examples, name: str, place: int = 0) -> dict[str, float]:
    """The Dice between the answers to an image and to its disc, by head."""
    size = (arrays["x_in"].shape[-2], arrays["x_in"].shape[-1])
    one = slice(place, place + 1)
    mine, theirs = (torch.from_numpy(arrays[f"contour_{which}"][one]) for which in (name, IN))
    logits, mask = (torch.from_numpy(arrays[f"mask_{which}"][one]) for which in (name, IN))
    return {
        "contour": contour_dice(mine, theirs, size=size).item(),
        "mask": dice(logits, (mask > 0).to(logits)).item(),
    }


def _answer(axes: Axes, arrays: Examples, name: str, head: str) -> None:
    """Draw an image with the contours for it and for its disc, or the mask."""
    image, mask = arrays[f"x_{name}"][0, 0], arrays[f"mask_{name}"][0, 0]
    axes.imshow(mask > 0 if head == "mask" else image, cmap="gray", vmin=0, vmax=1)
    if head == "contour":
        closed(axes, torch.from_numpy(arrays["contour_in"][0]), ANSWER, "-" if name == IN else ":")
        if name != IN:
            closed(axes, torch.from_numpy(arrays[f"contour_{name}"][0]), OUT)
    frame(axes, (image.shape[0], image.shape[1]))


def _added(row: Sequence[Axes], arrays: Examples, place: int, limit: float) -> None:
    """Draw one disc's row of Fig. 12."""
    clean, attacked = arrays["x_none"][place, 0], arrays["x_unaware"][place, 0]
    for axes, image in zip(row, (clean, attacked, None, attacked), strict=True):
        if image is None:
            axes.imshow(attacked - clean, cmap="seismic", vmin=-limit, vmax=limit)
        else:
            axes.imshow(image, cmap="gray", vmin=0, vmax=1)
        frame(axes, (clean.shape[0], clean.shape[1]))
    for name, colour in ((IN, ANSWER), (UNAWARE, OUT)):
        closed(row[3], torch.from_numpy(arrays[f"contour_{name}"][place]), colour)
        logits = arrays[f"mask_{name}"][place, 0]
        edge(row[3], logits, colour, "dotted", 1.2)
    if place == 0:
        for axes, title in zip(
            row, (str(arrays["source"]), "attacked", f"added, ±{limit:.2f}"), strict=False
        ):
            axes.set_title(title, fontsize=9, parse_math=False)
    found = _alike(arrays, UNAWARE, place)
    row[3].set_title(f"Dice {found['contour']:.2f}, {found['mask']:.2f}", fontsize=9)
    row[0].set_ylabel(f"{arrays['patients'][place]}, {arrays['levels'][place]}", fontsize=9, parse_math=False)


def _errors(measured: Measured, model: str) -> dict[str, tuple[list[float], str]]:
    """The reconstruction errors that Fig. 11 shows by name, with what its legend says of each."""
    table = measured.tables.get(model, {})
    found: dict[str, tuple[list[float], str]] = {}
    if (IN, DETECTOR, RECONSTRUCTION) in table:
        found["discs"] = (table[IN, DETECTOR, RECONSTRUCTION].values().tolist(), "")
    for adversary, name in WHO.items():
        detection = measured.detections.get((model, RECONSTRUCTION, measured.source, adversary))
        if detection is not None:
            rows = table[f"{measured.source}/{adversary}", DETECTOR, RECONSTRUCTION]
            text = f": AUROC {detection.auroc.mean:.2f}{f' ({CLEAN_ONLY})' if adversary == NONE else ''}"
            found[name] = (rows.values().tolist(), text)
    return found


def _histogram(axes: Axes, values: list[float], bins: list[float], colour: str, label: str) -> None:
    """Draw a histogram, filled faintly so that others show through."""
    axes.hist(values, bins, color=colour, alpha=0.22, histtype="stepfilled")
    axes.hist(values, bins, color=colour, histtype="step", linewidth=1.6)
    axes.plot([], [], color=colour, linewidth=3, label=label)


def _finish(axes: Axes) -> None:
    """Give a panel its grid, and its legend below."""
    axes.grid(alpha=0.15)
    axes.locator_params(axis="y", integer=True)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False)
    else:
        axes.set(xticks=[], yticks=[])


def _lay_out(figure: Figure) -> None:
    """Lay a figure out once, however often it is saved."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
