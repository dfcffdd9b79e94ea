"""Data of the study: sources, discs with their landmarks and outlines, and their preparation."""

from lumbar_disk.data._discs import LEVELS, Disc, Discs, Heads, Slice, crop, cropped, crops, hold_out
from lumbar_disk.data._folder import read_annotated
from lumbar_disk.data._landmarks import landmarks, outline
from lumbar_disk.data._listing import Item, Listing, Options, Source
from lumbar_disk.data._mat import read_mat
from lumbar_disk.data._outlines import POINTS, plausible
from lumbar_disk.data._phantom import phantom, phantoms
from lumbar_disk.data._prepare import Plan, Prepared, build, counts, load, planned, prepare
from lumbar_disk.data._sources import SOURCES, decided
from lumbar_disk.data._spider import read_spider, read_spider_slices, read_spider_volume
from lumbar_disk.data._ssmspine import read_ssmspine

__all__ = [
    "LEVELS",
    "POINTS",
    "SOURCES",
    "Disc",
    "Discs",
    "Heads",
    "Item",
    "Listing",
    "Options",
    "Plan",
    "Prepared",
    "Slice",
    "Source",
    "build",
    "counts",
    "crop",
    "cropped",
    "crops",
    "decided",
    "hold_out",
    "landmarks",
    "load",
    "outline",
    "phantom",
    "phantoms",
    "planned",
    "plausible",
    "prepare",
    "read_annotated",
    "read_mat",
    "read_spider",
    "read_spider_slices",
    "read_spider_volume",
    "read_ssmspine",
]
