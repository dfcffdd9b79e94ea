"""Read the SPIDER data set as it is on disk: ``images/*.mha`` beside ``masks/*.mha`` of the same names.

SPIDER: van der Graaf et al., Scientific Data 11:264 (2024), doi 10.1038/s41597-024-03090-w. Mask values:
100 the spinal canal, 201 to 205 the lumbar discs from L5/S1 up to L1/L2, 206 and on the thoracic ones above,
1 to 25 vertebrae.
"""
# mypy: allow-untyped-calls
# (SimpleITK ships no types.)

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import contourpy
import numpy as np
import SimpleITK as sitk  # noqa: N813 - its own documentation's name
from numpy.typing import NDArray
from tqdm import tqdm

from .discs import LEVELS, Slice
from .outlines import signed_area

CANAL = 100
DISC_LABELS = {201 + i: level for i, level in enumerate(LEVELS)}
MIN_DISC_MM2 = 30.0  # a sliver: the slice only grazes the disc, and its outline says little of its shape

# Axes left, posterior, inferior: a numpy array of the volume is (inferior, posterior, left), so that one
# sagittal slice has its rows from superior to inferior and its columns from anterior to posterior.
ORIENTATION = "LPI"

_log = logging.getLogger(__name__)


def read(root: Path | str, series: str = "t2_SPACE", *, progress: bool = False) -> list[Slice]:
    """Read the mid-sagittal slice of every patient.

    Args:
        root: The folder that holds ``images`` and ``masks``.
        series: Which series: the files ``<patient>_<series>.mha``. One series, so that no patient comes
            twice.
        progress: Whether to show a progress bar.

    Returns:
        One slice per patient, in the order of their names, numbers by value.

    Raises:
        FileNotFoundError: If the folder has no such images, or an image has no mask.
        ValueError: If a file is not what it should be; see `read_patient`.
    """
    bar = tqdm(files(root, series), desc="read patients", unit="patient", disable=not progress)
    return [read_patient(image, mask) for image, mask in bar]


def files(root: Path | str, series: str = "t2_SPACE") -> list[tuple[Path, Path]]:
    """Return each patient's image and mask; arguments, order and errors as for `read`."""
    images = sorted(
        (Path(root) / "images").glob(f"*_{series}.mha"), key=lambda path: _natural(_patient(path))
    )
    if not images:
        raise FileNotFoundError(
            f"no images/*_{series}.mha under {Path(root)}. Expected SPIDER's layout: {Path(root)}/images and "
            f"{Path(root)}/masks with files <patient>_{series}.mha; give its folder as the root, or another "
            "series."
        )
    pairs = [(image, image.parent.parent / "masks" / image.name) for image in images]
    missing = [mask for _, mask in pairs if not mask.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(pairs)} images have no mask; the first missing file is {missing[0]}. "
            "Download the masks too, or move images without one out of "
            f"{missing[0].parent.parent / 'images'}."
        )
    return pairs


def read_patient(image_path: Path | str, mask_path: Path | str) -> Slice:
    """Read one patient: the sagittal slice with the largest area of canal and lumbar discs, and the outlines.

    Any stored orientation gives the same slice; in-plane pixels that are not square are resampled to squares
    of the finer spacing. An oblique volume is read along its own axes nearest to the patient's. A disc that
    is absent from the slice, or only grazed by it, is left out and the reason logged.

    Args:
        image_path: The volume, ``<patient>_<series>.mha``.
        mask_path: Its labels, on the same grid.

    Returns:
        The slice; the patient's name is the file's up to the first underscore.

    Raises:
        ValueError: If a file cannot be read as a volume of one value per voxel, the two grids differ, the
            mask is not of whole numbers, or it shows no lumbar disc in the chosen slice.
    """
    image_path, mask_path = Path(image_path), Path(mask_path)
    image, mask = _volume(image_path), _volume(mask_path)
    _check_grids(image, mask, image_path, mask_path)
    labels = sitk.GetArrayFromImage(mask)
    if not np.array_equal(labels, np.round(labels)):
        raise ValueError(
            f"{mask_path}: a mask holds whole numbers; got fractions (smoothed on resampling?). Use the "
            "original file."
        )
    wanted = np.isin(labels, [CANAL, *DISC_LABELS])
    middle = int(wanted.sum(axis=(0, 1)).argmax())
    column_mm, row_mm = image.GetSpacing()[1:]
    pixel_mm = min(column_mm, row_mm)
    outlines: dict[str, NDArray[np.floating[Any]]] = {}
    for label, level in DISC_LABELS.items():
        outline = _outline(labels[:, :, middle] == label)
        area = 0.0 if outline is None else abs(signed_area(outline)) * column_mm * row_mm
        if outline is None or area < MIN_DISC_MM2:
            _log.warning(
                "%s: %s left out: label %d covers %.0f mm² of the slice", mask_path, level, label, area
            )
            continue
        outlines[level] = outline * (np.array([column_mm, row_mm]) / pixel_mm)
    if not outlines:
        raise ValueError(
            f"{mask_path}: no lumbar disc in the mid-sagittal slice (number {middle}); expected labels 201 "
            f"(L5/S1) to 205 (L1/L2), found {sorted(np.unique(labels).tolist())} in the volume. Is it a "
            "SPIDER mask of a lumbar scan?"
        )
    return Slice(_patient(image_path), _isotropic(image[middle, :, :], pixel_mm), pixel_mm, outlines)


def _volume(path: Path) -> sitk.Image:
    """Read a volume and turn it to `ORIENTATION`."""
    try:
        volume = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise ValueError(
            f"{path}: cannot be read as an image; download it again. SimpleITK says: {error}"
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


def _outline(region: NDArray[np.bool_]) -> NDArray[np.float64] | None:
    """Return the edge ``(n, 2)`` of a region's largest component at level 0.5, or None if it is empty."""
    lines = contourpy.contour_generator(z=np.pad(region, 1).astype(np.float64)).lines(0.5)
    if not lines:
        return None
    return np.asarray(max(lines, key=lambda line: abs(signed_area(line))), dtype=np.float64) - 1.0


def _patient(path: Path) -> str:
    """Return the patient's name, the file's up to the first underscore."""
    return path.name.split("_", 1)[0]


def _natural(name: str) -> tuple[int, str]:
    """Return a key that sorts numbers by value, before other names."""
    return (int(name), "") if name.isdigit() else (10**9, name)
