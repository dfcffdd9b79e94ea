"""The contract of projections, on random cases over norms, boxes, radii, masks, dtypes, batches and ranks.

A case is one example with its own radius, centre and point. The expected points are found in float64 by
a bisection of the multiplier that shares nothing with the library. `ADVREG_PROJECTIONS=100000` runs more.
"""

import math
import os
from dataclasses import dataclass

import pytest
import torch

from advreg import Threat, l1, l2, linf

COUNT = int(os.environ.get("ADVREG_PROJECTIONS", "1800"))
PARTS = 6  # tests that share them
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SHAPES = ((), (1,), (3,), (40,), (2, 6), (3, 6, 5), (1, 4, 5, 6), (2, 3, 4, 3, 2))
BOXES = ("none", "scalar", "per entry", "per example", "degenerate", "from below", "from above", "infinite")
RADII = (0.0, 1e-30, 1e-6, 0.05, 0.5, 2.0, 30.0, 1e4, 1e30, math.inf)


class BallOnly:
    """A user's norm whose `project` takes no box: `max_i w_i |d_i|`, `w` going from 1 to 2."""

    def weights(self, d):
        flat = torch.linspace(1, 2, max(1, math.prod(d.shape[1:])), dtype=d.dtype)
        return flat.reshape(d.shape[1:])

    def size(self, d):
        return (d * self.weights(d)).flatten(1).abs().amax(1) if d.ndim > 1 else d.abs()

    def project(self, d, radius):
        reach = radius.reshape(-1, *[1] * (d.ndim - 1)).to(d.dtype) / self.weights(d)
        return torch.clamp(d, -reach, reach)

    def steepest(self, g):
        return g.sign() / self.weights(g)

    def sample(self, like, keys):
        return linf.sample(like, keys) / self.weights(like)

    def __repr__(self):
        return "ball only"


class RoundBall(BallOnly):
    """Another: the Euclidean one."""

    size = staticmethod(l2.size)
    steepest = staticmethod(l2.steepest)
    sample = staticmethod(l2.sample)

    def project(self, d, radius):
        return l2.project(d, radius)

    def __repr__(self):
        return "round ball only"


NORMS = (linf, l2, l1, BallOnly(), RoundBall())


@dataclass
class Case:
    """A batch of cases."""

    norm: object
    threat: Threat
    radius: torch.Tensor  # (B,), float64
    centre: torch.Tensor
    x: torch.Tensor
    lower: torch.Tensor  # as the centre, infinite where there is no side
    upper: torch.Tensor
    free: torch.Tensor
    scale: torch.Tensor  # as the centre, float64
    name: str


def pick(g, options):
    return options[int(torch.randint(len(options), (), generator=g))]


def made(number):
    """The batch of this number."""
    g = torch.Generator().manual_seed(number)
    norm, dtype, shape, kind = (pick(g, some) for some in (NORMS, DTYPES, SHAPES, BOXES))
    count = pick(g, (1, 2, 3, 8, 33))

    def uniform(*size):
        return torch.rand(size, generator=g, dtype=torch.float64)

    centre, whole = uniform(count, *shape).to(dtype), (count, *shape)
    margin = [pick(g, (0.0, 0.1, 1.0, 10.0)) * uniform(*whole) for _ in range(2)]
    low, high = (centre.double() - margin[0]).to(dtype), (centre.double() + margin[1]).to(dtype)
    low, high = torch.minimum(low, centre), torch.maximum(high, centre)
    never = torch.full_like(centre, math.inf)
    bounds = {
        "none": None,
        "scalar": (float(low.min()), float(high.max())),
        "per entry": (low.amin(0), high.amax(0)),
        "per example": (low, high),
        "degenerate": (low, torch.where(uniform(*whole) < 0.5, low, high)),
        "from below": (float(low.min()), math.inf),
        "from above": (-math.inf, high),
        "infinite": (-math.inf, never),
    }[kind]
    if kind == "degenerate":
        centre = torch.where(bounds[0] == bounds[1], low, centre)
    chance = uniform(*shape) < pick(g, (0.0, 0.3, 0.9))
    mask = pick(g, (None, chance, uniform(*whole) < 0.6))
    each = torch.tensor([pick(g, RADII) for _ in range(count)], dtype=torch.float64)
    radius = pick(g, (each, float(each[0])))
    spread = torch.tensor([pick(g, (1e-3, 0.1, 1.0, 1e3)) for _ in range(count)], dtype=torch.float64)
    noise = torch.randn(whole, generator=g, dtype=torch.float64)
    noise = noise * (uniform(*whole) < pick(g, (0.1, 0.8, 1.0)))
    x = (centre.double() + noise * spread.reshape(-1, *[1] * len(shape))).to(dtype)
    sides = (torch.as_tensor(s, dtype=dtype).expand(whole) for s in bounds or (-math.inf, math.inf))
    free = torch.ones(whole, dtype=torch.bool) if mask is None else mask.expand(whole)
    scale = None
    if norm in (linf, l2, l1):
        widths = 10 ** (2 * uniform(*shape) - 1) * (uniform(*shape) < 0.9)
        scale = pick(g, (None, None, widths, widths[None], 0.3 + uniform(*whole)))
    told_scale = torch.ones(whole, dtype=torch.float64)
    if scale is not None:
        fine = torch.promote_types(dtype, torch.float32)
        told_scale, free = scale.to(fine).double().expand(whole), free & (scale > 0)
    told = torch.as_tensor(radius, dtype=torch.float64).expand(count)
    name = f"batch {number}: {norm!r}, {dtype}, {whole}, {kind} box, mask {mask is not None}"
    name += f", scale {None if scale is None else tuple(scale.shape)}"
    threat = Threat(norm, radius, bounds, mask, scale)
    return Case(norm, threat, told, centre, x, *sides, free, told_scale, name)


def batches(part):
    """The batches of one part, until they hold its share of the cases."""
    found, number = 0, 1_000_000 * part
    while found < COUNT // PARTS:
        case = made(number)
        number, found = number + 1, found + len(case.x)
        yield case


def flat(d):
    return d.double().reshape(len(d), -1)


def measured(norm, d):
    """The norm of rows, (B, n) float64."""
    if norm is linf:
        return d.abs().amax(1)
    if norm is l1:
        return d.abs().sum(1)
    if isinstance(norm, BallOnly) and not isinstance(norm, RoundBall):
        return (d * torch.linspace(1, 2, d.shape[1], dtype=d.dtype)).abs().amax(1)
    return d.square().sum(1).sqrt()


def sized(case, d):
    """The norm of rows in the case's scale."""
    scale = flat(case.scale)
    return measured(case.norm, torch.where(scale > 0, d / torch.where(scale > 0, scale, 1), 0))


def expected(case):
    """The nearest perturbations, (B, n) float64: clip(path(multiplier)), the multiplier by bisection."""
    d, centre = flat(case.x) - flat(case.centre), flat(case.centre)
    free, radius = case.free.reshape(d.shape), case.radius[:, None]
    low = torch.where(free, flat(case.lower) - centre, 0)
    high = torch.where(free, flat(case.upper) - centre, 0)
    if case.norm is linf or repr(case.norm) == "ball only":
        weights = 1.0 if case.norm is linf else torch.linspace(1, 2, d.shape[1], dtype=d.dtype)
        scale = flat(case.scale)
        reach = torch.where(scale > 0, radius / weights * scale, 0)
        return torch.minimum(torch.maximum(d, torch.maximum(low, -reach)), torch.minimum(high, reach))

    scale = flat(case.scale).clamp(min=1e-30)
    most = (d.abs() * scale).amax(1, keepdim=True)

    def at(share):  # from nothing, at 0, to the box alone, at 1
        if case.norm is l1:
            z = d.sign() * (d.abs() - (1 - share) * most / scale).clamp(min=0)
        else:
            z = d * share / (share + (1 - share) / scale.square())
        return torch.minimum(torch.maximum(z, low), high)

    outside = sized(case, at(torch.ones_like(radius)))[:, None] > radius
    left, right = torch.zeros_like(radius), torch.ones_like(radius)
    for _ in range(110):
        middle = (left + right) / 2
        over = sized(case, at(middle))[:, None] > radius
        left, right = torch.where(over, left, middle), torch.where(over, middle, right)
    return torch.where(outside, at(left), at(torch.ones_like(radius)))


def same_bits(a, b):
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return a.dtype == b.dtype and torch.equal(a.contiguous().view(whole), b.contiguous().view(whole))


@pytest.mark.parametrize("part", range(PARTS))
def test_the_contract_of_projections(part):
    for case in batches(part):
        threat, x, centre, name = case.threat, case.x, case.centre, case.name
        threat.validate(centre)
        before = x.clone(), centre.clone()
        z = threat.project(x, centre)
        assert same_bits(x, before[0]), name
        assert same_bits(centre, before[1]), name
        assert z.dtype == x.dtype, name
        assert z.shape == x.shape, name
        # Box and mask hold exactly.
        assert ((z >= case.lower) & (z <= case.upper) | ~case.free).all(), name
        assert same_bits(z[~case.free], centre[~case.free]), name
        # The ball holds to the rounding of its entries: of the point, and of the arithmetic.
        eps = torch.finfo(x.dtype).eps
        fine = torch.finfo(torch.promote_types(x.dtype, torch.float32)).eps
        moved, here = flat(z) - flat(centre), flat(centre)
        grain = eps / 2 * flat(z).abs() + torch.finfo(x.dtype).tiny * eps
        grain = torch.where(case.free.reshape(grain.shape), grain, 0)
        size = sized(case, moved)
        assert (size <= case.radius * (1 + 16 * fine) + sized(case, grain)).all(), name
        # What `project` returns is contained, by any road; again it moves by no more than rounding.
        assert threat.contains(z, centre).all(), name
        again = threat.project(z, centre)
        assert threat.contains(again, centre).all(), name
        shift = sized(case, flat(again) - flat(z))
        assert (shift <= 2 * sized(case, grain) + 16 * fine * size).all(), name
        # A radius of zero gives the centre; what is inside stays, bit for bit.
        zero = case.radius == 0
        assert same_bits(z[zero], centre[zero]), name
        truth = expected(case)
        d = flat(x) - here
        clear = sized(case, d) <= case.radius * (1 - 16 * fine)
        box = (x >= case.lower) & (x <= case.upper) & (case.free | (x == centre))
        inside = clear & box.reshape(d.shape).all(1) & ~zero
        assert same_bits(z[inside], x[inside]), name
        # The nearest point: a projection never enlarges the error that rounding makes in d.
        apart = (moved - truth).square().sum(1).sqrt()
        length = d.square().sum(1).sqrt() + here.square().sum(1).sqrt()
        allowed = 8 * fine * length + 2 * grain.square().sum(1).sqrt()
        assert (apart <= allowed).all(), f"{name}: {(apart / allowed).max()}"


@pytest.mark.filterwarnings("ignore:a radius of .* is less than one of")  # it is the centre alone
@pytest.mark.parametrize("part", range(PARTS))
def test_the_contract_of_projections_onto_grey_levels(part):
    found, number = 0, 1_000_000 * part
    while found < COUNT // PARTS // 4:
        g = torch.Generator().manual_seed(number)
        norm, shape, count = pick(g, (linf, l2, l1)), pick(g, SHAPES[1:]), pick(g, (1, 3, 8))
        dtype, levels = pick(g, ((torch.float32, 255), (torch.float64, 4095), (torch.float16, 31)))
        low, high = pick(g, ((0.0, 1.0), (-2.0, 3.0), (0.0, float(levels))))
        whole = (count, *shape)
        k = torch.randint(levels + 1, whole, generator=g)
        values = (low + torch.arange(levels + 1, dtype=torch.float64) * (high - low) / levels).to(dtype)
        centre = values[k]
        spread = pick(g, (0.01, 0.3)) * (high - low)
        x = (centre + spread * torch.randn(whole, generator=g, dtype=torch.float64)).to(dtype)
        radius = (high - low) * pick(g, (0.0, 0.5 / levels, 2 / levels, 0.1, math.inf))
        mask = pick(g, (None, torch.rand(shape, generator=g) < 0.5))
        scale = pick(g, (None, torch.rand(shape, generator=g, dtype=torch.float64).to(dtype)))
        threat = Threat(norm, radius, (low, high), mask, scale, levels)
        threat.validate(centre)
        z, smooth = threat.project(x, centre), threat.relaxed.project(x, centre)
        name = f"grid {number}: {norm!r}, {dtype}, {whole}, {radius}, {mask is not None}, {scale is not None}"
        assert z.dtype == x.dtype, name
        assert torch.isin(z, values).all(), name
        assert threat.contains(z, centre).all(), name
        assert threat.relaxed.contains(z, centre).all(), name
        assert same_bits(threat.project(z, centre), z), name  # what lies in the threat stays
        width = (high - low) / levels
        off = (smooth.double() - z.double()).abs()
        assert (off <= width * (1 + 1e-3)).all(), name
        if norm is linf:  # the nearest that the ball allows, by trying each level
            each = (values.double() - x.double()[..., None]).abs()
            reach = radius * (torch.ones(whole) if scale is None else scale.expand(whole)).double()
            away = (torch.arange(levels + 1) - k[..., None]).abs() * width
            best = torch.where(away <= reach[..., None] * (1 + 1e-6), each, math.inf).amin(-1)
            free = threat.free(centre)
            tie = 1e-3 * width  # half way between two levels
            assert ((z.double() - x.double()).abs() <= best + tie)[free].all(), name
            assert same_bits(z[~free], centre[~free]), name
        found, number = found + count, number + 1
