"""The contracts that everything else is written against.

Shapes: `B` is the batch, `*input` the shape of one input of any rank, `K` the points of a contour,
`H, W` an image's rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor

Input: TypeAlias = Any
"""What a model takes: one tensor `(B, *input)`, or any structure of which some tensors are attacked."""


Output: TypeAlias = Any
"""Whatever a model returns: a tensor, a tuple, a mapping, a dataclass."""


Target: TypeAlias = Any
"""Whatever the user has to compare an output with: usually built like the output."""


Model: TypeAlias = Callable[[Input], Output]
"""Inputs to outputs; a `torch.nn.Module` or any callable."""


PerExample: TypeAlias = Callable[[Output, Target], Tensor]
"""Output and target to one number per example, `(B,)`: objective, loss and metric alike."""
