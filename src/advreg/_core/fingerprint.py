"""Fingerprints of models, data and functions: texts that differ where what they stand for does."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import logging
import os
import re
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from enum import Enum
from functools import cached_property, partial
from pathlib import PurePath
from types import (
    BuiltinFunctionType,
    FunctionType,
    GeneratorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
)
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from advreg._core.code import (
    class_body,
    code_text,
    globals_read,
    imports_inside,
    installed,
    module_text,
    name_of,
    own_module,
    package_version,
    without_addresses,
)
from advreg._core.modules import hooks, of_torch

_LONG = 200  # characters; a longer text stands inside another by its digest
_MANY = 64  # entries of a collection, of which each has a fact of its own
_DEEP = 100  # levels; what lies deeper is told by its type


def digest(thing: Any) -> str:
    """The SHA-256 of `describe(thing)`."""
    return hashlib.sha256(describe(thing).encode()).hexdigest()


def describe(thing: Any) -> str:
    """A text that is the same in every process, and differs where what a thing computes may differ.

    Seen are
    - tensors and arrays: dtype, shape and every bit, wherever they are and however they are laid out or
      spread over processes;
    - modules: parameters, buffers, also those that are not saved, train mode, hooks and plain attributes of
      every layer;
    - functions: their code, default arguments, closures, own attributes, and the globals that they read with
      all that those are, functions that they call among them;
    - objects: what they hold, in `__dict__` or `__slots__`, whatever their `__repr__` shows; the functions
      and values in the bodies of their classes;
    - collections, bound methods and partial functions: what they consist of.

    Functions and classes of installed packages are told by name; `facts` adds the version. Not seen are
    files, environment variables and the time, a module's own names that are found by a text
    (`globals()["scale"]`), C code, what lies deeper than a hundred levels, and the state of loggers, open
    files, threads and weak references. Where a thing counts or caches as it is used, it is another one
    afterwards; values of a `functools.cached_property` do not count.

    Example:
        >>> from functools import partial
        >>> from advreg import J_IND_reg, Threat, linf, on
        >>> describe(partial(on, "mask", function=J_IND_reg))
        "partial(advreg.objectives._combine.on, 'mask', function=advreg.objectives._paper.J_IND_reg)"
        >>> describe(Threat(linf, 0.03))
        'Threat(norm=_Linf(), radius=0.03, bounds=tuple(0.0, 1.0), mask=None)'
    """
    return _Walk().whole(thing, None)


def facts(thing: Any) -> dict[str, str]:
    """What `describe` sees of a thing, piece by piece, so that what differs between two has a name.

    Returns:
        Names of pieces, such as "its global 'scale'", and the text of each; `""` is the whole, and
        "package torch" the version of a package that functions or classes come from.

    Example:
        >>> scale = 2.0
        >>> found = facts({"scale": scale, "shift": None})
        >>> found["its entry 'scale'"], found[""]
        ('2.0', "dict('scale': 2.0, 'shift': None)")
    """
    walk = _Walk()
    text = walk.whole(thing, ())
    return {"": text, **walk.facts}


def weights(found: Mapping[str, str]) -> dict[str, str]:
    """Those of the facts that are about parameters and buffers."""
    return {name: text for name, text in found.items() if "its parameter " in name or "its buffer " in name}


Path: TypeAlias = tuple[str, ...] | None


class _Walk:
    """One way through a thing: each object on it is described once."""

    def __init__(self) -> None:
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
        told = next((told for kind, told in _KINDS if isinstance(thing, kind)), _instance)
        text = told(self, thing, path)
        self._open.discard(id(thing))
        self._kept.append(thing)
        self._texts[id(thing)] = _short(text)
        return text

    def text(self, thing: Any, path: Path) -> str:
        """The text of a thing as it stands inside another."""
        return _short(self.whole(thing, path))

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
            self._bodies[id(cls)] = f"#{_hash(', '.join(pieces))}" if pieces else ""
        return self._bodies[id(cls)]

    def package(self, module: Any) -> None:
        """Note the version of the package that a module belongs to."""
        top = module.split(".")[0] if isinstance(module, str) else ""
        if top and top not in sys.stdlib_module_names and not own_module(module):
            self.facts[f"package {top}"] = package_version(top)


# Tensors and modules


def _tensor(walk: _Walk, tensor: Tensor, path: Path) -> str:
    if is_lazy(tensor):
        return "tensor(not initialised)"
    whole = getattr(tensor, "full_tensor", None)  # of a DTensor, whose parts are on several processes
    if whole is not None:
        tensor = whole()
    kind = f"{tensor.dtype}, {tuple(tensor.shape)}"
    if tensor.is_meta:
        return f"tensor({kind}, no data)"
    if type(tensor) not in {Tensor, nn.Parameter} and hasattr(tensor, "__tensor_flatten__"):
        names, options = tensor.__tensor_flatten__()
        inner = [walk.text(getattr(tensor, name), path) for name in names]
        return f"{name_of(type(tensor))}({kind}, {', '.join(inner)}, {walk.text(options, None)})"
    if tensor.is_nested:
        return f"nested({', '.join(walk.text(each, path) for each in tensor.unbind())})"
    plain = tensor.detach().dequantize() if tensor.is_quantized else tensor.detach()
    plain = plain.to_dense() if plain.layout != torch.strided else plain
    plain = plain.cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    data = plain.view(torch.uint8).clone().numpy()  # a copy: numpy forbids for ever to resize what it saw
    return f"tensor({kind}, {hashlib.sha256(data.data).hexdigest()})"


def _array(walk: _Walk, array: NDArray[Any], path: Path) -> str:
    if array.dtype.hasobject:
        return f"array{walk.text(array.tolist(), path)}"
    data = np.ascontiguousarray(array).tobytes()
    return f"array({array.dtype}, {array.shape}, {hashlib.sha256(data).hexdigest()})"


def _module(walk: _Walk, module: nn.Module, path: Path) -> str:
    layers = [_layer(walk, name, layer, path) for name, layer in module.named_modules()]
    layers += _graph(walk, module, path)
    text = "; ".join(layers)
    return f"{type(module).__qualname__}(#{_hash(text)})"


def _layer(walk: _Walk, name: str, layer: nn.Module, path: Path) -> str:
    dot = f"{name}." if name else ""
    tensors = [
        f"{key}={walk.piece(path, f'its {kind} {dot + key!r}', value)}"
        for kind, named in (("parameter", layer.named_parameters), ("buffer", layer.named_buffers))
        for key, value in named(recurse=False)
    ]
    here = path if path is None or not name else (*path, f"layer {name!r}")
    plain = of_torch(layer)
    attributes = _attributes(layer)
    inside = None if plain else here
    told = [f"{key}={walk.piece(inside, f'its attribute {key!r}', attributes[key])}" for key in attributes]
    if plain:
        walk.note(here, "its options", _short(f"{name_of(type(layer))}({', '.join(told)})"))
    told += [
        f"hook={walk.piece(here, f'its hook {number}', _Named(hook) if _foreign(hook) else hook)}"
        for number, hook in enumerate(hooks(layer))
    ]
    children = [key for key, _ in layer.named_children()]
    text = f"{walk.body(type(layer), here)}{name_of(type(layer))}({', '.join(told)}) {children}"
    return f"{name}: {text} {tensors}"


def _attributes(layer: nn.Module) -> dict[str, Any]:
    """What a layer holds besides its parameters, buffers, layers and hooks."""
    if isinstance(layer, fx.GraphModule):
        return {"training": layer.training, "code": layer.code}
    if isinstance(layer, torch.jit.ScriptModule) or type(layer).__module__.startswith(_WRAPPERS):
        return {"training": getattr(layer, "training", None)}
    held = {
        key: value
        for key, value in _state(layer).items()
        if key not in _OF_TORCH and not key.startswith("__composable_api_state_key")  # of fully_shard
    }
    return {**held, "training": layer.training}


def _graph(walk: _Walk, module: nn.Module, path: Path) -> list[str]:
    """What TorchScript runs: its graph, the constants in it, and the plain attributes that it reads."""
    if not isinstance(module, torch.jit.ScriptModule):
        return []
    try:
        graph = module.inlined_graph
    except (AttributeError, RuntimeError):  # a module that has no forward
        return []
    text = re.sub(r"___torch_mangle_\d+\.|\s*#.*", "", str(graph))
    nodes = graph.findAllNodes("prim::Constant", recurse=True)  # type: ignore[attr-defined]  # torch's gap
    constants = [node.output().toIValue() for node in nodes]
    reads = sorted(set(re.findall(r'GetAttr\[name="([^"]+)"\]', text)))
    values = [
        getattr(layer, name, None)
        for _, layer in module.named_modules()
        for name in reads
        if not isinstance(getattr(layer, name, None), (nn.Module, Tensor))
    ]
    tensors = [each for each in constants if isinstance(each, Tensor)]
    return [walk.piece(path, "its script", text), walk.piece(path, "its constants", [tensors, values])]


# Functions and classes


def _function(walk: _Walk, function: FunctionType, path: Path) -> str:
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


def _of_code(walk: _Walk, function: FunctionType, path: Path) -> list[str]:
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


def _held(walk: _Walk, function: FunctionType, path: Path) -> list[str]:
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


def _type(walk: _Walk, cls: type, path: Path) -> str:
    body = walk.body(cls, path)
    return f"{name_of(cls)}[{body}]" if body else name_of(cls)


def _partial(walk: _Walk, bound: partial[Any], path: Path) -> str:
    cells = [walk.text(bound.func, path)]
    cells += [walk.piece(path, f"its argument {at}", value) for at, value in enumerate(bound.args)]
    cells += [
        f"{key}={walk.piece(path, f'its argument {key!r}', value)}" for key, value in bound.keywords.items()
    ]
    return f"{type(bound).__name__}({', '.join(cells)})"


def _method(walk: _Walk, method: MethodType, path: Path) -> str:
    owner = walk.text(method.__self__, path)
    return f"{owner}.{method.__func__.__name__}[{walk.text(method.__func__, path)}]"


def _builtin(walk: _Walk, function: Any, path: Path) -> str:
    owner = function.__self__
    if owner is None or isinstance(owner, (ModuleType, type)) or "torch" in type(owner).__module__:
        walk.package(getattr(function, "__module__", None))
        return name_of(function)
    return f"{walk.text(owner, path)}.{function.__name__}"


def _descriptor(walk: _Walk, thing: Any, path: Path) -> str:
    functions = [getattr(thing, name, None) for name in ("__func__", "fget", "fset", "func")]
    told = [walk.text(function, path) for function in functions if function is not None]
    return f"{type(thing).__name__}({', '.join(told)})"


def _python_module(walk: _Walk, module: ModuleType, _: Path) -> str:
    walk.package(module.__name__)
    return f"module {module.__name__} {module_text(module.__name__) or ''}"


# Other objects


def _mapping(walk: _Walk, mapping: Mapping[Any, Any], path: Path) -> str:
    below = path if len(mapping) <= _MANY else None
    cells = (
        f"{walk.text(key, None)}: {walk.piece(below, f'its entry {key!r}', value)}"
        if isinstance(key, (str, int))
        else f"{walk.text(key, below)}: {walk.text(value, below)}"
        for key, value in mapping.items()
    )
    return f"{type(mapping).__qualname__}({', '.join(cells)})"


def _sequence(walk: _Walk, items: Iterable[Any], path: Path) -> str:
    listed = list(items)
    below = path if len(listed) <= _MANY else None
    cells = (walk.piece(below, f"its entry {at}", item) for at, item in enumerate(listed))
    return f"{type(items).__qualname__}({', '.join(cells)})"


def _set(walk: _Walk, items: Iterable[Any], _: Path) -> str:
    return f"{type(items).__qualname__}({', '.join(sorted(walk.text(item, None) for item in items))})"


def _instance(walk: _Walk, thing: Any, path: Path) -> str:
    """Any other object: the bodies of its class, what it contains as a collection or number, its state."""
    cls = type(thing)
    body = walk.body(cls, path)
    held = next((told(walk, thing, path) for kind, told in _CONTENT if isinstance(thing, kind)), "")
    state = _state(thing)
    if dataclasses.is_dataclass(thing):
        names = [field.name for field in dataclasses.fields(thing) if field.name in state]
        state = {name: state[name] for name in dict.fromkeys([*names, *state])}
    elif not state and not held:
        return f"{body} {_reduced(walk, thing, path)}".strip()
    elif not state:
        return f"{body} {held}".strip()
    pieces = [f"{key}={walk.piece(path, f'its attribute {key!r}', value)}" for key, value in state.items()]
    return f"{body} {held} {cls.__qualname__}({', '.join(pieces)})".strip().replace("  ", " ")


def _state(thing: Any) -> dict[str, Any]:
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


def _reduced(walk: _Walk, thing: Any, path: Path) -> str:
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


def _enum(walk: _Walk, member: Enum, path: Path) -> str:
    return f"{name_of(type(member))}.{member.name}[{walk.text(member.value, path)}]"


class _Named:
    """Something that is told by its name alone."""

    def __init__(self, thing: Any) -> None:
        self.name = name_of(getattr(thing, "__func__", thing))


def _foreign(hook: Callable[..., Any]) -> bool:
    """Whether a hook is machinery of an installed package: a function of its, or a method of its objects."""
    function = getattr(hook, "__func__", hook)
    if isinstance(function, FunctionType):
        return installed(function.__code__.co_filename) and not own_module(str(function.__module__))
    return not own_module(type(hook).__module__)


def _only_named(_: _Walk, thing: Any, __: Path) -> str:
    return thing.name if isinstance(thing, _Named) else name_of(type(thing))


def _short(text: str) -> str:
    if len(text) <= _LONG:
        return text
    kind = re.split(r"[(\[]", text[:40])[0]
    return f"{kind}(#{_hash(text)})"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:32]


_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented)})


_OF_TORCH = frozenset(vars(nn.Module()))  # where a module keeps its parameters, layers and hooks


_WRAPPERS = ("torch._dynamo", "torch.nn.parallel")  # modules around a network


_Told: TypeAlias = Callable[[_Walk, Any, Path], str]


_KINDS: tuple[tuple[Any, _Told], ...] = (
    (Tensor, _tensor),
    (np.ndarray, _array),
    (nn.Module, _module),
    (partial, _partial),
    (FunctionType, _function),
    (MethodType, _method),
    ((BuiltinFunctionType, MethodWrapperType), _builtin),
    ((staticmethod, classmethod, property, cached_property), _descriptor),
    (type, _type),
    (ModuleType, _python_module),
    (Enum, _enum),
    (
        (
            _Named,
            logging.Logger,
            logging.Handler,
            io.IOBase,
            weakref.ReferenceType,
            weakref.WeakKeyDictionary,
            weakref.WeakValueDictionary,
            weakref.WeakSet,
            ContextVar,
            GeneratorType,
            threading.Thread,
            threading.local,
            MemberDescriptorType,
            RemovableHandle,
            type(os.environ),
            torch.device,  # results on another agree up to rounding
        ),
        _only_named,
    ),
    (PurePath, lambda _, path, __: f"path {str(path)!r}"),
    ((torch.dtype, torch.layout, torch.memory_format, np.dtype), lambda _, thing, __: repr(thing)),
    (np.generic, lambda _, number, __: f"{number.dtype} {number.item()!r}"),
    (torch.Generator, lambda walk, thing, path: f"generator {walk.text(thing.get_state(), path)}"),
    (
        torch.jit.ScriptFunction,
        lambda _, thing, __: f"script {thing.code} {without_addresses(str(thing.graph))}",
    ),
)


_CONTENT: tuple[tuple[Any, _Told], ...] = (
    ((dict, MappingProxyType), _mapping),
    ((tuple, list), _sequence),
    ((set, frozenset), _set),
    (int, lambda _, number, __: int.__repr__(number)),
    (float, lambda _, number, __: float.__repr__(number)),
    (complex, lambda _, number, __: complex.__repr__(number)),
    (str, lambda _, text, __: str.__repr__(text)),
    (bytes, lambda _, text, __: bytes.__repr__(text)),
)
