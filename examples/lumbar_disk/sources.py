"""The four kinds of data as one list of what is to be read: phantoms, SPIDER, a folder, the paper's crops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from . import phantom, spider, userdata
from .discs import Disc, cropped

Kind = Literal["phantom", "spider", "folder", "mat"]
Crops = tuple[list[Disc], Mapping[str, str]]  # the discs; for each refused one the reason by level

_LAYOUTS = {
    "spider": "SPIDER's `images` and `masks`",
    "folder": "`images` and `contours`",
    "mat": "the .mat files",
}


@dataclass(frozen=True)
class Options:
    """What to prepare.

    Attributes:
        data: "phantom", synthetic patients; "spider", see `lumbar_disk.spider`; "folder" or "mat", see
            `lumbar_disk.userdata`.
        root: The folder of the data; for all but phantoms.
        series: SPIDER's series to read.
        size: Side of a crop in pixels.
        patients: How many phantoms to draw.
        test_patients: How many patients to draw for the test set. SPIDER's overview.csv, where there is one,
            decides instead.
        seed: Of the phantoms and of the split.
    """

    data: Kind
    root: Path | None = None
    series: tuple[str, ...] = (spider.SERIES,)
    size: int = 128
    patients: int = 54
    test_patients: int = 6
    seed: int = 0

    def deciding(self) -> dict[str, Any]:
        """Return the options that decide the result, as JSON holds them."""
        own: dict[str, dict[str, Any]] = {
            "phantom": {"patients": self.patients},
            "spider": {"series": list(self.series)},
        }
        return {
            "data": self.data,
            **own.get(self.data, {}),
            "size": self.size,
            "test_patients": self.test_patients,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class Source:
    """What is read together: a volume and its mask, an image and its contours, a crop, or a phantom.

    Attributes:
        name: The image's path relative to the root, or the phantom's number.
        files: What is read.
        read: Reads it: the discs, and for each refused one the reason by level.
    """

    name: str
    files: tuple[Path, ...]
    read: Callable[[], Crops]


@dataclass(frozen=True)
class Listing:
    """All sources, found but not read yet.

    Attributes:
        sources: What to read, in order.
        tables: Files beside them that decide the result too.
        sides: "train" or "test" by patient, where the data say so.
    """

    sources: tuple[Source, ...]
    tables: tuple[Path, ...] = ()
    sides: Mapping[str, str] | None = None


def listing(options: Options) -> Listing:
    """Find what is to be read.

    Raises:
        FileNotFoundError: If the root is not laid out as its kind of data is.
        ValueError: If the root is missing, or a table beside the data is not what it should be.
    """
    if options.data == "phantom":
        return Listing(tuple(_phantom(options, index) for index in range(options.patients)))
    if options.root is None:
        raise ValueError(
            f"--data {options.data} needs a root: the folder that holds {_LAYOUTS[options.data]}; got none."
        )
    if options.data == "spider":
        return _spider(options, options.root)
    if options.data == "folder":
        return _folder(options, options.root)
    return Listing(tuple(_mat(options, options.root, path) for path in userdata.mat_files(options.root)))


def _phantom(options: Options, index: int) -> Source:
    """Return a phantom, to be drawn."""
    return Source(f"phantom {index}", (), lambda: cropped(phantom.patient(options.seed, index), options.size))


def _spider(options: Options, root: Path) -> Listing:
    """List SPIDER's volumes."""

    def source(image: Path, mask: Path) -> Source:
        return Source(
            image.relative_to(root).as_posix(),
            (image, mask),
            lambda: cropped(spider.read_patient(image, mask), options.size),
        )

    pairs = spider.files(root, *options.series)
    sides = spider.overview(root, [image for image, _ in pairs])
    tables = () if sides is None else (root / spider.OVERVIEW,)
    return Listing(tuple(source(*pair) for pair in pairs), tables, sides)


def _folder(options: Options, root: Path) -> Listing:
    """List a folder's images."""
    pairs = userdata.files(root)
    spacings = userdata.spacings(root, [image for image, _ in pairs])

    def source(image: Path, contours: Path) -> Source:
        return Source(
            image.relative_to(root).as_posix(),
            (image, contours),
            lambda: cropped(userdata.read(image, contours, spacings.get(image.stem)), options.size),
        )

    tables = (root / userdata.SPACING,) if spacings else ()
    return Listing(tuple(source(*pair) for pair in pairs), tables)


def _mat(options: Options, root: Path, path: Path) -> Source:
    """Return one of the paper's crops, to be read."""
    return Source(
        path.relative_to(root).as_posix(), (path,), lambda: ([userdata.read_mat(path, options.size)], {})
    )
