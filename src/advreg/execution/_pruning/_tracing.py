"""Tracing of a module's forward: its graph, with the value of each node on an example.

`torch.fx` follows a forward with symbols in place of tensors. Here each symbol has its value on the example
beside it, so that a forward that asks (`if x.shape[-1] > 64`, `range(x.shape[1])`) gets an answer. The
question stays in the graph: run on an input that answers otherwise, the graph raises `Elsewhere`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from operator import setitem
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import checkpoint

from advreg._core.modules import compiled, hooks, of_torch
from advreg._core.trees import tensors
from advreg.execution._pruning._writes import Marks, Witness, differing, marks, witnesses
from advreg.execution._state import restored


class UntraceableError(Exception):
    """A forward that does what a graph cannot; the message says what."""


class Elsewhere(Exception):  # noqa: N818 - a way out, not an error
    """An input for which the forward goes another way than the graph."""


def hold(value: Any, expected: bool | float) -> None:
    """Go on only where the forward would go the way of the graph."""
    if type(expected)(value) != expected:
        raise Elsewhere


_BLIND = {
    torch: ("zeros", "ones", "full", "empty", "eye", "arange", "linspace"),
    checkpoint: ("checkpoint",),
}
"""Functions that torch's tracing is blind to: they take sizes alone, or a module to run."""
_WRAPPED = tuple(getattr(module, name) for module, names in _BLIND.items() for name in names)


class Traced(fx.Tracer):
    """The graph of a module's forward on an example.

    torch's own modules become nodes; others are gone through. One that cannot be (it branches on what a
    graph does not know, switches gradients off, writes its own attributes) or that has hooks becomes a node
    too, and does in the graph what it does in the model. Nodes name modules, parameters and buffers.

    Args:
        model: The module. Attributes that its forward writes are the caller's to put back.
        example: Inputs, `(B, *input)`.
        coarse: Whether all modules but containers become nodes.

    Attributes:
        values: What each node gives on the example.
        written: The storages that each node writes to, by address.
        impure: Nodes whose run shows elsewhere than in the output.

    Raises:
        Exception: Of any type: the module's own forward cannot be traced.
    """

    proxy_buffer_attributes = True

    def __init__(self, model: nn.Module, example: Tensor, *, coarse: bool = False) -> None:
        super().__init__(autowrap_functions=_WRAPPED)
        self.example, self.coarse = example, coarse
        self.values: dict[fx.Node, Any] = {}
        self.written: dict[fx.Node, set[int]] = {}
        self.impure: set[fx.Node] = set()
        self._running, self._thread = False, get_ident()
        self._ambient = ambient()
        self._by_nodes: set[tuple[nn.Module, str]] = set()
        before = marks([model])
        with _followed():
            self.graph = self.trace(model)
        self._refuse_writes(before)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """Give the forward one symbol, and its other arguments their defaults."""
        del is_module, concrete_args
        return root_fn, [self.root, self.create_proxy("placeholder", "x", (), {})]

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Go through a module, or make it a node."""
        if self._bystander():
            return forward(*args, **kwargs)
        name = self.path_of_module(m)
        if not self.is_leaf_module(m, name):
            before, last = marks([m]), next(iter(reversed(self.graph.nodes)))
            try:
                with restored(m):
                    answer = forward(*args, **kwargs)
                    self._refuse_writes(before)
            except Exception:  # noqa: BLE001 - whatever cannot be followed can still be run
                self._forget(last)
            else:
                return answer
        return self.create_proxy("call_module", name, args, kwargs)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module becomes a node."""
        del module_qualified_name
        through = type(m) is nn.Sequential or not (of_torch(m) or self.coarse)
        own_way = "forward" in vars(m) or compiled(m)
        return not through or own_way or bool(hooks(m))

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        """Give a symbol for a parameter or buffer, but not to a module that is being run."""
        del parameter_proxy_cache  # its symbols would outlive nodes that are forgotten
        return attr_val if self._bystander() else super().getattr(attr, attr_val, {})

    def create_arg(self, a: Any) -> Any:
        """Keep a tensor that the forward makes in the graph: by default it is stored on the model."""
        known = a in self.tensor_attrs if isinstance(a, Tensor) else True
        if known or isinstance(a, nn.Parameter) or any(a is buffer for buffer in self.root.buffers()):
            return super().create_arg(a)
        return self.create_node("call_function", _constant(a), (), {})

    def create_node(
        self,
        kind: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str | None = None,
        type_expr: Any = None,
    ) -> fx.Node:
        """Make a node, and run it on the example."""
        if ambient() != self._ambient:
            raise UntraceableError(
                "its forward switches gradients or autocast on or off, or calls an autograd.Function"
            )
        node = super().create_node(kind, target, args, kwargs, name, type_expr)
        if kind == "placeholder":
            self.values[node] = self.example
        elif kind != "output":
            self._run(node)
        return node

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Make a symbol that knows its value."""
        return _Symbol(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Answer a branch, and keep the question in the graph."""
        return bool(self.settle(obj, bool))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """Go over as many entries as the value has, and keep their number in the graph."""
        return iter([obj[place] for place in range(len(obj))])  # type: ignore[index]  # torch adds it at import

    def settle(self, obj: fx.Proxy, kind: type[bool | int | float]) -> bool | float:
        """The value of a symbol, for good: the graph serves inputs with the same value only."""
        value = self.values[obj.node]
        if isinstance(value, Tensor) and kind is not bool:
            raise UntraceableError("its forward turns entries of a tensor into Python numbers")
        answer = kind(value)
        self.create_proxy("call_function", hold, (obj, answer), {})
        return answer

    def _bystander(self) -> bool:
        """Whether who asks is a module that a node runs, or another thread: torch's patches are global."""
        return self._running or get_ident() != self._thread

    def _run(self, node: fx.Node) -> None:
        args, kwargs = (fx.node.map_arg(part, self.values.__getitem__) for part in (node.args, node.kwargs))
        taken = [(tensor, Witness(tensor)) for tensor in tensors((args, kwargs))]
        name, watched = str(node.target), []
        runs = [self.root.get_submodule(name)] if node.op == "call_module" else args
        inside = [one for run in runs if isinstance(run, nn.Module) for one in run.modules()]
        if inside:
            watched = list(self.root.modules()) if any(map(hooks, inside)) else inside
        before, inner = marks(watched), witnesses(watched)
        self._running = True
        try:
            self.values[node] = self._value(node, name, args, kwargs)
        finally:
            self._running = False
        changed = differing(before, marks(watched))
        changed |= {place for place, seen in inner.items() if any(one.written() for one in seen)}
        self._by_nodes |= changed
        self.written[node] = {address(tensor) for tensor, witness in taken if witness.written()}
        shows = any(hooks(module) or (module.training and any(_own_buffers(module))) for module in inside)
        asserts = node.op == "call_function" and (node.target is hold or node.is_impure())
        asserts = asserts and not self.written[node]  # what is written is followed by storage
        if shows or asserts or changed:
            self.impure.add(node)

    def _value(self, node: fx.Node, name: str, args: Any, kwargs: Any) -> Any:
        if node.op == "call_function":
            return node.target(*args, **kwargs)  # type: ignore[operator]  # a string for other nodes only
        if node.op == "call_method":
            return getattr(args[0], name)(*args[1:], **kwargs)
        found: Any = self.root
        for part in name.split("."):
            found = getattr(found, part)
        return found(*args, **kwargs) if node.op == "call_module" else found

    def _refuse_writes(self, before: Marks) -> None:
        """A write to an attribute is not part of a graph; those that nodes make are made again."""
        for module, name in differing(before, marks(before)) - self._by_nodes:
            raise UntraceableError(f"the forward of {type(module).__name__} writes its attribute {name!r}")

    def _forget(self, last: fx.Node) -> None:
        """Take back the nodes that came after one."""
        for node in list(reversed(self.graph.nodes)):
            if node is last:
                return
            self.graph.erase_node(node)
            for record in (self.values, self.written):
                record.pop(node, None)
            self.impure.discard(node)


class _Symbol(fx.Proxy):
    """A symbol that answers with its value where only a value will do."""

    tracer: Traced

    def __getattr__(self, k: str) -> Any:
        found = getattr(self.tracer.values[self.node], k)
        if isinstance(found, (torch.dtype, torch.device, torch.layout)):
            return found  # the same for every input that this graph is made for
        if callable(found):
            return super().__getattr__(k)
        return self.tracer.create_proxy("call_function", getattr, (self, k), {})

    def __setitem__(self, place: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", setitem, (self, place, value), {})

    def __len__(self) -> int:
        return int(self.tracer.settle(self.tracer.create_proxy("call_function", len, (self,), {}), int))

    def __int__(self) -> int:
        return int(self.tracer.settle(self, int))

    __index__ = __int__

    def __float__(self) -> float:
        return float(self.tracer.settle(self, float))


def address(tensor: Tensor) -> int:
    """Address of a tensor's storage: the same for all views of it."""
    return tensor.untyped_storage().data_ptr()


def ambient() -> tuple[bool, ...]:
    """The switches that hold for all that is computed: they are not part of a graph."""
    autocast = [torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")]
    return (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), *autocast)


def _own_buffers(module: nn.Module) -> Iterator[bool]:
    return (True for _ in module.named_buffers(recurse=False))


@contextmanager
def _followed() -> Iterator[None]:
    """Make calls of blind functions with a symbol among their arguments nodes, whoever makes them."""
    own = [(module, name, getattr(module, name)) for module, names in _BLIND.items() for name in names]
    try:
        for module, name, function in own:
            setattr(module, name, _following(function))
        yield
    finally:
        for module, name, function in own:
            setattr(module, name, function)


def _following(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        symbols: list[fx.Proxy] = []
        fx.node.map_aggregate(
            (args, kwargs), lambda one: symbols.append(one) if isinstance(one, fx.Proxy) else None
        )
        if symbols:
            return symbols[0].tracer.create_proxy("call_function", function, args, kwargs)
        return function(*args, **kwargs)

    return call


def _constant(tensor: Tensor) -> Callable[[], Tensor]:
    kept = tensor.detach().clone()

    def constant() -> Tensor:
        return kept.clone()  # the forward may write to it

    return constant
