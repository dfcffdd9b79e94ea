"""SPIDER data set as it is on disk: `images/*.mha` beside `masks/*.mha` of the same names.

SPIDER: van der Graaf et al., Scientific Data 11:264 (2024), doi 10.1038/s41597-024-03090-w. Mask values:
100 the spinal canal, 201 to 205 the lumbar discs from L5/S1 up to L1/L2, 206 and on the thoracic ones above,
1 to 25 vertebrae, 101 to 125 those that are partly visible. Beside the two folders `overview.csv` may say
which patients are for training and which for validation. Hidden files are skipped.
"""
# mypy: allow-untyped-calls
# (SimpleITK ships no types.)

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its own documentation's name
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]  # scipy ships no types
from tqdm import tqdm

from lumbar_disk._core.files import read_table, reason, visible
from lumbar_disk.data._discs import LEVELS, Disc, Slice, cropped
from lumbar_disk.data._landmarks import outline
from lumbar_disk.data._listing import Crops, Item, Listing, Options, Source
from lumbar_disk.data._metaimage import data_files
from lumbar_disk.data._outlines import Array

CANAL = 100
DISC_LABELS = {201 + i: level for i, level in enumerate(LEVELS)}
OVERVIEW = "overview.csv"
MIN_DISC_MM2 = 30.0  # a sliver: the slice only grazes the disc, and its outline says little of its shape
MIN_DISC_PIXELS = 40
SUBSETS = {"training": "train", "validation": "test"}

# Axes left, posterior, inferior: a numpy array of the volume is (inferior, posterior, left), so that one
# sagittal slice has its rows from superior to inferior and its columns from anterior to posterior.
ORIENTATION = "LPI"

_CONTEXT = 1.5  # side of the square that outlines are found in over the disc's extent, as in crops
_GRID = 256  # its pixels: of 96, 128, 192, 256 and the stored ones the best Dice on SPIDER's worst discs
_CRUMB = 0.05  # of the largest component: annotation noise, which shall not decide the square

_log = logging.getLogger(__name__)


def find(root: Path, options: Options) -> Listing:
    """List SPIDER's volumes, one that cannot be read among them; errors as for `files` and `overview`."""
    _check_odd(options.slices)  # once, and not as a fault of each volume

    def item(image: Path, mask: Path) -> Item:
        return Item(
            image.relative_to(root).as_posix(),
            (image, mask, *_voxels(image), *_voxels(mask)),
            lambda: _crops(read_spider_slices(image, mask, options.slices), options),
        )

    pairs = files(root, *options.series)
    items = tuple(item(*pair) for pair in pairs)
    table = options.overview or root / OVERVIEW
    if options.overview is None and not table.is_file():
        return Listing(items)
    return Listing(items, (table,), overview(table, [image for image, _ in pairs]), table.name)


SOURCE = Source("spider", find, "SPIDER's `images` and `masks`", ("series", "slices", "overview", "upright"))


def read_spider(root: Path | str, *series: str, progress: bool = False) -> list[Slice]:
    """Read the mid-sagittal slice of every volume.

    A volume that cannot be read, or has no mask, is named in a warning with the reason and left out, as
    `crops` does with discs; `read_spider_volume` raises the reason.

    Args:
        root: The folder that holds `images` and `masks`.
        series: Which series, any of "t1", "t2" and "t2_SPACE", the default: the files
            `<patient>_<series>.mha`. A patient with several comes once for each.
        progress: Whether to show a progress bar.

    Returns:
        The slices, in the order of the patients' names, numbers by value.

    Raises:
        FileNotFoundError: If the folder has no such images.
        ValueError: If no volume can be read; the message names each with the reason.
    """
    slices, refused = [], []
    for image, mask in tqdm(files(root, *series), desc="read volumes", unit="volume", disable=not progress):
        try:
            slices.append(read_spider_volume(image, mask))
        except (ValueError, OSError) as error:
            refused.append(str(error))
            _log.warning("refused: %s", error)
    if not slices:
        raise ValueError(f"{root}: no volume can be read.\n- " + "\n- ".join(refused))
    return slices


def files(root: Path | str, *series: str) -> list[tuple[Path, Path]]:
    """Each volume's image and where its mask should be; arguments and order as for `read_spider`.

    Raises:
        FileNotFoundError: If the folder has no such images.
    """
    root = Path(root)
    images = []
    for one in series or Options("spider").series:
        found = visible(root / "images", f"*_{one}.mha")
        if not found:
            raise FileNotFoundError(
                f"no images/*_{one}.mha under {root}. Expected SPIDER's layout: {root}/images and "
                f"{root}/masks with files <patient>_{one}.mha; give its folder as the root, or another "
                "series."
            )
        images += found
    return [
        (image, root / "masks" / image.name) for image in sorted(images, key=lambda x: _natural(patient(x)))
    ]


def patient(path: Path) -> str:
    """The name of a file's patient, the file's up to the first underscore."""
    return path.name.split("_", 1)[0]


def overview(path: Path, images: Sequence[Path]) -> dict[str, str]:
    """Read from SPIDER's `overview.csv` on which side of the split each patient is.

    The columns `new_file_name` (with or without an extension) and `subset` are used. Rows of the
    images' series that have no file are named in a warning.

    Args:
        path: The table.
        images: The images that are to be split.

    Returns:
        "train" (subset training) or "test" (validation) by patient.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a column is missing, an image has no row, a subset is neither, or a patient is on both
            sides.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is no file. Expected SPIDER's {OVERVIEW}, a table with the columns new_file_name and "
            "subset (training or validation). Download it, or leave it out for a split that is drawn."
        )
    rows = {_stem(row["new_file_name"]): row["subset"] for row in read_table(path, "new_file_name", "subset")}
    series = {_series(image.name) for image in images}
    files_there = {_stem(image.name) for image in images}
    absent = [name for name in rows if _series(name) in series and name not in files_there]
    if absent:
        _log.warning("%s: %d rows have no file under images: %s", path, len(absent), ", ".join(absent))
    sides: dict[str, str] = {}
    for image in images:
        subset = rows.get(_stem(image.name))
        if subset is None:
            without = [one.name for one in images if _stem(one.name) not in rows]
            raise ValueError(
                f"{path} has no row for {len(without)} of {len(images)} images: {', '.join(without)}. Add "
                "rows (new_file_name, subset), move these images away, or leave the table out for a split "
                "that is drawn."
            )
        side = SUBSETS.get(subset.lower())
        if side is None:
            raise ValueError(
                f"{path}: the subset of {_stem(image.name)} is {subset!r}; expected one of {sorted(SUBSETS)}."
            )
        if sides.setdefault(patient(image), side) != side:
            raise ValueError(
                f"{path} puts series of patient {patient(image)} on both sides of the split. Give all of a "
                "patient's rows one subset."
            )
    return sides


def read_spider_volume(image_path: Path | str, mask_path: Path | str) -> Slice:
    """Read one volume: the sagittal slice with the largest area of canal and lumbar discs, and the outlines.

    See `read_spider_slices`, of which this is the first.

    Args:
        image_path: The volume, `<patient>_<series>.mha`.
        mask_path: Its labels, on the same grid.

    Returns:
        The slice; the patient's name is the file's up to the first underscore.

    Raises:
        FileNotFoundError: As `read_spider_slices`.
        ValueError: As `read_spider_slices`.
    """
    return read_spider_slices(image_path, mask_path)[0]


def read_spider_slices(image_path: Path | str, mask_path: Path | str, slices: int = 1) -> list[Slice]:
    """Read one volume: its mid-sagittal slice and those beside it, each with its own outlines.

    The mid-sagittal slice is that with the largest area of canal and lumbar discs. Any stored orientation
    gives the same slice; in-plane pixels that are not square are resampled to squares of the finer
    spacing. An oblique volume is read along its own axes nearest to the patient's. Outlines are found on
    a grid that is square in mm and scaled to the disc, so that they do not depend on the shape of the
    stored pixels. A disc that is absent from the slice, only grazed by it, cut by its border or in pieces
    far apart is refused with the reason, and the others are kept.

    Args:
        image_path: The volume, `<patient>_<series>.mha`.
        mask_path: Its labels, on the same grid.
        slices: How many slices, odd; a volume that ends before has fewer.

    Returns:
        The slices, the mid-sagittal one first, then its neighbours, the nearest before the others.

    Raises:
        FileNotFoundError: If there is no mask.
        ValueError: If a file cannot be read as a volume of one value per voxel, the two grids differ, the
            mask is not of whole numbers, the volume has no lumbar disc, or the number of slices is not odd.
    """
    _check_odd(slices)
    image_path, mask_path = Path(image_path), Path(mask_path)
    if not mask_path.is_file():
        raise FileNotFoundError(
            f"{mask_path} is missing; each image needs the mask of the same name. Download the masks too, or "
            f"move {image_path.name} away."
        )
    image, mask = _volume(image_path), _volume(mask_path)
    _check_grids(image, mask, image_path, mask_path)
    labels = sitk.GetArrayViewFromImage(mask)
    if labels.dtype.kind not in "iu" and not np.array_equal(labels, np.round(labels)):
        raise ValueError(
            f"{mask_path}: a mask holds whole numbers; got fractions (smoothed on resampling?). Use the "
            "original file."
        )
    discs = (labels >= min(DISC_LABELS)) & (labels <= max(DISC_LABELS))
    if not discs.any():
        raise ValueError(
            f"{mask_path}: no lumbar disc; expected labels 201 (L5/S1) to 205 (L1/L2), found "
            f"{[int(label) for label in np.unique(labels)]}. Is it a SPIDER mask of a lumbar scan?"
        )
    middle = int((discs | (labels == CANAL)).sum(axis=(0, 1)).argmax())
    offsets = sorted(range(-(slices // 2), slices // 2 + 1), key=abs)
    return [
        _slice(patient(image_path), image[middle + offset, :, :], labels[:, :, middle + offset], offset)
        for offset in offsets
        if 0 <= middle + offset < labels.shape[2]
    ]


def _check_odd(slices: int) -> None:
    """Raise unless there are as many slices on either side of the mid-sagittal one."""
    if slices < 1 or slices % 2 == 0:
        raise ValueError(
            f"slices must be odd: 1 for the mid-sagittal one, 3 for one more on either side; got {slices}."
        )


def _slice(patient: str, plane: sitk.Image, labels: NDArray[np.integer[Any]], offset: int) -> Slice:
    """One slice of a volume, with the outlines that its labels give."""
    column_mm, row_mm = plane.GetSpacing()
    pixel_mm = min(column_mm, row_mm)
    outlines: dict[str, Array] = {}
    refused: dict[str, str] = {}
    for label, level in DISC_LABELS.items():
        name = f"patient {patient}, {_named(level, offset)}"
        try:
            outlines[level] = _outline(labels == label, np.array([row_mm, column_mm]), name) / pixel_mm
        except ValueError as error:
            refused[level] = str(error)
    return Slice(patient, _isotropic(plane, pixel_mm), pixel_mm, outlines, refused, offset)


def _crops(slices: Iterable[Slice], options: Options) -> Crops:
    """The discs of all slices of a volume, and the refused ones; see `cropped`."""
    discs: list[Disc] = []
    refused: dict[str, str] = {}
    for one in slices:
        found, reasons = cropped(one, options.size, upright=options.upright)
        discs += found
        refused |= {_named(level, one.offset): text for level, text in reasons.items()}
    return discs, refused


def _named(level: str, offset: int) -> str:
    """A disc's level, and its slice if that is not the mid-sagittal one."""
    return f"{level}, slice {offset:+d}" if offset else level


def _voxels(path: Path) -> tuple[Path, ...]:
    """The files beside a volume that hold its voxels; none of a header that will be refused."""
    try:
        return data_files(path)
    except ValueError:
        return ()


def _volume(path: Path) -> sitk.Image:
    """Read a volume and turn it to `ORIENTATION`."""
    data_files(path)  # refuses a header that reaches outside its folder
    try:
        volume = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise ValueError(
            f"{path}: cannot be read as an image; download it again. SimpleITK says: {reason(error)}."
        ) from error
    if volume.GetDimension() != 3 or volume.GetNumberOfComponentsPerPixel() != 1:
        raise ValueError(
            f"{path}: expected a volume of 3 dimensions with one value per voxel; got "
            f"{volume.GetDimension()} dimensions with {volume.GetNumberOfComponentsPerPixel()} values. "
            "Convert it, or leave the patient out."
        )
    oriented: sitk.Image = sitk.DICOMOrient(volume, ORIENTATION)
    return oriented


def _check_grids(image: sitk.Image, mask: sitk.Image, image_path: Path, mask_path: Path) -> None:
    """Raise unless two volumes lie on one grid, to a tenth of a voxel."""
    tolerance = 0.1 * min(image.GetSpacing())
    same = image.GetSize() == mask.GetSize() and all(
        np.allclose(a, b, rtol=0.0, atol=atol)
        for a, b, atol in (
            (image.GetSpacing(), mask.GetSpacing(), tolerance / max(image.GetSize())),
            (image.GetOrigin(), mask.GetOrigin(), tolerance),
            (image.GetDirection(), mask.GetDirection(), 1e-3),
        )
    )
    if not same:
        raise ValueError(
            f"{mask_path} is not on the grid of {image_path} (both turned to {ORIENTATION}): size "
            f"{mask.GetSize()} against {image.GetSize()}, spacing {mask.GetSpacing()} against "
            f"{image.GetSpacing()}, origin {mask.GetOrigin()} against {image.GetOrigin()}. Resample the mask "
            "to the image with nearest neighbours, or pair other files."
        )


def _isotropic(plane: sitk.Image, pixel_mm: float) -> NDArray[np.float32]:
    """Resample a sagittal plane to square pixels, linearly; the first pixel's centre stays where it is."""
    plane = sitk.Cast(plane, sitk.sitkFloat32)
    spacing = plane.GetSpacing()
    if not np.allclose(spacing, pixel_mm, rtol=1e-6):
        size = [
            int((n - 1) * mm / pixel_mm + 1e-6) + 1 for n, mm in zip(plane.GetSize(), spacing, strict=True)
        ]
        grid = (plane.GetOrigin(), (pixel_mm, pixel_mm), plane.GetDirection())
        plane = sitk.Resample(plane, size, sitk.Transform(), sitk.sitkLinear, *grid)
    return np.asarray(sitk.GetArrayFromImage(plane), dtype=np.float32)


def _outline(region: NDArray[np.bool_], mm: Array, name: str) -> Array:
    """A region's outline `(n, 2)`, (x, y) in mm from the first pixel's centre.

    Args:
        region: `(H, W)`, true inside the disc.
        mm: The distance of its rows, and of its columns.
        name: The disc, for messages.

    Raises:
        ValueError: If there is too little of the disc, it is cut by the border, or `landmarks.outline`
            refuses it.
    """
    pixels = int(region.sum())
    if pixels * mm.prod() < MIN_DISC_MM2 or pixels < MIN_DISC_PIXELS:
        raise ValueError(
            f"{name}: its label covers {pixels * mm.prod():.0f} mm² ({pixels} pixels) of the "
            f"slice; at least {MIN_DISC_MM2:g} mm² and {MIN_DISC_PIXELS} pixels are needed."
        )
    if region[[0, -1]].any() or region[:, [0, -1]].any():
        raise ValueError(f"{name}: its mask touches the image's border, so a part of it is not seen.")
    pieces, _ = ndimage.label(region)
    sizes = np.bincount(pieces.ravel())[1:]
    place = np.argwhere(np.isin(pieces, 1 + np.flatnonzero(sizes >= _CRUMB * sizes.max())))
    low, high = place.min(axis=0) - 0.5, place.max(axis=0) + 0.5
    step = _CONTEXT * ((high - low) * mm).max() / _GRID
    origin = (low + high) / 2 * mm - step * (_GRID - 1) / 2
    square = ndimage.affine_transform(
        region.astype(np.float32), step / mm, origin / mm, (_GRID, _GRID), order=1
    )
    return np.asarray(outline(square > 0.5, name) * step + origin[::-1])


def _stem(name: str) -> str:
    """A file's name without folder and extension."""
    return Path(name).name.split(".", 1)[0]


def _series(name: str) -> str:
    """A file's series, its name from the first underscore on."""
    return _stem(name).partition("_")[2]


def _natural(name: str) -> tuple[int, str]:
    """A key that sorts numbers by value, before other names."""
    return (int(name), "") if name.isdigit() else (10**9, name)
