"""Heads of models that declare how to run some of them alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import cast

from torch import nn

from advreg._core.types import Model, Output


def heads(model: Model, keys: Iterable[str | int] | None) -> Model:
    """The part of a model that some of its heads need, where the model declares how to run it.

    A model declares it by an argument of its forward, `heads`: a tuple of keys, the only ones that the output
    must hold. A decoder that nobody reads is then not run: an attack on the paper's contour head costs two
    thirds of one on the mask.

    Args:
        model: Any model.
        keys: The heads that will be read; None for all.

    Returns:
        `x -> model(x, heads=keys)`; the model itself where it declares nothing, or all heads are read.

    Example:
        >>> import torch
        >>> class Net(torch.nn.Module):
        ...     def forward(self, x, heads=("contour", "mask")):
        ...         return {key: x.sum(1) if key == "contour" else x for key in heads}
        >>> sorted(heads(Net(), ["contour"])(torch.ones(1, 2)))
        ['contour']
    """
    forward = model.forward if isinstance(model, nn.Module) else model
    if keys is None or not _takes_heads(forward):
        return model
    return partial(cast(Callable[..., Output], model), heads=tuple(sorted(keys, key=str)))


def _takes_heads(forward: Callable[..., Output]) -> bool:
    try:
        return "heads" in inspect.signature(forward).parameters
    except (TypeError, ValueError):  # a callable without a signature, such as a built-in
        return False
