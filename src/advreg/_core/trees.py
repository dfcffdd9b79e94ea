"""Trees of tensors: what models return and targets hold, tensors in tuples, mappings, dataclasses, nests."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor


def children(tree: Any) -> dict[Any, Any] | None:
    """What a node of a tree holds, by key, field or place; None for a leaf.

    Nodes are mappings, named tuples, tuples, lists and dataclasses. Of a mapping that is a dataclass too, as
    transformers' outputs are, the entries count: fields that are declared but empty are none.

    Example:
        >>> children({"mask": 1, "points": (2, 3)})
        {'mask': 1, 'points': (2, 3)}
        >>> children((2, 3)), children("L4/L5")
        ({0: 2, 1: 3}, None)
    """
    if isinstance(tree, Mapping):
        return dict(tree)
    if isinstance(tree, (tuple, list)):
        return dict(enumerate(tree))
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return {name: getattr(tree, name) for name in fields_of(tree)}
    return None


def rebuilt(tree: Any, held: Mapping[Any, Any]) -> Any:
    """A node like another that holds something else, by the keys of `children`.

    Mappings and dataclasses are copied and filled, so that those whose constructor takes something else
    (`defaultdict`, fields with `init=False`) are served too; one that refuses becomes a plain `dict`.
    """
    if isinstance(tree, Mapping):
        if type(tree) is dict or not isinstance(tree, MutableMapping):
            return dict(held) if type(tree) is dict else _filled(tree, held)
        other = copy.copy(tree)
        for key, value in held.items():
            other[key] = value
        return other
    if isinstance(tree, (tuple, list)):
        named = hasattr(tree, "_fields")
        return type(tree)(*held.values()) if named else type(tree)(held.values())
    other = copy.copy(tree)
    for name, value in held.items():
        object.__setattr__(other, name, value)  # frozen ones too
    return other


def replaced(tree: Any, entries: Mapping[str | int, Any]) -> Any:
    """A node with other entries, by key, field or place, as `head` finds them.

    Example:
        >>> replaced((1, 2, 3), {0: 5, -1: 7})
        (5, 2, 7)
    """
    held = children(tree) or {}
    for key, value in entries.items():
        if isinstance(tree, (tuple, list)):
            held[fields_of(tree).index(key) if isinstance(key, str) else key % len(tree)] = value
        else:
            held[key] = value
    return rebuilt(tree, held)


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """A tree like `tree` with `function` applied to each tensor; whatever else it holds stays as it is.

    Example:
        >>> import torch
        >>> map_tensors(torch.Tensor.neg, {"contour": torch.ones(2), "name": "L4/L5"})
        {'contour': tensor([-1., -1.]), 'name': 'L4/L5'}
    """
    if isinstance(tree, Tensor):
        return function(tree)
    held = children(tree)
    if held is None:
        return tree
    return rebuilt(tree, {key: map_tensors(function, value) for key, value in held.items()})


def differentiable(tree: Any) -> Any:
    """A tree whose tensors autograd takes: copies of those that were made under `torch.inference_mode`."""
    if not any(tensor.is_inference() for tensor in tensors(tree)):
        return tree
    with torch.inference_mode(mode=False):
        return map_tensors(lambda tensor: tensor.clone() if tensor.is_inference() else tensor, tree)


def tensors(tree: Any) -> Iterator[Tensor]:
    """The tensors of a tree, in order.

    Example:
        >>> import torch
        >>> [tuple(tensor.shape) for tensor in tensors((torch.ones(2), {"mask": torch.ones(3)}))]
        [(2,), (3,)]
    """
    if isinstance(tree, Tensor):
        yield tree
        return
    for value in (children(tree) or {}).values():
        yield from tensors(value)


def take(tree: Any, some: Tensor | slice, count: int | None = None) -> Any:
    """Some examples of a batch, of each tensor that begins with the batch.

    For what the library itself makes, such as a rule's state; targets are cut by `advreg._core.targets`.

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
    elif isinstance(key, str) and (fields := fields_of(tree)):
        if key in fields:
            return getattr(tree, key)
        has = fields
    else:
        has = list(range(len(tree))) if isinstance(tree, Sequence) else fields_of(tree)
    raise KeyError(
        f"the {name} has no head {key!r}; it is a {type(tree).__name__}"
        + (f" with heads {has}" if has else " without heads: pass the function itself, without on(...)")
        + ("" if name in ("output", "input") else "; build the target like the model's output")
    )


def fields_of(tree: Any) -> list[str]:
    """The fields of a dataclass or named tuple; none of anything else."""
    if dataclasses.is_dataclass(tree):
        return [field.name for field in dataclasses.fields(tree)]
    return list(getattr(tree, "_fields", ()))


def _filled(tree: Any, held: Mapping[Any, Any]) -> Any:
    try:
        return type(tree)(held)
    except TypeError:
        return dict(held)
