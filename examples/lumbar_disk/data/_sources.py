"""Registry of data sources: SPIDER, a folder of one's own, the paper's crops, SSMSpine, synthetic patients.

A new source is one file, which finds and reads its items, and one entry here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lumbar_disk.data import _folder, _mat, _phantom, _spider, _ssmspine
from lumbar_disk.data._listing import Listing, Options, Source

SOURCES = {
    source.name: source
    for source in (_spider.SOURCE, _folder.SOURCE, _mat.SOURCE, _ssmspine.SOURCE, _phantom.SOURCE)
}


def listing(options: Options) -> Listing:
    """Find what is to be read.

    Raises:
        FileNotFoundError: If the root is not laid out as its source's.
        ValueError: If there is no such source, the root is missing, or a table beside the data is not what it
            should be.
    """
    source = source_of(options)
    if source.layout and options.root is None:
        raise ValueError(
            f"--data {source.name} needs a root: the folder that holds {source.layout}; got none."
        )
    return source.find(options.root or Path(), options)


def decided(options: Options) -> str:
    """What decides the split, in words; empty where patients are drawn. Errors as for `listing`."""
    return listing(options).split


def deciding(options: Options) -> dict[str, Any]:
    """The options that decide the result, as JSON holds them."""
    own = {name: getattr(options, name) for name in source_of(options).options}
    return {
        "data": options.data,
        **{name: _plain(value) for name, value in own.items()},
        "size": options.size,
        "test_patients": options.test_patients,
        "seed": options.seed,
    }


def source_of(options: Options) -> Source:
    """The registry's entry.

    Raises:
        ValueError: If there is no such source.
    """
    if options.data not in SOURCES:
        raise ValueError(f"data must be one of {', '.join(SOURCES)}; got {options.data!r}.")
    return SOURCES[options.data]


def _plain(value: object) -> object:
    """An option as JSON holds it; of a file the name, since its content is told by its checksum."""
    if isinstance(value, Path):
        return value.name
    return list(value) if isinstance(value, tuple) else value
