"""Task for mask heads that are judged by the distance of surfaces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

from torch import Tensor

from advreg._core.checks import check_word
from advreg._core.spacing import Spacing, split_spacing
from advreg._core.types import PerExample
from advreg.metrics import Absent, Activation, average_surface_distance, hausdorff, surface_dice
from advreg.objectives import at, boundary, distance_cross_entropy, far_false_positives
from advreg.rules import Shrinking
from advreg.tasks._masks import masks
from advreg.tasks._task import Member, Task

SurfaceMetric = Literal["hausdorff", "average_surface_distance", "surface_dice"]
"""A metric of surfaces, by the name that it has in `advreg.metrics`."""


def surfaces(
    metric: SurfaceMetric = "hausdorff",
    *,
    percentile: float = 95.0,
    tolerance: float | Sequence[float] | None = None,
    spacing: Spacing = 1.0,
    activation: Activation = "sigmoid",
    absent: Absent | None = None,
    include_background: bool = True,
) -> Task:
    """A head of masks, from logits, judged by surface distances: HD95 by default, higher is worse.

    The members of `masks` empty or tear the mask; others place false positives far from the truth.
    Targets are masks, or `{"mask": mask, "spacing": spacing}` where each image has a spacing of its own. A
    mask that is emptied is the worst: infinite, or 0 for `surface_dice`.

    Args:
        metric: "hausdorff", "average_surface_distance", or "surface_dice", of which lower is worse.
        percentile: Of "hausdorff".
        tolerance: Of "surface_dice", which needs it.
        spacing: Size of a pixel, where the target does not bring it.
        activation: As for `masks`.
        absent: As for `masks`.
        include_background: As for `advreg.metrics.hausdorff`.

    Raises:
        ValueError: Another metric or activation; "surface_dice" without a tolerance, another metric with one.

    Example:
        >>> from advreg.tasks import surfaces
        >>> surfaces(spacing=(3.0, 0.5, 0.5)).worse, surfaces("surface_dice", tolerance=2.0).worst
        ('higher', 0.0)
    """
    check_word("metric", metric, get_args(SurfaceMetric))
    if (metric == "surface_dice") != (tolerance is not None):
        raise ValueError(
            f"tolerance belongs to 'surface_dice', and it needs one; got {tolerance} with {metric!r}: write "
            "surfaces('surface_dice', tolerance=2.0)"
        )
    distance: dict[str, Any] = {"activation": activation, "spacing": spacing}
    options = {**distance, "absent": absent, "include_background": include_background}
    own: dict[str, Any] = {
        "hausdorff": {"percentile": percentile},
        "average_surface_distance": {},
        "surface_dice": {"tolerance": tolerance},
    }
    functions: dict[str, Callable[..., Tensor]] = {
        "hausdorff": hausdorff,
        "average_surface_distance": average_surface_distance,
        "surface_dice": surface_dice,
    }
    judge = partial(functions[metric], **own[metric], **options)
    overlap = [
        replace(member, objective=_OfMask(member.objective))
        for member in masks(activation=activation, absent=absent).members
    ]
    far, shrinking = partial(far_false_positives, **distance), Shrinking()
    weighed, border = partial(distance_cross_entropy, **distance), partial(boundary, **distance)
    members = (
        *overlap[:2],
        Member("cross-entropy by distance, shrinking radius", weighed, schedule=shrinking),
        Member("far false positives, shrinking radius", far, schedule=shrinking),
        Member("boundary loss, shrinking radius", border, schedule=shrinking),
        *overlap[2:],
    )
    if metric == "surface_dice":
        return Task(judge, "lower", members, worst=0.0)
    return Task(judge, "higher", members)


@dataclass(frozen=True)
class _OfMask:
    """An objective of masks, on targets that may bring their spacing."""

    function: PerExample

    def __call__(self, output: Tensor, target: Any) -> Tensor:
        return self.function(output, split_spacing(target)[0])

    def at(self, share: float) -> _OfMask:
        return replace(self, function=at(self.function, share))
