"""The contract checks must catch what is broken."""

import pytest
import torch

from advreg import J_IND_reg, Steepest, l1, l2, linf
from advreg.testing import check_norm, check_objective, check_rule


class Variant:
    """L2 but for what is handed in."""

    def __init__(self, **methods):
        for name in ("size", "project", "steepest", "sample"):
            setattr(self, name, methods.get(name, getattr(l2, name)))


BROKEN_NORMS = {
    "one size for the batch": ({"size": lambda d: d.norm()}, r"size must be \(B,\)"),
    "not homogeneous": ({"size": lambda d: l2.size(d) ** 2}, "homogeneous"),
    "no triangle inequality": (
        {"size": lambda d: d.flatten(1).abs().sqrt().sum(1) ** 2},
        "triangle inequality",
    ),
    "batch-dependent": ({"size": lambda d: l2.size(d) * len(d)}, "must not depend on the batch"),
    "lands outside": ({"project": lambda d, radius, lower=None, upper=None: d}, "land in the ball"),
    "radial, not nearest, in the box": (
        {
            "project": lambda d, radius, lower=None, upper=None: (
                l2.project(d, radius).clamp(lower, upper) if lower is not None else l2.project(d, radius)
            )
        },
        "nearest point of the ball and box",
    ),
    "moves what is inside": (
        {"project": lambda d, radius, lower=None, upper=None: l2.project(d, 0.5 * radius, lower, upper)},
        "leave what is inside",
    ),
    "steepest of another norm": ({"steepest": lambda g: g.sign()}, "steepest must have size one"),
    "steepest that is not": ({"steepest": lambda g: l2.steepest(g.flip(1))}, "maximise the inner product"),
    "NaN at zero": ({"steepest": lambda g: g / l2.size(g)[:, None, None]}, "zero where the gradient"),
    "samples outside": ({"sample": lambda like, keys: 2 * l2.sample(like, keys)}, "lie in the unit ball"),
    "samples by batch": (
        {"sample": lambda like, keys: l2.sample(like, keys) / len(like)},
        "example's key alone",
    ),
}


@pytest.mark.parametrize("case", BROKEN_NORMS)
def test_a_broken_norm_is_caught(case):
    methods, message = BROKEN_NORMS[case]
    with pytest.raises(AssertionError, match=message):
        check_norm(Variant(**methods))


def test_the_paper_s_radial_l1_projection_is_caught():
    def radial(d, radius, lower=None, upper=None):
        scale = (radius / l1.size(d)).clamp(max=1)
        return (
            (d * scale[:, None, None]).clamp(lower, upper) if lower is not None else d * scale[:, None, None]
        )

    broken = Variant(size=l1.size, steepest=l1.steepest, sample=l1.sample, project=radial)
    with pytest.raises(AssertionError, match=r"nearest point|never expands"):
        check_norm(broken)


class Broken(Steepest):
    def step(self, here, state):
        return self.how(here.gradient), state


def forgetful():
    calls = []

    def how(g):
        calls.append(1)
        return l2.steepest(g) * (1 + len(calls))

    return how


BROKEN_RULES = {
    "state outside": (forgetful(), "two runs must agree"),
    "batch-wide": (lambda g: g / g.norm(), "must not depend on the rest of the batch"),
    "descends": (lambda g: -l2.steepest(g), "must climb"),
    "NaN at zero": (lambda g: g / g.norm(dim=1, keepdim=True), "zero gradient must not give NaN"),
    "flattens": (lambda g: g[:, :3], "shaped like x"),
}


@pytest.mark.parametrize("case", BROKEN_RULES)
def test_a_broken_rule_is_caught(case):
    how, message = BROKEN_RULES[case]
    broken = type("Rule", (Broken,), {"how": staticmethod(how)})
    with pytest.raises(AssertionError, match=message):
        check_rule(broken(0.2))


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (lambda o, t: (o - t).square().mean(), r"shape \(B,\)"),
        (
            lambda o, t: (o - t).flatten(1).square().sum(1) / (o - t).square().sum(),
            "must not depend on the batch",
        ),
        (lambda o, t: (o - t).flatten(1).sum(1) / 0, "must be finite"),
    ],
)
def test_a_broken_objective_is_caught(objective, message):
    g = torch.Generator().manual_seed(0)
    with pytest.raises(AssertionError, match=message):
        check_objective(objective, torch.randn(3, 4, generator=g), torch.randn(3, 4, generator=g))


def test_sound_ones_pass():
    check_norm(Variant())
    check_norm(linf, dtype=torch.float32)
    check_rule(Steepest(0.1))
    check_objective(lambda o, t: J_IND_reg(o[0], t[0]), (torch.rand(3, 4),), (torch.rand(3, 4),))
