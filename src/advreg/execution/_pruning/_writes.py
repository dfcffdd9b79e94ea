"""Side effects of a module's run: hooks, and attributes that are written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

Mark: TypeAlias = tuple[tuple[str, ...], tuple[int, ...], dict[str, tuple[int, ...]]]
Marks: TypeAlias = dict[nn.Module, Mark]
"""For each module what changes when an attribute is written: names, identities, and what they hold."""


class Witness:
    """A witness of writes in place to a tensor, or to what shares its memory.

    Autograd saves a view of it, of no entries, and refuses to use that once the tensor was written.
    """

    def __init__(self, tensor: Tensor) -> None:
        with torch.inference_mode(mode=False), torch.enable_grad():
            self._one = torch.ones((), device=tensor.device, requires_grad=True)
            view = tensor.detach()
            view = view.as_strided((0,), (1,)) if view.layout is torch.strided else view
            self._product = (self._one * view).sum()

    def written(self) -> bool:
        """Whether the tensor was written since."""
        try:
            ones = torch.ones_like(self._product)
            torch.autograd.grad(self._product, self._one, ones, retain_graph=True)
        except RuntimeError:
            return True
        return False


def witnesses(modules: Iterable[nn.Module]) -> dict[tuple[nn.Module, str], list[Witness]]:
    """Witnesses of the tensors among modules' attributes, and in their lists, sets and dictionaries."""
    return {
        (module, name): [Witness(entry) for entry in _entries(value) if isinstance(entry, Tensor)]
        for module in modules
        for name, value in vars(module).items()
    }


def marks(modules: Iterable[nn.Module]) -> Marks:
    """The marks of modules' attributes: what they are, and what their lists, sets and dictionaries hold."""
    return {module: _mark(vars(module)) for module in modules}


def _mark(attributes: dict[str, Any]) -> Mark:
    held = {name: value for name, value in attributes.items() if isinstance(value, (dict, list, set))}
    inner = {name: tuple(map(id, _entries(value))) for name, value in held.items() if value}
    return tuple(attributes), tuple(map(id, attributes.values())), inner


def _entries(value: Any) -> list[Any]:
    """An attribute's value, and what it holds."""
    if isinstance(value, dict):
        return [value, *value.values()]
    return [value, *value] if isinstance(value, (list, set)) else [value]


def differing(before: Marks, after: Marks) -> set[tuple[nn.Module, str]]:
    """The attributes that were written."""
    changed = (one for one in before.keys() | after.keys() if before.get(one) != after.get(one))
    return {(one, name) for one in changed for name in _differing(before.get(one), after.get(one))}


def _differing(before: Mark | None, after: Mark | None) -> set[str]:
    own, other = (
        {name: (place, mark[2].get(name)) for name, place in zip(mark[0], mark[1], strict=True)}
        for mark in (before or ((), (), {}), after or ((), (), {}))
    )
    return {name for name in own.keys() | other.keys() if own.get(name) != other.get(name)}
