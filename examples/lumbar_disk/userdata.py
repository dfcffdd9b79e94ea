"""Data of one's own: a folder of images with contours, or the paper's ``.mat`` crops.

A folder holds, beside each other,

- ``images/NAME.png`` (or .tif, .tiff, .bmp, .jpg, .jpeg, .npy, .npz): one grey image, of any size and depth;
- ``contours/NAME.csv`` or ``contours/NAME.npz``: the closed outlines of its discs;
- ``spacing.csv``, if pixel sizes are known: columns ``name`` and ``pixel_mm``.

A patient's name is NAME up to the first underscore. Points are (x, y) in pixels, x along a row, y down, pixel
centres at integers from 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import io  # type: ignore[import-untyped]  # scipy ships no types

from .discs import Disc, Slice, cut
from .files import read_table
from .landmarks import POINTS_PER_ARC
from .outlines import evenly
from .shapes import plausible

IMAGES = (".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg", ".npy", ".npz")
CONTOURS = (".csv", ".npz")
SPACING = "spacing.csv"
NO_LEVEL = "disc"  # the level of the only disc of a file that names none
ARCS = ("disk_left", "disk_bot", "disk_right", "disk_up")

_DOWNWARDS = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, -1.0], [-1.0, 0.0]])  # where each arc runs to


def files(root: Path | str) -> list[tuple[Path, Path]]:
    """Return each image of a folder with its contours, in the order of their names.

    Raises:
        FileNotFoundError: If there are no images, or one of a pair is missing.
        ValueError: If two files have one name.
    """
    root = Path(root)
    images, contours = _by_name(root / "images", IMAGES), _by_name(root / "contours", CONTOURS)
    if not images:
        raise FileNotFoundError(
            f"no images in {root / 'images'}. Expected {root}/images/NAME with one of the endings "
            f"{', '.join(IMAGES)}, and {root}/contours/NAME.csv or .npz for each."
        )
    alone = [path for name, path in (images | contours).items() if name not in images or name not in contours]
    if alone:
        raise FileNotFoundError(
            f"{len(alone)} files have no partner of the same name; the first is {alone[0]}. Each "
            "images/NAME needs a contours/NAME.csv or .npz, and the other way round: add it, or move the "
            "file away."
        )
    return [(path, contours[name]) for name, path in images.items()]


def spacings(root: Path | str, images: list[Path]) -> dict[str, float]:
    """Read ``spacing.csv``: the side of a pixel in mm by name of image; empty where there is no such file.

    Raises:
        ValueError: If a column is missing, a number is none or not positive, or a name is no image's.
    """
    path = Path(root) / SPACING
    if not path.is_file():
        return {}
    found = {row["name"]: row["pixel_mm"] for row in read_table(path, "name", "pixel_mm")}
    strangers = sorted(set(found) - {image.stem for image in images})
    if strangers:
        raise ValueError(
            f"{path} names {', '.join(strangers)}, and images has no such file. Write the names without "
            "endings, as in images."
        )
    return {name: _millimetres(value, f"{path}, {name}") for name, value in found.items()}


def read(image_path: Path | str, contour_path: Path | str, pixel_mm: float | None = None) -> Slice:
    """Read an image and its outlines.

    Args:
        image_path: A file that Pillow reads, an array ``(H, W)`` in .npy, or in .npz under ``image``.
        contour_path: A .csv with columns x, y and, for more than one disc, level; or an .npz with an array
            ``(n, 2)`` per disc, under the level's name. Points of a disc follow each other along its edge.
        pixel_mm: Side of a pixel in mm. If it is not given, it is read from ``pixel_mm`` in one of the two
            files if that is an .npz, and otherwise not known (nan).

    Returns:
        The slice, with its outlines as they are; `lumbar_disk.discs.crop` places the landmarks.

    Raises:
        ValueError: If a file is not what it should be.
    """
    image_path, contour_path = Path(image_path), Path(contour_path)
    arrays = _npz(image_path) if image_path.suffix.lower() == ".npz" else {}
    if image_path.suffix.lower() == ".npz":
        if "image" not in arrays:
            raise ValueError(f"{image_path}: expected an array `image`; got {sorted(arrays)}.")
        pixels = arrays["image"]
    else:
        pixels = _pixels(image_path)
    outlines = _npz(contour_path) if contour_path.suffix.lower() == ".npz" else _csv(contour_path)
    stored = [
        _millimetres(source.pop("pixel_mm"), f"{path}, pixel_mm")
        for path, source in ((contour_path, outlines), (image_path, arrays))
        if "pixel_mm" in source
    ]
    for level, points in outlines.items():
        if points.ndim != 2 or points.shape[1] != 2 or points.dtype.kind not in "iuf":
            raise ValueError(
                f"{contour_path}, {level}: expected numbers in an array (n, 2), points (x, y); got "
                f"{points.dtype} of shape {points.shape}."
            )
    if not outlines:
        raise ValueError(f"{contour_path} has no points. Add the outline of a disc, or remove the pair.")
    known = pixel_mm if pixel_mm is not None else (stored or [float("nan")])[0]
    return Slice(image_path.stem.split("_", 1)[0], _grey(pixels, image_path), known, outlines)


def mat_files(root: Path | str) -> list[Path]:
    """Return the .mat files under a folder, in the order of their names.

    Raises:
        FileNotFoundError: If there are none.
    """
    found = sorted(Path(root).rglob("*.mat"))
    if not found:
        raise FileNotFoundError(
            f"no .mat files under {root}. Expected one per disc, with img, {', '.join(ARCS)}."
        )
    return found


def read_mat(path: Path | str, size: int = 128) -> Disc:
    """Read one of the paper's crops: the image ``img`` and the arcs of its contour.

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
    image = _grey(variables["img"], path)
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
    pixels = cut(image, origin, step, size, str(path))
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


def _by_name(folder: Path, endings: tuple[str, ...]) -> dict[str, Path]:
    """Return the files with one of the endings by name, sorted."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*")):
        if path.suffix.lower() in endings and found.setdefault(path.stem, path) != path:
            raise ValueError(
                f"{path} and {found[path.stem].name} have the same name; which is meant? Remove one."
            )
    return found


def _pixels(path: Path) -> NDArray[Any]:
    """Read an image file, or an array from .npy."""
    try:
        if path.suffix.lower() == ".npy":
            return np.asarray(np.load(path, allow_pickle=False))
        with Image.open(path) as image:
            frames = getattr(image, "n_frames", 1)
            pixels = np.asarray(image.convert("RGB") if image.mode in ("P", "RGBA", "LA") else image)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: cannot be read as an image ({error}). Export it again.") from error
    if frames != 1:
        raise ValueError(f"{path} holds {frames} images; expected one. Save the mid-sagittal one alone.")
    return pixels


def _grey(pixels: NDArray[Any], path: Path) -> NDArray[np.float32]:
    """Return an image with one finite number per pixel; three equal channels count as one."""
    if pixels.ndim == 3 and pixels.shape[2] == 3 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    if pixels.ndim != 2 or pixels.dtype.kind not in "iuf" or not np.isfinite(pixels).all():
        raise ValueError(
            f"{path}: expected a grey image (H, W) of finite numbers; got {pixels.dtype} of shape "
            f"{pixels.shape}{'' if pixels.dtype.kind != 'f' else ', maybe with nan'}. Convert it to grey."
        )
    return pixels.astype(np.float32)


def _npz(path: Path) -> dict[str, NDArray[Any]]:
    """Read all arrays of an .npz."""
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            return dict(file)
    except Exception as error:  # numpy and zipfile raise a dozen kinds for a damaged archive
        raise ValueError(f"{path}: cannot be read as a numpy archive: {error}. Write it again.") from error


def _csv(path: Path) -> dict[str, NDArray[Any]]:
    """Read the outlines of a CSV file by level."""
    outlines: dict[str, list[tuple[float, float]]] = {}
    for row in read_table(path, "x", "y"):
        try:
            point = float(row["x"]), float(row["y"])
        except ValueError as error:
            raise ValueError(f"{path}: x and y are numbers with a decimal point; got {row}.") from error
        outlines.setdefault(row.get("level") or NO_LEVEL, []).append(point)
    return {level: np.array(points) for level, points in outlines.items()}


def _millimetres(value: object, where: str) -> float:
    """Return a positive number of mm."""
    try:
        found = float(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError):
        found = float("nan")
    if not 0.0 < found < float("inf"):
        raise ValueError(f"{where}: the side of a pixel is a positive number in mm; got {value!r}.")
    return found
