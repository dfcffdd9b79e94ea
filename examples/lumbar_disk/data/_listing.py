"""Listing of what a data source holds: found, and read item by item."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lumbar_disk.data._discs import Disc

Crops = tuple[list[Disc], Mapping[str, str]]  # the discs; for each refused one the reason by level


@dataclass(frozen=True)
class Options:
    """Options of a preparation: where discs come from, their size, and how they are split.

    Attributes:
        data: The name of a data source, one of `lumbar_disk.data.SOURCES`.
        root: The folder of the data; for all but phantoms.
        series: SPIDER's series to read.
        slices: How many sagittal slices of each of SPIDER's volumes to read, odd: the mid-sagittal one and as
            many on either side of it. Those beside it are for training alone.
        overview: A table that decides SPIDER's split, in place of the root's `overview.csv`.
        size: Side of a crop in pixels.
        patients: How many phantoms to draw.
        test_patients: How many patients to draw for the test set, where the data do not decide the split
            themselves.
        seed: Of the phantoms and of the split.
        upright: Whether each crop is turned so that its disc lies level; see `lumbar_disk.data.crop`. The
            paper's own crops (--data mat) are as they are.
    """

    data: str
    root: Path | None = None
    series: tuple[str, ...] = ("t2_SPACE",)
    size: int = 128
    patients: int = 54
    test_patients: int = 6
    seed: int = 0
    upright: bool = True
    slices: int = 1
    overview: Path | None = None


@dataclass(frozen=True)
class Item:
    """Item of a listing, what is read together: a volume and its mask, an image and its contours, a phantom.

    Attributes:
        name: The image's path relative to the root, or the phantom's number.
        files: What is read, as far as it is there.
        read: Reads it: the discs, and for each refused one the reason by level. It raises ValueError or
            OSError where nothing of it can be read; the item is then refused, and the others go on.
    """

    name: str
    files: tuple[Path, ...]
    read: Callable[[], Crops]


@dataclass(frozen=True)
class Listing:
    """Items of a data source, found but not read yet.

    Attributes:
        items: What to read, in order.
        tables: Files beside them that decide the result too.
        sides: "train" or "test" by patient, where the data say so.
        split: What says so, in words: the name of a table.
    """

    items: tuple[Item, ...]
    tables: tuple[Path, ...] = ()
    sides: Mapping[str, str] | None = None
    split: str = ""


@dataclass(frozen=True)
class Source:
    """Source of discs: an entry of the registry `lumbar_disk.data.SOURCES`.

    Attributes:
        name: What `--data` calls it.
        find: Lists what there is, from the root (for a source without files any folder) and the options.
        layout: What its root holds, in words; empty for a source that has no files.
        options: Fields of `Options` that it alone reads, beside root, size, test_patients and seed.
    """

    name: str
    find: Callable[[Path, Options], Listing]
    layout: str = ""
    options: tuple[str, ...] = ()
