"""Text of functions, methods, classes and modules of Python."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import (
    FunctionType,
    MethodType,
    ModuleType,
)
from typing import Any

from advreg._core.fingerprint._code import (
    code_text,
    globals_read,
    imports_inside,
    installed,
    module_text,
    name_of,
    own_module,
)
from advreg._core.fingerprint._walk import Path, Walk


def of_function(walk: Walk, function: FunctionType, path: Path) -> str:
    name, code = name_of(function), function.__code__
    if not installed(code.co_filename):
        pieces = [*_of_code(walk, function, path), *_held(walk, function, path)]
    elif function.__closure__ and "_dynamo" not in code.co_filename:
        pieces = _held(walk, function, path)
    else:
        walk.package(function.__module__)
        wrapped = getattr(function, "__wrapped__", None)
        pieces = [] if wrapped is None else [walk.text(wrapped, path)]
    return f"{name}[{', '.join(pieces)}]" if pieces else name


def _of_code(walk: Walk, function: FunctionType, path: Path) -> list[str]:
    """A function's code, and the globals and modules that it reads."""
    pieces = [code_text(function.__code__)]
    walk.note(path, "its code", pieces[0])
    for name, value in globals_read(function):
        pieces.append(f"{name}={walk.piece(path, f'its global {name!r}', value)}")
    for module in imports_inside(function):
        text = module_text(module) or ""
        walk.package(module)
        walk.note(path, f"the module {module!r} that it imports", text)
        pieces.append(f"{module}={text}")
    return pieces


def _held(walk: Walk, function: FunctionType, path: Path) -> list[str]:
    """What a function holds on to: variables of functions around it, default arguments, attributes."""
    pieces = []
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
        pieces.append(f"{name}={walk.piece(path, f'its variable {name!r}', value)}")
    for name, value in _defaults(function).items():
        pieces.append(f"{name}={walk.piece(path, f'its default {name!r}', value)}")
    for name, value in sorted(vars(function).items()):
        if name != "__wrapped__":  # which is a variable too
            pieces.append(f"{name}={walk.piece(path, f'its attribute {name!r}', value)}")
    return pieces


def _defaults(function: FunctionType) -> dict[str, Any]:
    values = function.__defaults__ or ()
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    return {
        **dict(zip(names[len(names) - len(values) :], values, strict=True)),
        **(function.__kwdefaults__ or {}),
    }


def of_class(walk: Walk, cls: type, path: Path) -> str:
    body = walk.body(cls, path)
    return f"{name_of(cls)}[{body}]" if body else name_of(cls)


def of_partial(walk: Walk, bound: partial[Any], path: Path) -> str:
    cells = [walk.text(bound.func, path)]
    cells += [walk.piece(path, f"its argument {at}", value) for at, value in enumerate(bound.args)]
    cells += [
        f"{key}={walk.piece(path, f'its argument {key!r}', value)}" for key, value in bound.keywords.items()
    ]
    return f"{type(bound).__name__}({', '.join(cells)})"


def of_method(walk: Walk, method: MethodType, path: Path) -> str:
    owner = walk.text(method.__self__, path)
    return f"{owner}.{method.__func__.__name__}[{walk.text(method.__func__, path)}]"


def of_builtin(walk: Walk, function: Any, path: Path) -> str:
    owner = function.__self__
    if owner is None or isinstance(owner, (ModuleType, type)) or "torch" in type(owner).__module__:
        walk.package(getattr(function, "__module__", None))
        return name_of(function)
    return f"{walk.text(owner, path)}.{function.__name__}"


def of_descriptor(walk: Walk, thing: Any, path: Path) -> str:
    functions = [getattr(thing, name, None) for name in ("__func__", "fget", "fset", "func")]
    told = [walk.text(function, path) for function in functions if function is not None]
    return f"{type(thing).__name__}({', '.join(told)})"


def of_python_module(walk: Walk, module: ModuleType, _: Path) -> str:
    walk.package(module.__name__)
    return f"module {module.__name__} {module_text(module.__name__) or ''}"


def foreign(hook: Callable[..., Any]) -> bool:
    """Whether a hook is machinery of an installed package: a function of its, or a method of its objects."""
    function = getattr(hook, "__func__", hook)
    if isinstance(function, FunctionType):
        return installed(function.__code__.co_filename) and not own_module(str(function.__module__))
    return not own_module(type(hook).__module__)
