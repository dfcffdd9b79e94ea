"""Statistical shape models of disc contours, and which contours are discs at all (paper, section 2.1).

A shape is a contour of K points (x, y) in pixels of the crop. The model is a principal component analysis
of the training shapes as they lie in the crop, without alignment; SSM-P3, P5 and P10 keep 3, 5 and 10 modes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from advreg import Keys

from .files import write

Distribution = Literal["uniform", "normal"]

SPREAD = 2.0  # standard deviations to either side in which uniform coefficients are drawn

_CHUNK = 2**22  # pairs of edges looked at together


@dataclass(frozen=True, eq=False)
class ShapeModel:
    """A linear model of shapes: ``shape = mean + sum_m code_m deviation_m mode_m``.

    Attributes:
        mean: ``(K, 2)`` the mean contour, float64.
        modes: ``(M, K, 2)`` orthonormal modes of variation, the largest first. Of each mode's entries the one
            largest in magnitude is positive.
        deviations: ``(M,)`` standard deviation of the training shapes along each mode, in pixels.
        shares: ``(M,)`` each mode's share of the training shapes' total variation.

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
            contours: ``(N, K, 2)`` shapes whose points correspond.
            components: How many modes to keep (the paper's 3, 5 and 10), or, below 1, the share of the
                variation that they must reach together: 0.914 keeps the fewest modes that reach 91.4 %.

        Raises:
            ValueError: If the contours are not at least two finite ``(N, K, 2)`` shapes, or do not vary in as
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
        """Project contours ``(B, K, 2)`` on the modes: ``(B, M)`` in standard deviations, float64."""
        offsets = (contours.to(self.mean) - self._as_shape(contours)).flatten(1)
        return offsets @ self.modes.flatten(1).mT / self.deviations

    def decode(self, codes: Tensor) -> Tensor:
        """Make the contours ``(B, K, 2)``, float64, of codes ``(B, M)`` in standard deviations.

        Raises:
            ValueError: If the codes are not ``(B, M)``.
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
            index: ``(B,)`` int64, each shape's place in the data set.
            distribution: Of each coefficient, independently: ``"uniform"`` within two standard deviations
                (the study's), or ``"normal"``.
            attempt: Draws anew: for shapes that `plausible` refused.

        Returns:
            ``(B, K, 2)`` float64.

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
        """Write the model to an ``.npz`` file, whole or not at all."""
        arrays = {field.name: getattr(self, field.name).numpy() for field in fields(self)}
        return write(path, lambda partial: np.savez(partial, **arrays))

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


def plausible(contours: Tensor, size: tuple[int, int]) -> Tensor:
    """Tell which contours could be a disc in a crop: none that crosses or touches itself, or leaves the crop.

    Args:
        contours: ``(B, K, 2)`` closed polygons, points (x, y) in pixels.
        size: Rows and columns ``(H, W)`` of the crop; points must lie between its outer pixels' centres.

    Returns:
        ``(B,)`` bool.

    Raises:
        ValueError: If the contours are not ``(B, K, 2)`` with at least three points.

    Example:
        >>> import torch
        >>> square = torch.tensor([[1.0, 1.0], [1.0, 6.0], [6.0, 6.0], [6.0, 1.0]])
        >>> bow = square[[0, 2, 1, 3]]
        >>> plausible(torch.stack([square, bow, square + 3]), (8, 8)).tolist()
        [True, False, False]
    """
    if contours.ndim != 3 or contours.shape[-1] != 2 or contours.shape[1] < 3:
        raise ValueError(f"contours must be (B, K, 2) with K of at least 3; got {tuple(contours.shape)}.")
    limits = contours.new_tensor([size[1] - 1, size[0] - 1])
    inside = ((contours >= 0) & (contours <= limits)).flatten(1).all(1)
    step = max(1, _CHUNK // contours.shape[1] ** 2)
    crossed = torch.cat([_crosses_itself(part) for part in torch.split(contours.detach(), step)])
    return inside & ~crossed


def _crosses_itself(contours: Tensor) -> Tensor:
    """Which polygons have two edges with a point in common, other than the corner of neighbours, ``(B,)``."""
    start = contours.to(torch.float32 if contours.device.type == "mps" else torch.float64)
    end = start.roll(-1, dims=1)
    edge = end - start
    # side[i, j]: on which side of edge i point j lies. Edges i and j meet if neither has both ends of the
    # other strictly on one side, and the boxes around them overlap.
    x, y = ((start[:, None, :, axis] - start[:, :, None, axis]) for axis in range(2))
    side = edge[..., 0, None] * y - edge[..., 1, None] * x
    apart = side.sign() * side.roll(-1, dims=2).sign() > 0
    low, high = torch.minimum(start, end), torch.maximum(start, end)
    before = (high[:, :, None] < low[:, None]).any(-1)
    meet = ~(apart | apart.mT | before | before.mT)
    number = torch.arange(start.shape[1], device=start.device)
    gap = (number[:, None] - number).remainder(len(number))
    distant = (gap > 1) & (gap < len(number) - 1)
    following = edge.roll(-1, dims=1)
    cross = edge[..., 0] * following[..., 1] - edge[..., 1] * following[..., 0]
    back = (cross == 0) & ((edge * following).sum(-1) <= 0)  # turns back on itself, or stands still
    return (meet & distant).flatten(1).any(1) | back.any(1)
