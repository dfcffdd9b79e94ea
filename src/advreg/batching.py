"""A batch that does not fit into memory, in parts that do."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from advreg.randomness import Keys
from advreg.threats import Threat
from advreg.trees import take
from advreg.types import Target

R = TypeVar("R")
Part = tuple[Tensor, Target, Keys, Threat, Tensor | None]
"""Inputs, target, keys, threat and start of some examples."""


def in_parts(run: Callable[..., R], whole: Part) -> Iterator[R]:
    """`run` of a batch, or of its parts: halved whenever memory runs out, until single examples do not fit.

    Examples do not interact, so that the parts give what the whole would have given.

    Args:
        run: What takes a part.
        whole: The batch.

    Warns:
        UserWarning: Memory ran out; it says with how many examples at once it goes on.
    """
    count = size = len(whole[0])
    first = 0
    while first < count:
        part = whole if size == count else _part(whole, first, size)
        try:
            result = run(*part)
        except RuntimeError as error:
            if size == 1 or not _out_of_memory(error):
                raise
        else:
            yield result
            first += size
            continue
        gc.collect()  # what the failed run has left behind
        if part[0].is_cuda:
            torch.cuda.empty_cache()
        size = -(-size // 2)
        warnings.warn(
            f"out of memory: the attack goes on with {size} examples at once; results are the same. Pass "
            "smaller batches, or precision='bfloat16', to save the failed try",
            stacklevel=4,
        )


def _part(whole: Part, first: int, size: int) -> Part:
    x, y, keys, threat, start = whole
    place = torch.arange(len(x), device=x.device)
    some = (place >= first) & (place < first + size)
    x_part, y_part, start_part = take((x, y, start), some)
    index = keys.index[some.to(keys.index.device)]
    return x_part, y_part, Keys(keys.seed, index), threat.take(some, x), start_part


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
