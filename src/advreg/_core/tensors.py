"""Per-example arithmetic: tensors `(B, *input)` as rows, and numbers that belong to a row."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def per_example(value: Tensor, like: Tensor) -> Tensor:
    """`(B,)` seen as `(B, 1, ..., 1)`, to broadcast against `like`, `(B, *input)`."""
    return value.reshape(-1, *[1] * (like.ndim - 1))


def rows(d: Tensor) -> Tensor:
    """`(B, *input)` seen as `(B, entries)`, for any rank and for an empty batch."""
    return d.reshape(d.shape[0], math.prod(d.shape[1:]))


def wide(d: Tensor) -> Tensor:
    """Half precision as float32; other dtypes as they are."""
    return d.float() if d.dtype in (torch.float16, torch.bfloat16) else d


def positive(size: Tensor) -> Tensor:
    """Something to divide by: 1 in place of 0."""
    return torch.where(size > 0, size, 1)
