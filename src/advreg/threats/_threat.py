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
from advreg._core.tensors import per_example, rows
from advreg.threats._norms import Directions, Norm
from advreg.threats._projections import dykstra


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
        missing = [name for name in ("size", "project", "steepest", "sample") if not hasattr(self.norm, name)]
        if missing:
            raise TypeError(
                "norm must be advreg.linf, l2, l1, or an object with size, project, steepest and sample; got "
                f"{self.norm!r} of type {type(self.norm).__name__}, without {', '.join(missing)}"
            )
        radius = torch.as_tensor(self.radius)
        if radius.ndim > 1:
            raise ValueError(
                f"radius must be one number or one per example, (B,); got shape {tuple(radius.shape)}"
            )
        if not bool((radius >= 0).all()):
            raise ValueError(
                f"radius must be zero or more, in the units of the input; got {_brief(radius)}. "
                "To descend an objective pass negate(objective), not a negative radius"
            )
        if self.bounds is not None:
            lower, upper = (torch.as_tensor(side) for side in self.bounds)
            if not bool((lower <= upper.to(lower.device)).all()):
                raise ValueError(
                    f"bounds must be (lower, upper) with lower <= upper everywhere; got {_brief(lower)} "
                    f"and {_brief(upper)}"
                )
        if self.mask is not None and self.mask.dtype != torch.bool:
            raise TypeError(
                f"mask must be bool, True where the input may change; got {self.mask.dtype}: pass mask.bool()"
            )

    def project(self, x: Tensor, centre: Tensor) -> Tensor:
        """The nearest point to `x` of the threat around `centre`; both `(B, *input)`.

        Box and mask hold exactly, the ball to the rounding of the dtype.
        """
        lower, upper = self._sides(centre)
        d = x - centre
        low = None if lower is None else lower - centre
        high = None if upper is None else upper - centre
        if self.mask is not None:
            mask = self.mask.to(x.device)
            d = torch.where(mask, d, 0)
            low = torch.where(mask, -math.inf if low is None else low, 0)
            high = torch.where(mask, math.inf if high is None else high, 0)
        near = centre + self._projection(d, self._radii(centre), low, high)
        if lower is not None:
            near = torch.clamp(near, lower, upper)
        return near if self.mask is None else torch.where(self.mask.to(x.device), near, centre)

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
        noise = noise * per_example(self._radii(centre), centre).to(centre.dtype)
        return self.project((centre if start is None else start) + noise, centre)

    def contains(self, x: Tensor, centre: Tensor, atol: float | None = None) -> Tensor:
        """Whether each example lies in the threat, `(B,)` bool.

        `atol` is allowed on the size and on the box, in the units of the input; by default it is the size
        of a rounding error in each entry, so that whatever `project` returns is contained.
        """
        d = x - centre
        slack = torch.finfo(x.dtype).eps * (x.abs() + centre.abs())
        allowed = self.norm.size(slack) if atol is None else atol
        radius = self._radii(centre).to(d.device)
        inside = self.norm.size(d) <= radius * (1 + 8 * torch.finfo(x.dtype).eps) + allowed
        lower, upper = self._sides(centre)
        out = torch.zeros_like(x, dtype=torch.bool)
        if lower is not None and upper is not None:
            out |= (x < lower - (atol or 0)) | (x > upper + (atol or 0))
        if self.mask is not None:
            out |= ~self.mask.to(x.device) & (d != 0)
        return inside & ~rows(out).any(1)

    def steps_at(self, x: Tensor) -> Directions:
        """The directions that a step may take from `x`: the norm's, less what the mask or the box forbids.

        The mask holds for every norm. The box counts for sparse norms alone (L1), whose step would be lost
        on a blocked entry; otherwise the projection sees to it, as in the paper.
        """
        free = None if self.mask is None else self.mask.to(x.device).expand_as(x)
        if getattr(self.norm, "sparse", False):
            lower, upper = self._sides(x)
            if lower is not None and upper is not None:
                return _Feasible(self.norm, free, x > lower, x < upper)
        return self.norm if free is None else _Feasible(self.norm, None, free, free)

    def validate(self, centre: Tensor) -> None:
        """Check that the threat fits the inputs `(B, *input)`, and raise what teaches the remedy.

        Raises:
            TypeError: The input is not floating point.
            ValueError: NaN; values outside the bounds; a radius, bounds or mask of the wrong shape.
        """
        if not centre.is_floating_point():
            raise TypeError(
                f"inputs must be floating point, so that they can be moved by less than one grey level; "
                f"got {centre.dtype}: convert first, for 8-bit images x.float() / 255"
            )
        if centre.ndim < 1 or centre.shape[0] == 0:
            raise ValueError(
                f"inputs must be a batch (B, *input) of at least one; got shape {tuple(centre.shape)}"
            )
        if not bool(centre.isfinite().all()):
            raise ValueError(f"inputs must be finite; got NaN or infinity in {examples(~centre.isfinite())}")
        radius = torch.as_tensor(self.radius)
        if radius.ndim == 1 and len(radius) != len(centre):
            raise ValueError(
                f"radius must be one number or one per example; got {len(radius)} radii "
                f"for {len(centre)} examples"
            )
        for name, value in (("mask", self.mask), *zip(("lower", "upper"), self.bounds or (), strict=False)):
            if isinstance(value, Tensor) and not _broadcasts(value.shape, centre.shape):
                raise ValueError(
                    f"{name} must broadcast against the inputs {tuple(centre.shape)}; "
                    f"got shape {tuple(value.shape)}: for one value per channel use (C, 1, ..., 1)"
                )
        lower, upper = self._sides(centre)
        if lower is None or upper is None:
            return
        out = (centre < lower) | (centre > upper)
        if bool(out.any()):
            raise ValueError(
                f"inputs must lie in the threat's bounds [{_brief(lower)}, {_brief(upper)}]; got "
                f"[{centre.min().item():.6g}, {centre.max().item():.6g}], outside in {examples(out)}: undo "
                "the normalisation (put it into the model), pass the right bounds=, or clamp the inputs first"
            )

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
        wide = torch.promote_types(centre.dtype, torch.float32)
        return _on(centre.device, wide, self.radius).expand(len(centre))

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
        return own if "lower" in inspect.signature(own).parameters else partial(dykstra, own)


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


def _broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    try:
        torch.empty(shape, device="meta").expand(to)
    except RuntimeError:
        return False
    return True


def _brief(value: Tensor) -> str:
    low, high = value.min().item(), value.max().item()
    return f"{low:.6g}" if low == high else f"{low:.6g} to {high:.6g}"
