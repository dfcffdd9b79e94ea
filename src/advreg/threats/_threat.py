"""Threat: a ball, a box and a mask around a centre, where an adversary may move."""

from __future__ import annotations

import copy
import inspect
import math
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol

import torch
from torch import Tensor

from advreg._core.checks import examples
from advreg._core.keys import Keys
from advreg._core.tensors import per_example, rows, wide
from advreg.threats._checks import (
    brief,
    broadcasts,
    check_bounds,
    check_inputs,
    check_mask,
    check_norm,
    check_radius,
)
from advreg.threats._norms import Directions, Norm
from advreg.threats._projections import boxed


@dataclass(frozen=True, eq=False)
class Threat:
    """The set `{x : size(x - centre) <= radius, lower <= x <= upper, x = centre outside the mask}`.

    Args:
        norm: The geometry: `linf`, `l2`, `l1`, or a user's own.
        radius: The paper's epsilon, in the units of the input: one number, or one per example, `(B,)`.
            `math.inf` leaves the box alone as the limit.
        bounds: Feasible intensities `(lower, upper)`, numbers or tensors that broadcast against
            `(B, *input)`: per channel `(C, 1, 1)`, per voxel `(D, H, W)`. None for no box.
        mask: Where the input may change: a bool tensor that broadcasts against `(B, *input)`.

    Raises:
        ValueError: A radius below zero or NaN; bounds out of order; a radius of more than one dimension.
        TypeError: A norm that is none, such as a name; a mask that is not bool.

    Example:
        >>> import torch
        >>> from advreg import Threat, l2
        >>> threat = Threat(l2, radius=1.0)
        >>> centre = torch.tensor([[0.5, 0.9]])
        >>> print(threat.project(torch.tensor([[5.0, 5.0]]), centre).numpy().round(3))
        [[1. 1.]]
        >>> print(Threat(l2, 0.3).project(torch.tensor([[5.0, 5.0]]), centre).numpy().round(3))
        [[0.783 1.   ]]

    Source:
        Chen et al., section 2.3, Algorithm 1, "clip". There the ball comes first and then the box, which
        is feasible but not the nearest point under L2; here it is the exact Euclidean projection.
    """

    norm: Norm
    radius: float | Tensor
    bounds: tuple[float | Tensor, float | Tensor] | None = (0.0, 1.0)
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        check_norm(self.norm, self.radius)
        check_radius(self.radius)
        check_bounds(self.bounds)
        check_mask(self.mask)

    def project(self, x: Tensor, centre: Tensor) -> Tensor:
        """The nearest point to `x` of the threat around `centre`; both `(B, *input)`.

        Box and mask hold exactly, the ball to the rounding of the dtype. An example that is inside keeps its
        bits, and the centre's are kept outside the mask, NaN too, and everywhere at a radius of zero.
        """
        full, middle, (lower, upper) = wide(x), wide(centre), self._sides(centre)
        d = full - middle
        low = None if lower is None else wide(lower) - middle
        high = None if upper is None else wide(upper) - middle
        radius = self._radii(centre)
        free = per_example(radius > 0, d)
        if self.mask is not None:
            mask = self.mask.to(x.device)
            free, d = free & mask, torch.where(mask, d, 0)
            low = torch.where(mask, torch.full_like(d, -math.inf) if low is None else low, 0)
            high = torch.where(mask, torch.full_like(d, math.inf) if high is None else high, 0)
        moved = self._projection(d, radius, low, high)
        inside = per_example(rows(moved == d).all(1), d)
        near = torch.where(inside, full, middle + moved).to(centre.dtype)
        if lower is not None:
            near = torch.clamp(near, lower, upper)
        return torch.where(free, near, centre)

    def sample(self, centre: Tensor, keys: Keys, start: Tensor | None = None) -> Tensor:
        """A random point: `start` plus a random point of the ball, projected (Algorithm 1, lines 1 and 2).

        Args:
            centre: `(B, *input)`.
            keys: One key per example; the same key gives the same point whatever the batch.
            start: The paper's x_init, `(B, *input)`; by default the centre.

        Raises:
            ValueError: The radius is infinite.
        """
        if math.isinf(self.largest):
            raise ValueError(
                "a random start needs a finite radius; got inf: pass random_start=False, "
                "or a start of your own"
            )
        noise = self.norm.sample(centre, keys)
        if self.mask is not None:
            kept = torch.where(self.mask.to(centre.device), noise, 0)
            share = self.norm.size(kept) / self.norm.size(noise)
            noise = kept / per_example(torch.where(share > 0, share, 1), kept).to(kept.dtype)
        noise = noise * per_example(self._radii(centre), centre)  # half precision becomes float32
        return self.project((centre if start is None else start) + noise, centre)

    def contains(self, x: Tensor, centre: Tensor, atol: float | None = None) -> Tensor:
        """Whether each example lies in the threat, `(B,)` bool.

        `atol` is allowed on the size and on the box, in the units of the input; by default it is the size
        of a rounding error in each entry, so that whatever `project` returns is contained.
        """
        eps, tiny = torch.finfo(centre.dtype).eps, torch.finfo(centre.dtype).tiny
        full, middle, (lower, upper) = wide(x), wide(centre), self._sides(centre)
        d, slack = full - middle, eps * (full.abs() + middle.abs() + tiny)
        out = torch.zeros_like(d, dtype=torch.bool)
        if lower is not None and upper is not None:
            out = (full < wide(lower) - (atol or 0)) | (full > wide(upper) + (atol or 0))
        if self.mask is not None:
            mask = self.mask.to(x.device)
            same = (d == 0) | (full == middle) | (full.isnan() & middle.isnan())
            out = torch.where(mask, out, ~same)
            d, slack = torch.where(mask, d, 0), torch.where(mask, slack, 0)
        allowed = self.norm.size(slack) if atol is None else atol
        inside = self.norm.size(d) <= self._radii(centre) * (1 + 8 * eps) + allowed
        return inside & ~rows(out).any(1)

    def free(self, x: Tensor) -> Tensor:
        """Where the mask lets inputs change, bool `(B, *input)`, everywhere without one."""
        if self.mask is None:
            return torch.ones_like(x, dtype=torch.bool)
        return self.mask.to(x.device).expand_as(x)

    def steps_at(self, x: Tensor) -> Directions:
        """The directions that a step may take from `x`: the norm's, less what the mask or the box forbids.

        The mask holds for every norm. The box counts for sparse norms alone (L1), whose step would be lost
        on a blocked entry; otherwise the projection sees to it, as in the paper.
        """
        free = None if self.mask is None else self.free(x)
        if getattr(self.norm, "sparse", False):
            lower, upper = self._sides(x)
            if lower is not None and upper is not None:
                return _Feasible(self.norm, free, x > lower, x < upper)
        return self.norm if free is None else _Feasible(self.norm, None, free, free)

    def validate(self, centre: Tensor) -> None:
        """Check that the threat fits the inputs `(B, *input)`, and raise what teaches the remedy.

        Only where the mask lets an input change must it be finite and inside the bounds: elsewhere it may
        hold NaN, for what is missing, or a fill value.

        Raises:
            TypeError: The input is not a floating-point tensor.
            ValueError: NaN; values outside the bounds; a radius, bounds or mask of the wrong shape.
        """
        check_inputs(centre)
        radius = torch.as_tensor(self.radius)
        if radius.ndim == 1 and len(radius) != len(centre):
            raise ValueError(
                f"radius must be one number or one per example; got {len(radius)} radii "
                f"for {len(centre)} examples"
            )
        for name, value in (("mask", self.mask), *zip(("lower", "upper"), self.bounds or (), strict=False)):
            if isinstance(value, Tensor) and not broadcasts(value.shape, centre.shape):
                raise ValueError(
                    f"{name} must broadcast against the inputs {tuple(centre.shape)}; "
                    f"got shape {tuple(value.shape)}: for one value per channel use (C, 1, ..., 1)"
                )
        free = self.free(centre)
        wrong = free & ~centre.isfinite()
        if bool(wrong.any()):
            raise ValueError(
                f"inputs must be finite; got NaN or infinity in {examples(wrong)}: fill them, or leave "
                "what is missing out of the threat, Threat(..., mask=x.isfinite())"
            )
        lower, upper = self._sides(centre)
        if lower is None or upper is None:
            return
        out = free & ((centre < lower) | (centre > upper))
        if bool(out.any()):
            seen = centre[free]
            raise ValueError(
                f"inputs must lie in the threat's bounds [{brief(lower)}, {brief(upper)}]; got "
                f"[{seen.min().item():.6g}, {seen.max().item():.6g}], outside in {examples(out)}: undo "
                "the normalisation (put it into the model), pass the right bounds=, or clamp the inputs first"
            )

    def length(self, size: float, centre: Tensor) -> float | Tensor:
        """A step of `size` radii in the units of the input: a number, or one per example that broadcasts."""
        if isinstance(self.radius, Tensor):
            lengths = (size * self.radius.double()).to(centre.dtype)
            return per_example(lengths.expand(len(centre)), centre)
        return size * self.radius

    def scaled(self, factor: float) -> Threat:
        """The same threat with its radius times `factor`, 0 or more."""
        if factor == 1:
            return self
        if not factor >= 0:
            raise ValueError(f"a radius may be scaled by zero or more; got {factor}")
        return self._with(radius=self.radius * factor)

    def to(self, device: torch.device) -> Threat:
        """The same threat, what tensors it holds on a device."""
        held = [self.radius, *(self.bounds or ()), self.mask]
        if all(not isinstance(value, Tensor) or value.device == device for value in held):
            return self
        radius, lower, upper, mask = (
            value.to(device) if isinstance(value, Tensor) else value
            for value in (self.radius, *(self.bounds or (None, None)), self.mask)
        )
        return self._with(radius=radius, bounds=self.bounds and (lower, upper), mask=mask)

    def take(self, some: Tensor | slice, centre: Tensor) -> Threat:
        """The threat of some of the examples of `centre`, `(B, *input)`: flags, places or a range."""

        def own(value: Any, rank: int) -> Any:
            each = isinstance(value, Tensor) and value.ndim == rank and len(value) == len(centre)
            return value[some if isinstance(some, slice) else some.to(value.device)] if each else value

        bounds = self.bounds and (own(self.bounds[0], centre.ndim), own(self.bounds[1], centre.ndim))
        return self._with(radius=own(self.radius, 1), bounds=bounds, mask=own(self.mask, centre.ndim))

    @property
    def largest(self) -> float:
        """The largest radius in the batch."""
        return float(torch.as_tensor(self.radius).max())

    def _radii(self, centre: Tensor) -> Tensor:
        dtype = torch.promote_types(centre.dtype, torch.float32)
        return _on(centre.device, dtype, self.radius).expand(len(centre))

    def _sides(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if self.bounds is None:
            return None, None
        lower, upper = (_on(x.device, x.dtype, side) for side in self.bounds)
        return lower, upper

    def _with(self, **changes: Any) -> Threat:
        """As `dataclasses.replace`, of values known to be sound: to look at them again would cost a wait."""
        other = copy.copy(self)
        for name, value in changes.items():
            object.__setattr__(other, name, value)
        return other

    @cached_property
    def _projection(self) -> _Projection:
        own = self.norm.project
        if "lower" in inspect.signature(own).parameters:
            return own
        return partial(boxed, self.norm.size, own)


class _Projection(Protocol):
    def __call__(self, d: Tensor, radius: Tensor, lower: Tensor | None, upper: Tensor | None) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class _Feasible:
    """A norm's steepest direction among entries that can still fall, or rise, and that the mask allows."""

    norm: Norm
    mask: Tensor | None
    can_fall: Tensor
    can_rise: Tensor

    def steepest(self, g: Tensor) -> Tensor:
        free = torch.where(g > 0, self.can_rise, self.can_fall)
        return self.norm.steepest(torch.where(free if self.mask is None else free & self.mask, g, 0))


def _on(device: torch.device, dtype: torch.dtype, value: float | Tensor) -> Tensor:
    """A tensor on a device; a number is made there, since copying it to an accelerator waits."""
    if isinstance(value, (int, float)):
        return torch.full((), value, dtype=dtype, device=device)
    return torch.as_tensor(value, dtype=dtype, device=device)
