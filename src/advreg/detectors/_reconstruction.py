"""Detection by reconstruction error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from advreg._core.checks import same_shape
from advreg._core.tensors import rows
from advreg._core.trees import head
from advreg._core.types import Model, Output
from advreg.detectors._features import at_rest, finite
from advreg.execution import heads


@dataclass(frozen=True, eq=False)
class ReconstructionDetector:
    """The error with which a model's head gives back its own input. There is nothing to fit.

    Args:
        model: A model that returns, among others, its input.
        head: Which head does: a key, a field or a place.
        norm: "l1", the mean absolute error over the entries; "l2", the root of the mean squared error.

    Raises:
        ValueError: Another norm; when called, a head that is not shaped like the input, or not finite.
        KeyError: When called: the model has no such head.

    Example:
        >>> import torch
        >>> from advreg.detectors import ReconstructionDetector
        >>> detector = ReconstructionDetector(lambda x: {"reconstruction": x.clamp(max=0.5)})
        >>> detector.score(torch.tensor([[0.2, 0.4], [0.5, 0.9]]))
        tensor([0.0000, 0.2000])

    Source:
        Chen et al., section 2.5, Eq 12.
    """

    model: Model
    head: str | int = "reconstruction"
    norm: Literal["l1", "l2"] = "l1"

    def __post_init__(self) -> None:
        if self.norm not in ("l1", "l2"):
            raise ValueError(f"norm must be 'l1' or 'l2'; got {self.norm!r}")

    def score(self, x: Tensor) -> Tensor:
        """The error of each example, `(B,)`, in units of the input. Only this head is run, see `heads`."""
        with at_rest(self.model):
            return self._error(heads(self.model, [self.head])(x.clone()), x)

    def with_output(self, x: Tensor) -> tuple[Output, Tensor]:
        """The model's output and the score, of one pass."""
        with at_rest(self.model):
            output = self.model(x.clone())
            return output, self._error(output, x)

    def _error(self, output: Output, x: Tensor) -> Tensor:
        reconstruction = head(output, self.head, "output")
        same_shape(reconstruction, x)
        difference = rows(reconstruction - x)
        difference = difference.to(torch.promote_types(difference.dtype, torch.float32))
        if self.norm == "l1":
            error = difference.abs().mean(1)
        else:
            error = torch.linalg.vector_norm(difference, dim=1) / difference.shape[1] ** 0.5
        return finite(error, f"the error of the head {self.head!r}")
