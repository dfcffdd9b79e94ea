"""Index of a folder of weights: which networks it has, and the checksum of each file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from lumbar_disk._core.files import read_json, reading, sha256, write

RESTORE = "Restore the folder, or write it anew with `lumbar-disk export-weights`."


@dataclass(frozen=True)
class Entry:
    """Entry of the index: a network's file, and how to build what it goes into.

    Attributes:
        width: Of the network.
        size: Side of its images in pixels.
        bytes: Length of the file.
        sha256: Its checksum, in hexadecimal.
    """

    width: int
    size: int
    bytes: int
    sha256: str

    def check(self, path: Path) -> None:
        """Insist on the very file that was indexed.

        Raises:
            ValueError: If it is another, or was changed.
        """
        if (found := sha256(path)) != self.sha256:
            raise ValueError(
                f"{path} is not the file that the index names: expected SHA-256 {self.sha256} and "
                f"{self.bytes} bytes; got {found} and {path.stat().st_size}. Get the file again from where "
                "it came from."
            )


def read_index(folder: Path) -> dict[str, Entry]:
    """The networks of a folder that `export_weights` wrote, by name.

    Raises:
        FileNotFoundError: If it has no index.
        ValueError: If the index is damaged.
    """
    path = folder / "index.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there: expected a folder that `lumbar-disk export-weights` wrote."
        )
    known = read_json(path, remedy=RESTORE)
    with reading(path, RESTORE):
        return {
            name: Entry(**{one.name: values[one.name] for one in fields(Entry)})
            for name, values in known.items()
        }


def write_index(folder: Path, entries: Mapping[str, Entry]) -> Path:
    """Write the index of a folder, by name."""
    known = {name: asdict(entries[name]) for name in sorted(entries)}
    return write(folder / "index.json", json.dumps(known, indent=1) + "\n")
