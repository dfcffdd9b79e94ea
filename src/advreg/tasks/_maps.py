"""Task for heads of dense maps: depth and flow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias, get_args

from torch import Tensor

from advreg._core.checks import check_word
from advreg._core.maps import one_layout
from advreg.metrics import abs_rel, delta, end_point_error, rmse, sq_rel
from advreg.objectives import J_IND_reg, SharpenedDelta, absolute_error
from advreg.rules import Adaptive, Shrinking
from advreg.tasks._given import Given, Valid, check_given
from advreg.tasks._task import PLAIN, Member, Task, smooth_members

MapMetric: TypeAlias = Literal["abs_rel", "sq_rel", "delta", "rmse", "end_point_error"]
"""How a dense map is judged: depth by ratios or thresholds, any map by its root mean square, flow."""


def maps(metric: MapMetric = "abs_rel", *, threshold: float = 1.25, valid: Valid | None = None) -> Task:
    """A head of dense maps, depth or flow, judged pixel by pixel.

    - "abs_rel", "sq_rel": relative errors of depth, higher is worse.
    - "delta": the share of pixels whose depth is within a ratio, lower is worse, 0 the worst.
    - "rmse": root mean square error of any map, higher is worse.
    - "end_point_error": of flow, `(B, 2, H, W)`, higher is worse.

    Depth is `(B, H, W)` or `(B, 1, H, W)`, in either layout on either side; nothing else is broadcast. The
    target is such a map, or a mapping with it as "target" and, bool, "valid". Unless that or `valid` says
    what counts, the first three leave out pixels whose target is 0, and the others nothing.

    Args:
        metric: One of the above, each a function of `advreg.metrics`.
        threshold: Of "delta", the ratio.
        valid: From the target to which pixels count, bool: `lambda target: target > 0`, or `torch.isfinite`.

    Raises:
        ValueError: Another metric; a threshold of 1 or less.
        TypeError: A `valid` that is no function.

    Example:
        >>> from advreg.tasks import maps
        >>> maps().worse, maps("delta").worse, maps("end_point_error").worst
        ('higher', 'lower', inf)
    """
    check_word("metric", metric, get_args(MapMetric), ", as a word: maps('rmse')")
    check_given(valid=valid)
    shrinking = Shrinking()
    if metric == "delta":
        sharp = SharpenedDelta(threshold)
        given, relative = Given(sharp, valid), Given(abs_rel, valid)
        return Task(
            Given(partial(delta, threshold=threshold), valid),
            "lower",
            (
                Member("sharpened delta, shrinking radius", given, schedule=shrinking),
                Member("APGD, sharpened delta, shrinking radius", given, Adaptive(), shrinking),
                Member("sharpened delta", given),
                Member("relative error", relative),
            ),
            worst=0.0,
        )
    own = {"abs_rel": abs_rel, "sq_rel": sq_rel, "rmse": rmse, "end_point_error": end_point_error}[metric]
    error = Given(own, valid)
    depth = metric in ("abs_rel", "sq_rel")
    squares = Given(sq_rel if depth else _Aligned(J_IND_reg), valid)
    others = () if metric == "sq_rel" else (Member("squares, shrinking radius", squares, PLAIN, shrinking),)
    absolute = Given(abs_rel if depth else _Aligned(absolute_error), valid)
    if metric != "abs_rel":
        others = (*others, Member("absolute differences", absolute))
    return Task(error, "higher", (*smooth_members(error, metric.replace("_", " ")), *others))


@dataclass(frozen=True)
class _Aligned:
    """A function of maps of the same shape, of maps with and without the one channel."""

    function: Callable[..., Tensor]

    def __call__(self, output: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
        return self.function(*one_layout(output, target, valid))
