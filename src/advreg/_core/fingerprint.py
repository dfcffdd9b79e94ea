"""Fingerprints of models, data and functions: texts that differ where what they stand for does."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Mapping
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


def digest(thing: Any) -> str:
    """The SHA-256 of `describe(thing)`."""
    return hashlib.sha256(describe(thing).encode()).hexdigest()


def describe(thing: Any) -> str:
    """A text that is the same in every process, and differs where things that are told by value do.

    Tensors, arrays and the state of modules stand in it by their digest, functions by their name; those
    without one of their own, lambdas and inner functions, also by their code and what they hold on to. What
    a function reads from its module is not seen.

    Example:
        >>> from functools import partial
        >>> from advreg import J_IND_reg, Threat, linf, on
        >>> describe(partial(on, "mask", function=J_IND_reg))
        "partial(advreg.objectives._combine.on, 'mask', function=advreg.objectives._paper.J_IND_reg)"
        >>> describe(Threat(linf, 0.03))
        'Threat(norm=_Linf(), radius=0.03, bounds=tuple(0.0, 1.0), mask=None)'
    """
    return _describe(thing, frozenset())


def _describe(thing: Any, outer: frozenset[int]) -> str:
    if id(thing) in outer:
        return "..."
    inner = partial(_describe, outer=outer | {id(thing)})
    for kind, told in _KINDS:
        if isinstance(thing, kind):
            return told(thing, inner)
    text = _without_addresses(repr(thing))
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        fields = {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing)}
    elif text.endswith(" object>"):
        fields = getattr(thing, "__dict__", {})
    else:
        return text
    return f"{type(thing).__qualname__}({', '.join(_pairs(fields, inner))})"


def _tensor(tensor: Tensor, _: _Inner) -> str:
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return f"tensor({tensor.dtype}, {tuple(tensor.shape)}, {hashlib.sha256(data.data).hexdigest()})"


def _array(array: NDArray[Any], inner: _Inner) -> str:
    if array.dtype == object:
        return f"array{inner(array.tolist())}"
    data = np.ascontiguousarray(array).tobytes()
    return f"array({array.dtype}, {array.shape}, {hashlib.sha256(data).hexdigest()})"


def _module(module: nn.Module, inner: _Inner) -> str:
    state = inner(dict(module.state_dict())) + _without_addresses(repr(module))
    return f"{type(module).__qualname__}({hashlib.sha256(state.encode()).hexdigest()})"


def _partial(bound: partial[Any], inner: _Inner) -> str:
    cells = [inner(value) for value in (bound.func, *bound.args)]
    return f"partial({', '.join(cells + _pairs(bound.keywords, inner))})"


def _mapping(mapping: Mapping[Any, Any], inner: _Inner) -> str:
    cells = (f"{inner(key)}: {inner(value)}" for key, value in mapping.items())
    return f"{type(mapping).__qualname__}({', '.join(cells)})"


def _function(function: FunctionType, inner: _Inner) -> str:
    name = f"{function.__module__}.{function.__qualname__}"
    if "<" not in name:
        return name
    held = [cell.cell_contents for cell in function.__closure__ or ()]
    parts = (function.__defaults__, function.__kwdefaults__, held)
    return f"{name}[{_code(function.__code__)}, {', '.join(map(inner, parts))}]"


_Inner: TypeAlias = Callable[[Any], str]


_KINDS: tuple[tuple[Any, Callable[[Any, _Inner], str]], ...] = (
    (Tensor, _tensor),
    (np.ndarray, _array),
    (nn.Module, _module),
    (partial, _partial),
    (FunctionType, _function),
    (MethodType, lambda method, inner: f"{inner(method.__self__)}.{method.__name__}"),
    (Mapping, _mapping),
    ((tuple, list), lambda items, inner: f"{type(items).__qualname__}({', '.join(map(inner, items))})"),
)


def _pairs(fields: Mapping[str, Any], inner: _Inner) -> list[str]:
    return [f"{key}={inner(value)}" for key, value in fields.items()]


def _code(code: CodeType) -> str:
    constants = [_code(value) if isinstance(value, CodeType) else repr(value) for value in code.co_consts]
    text = f"{code.co_code.hex()} {code.co_names} {constants}"
    return hashlib.sha256(text.encode()).hexdigest()


def _without_addresses(text: str) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)
