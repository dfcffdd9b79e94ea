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
    check_levels,
    check_mask,
    check_norm,
    check_radius,
    check_scale,
)
from advreg.threats._levels import Grid, check_grid
from advreg.threats._norms import L1, L2, OWN, Directions, Norm
from advreg.threats._projections import boxed


@dataclass(frozen=True, eq=False)
class Threat:
    """The set `{x : size((x - centre) / scale) <= radius, lower <= x <= upper, x = centre outside the mask}`.

    Args:
        norm: The geometry: `linf`, `l2`, `l1`, or a user's own.
        radius: The paper's epsilon, in the units of the input: one number, or one per example, `(B,)`.
            `math.inf` leaves the box alone as the limit.
        bounds: Feasible intensities `(lower, upper)`, numbers or tensors that broadcast against
            `(B, *input)`: per channel `(C, 1, 1)`, per voxel `(D, H, W)`. None for no box.
        mask: Where the input may change: a bool tensor that broadcasts against `(B, *input)`.
        scale: What each entry's change is measured in, a tensor of zero or more that broadcasts against
            `(B, *input)`: under `linf` an entry may move by `radius * scale`, so that `Threat(linf, 1.0,
            scale=radii)` has a radius per channel `(C, 1, 1)`; under `l2` and `l1` the ball is an ellipsoid
            or a weighted cross-polytope. Steps and random starts are measured in it too. Where it is zero
            nothing moves. None for one everywhere.
        levels: The number of grey levels between the bounds, less one: 255 for 8 bits, 4095 for 12. The set
            then holds only `lower + k (upper - lower) / levels`, what a file of integers can; the centre must
            be among them. None for no grid.

    Raises:
        ValueError: A radius below zero or NaN; bounds out of order; a radius of more than one dimension; a
            scale below zero; levels without finite bounds.
        TypeError: A norm that is none, such as a name; a mask that is not bool; a scale or levels and a norm
            other than `linf`, `l2` and `l1`.

    Example:
        >>> import torch
        >>> from advreg import Threat, l2, linf
        >>> threat = Threat(l2, radius=1.0)
        >>> centre = torch.tensor([[0.5, 0.9]])
        >>> print(threat.project(torch.tensor([[5.0, 5.0]]), centre).numpy().round(3))
        [[1. 1.]]
        >>> print(Threat(l2, 0.3).project(torch.tensor([[5.0, 5.0]]), centre).numpy().round(3))
        [[0.783 1.   ]]
        >>> each = Threat(linf, 0.1, scale=torch.tensor([1.0, 0.0]))
        >>> print(each.project(torch.tensor([[5.0, 5.0]]), centre).numpy())
        [[0.6 0.9]]
        >>> grey = Threat(linf, 8 / 255, levels=255)
        >>> print(255 * grey.project(torch.tensor([[0.5203, 0.0]]), torch.tensor([[128 / 255, 1.0]])))
        tensor([[133., 247.]])

    Source:
        Chen et al., section 2.3, Algorithm 1, "clip". There the ball comes first and then the box, which
        is feasible but not the nearest point under L2; here it is the exact Euclidean projection.
    """

    norm: Norm
    radius: float | Tensor
    bounds: tuple[float | Tensor, float | Tensor] | None = (0.0, 1.0)
    mask: Tensor | None = None
    scale: Tensor | None = None
    levels: int | None = None

    def __post_init__(self) -> None:
        check_norm(self.norm, self.radius)
        check_radius(self.radius)
        check_bounds(self.bounds)
        check_mask(self.mask)
        check_scale(self.norm, self.scale, isinstance(self.norm, OWN))
        check_levels(self.norm, self.levels, self.bounds, isinstance(self.norm, OWN))

    def project(self, x: Tensor, centre: Tensor) -> Tensor:
        """The nearest point to `x` of the threat around `centre`; both `(B, *input)`.

        Box and mask hold exactly, the ball to the rounding of the dtype. An example that is inside keeps its
        bits, and the centre's are kept outside the mask, NaN too, and everywhere at a radius of zero.

        With levels the point lies on the grid: under `linf` the nearest one; under `l2` and `l1`, where to
        find the nearest is a hard problem, one that is no larger than the nearest point of the ball: rounded
        towards the centre, with as many entries raised by a level, those closest to it first, as that allows.
        """
        near = self._continuous(x, centre)
        if self.levels is None:
            return near
        grid, scale, reach = (
            self._grid(centre),
            self._scales(centre),
            per_example(self._radii(centre), centre),
        )
        if not isinstance(self.norm, (L1, L2)):
            met = grid.nearest(near, centre, reach if scale is None else reach * scale)
        else:
            norm = self.norm
            met = grid.filled(near, centre, lambda d: norm.measure(d if scale is None else d / scale))
        return torch.where(self.free(centre), met, centre)

    def _continuous(self, x: Tensor, centre: Tensor) -> Tensor:
        full, middle, (lower, upper) = wide(x), wide(centre), self._sides(centre)
        d = full - middle
        low = None if lower is None else wide(lower) - middle
        high = None if upper is None else wide(upper) - middle
        radius = self._radii(centre)
        free, scale, mask = per_example(radius > 0, d), self._scales(centre), self.movable
        if mask is not None:
            mask = mask.to(x.device)
            free, d = free & mask, torch.where(mask, d, 0)
            low = torch.where(mask, torch.full_like(d, -math.inf) if low is None else low, 0)
            high = torch.where(mask, torch.full_like(d, math.inf) if high is None else high, 0)
        if scale is None:
            moved = self._projection(d, radius, low, high)
        else:
            assert isinstance(self.norm, OWN)
            moved = self.norm.project(d, radius, low, high, scale)
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
        if (mask := self.movable) is not None:
            kept = torch.where(mask.to(centre.device), noise, 0)
            share = self.norm.size(kept) / self.norm.size(noise)
            noise = kept / per_example(torch.where(share > 0, share, 1), kept).to(kept.dtype)
        noise = self.stretched(noise) * per_example(self._radii(centre), centre)  # half becomes float32
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
        if self.levels is not None:
            out = out | (self._grid(centre).off(x) & (x != centre))
        if (movable := self.movable) is not None:
            mask = movable.to(x.device)
            same = (d == 0) | (full == middle) | (full.isnan() & middle.isnan())
            out = torch.where(mask, out, ~same)
            d, slack = torch.where(mask, d, 0), torch.where(mask, slack, 0)
        if (scale := self._scales(centre)) is not None:
            d, slack = d / scale, slack / scale
        allowed = self.norm.size(slack) if atol is None else atol
        inside = self.norm.size(d) <= self._radii(centre) * (1 + 8 * eps) + allowed
        return inside & ~rows(out).any(1)

    def distance(self, x: Tensor, centre: Tensor) -> Tensor:
        """How far each input is from its centre, in the norm and the scale, `(B,)` float32 at least."""
        d, scale = wide(x) - wide(centre), self._scales(centre)
        d = torch.where(self.free(centre), d, 0)  # NaN, too, may stand where nothing moves
        return self.norm.size(d if scale is None else d / scale)

    def free(self, x: Tensor) -> Tensor:
        """Where mask and scale let inputs change, bool `(B, *input)`, everywhere without them."""
        if (mask := self.movable) is None:
            return torch.ones_like(x, dtype=torch.bool)
        return mask.to(x.device).expand_as(x)

    @property
    def movable(self) -> Tensor | None:
        """The mask, less where the scale is zero: bool, broadcasts against inputs; None for everywhere."""
        if self.scale is None:
            return self.mask
        moving = torch.as_tensor(self.scale) > 0
        return moving if self.mask is None else moving.to(self.mask.device) & self.mask

    @property
    def relaxed(self) -> Threat:
        """The same threat without its grid of levels: what rules step in, however small their steps are."""
        return self if self.levels is None else self._with(levels=None)

    def stretched(self, d: Tensor) -> Tensor:
        """Directions `(B, *input)` that are measured in the scale, in the units of the input: `d * scale`."""
        if self.scale is None:
            return d
        return d * _on(d.device, torch.promote_types(d.dtype, torch.float32), self.scale).to(d.dtype)

    def steps_at(self, x: Tensor) -> Directions:
        """The directions that a step may take from `x`: the norm's, less what the mask or the box forbids.

        The mask holds for every norm. The box counts for sparse norms alone (L1), whose step would be lost
        on a blocked entry; otherwise the projection sees to it, as in the paper. Directions are measured in
        the scale, and `stretched` gives them in the units of the input.
        """
        free, scale = None if self.movable is None else self.free(x), self._scales(x)
        if getattr(self.norm, "sparse", False):
            lower, upper = self._sides(x)
            if lower is not None and upper is not None:
                return _Feasible(self.norm, free, x > lower, x < upper, scale)
        return self.norm if free is None else _Feasible(self.norm, None, free, free, scale)

    def validate(self, centre: Tensor) -> None:
        """Check that the threat fits the inputs `(B, *input)`, and raise what teaches the remedy.

        Only where the mask lets an input change must it be finite and inside the bounds: elsewhere it may
        hold NaN, for what is missing, or a fill value.

        Raises:
            TypeError: The input is not a floating-point tensor.
            ValueError: NaN; values outside the bounds, or between levels; a radius, bounds, mask or scale of
                the wrong shape.

        Warns:
            UserWarning: A radius of less than a level.
        """
        check_inputs(centre)
        radius = torch.as_tensor(self.radius)
        if radius.ndim == 1 and len(radius) != len(centre):
            raise ValueError(
                f"radius must be one number or one per example; got {len(radius)} radii "
                f"for {len(centre)} examples"
            )
        held = (("mask", self.mask), ("scale", self.scale))
        for name, value in (*held, *zip(("lower", "upper"), self.bounds or (), strict=False)):
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
        if self.levels is not None:
            check_grid(self._grid(centre), centre, free, self._radii(centre), self._scales(centre))

    def length(self, size: float, centre: Tensor, *, relative: bool = True) -> float | Tensor:
        """A step in the units of the input, to broadcast against it: of `size` radii if `relative`.

        Of a threat with a scale, one for each entry.
        """
        alpha: float | Tensor = size
        if relative and isinstance(self.radius, Tensor):
            each = (size * self.radius.double()).to(centre.dtype)
            alpha = per_example(each.expand(len(centre)), centre)
        elif relative:
            alpha = size * self.radius
        return alpha if self.scale is None else self.stretched(torch.full_like(centre, 1.0) * alpha)

    def scaled(self, factor: float) -> Threat:
        """The same threat with its radius times `factor`, 0 or more."""
        if factor == 1:
            return self
        if not factor >= 0:
            raise ValueError(f"a radius may be scaled by zero or more; got {factor}")
        return self._with(radius=self.radius * factor)

    def to(self, device: torch.device) -> Threat:
        """The same threat, what tensors it holds on a device."""
        held = [self.radius, *(self.bounds or ()), self.mask, self.scale]
        if all(not isinstance(value, Tensor) or value.device == device for value in held):
            return self
        radius, lower, upper, mask, scale = (
            value.to(device) if isinstance(value, Tensor) else value
            for value in (self.radius, *(self.bounds or (None, None)), self.mask, self.scale)
        )
        return self._with(radius=radius, bounds=self.bounds and (lower, upper), mask=mask, scale=scale)

    def take(self, some: Tensor | slice, centre: Tensor) -> Threat:
        """The threat of some of the examples of `centre`, `(B, *input)`: flags, places or a range."""

        def own(value: Any, rank: int) -> Any:
            each = isinstance(value, Tensor) and value.ndim == rank and len(value) == len(centre)
            return value[some if isinstance(some, slice) else some.to(value.device)] if each else value

        bounds = self.bounds and (own(self.bounds[0], centre.ndim), own(self.bounds[1], centre.ndim))
        mask, scale = own(self.mask, centre.ndim), own(self.scale, centre.ndim)
        return self._with(radius=own(self.radius, 1), bounds=bounds, mask=mask, scale=scale)

    @property
    def largest(self) -> float:
        """The largest radius in the batch, in the units of the input: times the largest scale."""
        radius = float(torch.as_tensor(self.radius).max())
        most = 1.0 if self.scale is None else float(torch.as_tensor(self.scale).max())
        return radius * most if most > 0 else 0.0

    def _radii(self, centre: Tensor) -> Tensor:
        dtype = torch.promote_types(centre.dtype, torch.float32)
        return _on(centre.device, dtype, self.radius).expand(len(centre))

    def _sides(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if self.bounds is None:
            return None, None
        lower, upper = (_on(x.device, x.dtype, side) for side in self.bounds)
        return lower, upper

    def _scales(self, x: Tensor) -> Tensor | None:
        """The scale in at least float32, with one where it is zero, since the mask holds these entries."""
        if self.scale is None:
            return None
        scale = _on(x.device, torch.promote_types(x.dtype, torch.float32), self.scale)
        return torch.where(scale > 0, scale, 1)

    def _grid(self, x: Tensor) -> Grid:
        lower, upper = self._sides(x)
        assert lower is not None
        assert upper is not None
        assert self.levels is not None
        return Grid(lower, upper, self.levels)

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
    """A norm's steepest direction among entries that can still fall, or rise, and that the mask allows.

    Measured in a scale, `argmax <g, scale d>` over `size(d) <= 1`.
    """

    norm: Norm
    mask: Tensor | None
    can_fall: Tensor
    can_rise: Tensor
    scale: Tensor | None = None

    def steepest(self, g: Tensor) -> Tensor:
        free = torch.where(g > 0, self.can_rise, self.can_fall)
        g = torch.where(free if self.mask is None else free & self.mask, g, 0)
        if self.scale is None:
            return self.norm.steepest(g)
        return self.norm.steepest(g * self.scale).to(g.dtype)


def _on(device: torch.device, dtype: torch.dtype, value: float | Tensor) -> Tensor:
    """A tensor on a device; a number is made there, since copying it to an accelerator waits."""
    if isinstance(value, (int, float)):
        return torch.full((), value, dtype=dtype, device=device)
    return torch.as_tensor(value, dtype=dtype, device=device)
