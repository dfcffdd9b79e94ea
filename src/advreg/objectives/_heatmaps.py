"""Surrogates of heat map heads, `(B, K, H, W)`: the expected distance, log odds, and the second peak.

Targets, `valid`, `weights` and `stride` are those of `advreg.metrics.heatmap_error`. Heat maps have no unit:
some are logits, others lie in [0, 1]. So the surrogates divide each map by how far its largest value is above
its mean, of which no gradient is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from advreg._core.checks import check_finite_target
from advreg._core.device import check_values
from advreg._core.heatmaps import cells, meant
from advreg._core.tensors import positive, wide
from advreg._core.valid import mean_of_valid, spread
from advreg.objectives._paths import between, check_path


@dataclass(frozen=True)
class SharpenedHeatmap:
    """Expected distance of a heat map's point: far-sighted at first, that of the arg-max in the end.

    Mean over the points of `sum of p(c) ||c - t||_2` over the cells c, p being the softmax of the map times a
    factor, `first (last / first)^(share / until)`, and `last` from `until` on. It tends to
    `advreg.metrics.heatmap_error`. With `soft_argmax` it is `||sum of p(c) c - t||_2`, the distance of the
    soft-arg-max, in which two far peaks on opposite sides cancel.

    Args:
        first: The factor at the first step, of maps whose largest value is 1 above their mean.
        last: The factor in the end.
        until: The share of the steps at which it is reached.
        stride: Pixels of the image for each cell.
        soft_argmax: The distance of the expected point in place of the expected distance.
        share: Steps made over all steps; an attack sets it, by `at`.

    Raises:
        ValueError: A path that leads nowhere.

    Example:
        >>> import torch
        >>> from advreg.objectives import SharpenedHeatmap
        >>> maps, target = torch.tensor([[[[0.0, 1.0, 0.0, 0.8]]]]), torch.tensor([[[1.0, 0.0]]])
        >>> [round(SharpenedHeatmap().at(share)(maps, target).item(), 2) for share in (0.0, 1.0)]
        [0.66, 0.0]

    Source:
        Sun et al., Integral human pose regression, arXiv:1711.08229, the soft-arg-max; the measurements
        behind it: `benchmarks/heads.py`.
    """

    first: float = 2.0
    last: float = 20.0
    until: float = 0.6
    stride: float = 1.0
    soft_argmax: bool = False
    share: float = 1.0

    def __post_init__(self) -> None:
        check_path(self.first, self.last, self.until)

    def at(self, share: float) -> SharpenedHeatmap:
        """The objective after this share of the steps."""
        return replace(self, share=share)

    def __call__(
        self, output: Tensor, target: Tensor, valid: Tensor | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """The value, `(B,)`, in pixels."""
        maps, true, apart = _read(output, target, valid, self.stride)
        p = (between(self.first, self.last, self.share / self.until) * maps).softmax(2)
        if self.soft_argmax:
            found: Tensor = torch.linalg.vector_norm(p @ cells(output, self.stride) - true, dim=2)
        else:
            found = (p * apart).sum(2)
        return mean_of_valid(_there(found, valid), valid, weights)


def heatmap_cross_entropy(
    output: Tensor,
    target: Tensor,
    valid: Tensor | None = None,
    weights: Tensor | None = None,
    *,
    stride: float = 1.0,
    radius: float = 1.5,
    factor: float = 5.0,
) -> Tensor:
    """Cross-entropy of a heat map's cells near the true point, mean over the points, `(B,)`, in nats.

    `-log of the sum of p over the cells that are near`, p being the softmax of the map times the factor.

    Args:
        output: `(B, K, H, W)`.
        target: As for `advreg.metrics.heatmap_error`.
        valid: As for `advreg.metrics.heatmap_error`.
        weights: As for `advreg.metrics.heatmap_error`.
        stride: Pixels of the image for each cell.
        radius: The cells that are near, in cells: those closer than this, and the nearest one.
        factor: On maps whose largest value is 1 above their mean.

    Returns:
        `(B,)`, zero or more, float32 at least.

    Raises:
        TypeError: As for `advreg.metrics.heatmap_error`.
        ValueError: As for `advreg.metrics.heatmap_error`; a radius that covers a map whole.

    Example:
        >>> import torch
        >>> from advreg.objectives import heatmap_cross_entropy
        >>> heatmap_cross_entropy(torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 2), radius=0.5)  # log(4)
        tensor([1.3863])

    Source:
        Goodfellow, Bengio and Courville, Deep learning, 2016, section 6.2.2, of cells as classes.
    """
    maps, _, apart = _read(output, target, valid, stride)
    near = _near(apart, radius * stride)
    inside, outside = ((factor * maps).masked_fill(where, -math.inf).logsumexp(2) for where in (~near, near))
    return mean_of_valid(_there(-logsigmoid(inside - outside), valid), valid, weights)


def second_peak(
    output: Tensor,
    target: Tensor,
    valid: Tensor | None = None,
    weights: Tensor | None = None,
    *,
    stride: float = 1.0,
    radius: float = 1.5,
    masked: bool = False,
) -> Tensor:
    """Margin of a heat map's second peak: its height far from the true point less that near it, `(B,)`.

    Mean over the points of `max over far cells - max over near cells`, of maps whose largest value is 1 above
    their mean; above 0 where the point is lost.

    Args:
        output: `(B, K, H, W)`.
        target: As for `advreg.metrics.heatmap_error`.
        valid: As for `advreg.metrics.heatmap_error`.
        weights: As for `advreg.metrics.heatmap_error`.
        stride: Pixels of the image for each cell.
        radius: The cells that are near, in cells: those closer than this, and the nearest one.
        masked: Whether points that are lost count as 0.

    Returns:
        `(B,)`, float32 at least.

    Raises:
        TypeError: As for `advreg.metrics.heatmap_error`.
        ValueError: As for `advreg.metrics.heatmap_error`; a radius that covers a map whole.

    Example:
        >>> import torch
        >>> from advreg.objectives import second_peak
        >>> second_peak(torch.tensor([[[[9.0, 0.0, 0.0, 3.0]]]]), torch.zeros(1, 1, 2))
        tensor([-1.])

    Source:
        Carlini and Wagner, arXiv:1608.04644, of cells as classes.
    """
    maps, _, apart = _read(output, target, valid, stride)
    near = _near(apart, radius * stride)
    inside, outside = (maps.masked_fill(where, -math.inf).amax(2) for where in (~near, near))
    margin = (outside - inside).clamp(max=0) if masked else outside - inside
    return mean_of_valid(_there(margin, valid), valid, weights)


def _read(
    output: Tensor, target: Tensor, valid: Tensor | None, stride: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Maps of height 1, `(B, K, cells)`, true points `(B, K, 2)`, and the cells' distances from these.

    Of points that are not valid all are 0.
    """
    true = meant(output, target, valid, stride)
    maps = wide(output).flatten(2)
    if valid is not None:
        there = spread(valid, true)
        true, maps = torch.where(there, true, 0), torch.where(there, maps, 0)
    check_finite_target(true)
    height = (maps.amax(2, keepdim=True) - maps.mean(2, keepdim=True)).detach()
    apart: Tensor = torch.linalg.vector_norm(cells(output, stride) - true[:, :, None], dim=3)
    return maps / positive(height), true, apart


def _near(apart: Tensor, radius: float) -> Tensor:
    near = (apart < radius) | (apart == apart.amin(2, keepdim=True))
    check_values(near, partial(_refuse_whole, near, radius))
    return near


def _refuse_whole(near: Tensor, radius: float) -> None:
    if bool(near.all(2).any()):
        raise ValueError(
            f"radius must leave cells of the map outside; got {radius} pixels, which covers a map of "
            f"{near.shape[2]} cells whole: pass a smaller radius"
        )


def _there(values: Tensor, valid: Tensor | None) -> Tensor:
    return values if valid is None else torch.where(spread(valid, values), values, 0)
