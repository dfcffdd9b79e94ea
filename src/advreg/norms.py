"""The geometries that an adversary may move in: `linf`, `l2`, `l1`, and a way to box any other.

Shapes: perturbations `d` and gradients `g` are `(B, *input)`, radii `(B,)`, box sides broadcast
against `d`. Every function works per example, on the tensor's device. float16 and bfloat16 are
computed in float32 and rounded once at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from advreg.randomness import Keys

_STEPS = 128  # of the root search; it is exact after about ten, and after 128 halvings in any case


def per_example(value: Tensor, like: Tensor) -> Tensor:
    """`(B,)` seen as `(B, 1, ..., 1)`, to broadcast against `like`, `(B, *input)`."""
    return value.reshape(-1, *[1] * (like.ndim - 1))


def rows(d: Tensor) -> Tensor:
    """`(B, *input)` seen as `(B, entries)`, for any rank and for an empty batch."""
    return d.reshape(d.shape[0], math.prod(d.shape[1:]))


def _wide(d: Tensor) -> Tensor:
    return d.float() if d.dtype in (torch.float16, torch.bfloat16) else d


@dataclass(frozen=True)
class _Linf:
    """`size(d) = max |d_i|`."""

    sparse: ClassVar[bool] = False

    def size(self, d: Tensor) -> Tensor:
        return rows(_wide(d)).abs().amax(1)

    def project(
        self, d: Tensor, radius: Tensor, lower: Tensor | None = None, upper: Tensor | None = None
    ) -> Tensor:
        reach = per_example(radius, d).to(d.dtype)
        low = -reach if lower is None else torch.maximum(lower, -reach)
        high = reach if upper is None else torch.minimum(upper, reach)
        return torch.clamp(d, low, high)

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

    def project(
        self, d: Tensor, radius: Tensor, lower: Tensor | None = None, upper: Tensor | None = None
    ) -> Tensor:
        return _project(self, d, radius, lower, upper, _SHRINK)

    def steepest(self, g: Tensor) -> Tensor:
        flat, _ = _over_peak(g)
        flat = flat / _positive(torch.linalg.vector_norm(flat, dim=1, keepdim=True))
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
        return rows(_wide(d)).abs().sum(1)

    def project(
        self, d: Tensor, radius: Tensor, lower: Tensor | None = None, upper: Tensor | None = None
    ) -> Tensor:
        return _project(self, d, radius, lower, upper, _THRESHOLD)

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


def dykstra(
    ball: Callable[[Tensor, Tensor], Tensor],
    d: Tensor,
    radius: Tensor,
    lower: Tensor | None = None,
    upper: Tensor | None = None,
    *,
    rounds: int = 200,
) -> Tensor:
    """The Euclidean projection onto `ball ∩ [lower, upper]`, from a projection onto the ball alone.

    Alternates the two projections, each time giving back what it took before, until an example moves by
    no more than rounding; ends on the box, so that the box holds exactly.

    Args:
        ball: `(d, radius) -> nearest point of the ball`, shapes as below.
        d: Perturbations, `(B, *input)`.
        radius: Radii, `(B,)`.
        lower: Lower sides of the box, broadcast against `d`; None for none.
        upper: Upper sides.
        rounds: At most so many pairs of projections.

    Returns:
        The nearest points, `(B, *input)`, to within what `rounds` allows.

    Example:
        >>> import torch
        >>> from advreg import dykstra, l2
        >>> d, radius = torch.tensor([[3.0, 4.0]]), torch.tensor([1.0])
        >>> print(dykstra(l2.project, d, radius, upper=torch.tensor([0.3, 9.0])).numpy().round(4))
        [[0.3    0.9539]]

    Source:
        Boyle and Dykstra, A method for finding projections onto the intersection of convex sets, 1986.
    """
    if lower is None and upper is None:
        return ball(d, radius)
    z, from_ball, from_box = _wide(d), torch.zeros_like(_wide(d)), torch.zeros_like(_wide(d))
    for _ in range(rounds):
        inside = ball(z + from_ball, radius)
        from_ball = z + from_ball - inside
        after = torch.clamp(inside + from_box, lower, upper)
        from_box = inside + from_box - after
        moved = rows(after - z).abs().amax(1) > torch.finfo(z.dtype).eps * rows(after).abs().amax(1)
        z = after
        if not bool(moved.any()):
            break
    return z.to(d.dtype)


class _Path(NamedTuple):
    """Where the multiplier of the ball constraint leads: the projection is `clip(at(s, d), lower, upper)`.

    `s` grows as the multiplier falls, from `start` to `end`, where the ball no longer counts. `measure`
    summed over the entries, which the ball limits, never falls in s and is piecewise linear: each entry that
    the box leaves free grows at the rate `pace`. So the root is found exactly.
    """

    at: Callable[[Tensor, Tensor], Tensor]
    measure: Callable[[Tensor], Tensor]
    pace: Callable[[Tensor, Tensor], Tensor]
    start: float
    end: float
    guess: Callable[[Tensor], Tensor]


_SHRINK = _Path(  # L2: z = d / (1 + multiplier), s = 1 / (1 + multiplier)^2
    at=lambda s, d: s.sqrt() * d,
    measure=torch.square,
    pace=lambda _, d: d.square(),
    start=0.0,
    end=1.0,
    guess=torch.square,
)

_THRESHOLD = _Path(  # L1: z = d soft-thresholded by the multiplier, s = -multiplier
    at=lambda s, d: d - torch.clamp(d, s, -s),
    measure=torch.abs,
    pace=lambda z, d: (z != 0).to(d.dtype),
    start=-1.0,
    end=0.0,
    guess=torch.zeros_like,
)


def _project(
    norm: _L2 | _L1, d: Tensor, radius: Tensor, lower: Tensor | None, upper: Tensor | None, path: _Path
) -> Tensor:
    """The Euclidean projection onto the ball of `norm` and the box, per example, along `path`."""
    wide = _wide(d)
    boxed = wide if lower is None and upper is None else torch.clamp(wide, lower, upper)
    radius, size = radius.to(wide.dtype), norm.size(boxed)
    inside = size <= radius * (1 + 4 * torch.finfo(wide.dtype).eps)
    if bool(inside.all()):
        return boxed.to(d.dtype)
    scale = _positive(norm.size(wide))[:, None]  # the search runs at size one: no square can overflow
    unit, low, high = (
        rows(wide) / scale,
        _side(lower, wide, -math.inf) / scale,
        _side(upper, wide, math.inf) / scale,
    )
    reach = torch.minimum(radius, size)[:, None] / scale

    def excess(s: Tensor) -> tuple[Tensor, Tensor]:
        z = path.at(s, unit)
        free = (z > low) & (z < high)
        value = path.measure(torch.clamp(z, low, high)).sum(1, keepdim=True) - path.measure(reach)
        return value, torch.where(free, path.pace(z, unit), 0).sum(1, keepdim=True)

    ends = torch.full_like(reach, path.start), torch.full_like(reach, path.end)
    s = _root(excess, *ends, path.guess(reach))
    met = (torch.clamp(path.at(s, unit), low, high) * scale).reshape(d.shape)
    over = norm.size(met) / _positive(torch.minimum(radius, size))  # rounding, where d is far outside
    met = met / per_example(over.clamp(min=1), met)
    if lower is not None or upper is not None:
        met = torch.clamp(met, lower, upper)
    return torch.where(per_example(inside, d), boxed, met).to(d.dtype)


def _root(excess: Callable[[Tensor], tuple[Tensor, Tensor]], low: Tensor, high: Tensor, s: Tensor) -> Tensor:
    """Where `excess`, piecewise linear and never falling in s, crosses zero; `(B, 1)`, per example.

    Newton's method from `s`, exact once it reaches the right piece, kept inside a bracket that halves
    wherever Newton leaves it. `excess(s)` gives the value and its slope.
    """
    for _ in range(_STEPS):
        value, slope = excess(s)
        low, high = torch.where(value <= 0, s, low), torch.where(value >= 0, s, high)
        newton, middle = s - value / slope, low + (high - low) / 2
        there = (value == 0) | ((newton - s).abs() <= 4 * torch.finfo(s.dtype).eps * s.abs())
        following = torch.where((newton > low) & (newton < high), newton, middle)
        following = torch.where(there, s, following)
        if bool((following == s).all()):
            break
        s = following
    return s


def _side(side: Tensor | None, like: Tensor, default: float) -> Tensor:
    full = torch.full_like(like, default) if side is None else side.to(like.dtype).expand_as(like)
    return rows(full)


def _over_peak(d: Tensor) -> tuple[Tensor, Tensor]:
    """`(B, entries)` over its largest magnitude, `(B,)`, so that squares neither vanish nor overflow."""
    flat = rows(_wide(d))
    peak = flat.abs().amax(1)
    return flat / _positive(peak)[:, None], peak


def _positive(size: Tensor) -> Tensor:
    return torch.where(size > 0, size, 1)
