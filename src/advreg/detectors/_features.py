"""Features of a layer, models at rest, and files of what was fitted to them."""

from __future__ import annotations

import difflib
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from advreg._core.checks import check_word, examples
from advreg._core.files import written_whole
from advreg._core.fingerprint import digest
from advreg._core.tensors import wide
from advreg._core.trees import children, head, tensors
from advreg._core.types import Model, Output
from advreg.execution import evaluating, frozen, is_frozen

Inputs: TypeAlias = Iterable[Tensor | tuple[Tensor, ...] | list[Any]]
"""Batches of inputs `(B, *input)`, or of `(x, y, ...)`, of which the first counts: a `DataLoader`, a list."""

Pool: TypeAlias = Literal["mean", "cls"] | Callable[[Any], Tensor]
"""Pooling of a layer's output: "mean" over all but channels, "cls", the first token, or a function."""


@contextmanager
def at_rest(*models: Model) -> Iterator[None]:
    """Run models in eval mode with their parameters frozen, and leave no trace on any of them."""
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(evaluating(model))
            if not is_frozen(model):  # else whoever froze it puts back, once, what all scores change
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
        with suppress(AttributeError):  # an adapter answers to its network's own names
            layer = next(name for name, own in modules.items() if own is model.get_submodule(layer))
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


@dataclass(frozen=True)
class Reading:
    """How features are read out of a network: the layer, and what of its output they are.

    Attributes:
        layer: The name of a layer.
        head: Which part of its output, where that holds several tensors.
        channels: Which dimension of the output holds the channels.
        pool: How the rest is taken together.
    """

    layer: str
    head: str | int | None = None
    channels: int | None = None
    pool: Pool = "mean"

    def __post_init__(self) -> None:
        if not callable(self.pool):
            check_word("pool", self.pool, ("mean", "cls"), ": or give a function of the layer's output")
        if self.channels is not None and (
            isinstance(self.channels, bool) or not isinstance(self.channels, int) or self.channels == 0
        ):
            raise ValueError(
                f"channels must be the dimension that holds the channels, 1 for (B, C, *spatial), -1 for "
                f"(B, *spatial, C), not 0, the batch; got {self.channels!r}"
            )

    def features(self, output: Any, count: int) -> Tensor:
        """Features `(B, D)`, in float32 at least, from what the layer returned for `count` examples."""
        name = f"the layer {self.layer!r}"
        found = output if self.head is None else head(output, self.head, f"output of {name}")
        if callable(self.pool):
            features = self.pool(found)
            if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != count:
                came = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
                raise ValueError(f"pool must return features (B, D) with B = {count} of {name}; got {came}")
        else:
            features = self._pooled(self._tensor(found, name), count, name)
        return finite(wide(features), f"the features of {name}")

    def _tensor(self, found: Any, name: str) -> Tensor:
        """The one tensor of an output."""
        if isinstance(found, Tensor):
            return found
        held = children(found) or {}
        some = list(tensors(found))
        if len(some) == 1:
            return some[0]
        which = {key: tuple(one.shape) for key, one in held.items() if isinstance(one, Tensor)} or list(held)
        raise TypeError(
            f"{name} must return a tensor, or one among other things; got {type(found).__name__}"
            + (f" with {len(some)}, {which}: say which, head={next(iter(which))!r}" if some else "")
            + ("" if some else ": choose a layer inside")
            + ", or make features of it, pool=lambda output: ... -> (B, D)"
        )

    def _pooled(self, out: Tensor, count: int, name: str) -> Tensor:
        shape = tuple(out.shape)
        if out.ndim < 2 or len(out) != count:
            raise ValueError(
                f"{name} must return (B, D), (B, C, *spatial), or with channels=-1 (B, *spatial, C), with "
                f"B = {count}; got {shape}"
            )
        place = self.channels
        if place is not None and not (-out.ndim < place < out.ndim):
            raise ValueError(
                f"channels must be a dimension of what {name} returns, {shape}, after the batch; got {place}"
            )
        last = place is not None and place % out.ndim == out.ndim - 1
        if self.pool == "cls":
            if out.ndim != 3 or not (last or place is None):
                raise ValueError(
                    f'pool="cls" takes the first of the tokens (B, T, D), with the channels last; {name} '
                    f'returns {shape}, with channels={place}: take pool="mean"'
                )
            return out[:, 0]
        if out.ndim == 2:
            return out
        if place is None:
            _refuse_ambiguous(shape, name)
        return wide(out).movedim(1 if place is None else place, 1).flatten(2).mean(2)


def _refuse_ambiguous(shape: tuple[int, ...], name: str) -> None:
    """Refuse an output whose channels cannot be told: three dimensions, or more that look channels last.

    A map's extents are alike: where those before the last dimension are nearer to each other than those after
    the second, the last one holds the channels.
    """
    _, second, *_, last = shape
    if len(shape) == 3:
        raise ValueError(
            f"{name} returns {shape}, which can be read in two ways: say channels=-1 for {second} tokens of "
            f'{last} channels each, as of a transformer (pool="cls" takes the first one alone), or '
            f"channels=1 for {second} channels at {last} places, as of a signal"
        )
    if _spread(shape[1:-1]) < _spread(shape[2:]):
        raise ValueError(
            f"{name} returns {shape}, which can be read in two ways: say channels=-1 for {last} channels at "
            f"{_by(shape[1:-1])} places, as its shape suggests, or channels=1 for {second} channels at "
            f"{_by(shape[2:])} places"
        )


def _spread(extents: tuple[int, ...]) -> float:
    """How far extents are apart, 1 where they are the same."""
    return max(extents) / max(1, min(extents))


def _by(extents: tuple[int, ...]) -> str:
    return " x ".join(map(str, extents))


def with_features(model: Model, reading: Reading, x: Tensor) -> tuple[Output, Tensor]:
    """The model's output for `x`, and a layer's features, `(B, D)`.

    Differentiable in `x`. The hook that reads the layer is removed, also if the model raises.

    Raises:
        TypeError: A layer that does not return a tensor.
        ValueError: A layer that does not run once; an output that does not begin with the batch, whose
            channels cannot be told, or with NaN.
        KeyError: A head that the output does not have.
    """
    caught: list[Any] = []
    assert isinstance(model, nn.Module)
    layer = reading.layer
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
    return output, reading.features(caught[0], len(x))


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


def gathered(model: Model, reading: Reading, batches: Inputs) -> Tensor:
    """A layer's features for all examples of all batches, `(N, D)`."""
    found = []
    for x in inputs(batches):
        with at_rest(model), torch.no_grad():
            found.append(with_features(model, reading, x)[1])
    if not found:
        raise ValueError("batches must hold in-distribution inputs; got none")
    return torch.cat(found)


def write(
    path: str | Path, kind: str, model: Model, reading: Reading, options: Mapping[str, Any], **arrays: Tensor
) -> Path:
    """Write what a detector of this kind learned from this model to an `.npz` file, whole or not at all."""
    assert isinstance(model, nn.Module)
    read_by = dict(vars(reading))
    if callable(reading.pool):
        del read_by["pool"]
        read_by["function"] = getattr(reading.pool, "__qualname__", type(reading.pool).__qualname__)
    header = {"kind": kind, "options": {**read_by, **options}, "weights": digest(model.state_dict())}
    return stored(path, header, arrays)


def stored(path: str | Path, header: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> Path:
    """Write a header and arrays to an `.npz` file, whole or not at all, and return its path."""
    path = _npz(path)
    held = {name: array.detach().cpu().numpy() for name, array in arrays.items()}
    with written_whole(path, "wb") as file:
        np.savez(file, header=np.array(json.dumps(header)), **held)  # type: ignore[arg-type]  # numpy's gap
    return path


def opened(path: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and the arrays that `stored` wrote of a detector of this kind; no code is run.

    Raises:
        ValueError: A file of something else, or of another kind of detector.
    """
    path = _npz(path)
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            header = json.loads(str(file["header"]))
            arrays = {name: torch.from_numpy(file[name]) for name in file.files if name != "header"}
            came, _ = header["kind"], dict(header["options"])
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        raise ValueError(
            f"{path} is not what a detector's save wrote: {error}; fit and save again"
        ) from error
    if came != kind:
        raise ValueError(f"{path} holds a {came}; expected a {kind}: call {came}.load")
    return header, arrays


def read(path: str | Path, kind: str, model: Model, pool: Pool | None) -> dict[str, Any]:
    """Read what `write` wrote, as the arguments of the detector, tensors on the model's device.

    Args:
        path: The file.
        kind: The name of the detector.
        model: The network.
        pool: The function that pooled, where it was one: a file holds its name alone.

    Raises:
        ValueError: A file of something else; of another kind of detector; of a model with other weights, or
            without the layer.
    """
    header, arrays = opened(path, kind)
    options = dict(header["options"])
    options["layer"] = layer_name(model, options["layer"])
    function = options.pop("function", None)
    if (function is None) != (pool is None):
        told = "pooled by a word, and the file says which" if function is None else f"pooled by {function}"
        how = "leave pool= out" if function is None else f"pass pool={function}"
        raise ValueError(f"the features of {path} were {told}; got pool={pool!r}: {how}")
    if pool is not None:
        options["pool"] = pool
    assert isinstance(model, nn.Module)
    if digest(model.state_dict()) != header.get("weights"):
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
