"""Statistical shape models of disc contours (paper, section 2.1).

A shape is a contour of K points (x, y) in pixels of the crop. The model is a principal component analysis
of the training shapes as they lie in the crop, without alignment; SSM-P3, P5 and P10 keep 3, 5 and 10 modes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from advreg import Keys
from lumbar_disk._core.files import write

Distribution = Literal["uniform", "normal"]

SPREAD = 2.0  # standard deviations to either side in which uniform coefficients are drawn


@dataclass(frozen=True, eq=False)
class ShapeModel:
    """Shape model, linear: `shape = mean + sum_m code_m deviation_m mode_m`.

    Attributes:
        mean: `(K, 2)` the mean contour, float64.
        modes: `(M, K, 2)` orthonormal modes of variation, the largest first. Of each mode's entries the one
            largest in magnitude is positive.
        deviations: `(M,)` standard deviation of the training shapes along each mode, in pixels.
        shares: `(M,)` each mode's share of the training shapes' total variation.

    Example:
        >>> import torch
        >>> contours = torch.rand(30, 176, 2, generator=torch.Generator().manual_seed(0))
        >>> model = ShapeModel.fit(contours, 3)
        >>> model.sample(seed=0, index=torch.arange(4)).shape
        torch.Size([4, 176, 2])
        >>> again = model.encode(model.decode(torch.tensor([[1.0, -2.0, 0.5]])))
        >>> [round(code, 6) for code in again[0].tolist()]
        [1.0, -2.0, 0.5]

    Source:
        Cootes, Taylor, Cooper and Graham, Active shape models, CVIU 61(1), 1995.
    """

    mean: Tensor
    modes: Tensor
    deviations: Tensor
    shares: Tensor

    @classmethod
    def fit(cls, contours: Tensor, components: float) -> ShapeModel:
        """Fit a model to training shapes.

        Args:
            contours: `(N, K, 2)` shapes whose points correspond.
            components: How many modes to keep (the paper's 3, 5 and 10), or, below 1, the share of the
                variation that they must reach together: 0.914 keeps the fewest modes that reach 91.4 %.

        Raises:
            ValueError: If the contours are not at least two finite `(N, K, 2)` shapes, or do not vary in as
                many directions as there are components.
        """
        if (
            contours.ndim != 3
            or contours.shape[-1] != 2
            or len(contours) < 2
            or not contours.isfinite().all()
        ):
            raise ValueError(
                f"a shape model needs contours (N, K, 2) of at least 2 shapes, all finite; got "
                f"{tuple(contours.shape)}, {int((~contours.isfinite()).sum())} numbers not finite."
            )
        shapes = contours.detach().to("cpu", torch.float64)
        mean = shapes.mean(0)
        _, sizes, directions = torch.linalg.svd((shapes - mean).flatten(1), full_matrices=False)
        variances = sizes.square()
        shares = variances / variances.sum()
        varied = int((sizes > 1e-10 * sizes[0].clamp(min=1e-300)).sum())
        reached = int((shares.cumsum(0) < components - 1e-12).sum()) + 1
        count = reached if components < 1 else int(components)
        if components <= 0 or count > varied or (components >= 1 and count != components):
            raise ValueError(
                f"components must be a whole number from 1 to {varied}, the directions in which these "
                f"{len(shapes)} shapes vary, or a share of their variation between 0 and 1; got {components}."
            )
        modes = directions[:count]
        largest = modes.gather(1, modes.abs().argmax(1, keepdim=True))
        return cls(
            mean=mean,
            modes=(modes * largest.sign()).unflatten(1, mean.shape),
            deviations=sizes[:count] / (len(shapes) - 1) ** 0.5,
            shares=shares[:count],
        )

    @property
    def explained(self) -> float:
        """The share of the training shapes' total variation that the modes cover together."""
        return float(self.shares.sum())

    def encode(self, contours: Tensor) -> Tensor:
        """Project contours `(B, K, 2)` on the modes: `(B, M)` in standard deviations, float64."""
        offsets = (contours.to(self.mean) - self._as_shape(contours)).flatten(1)
        return offsets @ self.modes.flatten(1).mT / self.deviations

    def decode(self, codes: Tensor) -> Tensor:
        """Make the contours `(B, K, 2)`, float64, of codes `(B, M)` in standard deviations.

        Raises:
            ValueError: If the codes are not `(B, M)`.
        """
        if codes.ndim != 2 or codes.shape[1] != len(self.modes):
            raise ValueError(
                f"codes must be (B, {len(self.modes)}), one number per mode; got {tuple(codes.shape)}."
            )
        shape = self.mean.expand(len(codes), -1, -1)
        scaled = codes.to(self.mean) * self.deviations
        for number, mode in enumerate(self.modes):  # in this order: the same bits whatever the batch
            shape = shape + scaled[:, number, None, None] * mode
        return shape

    def sample(
        self, seed: int, index: Tensor, *, distribution: Distribution = "uniform", attempt: int = 0
    ) -> Tensor:
        """Draw virtual shapes; each depends on the seed and its own index (and the attempt) alone.

        Args:
            seed: The seed of the experiment.
            index: `(B,)` int64, each shape's place in the data set.
            distribution: Of each coefficient, independently: `"uniform"` within two standard deviations
                (the study's), or `"normal"`.
            attempt: Draws anew: for shapes that `plausible` refused.

        Returns:
            `(B, K, 2)` float64.

        Raises:
            ValueError: If the distribution is unknown.
        """
        keys = Keys(seed, index.to(self.mean.device)).fold_in(attempt)
        like = self.mean.new_empty(len(index), len(self.modes))
        if distribution == "uniform":
            return self.decode((2 * keys.uniform(like) - 1) * SPREAD)
        if distribution == "normal":
            return self.decode(keys.normal(like))
        raise ValueError(f"distribution must be 'uniform' or 'normal'; got {distribution!r}.")

    def save(self, path: Path) -> Path:
        """Write the model to an `.npz` file, whole or not at all."""
        arrays = {field.name: getattr(self, field.name).numpy() for field in fields(self)}
        return write(path, partial(np.savez, **arrays))

    @classmethod
    def load(cls, path: Path) -> ShapeModel:
        """Read a model that `save` wrote.

        Raises:
            ValueError: If the file holds something else.
        """
        with np.load(path, allow_pickle=False) as file:
            missing = {field.name for field in fields(cls)} - set(file.files)
            if missing:
                raise ValueError(
                    f"{path} is not a shape model: it has no {', '.join(sorted(missing))}, only "
                    f"{', '.join(file.files) or 'nothing'}. Write it with ShapeModel.save."
                )
            return cls(**{field.name: torch.from_numpy(file[field.name]) for field in fields(cls)})

    def _as_shape(self, contours: Tensor) -> Tensor:
        if contours.ndim != 3 or contours.shape[1:] != self.mean.shape:
            raise ValueError(
                f"contours must be (B, {self.mean.shape[0]}, 2), as the model's; got {tuple(contours.shape)}."
            )
        return self.mean
