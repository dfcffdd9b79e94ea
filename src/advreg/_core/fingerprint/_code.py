"""Code of functions and classes: whose it is, its digest, and which globals it reads."""

from __future__ import annotations

import dis
import hashlib
import importlib.util
import re
import sys
import sysconfig
from argparse import Namespace
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import CodeType, FunctionType, ModuleType, SimpleNamespace
from typing import Any

_LIBRARY = Path(__file__).parents[2]
_PLACES = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}
_PROGRAMS = ("__main__", "__mp_main__")  # the second where a process was spawned
_NAMESPACES = (ModuleType, Namespace, SimpleNamespace)


def installed(file: str | None) -> bool:
    """Whether a file of code belongs to Python or an installed package, this library among them.

    What has no file, as typed at a prompt or in a notebook, is the user's own.
    """
    if file is None or file.startswith("<frozen"):
        return file is not None
    path = Path(file)
    packaged = "site-packages" in path.parts or "dist-packages" in path.parts
    return packaged or path.is_relative_to(_LIBRARY) or any(path.is_relative_to(p) for p in _PLACES if p)


def own_module(name: str) -> bool:
    """Whether a module, by its name, is the user's own: neither built in nor installed."""
    if name in _PROGRAMS:
        return True
    top = name.partition(".")[0]
    files = [getattr(sys.modules.get(each), "__file__", None) for each in (name, top)]
    file = next((each for each in files if each is not None), None)
    return top not in sys.stdlib_module_names if file is None else not installed(file)


@cache
def package_version(name: str) -> str:
    """The version of the package that a module belongs to; Python's own for what comes with it."""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names:
        return f"{sys.version_info.major}.{sys.version_info.minor}"
    if top == _LIBRARY.name:
        files = sorted(_LIBRARY.rglob("*.py"))
        code = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
        return f"{version(top)}, code {code[:16]}"
    found = getattr(sys.modules.get(top), "__version__", None)
    try:
        return str(version(top) if found is None else found)
    except PackageNotFoundError:
        return "of no known version"


def name_of(thing: Any) -> str:
    """Module and name of a function or class, the same whether its process was spawned or not."""
    module = getattr(thing, "__module__", None)
    name = getattr(thing, "__qualname__", None) or getattr(thing, "__name__", type(thing).__qualname__)
    return f"{_PROGRAMS[0] if module in _PROGRAMS else module}.{name}" if module else str(name)


def code_text(code: CodeType) -> str:
    """A digest of what a piece of code does: not of its lines, its file, or the order of a set's members."""
    parts = (
        code.co_code.hex(),
        code.co_names,
        code.co_varnames,
        code.co_freevars,
        code.co_flags,
        code.co_argcount,
        code.co_posonlyargcount,
        code.co_kwonlyargcount,
        code.co_exceptiontable.hex(),
        [_constant(value) for value in code.co_consts],
    )
    return f"code #{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}"


def globals_read(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """The globals that a function reads, and inner functions of it, by name, each once.

    Of one of the user's own modules, or a plain namespace of options, only the attributes are given that the
    code names; an installed module, such as `os`, is given as it is.
    """
    given = {}
    for chain in _chains(function.__code__):
        first, *rest = chain
        if first not in function.__globals__:
            continue  # built in, or not there yet
        name, value = first, function.__globals__[first]
        for attribute in rest:
            theirs = isinstance(value, ModuleType) and not own_module(value.__name__)
            if theirs or not isinstance(value, _NAMESPACES) or not hasattr(value, attribute):
                break
            name, value = f"{name}.{attribute}", getattr(value, attribute)
        given[name] = value
    yield from sorted(given.items())


def imports_inside(function: FunctionType) -> Iterator[str]:
    """The names of the user's own modules that a function imports when it is called."""
    package = function.__globals__.get("__package__") or ""
    for code in _nested(function.__code__):
        before: list[Any] = []
        for step in dis.get_instructions(code):
            if step.opname == "IMPORT_NAME":
                level = next((value for value in before[-2:] if isinstance(value, int)), 0)
                parents = package.split(".")[: len(package.split(".")) - level + 1] if level else []
                name = ".".join([*parents, *([step.argval] if step.argval else [])])
                if name and name.partition(".")[0] not in sys.stdlib_module_names:
                    yield name
            before.append(step.argval)


def module_text(name: str) -> str | None:
    """A digest of the file of one of the user's own modules, imported or not; None for all others."""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if module is None:
        try:
            spec = importlib.util.find_spec(name)
        except Exception:  # noqa: BLE001 - it may import the package around it, which may raise anything
            return None
        file = None if spec is None else spec.origin
    if file is None or installed(file) or not Path(file).is_file():
        return None
    return f"file #{hashlib.sha256(Path(file).read_bytes()).hexdigest()[:32]}"


def without_addresses(text: str) -> str:
    """A text without the addresses of objects, which differ from process to process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def _constant(value: Any) -> str:
    if isinstance(value, CodeType):
        return code_text(value)
    if isinstance(value, frozenset):
        return f"frozenset({sorted(map(_constant, value))})"
    if isinstance(value, tuple):
        return f"({', '.join(map(_constant, value))})"
    return f"{type(value).__name__} {value!r}"


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _nested(value)


def _chains(code: CodeType) -> Iterator[list[str]]:
    """Each global that is read, with the attributes that are read from it at once."""
    for part in _nested(code):
        chain: list[str] = []
        for step in dis.get_instructions(part):
            if step.opname in {"LOAD_GLOBAL", "LOAD_NAME"}:
                if chain:
                    yield chain
                chain = [step.argval]
            elif chain and step.opname in {"LOAD_ATTR", "LOAD_METHOD"}:
                chain.append(step.argval)
            elif chain and step.opname not in {"CACHE", "EXTENDED_ARG", "NOP"}:
                yield chain
                chain = []
        if chain:
            yield chain


def class_body(cls: type) -> Mapping[str, Any]:
    """The functions and values in the body of a class, by name, without what Python puts there."""
    return {name: value for name, value in sorted(vars(cls).items()) if name not in _OF_PYTHON}


_OF_PYTHON = frozenset(
    {
        *(
            "__dict__",
            "__weakref__",
            "__slotnames__",
            "__doc__",
            "__module__",
            "__qualname__",
            "__slots__",
            "__firstlineno__",
        ),
        *("__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__"),
        *("__static_attributes__", "__match_args__", "__parameters__", "__orig_bases__"),
        *("__dataclass_fields__", "__dataclass_params__", "__abstractmethods__", "_abc_impl"),
        *("__subclasshook__", "__protocol_attrs__", "__non_callable_proto_members__"),
        *("_is_protocol", "_is_runtime_protocol"),
    }
)
