"""Storage of virtual samples on disk: made once, in shards, by a run that may be killed at any moment.

A folder holds `stream.json`, which says what the stream is made of, and one `samples-START-STOP.npz` per
shard. A shard is written whole or not at all, so whatever is there is complete, and a run makes only what is
not there: nothing is lost, nothing comes twice. Images are kept as float16, to half a thousandth.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from lumbar_disk._core.files import differences, read_arrays, read_json, reading, write
from lumbar_disk.virtual._stream import Samples, Stream

MANIFEST = "stream.json"
SHARD = ("images", "contours", "source", "redrawn")  # arrays of a shard, beside their index


def generate(
    stream: Stream, folder: Path, count: int, *, shard: int = 4096, batch: int = 64, progress: bool = False
) -> list[Path]:
    """Store the first `count` samples of a stream; what is already there is left as it is.

    Args:
        stream: The stream.
        folder: Where to write; made if it is not there.
        count: How many samples there shall be. A later run may ask for more.
        shard: Samples per file.
        batch: Samples made at a time.
        progress: Whether to show a progress bar, with the rate and the time left.

    Returns:
        All shards, in order.

    Raises:
        ValueError: If the folder holds another stream, or other shards, named by what differs; if count or
            shard is not positive.
    """
    if count < 1 or shard < 1:
        raise ValueError(f"count and shard must be at least 1; got count={count}, shard={shard}.")
    refuse_another(stream, folder, shard)
    manifest = folder / MANIFEST
    if not manifest.is_file():
        write(manifest, json.dumps({**fingerprint(stream), "shard": shard}, indent=2) + "\n")
    ranges = [(start, min(start + shard, count)) for start in range(0, count, shard)]
    paths = [folder / f"samples-{start:09d}-{stop:09d}.npz" for start, stop in ranges]
    waiting = [place for place, path in enumerate(paths) if not _whole(path, *ranges[place])]
    done = count - sum(stop - start for start, stop in (ranges[place] for place in waiting))
    with tqdm(total=count, initial=done, desc="augment", unit="sample", disable=not progress) as bar:
        for place in waiting:
            start, stop = ranges[place]
            parts = []
            for samples in stream.batches(batch, start, stop):
                parts.append(samples)
                bar.update(len(samples.index))
            for stale in folder.glob(f"samples-{start:09d}-*.npz"):  # a shorter last shard of an earlier run
                stale.unlink()
            write(paths[place], partial(np.savez, **_arrays(parts)))
    return paths


def fingerprint(stream: Stream) -> dict[str, Any]:
    """What decides a stream's samples: its options, and a checksum of its discs and its shape model."""
    digest = hashlib.sha256()
    for tensor in (stream.discs.images, stream.discs.contours, stream.model.mean, stream.model.modes):
        digest.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
    digest.update(stream.model.deviations.cpu().numpy().tobytes())
    return {
        "seed": stream.seed,
        "distribution": stream.distribution,
        "kernel": stream.kernel,
        "components": len(stream.model.modes),
        "discs": len(stream.discs),
        "size": list(stream.size),
        "sha256": digest.hexdigest(),
    }


@dataclass(frozen=True)
class Stored:
    """Samples that `generate` wrote, to be used like the stream: `at` and `batches`.

    Attributes:
        folder: The folder.

    Raises:
        FileNotFoundError: When used: the folder holds no samples, or not those asked for.
    """

    folder: Path

    def __len__(self) -> int:
        """How many samples there are."""
        return max((stop for _, stop, _ in self._shards()), default=0)

    def at(self, index: Tensor) -> Samples:
        """Read the samples at the given places, `(B,)` int64."""
        found: dict[int, dict[str, Tensor]] = {}
        for start, stop, path in self._shards():
            for place in ((index >= start) & (index < stop)).nonzero()[:, 0].tolist():
                shard = _read(path)
                found[place] = {name: values[int(index[place]) - start] for name, values in shard.items()}
        missing = sorted(set(range(len(index))) - set(found))
        if missing:
            raise FileNotFoundError(
                f"{self.folder} has no sample {int(index[missing[0]])}; it holds {len(self)}. "
                "Make more with `lumbar-disk augment`."
            )
        stacked = {name: torch.stack([found[i][name] for i in range(len(index))]) for name in found[0]}
        stacked = {name: values.to(index.device) for name, values in stacked.items()}
        return Samples(**{**stacked, "index": index, "images": stacked["images"].float()})

    def batches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Samples]:
        """Walk the samples in batches from `start` to `stop`, by default to the last."""
        stop = len(self) if stop is None else stop
        for first in range(start, stop, size):
            yield self.at(torch.arange(first, min(first + size, stop)))

    def _shards(self) -> list[tuple[int, int, Path]]:
        if not (self.folder / MANIFEST).is_file():
            raise FileNotFoundError(
                f"{self.folder} holds no stored samples (it has no {MANIFEST}). "
                "Make them with `lumbar-disk augment`, or give their folder."
            )
        paths = sorted(self.folder.glob("samples-*-*.npz"))
        return [(int(path.stem.split("-")[1]), int(path.stem.split("-")[2]), path) for path in paths]


def refuse_another(stream: Stream, folder: Path, shard: int) -> None:
    """Refuse a folder that holds samples of another stream, or other shards.

    Raises:
        ValueError: What differs; or that the folder's manifest is damaged.
    """
    path, wanted = folder / MANIFEST, {**fingerprint(stream), "shard": shard}
    if path.is_file():
        found = read_json(path, remedy=f"Delete {folder}, and run the same command again.")
        if changed := differences({name: found.get(name) for name in wanted}, wanted):
            raise ValueError(
                f"{folder} holds samples of another stream ({'; '.join(changed)}). Write to another folder, "
                "or delete this one."
            )


def _whole(path: Path, start: int, stop: int) -> bool:
    """Whether a shard is there and holds what its name says; a damaged one is made again."""
    try:
        with reading(path), np.load(path, allow_pickle=False) as file:
            return bool(np.array_equal(file["index"], np.arange(start, stop)))
    except ValueError:
        return False


def _arrays(parts: list[Samples]) -> dict[str, Any]:
    def joined(name: str, dtype: str) -> NDArray[Any]:
        return torch.cat([getattr(part, name) for part in parts]).cpu().numpy().astype(dtype)

    return {
        "images": joined("images", "float16"),
        "contours": joined("contours", "float32"),
        **{name: joined(name, "int64") for name in ("source", "redrawn", "index")},
    }


@lru_cache(maxsize=2)
def _read(path: Path) -> dict[str, Tensor]:
    shard = read_arrays(path, *SHARD)
    return {name: torch.from_numpy(shard[name]) for name in SHARD}
