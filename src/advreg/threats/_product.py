"""Product of threats: several tensors that are attacked together, each within a threat of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from advreg._core.keys import Keys
from advreg.threats._norms import Directions
from advreg.threats._threat import Threat


@dataclass(frozen=True, eq=False)
class Product:
    """The product of some threats, on rows `(B, N)` that hold an example's tensors one after another.

    Each tensor stays in its own ball, box and mask, and is stepped in its own radii. It serves an attack as
    `Threat` does.

    Args:
        threats: One for each tensor.
        shapes: The shape of one example of each tensor, without the batch.
    """

    threats: tuple[Threat, ...]
    shapes: tuple[tuple[int, ...], ...]

    def apart(self, x: Tensor) -> list[Tensor]:
        """The tensors, each in its shape, of rows `(..., N)`."""
        pieces = torch.split(x, [math.prod(shape) for shape in self.shapes], -1)
        return [
            piece.reshape(*x.shape[:-1], *shape) for piece, shape in zip(pieces, self.shapes, strict=True)
        ]

    def project(self, x: Tensor, centre: Tensor) -> Tensor:
        """The nearest point of the product, `(B, N)`: the nearest of each tensor."""
        return self.each(lambda threat, own, middle: threat.project(own, middle), x, centre)

    def sample(self, centre: Tensor, keys: Keys, start: Tensor | None = None) -> Tensor:
        """A random point, `(B, N)`; each tensor draws from keys of its own."""
        draws = iter(range(len(self.threats)))
        return self.each(
            lambda threat, middle, begin: threat.sample(middle, keys.fold_in(next(draws)), begin),
            centre,
            centre if start is None else start,
        )

    def contains(self, x: Tensor, centre: Tensor, atol: float | None = None) -> Tensor:
        """Whether each example's tensors lie in their threats, `(B,)` bool."""
        pairs = zip(self.threats, self.apart(x), self.apart(centre), strict=True)
        return torch.stack([threat.contains(own, middle, atol) for threat, own, middle in pairs]).all(0)

    def free(self, x: Tensor) -> Tensor:
        """Where inputs may change, bool `(B, N)`."""
        return self.each(lambda threat, own: threat.free(own), x)

    def steps_at(self, x: Tensor) -> Directions:
        """The directions that a step may take: of each tensor its own norm's, of size one."""
        return _Steepest(self, x)

    def length(self, size: float, centre: Tensor, *, relative: bool = True) -> Tensor:
        """A step in the units of each entry, `(B, N)`: of `size` of its tensor's radii if `relative`."""

        def own(threat: Threat, middle: Tensor) -> Tensor:
            return torch.ones_like(middle) * threat.length(size, middle, relative=relative)

        return self.each(own, centre)

    def stretched(self, d: Tensor) -> Tensor:
        """Directions that are measured in each tensor's scale, in the units of the input."""
        return self.each(lambda threat, own: threat.stretched(own), d)

    @property
    def relaxed(self) -> Product:
        """The same without levels."""
        return self._of([threat.relaxed for threat in self.threats])

    def scaled(self, factor: float) -> Product:
        """The same with each radius times `factor`."""
        return self._of([threat.scaled(factor) for threat in self.threats])

    def to(self, device: torch.device) -> Product:
        """The same on a device."""
        return self._of([threat.to(device) for threat in self.threats])

    def take(self, some: Tensor | slice, centre: Tensor) -> Product:
        """The threats of some of the examples."""
        pairs = zip(self.threats, self.apart(centre), strict=True)
        return self._of([threat.take(some, own) for threat, own in pairs])

    @property
    def largest(self) -> float:
        """The largest radius of all."""
        return max(threat.largest for threat in self.threats)

    @property
    def movable(self) -> Tensor | None:
        """Where inputs may change, bool, to broadcast against `(B, N)`; None for everywhere."""
        found = [threat.movable for threat in self.threats]
        device = next((mask.device for mask in found if mask is not None), None)
        if device is None:
            return None
        masks = []
        for mask, shape in zip(found, self.shapes, strict=True):
            own = torch.ones(1, dtype=torch.bool) if mask is None else mask
            count = len(own) if own.ndim > len(shape) else 1
            masks.append(own.to(device).expand(count, *shape).flatten(1))
        count = max(map(len, masks))
        return torch.cat([own.expand(count, -1) for own in masks], 1)

    def _of(self, threats: Sequence[Threat]) -> Product:
        same = all(new is old for new, old in zip(threats, self.threats, strict=True))
        return self if same else replace(self, threats=tuple(threats))

    def each(self, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        """A function of each threat and its part of some rows, `(B, n)` again."""
        parts: list[Any] = [self.apart(tensor) for tensor in tensors]
        found = [function(threat, *own) for threat, *own in zip(self.threats, *parts, strict=True)]
        return torch.cat([one.flatten(1) for one in found], 1)


@dataclass(frozen=True, eq=False)
class _Steepest:
    """The steepest direction of each tensor at a point."""

    product: Product
    x: Tensor

    def steepest(self, g: Tensor) -> Tensor:
        return self.product.each(lambda threat, own, slope: threat.steps_at(own).steepest(slope), self.x, g)


Threats: TypeAlias = Threat | Mapping[str | int, Threat]
"""Threat of an attack: of the input; or of a model of several inputs, each that is attacked, by its key."""
