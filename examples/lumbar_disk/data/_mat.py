"""Matlab files of the paper's crops: the image and the four arcs of its contour, one file per disc."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import io  # type: ignore[import-untyped]  # scipy ships no types

from lumbar_disk._core.files import visible
from lumbar_disk.data._discs import NO_LEVEL, Disc, cut
from lumbar_disk.data._folder import grey
from lumbar_disk.data._landmarks import POINTS_PER_ARC
from lumbar_disk.data._listing import Item, Listing, Options, Source
from lumbar_disk.data._outlines import evenly, plausible

ARCS = ("disk_left", "disk_bot", "disk_right", "disk_up")

_DOWNWARDS = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, -1.0], [-1.0, 0.0]])  # where each arc runs to


def find(root: Path, options: Options) -> Listing:
    """List the paper's crops; errors as for `mat_files`."""

    def item(path: Path) -> Item:
        return Item(path.relative_to(root).as_posix(), (path,), lambda: ([read_mat(path, options.size)], {}))

    return Listing(tuple(map(item, mat_files(root))))


SOURCE = Source("mat", find, "the .mat files")


def mat_files(root: Path | str) -> list[Path]:
    """The .mat files under a folder, in the order of their names, without hidden ones.

    Raises:
        FileNotFoundError: If there are none.
    """
    found = visible(Path(root), "**/*.mat")
    if not found:
        raise FileNotFoundError(
            f"no .mat files under {root}. Expected one per disc, with img, {', '.join(ARCS)}."
        )
    return found


def read_mat(path: Path | str, size: int = 128) -> Disc:
    """Read one of the paper's crops: the image `img` and the arcs of its contour.

    Arcs are turned to run on from each other: left down, bottom to the right, right up, top to the left. An
    arc of 44 points is kept as it is; one of another number, or one whose last point is the next arc's first,
    is resampled evenly from its first point towards the next arc's. Crops of another size are resampled.

    Args:
        path: The file; the patient is its name up to the first underscore, the level the rest of it.
        size: Side of the crop in pixels.

    Returns:
        The disc; the size of its pixels is not known (nan).

    Raises:
        ValueError: If the file is not MATLAB's, a variable is missing, the image is not square, an arc is not
            an array (n, 2), or the contour crosses itself or leaves the image.
    """
    path = Path(path)
    try:
        variables = io.loadmat(str(path), variable_names=["img", *ARCS])
    except NotImplementedError as error:
        raise ValueError(
            f"{path} is of MATLAB's version 7.3, which is not read. Save it with `save(..., '-v7')`."
        ) from error
    except Exception as error:  # scipy raises whatever a damaged file leads its parser to
        raise ValueError(
            f"{path} cannot be read as a MATLAB file ({error}). Copy or export it again."
        ) from error
    missing = [name for name in ("img", *ARCS) if name not in variables]
    if missing:
        raise ValueError(f"{path}: expected the variables img, {', '.join(ARCS)}; without {missing}.")
    image = grey(variables["img"], path)
    if image.shape[0] != image.shape[1]:
        raise ValueError(f"{path}: expected a square crop as img; got {image.shape[0]} x {image.shape[1]}.")
    step = image.shape[0] / size
    contour = (_arcs([variables[name] for name in ARCS], path) + 0.5) / step - 0.5
    if not plausible(torch.from_numpy(contour)[None], (size, size)).item():
        raise ValueError(
            f"{path}: its contour crosses or touches itself, or leaves the image; x from "
            f"{contour[:, 0].min():.1f} to {contour[:, 0].max():.1f}, y from {contour[:, 1].min():.1f} to "
            f"{contour[:, 1].max():.1f} in {size} x {size} pixels. Expected points (x, y) of img: are x and "
            "y exchanged?"
        )
    origin = np.full(2, (step - 1) / 2)
    patient, _, level = path.stem.partition("_")
    pixels = cut(image, origin, step * np.eye(2), size, str(path))
    return Disc(patient, level or NO_LEVEL, pixels, contour.astype(np.float32), float("nan"))


def _arcs(arcs: list[NDArray[Any]], path: Path) -> NDArray[np.float64]:
    """Join four arcs to 176 points."""
    turned = []
    for name, arc, towards in zip(ARCS, arcs, _DOWNWARDS, strict=True):
        if arc.ndim != 2 or arc.shape[1] != 2 or len(arc) < 2 or arc.dtype.kind not in "iuf":
            raise ValueError(
                f"{path}, {name}: expected numbers in an array (n, 2), points (x, y); got {arc.dtype} of "
                f"shape {arc.shape}."
            )
        if not np.isfinite(arc).all():
            raise ValueError(f"{path}, {name}: some points are not finite. Export the file again.")
        turned.append(arc.astype(np.float64)[:: 1 if (arc[-1] - arc[0]) @ towards > 0 else -1])
    joined = []
    for arc, following in zip(turned, turned[1:] + turned[:1], strict=True):
        shared = np.linalg.norm(arc[-1] - following[0]) < 1e-6
        keep = len(arc) == POINTS_PER_ARC and not shared
        joined.append(arc if keep else evenly(np.vstack([arc, following[:1]]), POINTS_PER_ARC))
    return np.concatenate(joined)
