"""Features of a layer, models at rest, and files of what was fitted to them."""

from __future__ import annotations

import difflib
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from advreg._core.checks import examples
from advreg._core.files import written_whole
from advreg._core.fingerprint import digest
from advreg._core.types import Model, Output
from advreg.execution import evaluating, frozen

Inputs: TypeAlias = Iterable[Tensor | tuple[Tensor, ...] | list[Any]]
"""Batches of inputs `(B, *input)`, or of `(x, y, ...)`, of which the first counts: a `DataLoader`, a list."""


@contextmanager
def at_rest(*models: Model) -> Iterator[None]:
    """Run models in eval mode with their parameters frozen, and leave no trace on any of them."""
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(evaluating(model))
            stack.enter_context(frozen(model))
        yield


def layer_name(model: Model, layer: str | nn.Module) -> str:
    """The name of a layer in its model, whether it came by name or as the module itself; checked.

    Raises:
        TypeError: A model that is no `torch.nn.Module`.
        ValueError: No such layer; the message lists those with a name like it.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"features are those of a layer of a torch.nn.Module; got {type(model).__name__}: pass the "
            "network itself, not a function around it"
        )
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if isinstance(layer, str):
        if layer in modules:
            return layer
        names = [name for name in modules if name]
        near = difflib.get_close_matches(layer, names, n=5, cutoff=0.4)
        listed = f"near it are {near}" if near else f"it has {names[:8]}{' and more' if names[8:] else ''}"
        raise ValueError(
            f"the {type(model).__name__} has no layer {layer!r}; {listed}: see dict(model.named_modules())"
        )
    found = [name for name, module in modules.items() if module is layer]
    if not found:
        raise ValueError(
            f"the {type(layer).__name__} given as the layer is no part of the {type(model).__name__}: pass "
            "one of its own modules, or its name"
        )
    return found[0]


def with_features(model: Model, layer: str, x: Tensor) -> tuple[Output, Tensor]:
    """The model's output for `x`, and a layer's features, `(B, D)`: its output, mean over spatial dimensions.

    Differentiable in `x`. The hook that reads the layer is removed, also if the model raises.

    Raises:
        TypeError: A layer that does not return a tensor.
        ValueError: A layer that does not run once; an output that does not begin with the batch, or with NaN.
    """
    caught: list[Any] = []
    assert isinstance(model, nn.Module)
    handle = model.get_submodule(layer).register_forward_hook(lambda *call: caught.append(call[-1]))
    try:
        output = model(x.clone())  # one that writes in place spoils nothing
    finally:
        handle.remove()
    if len(caught) != 1:
        raise ValueError(
            f"the layer {layer!r} must run once for each input; it ran {len(caught)} times: choose a layer "
            "that the network passes through once"
        )
    out = caught[0]
    if not isinstance(out, Tensor):
        raise TypeError(
            f"the layer {layer!r} must return a tensor; got {type(out).__name__}: choose one inside"
        )
    if out.ndim < 2 or len(out) != len(x):
        raise ValueError(
            f"the layer {layer!r} must return (B, D) or (B, D, *spatial) with B = {len(x)}; got "
            f"{tuple(out.shape)}"
        )
    wide = out.to(torch.promote_types(out.dtype, torch.float32))
    features = wide.flatten(2).mean(2) if wide.ndim > 2 else wide
    return output, finite(features, f"the features of the layer {layer!r}")


def finite(values: Tensor, name: str) -> Tensor:
    """The values, unless one is NaN or infinite. An attack, which follows a gradient, looks itself, later."""
    if not values.requires_grad and not bool(values.isfinite().all()):
        raise ValueError(
            f"{name} must be finite; got NaN or infinity for {examples(~values.isfinite())}: look for inputs "
            "that are not finite, a model that diverged, or float16 overflow"
        )
    return values


def inputs(batches: Inputs) -> Iterator[Tensor]:
    """The inputs of batches, `(B, *input)` each."""
    if isinstance(batches, Tensor):
        raise TypeError("batches must be an iterable of batches; got one tensor: pass [x]")
    for number, batch in enumerate(batches):
        x = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
        if not isinstance(x, Tensor) or x.ndim == 0:
            raise TypeError(
                f"a batch must be x, or (x, y, ...), x a tensor (B, *input); batch {number} is a "
                f"{type(batch).__name__}"
            )
        yield x.detach()


def gathered(model: Model, layer: str, batches: Inputs) -> Tensor:
    """A layer's features for all examples of all batches, `(N, D)`."""
    found = []
    for x in inputs(batches):
        with at_rest(model), torch.no_grad():
            found.append(with_features(model, layer, x)[1])
    if not found:
        raise ValueError("batches must hold in-distribution inputs; got none")
    return torch.cat(found)


def write(path: str | Path, kind: str, model: Model, options: Mapping[str, Any], **arrays: Tensor) -> Path:
    """Write what a detector of this kind learned from this model to an `.npz` file, whole or not at all."""
    path = _npz(path)
    assert isinstance(model, nn.Module)
    header = {"kind": kind, "options": options, "weights": digest(model.state_dict())}
    held = {name: array.detach().cpu().numpy() for name, array in arrays.items()}
    with written_whole(path, "wb") as file:
        np.savez(file, header=np.array(json.dumps(header)), **held)  # type: ignore[arg-type]  # numpy's gap
    return path


def read(path: str | Path, kind: str, model: Model) -> dict[str, Any]:
    """Read what `write` wrote, as the arguments of the detector, tensors on the model's device.

    Raises:
        ValueError: A file of something else; of another kind of detector; of a model with other weights, or
            without the layer.
    """
    path = _npz(path)
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            header = json.loads(str(file["header"]))
            arrays = {name: torch.from_numpy(file[name]) for name in file.files if name != "header"}
            came, options, weights = header["kind"], dict(header["options"]), header["weights"]
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        raise ValueError(
            f"{path} is not what a detector's save wrote: {error}; fit and save again"
        ) from error
    if came != kind:
        raise ValueError(f"{path} holds a {came}; expected a {kind}: call {came}.load")
    options["layer"] = layer_name(model, options["layer"])
    assert isinstance(model, nn.Module)
    if digest(model.state_dict()) != weights:
        raise ValueError(
            f"{path} was fitted to the layer {options['layer']!r} of a model with other weights: load those "
            "into the model first, or fit again"
        )
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    return {**options, **{name: array.to(device) for name, array in arrays.items()}}


def _npz(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"a detector's file must end in .npz; got {path.name!r}")
    return path
