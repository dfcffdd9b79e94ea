"""State of modules: all that running them may change, taken once and put back in full."""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from advreg._core.modules import sharded

DEEP = 4
"""How many containers or objects inside one another are looked through."""


class Containers:
    """The attributes of modules, and what lists, sets, dictionaries and plain objects among them hold.

    Plain objects, such as an observer that counts, are of classes that neither torch nor Python's own library
    defines.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        attributes = [vars(module) for module in modules]
        found: dict[int, Any] = {id(own): own for own in attributes}
        layer: list[Any] = [value for own in attributes for value in own.values()]
        for _ in range(DEEP):
            layer = [one for value in layer for one in (value if isinstance(value, tuple) else (value,))]
            inner = {id(one): one for one in map(_container, layer) if one is not None}
            new = [one for key, one in inner.items() if key not in found]
            found |= inner
            layer = [value for one in new for value in (one.values() if isinstance(one, dict) else one)]
        self._held = [(one, one.copy() if len(one) else ()) for one in found.values()]  # most are empty

    def entries(self) -> Iterator[Any]:
        """All that they hold."""
        for _, held in self._held:
            yield from held.values() if isinstance(held, dict) else held

    def restore(self) -> None:
        """Put it back, any number of times; what is as it was stays untouched."""
        for container, held in self._held:
            if not _identical(container, held):
                container.clear()
                (container.extend if isinstance(container, (list, deque)) else container.update)(held)


class State:
    """The state of modules, which `restore` puts back, any number of times.

    Flags and gradients of parameters, train and eval modes, attributes, and the entries of buffers and of
    other tensors among the attributes.
    """

    def __init__(self, modules: list[nn.Module]) -> None:
        self._flags = [(p, p.requires_grad, p.grad) for m in modules for p in m.parameters(recurse=False)]
        self._modes = [(module, module.training) for module in modules if hasattr(module, "training")]
        self._sharded = sharded(modules)  # their parameters change in a forward
        self._containers = Containers(modules)
        held = [one for entry in self._containers.entries() for one in _inside(entry)]
        held += () if self._sharded else (buffer for m in modules for buffer in m.buffers(False))
        known = {id(one): one for one in held}.values()
        own = [one for one in known if isinstance(one, Tensor) and not isinstance(one, nn.Parameter)]
        self._tensors = [(tensor, tensor.detach().clone()) for tensor in own]
        self._arrays = [(array, array.copy()) for array in known if isinstance(array, np.ndarray)]
        self._generators = [(one, _chance(one)) for one in known if isinstance(one, _GENERATORS)]
        self._weights = [  # too large for a copy
            (f"{type(module).__name__}.{name}", parameter, _checksum(parameter))
            for module in ([] if self._sharded else modules)
            for name, parameter in module.named_parameters(recurse=False)
            if not is_lazy(parameter)
        ]

    def written(self) -> list[str]:
        """The names of parameters whose entries are others now; they are not put back."""
        return [name for name, one, before in self._weights if not torch.equal(_checksum(one), before)]

    def freeze(self) -> None:
        """Let no parameter require a gradient."""
        for parameter, _, _ in self._flags:
            parameter.requires_grad_(False)

    def restore(self) -> None:
        """Put everything back."""
        for module in self._sharded:
            module.reshard()
        for parameter, flag, gradient in self._flags:
            if parameter.requires_grad != flag:
                with torch.inference_mode(parameter.is_inference()):
                    parameter.requires_grad_(flag)
            if parameter.grad is not gradient:
                parameter.grad = gradient
        self._containers.restore()
        for module, training in self._modes:
            module.training = training
        self._restore_values()

    def _restore_values(self) -> None:
        for tensor, value in self._tensors:
            if not _same(tensor, value):
                with torch.inference_mode(tensor.is_inference()):
                    tensor.data.copy_(value)  # unseen by autograd, which may hold it for a pass to come
        for array, own in self._arrays:
            if not np.array_equal(array, own):
                array[...] = own
        for generator, state in self._generators:
            _set_chance(generator, state)


_FOREIGN = {"torch", "numpy", "lightning", "pytorch_lightning", *sys.stdlib_module_names} - {"__main__"}


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Put back the attributes of all modules of a model, and what their lists, sets and dictionaries hold.

    Tensors written in place are not put back: `advreg.execution.frozen` does that.
    """
    containers = Containers(model.modules())
    try:
        yield
    finally:
        containers.restore()


def in_full(restore: Callable[[], None]) -> Callable[[], None]:
    """What puts a state back, once and to its end, however often interrupted; then the interrupt goes on."""
    left = [restore]

    def put_back() -> None:
        interrupt: KeyboardInterrupt | None = None
        while left:
            try:
                restore()
                left.clear()
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt

    return put_back


_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


def _chance(generator: Any) -> Any:
    """The state of a generator of a model's own."""
    match generator:
        case torch.Generator() | np.random.RandomState():
            return generator.get_state()
        case np.random.Generator():
            return generator.bit_generator.state
        case _:
            return generator.getstate()


def _set_chance(generator: Any, state: Any) -> None:
    match generator:
        case torch.Generator() | np.random.RandomState():
            generator.set_state(state)
        case np.random.Generator():
            generator.bit_generator.state = state
        case _:
            generator.setstate(state)


def _checksum(tensor: Tensor) -> Tensor:
    """A whole number that changes with the bits of the entries; made where the tensor is."""
    plain = tensor.detach()
    if plain.is_meta or plain.layout != torch.strided or plain.is_quantized:
        return torch.zeros((), dtype=torch.int64)
    plain = torch.view_as_real(plain) if plain.is_complex() else plain
    bits = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[plain.element_size()]
    return plain.view(bits).sum()


_PLAIN = {type(None), bool, int, float, str, torch.Tensor, nn.Parameter}
"""Types of most attributes, which hold nothing: a short way past the questions below."""


def _inside(entry: Any) -> Any:
    """A value, and those of a tuple."""
    return entry if isinstance(entry, tuple) else (entry,)


def _container(value: Any) -> dict[Any, Any] | list[Any] | set[Any] | deque[Any] | None:
    """What a value holds, as a container that can be filled again."""
    own = type(value)
    if own in _PLAIN:
        return None
    if isinstance(value, (dict, list, set, deque)):
        return value
    if isinstance(value, (nn.Module, Tensor, type)) or not isinstance(getattr(value, "__dict__", None), dict):
        return None
    plain = own.__module__.partition(".")[0] not in _FOREIGN and not callable(getattr(own, "__get__", None))
    return vars(value) if plain else None


def _identical(one: Any, other: Any) -> bool:
    """Whether two containers hold the very same objects, in the same order."""
    if not len(one) and not len(other):  # as most are
        return True
    same = len(one) == len(other) and all(map(is_, one, other))
    return same and (not isinstance(one, dict) or all(map(is_, one.values(), other.values())))


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether all entries are the same, zeros of either sign told apart; NaN is never the same."""
    signs = one.is_floating_point()
    return torch.equal(one, other) and not (signs and not torch.equal(one.signbit(), other.signbit()))
