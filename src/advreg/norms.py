"""The geometries that an adversary may move in: `linf`, `l2`, `l1`, and a way to box any other.

Shapes: perturbations `d` and gradients `g` are `(B, *input)`, radii `(B,)`, box sides broadcast
against `d`. Every function works per example, on the tensor's device. float16 and bfloat16 are
computed in float32 and rounded once at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

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
        size: Tensor = torch.linalg.vector_norm(rows(_wide(d)), dim=1)
        return size

    def project(
        self, d: Tensor, radius: Tensor, lower: Tensor | None = None, upper: Tensor | None = None
    ) -> Tensor:
        # Stationarity: z = clip(t d), t = 1 / (1 + multiplier). In s = t^2 the squared size of z is piecewise
        # linear and never falls, so its root is found exactly.
        def along(s: Tensor, d: Tensor, low: Tensor, high: Tensor) -> Tensor:
            return torch.clamp(s.sqrt() * d, low, high)

        def excess(s: Tensor, d: Tensor, low: Tensor, high: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
            z = s.sqrt() * d
            free = (z > low) & (z < high)
            value = torch.clamp(z, low, high).square().sum(1, keepdim=True) - r.square()
            return value, torch.where(free, d, 0).square().sum(1, keepdim=True)

        return _project(
            self,
            d,
            radius,
            lower,
            upper,
            along,
            excess,
            start=0.0,
            end=1.0,
            first=lambda reach: reach.square(),
        )

    def steepest(self, g: Tensor) -> Tensor:
        flat = rows(_wide(g))
        flat = flat / _positive(
            flat.abs().amax(1, keepdim=True)
        )  # so that squares neither vanish nor overflow
        flat = flat / _positive(torch.linalg.vector_norm(flat, dim=1, keepdim=True))
        return flat.reshape(g.shape).to(g.dtype)

    def sample(self, like: Tensor, keys: Keys) -> Tensor:
        direction = keys.normal(like.float())
        share = keys.fold_in(1).uniform(direction[:, :0].new_empty(len(direction)))
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
        # Stationarity: z = clip(soft threshold of d by the multiplier). In s = -multiplier the size of z is
        # piecewise linear and never falls, so its root is found exactly.
        def along(s: Tensor, d: Tensor, low: Tensor, high: Tensor) -> Tensor:
            return torch.clamp(d - torch.clamp(d, s, -s), low, high)

        def excess(s: Tensor, d: Tensor, low: Tensor, high: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
            shrunk = d - torch.clamp(d, s, -s)
            free = (shrunk > low) & (shrunk < high) & (shrunk != 0)
            value = torch.clamp(shrunk, low, high).abs().sum(1, keepdim=True) - r
            return value, free.sum(1, keepdim=True).to(d.dtype)

        return _project(
            self, d, radius, lower, upper, along, excess, start=-1.0, end=0.0, first=torch.zeros_like
        )

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
        moved = (after - z).abs().amax() > torch.finfo(z.dtype).eps * after.abs().amax()
        z = after
        if not moved:
            break
    return z.to(d.dtype)


_Along = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
_Excess = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def _project(
    norm: _L2 | _L1,
    d: Tensor,
    radius: Tensor,
    lower: Tensor | None,
    upper: Tensor | None,
    along: _Along,
    excess: _Excess,
    *,
    start: float,
    end: float,
    first: Callable[[Tensor], Tensor],
) -> Tensor:
    """The point `along(s)` of the path from the box to `d` at which the ball is just met, per example."""
    wide = _wide(d)
    boxed = wide if lower is None and upper is None else torch.clamp(wide, lower, upper)
    radius = radius.to(wide.dtype)
    size = norm.size(boxed)
    inside = size <= radius * (1 + 4 * torch.finfo(wide.dtype).eps)
    if bool(inside.all()):
        return boxed.to(d.dtype)
    scale = _positive(norm.size(wide))[:, None]  # the search runs at size one: no square can overflow
    unit = rows(wide) / scale
    low = _side(lower, wide, -math.inf) / scale
    high = _side(upper, wide, math.inf) / scale
    reach = torch.minimum(radius, size)[:, None] / scale
    s = _root(
        lambda s: excess(s, unit, low, high, reach),
        torch.full_like(reach, start),
        torch.full_like(reach, end),
        first(reach).clamp(start, end),
    )
    met = (along(s, unit, low, high) * scale).reshape(d.shape)
    if lower is not None or upper is not None:
        met = torch.clamp(met, lower, upper)
    return torch.where(per_example(inside, d), boxed, met).to(d.dtype)


def _root(excess: Callable[[Tensor], tuple[Tensor, Tensor]], low: Tensor, high: Tensor, s: Tensor) -> Tensor:
    """Where `excess`, piecewise linear and never falling in s, crosses zero; `(B, 1)`, per example.

    Newton's method, exact once it reaches the right piece, kept inside a bracket that halves wherever
    Newton leaves it. `excess(s)` gives the value and its slope.
    """
    for _ in range(_STEPS):
        value, slope = excess(s)
        low, high = torch.where(value <= 0, s, low), torch.where(value >= 0, s, high)
        newton = s - value / slope
        middle = low + (high - low) / 2
        following = torch.where((newton > low) & (newton < high), newton, middle)
        settled = (newton - s).abs() <= 4 * torch.finfo(s.dtype).eps * s.abs()
        following = torch.where(settled | (value == 0), s, following)
        if bool((following == s).all()):
            break
        s = following
    return s


def _side(side: Tensor | None, like: Tensor, default: float) -> Tensor:
    full = torch.full_like(like, default) if side is None else side.to(like.dtype).expand_as(like)
    return rows(full)


def _positive(size: Tensor) -> Tensor:
    return torch.where(size > 0, size, 1)
