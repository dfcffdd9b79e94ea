"""Text of tensors, arrays and modules."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from advreg._core.fingerprint._code import (
    name_of,
)
from advreg._core.fingerprint._functions import foreign
from advreg._core.fingerprint._objects import Named, state_of
from advreg._core.fingerprint._walk import Path, Walk, hashed, short
from advreg._core.modules import hooks, of_torch

_OF_TORCH = frozenset(vars(nn.Module()))  # where a module keeps its parameters, layers and hooks

_WRAPPERS = ("torch._dynamo", "torch.nn.parallel")  # modules around a network


def of_tensor(walk: Walk, tensor: Tensor, path: Path) -> str:
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


def of_array(walk: Walk, array: NDArray[Any], path: Path) -> str:
    if array.dtype.hasobject:
        return f"array{walk.text(array.tolist(), path)}"
    data = np.ascontiguousarray(array).tobytes()
    return f"array({array.dtype}, {array.shape}, {hashlib.sha256(data).hexdigest()})"


def of_module(walk: Walk, module: nn.Module, path: Path) -> str:
    layers = [_layer(walk, name, layer, path) for name, layer in module.named_modules()]
    layers += _graph(walk, module, path)
    text = "; ".join(layers)
    return f"{type(module).__qualname__}(#{hashed(text)})"


def _layer(walk: Walk, name: str, layer: nn.Module, path: Path) -> str:
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
        walk.note(here, "its options", short(f"{name_of(type(layer))}({', '.join(told)})"))
    told += [
        f"hook={walk.piece(here, f'its hook {number}', Named(hook) if foreign(hook) else hook)}"
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
        for key, value in state_of(layer).items()
        if key not in _OF_TORCH and not key.startswith("__composable_api_state_key")  # of fully_shard
    }
    return {**held, "training": layer.training}


def _graph(walk: Walk, module: nn.Module, path: Path) -> list[str]:
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
