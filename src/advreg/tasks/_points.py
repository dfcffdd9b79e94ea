"""Tasks for heads of points: as coordinates, and as heat maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from advreg._core.heatmaps import check_stride
from advreg.metrics import heatmap_error, point_error
from advreg.objectives import (
    J_IND_reg,
    SharpenedHeatmap,
    absolute_error,
    heatmap_cross_entropy,
    second_peak,
)
from advreg.rules import Adaptive, Shrinking
from advreg.tasks._given import Given, Valid, check_given
from advreg.tasks._task import PLAIN, Member, Task, smooth_members

_MOST = 4  # coordinates of a point: what has more is a map, or has its points last


def points(
    *,
    valid: Valid | None = None,
    weights: Tensor | None = None,
    normalise: Callable[[Any], Tensor] | None = None,
) -> Task:
    """A head of points, `(B, K, D)`: `point_error`, higher is worse, without an end.

    The target is the points, or a mapping with them as "points", and "visible", bool or COCO's 0, 1 and 2,
    and "weights", each `(B, K)`. Points that are not visible may be NaN; they count for nothing.

    Args:
        valid: From the target to which points are there, bool `(B, K)`, in place of "visible":
            `lambda target: target.isfinite().all(-1)`.
        weights: What each of the points weighs, `(K,)`, in all examples; those in the target go first.
        normalise: From the target to the size that each example's error is divided by, `(B,)`: the distance
            of the eyes, the length of the head, `lambda target: target["size"]`.

    Raises:
        TypeError: A `valid` or `normalise` that is no function.

    Example:
        >>> import torch
        >>> from advreg.tasks import points
        >>> target = {"points": torch.tensor([[[0.0, 0.0], [torch.nan, 0.0]]]),
        ...           "visible": torch.tensor([[2, 0]])}
        >>> points().metric(torch.tensor([[[3.0, 4.0], [9.0, 9.0]]]), target)
        tensor([5.])
    """
    check_given(valid=valid, normalise=normalise)
    given = partial(Given, valid=valid, entry="points", there="visible", weights=weights)
    error = given(_Points(point_error))
    return Task(
        given(_Points(point_error), normalise=normalise),
        "higher",
        (
            *smooth_members(error, "distance"),
            Member("absolute differences", given(_Points(_weighted_absolute))),
            Member("squares, shrinking radius", given(_Points(_weighted_squares)), PLAIN, Shrinking()),
        ),
    )


def heatmaps(
    *,
    stride: float = 1.0,
    valid: Valid | None = None,
    weights: Tensor | None = None,
    normalise: Callable[[Any], Tensor] | None = None,
) -> Task:
    """A head of heat maps, `(B, K, H, W)`, judged by where each is largest: `heatmap_error`, higher is worse.

    The target is points (x, y), `(B, K, 2)`, in pixels of the image; or heat maps shaped like the output; or
    a mapping with either as "points", and "visible" and "weights", each `(B, K)`. Maps may be logits,
    probabilities or any other scores.

    Args:
        stride: Pixels of the image for each cell; 1 for points and distances in cells.
        valid: As for `points`; of heat maps `lambda target: target.amax((2, 3)) > 0`.
        weights: As for `points`.
        normalise: As for `points`; of a mapping, `lambda target: target["size"]`.

    Raises:
        TypeError: A `valid` or `normalise` that is no function.
        ValueError: A stride that is not above zero.

    Example:
        >>> import torch
        >>> from advreg.tasks import heatmaps
        >>> maps = torch.zeros(1, 1, 4, 5)
        >>> maps[0, 0, 1, 3] = 1.0
        >>> heatmaps(stride=2).metric(maps, torch.tensor([[[0.0, 2.0]]]))
        tensor([6.])
    """
    check_given(valid=valid, normalise=normalise)
    check_stride(stride)
    given = partial(Given, valid=valid, entry="points", there="visible", weights=weights)
    expected = given(SharpenedHeatmap(stride=stride))
    shrinking = Shrinking()
    return Task(
        given(partial(heatmap_error, stride=stride), normalise=normalise),
        "higher",
        (
            Member("APGD, expected distance, shrinking radius", expected, Adaptive(), shrinking),
            Member("expected distance, shrinking radius", expected, schedule=shrinking),
            Member("second peak", given(partial(second_peak, stride=stride))),
            Member("soft-arg-max", given(SharpenedHeatmap(stride=stride, soft_argmax=True))),
            Member("expected distance", expected),
            Member("cross-entropy", given(partial(heatmap_cross_entropy, stride=stride))),
        ),
    )


@dataclass(frozen=True)
class _Points:
    """A function of points, which refuses maps that look like points of many coordinates."""

    function: Callable[..., Tensor]

    def __call__(self, output: Tensor, target: Tensor, **options: Tensor) -> Tensor:
        if isinstance(output, Tensor) and output.ndim == 3 and output.shape[2] > _MOST:
            raise ValueError(
                f"points must be (B, K, D), of {_MOST} coordinates each or fewer; got {tuple(output.shape)}: "
                "for maps, such as depth, use maps(), for coordinates before points transpose output and "
                "target, output.transpose(1, 2), for other numbers values()"
            )
        return self.function(output, target, **options)


def _weighted_absolute(
    output: Tensor, target: Tensor, valid: Tensor | None = None, weights: Tensor | None = None
) -> Tensor:
    """`absolute_error` of coordinates times the weight of their point."""
    return absolute_error(*_scaled(output, target, weights), valid)


def _weighted_squares(
    output: Tensor, target: Tensor, valid: Tensor | None = None, weights: Tensor | None = None
) -> Tensor:
    """`J_IND_reg` with each point's squared distance times its weight."""
    return J_IND_reg(*_scaled(output, target, None if weights is None else weights.sqrt()), valid)


def _scaled(output: Tensor, target: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    if weights is None:
        return output, target
    each = weights.to(output)[..., None]
    return each * output, each * target
