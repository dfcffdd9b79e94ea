"""Batches of an evaluation, checked: inputs, targets, and each example's place in the data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from advreg._core.fingerprint import digest
from advreg._core.targets import bare, count_of
from advreg._core.trees import differentiable, tensors
from advreg._core.types import Input, Target

Batches: TypeAlias = Iterable[Sequence[Any]]
"""`(x, y)` or `(x, y, index)` each, as a `DataLoader` gives them; without index examples are counted on."""


@dataclass(frozen=True, eq=False)
class Examples:
    """One batch.

    Attributes:
        x: Inputs, `(B, *input)`, or all inputs of a model of several.
        y: Their targets.
        index: Each example's place in the data set, int64 `(B,)`.
        check: The digest of all three, where it was asked for.
    """

    x: Input
    y: Target
    index: Tensor
    check: str


def checked(batches: Batches, groups: Sequence[Any] | None, *, check: bool) -> Iterator[Examples]:
    """The batches with the place of each example, which may come once; with their digests if asked.

    Raises:
        TypeError: What is no batch, or no collection of batches.
        ValueError: An example that comes again; places that are no places, or have no group.
    """
    if isinstance(groups, str) or not (groups is None or hasattr(groups, "__getitem__")):
        raise TypeError(
            f"groups must be a list of names, the group of each example by its index; got a "
            f"{type(groups).__name__}: write [patient_of(i) for i in range(n)]"
        )
    if isinstance(batches, (Tensor, str)) or not isinstance(batches, Iterable):
        raise TypeError(
            f"batches must be a list of (x, y), or a DataLoader; got a {type(batches).__name__}: of one "
            "batch write [(x, y)]"
        )
    seen: set[int] = set()
    for number, batch in enumerate(batches):
        x, y, given = _parts(batch, number)
        count = len(given) if hasattr(given, "__len__") and not isinstance(x, Tensor) else count_of(x)
        index = torch.arange(len(seen), len(seen) + count) if given is None else _places(given, count, number)
        places = set(index.tolist())
        if len(places) < count or places & seen:
            raise ValueError(
                f"an example must come once, but one of batch {number} comes again; its index is "
                f"{index.tolist()}: give each example's place in the data set, not in the batch"
            )
        if groups is not None and not all(0 <= place < len(groups) for place in places):
            raise ValueError(
                f"groups must name the group of each index; got {len(groups)} groups, and batch {number} has "
                f"the indices {min(places)} to {max(places)}"
            )
        seen |= places
        x, y = differentiable((x, y))
        yield Examples(x, y, index, digest((x, y, index)) if check else "")
    if not seen:
        raise ValueError(
            "there are no examples in these batches: a generator is empty when it is used a second time"
        )


def _parts(batch: Any, number: int) -> tuple[Input, Target, Any]:
    if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
        count = f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
        raise ValueError(
            f"a batch must be (x, y) or (x, y, index); batch {number} is a {type(batch).__name__}{count}: "
            "put all heads' targets into one y, for example a dict, and of one batch write [(x, y)]"
        )
    x, y, *rest = batch
    several = not isinstance(x, (Tensor, list)) and any(tensor.ndim for tensor in tensors(bare(x)))
    if not several and (not isinstance(x, Tensor) or x.ndim == 0):
        kind = f"{type(x).__module__}.{type(x).__qualname__}".removeprefix("builtins.")
        remedy = {
            "numpy.ndarray": "write torch.from_numpy(x).float()",
            "list": "write torch.stack(x)",
        }.get(kind, "let the data set return tensors")
        raise TypeError(
            f"x of a batch must be a tensor (B, *input); that of batch {number} is a {kind}: {remedy}"
        )
    return x, y, rest[0] if rest else None


def _places(given: Any, count: int, number: int) -> Tensor:
    """An index as int64 on the CPU; numpy's integers of any size are integers."""
    try:
        index = torch.as_tensor(given).cpu() if count else torch.empty(0, dtype=torch.int64)
    except (TypeError, ValueError, RuntimeError):
        index = None
    if index is None or index.shape != (count,) or index.is_floating_point() or index.dtype == torch.bool:
        came = type(given).__name__ if index is None else f"{index.dtype} of shape {tuple(index.shape)}"
        raise ValueError(
            f"index must be int64 of shape ({count},), each example's place in the data set; batch {number} "
            f"has {came}"
        )
    return index.to(torch.int64)
