"""Memory: batches in parts that fit, and submodules whose inside is computed again."""

from __future__ import annotations

import gc
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from advreg._core.targets import bare, count_of
from advreg._core.trees import tensors
from advreg._core.types import Input, Model
from advreg.execution._batch import Batch

R = TypeVar("R")


ON_CPU, ELSEWHERE = 3 * 2**17, 2**22
"""Numbers of input in a micro-batch: 24 and 256 images of 128 x 128. More no longer pay, but fill memory."""


def room(x: Input) -> int:
    """Number of examples like those of `x`, `(B, *input)` or several inputs, that run at once by default."""
    held = list(tensors(bare(x)))
    numbers = ON_CPU if all(tensor.device.type == "cpu" for tensor in held) else ELSEWHERE
    return max(1, numbers * max(1, count_of(x)) // max(1, sum(math.prod(tensor.shape) for tensor in held)))


@dataclass(eq=False)
class Parts:
    """Runs a batch in parts. Examples do not interact, so that they give what the whole would have given.

    Attributes:
        size: How many examples run at once, at most; halved whenever memory runs out.
    """

    size: int

    def run(self, function: Callable[[Batch], R], whole: Batch) -> Iterator[R]:
        """`function` of the parts of a batch, in order.

        Warns:
            UserWarning: Memory ran out; it says with how many examples at once it goes on.
        """
        first, count = 0, len(whole.x)
        while first < count:
            left = count - first
            size = -(-left // -(-left // self.size))  # so that the parts are as equal as can be
            part = whole if size == count else whole.take(slice(first, first + size))
            try:
                result = function(part)
            except RuntimeError as error:
                if size == 1 or not _out_of_memory(error):
                    raise
            else:
                yield result
                first += size
                continue
            gc.collect()  # what the failed run has left behind
            if whole.x.is_cuda:
                torch.cuda.empty_cache()
            self.size = -(-size // 2)
            warnings.warn(
                f"out of memory: the attack goes on with {self.size} examples at once; results are the same. "
                f"Pass execution=Execution(micro_batch={self.size}) to save the failed try",
                stacklevel=5,
            )


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


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
        >>> from advreg.execution._memory import checkpointed
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
