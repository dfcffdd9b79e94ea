"""Norms: the geometries that an adversary may move in, `linf`, `l2` and `l1`.

Shapes: perturbations `d` and gradients `g` are `(B, *input)`, radii `(B,)`, box sides broadcast against `d`.
Every function works per example, on the tensor's device. float16 and bfloat16 are computed in float32 and
rounded once at the end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from advreg._core.keys import Keys
from advreg._core.tensors import per_example, positive, rows, wide
from advreg.threats._projections import SHRINK, THRESHOLD, project
from advreg.threats._scaled import ELLIPSOID, WEIGHTED, project_scaled


class Directions(Protocol):
    """Steepest directions: of a norm, or of what is left of it where some directions are closed."""

    def steepest(self, g: Tensor) -> Tensor:
        """`argmax <g, d>` over the open directions with `size(d) <= 1`: the paper's h."""
        ...


@runtime_checkable
class Norm(Directions, Protocol):
    """A geometry: how large a perturbation is, and how to move within that measure.

    Perturbations `d` and gradients `g` are `(B, *input)`. A user's own norm is any object with these
    methods; `advreg.testing.check_norm` checks it. A norm whose `project` takes no box
    (`project(d, radius)`) is served by `advreg.threats.dykstra`. A norm whose steepest direction moves only a
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


@dataclass(frozen=True)
class _Linf:
    """`size(d) = max |d_i|`."""

    sparse: ClassVar[bool] = False

    def size(self, d: Tensor) -> Tensor:
        return rows(wide(d)).abs().amax(1)

    def project(
        self,
        d: Tensor,
        radius: Tensor,
        lower: Tensor | None = None,
        upper: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> Tensor:
        full = wide(d)
        reach = per_example(radius, full).to(full.dtype)
        reach = reach if scale is None else reach * scale.to(full.dtype)
        low = -reach if lower is None else torch.maximum(lower.to(full.dtype), -reach)
        high = reach if upper is None else torch.minimum(upper.to(full.dtype), reach)
        return torch.clamp(full, low, high).to(d.dtype)

    def steepest(self, g: Tensor) -> Tensor:
        return g.sign()

    def sample(self, like: Tensor, keys: Keys) -> Tensor:
        return 2 * keys.uniform(like) - 1

    def __repr__(self) -> str:
        return "linf"


@dataclass(frozen=True)
class _L2:
    """`size(d) = (sum d_i^2)^(1/2)`."""

    sparse: ClassVar[bool] = False

    def size(self, d: Tensor) -> Tensor:
        flat, peak = _over_peak(d)
        size: Tensor = torch.linalg.vector_norm(flat, dim=1)
        return size * peak

    def measure(self, d: Tensor) -> Tensor:
        return d.square()

    def project(
        self,
        d: Tensor,
        radius: Tensor,
        lower: Tensor | None = None,
        upper: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> Tensor:
        if scale is None:
            return project(self.size, d, radius, lower, upper, SHRINK)
        return project_scaled(self.size, d, radius, lower, upper, scale, ELLIPSOID)

    def steepest(self, g: Tensor) -> Tensor:
        flat, _ = _over_peak(g)
        flat = flat / positive(torch.linalg.vector_norm(flat, dim=1, keepdim=True))
        return flat.reshape(g.shape).to(g.dtype)

    def sample(self, like: Tensor, keys: Keys) -> Tensor:
        direction = keys.normal(like.float())
        share = keys.fold_in(1).uniform(direction.new_empty(len(direction)))
        share = share ** (1 / math.prod(like.shape[1:]))
        return (per_example(share, like) * self.steepest(direction)).to(like.dtype)

    def __repr__(self) -> str:
        return "l2"


@dataclass(frozen=True)
class _L1:
    """`size(d) = sum |d_i|`."""

    sparse: ClassVar[bool] = True

    def size(self, d: Tensor) -> Tensor:
        return rows(wide(d)).abs().sum(1)

    def measure(self, d: Tensor) -> Tensor:
        return d.abs()

    def project(
        self,
        d: Tensor,
        radius: Tensor,
        lower: Tensor | None = None,
        upper: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> Tensor:
        if scale is None:
            return project(self.size, d, radius, lower, upper, THRESHOLD)
        return project_scaled(self.size, d, radius, lower, upper, scale, WEIGHTED)

    def steepest(self, g: Tensor) -> Tensor:
        flat = rows(g)
        place = flat.abs().argmax(1, keepdim=True)
        return torch.zeros_like(flat).scatter(1, place, flat.gather(1, place).sign()).reshape(g.shape)

    def sample(self, like: Tensor, keys: Keys) -> Tensor:
        flat = rows(like).float()
        # Entries + 1 exponential spacings are uniform on the simplex; the last is the slack.
        spacing = -keys.uniform(flat.new_empty(flat.shape[0], flat.shape[1] + 1)).log()
        share = spacing[:, :-1] / spacing.sum(1, keepdim=True)
        sign = (keys.fold_in(1).uniform(flat) - 0.5).sign()
        return (share * sign).reshape(like.shape).to(like.dtype)

    def __repr__(self) -> str:
        return "l1"


linf = _Linf()
"""The maximum norm. Steepest: the sign of the gradient. Random point: uniform in the cube."""


l2 = _L2()
"""The Euclidean norm. Steepest: the gradient over its norm. Random point: uniform in the ball."""


l1 = _L1()
"""The sum norm. Steepest: the one largest entry. Random point: uniform in the cross-polytope."""


L1, L2, OWN = _L1, _L2, (_Linf, _L2, _L1)
"""Types of the norms here: they know how to project in another scale, and how to land on a grid."""


def _over_peak(d: Tensor) -> tuple[Tensor, Tensor]:
    """`(B, entries)` over its largest magnitude, `(B,)`, so that squares neither vanish nor overflow."""
    flat = rows(wide(d))
    peak = flat.abs().amax(1)
    return flat / positive(peak)[:, None], peak
