"""Gradient-free attacks: random search, estimated gradients, noise.

They serve to check a gradient attack (see `advreg.diagnose`), and where a model has no gradient at all.
"""

from __future__ import annotations

from itertools import count
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from advreg._core.keys import Keys
from advreg._core.tensors import per_example
from advreg._core.types import Input, Model, PerExample, Target
from advreg.attacks._ascend import ascend
from advreg.attacks._probing import Probe, check_counts, check_positive, probed, stripes
from advreg.attacks._result import AttackResult
from advreg.execution import Batch, Execution
from advreg.rules import Momentum, Rule
from advreg.threats import Threats

Directions: TypeAlias = Literal["rademacher", "normal"]
"""Of random directions: signs, as in SPSA, or normal numbers, as in NES."""

# The share of the window is halved after so many of 10,000 queries.
_HALVED = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


_RULE = Momentum(0.1, decay=0.9)


_SQUARE, _SCORE, _NOISE = 1, 2, 3  # each attack draws from keys of its own


def square_attack(
    model: Model,
    x: Input,
    y: Target,
    *,
    objective: PerExample,
    threat: Threats,
    queries: int = 500,
    p: float = 0.3,
    judge: PerExample | None = None,
    execution: Execution | None = None,
    seed: int = 0,
    index: Tensor | None = None,
) -> AttackResult:
    """Random search over windows: where setting one to plus or minus the radius helps, it stays.

    The start is a perturbation of vertical stripes, `+radius` or `-radius` for each channel and column. Then,
    query by query, a random window (a square, for images) is set to `+radius` or `-radius` for each channel,
    and kept where the objective grows. The window covers a share `p` of the image at first and is halved by
    the published schedule, scaled to the number of queries. A window that would change nothing takes the
    opposite signs.

    Shapes: of `(B, C, *spatial)` the window runs over all spatial axes, the same share of each. Of vectors
    `(B, n)` it is a random subset, with a sign for each entry.

    Under `linf` this is the published attack. Under other norms it is an analogue of ours: the window gets
    random signs and a random size between nothing and the radius, and the whole is projected. It is not the
    paper's L2 attack, and is weaker.

    Costs `queries + 1` forward passes, and two of one example.

    Args:
        model: As for `pgd_attack`; no gradient is taken, of it or of the objective.
        x: Clean inputs, `(B, *input)`; of a model of several inputs, of which one is attacked, as for
            `pgd_attack`.
        y: The target that the objective compares with.
        objective: `(output, target) -> (B,)`, to be maximised.
        threat: Norm, finite radius, bounds and mask.
        queries: Forward passes after the clean one.
        p: The share of the image that the first window covers, 0 to 1; 0.05 to 0.8 in the literature.
        judge: What decides which point met is kept, and what values are of; by default the objective. The
            search itself follows the objective.
        execution: How the model is run; see `advreg.Execution`.
        seed: With `index`, decides all random numbers.
        index: Each example's place in its data set, int64 `(B,)`; by default 0 to B - 1.

    Returns:
        An `AttackResult`; `step` counts queries, 0 being the stripes.

    Raises:
        TypeError: Inputs that are not floating point; an objective that does not return `(B,)`; options that
            are no numbers.
        ValueError: Inputs outside the bounds; an infinite radius; an objective that is not finite; options
            out of range.

    Example:
        >>> import torch
        >>> from advreg import J_IND_reg, Threat, linf
        >>> from advreg.attacks import square_attack
        >>> model = lambda x: (8 * x).round().flatten(1).mean(1, keepdim=True)
        >>> x, y = torch.full((1, 1, 4, 4), 0.5), torch.zeros(1, 1)
        >>> result = square_attack(model, x, y, objective=J_IND_reg, threat=Threat(linf, 0.25), queries=100)
        >>> result.x.unique(), result.gain
        (tensor([0.7500]), tensor([20.]))

    Source:
        Andriushchenko et al., Square Attack, arXiv:1912.00049, Algorithms 1 and 2, section 3.3.
    """
    batch = Batch.single(x, y, threat)
    check_counts(queries=queries)
    check_positive("p", p, 1.0)
    keys = Keys.of(batch.x, seed, index).fold_in(_SQUARE)

    def search(work: Probe) -> None:
        centre = work.centre
        at = work.threat.project(centre + work.scaled(stripes(work.keys.fold_in(0), centre)), centre)
        best = work.meet(at, 0)
        for query in range(1, queries):
            share = p / 2 ** sum(query / queries * 10_000 > end for end in _HALVED)
            tried = work.moved(at, share, work.keys.fold_in(query))
            value = work.meet(tried, query)
            better = value > best
            at, best = torch.where(per_example(better, at), tried, at), torch.where(better, value, best)

    return probed(search, model, batch, keys, objective, judge, execution)


def score_attack(
    model: Model,
    x: Input,
    y: Target,
    *,
    objective: PerExample,
    threat: Threats,
    rule: Rule[Any] = _RULE,
    steps: int = 25,
    draws: int = 10,
    reach: float = 0.3,
    directions: Directions = "rademacher",
    at_once: int = 20,
    judge: PerExample | None = None,
    execution: Execution | None = None,
    seed: int = 0,
    index: Tensor | None = None,
) -> AttackResult:
    """Ascent along a gradient estimated from values alone, in antithetic pairs of random directions.

    `g = mean_k (f(x + s u_k) - f(x - s u_k)) / (2 s) u_k`, with `s = reach * radius`; the rule makes a step
    of g as it would of a gradient. Points at which the estimate is made may leave the ball by s, never box or
    mask; points of the result never.

    Costs `steps * (2 * draws + 1) + 2` forward passes of the batch, `at_once` copies of it at a time, and
    two of one example.

    Args:
        model: As for `pgd_attack`; no gradient is taken, of it or of the objective.
        x: Clean inputs, `(B, *input)`.
        y: The target that the objective compares with. Tensors that begin with the batch are taken to be per
            example.
        objective: `(output, target) -> (B,)`, to be maximised.
        threat: Norm, finite radius, bounds and mask.
        rule: How a step is made.
        steps: Steps taken.
        draws: Pairs of directions per step.
        reach: How far from `x` the values are taken: in radii for `linf`; for other norms in radii shared by
            the entries, so that a direction has about that size.
        directions: "rademacher", signs, as in SPSA; "normal", as in NES.
        at_once: How many copies of the batch go through the model at a time: what bounds the memory.
        judge: As for `square_attack`.
        execution: As for `square_attack`.
        seed: With `index`, decides all random numbers.
        index: Each example's place in its data set, int64 `(B,)`; by default 0 to B - 1.

    Returns:
        An `AttackResult`; `step` counts steps, 0 being the random start.

    Raises:
        TypeError: As for `square_attack`.
        ValueError: As for `square_attack`.

    Example:
        >>> import torch
        >>> from advreg import J_IND_reg, Threat, linf
        >>> from advreg.attacks import score_attack
        >>> model = lambda x: (x @ torch.tensor([[1.0], [-2.0]])).detach()
        >>> x, y = torch.full((1, 2), 0.5), torch.full((1, 1), -0.5)
        >>> score_attack(model, x, y, objective=J_IND_reg, threat=Threat(linf, 0.1)).x
        tensor([[0.6000, 0.4000]])

    Source:
        Uesato et al., arXiv:1802.05666, section 4.1 (SPSA); Ilyas et al., arXiv:1804.08598, section 2.1
        (NES).
    """
    batch = Batch.single(x, y, threat)
    check_counts(steps=steps, draws=draws, at_once=at_once)
    check_positive("reach", reach)
    if directions not in get_args(Directions):
        raise ValueError(f"directions must be one of {get_args(Directions)}; got {directions!r}")
    keys = Keys.of(batch.x, seed, index).fold_in(_SCORE)

    def search(work: Probe) -> None:
        done = count()

        def value_and_slope(point: Tensor) -> tuple[Tensor, Tensor]:
            step = next(done)
            value, theirs = work.meet(point, step), work.keys.fold_in(1 + step)
            return value, work.slope(point, draws, reach, directions, at_once, theirs)

        first = work.threat.sample(work.centre, work.keys.fold_in(0))
        climb = ascend(value_and_slope, work.centre, threat=work.threat, rule=rule, start=first, steps=steps)
        *_, last = climb
        work.meet(last.x, steps)

    return probed(search, model, batch, keys, objective, judge, execution)


def random_noise(
    model: Model,
    x: Input,
    y: Target,
    *,
    objective: PerExample,
    threat: Threats,
    draws: int = 50,
    judge: PerExample | None = None,
    execution: Execution | None = None,
    seed: int = 0,
    index: Tensor | None = None,
) -> AttackResult:
    """The worst of some random points of the threat: the least that any attack must find.

    Costs `draws + 1` forward passes, and two of one example.

    Args:
        model: As for `square_attack`.
        x: Clean inputs, `(B, *input)`.
        y: The target that the objective compares with.
        objective: `(output, target) -> (B,)`, to be maximised.
        threat: Norm, finite radius, bounds and mask.
        draws: How many random points.
        judge: As for `square_attack`.
        execution: As for `square_attack`.
        seed: With `index`, decides all random numbers.
        index: Each example's place in its data set, int64 `(B,)`; by default 0 to B - 1.

    Returns:
        An `AttackResult`; `step` counts draws, from 0.

    Raises:
        TypeError: As for `square_attack`.
        ValueError: As for `square_attack`.

    Example:
        >>> import torch
        >>> from advreg import J_IND_reg, Threat, linf
        >>> from advreg.attacks import random_noise
        >>> model, x, y = torch.nn.Linear(3, 1), torch.rand(4, 3), torch.ones(4, 1)
        >>> found = random_noise(model, x, y, objective=J_IND_reg, threat=Threat(linf, 0.1))
        >>> bool((found.gain >= 0).all())
        True

    Source:
        Carlini et al., On evaluating adversarial robustness, arXiv:1902.06705, section 4.3 (brute force).
    """
    batch = Batch.single(x, y, threat)
    check_counts(draws=draws)
    keys = Keys.of(batch.x, seed, index).fold_in(_NOISE)

    def search(work: Probe) -> None:
        for draw in range(draws):
            work.meet(work.threat.sample(work.centre, work.keys.fold_in(draw)), draw)

    return probed(search, model, batch, keys, objective, judge, execution)
