"""Networks by name: shipped with the study, or in a folder of exported weights."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from lumbar_disk._core.files import read_tensors, reading
from lumbar_disk.network import UNet, untrained
from lumbar_disk.study import reconstructs
from lumbar_disk.weights._index import RESTORE, Entry, read_index

HERE = Path(__file__).parent
VARIABLE = "LUMBAR_WEIGHTS"


def pretrained(name: str, *, folder: str | Path | None = None, device: torch.device | str = "cpu") -> UNet:
    """A trained network of the study, in float32 and eval mode.

    The index of what this version ships is part of the package. The files, of half precision, are part of the
    repository and not of an installed package: they are looked for beside this module, or, where the
    environment names a folder as LUMBAR_WEIGHTS, there and nowhere else. Each is checked against the index's
    SHA-256. A card beside each, `NAME.md`, tells of data, training and measured robustness.

    Args:
        name: The paper's name of the model, such as "P10_adv_rs".
        folder: What `export_weights` wrote, whose own index then counts. By default what this version ships.
        device: Where the network goes.

    Returns:
        The network; images `(B, 1, size, size)` in [0, 1] to `"contour"` and `"mask"`.

    Raises:
        ValueError: If there is no such network, the message lists those there are; if a file is not the one
            that the index names.
        FileNotFoundError: If the file or the index is not where it is looked for.

    Example:
        >>> from lumbar_disk import pretrained
        >>> pretrained("P4_std")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        ValueError: no weights of 'P4_std'...

    Source:
        Chen et al., section 2.2 (the network), and section 3 (the models).
    """
    place = HERE if folder is None else Path(folder)
    index = read_index(place)
    if name not in index:
        who = "this version ships" if folder is None else f"{place} has"
        there = f"{who} {', '.join(index) or 'none'}"
        raise ValueError(
            f"no weights of {name!r}: {there}. Choose one of those, or train it with `lumbar-disk study`, "
            "write its weights with `lumbar-disk export-weights`, and give that folder as folder=."
        )
    path = (place if folder is not None else shipped()) / f"{name}.pt"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there. An installed package has the index of the weights without the files: set "
            f"{VARIABLE} to the folder examples/lumbar_disk/weights of the repository, or give a folder that "
            "`lumbar-disk export-weights` wrote as folder=."
        )
    index[name].check(path)
    return loaded(path, name, index[name]).to(device)


def available() -> dict[str, Entry]:
    """The networks that this version ships and whose files are here, by name.

    Example:
        >>> from lumbar_disk.weights import available
        >>> sorted(available())
        ['P10_adv_rs', 'P10_std']
    """
    return {name: entry for name, entry in read_index(HERE).items() if (shipped() / f"{name}.pt").is_file()}


def shipped() -> Path:
    """The folder in which the shipped files are looked for."""
    return Path(os.environ.get(VARIABLE) or HERE)


def loaded(path: Path, name: str, entry: Entry) -> UNet:
    """A network with the weights of a file, whatever their precision, in float32.

    Raises:
        ValueError: If the file is damaged, or is another network's.
    """
    net = untrained(entry.width, entry.size, 0, reconstruction=reconstructs(name))
    kept = read_tensors(path, "cpu", "net")
    with reading(path, RESTORE):
        net.load_state_dict(kept["net"])
    return net.eval()
