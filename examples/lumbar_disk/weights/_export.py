"""Export of a study's weights: half precision, an index with checksums, a card for each network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumbar_disk._core.files import read_tensors, sha256, write, write_tensors
from lumbar_disk.report import (
    PAPER_SETTINGS,
    Results,
    interval_text,
    page_content,
    published,
    read_results,
    rendered,
)
from lumbar_disk.report import cells as cells_of
from lumbar_disk.study import MEASURES
from lumbar_disk.weights._index import Entry, read_index, write_index

NOT_OURS = (
    "The images were given by whoever trained the network; their licence decides what may be done with it."
)
LICENCES = {
    "spider": "The network was trained on discs of SPIDER (van der Graaf et al., Lumbar spine segmentation "
    "in MR images: a dataset and a public benchmark, Scientific Data 11, 264, 2024, "
    "doi 10.1038/s41597-024-03090-w; data doi 10.5281/zenodo.10159290), licensed under CC BY 4.0, "
    "https://creativecommons.org/licenses/by/4.0/. The discs were cropped, landmarks placed on them, and "
    "virtual discs made of them. Name SPIDER and its licence wherever you use or pass on these weights.",
    "phantom": "The network was trained on synthetic anatomy, drawn from a seed; no data of others.",
}
"""What a card says of the data's licence, by the source's name."""


def export_weights(folder: Path, out: Path, names: Sequence[str] | None = None) -> list[Path]:
    """Write the weights of a study's finished models in half precision, with their cards and the index.

    `NAME.pt` has the layout of the study's own `models/NAME/weights.pt`, so that it can be laid in its place.
    What the index of `out` already names, of this study or another, stays.

    Args:
        folder: What `lumbar-disk study` wrote.
        out: The folder to write to.
        names: Which models; by default all that are finished.

    Returns:
        Every file written.

    Raises:
        FileNotFoundError: If the folder is not a study's.
        ValueError: If a model is not finished, or there is none; if its weights are damaged, or do not fit
            into half precision.
    """
    results = read_results(folder)
    there = [name for name in results.models if _weights(folder, name).is_file()]
    wanted = there if names is None else list(names)
    absent = [name for name in wanted if name not in there]
    if absent or not wanted:
        raise ValueError(
            f"{folder}: expected finished models, with model.json, table.csv and weights.pt; got none"
            f"{' of ' if absent else ''}{', '.join(absent)}. There are: {', '.join(there) or 'none'}. Run "
            "`lumbar-disk study` to its end first."
        )
    entries = read_index(out) if (out / "index.json").exists() else {}
    written = []
    for name in wanted:
        kept = read_tensors(_weights(folder, name), "cpu", "net", "seconds")
        path = write_tensors(out / f"{name}.pt", kept | {"net": halved(kept["net"], _weights(folder, name))})
        recipe = results.about["recipe"]
        entries[name] = Entry(recipe["width"], recipe["size"], path.stat().st_size, sha256(path))
        card = rendered("card.md", _card(results, name, entries[name]))
        written += [path, write(out / f"{name}.md", card)]
    return [*written, write_index(out, entries)]


def halved(weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Weights rounded to half precision.

    Raises:
        ValueError: If one is too large for it, or not finite; the message names the file.
    """
    rounded = {name: one.half() if one.is_floating_point() else one for name, one in weights.items()}
    if wrong := [name for name, one in rounded.items() if not bool(torch.isfinite(one).all())]:
        raise ValueError(
            f"{path}: expected weights below 65504, the largest number of half precision; got others in "
            f"{', '.join(wrong)}. Train the model again, with a smaller --set lr."
        )
    return rounded


def _weights(folder: Path, name: str) -> Path:
    """The file of a model's weights in a study's folder."""
    return folder / "models" / name / "weights.pt"


def _card(results: Results, name: str, entry: Entry) -> dict[str, Any]:
    """What a network's card shows."""
    manifest, options = results.about["data"], results.about["data"]["options"]
    return page_content(results, (), PAPER_SETTINGS) | {
        "name": name,
        "model": results.models[name],
        "entry": entry,
        "patients": {side: ", ".join(manifest[f"{side}_patients"]) for side in ("train", "test")},
        "arrays": manifest["arrays"],
        "licence": LICENCES.get(options["data"], NOT_OURS),
        "tables": _tables(results, name),
    }


def _tables(results: Results, name: str) -> list[dict[str, Any]]:
    """A network's measures by radius, under both attacks."""
    paper, auto = cells_of(results), cells_of(results, "auto")
    tables = []
    for measure in MEASURES.values():
        text = f"{{:.{measure.digits}f}}".format
        rows = [
            {
                "radius": f"{radius:g}",
                "paper": _told(text, one),
                "auto": _told(text, auto.get((measure.name, name, radius))),
                "published": published(measure.name, name, radius),
            }
            for (known, model, radius), one in paper.items()
            if (known, model) == (measure.name, name)
        ]
        tables.append({"measure": measure, "rows": rows})
    return tables


def _told(text: Any, one: Any) -> str:
    """A mean with its interval; a dash where it was not measured."""
    return "–" if one is None else f"{text(one.mean)} ({interval_text(text, one.low, one.high)})"
