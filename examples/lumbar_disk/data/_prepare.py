"""Preparation of discs from any source: crops, split by patient, in a file that knows what it was made from.

The file is an .npz without pickles: `images`, `contours`, `pixel_mm`, and `manifest`, a JSON text
with the command, versions and options, every source file's size, time of change and SHA-256, every disc's
source, patient, level, slice and side of the split, what was refused with reasons, and checksums of the
arrays. A refused disc has its level; an image that was refused whole has none.
"""

from __future__ import annotations

import json
import logging
import platform
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from advreg.metrics import rasterise
from lumbar_disk._core.files import checksum, differences, reading, sha256, write
from lumbar_disk.data._discs import Disc, Discs, hold_out
from lumbar_disk.data._listing import Listing, Options
from lumbar_disk.data._sources import deciding, listing

Manifest = dict[str, Any]
Arrays = dict[str, Any]  # numpy arrays by name

FORMAT = 1
ARRAYS = ("images", "contours", "pixel_mm")
PARTS = (  # of the manifest
    "format",
    "versions",
    "options",
    "split",
    "train_patients",
    "test_patients",
    "sources",
    "discs",
    "refused",
    "arrays",
)

_SHOWN = 20  # refusals in an error

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Prepared:
    """Prepared data: discs split by patient.

    Attributes:
        train: The training discs.
        test: The test discs, of other patients.
        manifest: What the data are made from, and how.
    """

    train: Discs
    test: Discs
    manifest: Manifest


@dataclass(frozen=True, eq=False)
class Plan:
    """Plan of a prepared file: its content, read or made anew, of which nothing is written yet.

    Attributes:
        path: The file.
        arrays: What it holds, or shall hold.
        manifest: What the data are made from, and how.
        reasons: Why it has to be written; empty if it is up to date.
    """

    path: Path
    arrays: Arrays
    manifest: Manifest
    reasons: list[str]

    def data(self) -> Prepared:
        """The discs, split by patient."""
        return _prepared(self.arrays, self.manifest)

    def write(self) -> None:
        """Write the file, whole or not at all, if there is a reason."""
        if self.reasons:
            text = np.frombuffer(json.dumps(self.manifest, indent=1).encode(), dtype=np.uint8)
            write(self.path, partial(np.savez, **self.arrays, manifest=text))


def build(options: Options, *, command: str = "", progress: bool = False) -> Prepared:
    """Read, crop and split the data; discs and images that cannot be served are left out with a warning.

    Discs of slices beside the mid-sagittal one are for training: of test patients they are left out.

    Args:
        options: What to prepare.
        command: What the user typed; goes into the manifest.
        progress: Whether to show a progress bar.

    Raises:
        FileNotFoundError: If the root is not laid out as its kind of data is.
        ValueError: If the root is missing, a table is not what it should be, every disc was refused, or the
            patients do not make two sides.

    Example:
        >>> data = build(Options("phantom", patients=3, test_patients=1, size=32))
        >>> len(data.train), len(data.test), data.manifest["split"]
        (10, 5, '1 of 3 patients, drawn with seed 0')
    """
    return _prepared(*_made(options, listing(options), command, progress=progress))


def prepare(
    options: Options, path: Path, *, command: str = "", progress: bool = False
) -> tuple[Manifest, list[str]]:
    """Make sure that a file holds the data; it is written, whole or not at all, only if something changed.

    Args:
        options: What to prepare.
        path: The file; its folder is made if it is not there.
        command: What the user typed; goes into the manifest.
        progress: Whether to show a progress bar.

    Returns:
        The file's manifest, and why it was written; no reasons if it was up to date.

    Raises:
        FileNotFoundError: As `build`.
        ValueError: As `build`; or if what stands at `path` is damaged or of another kind.
    """
    plan = planned(options, path, command=command, progress=progress)
    plan.write()
    return plan.manifest, plan.reasons


def planned(options: Options, path: Path, *, command: str = "", progress: bool = False) -> Plan:
    """Do all of `prepare` but the writing, so that whoever has something against it can say so before."""
    found = listing(options)
    reasons = [f"{path} is not there yet"]
    if path.exists():
        arrays, manifest = _opened(path)
        reasons = _changes(manifest, _options(options, found), _files(options, found))
        if not reasons:
            _warn(manifest)
            return Plan(path, arrays, manifest, [])
    arrays, manifest = _made(options, found, command, progress=progress)
    return Plan(path, arrays, manifest, reasons)


def load(path: Path | str) -> Prepared:
    """Read what `prepare` wrote, and check it against its checksums.

    Raises:
        FileNotFoundError: If there is no such file.
        IsADirectoryError: If it is a folder.
        ValueError: If the file is damaged, of another kind, or of another version's format.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(
            f"{path} is a folder; expected a file that `lumbar-disk prepare` wrote. Give the file."
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there. Make it with `lumbar-disk prepare --out {path}`.")
    arrays, manifest = _opened(path)
    if manifest["format"] != FORMAT:
        raise ValueError(
            f"{path} is of format {manifest['format']}, and this version reads {FORMAT}. Run `lumbar-disk "
            "prepare` again with the same --out."
        )
    return _prepared(arrays, manifest)


def counts(manifest: Manifest) -> str:
    """A line for people: discs and patients on both sides, how they were split, how many refused."""
    sides = ", ".join(
        f"{side} {sum(disc['split'] == side for disc in manifest['discs'])} discs of "
        f"{len(manifest[f'{side}_patients'])} patients"
        for side in ("train", "test")
    )
    whole = sum(one["level"] is None for one in manifest["refused"])
    images = f" and {whole} images whole" if whole else ""
    return f"{sides} ({manifest['split']}); refused {len(manifest['refused']) - whole} discs{images}"


def _made(options: Options, found: Listing, command: str, *, progress: bool) -> tuple[Arrays, Manifest]:
    """Do the work of `build`: arrays of all discs, in order, and the manifest."""
    fingerprints = {name: _fingerprint(path) for name, path in _files(options, found).items()}
    discs: list[Disc] = []
    origins: list[str] = []
    refused: list[dict[str, str | None]] = []
    for item in tqdm(found.items, desc="prepare", unit="image", disable=not progress):
        try:
            new, reasons = item.read()
        except (ValueError, OSError) as error:
            refused.append({"source": item.name, "level": None, "reason": str(error)})
            continue
        discs += new
        origins += [item.name] * len(new)
        refused += [
            {"source": item.name, "level": level, "reason": reason} for level, reason in reasons.items()
        ]
    _warn({"refused": refused})
    tested = list(dict.fromkeys(disc.patient for disc in discs if disc.offset == 0))
    if not tested:
        raise ValueError(f"{options.root}: every disc was refused:{_named(refused)}")
    test, split = _test_patients(options, tested, found)
    kept = [i for i, disc in enumerate(discs) if disc.offset == 0 or disc.patient not in test]
    discs, origins = [discs[i] for i in kept], [origins[i] for i in kept]
    patients = list(dict.fromkeys(disc.patient for disc in discs))
    arrays: Arrays = {
        "images": np.stack([disc.image for disc in discs]),
        "contours": np.stack([disc.contour for disc in discs]),
        "pixel_mm": np.array([disc.pixel_mm for disc in discs], dtype=np.float32),
    }
    return arrays, {
        "format": FORMAT,
        "command": command,
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("advreg", "numpy", "scipy")},
        "options": _options(options, found),
        "split": split,
        "train_patients": [name for name in patients if name not in test],
        "test_patients": [name for name in patients if name in test],
        "sources": fingerprints,
        "discs": [
            {
                "patient": disc.patient,
                "level": disc.level,
                "slice": disc.offset,
                "source": origin,
                "split": "test" if disc.patient in test else "train",
                "pixel_mm": None if np.isnan(disc.pixel_mm) else float(disc.pixel_mm),
            }
            for disc, origin in zip(discs, origins, strict=True)
        ],
        "refused": refused,
        "arrays": _checksums(arrays),
    }


def _named(refused: Sequence[Mapping[str, str | None]]) -> str:
    """What was refused, with the reasons, as far as a person reads on; the log has all."""
    lines = [
        f"\n- {', '.join(filter(None, (one['source'], one['level'])))}: {one['reason']}" for one in refused
    ]
    more = f"\n- and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return "".join(lines[:_SHOWN]) + more


def _options(options: Options, found: Listing) -> dict[str, Any]:
    """The options that decide the result; no number of test patients where none are drawn."""
    return deciding(options) | ({} if found.sides is None else {"test_patients": None})


def _test_patients(options: Options, patients: Sequence[str], found: Listing) -> tuple[set[str], str]:
    """Choose the patients of the test set, and say how."""
    if found.sides is None:
        drawn = hold_out(patients, options.test_patients, options.seed)
        return set(drawn), f"{len(drawn)} of {len(patients)} patients, drawn with seed {options.seed}"
    test = {name for name, side in found.sides.items() if side == "test"}
    if len(test.intersection(patients)) in (0, len(patients)):
        raise ValueError(
            f"{options.root}: {found.split} puts all {len(patients)} patients that have discs on one side, "
            f"{found.sides[patients[0]]}. Add files of the other side, or mend those that were refused."
        )
    return test, f"by {found.split}"


def _files(options: Options, found: Listing) -> dict[str, Path]:
    """Every file that decides the result, by its path relative to the root; by its name if it lies elsewhere.

    A file that is not there is named where it is read.
    """
    root = options.root or Path()
    paths = (*found.tables, *(path for item in found.items for path in item.files))
    return {
        path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name: path
        for path in paths
        if path.is_file()
    }


def _fingerprint(path: Path) -> dict[str, Any]:
    """What tells whether a file has changed; the first two are quick to look at."""
    stat = path.stat()
    return {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": _digest(path)}


def _digest(path: Path) -> str | None:
    """A file's SHA-256; None if it cannot be read, which is named where the item is."""
    try:
        return sha256(path)
    except OSError:
        return None


def _changes(manifest: Manifest, options: Mapping[str, Any], files: Mapping[str, Path]) -> list[str]:
    """Say what changed since a file was prepared; a source is read only if its time has changed."""
    reasons = differences(
        {"format": manifest["format"], "advreg": manifest["versions"]["advreg"], **manifest["options"]},
        {"format": FORMAT, "advreg": version("advreg"), **options},
    )
    known = manifest["sources"]
    reasons += [f"{name} is new" for name in files if name not in known]
    reasons += [f"{name} is gone" for name in known if name not in files]
    return reasons + [
        f"{name} has changed" for name, path in files.items() if name in known and _differs(path, known[name])
    ]


def _differs(path: Path, known: Mapping[str, Any]) -> bool:
    """Whether a file's content has changed."""
    stat = path.stat()
    if stat.st_size != known["bytes"]:
        return True
    looked_at = stat.st_mtime_ns == known["mtime_ns"] and known["sha256"] is not None
    return not looked_at and _digest(path) != known["sha256"]


def _opened(path: Path) -> tuple[Arrays, Manifest]:
    """Read the file, and check its arrays."""
    with reading(path, "Delete it, or choose another --out, and run the command again."):
        with zipfile.ZipFile(path):  # a bare .npy, which np.load would read, is refused here
            pass
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            manifest: Manifest = json.loads(file["manifest"].tobytes())
            arrays = {name: file[name] for name in ARRAYS}
        if absent := [name for name in PARTS if name not in manifest]:
            raise ValueError(f"its manifest has no {', '.join(absent)}")
        if manifest["arrays"] != _checksums(arrays):
            raise ValueError("arrays do not match their checksums")
    return arrays, manifest


def _checksums(arrays: Arrays) -> dict[str, str]:
    """The SHA-256 of each array's values."""
    return {name: checksum(array) for name, array in arrays.items()}


def _prepared(arrays: Arrays, manifest: Manifest) -> Prepared:
    """Turn arrays into the two data sets; the masks are rasterised here."""
    images, contours = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["contours"])
    discs = Discs(
        images=images[:, None],
        contours=contours,
        masks=rasterise(contours, (images.shape[1], images.shape[2]))[:, None].float(),
        pixel_mm=torch.from_numpy(arrays["pixel_mm"]),
        patients=tuple(disc["patient"] for disc in manifest["discs"]),
        levels=tuple(disc["level"] for disc in manifest["discs"]),
    )
    train, test = discs.split(manifest["test_patients"])
    return Prepared(train, test, manifest)


def _warn(manifest: Manifest) -> None:
    """Log each refused disc and image."""
    for one in manifest["refused"]:
        what = ", ".join(filter(None, (one["source"], one["level"])))
        _log.warning("%s refused: %s", what, one["reason"])
