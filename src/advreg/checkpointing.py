"""Less memory for more time: parts of a model whose inside is computed again on the way back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from advreg.types import Model


@contextmanager
def checkpointed(model: Model, kinds: tuple[type[nn.Module], ...]) -> Iterator[None]:
    """Let submodules of some types keep their inputs alone, and compute the rest again in the backward pass.

    Of nested ones the outermost. Outputs and gradients are the same. Afterwards, also when the body raised,
    the model is as it was.

    Args:
        model: A `torch.nn.Module`; any other callable where `kinds` is empty.
        kinds: The types, such as a network's residual block.

    Raises:
        ValueError: The model has no submodule of these types.

    Example:
        >>> import torch
        >>> from advreg.checkpointing import checkpointed
        >>> block = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh())
        >>> model = torch.nn.ModuleDict({"block": block})
        >>> with checkpointed(model, (torch.nn.Sequential,)):
        ...     "forward" in vars(block)
        True
        >>> "forward" in vars(block)
        False

    Source:
        Chen et al., Training deep nets with sublinear memory cost, arXiv:1604.06174; the passes are those of
        `torch.utils.checkpoint`.
    """
    chosen = list(_outermost(model, kinds)) if isinstance(model, nn.Module) else []
    if kinds and not chosen:
        inside = list(model.modules())[1:] if isinstance(model, nn.Module) else []
        has = {type(module).__name__ for module in inside}
        raise ValueError(
            f"expected a torch.nn.Module with submodules of {', '.join(kind.__name__ for kind in kinds)} to "
            f"checkpoint; got a {type(model).__name__} with {', '.join(sorted(has)) or 'no submodules'}"
        )
    own = [(vars(module), vars(module).get("forward")) for module in chosen]
    try:
        for module in chosen:
            vars(module)["forward"] = partial(checkpoint, module.forward, use_reentrant=False)
        yield
    finally:
        for attributes, forward in own:
            attributes.pop("forward", None)
            if forward is not None:
                attributes["forward"] = forward


def _outermost(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, kinds):
            yield child
        else:
            yield from _outermost(child, kinds)
