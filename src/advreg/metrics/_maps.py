"""Errors of dense maps: depth, `(B, H, W)` or `(B, 1, H, W)`, and flow, `(B, 2, H, W)`.

The two layouts of a map with one channel are compared as the same map; nothing else is broadcast.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from advreg._core.maps import check_flow, depths, one_layout
from advreg._core.tensors import rows, wide
from advreg._core.valid import difference, mean_of_valid


def abs_rel(output: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Absolute relative error of depth: mean of `|o - t| / t` over the pixels that count.

    Args:
        output: `(B, H, W)` or `(B, 1, H, W)`, or any other number of dimensions.
        target: The same map, in either layout; positive, 0 where depth is missing.
        valid: Which pixels count, bool, in either layout; by default those at which the target is above 0.
            It must be cut with the batch, so take it from the target.

    Returns:
        `(B,)`, float32 at least, 0 for an example without a pixel that counts; NaN where the output is NaN
        in one that does.

    Raises:
        TypeError: Something else than tensors; a `valid` that is not bool.
        ValueError: Shapes that differ otherwise; a target that is negative, NaN or infinite, or 0 where it is
            said to be valid.

    Example:
        >>> import torch
        >>> from advreg.metrics import abs_rel
        >>> abs_rel(torch.tensor([[[3.0, 9.0]]]), torch.tensor([[[2.0, 0.0]]]))
        tensor([0.5000])

    Source:
        Eigen, Puhrsch and Fergus, Depth map prediction, arXiv:1406.2283, section 4.
    """
    output, target, there = depths(output, target, valid)
    d = difference(output, target, there).abs()
    return mean_of_valid(d / torch.where(there, target, 1), there)


def sq_rel(output: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Squared relative error of depth: mean of `(o - t)^2 / t` over the pixels that count.

    Arguments, result and errors are those of `abs_rel`.

    Example:
        >>> import torch
        >>> from advreg.metrics import sq_rel
        >>> sq_rel(torch.tensor([[[4.0, 9.0]]]), torch.tensor([[[2.0, 0.0]]]))
        tensor([2.])

    Source:
        Eigen, Puhrsch and Fergus, Depth map prediction, arXiv:1406.2283, section 4.
    """
    output, target, there = depths(output, target, valid)
    d = difference(output, target, there)
    return mean_of_valid(d * d / torch.where(there, target, 1), there)


def delta(output: Tensor, target: Tensor, valid: Tensor | None = None, *, threshold: float = 1.25) -> Tensor:
    """Threshold accuracy of depth: the share of pixels with `max(o / t, t / o) < threshold`.

    Higher is better. An output of 0 or less is beyond the threshold.

    Args:
        output: As for `abs_rel`.
        target: As for `abs_rel`.
        valid: As for `abs_rel`.
        threshold: Above 1; the literature's three are 1.25, 1.25^2 and 1.25^3.

    Returns:
        `(B,)` in [0, 1], float32 at least, 1 for an example without a pixel that counts; NaN where an output
        that counts is NaN.

    Raises:
        TypeError: As for `abs_rel`.
        ValueError: As for `abs_rel`; a threshold of 1 or less.

    Example:
        >>> import torch
        >>> from advreg.metrics import delta
        >>> delta(torch.tensor([[[1.2, 1.3, 9.0]]]), torch.tensor([[[1.0, 1.0, 0.0]]]))
        tensor([0.5000])

    Source:
        Eigen, Puhrsch and Fergus, Depth map prediction, arXiv:1406.2283, section 4.
    """
    if not 1 < threshold < math.inf:
        raise ValueError(f"threshold must be above 1 and finite, a ratio such as 1.25; got {threshold}")
    output, target, there = depths(output, target, valid)
    guess = torch.where(there, wide(output), 1)
    truth = torch.where(there, target, 1).to(guess.dtype)
    near = (guess > 0) & (torch.maximum(guess / truth, truth / guess) < threshold)
    wrong = mean_of_valid((there & ~near).to(guess.dtype), there)
    return torch.where(rows(guess).isnan().any(1), torch.nan, 1 - wrong)


def rmse(output: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Root mean square error of a map, `sqrt(mean of (o - t)^2)` of each example's pixels, in its units.

    Args:
        output: `(B, H, W)`, `(B, C, H, W)`, or any other number of dimensions from three.
        target: The same map; where the one has a channel and the other none, they are the same layout.
        valid: Which pixels count, bool, shaped like the output, with one channel or with none; by default
            all of them: of depth with gaps pass `valid=target > 0`.

    Returns:
        `(B,)`, float32 at least, 0 for an example without a pixel that counts. Its gradient is 0 where output
        and target agree.

    Raises:
        TypeError: Something else than tensors; a `valid` that is not bool.
        ValueError: Shapes that differ otherwise; NaN or infinity in the target where it counts.

    Example:
        >>> import torch
        >>> from advreg.metrics import rmse
        >>> rmse(torch.tensor([[[3.0, 4.0, 0.0, 0.0]]]), torch.zeros(1, 1, 1, 4))
        tensor([2.5000])

    Source:
        Eigen, Puhrsch and Fergus, Depth map prediction, arXiv:1406.2283, section 4, over each image.
    """
    output, target, valid = one_layout(output, target, valid)
    d = rows(difference(output, target, valid))
    count = torch.full_like(d[:, 0], d.shape[1]) if valid is None else rows(valid).sum(1).clamp(min=1).to(d)
    norm: Tensor = torch.linalg.vector_norm(d, dim=1)
    return norm / count.sqrt()


def end_point_error(output: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """End-point error of optical flow: mean over the pixels of `||o - t||_2`, in pixels.

    Args:
        output: `(B, 2, H, W)`; in space `(B, 3, D, H, W)`.
        target: Shaped like `output`.
        valid: Which pixels count, bool, `(B, H, W)` or `(B, 1, H, W)`; by default all.

    Returns:
        `(B,)`, float32 at least, 0 for an example without a pixel that counts. Its gradient is 0 where output
        and target agree.

    Raises:
        TypeError: Something else than tensors; a `valid` that is not bool.
        ValueError: Shapes that differ, or are no flow, channels last among them; NaN or infinity in the
            target where it counts.

    Example:
        >>> import torch
        >>> from advreg.metrics import end_point_error
        >>> flow = torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1).expand(1, 2, 4, 5)
        >>> end_point_error(flow, torch.zeros(1, 2, 4, 5))
        tensor([5.])

    Source:
        Baker et al., A database and evaluation methodology for optical flow, IJCV 92, 2011.
    """
    output, target, valid = one_layout(output, target, valid)
    check_flow(output)
    d: Tensor = torch.linalg.vector_norm(difference(output, target, valid), dim=1)
    return mean_of_valid(d, None if valid is None else valid.all(1))
