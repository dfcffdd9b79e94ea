"""Values of which a part is missing or astray: differences, distances and means over what is there."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from advreg._core.checks import check_finite_target, examples, same_shape
from advreg._core.device import check_values
from advreg._core.tensors import per_example, positive, rows, wide


def difference(output: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """`output - target`, `(B, ...)`, in float32 at least; 0 without a gradient where it is not valid.

    Raises:
        TypeError: Something else than tensors, or a `valid` that is not bool.
        ValueError: Shapes that differ; NaN or infinity in the target where it is valid.
    """
    same_shape(output, target)
    if valid is None:
        check_finite_target(target)
        return wide(output) - wide(target)
    there = spread(valid, output)
    target = torch.where(there, target, 0)
    check_finite_target(target)
    return torch.where(there, wide(output), 0) - wide(target)


def distances(output: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Euclidean distances of points, `(B, ..., D)` to `(B, ...)`, as `difference` has them."""
    d = difference(output, target, valid)
    if d.ndim < 3:
        refuse_points(d)
    found: Tensor = torch.linalg.vector_norm(d, dim=-1)
    return found


def refuse_points(output: Tensor) -> None:
    """Refuse a shape that is not `(B, K, D)`.

    Raises:
        ValueError: Always.
    """
    remedy = (
        "for x, y, x, y, ... unflatten output and target, output.unflatten(1, (-1, 2)); for values that are "
        "no points"
        if output.ndim < 3
        else "for several sets of points flatten output and target, output.flatten(1, -2); for maps, such as "
        "depth,"
    )
    raise ValueError(
        f"points must be (B, K, D), K points of D coordinates each; got {tuple(output.shape)}: {remedy} use "
        "J_IND_reg or absolute_error, as a task Task(absolute_error, 'higher'), or of advreg.tasks "
        "values() or maps()"
    )


def mean_of_valid(values: Tensor, valid: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
    """The mean over each example's values that are valid, `(B,)`; the others must be 0; 0 without any.

    With weights, of what counts, `sum of w v / sum of w`.
    """
    if valid is None and weights is None:
        return rows(values).mean(1)
    there = torch.ones_like(values[:, :1], dtype=torch.bool) if valid is None else spread(valid, values)
    if weights is None:
        count = rows(there.expand_as(values)).sum(1)
        return rows(values).sum(1) / count.clamp(min=1)
    share = torch.where(there, _weights(weights, values), 0).expand_as(values)
    return rows(share * values).sum(1) / positive(rows(share).sum(1))


def without_astray(contours: Tensor) -> tuple[Tensor, Tensor]:
    """Contours `(B, K, 2)` with zeros for those that are not finite, and which these are, `(B,)` bool."""
    astray = ~rows(contours).isfinite().all(1)
    return torch.where(per_example(astray, contours), 0, contours), astray


def spread(valid: Tensor, like: Tensor) -> Tensor:
    """`valid`, seen in as many dimensions as `like`.

    Raises:
        TypeError: Something else than bool.
        ValueError: Another shape than the first dimensions of `like`.
    """
    if not isinstance(valid, Tensor) or valid.dtype != torch.bool:
        came = valid.dtype if isinstance(valid, Tensor) else type(valid).__name__
        raise TypeError(f"valid must be a bool tensor, True where the target is there; got {came}")
    if valid.ndim == 0 or valid.shape != like.shape[: valid.ndim]:
        raise ValueError(
            f"valid must be shaped like the first dimensions of the output, (B, K) for points (B, K, D); got "
            f"{tuple(valid.shape)} for {tuple(like.shape)}"
        )
    return valid.reshape(valid.shape + (1,) * (like.ndim - valid.ndim))


def _weights(weights: Tensor, values: Tensor) -> Tensor:
    """Weights of values `(B, K)`, one for each, or `(K,)` for all examples."""
    shapes = (values.shape, values.shape[1:])
    if not isinstance(weights, Tensor) or weights.shape not in shapes:
        came = tuple(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
        raise ValueError(
            f"weights must be a tensor of one number for each point, {tuple(shapes[0])}, or "
            f"{tuple(shapes[1])} for all examples alike; got {came}"
        )
    check_values(weights, partial(_refuse_weights, weights))
    return weights.to(values)


def _refuse_weights(weights: Tensor) -> None:
    sick = ~(weights.isfinite() & (weights >= 0))
    if bool(sick.any()):
        where = f" for {examples(sick)}" if weights.ndim > 1 else ""
        raise ValueError(
            f"weights must be finite and zero or more; got others{where}: what is not there has weight 0 or "
            "is told by valid="
        )
