"""The contracts that everything else is written against.

Shapes: `B` is the batch, `*input` the shape of one input of any rank, `K` the points of a contour,
`H, W` an image's rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

if TYPE_CHECKING:
    from advreg.randomness import Keys

Output: TypeAlias = Any
"""Whatever a model returns: a tensor, a tuple, a mapping, a dataclass."""

Target: TypeAlias = Any
"""Whatever the user has to compare an output with: usually built like the output."""

Model: TypeAlias = Callable[[Tensor], Output]
"""Inputs `(B, *input)` to outputs; a `torch.nn.Module` or any callable."""

PerExample: TypeAlias = Callable[[Output, Target], Tensor]
"""Output and target to one number per example, `(B,)`: objective, loss and metric alike."""


class Directions(Protocol):
    """Which way is steepest: of a norm, or of what is left of it where some directions are closed."""

    def steepest(self, g: Tensor) -> Tensor:
        """`argmax <g, d>` over the open directions with `size(d) <= 1`: the paper's h."""
        ...


@runtime_checkable
class Norm(Directions, Protocol):
    """A geometry: how large a perturbation is, and how to move within that measure.

    Perturbations `d` and gradients `g` are `(B, *input)`. A user's own norm is any object with these
    methods; `advreg.testing.check_norm` checks it. A norm whose `project` takes no box
    (`project(d, radius)`) is served by `advreg.dykstra`. A norm whose steepest direction moves only a
    few entries, as L1's does, sets the class attribute `sparse = True`: entries that the box blocks
    are then left out of the gradient, since a step spent on them would be lost.
    """

    def size(self, d: Tensor) -> Tensor:
        """The norm of each perturbation, `(B,)`."""
        ...

    def project(
        self, d: Tensor, radius: Tensor, lower: Tensor | None = None, upper: Tensor | None = None
    ) -> Tensor:
        """The Euclidean projection onto `{size <= radius} ∩ [lower, upper]`; `radius` is `(B,)`."""
        ...

    def sample(self, like: Tensor, keys: Keys) -> Tensor:
        """A random point of the unit ball for each example, shaped like `like`."""
        ...
