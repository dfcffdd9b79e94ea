"""Side effects of a module's run: hooks, and attributes that are written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from torch import Tensor, nn

Marks: TypeAlias = dict[tuple[nn.Module, str], tuple[Any, ...]]
"""For each attribute of each module something that changes when it is written."""


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def hooks(module: nn.Module) -> list[Callable[..., Any]]:
    """The hooks on a module itself."""
    return [hook for name in HOOKS for hook in vars(module)[name].values()]


def marks(modules: Iterable[nn.Module], *, versions: bool = False) -> Marks:
    """The marks of modules' attributes; with `versions` a tensor written in place counts as well."""

    def mark(value: Any) -> tuple[Any, ...]:
        return id(value), value._version if versions and isinstance(value, Tensor) else 0  # noqa: SLF001

    def entries(value: Any) -> tuple[Any, ...]:
        inner = value.values() if isinstance(value, dict) else value
        return (mark(value), *map(mark, inner)) if isinstance(value, (dict, list, set)) else mark(value)

    return {(module, name): entries(value) for module in modules for name, value in vars(module).items()}


def differing(before: Marks, after: Marks) -> set[tuple[nn.Module, str]]:
    """The attributes that were written."""
    return {place for place in before.keys() | after.keys() if before.get(place) != after.get(place)}


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Put back the attributes of all modules, and what their lists, sets and dictionaries hold.

    Tensors written in place are not put back: `advreg.frozen` does that for buffers.
    """
    own = [vars(module) for module in model.modules()]
    inner = [
        value for attributes in own for value in attributes.values() if isinstance(value, (dict, list, set))
    ]
    before = [(container, container.copy()) for container in (*own, *inner)]
    try:
        yield
    finally:
        for container, held in before:
            if _identities(container) != _identities(held):
                container.clear()
                (container.extend if isinstance(container, list) else container.update)(held)


def _identities(container: Any) -> list[Any]:
    if isinstance(container, dict):
        return [(key, id(value)) for key, value in container.items()]
    return list(map(id, container))
