"""How many examples run at once: as many as pay, and no more than memory holds."""

from __future__ import annotations

import gc
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from advreg.threats import Threat
from advreg.trees import take
from advreg.types import Target

R = TypeVar("R")
Part = tuple[Tensor, Target, Threat, Tensor | None]
"""Inputs, target, threat and start of some examples."""

ON_CPU, ELSEWHERE = 3 * 2**17, 2**22
"""Numbers of input in a micro-batch: 24 and 256 images of 128 x 128. More no longer pay, but fill memory."""


def room(x: Tensor) -> int:
    """How many examples like `x`, `(B, *input)`, run at once by default."""
    numbers = ON_CPU if x.device.type == "cpu" else ELSEWHERE
    return max(1, numbers // max(1, math.prod(x.shape[1:])))


@dataclass(eq=False)
class Parts:
    """Runs a batch in parts. Examples do not interact, so that they give what the whole would have given.

    Attributes:
        size: How many examples run at once, at most; halved whenever memory runs out.
    """

    size: int

    def run(self, function: Callable[..., R], whole: Part) -> Iterator[R]:
        """`function` of the parts of a batch, in order.

        Warns:
            UserWarning: Memory ran out; it says with how many examples at once it goes on.
        """
        first, count = 0, len(whole[0])
        while first < count:
            left = count - first
            size = -(-left // -(-left // self.size))  # so that the parts are as equal as can be
            part = whole if size == count else chosen(whole, slice(first, first + size))
            try:
                result = function(*part)
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
            self.size = -(-size // 2)
            warnings.warn(
                f"out of memory: the attack goes on with {self.size} examples at once; results are the same. "
                f"Pass micro_batch={self.size} to save the failed try",
                stacklevel=5,
            )


def chosen(whole: Part, some: slice | Tensor) -> Part:
    """Some of the examples: a range, or places, which may come several times."""
    x, y, threat, start = whole
    x_part, y_part, start_part = take((x, y, start), some, len(x))
    return x_part, y_part, threat.take(some, x), start_part


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
