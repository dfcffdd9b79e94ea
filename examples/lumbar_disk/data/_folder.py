"""Folder of one's own data: images with the contours of their discs.

A folder holds, beside each other,

- `images/NAME.png` (or .tif, .tiff, .bmp, .jpg, .jpeg, .npy, .npz): one grey image, of any size and depth;
- `contours/NAME.csv` or `contours/NAME.npz`: the closed outlines of its discs;
- `spacing.csv`, if pixel sizes are known: columns `name` and `pixel_mm`.

Hidden files are skipped.

A patient's name is NAME up to the first underscore. Points are (x, y) in pixels, x along a row, y down, pixel
centres at integers from 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lumbar_disk._core import pictures
from lumbar_disk._core.files import read_table, reason, visible
from lumbar_disk.data._discs import NO_LEVEL, Slice, cropped
from lumbar_disk.data._listing import Item, Listing, Options, Source

IMAGES = (".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg", ".npy", ".npz")
CONTOURS = (".csv", ".npz")
SPACING = "spacing.csv"


def find(root: Path, options: Options) -> Listing:
    """List a folder's images; errors as for `files` and `spacings`."""
    pairs = files(root)
    known = spacings(root, [image for image, _ in pairs])

    def item(image: Path, contours: Path) -> Item:
        return Item(
            image.relative_to(root).as_posix(),
            (image, contours),
            lambda: cropped(
                read_annotated(image, contours, known.get(image.stem)), options.size, upright=options.upright
            ),
        )

    return Listing(tuple(item(*pair) for pair in pairs), (root / SPACING,) if known else ())


SOURCE = Source("folder", find, "`images` and `contours`", ("upright",))


def files(root: Path | str) -> list[tuple[Path, Path]]:
    """Each image of a folder with its contours, in the order of their names.

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
    """Read `spacing.csv`: the side of a pixel in mm by name of image; empty where there is no such file.

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


def read_annotated(image_path: Path | str, contour_path: Path | str, pixel_mm: float | None = None) -> Slice:
    """Read an image and its outlines.

    Args:
        image_path: A file that Pillow reads, an array `(H, W)` in .npy, or in .npz under `image`.
        contour_path: A .csv with columns x, y and, for more than one disc, level; or an .npz with an array
            `(n, 2)` per disc, under the level's name. Points of a disc follow each other along its edge.
        pixel_mm: Side of a pixel in mm. If it is not given, it is read from `pixel_mm` in one of the two
            files if that is an .npz, and otherwise not known (nan).

    Returns:
        The slice, with its outlines as they are; `crop` places the landmarks.

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
    return Slice(image_path.stem.split("_", 1)[0], grey(pixels, image_path), known, outlines)


def _by_name(folder: Path, endings: tuple[str, ...]) -> dict[str, Path]:
    """The files with one of the endings by name, sorted."""
    found: dict[str, Path] = {}
    for path in visible(folder, "*"):
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
        with pictures.opened(path) as image:
            return np.asarray(image.convert("RGB") if image.mode in ("P", "RGBA", "LA") else image)
    except Exception as error:  # Pillow and its codecs raise a dozen kinds for damaged files
        raise ValueError(
            f"{path}: cannot be read as an image ({reason(error)}). Export the mid-sagittal one again, alone."
        ) from error


def grey(pixels: NDArray[Any], path: Path) -> NDArray[np.float32]:
    """An image with one finite number per pixel; three equal channels count as one."""
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
    """A positive number of mm."""
    try:
        found = float(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError):
        found = float("nan")
    if not 0.0 < found < float("inf"):
        raise ValueError(f"{where}: the side of a pixel is a positive number in mm; got {value!r}.")
    return found
