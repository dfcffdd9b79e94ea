"""Cutting of a traced forward: the part of its graph that some heads need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from inspect import signature
from operator import getitem
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor, fx, nn

from advreg._core.trees import head, tensors
from advreg._core.types import Output
from advreg.execution._pruning._tracing import Elsewhere, Traced, address, hold

Forward: TypeAlias = Callable[[nn.Module, Tensor], Output]
"""Of the module and its input, since it looks up submodules, parameters and buffers by name."""


class Part(NamedTuple):
    """A forward that computes some heads, as a dict.

    `bound`: for inputs of the example's shape only, in any number; on others it raises `Elsewhere`.
    """

    forward: Forward
    bound: bool


def cut(traced: Traced, keys: Iterable[str | int]) -> Part | None:
    """The part of a forward that some heads need; None where that is all. It uses the graph up.

    Needed is what the heads are computed from, what shows elsewhere (`Traced.impure`), and what writes to the
    storage of anything needed, of the input, of a parameter or of a buffer. A branch on the shape of what is
    not needed is left out: the shape of the input decides it.

    Raises:
        KeyError: The output has no such head.
    """
    graph, values = traced.graph, traced.values
    first, end = next(iter(graph.nodes)), next(iter(reversed(graph.nodes)))
    with graph.inserting_before(end):
        end.args = ({key: _head(traced, end.args[0], key) for key in keys},)
    # Storages that outlive the call: a write to one of them is seen by others, whatever the heads need.
    own = {address(tensor) for tensor in (traced.example, *traced.root.parameters(), *traced.root.buffers())}
    on_shapes = {node for node in traced.impure if node.target is hold and _of_shapes(traced, node)}
    # Grow what is live until nothing changes: the ancestors of the heads and of all that shows elsewhere;
    # then nodes that write to a storage that something live holds, their ancestors, and so on.
    live = {first}
    more: Iterable[fx.Node] = [end, *(traced.impure - on_shapes)]
    while more:
        live |= _ancestors(more)
        held = own | {address(tensor) for node in live for tensor in tensors(values.get(node))}
        more = [node for node, places in traced.written.items() if node not in live and places & held]
    # A branch on the shape of something dead: the shape of the input decides it, so that the part serves
    # inputs of that shape (`bound`), and the branch need not be asked. Other branches are kept.
    bound = False
    for node in on_shapes:
        missing = _ancestors([node]) - live
        if any(_holds_tensors(values[one]) for one in missing):
            bound = True
        else:
            live |= missing
    dead = [node for node in graph.nodes if node not in live]
    if all(address(tensor) in held for node in dead for tensor in tensors(values[node])):
        return None
    for node in reversed(dead):
        graph.erase_node(node)
    if bound:
        with graph.inserting_after(first):
            graph.call_function(_hold_shape, (first, tuple(traced.example.shape[1:])))
    for node in graph.nodes:
        node.meta.pop("is_wrapped", None)  # else torch notes the function for all tracing to come
    return Part(type(fx.GraphModule(traced.root, graph)).forward, bound)


def _head(traced: Traced, output: Any, key: str | int) -> Any:
    """One head of the graph's output: where the forward makes a dataclass or named tuple, an argument."""
    if not isinstance(output, fx.Node):
        return head(output, key, "output")
    value = traced.values[output]
    if isinstance(output.target, type) and not isinstance(value, Mapping):
        given = signature(output.target).bind(*output.args, **output.kwargs).arguments
        return given[list(given)[key] if isinstance(key, int) else key]
    head(value, key, "output")
    by_key = isinstance(value, Mapping) or isinstance(key, int)
    return traced.graph.call_function(getitem if by_key else getattr, (output, key))


def _ancestors(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """Nodes, and all that they are computed from."""
    found, left = set(), list(nodes)
    while left:
        node = left.pop()
        if node not in found:
            found.add(node)
            left += node.all_input_nodes
    return found


def _of_shapes(traced: Traced, node: fx.Node) -> bool:
    """Whether a node depends on nothing but the shapes of tensors."""
    if node.op == "call_function" and node.target is getattr:
        asks = node.args[1] in _SHAPE
    else:
        asks = node.target is len or (node.op == "call_method" and node.target in _SHAPE)
    return all(
        asks if _holds_tensors(traced.values[source]) else _of_shapes(traced, source)
        for source in node.all_input_nodes
    )


def _holds_tensors(value: Any) -> bool:
    return any(True for _ in tensors(value))


def _hold_shape(x: Tensor, expected: tuple[int, ...]) -> None:
    if x.shape[1:] != expected:
        raise Elsewhere


_SHAPE = frozenset(["shape", "ndim", "size", "dim", "ndimension", "numel", "nelement"])
