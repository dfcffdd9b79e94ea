"""Trees of tensors: what models return and targets hold, tensors in tuples, mappings, dataclasses, nests."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """A tree like `tree` with `function` applied to each tensor; whatever else it holds stays as it is.

    Example:
        >>> import torch
        >>> map_tensors(torch.Tensor.neg, {"contour": torch.ones(2), "name": "L4/L5"})
        {'contour': tensor([-1., -1.]), 'name': 'L4/L5'}
    """
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        mapped = {key: map_tensors(function, value) for key, value in tree.items()}
        return mapped if type(tree) is dict else type(tree)(mapped)  # type: ignore[call-arg]  # as dict takes it
    if hasattr(tree, "_fields"):
        return type(tree)(*(map_tensors(function, value) for value in tree))
    if isinstance(tree, (tuple, list)):
        return type(tree)(map_tensors(function, value) for value in tree)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return dataclasses.replace(
            tree, **{name: map_tensors(function, getattr(tree, name)) for name in _fields(tree)}
        )
    return tree


def take(tree: Any, some: Tensor | slice, count: int | None = None) -> Any:
    """Some examples of a batch, of each tensor that begins with the batch.

    Args:
        tree: A tensor, or what holds tensors.
        some: Which: `(B,)` bool, places in int64, or a range, which costs no copy.
        count: B; by default the number of flags.

    Example:
        >>> import torch
        >>> take({"x": torch.arange(3), "scale": torch.tensor(2)}, torch.tensor([True, False, True]))
        {'x': tensor([0, 2]), 'scale': tensor(2)}
    """
    whole = len(some) if count is None and isinstance(some, Tensor) else count
    return map_tensors(lambda entry: entry[some] if entry.shape[:1] == (whole,) else entry, tree)


def tensors(tree: Any) -> Iterator[Tensor]:
    """The tensors of a tree, in order.

    Example:
        >>> import torch
        >>> [tuple(tensor.shape) for tensor in tensors((torch.ones(2), {"mask": torch.ones(3)}))]
        [(2,), (3,)]
    """
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from tensors(value)
    elif isinstance(tree, (tuple, list)):
        for value in tree:
            yield from tensors(value)
    elif dataclasses.is_dataclass(tree):
        for name in _fields(tree):
            yield from tensors(getattr(tree, name))


def head(tree: Any, key: str | int, name: str) -> Any:
    """One head of an output or target: by key, by field, or by place. `name` stands in the message."""
    if isinstance(tree, Mapping):
        if key in tree:
            return tree[key]
        has = list(tree)
    elif isinstance(key, int) and isinstance(tree, Sequence):
        if -len(tree) <= key < len(tree):
            return tree[key]
        has = list(range(len(tree)))
    elif isinstance(key, str) and (fields := _fields(tree)):
        if key in fields:
            return getattr(tree, key)
        has = fields
    else:
        has = list(range(len(tree))) if isinstance(tree, Sequence) else _fields(tree)
    raise KeyError(
        f"the {name} has no head {key!r}; it is a {type(tree).__name__}"
        + (f" with heads {has}" if has else " without heads: pass the function itself, without on(...)")
        + ("" if name == "output" else "; build the target like the model's output")
    )


def _fields(tree: Any) -> list[str]:
    if dataclasses.is_dataclass(tree):
        return [field.name for field in dataclasses.fields(tree)]
    return list(getattr(tree, "_fields", ()))
