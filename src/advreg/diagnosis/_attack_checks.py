"""Checks of a diagnosis that look at attacks, one function each, and the list of all checks."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from advreg._core.tensors import rows
from advreg.attacks import random_noise, score_attack, square_attack
from advreg.diagnosis._model_checks import determinism, gradients, mode
from advreg.diagnosis._report import Check, Evidence
from advreg.diagnosis._thresholds import FACTORS, FALL, MISSED, SHORT, SIZES, SURE, UNSTABLE
from advreg.diagnosis._trial import Trial, average
from advreg.rules import Adamax, Steepest
from advreg.threats import Threat, linf

_MASKED = (
    "the gradient misleads, so the attack says nothing about robustness: see the check of gradients, attack "
    "logits or another objective, more steps and restarts, the expectation of a random model, or report the "
    "worse of both attacks"
)


def steps(work: Trial) -> Check:
    """The gain rises with the steps, and beats one full step."""
    one = work.gain(work.climb(steps=1, rule=Steepest(1.0), random_start=False))
    start, ten = (work.gain(work.climb(steps=count)) for count in (0, 10))
    gains = [average(gain) for gain in (start, one, ten, work.attack)]
    missed = work.missed(one)
    evidence: Evidence = {
        "steps": [0.0, 1.0, 10.0, float(work.steps)],
        "gain": gains,
        "missed beside one step": missed.mean,
    }
    shown = ", ".join(f"{gain:.3g}" for gain in gains)
    message = f"mean gain {shown} at the random start, one full step, 10 and {work.steps} steps"
    falls = gains[3] < gains[2] - FALL * abs(gains[2])
    if gains[3] <= max(gains[0], 0.0) * (1 + FALL):
        return Check("steps", "flag", evidence, f"{message}: steps add nothing to the random start", _MASKED)
    if falls or (missed.mean > MISSED and missed.low > SURE):
        return Check("steps", "flag", evidence, f"{message}: fewer steps find more", _MASKED)
    return Check("steps", "pass", evidence, message)


def radius(work: Trial) -> Check:
    """The gain rises with the radius."""
    gains = [
        average(work.attack if factor == 1 else work.gain(work.climb(threat=work.threat.scaled(factor))))
        for factor in FACTORS
    ]
    evidence: Evidence = {"radius": list(FACTORS), "gain": gains}
    message = (
        f"mean gain {', '.join(f'{g:.3g}' for g in gains)} at {', '.join(f'{f:g}' for f in FACTORS)} radii"
    )
    top = max(gains)
    if top <= 0:
        return Check("radius", "flag", evidence, f"{message}: nothing is found at any radius", _MASKED)
    if any(after < before - FALL * top for before, after in pairwise(gains)):
        return Check("radius", "flag", evidence, f"{message}: a larger ball holds the smaller one", _MASKED)
    return Check("radius", "pass", evidence, message)


def unbounded(work: Trial) -> Check:
    """Without a radius, the attack finds what is as bad as other inputs, constant ones, and noise.

    It has half the steps from each of four starts: the input, noise, and half way to either bound. What
    is as bad at a start as anywhere on the way from it does not count.
    """
    x, threat = work.x, work.threat
    points = [x.roll(shift, 0) for shift in range(1, min(len(x), 9))]
    starts = [threat.sample(x, work.keys.fold_in(6))]
    if threat.bounds is None:
        low, high = _range(x)
        width = high - low or threat.largest
        large = Threat(linf, width, None, threat.movable)
        starts += [large.sample(x, work.keys.fold_in(draw)) for draw in (2, 3, 4)]
    else:
        lower, upper = _finite(threat, x)
        width = float((upper - lower).mean()) or threat.largest
        large = Threat(linf, math.inf, (lower, upper), threat.movable)
        noises = [lower + (upper - lower) * work.keys.fold_in(draw).uniform(x) for draw in range(2, 6)]
        points += [lower, upper, (lower + upper) / 2, *noises[1:]]
        starts += [noises[0], (x + lower) / 2, (x + upper) / 2]
    if not points:
        return Check("unbounded", "skipped", {}, "needs two examples, or bounds")
    runs, rule = [], Steepest(0.1 * width, relative=False)
    for start in (large.project(start, x) for start in starts):
        found = work.climb(
            threat=large, start=start, random_start=False, steps=max(10, work.steps // 2), rule=rule
        )
        changed = (found != start) & threat.free(x)
        climbed = rows(changed).any(1)  # a start is not the gradient's doing
        runs.append(torch.where(climbed, work.gain(found), 0))
    most = torch.stack(runs).amax(0)
    apart = [torch.where(threat.free(x), point, x) for point in points]
    trivial = torch.stack([work.gain(point) for point in apart]).amax(0)
    missed = work.missed(trivial, most)
    evidence = {
        "gain of gradient": average(most),
        "gain of other inputs": average(trivial),
        "missed": missed.mean,
        "missed, low": missed.low,
    }
    message = (
        f"mean gain {average(most):.3g} without a radius; {average(trivial):.3g} by other inputs as they are"
    )
    if missed.mean > SHORT and missed.low > SURE:
        return Check(
            "unbounded", "flag", evidence, f"{message}: {missed.mean:.0%} of the damage is missed", _MASKED
        )
    return Check("unbounded", "pass", evidence, message)


def _range(x: Tensor) -> tuple[float, float]:
    """The least and the largest finite value of inputs."""
    held = x[x.isfinite()]
    return (float(held.min()), float(held.max())) if len(held) else (0.0, 0.0)


def _finite(threat: Threat, x: Tensor) -> tuple[Tensor, Tensor]:
    """The sides of a box, shaped like the inputs; a side that is open ends a radius beyond the data."""
    assert threat.bounds is not None
    lower, upper = (
        torch.as_tensor(side, dtype=x.dtype, device=x.device).expand_as(x) for side in threat.bounds
    )
    low, high = _range(x)
    return (
        torch.where(lower.isinf(), low - threat.largest, lower),
        torch.where(upper.isinf(), high + threat.largest, upper),
    )


def noise(work: Trial) -> Check:
    """The attack beats the worst of as many random points as it makes steps."""
    gains = {"noise": work.gain(work.run(random_noise, draws=work.steps))}
    return work.rivals("noise", gains, MISSED, "random points find", _MASKED)


def transfer(work: Trial) -> Check:
    """The attack beats the inputs found on other models."""
    if not work.others:
        return Check("transfer", "skipped", {}, "no other model was given")
    many = len(work.others) > 1
    gains = {
        f"transfer {number}" if many else "transfer": work.gain(work.climb(other))
        for number, other in enumerate(work.others, 1)
    }
    return work.rivals("transfer", gains, MISSED, "inputs found on another model do", _MASKED)


def gradient_free(work: Trial) -> Check:
    """The attack beats attacks that take no gradient."""
    draws = min(10, (work.queries - 2) // 6)
    gains = {
        "square": work.gain(work.run(square_attack, queries=work.queries)),
        "score": work.gain(work.run(score_attack, draws=draws, steps=(work.queries - 2) // (2 * draws + 1))),
    }
    return work.rivals("gradient_free", gains, MISSED, "attacks without a gradient find", _MASKED)


def step_size(work: Trial) -> Check:
    """Another step size does not find much more."""
    gains = {f"step size {size:g}": work.gain(work.climb(rule=Adamax(size))) for size in SIZES}
    remedy = (
        "the surface is rough, or the steps are too few: take the better size, more steps, and several sizes"
    )
    return work.rivals("step_size", gains, UNSTABLE, "other step sizes find", remedy)


def start(work: Trial) -> Check:
    """Another start does not find much more."""
    gains = {
        "no random start": work.gain(work.climb(random_start=False)),
        "another start": work.gain(work.climb(seed=work.keys.fold_in(7).seed)),
    }
    remedy = "the surface is rough: take restarts, and report the worst of them"
    return work.rivals("start", gains, UNSTABLE, "other starts find", remedy)


CHECKS: tuple[Callable[[Trial], Check], ...] = (
    mode,
    determinism,
    gradients,
    steps,
    radius,
    unbounded,
    noise,
    transfer,
    gradient_free,
    step_size,
    start,
)
"""All checks, in the order in which they run; `mode` comes first, since it may refuse the model."""


def skipped(check: Callable[[Trial], Check], reason: str) -> Check:
    """A check that could not be made."""
    return Check(
        getattr(check, "__name__", "check"), "skipped", {}, f"the model cannot be attacked: {reason}"
    )
