"""SSMSpine, synthetic mid-sagittal lumbar images of the study's group: a file of `torch.save` for each image.

SSMSpine: Chen et al., Computers in Biology and Medicine (2024), doi 10.1016/j.compbiomed.2024.108795; for
research. A file holds a dictionary, of which two entries are read: `img`, the image `(512, 512)`, and `disk`,
the contours `(5, 176, 2)` of the discs. Each image has the texture of one real patient and the shapes of a
virtual one, 125 shapes to a texture. Textures of 80 patients are for training and of 20 others for the test,
in archives of their own; here they lie in folders `train` and `test`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from lumbar_disk._core.files import reason, visible
from lumbar_disk.data._discs import LEVELS, Slice, cropped
from lumbar_disk.data._folder import grey
from lumbar_disk.data._landmarks import POINTS_PER_ARC
from lumbar_disk.data._listing import Item, Listing, Options, Source
from lumbar_disk.data._outlines import POINTS

SIDES = ("train", "test")
IMAGE, DISCS = "img", "disk"

# Where each arc of 44 points runs to: left down, bottom to the right, right up, top to the left.
_COURSE = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, -1.0], [-1.0, 0.0]])
_KINDS = ("b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")

_log = logging.getLogger(__name__)


def find(root: Path, options: Options) -> Listing:
    """List the images; errors as for `files`, and as for `sides_of`."""
    found = files(root)
    sides = sides_of(root, found)

    def item(path: Path) -> Item:
        place = path.relative_to(root)
        return Item(
            place.as_posix(),
            (path,),
            lambda: cropped(read_ssmspine(path, patient(place)), options.size, upright=options.upright),
        )

    return Listing(tuple(map(item, found)), sides=sides, split="the folders train and test")


SOURCE = Source("ssmspine", find, "SSMSpine's .pt files in `train` and `test`", ("upright",))


def files(root: Path | str) -> list[Path]:
    """The .pt files under `train` and `test`, upper or lower case, sorted, without hidden ones.

    Raises:
        FileNotFoundError: If there are none on one of the sides, or some lie elsewhere.
    """
    root = Path(root)
    found = visible(root, "**/*.pt")
    sides = [side(path.relative_to(root)) for path in found]
    astray = [path for path, one in zip(found, sides, strict=True) if one not in SIDES]
    if astray or set(sides) != set(SIDES):
        counted = ", ".join(f"{sides.count(one)} in {one}" for one in SIDES)
        example = f", such as {astray[0]}" if astray else ""
        raise FileNotFoundError(
            f"{root}: expected SSMSpine's files as train/*.pt and test/*.pt; got {counted}, {len(astray)} "
            f"elsewhere{example}. Unpack SSMSpine_Train.zip into {root / 'train'} and SSMSpine_Test.zip into "
            f"{root / 'test'}. No split is drawn: images with the texture of one patient are not told apart."
        )
    return found


def sides_of(root: Path, found: Sequence[Path]) -> dict[str, str]:
    """The side of each patient, from the folders; images whose patient is not known are counted in a warning.

    Raises:
        ValueError: If a patient has a folder on both sides.
    """
    places = [path.relative_to(root) for path in found]
    sides: dict[str, str] = {}
    torn = {
        patient(place) for place in places if sides.setdefault(patient(place), side(place)) != side(place)
    }
    if torn:
        raise ValueError(
            f"{root}: patients {', '.join(sorted(torn))} have folders in both train and test. A folder in "
            "them is named after the patient who lends the texture: keep each patient on one side, and give "
            "different patients different names."
        )
    if alone := sum(len(place.parts) == 2 for place in places):
        _log.warning(
            "%s: %d of %d images lie in train or test itself, and it is not known which of them have the "
            "texture of one patient. Each counts as a patient, so intervals over patients are too narrow. "
            "If you know the patients, sort the files into folders, train/PATIENT and test/PATIENT.",
            root,
            alone,
            len(places),
        )
    return sides


def patient(place: PurePath) -> str:
    """The patient of a file, by its path under the root: its folder within train or test, or else itself.

    Example:
        >>> from pathlib import PurePath
        >>> patient(PurePath("train/p7/0001.pt")), patient(PurePath("test/0001.pt"))
        ('p7', 'test/0001')
    """
    return place.parts[1] if len(place.parts) > 2 else f"{side(place)}/{place.stem}"


def side(place: PurePath) -> str:
    """The side of a file, by its path under the root: the name of its first folder."""
    return place.parts[0].lower() if len(place.parts) > 1 else ""


def read_ssmspine(path: Path | str, patient: str | None = None) -> Slice:
    """Read an image and the contours of its five discs, from top to bottom L1/L2 to L5/S1.

    The order of the discs in the file does not matter: they are told by their height in the image. The 176
    points are taken as they are, four arcs of 44: left, bottom, right, top. They count as (x, y) in pixels of
    `img`, pixel centres at integers from 0.

    Args:
        path: The file, a dictionary saved with `torch.save`. Tensors, numpy arrays and plain values of Python
            are loaded; a file with other objects is refused, since loading them may run what they contain.
        patient: The patient who lends the texture; by default the file's name.

    Returns:
        The slice; the size of its pixels is not known (nan). A disc whose points are not finite, or do not
        run as they should, is refused with the reason.

    Raises:
        ValueError: If the file cannot be read, or an entry is missing or not of the shape above.
    """
    path = Path(path)
    entries = _loaded(path)
    if not isinstance(entries, Mapping) or not {IMAGE, DISCS} <= set(entries):
        got = sorted(map(str, entries)) if isinstance(entries, Mapping) else type(entries).__name__
        raise ValueError(
            f"{path}: expected a dictionary with `{IMAGE}`, an image (H, W), and `{DISCS}`, an array "
            f"(5, {POINTS}, 2); got {got}. Is it a file of SSMSpine?"
        )
    pixels, contours = (
        one.detach().double().numpy() if isinstance(one, torch.Tensor) else np.asarray(one)
        for one in (entries[IMAGE], entries[DISCS])
    )
    if pixels.ndim == 3 and len(pixels) == 1:
        pixels = pixels[0]
    if contours.shape != (len(LEVELS), POINTS, 2) or contours.dtype.kind not in "iuf":
        raise ValueError(
            f"{path}: expected `{DISCS}` as numbers of shape ({len(LEVELS)}, {POINTS}, 2), points (x, y) in "
            f"pixels; got {contours.dtype} of shape {contours.shape}. Is it a file of SSMSpine?"
        )
    contours = contours.astype(np.float64)
    owner = patient or path.stem
    outlines, refused = {}, {}
    for level, contour in zip(LEVELS, contours[np.argsort(-contours[..., 1].mean(axis=1))], strict=True):
        if text := _wrong(contour):
            refused[level] = f"patient {owner}, {level}: {text}"
        else:
            outlines[level] = contour
    return Slice(owner, grey(pixels, path), float("nan"), outlines, refused, placed=True)


def _wrong(contour: NDArray[np.float64]) -> str:
    """What keeps 176 points from being landmarks; empty if nothing does."""
    if not np.isfinite(contour).all():
        return "some of its points are not finite. Download the file again."
    arcs = contour.reshape(len(_COURSE), POINTS_PER_ARC, 2)
    following = np.roll(arcs[:, 0], -1, axis=0)
    along = ((following - arcs[:, 0]) * _COURSE).sum(axis=1)
    if (along <= 0).any():
        return (
            "its points do not run as four arcs of 44, down the left side, along the bottom to the right, up "
            "the right side, along the top to the left; from corner to corner they go "
            f"{(following - arcs[:, 0]).round(1).tolist()}. Are x and y exchanged, or is the image mirrored?"
        )
    return ""


def _loaded(path: Path) -> Any:
    """What a file of `torch.save` holds: tensors, numpy arrays and plain values."""
    with safe_globals(_numpy_parts()):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch, zipfile and pickle raise a dozen kinds for damaged files
            if strange := _strange(path):
                raise ValueError(
                    f"{path} holds objects that are not loaded, since they may run what they contain: "
                    f"{strange}. If you trust the file, save its arrays and tensors alone, as a dictionary."
                ) from error
            raise ValueError(
                f"{path} cannot be read as a file of torch.save ({reason(error)}). Download it again."
            ) from error


def _strange(path: Path) -> str:
    """The kinds of objects in a file that are neither tensors, arrays nor plain values; empty if none."""
    with suppress(Exception):  # of a damaged file: then it is not a matter of kinds
        return ", ".join(sorted(get_unsafe_globals_in_checkpoint(path)))
    return ""


def _numpy_parts() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """What pickled arrays and numbers of numpy are made of, under the names of numpy 1 and of numpy 2."""
    made: dict[str, Callable[..., Any]] = {
        "_reconstruct": cast("Callable[..., Any]", np.empty(0).__reduce__()[0]),
        "scalar": cast("Callable[..., Any]", np.float64(0).__reduce__()[0]),
    }
    homes = ("numpy.core.multiarray", "numpy._core.multiarray")
    named = [(part, f"{home}.{name}") for home in homes for name, part in made.items()]
    return [*named, np.ndarray, np.dtype, *{type(np.dtype(kind)) for kind in _KINDS}]
