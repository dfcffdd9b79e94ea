"""Agreement of values and outputs up to rounding, and what rounding may show."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advreg._core.trees import children, tensors
from advreg._core.types import Output


def near(one: Any, other: Tensor, scale: Tensor, share: float) -> bool:
    """Whether values agree up to rounding, relative to themselves and, less, to the largest of the batch."""
    if not isinstance(one, Tensor) or one.shape != other.shape:
        return False
    a, b, whole = one.double(), other.double(), scale.double()
    finite = whole[whole.isfinite()].abs()
    largest = float(finite.max()) if finite.numel() else 0.0
    return bool(torch.isclose(a, b, rtol=share, atol=0.01 * share * largest, equal_nan=True).all())


def rounds(
    alone: Output, last: Output, copies: Callable[[], tuple[Output, Output]], tolerance: float
) -> bool:
    """Whether an output that differs alone and in its batch does so by the rounding of another batch size.

    Then it is the same among copies of its example, in their batch of the same size, whatever place it takes;
    and alone it differs by little on average. A network may compute in less precision than it shows, and
    rounding may turn single decisions over.
    """
    try:
        first, own = copies()
    except Exception:  # noqa: BLE001 - the interaction is told in any case
        return False
    return alike(own, last, tolerance) and alike(first, last, tolerance) and _close(alone, last)


def tolerance_of(output: Output) -> float:
    """What rounding may show of an output, relative to its largest entries: three root epsilons."""
    floating = [tensor.dtype for tensor in tensors(output) if tensor.is_floating_point()]
    # a network that returns float64 may compute in float32
    return 3 * math.sqrt(max(torch.finfo(dtype).eps for dtype in [torch.float32, *floating]))


def alike(one: Output, other: Output, share: float) -> bool:
    """Whether two outputs agree up to rounding, relative to their largest entries."""
    pairs = _compared(one, other)
    return pairs is not None and all(float((a - b).abs().max()) <= share * scale for a, b, scale in pairs)


def _close(one: Output, other: Output) -> bool:
    """Whether two outputs agree on average, to a twentieth of their size."""
    pairs = _compared(one, other)
    return pairs is not None and all(
        float((a - b).abs().mean()) <= 0.05 * float(b.abs().mean()) for a, b, _ in pairs
    )


def _compared(one: Output, other: Output) -> list[tuple[Tensor, Tensor, float]] | None:
    """The numbers of two outputs in pairs, and the largest of the second; None if they cannot be compared.

    Where both are infinite or NaN alike, they count as zero.
    """
    mine, theirs = _numbers(one), _numbers(other)
    if not mine or [tensor.shape for tensor in mine] != [tensor.shape for tensor in theirs]:
        return None
    pairs = []
    for a, b in zip(mine, theirs, strict=True):
        same = (a == b) | (a.isnan() & b.isnan())
        if not bool((same | (a.isfinite() & b.isfinite())).all()):
            return None
        if a.numel():
            left, right = (torch.where(b.isfinite(), each, 0.0) for each in (a, b))
            pairs.append((left, right, float(right.abs().max())))
    return pairs


def _numbers(tree: Any) -> list[Tensor]:
    """All that an output holds of numbers, tensors, arrays and plain ones, in float64."""
    if isinstance(tree, Tensor):
        return [(torch.view_as_real(tree.resolve_conj()) if tree.is_complex() else tree).detach().double()]
    if isinstance(tree, (np.ndarray, float, int)):
        kind = getattr(tree, "dtype", np.dtype(float)).kind
        return [torch.as_tensor(np.asarray(tree)).double()] if kind in "biuf" else []
    return [number for value in (children(tree) or {}).values() for number in _numbers(value)]


def same(one: Any, other: Any) -> bool:
    """Whether two trees hold the same numbers, NaN being the same as NaN."""
    if isinstance(one, (Tensor, np.ndarray)):
        alike_or_missing = (one == other) | ((one != one) & (other != other))  # noqa: PLR0124 - NaN alone
        return one.shape == other.shape and bool(alike_or_missing.all())
    mine, theirs = children(one) or {}, children(other) or {}
    return all(same(value, theirs[key]) for key, value in mine.items())
