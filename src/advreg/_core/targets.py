"""Targets of any structure: what belongs to each example of a batch, and how to cut it along the batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from advreg._core.trees import children, rebuilt, tensors

NUMBERS = ("batch_idx", "batch_index", "image_idx", "image_index", "img_idx", "sample_idx")
"""Keys under which mappings of flat rows carry the number of each row's image."""


class Kind(Enum):
    """What a leaf of a target is to the batch."""

    ROWS = "one row for each example"
    SHARED = "the same for all examples"


@dataclass(frozen=True)
class Numbered:
    """Flat rows, any number for each example, with the number of their example beside them.

    Attributes:
        at: The column of a table `(N, M)` that holds the numbers, or the key of a mapping whose other entries
            of this length are the rows.
        entries: What each other entry of a mapping is; `Numbered` where it has the rows.
    """

    at: int | str
    entries: Mapping[Any, Structure] | None = None


@dataclass(frozen=True)
class Nest:
    """A node whose entries are each of their own kind."""

    entries: Mapping[Any, Structure]


Structure: TypeAlias = Kind | Numbered | Nest


@dataclass(frozen=True, eq=False)
class _Said:
    value: Any
    structure: Kind | Numbered


def shared(value: Any) -> Any:
    """Mark a part of a target as the same for all examples: class weights, the spacing of voxels, anchors.

    The objective gets the value itself. Needed only where a value is as long as the batch by chance, and the
    check of an attack on the clean input says so.

    Example:
        >>> import torch
        >>> from advreg.objectives import shared
        >>> y = {"points": torch.rand(3, 5, 3), "spacing": shared(torch.tensor([5.0, 0.7, 0.7]))}
    """
    return _Said(value, Kind.SHARED)


def per_example(value: Any, number: int | str | None = None) -> Any:
    """Mark a part of a target as belonging to the examples: one entry or row for each, or numbered rows.

    The objective gets the value itself, cut to the examples that it is asked about. Needed only where the
    structure does not tell, and the check of an attack on the clean input says so.

    Args:
        value: A tensor, array, list or tuple with one row or entry for each example; or flat rows.
        number: Of flat rows, any number for each example: the column of the table `(N, M)`, or the key of the
            mapping, that holds the number of each row's example, counted from 0.

    Example:
        >>> import torch
        >>> from advreg.objectives import per_example
        >>> boxes = torch.tensor([[0.0, 5.0, 5.0], [0.0, 7.0, 2.0], [2.0, 1.0, 1.0]])  # image, x, y
        >>> y = per_example(boxes, number=0)
    """
    return _Said(value, Kind.ROWS if number is None else Numbered(number))


def bare(tree: Any) -> Any:
    """A target without the marks of `shared` and `per_example`: what objectives get."""
    if isinstance(tree, _Said):
        return bare(tree.value)
    held = children(tree)
    if held is None or not _marks(tree):
        return tree
    return rebuilt(tree, {key: bare(value) for key, value in held.items()})


def marked(tree: Any, structure: Structure) -> Any:
    """A target without marks, with those of a structure that is known: another attack need not guess it."""
    if isinstance(structure, Nest):
        held = children(tree) or {}
        return rebuilt(tree, {key: marked(value, structure.entries[key]) for key, value in held.items()})
    if structure is Kind.SHARED and not isinstance(tree, (Tensor, np.ndarray)) and children(tree) is None:
        return tree
    return _Said(tree, structure)


def structure_of(tree: Any, count: int) -> Structure:
    """How a target of `count` examples belongs to them, as it was marked, or as it looks.

    Tensors and arrays that begin with the batch have a row for each example. So has a list or tuple that is
    as long as the batch, unless each of its entries begins with the batch, as heads do. A mapping with one of
    the keys `NUMBERS` holds flat rows. All else is shared.

    Raises:
        ValueError: Something marked as per example that is not as long as the batch.
    """
    if isinstance(tree, _Said):
        return _as_said(tree, count)
    held, own = children(tree), Kind.SHARED
    if isinstance(tree, (Tensor, np.ndarray)):
        return Kind.ROWS if tree.shape[:1] == (count,) else own
    if held is None:
        return own
    if isinstance(tree, Mapping) and (found := [key for key in NUMBERS if key in tree]):
        return Numbered(found[0], _entries_of(tree, found[0], count))
    if type(tree) in (list, tuple) and len(tree) == count and not _heads(tree, count) and not _marks(tree):
        return Kind.ROWS
    return Nest({key: structure_of(value, count) for key, value in held.items()})


def alternatives(tree: Any, structure: Structure, count: int) -> Iterator[Structure]:
    """Other structures that a target might have, the likelier first; what is marked stays as it is marked.

    One leaf at a time: a table whose first column could number the examples; rows that are as long as the
    batch by chance; a list that is as long as the batch by chance, or whose entries, not heads, are the
    examples'.
    """
    if isinstance(tree, _Said):
        return
    if isinstance(tree, (Tensor, np.ndarray)):
        if tree.ndim == 2 and _numbers(tree[:, 0], count):
            yield Numbered(0)
        if structure is Kind.ROWS:
            yield Kind.SHARED
        return
    held = children(tree)
    if held is None or structure is Kind.SHARED:
        return
    if isinstance(structure, Nest):
        yield from _of_entries(tree, held, structure, count)
        return
    if isinstance(structure, Numbered):
        yield from _of_flat_rows(held, structure, count)
    nest = Nest({key: structure_of(value, count) for key, value in held.items()})
    yield nest
    yield from _of_entries(tree, held, nest, count)


def _of_entries(tree: Any, held: Mapping[Any, Any], nest: Nest, count: int) -> Iterator[Structure]:
    """Alternatives of a node whose entries are each of their own kind."""
    if type(tree) in (list, tuple) and len(tree) == count and not _marks(tree):
        yield Kind.ROWS
    for key, value in held.items():
        for other in alternatives(value, nest.entries[key], count):
            yield Nest({**nest.entries, key: other})


def _of_flat_rows(held: Mapping[Any, Any], structure: Numbered, count: int) -> Iterator[Structure]:
    """Alternatives of a mapping of flat rows: entries that all share, or that have a row for each example."""
    entries = structure.entries or {}
    for key, kind in entries.items():
        if isinstance(held[key], _Said):
            continue
        if kind is not Kind.SHARED:
            yield Numbered(structure.at, {**entries, key: Kind.SHARED})
        if isinstance(kind, Numbered) and len(held[key]) == count:
            yield Numbered(structure.at, {**entries, key: Kind.ROWS})


def cut(tree: Any, structure: Structure, some: Tensor | slice, count: int) -> Any:
    """Some of the examples of a target without marks.

    Args:
        tree: The target.
        structure: As `structure_of` gave it for the whole batch.
        some: Which: flags `(B,)`, places in int64, which may come several times, or a range.
        count: B.
    """
    if structure is Kind.SHARED:
        return tree
    if isinstance(structure, Nest):
        held = children(tree) or {}
        return rebuilt(
            tree, {key: cut(value, structure.entries[key], some, count) for key, value in held.items()}
        )
    if isinstance(structure, Numbered):
        return _numbered(tree, structure, some, count)
    if isinstance(some, slice):
        return tree[some]
    if isinstance(tree, (Tensor, np.ndarray)):
        return tree[some.to(tree.device) if isinstance(tree, Tensor) else some.cpu().numpy()]
    return type(tree)(tree[place] for place in _places(some, count).tolist())


def following(parts: Sequence[Any], sizes: Sequence[int], structure: Numbered) -> Any:
    """Flat rows of batches, one after another, with numbers that count on."""
    at, before = structure.at, np.cumsum([0, *sizes[:-1]])
    first = parts[0]
    if isinstance(at, int):
        tables = []
        for part, shift in zip(parts, before.tolist(), strict=True):
            table = part.clone() if isinstance(part, Tensor) else part.copy()
            table[:, at] += shift
            tables.append(table)
        return torch.cat(tables) if isinstance(first, Tensor) else np.concatenate(tables)
    held = {}
    for key, value in (children(first) or {}).items():
        entries = [part[key] for part in parts]
        if key == at:
            entries = [entry + shift for entry, shift in zip(entries, before.tolist(), strict=True)]
        rows = isinstance(value, (Tensor, np.ndarray)) and all(
            len(entry) in (len(part[at]), size)
            for entry, part, size in zip(entries, parts, sizes, strict=True)
        )
        if rows:
            held[key] = torch.cat(entries) if isinstance(value, Tensor) else np.concatenate(entries)
        else:
            held[key] = value
    return rebuilt(first, held)


def inputs_structure(tree: Any, count: int) -> Structure:
    """How the inputs of a model belong to `count` examples: one tensor, or each of several by itself."""
    held = None if isinstance(tree, Tensor) else children(tree)
    if held is None:
        return structure_of(tree, count)
    return Nest({key: structure_of(value, count) for key, value in held.items()})


def joined(parts: Sequence[Any], sizes: Sequence[int], structure: Structure) -> Any:
    """Batches without marks, of so many examples each, one after another; what is shared comes once."""
    first = parts[0]
    if structure is Kind.SHARED:
        return first
    if isinstance(structure, Numbered):
        return following(parts, sizes, structure)
    if isinstance(structure, Nest):
        held = [children(part) or {} for part in parts]
        entries = structure.entries
        return rebuilt(
            first, {key: joined([one[key] for one in held], sizes, entries[key]) for key in held[0]}
        )
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    return np.concatenate(parts) if isinstance(first, np.ndarray) else type(first)(chain(*parts))


def count_of(inputs: Any) -> int:
    """The number of examples of a model's inputs: the length of their first tensor."""
    return next((len(tensor) for tensor in tensors(bare(inputs)) if tensor.ndim), 0)


def _numbered(tree: Any, structure: Numbered, some: Tensor | slice, count: int) -> Any:
    """Flat rows of some examples, with their numbers counted anew."""
    at, entries = structure.at, structure.entries or {}
    numbers = torch.as_tensor(tree[:, at] if isinstance(at, int) else tree[at])
    match = numbers.reshape(-1)[None] == _places(some, count).to(numbers.device)[:, None]
    new, rows = match.nonzero().unbind(1)
    if isinstance(at, int):
        if isinstance(tree, np.ndarray):
            table = tree[rows.numpy()]
            table[:, at] = new.numpy()
            return table
        chosen = tree[rows]
        column = torch.arange(tree.shape[1], device=tree.device) == at
        return torch.where(column, new.to(chosen)[:, None], chosen)
    held = {}
    for key, value in (children(tree) or {}).items():
        if key == at:
            held[key] = _like(new, value)
        elif isinstance(entries[key], Numbered):
            held[key] = value[rows.to(value.device) if isinstance(value, Tensor) else rows.cpu().numpy()]
        else:
            held[key] = cut(value, entries[key], some, count)
    return rebuilt(tree, held)


def _entries_of(tree: Any, key: str, count: int) -> dict[Any, Structure]:
    """What the entries of a mapping of flat rows are: rows where they are as long, or else as they look."""
    rows, found = len(bare(tree[key])), dict[Any, Structure]()
    for name, value in (children(tree) or {}).items():
        array = isinstance(value, (Tensor, np.ndarray)) and value.ndim > 0
        if name != key:
            found[name] = Numbered(key) if array and len(value) == rows else structure_of(value, count)
    return found


def _like(new: Tensor, old: Any) -> Any:
    """New numbers in the form of the old ones, `(N,)` or `(N, 1)`."""
    shape = (-1, *old.shape[1:])
    if isinstance(old, Tensor):
        return new.to(old).reshape(shape)
    return new.cpu().numpy().astype(old.dtype).reshape(shape)


def _places(some: Tensor | slice, count: int) -> Tensor:
    if isinstance(some, slice):
        return torch.arange(count)[some]
    return some.nonzero().flatten() if some.dtype == torch.bool else some


def _heads(entries: Any, count: int) -> bool:
    """Whether entries are heads, each of which has a row for each example, rather than the examples' own."""
    arrays = [isinstance(entry, (Tensor, np.ndarray)) for entry in entries]
    sized = (hasattr(entry, "__len__") and not isinstance(entry, str) for entry in entries)
    return any(arrays) and all(
        size and len(entry) == count for size, entry in zip(sized, entries, strict=True)
    )


def _numbers(column: Any, count: int) -> bool:
    """Whether a column could number examples: whole numbers from 0 to less than their count, in order."""
    numbers = np.asarray(column.detach().cpu() if isinstance(column, Tensor) else column)
    if numbers.dtype.kind not in "iuf" or len(numbers) == 0:
        return False
    whole = bool((numbers == np.round(numbers)).all()) and bool((np.diff(numbers) >= 0).all())
    return whole and numbers[0] >= 0 and numbers[-1] < count


def _nodes(tree: Any) -> Iterator[Any]:
    yield tree
    for value in (children(tree) or {}).values():
        yield from _nodes(value)


def _marks(tree: Any) -> bool:
    """Whether anything in it is marked."""
    return any(isinstance(node, _Said) for node in _nodes(tree))


def _as_said(said: _Said, count: int) -> Structure:
    """The structure that a mark says."""
    _check_said(said, count)
    match said.structure:
        case Numbered(at=str() as key, entries=None):
            return Numbered(key, _entries_of(said.value, key, count))
        case Numbered(at=int() as column) if column < 0:
            return Numbered(column + said.value.shape[1])
        case own:
            return own


def _check_said(said: _Said, count: int) -> None:
    if said.structure is Kind.ROWS and (not hasattr(said.value, "__len__") or len(said.value) != count):
        came = len(said.value) if hasattr(said.value, "__len__") else type(said.value).__name__
        raise ValueError(
            f"per_example(...) must hold one entry for each of {count} examples; got {came}: of flat rows "
            "say which column numbers the examples, per_example(rows, number=0)"
        )
