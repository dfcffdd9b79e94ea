"""Text of collections, and of any other object."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from enum import Enum
from functools import cached_property
from types import (
    MappingProxyType,
    MemberDescriptorType,
)
from typing import Any

from advreg._core.fingerprint._code import (
    name_of,
)
from advreg._core.fingerprint._walk import Path, Told, Walk

_MANY = 64  # entries of a collection, of which each has a fact of its own


def of_mapping(walk: Walk, mapping: Mapping[Any, Any], path: Path) -> str:
    below = path if len(mapping) <= _MANY else None
    cells = (
        f"{walk.text(key, None)}: {walk.piece(below, f'its entry {key!r}', value)}"
        if isinstance(key, (str, int))
        else f"{walk.text(key, below)}: {walk.text(value, below)}"
        for key, value in mapping.items()
    )
    return f"{type(mapping).__qualname__}({', '.join(cells)})"


def of_sequence(walk: Walk, items: Iterable[Any], path: Path) -> str:
    listed = list(items)
    below = path if len(listed) <= _MANY else None
    cells = (walk.piece(below, f"its entry {at}", item) for at, item in enumerate(listed))
    return f"{type(items).__qualname__}({', '.join(cells)})"


def of_set(walk: Walk, items: Iterable[Any], _: Path) -> str:
    return f"{type(items).__qualname__}({', '.join(sorted(walk.text(item, None) for item in items))})"


def of_instance(walk: Walk, thing: Any, path: Path) -> str:
    """Any other object: the bodies of its class, what it contains as a collection or number, its state."""
    cls = type(thing)
    body = walk.body(cls, path)
    held = next((told(walk, thing, path) for kind, told in _CONTENT if isinstance(thing, kind)), "")
    state = state_of(thing)
    if dataclasses.is_dataclass(thing):
        names = [field.name for field in dataclasses.fields(thing) if field.name in state]
        state = {name: state[name] for name in dict.fromkeys([*names, *state])}
    elif not state and not held:
        return f"{body} {_reduced(walk, thing, path)}".strip()
    elif not state:
        return f"{body} {held}".strip()
    pieces = [f"{key}={walk.piece(path, f'its attribute {key!r}', value)}" for key, value in state.items()]
    return f"{body} {held} {cls.__qualname__}({', '.join(pieces)})".strip().replace("  ", " ")


def state_of(thing: Any) -> dict[str, Any]:
    """What an object holds in `__slots__` and `__dict__`, by name, in the order of names."""
    classes = type(thing).__mro__
    bodies = [(name, value) for cls in classes for name, value in vars(cls).items()]
    cached = {name for name, value in bodies if isinstance(value, cached_property)}
    found = {}
    for name, value in bodies:
        if isinstance(value, MemberDescriptorType):
            try:
                found[name] = value.__get__(thing)
            except (AttributeError, ValueError, TypeError):
                continue  # a slot that is empty
    own = getattr(thing, "__dict__", {})
    found |= {key: value for key, value in own.items() if type(key) is str and key not in cached}
    return dict(sorted(found.items()))


def _reduced(walk: Walk, thing: Any, path: Path) -> str:
    """An object whose state Python does not show, by what a copy of it would be made of."""
    name = name_of(type(thing))
    try:
        made = thing.__reduce_ex__(2)
    except Exception:  # noqa: BLE001 - whatever it raises, there is no copy to be made
        return name
    if isinstance(made, str):
        return f"{name} {made}"
    make, *rest = made
    pieces = [list(part) if hasattr(part, "__next__") else part for part in rest if part is not None]
    if all(part == (type(thing),) for part in pieces):
        return name
    return f"{name}({name_of(make)}, {', '.join(walk.text(part, path) for part in pieces)})"


def of_enum(walk: Walk, member: Enum, path: Path) -> str:
    return f"{name_of(type(member))}.{member.name}[{walk.text(member.value, path)}]"


class Named:
    """Something that is told by its name alone."""

    def __init__(self, thing: Any) -> None:
        self.name = name_of(getattr(thing, "__func__", thing))


def only_named(_: Walk, thing: Any, __: Path) -> str:
    return thing.name if isinstance(thing, Named) else name_of(type(thing))


_CONTENT: tuple[tuple[Any, Told], ...] = (
    ((dict, MappingProxyType), of_mapping),
    ((tuple, list), of_sequence),
    ((set, frozenset), of_set),
    (int, lambda _, number, __: int.__repr__(number)),
    (float, lambda _, number, __: float.__repr__(number)),
    (complex, lambda _, number, __: complex.__repr__(number)),
    (str, lambda _, text, __: str.__repr__(text)),
    (bytes, lambda _, text, __: bytes.__repr__(text)),
)
