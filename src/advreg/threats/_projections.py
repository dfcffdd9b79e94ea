"""Euclidean projections onto a ball and a box at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from advreg._core.device import free
from advreg._core.tensors import per_example, positive, rows, wide

_HALVINGS = 64
_STEPS = 128  # of the root search; it is exact after about ten, and after 128 halvings in any case


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
    no more than rounding; ends on the box, so that the box holds exactly. Each round asks whether all have:
    on an accelerator that waits for it, which `l2` and `l1` do without.

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
        >>> from advreg import l2
        >>> from advreg.threats import dykstra
        >>> d, radius = torch.tensor([[3.0, 4.0]]), torch.tensor([1.0])
        >>> print(dykstra(l2.project, d, radius, upper=torch.tensor([0.3, 9.0])).numpy().round(4))
        [[0.3    0.9539]]

    Source:
        Boyle and Dykstra, A method for finding projections onto the intersection of convex sets, 1986.
    """
    if lower is None and upper is None:
        return ball(d, radius)
    z, from_ball, from_box = wide(d), torch.zeros_like(wide(d)), torch.zeros_like(wide(d))
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


def boxed(
    size_of: Callable[[Tensor], Tensor],
    ball: Callable[[Tensor, Tensor], Tensor],
    d: Tensor,
    radius: Tensor,
    lower: Tensor | None = None,
    upper: Tensor | None = None,
) -> Tensor:
    """The projection onto ball and a box that holds zero, of a norm that offers its ball alone.

    The nearer of two points: what `dykstra` finds in its rounds, which are many where the point is far
    outside; and the point of the box nearest to that of a larger ball, `clip(ball(d, t))`, whose size is the
    radius. That one is exact for norms that are a function of a sum over the entries, as p-norms and
    ellipsoids are. Both are drawn towards zero by what rounding or rounds left outside the ball, which
    leaves no box that holds zero. What lies in the ball once it is in the box stays as it is.
    """
    if lower is None and upper is None:
        near, met = d, shrunk(size_of, ball(d, radius), radius)
    else:
        near = torch.clamp(d, lower, upper)
        low, high = torch.minimum(radius, size_of(d)), size_of(d)
        for _ in range(_HALVINGS):
            middle = low + (high - low) / 2
            over = size_of(torch.clamp(ball(d, middle), lower, upper)) > radius
            low, high = torch.where(over, low, middle), torch.where(over, middle, high)
        met = shrunk(size_of, torch.clamp(ball(d, low), lower, upper), radius)
        other = shrunk(size_of, dykstra(ball, d, radius, lower, upper), radius)
        nearer = rows(other - d).square().sum(1) < rows(met - d).square().sum(1)
        met = torch.where(per_example(nearer, d), other, met)
    return torch.where(per_example(size_of(near) <= radius, d), near, met)


class Path(NamedTuple):
    """Path of the ball constraint's multiplier: the projection is `clip(at(s, d), lower, upper)`.

    `s` grows as the multiplier falls, from `start` to `end`, where the ball no longer counts. `measure`
    summed over the entries, which the ball limits, never falls in s and is piecewise linear: each entry that
    the box leaves free grows at the rate `pace`, from one of its `breaks` to another. So the root is found
    exactly.
    """

    at: Callable[[Tensor, Tensor], Tensor]
    measure: Callable[[Tensor], Tensor]
    pace: Callable[[Tensor, Tensor], Tensor]
    start: float
    end: float
    guess: Callable[[Tensor], Tensor]
    breaks: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]


SHRINK = Path(  # L2: z = d / (1 + multiplier), s = 1 / (1 + multiplier)^2
    at=lambda s, d: s.sqrt() * d,
    measure=torch.square,
    pace=lambda _, d: d.square(),
    start=0.0,
    end=1.0,
    guess=torch.square,
    breaks=lambda d, low, high: ((low / d).square(), (high / d).square()),
)


THRESHOLD = Path(  # L1: z = d soft-thresholded by the multiplier, s = -multiplier
    at=lambda s, d: d - torch.clamp(d, s, -s),
    measure=torch.abs,
    pace=lambda z, d: (z != 0).to(d.dtype),
    start=-1.0,
    end=0.0,
    guess=torch.zeros_like,
    breaks=lambda d, low, high: (-d.abs(), low - d, d - low, high - d, d - high),
)


def project(
    size_of: Callable[[Tensor], Tensor],
    d: Tensor,
    radius: Tensor,
    lower: Tensor | None,
    upper: Tensor | None,
    path: Path,
) -> Tensor:
    """The Euclidean projection onto the ball of a norm and the box, per example, along the norm's `path`."""
    full = wide(d)
    boxed = full if lower is None and upper is None else torch.clamp(full, lower, upper)
    radius, size = radius.to(full.dtype), size_of(boxed)
    inside = size <= radius * (1 + 4 * torch.finfo(full.dtype).eps)
    looking = free(d)
    if looking and bool(inside.all()):
        return boxed.to(d.dtype)
    scale = positive(size_of(full))[:, None]  # the search runs at size one: no square can overflow
    unit, low, high = (
        rows(full) / scale,
        _side(lower, full, -math.inf) / scale,
        _side(upper, full, math.inf) / scale,
    )
    reach = torch.minimum(radius, size)[:, None] / scale

    def excess(s: Tensor) -> tuple[Tensor, Tensor]:
        z = path.at(s, unit)
        free = (z > low) & (z < high)
        value = path.measure(torch.clamp(z, low, high)).sum(1, keepdim=True) - path.measure(reach)
        return value, torch.where(free, path.pace(z, unit), 0).sum(1, keepdim=True)

    ends = torch.full_like(reach, path.start), torch.full_like(reach, path.end)
    if looking:
        s = _root(excess, *ends, path.guess(reach))
    else:
        s = _root_among(excess, *ends, torch.cat(path.breaks(unit, low, high), 1))
    met = (torch.clamp(path.at(s, unit), low, high) * scale).reshape(d.shape)
    met = shrunk(size_of, met, torch.minimum(radius, size))  # rounding, where d is far outside
    if lower is not None or upper is not None:
        met = torch.clamp(met, lower, upper)
    return torch.where(per_example(inside, d), boxed, met).to(d.dtype)


def shrunk(size_of: Callable[[Tensor], Tensor], d: Tensor, radius: Tensor) -> Tensor:
    """Perturbations divided by what their size, `(B,)`, exceeds the radius by; zero at a radius of zero."""
    size = size_of(d)
    over = torch.where(size > radius, size / radius, 1)
    return d / per_example(over, d)


def _root(excess: Callable[[Tensor], tuple[Tensor, Tensor]], low: Tensor, high: Tensor, s: Tensor) -> Tensor:
    """Root of `excess`, piecewise linear and never falling in s; `(B, 1)`, per example.

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


def _root_among(
    excess: Callable[[Tensor], tuple[Tensor, Tensor]], low: Tensor, high: Tensor, breaks: Tensor
) -> Tensor:
    """The same root from all places where the slope changes, `(B, n)`: in a number of rounds known before.

    Bisection over the sorted breaks leaves one linear piece, whose root is that of its chord.
    """
    inside = torch.where(breaks.isnan(), low, breaks).clamp(low, high)  # 0 / 0: an entry that never moves
    breaks = torch.cat([low, inside.sort(1).values, high], 1)
    count = breaks.shape[1]
    # The excess never falls, so that the last break where it is not above zero, and the next one, enclose the
    # root. Each round halves the breaks between them, for all examples at once, without a look at a value.
    left = torch.zeros_like(low, dtype=torch.int64)
    right = torch.full_like(left, count - 1)
    for _ in range((count - 1).bit_length()):
        middle = (left + right) // 2
        below = excess(breaks.gather(1, middle))[0] <= 0
        left, right = torch.where(below, middle, left), torch.where(below, right, middle)
    # Between two breaks the excess is a straight line, so that its chord is exact.
    low, high = breaks.gather(1, left), breaks.gather(1, right)
    below, above = excess(low)[0], excess(high)[0]
    share = -below / positive(above - below)
    return low + share.clamp(0, 1) * (high - low)


def _side(side: Tensor | None, like: Tensor, default: float) -> Tensor:
    full = torch.full_like(like, default) if side is None else side.to(like.dtype).expand_as(like)
    return rows(full)
