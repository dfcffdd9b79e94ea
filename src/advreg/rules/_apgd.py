"""APGD as a rule: steps that shorten themselves where they no longer pay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from advreg._core.tensors import per_example
from advreg.rules._steps import Here, check_numbers, check_relative, check_size


class AdaptiveState(NamedTuple):
    """State of `Adaptive` for each example, `(B, ...)`.

    Attributes:
        before: The point before this one.
        x: The best point of the stretch.
        gradient: Its gradient.
        best: Its value.
        value: The value of the point before this one.
        scale: The step as a share of the first one.
        rises: How often the value has risen since the last checkpoint.
        checked: The best value at the last checkpoint.
        halved: Whether the last checkpoint halved the step; true before the first, as in the released code.
    """

    before: Tensor
    x: Tensor
    gradient: Tensor
    best: Tensor
    value: Tensor
    scale: Tensor
    rises: Tensor
    checked: Tensor
    halved: Tensor


@dataclass(frozen=True)
class Adaptive:
    """APGD: steps with inertia that are halved, per example, where they no longer pay; back to the best.

    With z = project(x + eta h(g)): `x' = project(x + 0.75 (z - x) + 0.25 (x - x_before))`. At checkpoints
    (22 % of the steps, then ever closer) an example whose value rose in fewer than `rho` of the steps since
    the last one, or whose best value and step have not changed since, halves eta and goes back to its best
    point. Where the radius changes, a new run begins at the best point so far.

    Args:
        size: The first eta, as for `Steepest`; 2 radii as published.
        relative: Whether `size` counts in radii.
        rho: The share of rising steps that is asked for.
        inertia: The weight of the new step, 0.75 as published.

    Raises:
        TypeError: Numbers that are none, such as strings or bools; `relative` that is no bool.
        ValueError: Numbers out of range.

    Source:
        Croce and Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse
        parameter-free attacks, arXiv:2003.01690, Algorithm 1.
    """

    size: float = 2.0
    relative: bool = True
    rho: float = 0.75
    inertia: float = 0.75

    def __post_init__(self) -> None:
        check_size(self.size)
        check_relative(self.relative)
        check_numbers(rho=self.rho, inertia=self.inertia)
        if not (0 < self.rho < 1 and 0 < self.inertia <= 1):
            raise ValueError(
                f"rho must lie in (0, 1) and inertia in (0, 1]; got {self.rho} and {self.inertia}"
            )

    def init(self, x: Tensor) -> AdaptiveState:
        """Nothing met yet."""
        low = torch.full(x.shape[:1], -torch.inf, dtype=x.dtype, device=x.device)
        one, none = torch.ones_like(low), torch.zeros_like(low)
        return AdaptiveState(x, x, torch.zeros_like(x), low, low, one, none, low, one.bool())

    def step(self, here: Here, state: AdaptiveState) -> tuple[Tensor, AdaptiveState]:
        """The way to x', in steps of alpha, and what is known now."""
        first, last = here.stretch
        if last is None:
            raise ValueError(
                "Adaptive sets its checkpoints by the number of steps; got none: pass steps= to ascend"
            )
        done, inertia = here.step - first, self.inertia
        x, gradient, before = here.x, here.gradient, state.before
        if done == 0:  # a new run, from the best point of the last one
            better = here.value >= state.best
            x, gradient = _where(better, (x, gradient), (state.x, state.gradient))
            x = here.project(x)
            fresh = self.init(x)  # of a point that the new radius has moved no value is known
            best = here.value if first == 0 else fresh.best
            state = fresh._replace(x=x, gradient=gradient, best=best, checked=best, value=here.value)
            inertia = 1.0
        else:
            # The best point of this run so far, and how often the value has risen.
            rises = state.rises + (here.value > state.value)
            kept = _where(here.value > state.best, (x, gradient), (state.x, state.gradient))
            best = torch.maximum(here.value, state.best)
            state = state._replace(x=kept[0], gradient=kept[1], best=best, value=here.value, rises=rises)
            marks = _checkpoints(last - first)
            if done in marks:
                # The paper's condition 1, too few rises, or 2, neither step nor best value has changed.
                since = done - max(mark for mark in marks if mark < done)
                stuck = ~state.halved & (state.checked >= best)
                halve = (rises < self.rho * since) | stuck
                scale = torch.where(halve, state.scale / 2, state.scale)
                x, gradient = _where(halve, kept, (x, gradient))
                state = state._replace(scale=scale, rises=torch.zeros_like(rises), checked=best, halved=halve)
        # A projected step, and the inertia of the last one; given back in steps of alpha.
        alpha = torch.as_tensor(here.alpha, dtype=x.dtype, device=x.device)
        aim = here.project(x + per_example(state.scale, x) * alpha * here.steepest(gradient))
        after = here.project(x + inertia * (aim - x) + (1 - inertia) * (x - before))
        tiny = torch.finfo(x.dtype).tiny
        return (after - here.x) / alpha.clamp(min=tiny), state._replace(before=x)


def _checkpoints(steps: int) -> list[int]:
    """The steps at which Adaptive looks back, beginning with 0."""
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    return sorted({math.ceil(share * steps) for share in shares})


def _where(some: Tensor, a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """`a` for some of the examples, `(B,)` bool, `b` for the others."""
    return tuple(torch.where(per_example(some, p), p, q) for p, q in zip(a, b, strict=True))
