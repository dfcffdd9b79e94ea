"""Walk through a thing: each object on it is described once."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from advreg._core.fingerprint._code import (
    class_body,
    name_of,
    own_module,
    package_version,
)

_LONG = 200  # characters; a longer text stands inside another by its digest
_DEEP = 100  # levels; what lies deeper is told by its type


Path: TypeAlias = tuple[str, ...] | None

_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented)})


class Walk:
    """One way through a thing: each object on it is described once."""

    def __init__(self, kinds: Sequence[tuple[Any, Told]], otherwise: Told) -> None:
        self._kinds, self._otherwise = kinds, otherwise
        self.facts: dict[str, str] = {}
        self._texts: dict[int, str] = {}
        self._bodies: dict[int, str] = {}  # of classes; "..." of one that is being described
        self._open: set[int] = set()
        self._kept: list[Any] = []  # so that no other object gets the same id

    def whole(self, thing: Any, path: Path) -> str:
        """The text of a thing, of any length; facts about its pieces are noted below the path."""
        if type(thing) in _PLAIN:
            return repr(thing)
        if id(thing) in self._texts:
            return self._texts[id(thing)]
        if id(thing) in self._open:
            return "..."
        if len(self._open) >= _DEEP:
            return name_of(type(thing))
        self._open.add(id(thing))
        told = next((told for kind, told in self._kinds if isinstance(thing, kind)), self._otherwise)
        text = told(self, thing, path)
        self._open.discard(id(thing))
        self._kept.append(thing)
        self._texts[id(thing)] = short(text)
        return text

    def text(self, thing: Any, path: Path) -> str:
        """The text of a thing as it stands inside another."""
        return short(self.whole(thing, path))

    def piece(self, path: Path, name: str, thing: Any) -> str:
        """The text of a piece that has a fact of its own."""
        text = self.text(thing, None if path is None else (*path, name))
        self.note(path, name, text)
        return text

    def note(self, path: Path, name: str, text: str) -> None:
        """Note a fact."""
        if path is not None:
            self.facts[": ".join((*path, name))] = text

    def body(self, cls: type, path: Path) -> str:
        """The bodies of a class and its bases, of those that are the user's own; of others the version."""
        if id(cls) not in self._bodies:
            self._bodies[id(cls)] = "..."
            self._kept.append(cls)
            pieces = []
            for base in cls.__mro__:
                if not own_module(base.__module__):
                    self.package(base.__module__)
                    continue
                for name, value in class_body(base).items():
                    pieces.append(f"{name}={self.piece(path, f'{base.__name__}.{name}', value)}")
            self._bodies[id(cls)] = f"#{hashed(', '.join(pieces))}" if pieces else ""
        return self._bodies[id(cls)]

    def package(self, module: Any) -> None:
        """Note the version of the package that a module belongs to."""
        top = module.split(".")[0] if isinstance(module, str) else ""
        if top and top not in sys.stdlib_module_names and not own_module(module):
            self.facts[f"package {top}"] = package_version(top)


def short(text: str) -> str:
    if len(text) <= _LONG:
        return text
    kind = re.split(r"[(\[]", text[:40])[0]
    return f"{kind}(#{hashed(text)})"


def hashed(text: str) -> str:
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:32]


Told: TypeAlias = Callable[[Walk, Any, Path], str]

"""Text of a thing of one kind."""
