"""Images that are no lumbar discs, as starts of out-of-distribution attacks (paper, section 3.2).

Any folder of pictures serves: PNG, JPEG, TIFF, BMP, GIF and WebP, and DICOM where pydicom is installed.
Besides, there are noise, coarse blocks of noise, and synthetic anatomy whose disc is painted out.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage, sparse  # type: ignore[import-untyped]  # scipy ships no types
from scipy.sparse.linalg import spsolve  # type: ignore[import-untyped]  # as above

from advreg import Keys
from lumbar_disk._core import pictures
from lumbar_disk._core.files import reason
from lumbar_disk.data import crops, phantom

SUFFIXES = (*pictures.SUFFIXES, ".dcm")
MADE = ("uniform", "blocks", "painted")  # the sources that need no files
BLOCK = 16  # blocks of noise along a side, as the released code draws them
HELD_OUT = 10_007  # seed of the painted-out phantoms: none that a study trains on

Array = NDArray[np.floating[Any]]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Source:
    """Source of out-of-distribution images: starting images of one kind.

    Attributes:
        name: What they are.
        images: `(N, 1, S, S)` float32 in [0, 1].
        skipped: Files that could not be read, with the reason.
    """

    name: str
    images: torch.Tensor
    skipped: tuple[str, ...] = field(default=())


def read_images(folder: Path, size: int) -> tuple[Source, ...]:
    """Read a folder of pictures; each folder inside it is a source of its own.

    A picture is made grey, cut to its central square, scaled to `size` pixels and to [0, 1]. Those that
    cannot be read are named in a warning, counted and left out.

    Args:
        folder: The folder.
        size: Side of the images in pixels.

    Returns:
        The sources, by name; pictures lying in `folder` itself are one named after it.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If there are no pictures, not one of a source could be read, or two sources share a name.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder. Give one with images, or with folders of images.")
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    found = tuple(_source(path, size, deep=path != folder) for path in (folder, *inside))
    found = tuple(source for source in found if len(source.images) or source.skipped)
    if not found:
        raise ValueError(f"{folder}: expected images ({', '.join(SUFFIXES)}); got none.")
    _refuse_names([source.name for source in found], folder)
    for source in found:
        total = len(source.images) + len(source.skipped)
        if not len(source.images):
            some = "; ".join([*source.skipped[:3], *(["..."] if total > 3 else [])])
            raise ValueError(
                f"{folder}, {source.name}: expected images ({', '.join(SUFFIXES)}); got none that can be "
                f"read: {some}. Mend them, or move them away."
            )
        for one in source.skipped:
            _log.warning("%s skipped: %s", source.name, one)
        if source.skipped:
            _log.warning("%s: %d of %d pictures are skipped", source.name, len(source.skipped), total)
    return found


def _refuse_names(names: Sequence[str], folder: Path) -> None:
    """Raise if a name stands for two sources; upper and lower case are one, as on many disks."""
    known = dict.fromkeys(MADE, "the name of images that are made here")
    for name in names:
        if name.casefold() in known:
            raise ValueError(
                f"{folder}: images cannot be called {name}, which is {known[name.casefold()]}. Rename their "
                "folder."
            )
        known[name.casefold()] = "the name of another folder's images"


def made_images(count: int, size: int, seed: int, *, upright: bool = True) -> tuple[Source, ...]:
    """The sources that need no files: uniform noise, blocks of noise, anatomy without its disc.

    Args:
        count: Images of each; image `i` depends on the seed and `i` alone.
        size: Side of the images in pixels.
        seed: Of noise and blocks; the anatomy has a seed of its own.
        upright: Whether the anatomy is turned with its disc, as the study's crops are.

    Example:
        >>> [(source.name, tuple(source.images.shape)) for source in made_images(2, 64, seed=0)]
        [('uniform', (2, 1, 64, 64)), ('blocks', (2, 1, 64, 64)), ('painted', (2, 1, 64, 64))]
    """
    keys = Keys(seed, torch.arange(count))
    uniform = keys.fold_in(0).uniform(torch.empty(count, 1, size, size))
    coarse = keys.fold_in(1).uniform(torch.empty(count, 1, BLOCK, BLOCK))
    blocks = torch.nn.functional.interpolate(coarse, (size, size), mode="nearest")
    patients = [phantom(HELD_OUT, index) for index in range(-(-count // 5))]
    discs = crops(patients, size=size, upright=upright)
    painted = [
        paint_out(image[0].numpy(), mask[0].numpy() > 0)
        for image, mask in zip(discs.images[:count], discs.masks[:count], strict=True)
    ]
    anatomy = torch.from_numpy(np.stack(painted)).float()[:, None].clamp(0, 1)
    return tuple(Source(*one) for one in zip(MADE, (uniform, blocks, anatomy), strict=True))


def paint_out(image: Array, mask: NDArray[np.bool_], margin: float = 0.04) -> Array:
    """Replace a region by the smoothest continuation of its surroundings: Laplace's equation.

    Args:
        image: `(H, W)`.
        mask: The region, `(H, W)`; it may not cover the whole image.
        margin: How much further to go than the region, as a share of the image's side.

    Returns:
        The image with the region replaced.
    """
    region = ndimage.binary_dilation(mask, iterations=max(1, round(margin * len(image))))
    place = np.full(image.shape, -1)
    place[region] = np.arange(region.sum())
    rows, columns = np.nonzero(region)
    degree, known = np.zeros(len(rows)), np.zeros(len(rows))
    pairs = []
    for down, right in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        y, x = rows + down, columns + right
        inside = (y >= 0) & (y < image.shape[0]) & (x >= 0) & (x < image.shape[1])
        y, x = y.clip(0, image.shape[0] - 1), x.clip(0, image.shape[1] - 1)
        free = inside & region[y, x]
        degree += inside
        known += np.where(inside & ~free, image[y, x], 0.0)
        pairs.append(np.stack([place[rows, columns][free], place[y, x][free]]))
    linked = np.concatenate(pairs, axis=1)
    links = sparse.coo_matrix((np.ones(linked.shape[1]), linked), shape=(len(rows), len(rows)))
    filled = np.array(image, dtype=np.float64)
    filled[region] = spsolve((sparse.diags(degree) - links).tocsc(), known)
    return filled


def _source(folder: Path, size: int, *, deep: bool) -> Source:
    """Read the pictures of a folder, or, if `deep`, of everything below it."""
    images: list[torch.Tensor] = []
    skipped: list[str] = []
    pillows = Image.registered_extensions().items()
    known = {*SUFFIXES, *(suffix for suffix, kind in pillows if kind in Image.OPEN)}
    for path in sorted(folder.rglob("*") if deep else folder.glob("*")):
        suffix = path.suffix.lower()
        if path.is_dir() or suffix not in known:
            continue
        try:
            if suffix not in SUFFIXES:
                raise ValueError(f"expected one of {', '.join(SUFFIXES)}; save it as .png")  # noqa: TRY301 - one way to say what is skipped
            images.append(_square(_grey(path), size))
        except Exception as error:  # noqa: BLE001 - Pillow and its codecs raise a dozen kinds for damaged files
            skipped.append(f"{_shown(path.relative_to(folder).as_posix())}: {reason(error)}")
    stacked = torch.stack(images)[:, None] if images else torch.empty(0, 1, size, size)
    name = folder.name if folder.name not in ("", "..") else folder.resolve().name
    return Source(_shown(name), stacked, tuple(skipped))


def _shown(name: str) -> str:
    """A name that can be written; bytes of it that are no text are spelled out."""
    return name.encode(errors="backslashreplace").decode()


def _grey(path: Path) -> Array:
    """Read a picture's grey values, `(H, W)`."""
    if path.suffix.lower() == ".dcm":
        try:
            import pydicom  # type: ignore[import-not-found]  # noqa: PLC0415 - an optional dependency
        except ImportError:
            raise ValueError("DICOM needs pydicom: pip install pydicom") from None
        values = np.asarray(pydicom.dcmread(path).pixel_array, dtype=np.float64)
        return values if values.ndim == 2 else values.mean(-1 if values.shape[-1] <= 4 else 0)
    with pictures.opened(path) as picture:
        deep = picture.mode == "F" or picture.mode.startswith("I")  # convert would cut these to 8 bits
        return np.asarray(picture if deep else picture.convert("L"), dtype=np.float64)


def _square(values: Array, size: int) -> torch.Tensor:
    """Cut the central square, and bring it to `size` pixels and to [0, 1]."""
    side = min(values.shape)
    top, left = (values.shape[0] - side) // 2, (values.shape[1] - side) // 2
    square = values[top : top + side, left : left + side]
    low, high = float(square.min()), float(square.max())
    if not np.isfinite([low, high]).all() or high == low:
        raise ValueError(f"expected varied grey values; got {low:g} to {high:g} in the central square")
    image = torch.from_numpy((square - low) / (high - low)).float()[None, None]
    return torch.nn.functional.interpolate(
        image, (size, size), mode="bilinear", antialias=True, align_corners=False
    )[0, 0].clamp(0, 1)


def partners(sources: Sequence[Source], count: int) -> Mapping[str, torch.Tensor]:
    """`count` images of each source, `(count, 1, S, S)`, begun anew where there are fewer."""
    return {source.name: source.images[torch.arange(count) % len(source.images)] for source in sources}
