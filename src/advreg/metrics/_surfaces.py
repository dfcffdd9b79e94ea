"""Distances between the surfaces of masks, `(B, C, *spatial)`, batched and on any device."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from advreg._core.spacing import Spacing, pixel_sizes, split_spacing
from advreg._core.tensors import per_example
from advreg.metrics._channels import Absent, Activation, over_channels, present
from advreg.metrics._masks import decide, mask_like


def hausdorff(
    output: Tensor,
    target: Any,
    *,
    percentile: float = 100.0,
    spacing: Spacing = 1.0,
    activation: Activation = "sigmoid",
    absent: Absent | None = None,
    include_background: bool = True,
) -> Tensor:
    """Hausdorff distance of the decided mask (HD; HD95 with `percentile=95`): mean over channels.

    `max(P(d(a, B) for a in A), P(d(b, A) for b in B))`, where A and B are the surfaces of prediction and
    truth, d the distance to the nearest point, and P the maximum or a percentile, which is interpolated
    linearly.

    A surface is the mask's pixels that have a neighbour outside it along an axis, or lie at the image's
    border. Two empty masks agree, 0; where one alone is empty the distance is infinite, the worst.

    Args:
        output: `(B, C, *spatial)`: logits, or probabilities with `activation="none"`; decided as by `dice`.
            NaN cannot be decided: the example scores NaN.
        target: The mask as for `dice`; or a mapping `{"mask": mask, "spacing": spacing}`, with one row for
            each example, `(B, axes)`, for images whose pixels differ in size.
        percentile: Of the distances in each direction, in (0, 100]; 100 is the maximum.
        spacing: Size of a pixel, one number, or one for each axis: (slice, row, column) for a volume.
            Distances have its unit.
        activation: How to read `output`, as for `dice`.
        absent: What channels do that the truth lacks, as for `dice`.
        include_background: False leaves channel 0 out, the background of exclusive classes.

    Returns:
        `(B,)`, zero or more, infinite where nothing is left of a structure; float32 at least.

    Raises:
        ValueError: As for `dice`; a percentile out of range; spacing that is not positive, or not one number
            for each axis.
        TypeError: A target that is neither a tensor nor a mapping of a mask and its spacing.

    Example:
        >>> import torch
        >>> from advreg.metrics import hausdorff
        >>> truth, logits = torch.zeros(1, 1, 8, 8), torch.full((1, 1, 8, 8), -1.0)
        >>> truth[..., 2:5, 2:5] = 1
        >>> logits[..., 2:5, 2:5] = 1
        >>> logits[..., 2, 7] = 1  # a false pixel, three columns away
        >>> hausdorff(logits, truth), hausdorff(logits, truth, spacing=(1.0, 0.5))
        (tensor([3.]), tensor([1.5000]))

    Source:
        Huttenlocher et al., IEEE TPAMI 15, 1993. Surfaces and percentiles as MONAI's HausdorffDistanceMetric
        has them, which says NaN of two empty masks.
    """
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile must lie in (0, 100]; got {percentile}: 95 for HD95, 100 for HD")

    def farthest(there: Side, back: Side) -> Tensor:
        ways = (_percentile(*there, percentile), _percentile(*back, percentile))
        return torch.maximum(*ways)

    pair = _read(output, target, spacing, activation, include_background)
    return _measured(pair, farthest, math.inf, 0.0, activation, absent)


def average_surface_distance(
    output: Tensor,
    target: Any,
    *,
    spacing: Spacing = 1.0,
    activation: Activation = "sigmoid",
    absent: Absent | None = None,
    include_background: bool = True,
) -> Tensor:
    """Average symmetric surface distance of the decided mask (ASSD): mean over channels.

    `(sum of d(a, B) over A + sum of d(b, A) over B) / (|A| + |B|)`, with surfaces A and B as for `hausdorff`.
    Two empty masks agree, 0; where one alone is empty the distance is infinite.

    Args:
        output: As for `hausdorff`.
        target: As for `hausdorff`.
        spacing: As for `hausdorff`.
        activation: As for `dice`.
        absent: As for `dice`.
        include_background: As for `hausdorff`.

    Returns:
        `(B,)`, zero or more, in the unit of the spacing.

    Raises:
        ValueError: As for `hausdorff`.
        TypeError: As for `hausdorff`.

    Example:
        >>> import torch
        >>> from advreg.metrics import average_surface_distance
        >>> truth, logits = torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), -1.0)
        >>> truth[..., 1], logits[..., 3] = 1, 1  # a line, found two columns beside
        >>> average_surface_distance(logits, truth)
        tensor([2.])

    Source:
        Heimann et al., IEEE TMI 28, 2009, section III.C; MONAI's SurfaceDistanceMetric with
        `symmetric=True`.
    """

    def average(there: Side, back: Side) -> Tensor:
        total = _sum(*there) + _sum(*back)
        return total / (_count(there.edge) + _count(back.edge)).clamp(min=1)

    pair = _read(output, target, spacing, activation, include_background)
    return _measured(pair, average, math.inf, 0.0, activation, absent)


def surface_dice(
    output: Tensor,
    target: Any,
    *,
    tolerance: float | Sequence[float],
    spacing: Spacing = 1.0,
    activation: Activation = "sigmoid",
    absent: Absent | None = None,
    include_background: bool = True,
) -> Tensor:
    """Normalised surface Dice of the decided mask (NSD) at a tolerance: mean over channels.

    `(|{a : d(a, B) <= tolerance}| + |{b : d(b, A) <= tolerance}|) / (|A| + |B|)`, with surfaces A and B as
    for `hausdorff`: the share of both surfaces that lies within the tolerance of the other. Two empty masks
    agree, 1; where one alone is empty it is 0.

    Args:
        output: As for `hausdorff`.
        target: As for `hausdorff`.
        tolerance: The distance that is no error, zero or more, in the unit of the spacing; one number, or one
            for each channel that is left.
        spacing: As for `hausdorff`.
        activation: As for `dice`.
        absent: As for `dice`.
        include_background: As for `hausdorff`.

    Returns:
        `(B,)` in [0, 1].

    Raises:
        ValueError: As for `hausdorff`; a tolerance below zero, not finite, or not one for each channel.
        TypeError: As for `hausdorff`.

    Example:
        >>> import torch
        >>> from advreg.metrics import surface_dice
        >>> truth, logits = torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), -1.0)
        >>> truth[..., 1], logits[..., 3] = 1, 1
        >>> surface_dice(logits, truth, tolerance=1.0), surface_dice(logits, truth, tolerance=2.0)
        (tensor([0.]), tensor([1.]))

    Source:
        Nikolov et al., arXiv:1809.04430. A surface's pixels count alike, as in MONAI's SurfaceDiceMetric with
        `use_subvoxels=False`; DeepMind's surface-distance weighs them by their area.
    """
    pair = _read(output, target, spacing, activation, include_background)
    limit = _tolerances(tolerance, pair.truth)

    def share(there: Side, back: Side) -> Tensor:
        near = sum(_count(side.edge & (side.distance <= limit)) for side in (there, back))
        return near / (_count(there.edge) + _count(back.edge)).clamp(min=1)

    return _measured(pair, share, 0.0, 1.0, activation, absent)


def distance_map(mask: Tensor, spacing: Spacing = 1.0) -> Tensor:
    """Euclidean distance of each pixel to the nearest one inside a mask: 0 inside, infinite without any.

    Exact, by the minimum `min_j f(j) + (s (i - j))^2` along one axis after another.

    Args:
        mask: Bool `(B, C, *spatial)`.
        spacing: As for `hausdorff`; or one row for each example, `(B, axes)`.

    Returns:
        `(B, C, *spatial)`, float32; float64 where the spacing is.

    Raises:
        ValueError: A mask that is not bool, `(B, C, *spatial)`; spacing as for `hausdorff`.

    Example:
        >>> import torch
        >>> from advreg.metrics import distance_map
        >>> distance_map(torch.tensor([[[[True, False, False], [False, False, False]]]]))
        tensor([[[[0.0000, 1.0000, 2.0000],
                  [1.0000, 1.4142, 2.2361]]]])

    Source:
        Felzenszwalb and Huttenlocher, Distance transforms of sampled functions, 2012.
    """
    if mask.dtype != torch.bool or mask.ndim < 3:
        raise ValueError(
            f"a distance map needs a bool mask (B, C, *spatial); got {mask.dtype} {tuple(mask.shape)}: pass "
            "mask > 0.5"
        )
    sizes = pixel_sizes(spacing, len(mask), mask.ndim - 2, mask.device, rows=True)
    return _squares(mask, sizes).sqrt()


class Side(NamedTuple):
    """One surface's pixels, `edge`, and their distance to the other, `(B, C, *spatial)`."""

    edge: Tensor
    distance: Tensor


class Pair(NamedTuple):
    """Decided and true masks, which channels are unknown, `(B, C)`, the size of a pixel, `(B, axes)`."""

    decided: Tensor
    truth: Tensor
    unknown: Tensor
    sizes: Tensor


def _read(output: Tensor, target: Any, spacing: Spacing, activation: Activation, background: bool) -> Pair:
    mask, found = split_spacing(target, spacing)
    truth, _ = mask_like(output, mask, activation)
    sizes = pixel_sizes(found, len(output), output.ndim - 2, output.device, rows=isinstance(target, Mapping))
    decided, truth, unknown = decide(output, activation), truth > 0.5, output.isnan().flatten(2).any(2)
    if not background:
        if output.shape[1] < 2:
            raise ValueError(
                "include_background=False leaves channel 0 out and needs two channels or more; got 1"
            )
        decided, truth, unknown = decided[:, 1:], truth[:, 1:], unknown[:, 1:]
    return Pair(decided, truth, unknown, sizes)


def _measured(
    pair: Pair,
    measure: Callable[[Side, Side], Tensor],
    apart: float,
    agreed: float,
    activation: Activation,
    absent: Absent | None,
) -> Tensor:
    """The mean over channels of a measure of both surfaces; `apart` where one mask alone is empty."""
    decided, truth = _cropped(_edges(pair.decided), _edges(pair.truth))
    there = Side(decided, _squares(truth, pair.sizes, decided).sqrt())
    back = Side(truth, _squares(decided, pair.sizes, truth).sqrt())
    found, true = present(pair.decided), present(pair.truth)
    values = torch.where(found & true, measure(there, back), apart)
    values = torch.where(found | true, values, agreed)
    values = torch.where(pair.unknown, torch.nan, values)
    return over_channels(values, true, activation, absent)


def _edges(mask: Tensor) -> Tensor:
    """The pixels that an erosion by the neighbours along each axis takes; beyond the border is outside."""
    inner = mask
    for axis in range(2, mask.ndim):
        outside = torch.zeros_like(mask.narrow(axis, 0, 1))
        size = mask.shape[axis] - 1
        before = torch.cat([outside, mask.narrow(axis, 0, size)], axis)
        after = torch.cat([mask.narrow(axis, 1, size), outside], axis)
        inner = inner & before & after
    return mask & ~inner


def _cropped(*edges: Tensor) -> tuple[Tensor, ...]:
    """The box that holds all surfaces of the batch: distances between them need no more."""
    anywhere = torch.stack([edge.flatten(0, 1).any(0) for edge in edges]).any(0)
    cut = []
    for axis in range(anywhere.ndim):
        others = [other for other in range(anywhere.ndim) if other != axis]
        places = (anywhere.any(others) if others else anywhere).nonzero().flatten()
        cut.append(slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 1))
    return tuple(edge[(slice(None), slice(None), *cut)] for edge in edges)


def _squares(mask: Tensor, sizes: Tensor, wanted: Tensor | None = None) -> Tensor:
    """Squared distances to a mask's nearest pixel, `(B, C, *spatial)`; 0 elsewhere than wanted, if said."""
    first, *others, last = (0, *range(1, mask.ndim - 3), mask.ndim - 3) if mask.ndim > 3 else (None, 0)
    # Along one axis by the nearest places before and after; the values of the others follow from it.
    place = torch.arange(mask.shape[-1], device=mask.device, dtype=sizes.dtype)
    before = torch.where(mask, place, -math.inf).cummax(-1).values
    after = torch.where(mask, -place, -math.inf).flip(-1).cummax(-1).values.flip(-1)
    squares = (per_example(sizes[:, last], mask) * torch.minimum(place - before, -after - place)).square()
    for axis in others:
        squares = _along(squares, sizes, axis)
    if first is None:
        return squares
    return _along(squares, sizes, first) if wanted is None else _along_at(squares, sizes, wanted)


def _along(squares: Tensor, sizes: Tensor, axis: int) -> Tensor:
    """`min_j f(j) + (s (i - j))^2` along a spatial axis."""
    lines, count = squares.movedim(axis + 2, -1), squares.shape[axis + 2]
    place = torch.arange(count, device=squares.device, dtype=sizes.dtype)
    way = (sizes[:, axis, None, None] * (place[:, None] - place)).square()[:, None]  # (B, 1, to, from)
    flat = lines.reshape(len(squares), -1, count)
    at_once = max(1, _ENTRIES // max(1, len(squares) * count**2))
    found = [(part.unsqueeze(2) + way).amin(-1) for part in torch.split(flat, at_once, 1)]
    return torch.cat(found, 1).reshape(lines.shape).movedim(-1, axis + 2)


def _along_at(squares: Tensor, sizes: Tensor, wanted: Tensor) -> Tensor:
    """The same along the first axis, at the pixels that are wanted: surfaces are few of an image's."""
    lines, count = squares.movedim(2, -1), squares.shape[2]
    place = torch.arange(count, device=squares.device, dtype=sizes.dtype)
    found = []
    for some in torch.split(wanted.nonzero(), max(1, _ENTRIES // max(1, count))):
        image, channel, to, *rest = some.unbind(1)
        way = (sizes[image, 0, None] * (to[:, None] - place)).square()
        found.append((lines[(image, channel, *rest)] + way).amin(1))
    return torch.zeros_like(squares).masked_scatter(wanted, torch.cat(found))


_ENTRIES = 1 << 22  # sums that are held at once


def _percentile(edge: Tensor, distance: Tensor, percentile: float) -> Tensor:
    """A percentile of the distances at a surface's pixels, `(B, C)`."""
    values = torch.where(edge, distance, -math.inf).flatten(2)
    if percentile == 100:
        return values.amax(2)
    count = _count(edge)
    # On the CPU, since some accelerators lack float64.
    place = (count.cpu().double() - 1).clamp(min=0) * (percentile / 100)
    low, part = place.floor().long(), place.frac().to(values.dtype)
    inside = torch.where(edge.flatten(2), values, math.inf).sort(2).values
    last = (count.cpu() - 1).clamp(min=0)
    first, second = (
        inside.gather(2, at.to(values.device).unsqueeze(2)).squeeze(2)
        for at in (low, torch.minimum(low + 1, last))
    )
    return torch.lerp(first, second, part.to(values.device))


def _sum(edge: Tensor, distance: Tensor) -> Tensor:
    return torch.where(edge, distance, 0).flatten(2).sum(2)


def _count(flags: Tensor) -> Tensor:
    return flags.flatten(2).sum(2)


def _tolerances(tolerance: float | Sequence[float], truth: Tensor) -> Tensor:
    """The tolerance of each channel, `(C, 1, ...)`, a little more: rounding must not decide."""
    limit = torch.as_tensor(tolerance, dtype=torch.float32, device=truth.device)
    channels = truth.shape[1]
    if limit.ndim > 1 or (limit.ndim == 1 and len(limit) != channels):
        raise ValueError(
            f"tolerance must be one number, or one for each of {channels} channels; got shape "
            f"{tuple(limit.shape)}"
        )
    if not bool((limit >= 0).all()) or not bool(limit.isfinite().all()):
        raise ValueError(f"tolerance must be zero or more and finite; got {tolerance}")
    return (limit * (1 + 1e-6)).expand(channels).reshape(channels, *[1] * (truth.ndim - 2))
