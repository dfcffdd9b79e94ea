"""Discs cut out of a mid-sagittal slice: a square crop and a contour each (paper, section 2.1).

Coordinates are (x, y) in pixels, x to the right (posterior), y down (inferior), **pixel centres at
integers**: (0, 0) is the centre of the top-left pixel, and an image of width W reaches from -0.5 to W - 0.5.
Crops keep that convention.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]  # scipy ships no types
from scipy.spatial import distance  # type: ignore[import-untyped]  # as above

from advreg.metrics import rasterise
from lumbar_disk.data._landmarks import POINTS_PER_ARC, landmarks
from lumbar_disk.data._outlines import Array, plausible

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

Heads = dict[str, torch.Tensor]  # what the network answers, or should: "contour" and "mask"

LEVELS = ("L5/S1", "L4/L5", "L3/L4", "L2/L3", "L1/L2")
NO_LEVEL = "disc"  # the level of the only disc of a file that names none

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Slice:
    """Slice of one patient: the mid-sagittal image with the outlines of its lumbar discs.

    Attributes:
        patient: The patient's name; the unit of every split.
        image: `(H, W)` float32 raw intensities; row 0 is superior, column 0 anterior.
        pixel_mm: Side of a (square) pixel in mm; nan where it is not known.
        outlines: Closed disc boundaries `(n, 2)` in pixels (see the module's convention) by name of level,
            `LEVELS` in SPIDER; the first point need not be repeated at the end.
        refused: Discs that the slice shows but that cannot be served: the reason by name of level.
        offset: Number of slices from the mid-sagittal one, positive towards the patient's left.
        placed: Whether the outlines are landmarks already, 176 in the order of `landmarks`.
            `crop` keeps them.
    """

    patient: str
    image: NDArray[np.float32]
    pixel_mm: float
    outlines: Mapping[str, Array]
    refused: Mapping[str, str] = field(default_factory=dict)
    offset: int = 0
    placed: bool = False


@dataclass(frozen=True)
class Disc:
    """Disc, cropped: what the network sees and what it should answer.

    Attributes:
        patient: The patient's name.
        level: Which disc of the patient, in SPIDER one of `LEVELS`.
        image: `(S, S)` float32 in [0, 1].
        contour: `(176, 2)` float32 points (x, y) in pixels of the crop, in the order of
            `landmarks`: four arcs of 44, left, bottom, right, top.
        pixel_mm: Side of a pixel of the crop in mm; nan where it is not known.
        offset: Number of slices from the patient's mid-sagittal one.
    """

    patient: str
    level: str
    image: NDArray[np.float32]
    contour: NDArray[np.float32]
    pixel_mm: float
    offset: int = 0


@dataclass(frozen=True)
class Discs:
    """Discs of a data set: `N` as tensors, in a fixed order.

    Attributes:
        images: `(N, 1, S, S)` float32 in [0, 1].
        contours: `(N, 176, 2)` float32 (x, y) in pixels.
        masks: `(N, 1, S, S)` float32, 1 inside the contour: `advreg.metrics.rasterise` of the contours.
        pixel_mm: `(N,)` float32 side of a crop's pixel in mm; nan where it is not known.
        patients: The patient of each disc.
        levels: The level of each disc.
    """

    images: torch.Tensor
    contours: torch.Tensor
    masks: torch.Tensor
    pixel_mm: torch.Tensor
    patients: tuple[str, ...]
    levels: tuple[str, ...]

    @classmethod
    def of(cls, discs: Sequence[Disc]) -> Discs:
        """Stack discs of one crop size and rasterise their contours.

        Raises:
            ValueError: If there are no discs, or their crops differ in size.
        """
        sizes = {disc.image.shape for disc in discs}
        if len(sizes) != 1:
            raise ValueError(
                f"Discs.of needs at least one disc and one crop size for all; got {len(discs)} discs of "
                f"sizes {sorted(sizes)}. Crop them all with the same `size`."
            )
        contours = torch.from_numpy(np.stack([disc.contour for disc in discs]))
        height, width = sizes.pop()
        return cls(
            images=torch.from_numpy(np.stack([disc.image for disc in discs]))[:, None],
            contours=contours,
            masks=rasterise(contours, (height, width))[:, None].float(),
            pixel_mm=torch.tensor([disc.pixel_mm for disc in discs], dtype=torch.float32),
            patients=tuple(disc.patient for disc in discs),
            levels=tuple(disc.level for disc in discs),
        )

    def __len__(self) -> int:
        """The number of discs."""
        return len(self.patients)

    def take(self, places: Sequence[int]) -> Discs:
        """The discs at the given places, in that order."""
        index = torch.as_tensor(places, dtype=torch.long)
        return Discs(
            self.images[index],
            self.contours[index],
            self.masks[index],
            self.pixel_mm[index],
            tuple(self.patients[i] for i in places),
            tuple(self.levels[i] for i in places),
        )

    def to(self, device: torch.device | str) -> Discs:
        """The discs on a device."""
        images, contours, masks = (part.to(device) for part in (self.images, self.contours, self.masks))
        return replace(self, images=images, contours=contours, masks=masks)

    def target(self) -> Heads:
        """What a network should answer: `{"contour": (N, 176, 2), "mask": (N, 1, S, S)}`."""
        return {"contour": self.contours, "mask": self.masks}

    def split(self, test_patients: Collection[str]) -> tuple[Discs, Discs]:
        """Split by patient, so that no patient's discs are on both sides.

        Args:
            test_patients: The patients whose discs go to the test set.

        Returns:
            The training set and the test set.

        Raises:
            ValueError: If a name is unknown, or one side would be empty.
        """
        unknown = sorted(set(test_patients) - set(self.patients))
        test = [i for i, patient in enumerate(self.patients) if patient in test_patients]
        train = [i for i, patient in enumerate(self.patients) if patient not in test_patients]
        if unknown or not test or not train:
            raise ValueError(
                f"a split needs known patients on both sides; got {len(train)} training and {len(test)} test "
                f"discs, unknown patients {unknown}. Choose some, not all, of {sorted(set(self.patients))}."
            )
        return self.take(train), self.take(test)


def hold_out(patients: Iterable[str], count: int, seed: int) -> tuple[str, ...]:
    """Draw `count` patients for a test set; depends on the set of names and the seed, not on their order.

    Example:
        >>> hold_out(["p3", "p1", "p2", "p1"], 1, seed=0) == hold_out(["p1", "p2", "p3"], 1, seed=0)
        True

    Raises:
        ValueError: If fewer than one patient would remain on either side.
    """
    names = sorted(set(patients))
    if len(names) < 2:
        raise ValueError(
            f"cannot hold out {count} of {len(names)} patients; a split needs at least 2. Add patients, or "
            "mend those whose discs were refused."
        )
    if not 0 < count < len(names):
        raise ValueError(
            f"cannot hold out {count} of {len(names)} patients; expected a number from 1 to {len(names) - 1}."
        )
    chosen = np.random.default_rng(seed).permutation(len(names))[:count]
    return tuple(sorted(names[i] for i in chosen))


def crop(source: Slice, level: str, size: int = 128, context: float = 1.5, *, upright: bool = True) -> Disc:
    """Cut a square around one disc and bring it to `size` x `size` pixels (paper, section 2.1).

    The square stands on the centre of the disc's bounding box; its side is `context` times the disc's
    diameter (the largest distance between two of its points), so that a tilted disc fills as much of it as a
    flat one. For the image see `cut`, for the points `landmarks`.

    The paper does not say whether its squares are turned. Upright ones are: the line from the middle of the
    left arc to the middle of the right one lies along the rows. Their shape models cover the shares of the
    variation that the paper reports, and textures of one level then fit the shapes of another; with squares
    along the slice's own rows, a spine's curve, 30 degrees and more between L5/S1 and L1/L2, is most of what
    varies.

    Args:
        source: The patient's slice.
        level: Which disc; one of `source.outlines`.
        size: Side of the crop in pixels.
        context: Side of the square over the diameter of the disc.
        upright: Whether the square is turned with its disc.

    Returns:
        The disc, with the contour in pixels of the crop.

    Raises:
        ValueError: If the slice has no such disc, its outline leaves the slice, crosses itself or is not a
            disc's, or the crop has one intensity only.
    """
    name = f"patient {source.patient}, {level}"
    if level not in source.outlines:
        raise ValueError(
            f"patient {source.patient} has no outline for {level!r}; expected one of "
            f"{sorted(source.outlines)}."
        )
    with np.errstate(all="ignore"):  # an outline that crosses itself may have no frame; it is refused here
        contour = source.outlines[level] if source.placed else landmarks(source.outlines[level], name)
    low, high = contour.min(axis=0), contour.max(axis=0)
    height, width = source.image.shape
    if low.min() < -0.5 or high[0] > width - 0.5 or high[1] > height - 0.5:
        raise ValueError(
            f"{name}: its outline reaches from x {low[0]:.1f} to {high[0]:.1f} and from y {low[1]:.1f} to "
            f"{high[1]:.1f}, and the image has {width} columns and {height} rows. Expected points (x, y) in "
            "pixels, x along a row: are the two exchanged, or is the disc partly outside?"
        )
    turn = _along(contour) if upright else np.eye(2)
    turned = contour @ turn
    low, high = turned.min(axis=0), turned.max(axis=0)
    side = context * distance.pdist(contour).max()
    step = side / size  # slice pixels per crop pixel
    origin = (low + high - side + step) / 2  # centre of the crop's top-left pixel, in the turned frame
    placed = (turned - origin) / step
    if not plausible(torch.from_numpy(placed)[None], (size, size)).item():
        raise ValueError(
            f"{name}: its outline crosses or touches itself. Order its points along the disc's edge, or "
            "leave this disc out."
        )
    return Disc(
        patient=source.patient,
        level=level,
        image=cut(source.image, turn @ origin, step * turn, size, name),
        contour=placed.astype(np.float32),
        pixel_mm=source.pixel_mm * step,
        offset=source.offset,
    )


def _along(contour: Array) -> Array:
    """The axes of a disc, `(2, 2)`, a column each: from its left arc's middle to its right one's, and across.

    Both are of length one, in the slice's coordinates; the second points down.
    """
    left, right = (
        contour[:POINTS_PER_ARC].mean(axis=0),
        contour[2 * POINTS_PER_ARC : -POINTS_PER_ARC].mean(axis=0),
    )
    x, y = (right - left) / np.linalg.norm(right - left)
    return np.array([[x, -y], [y, x]])


def cut(
    image: NDArray[np.floating[Any]], origin: Array, steps: Array, size: int, name: str
) -> NDArray[np.float32]:
    """Resample a square of an image, and normalise it to [0, 1] by its own minimum and maximum.

    Intensities are interpolated linearly, after a Gaussian against aliasing where the image shrinks; beyond
    the image's edge the edge is repeated.

    Args:
        image: `(H, W)` intensities.
        origin: Where the centre of the result's top-left pixel lies in the image, (x, y) in pixels.
        steps: `(2, 2)`: the columns are the steps in the image, (x, y) in pixels, from one column of the
            result to the next, and from one row to the next; both are of one length.
        size: Side of the result in pixels.
        name: The disc, for messages.

    Returns:
        `(size, size)` float32 in [0, 1].

    Raises:
        ValueError: If the square has one intensity only, or some that are not finite.
    """
    image = image.astype(np.float32)
    step = float(np.linalg.norm(steps[:, 0]))
    if step > 1.0:
        image = ndimage.gaussian_filter(image, (step - 1.0) / 2, mode="nearest")
    image = ndimage.affine_transform(
        image, steps[::-1, ::-1], origin[::-1], (size, size), order=1, mode="nearest"
    )
    low, high = float(image.min()), float(image.max())
    if not low < high:
        raise ValueError(
            f"{name}: every pixel of the crop is {low}, or some are not finite; "
            "expected an image with contrast. Look at the slice, or leave this disc out."
        )
    return np.asarray(np.clip((image - low) / (high - low), 0.0, 1.0), dtype=np.float32)


def cropped(source: Slice, size: int = 128, *, upright: bool = True) -> tuple[list[Disc], dict[str, str]]:
    """Crop every disc of a slice; a disc that cannot be served is refused, and the others are kept.

    Returns:
        The discs, in the order of `LEVELS` and then of the slice; and for each refused disc, those that the
        slice was read without among them, the reason by name of level.
    """
    known = [level for level in LEVELS if level in source.outlines]
    discs, refused = [], dict(source.refused)
    for level in (*known, *(level for level in source.outlines if level not in LEVELS)):
        try:
            discs.append(crop(source, level, size, upright=upright))
        except ValueError as error:
            refused[level] = str(error)
    return discs, refused


def crops(slices: Iterable[Slice], size: int = 128, *, upright: bool = True) -> Discs:
    """Crop every disc of every slice, patient by patient, see `crop`; the reason of each refusal is logged.

    Raises:
        ValueError: If no disc is left.
    """
    discs = []
    for one in slices:
        found, refused = cropped(one, size, upright=upright)
        discs += found
        for reason in refused.values():
            _log.warning("refused: %s", reason)
    return Discs.of(discs)
