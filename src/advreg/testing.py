"""Contract checks for norms, rules and objectives of your own; each raises AssertionError with the reason.

Call them from your test suite: `check_norm(MyNorm())`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from advreg._core.keys import Keys
from advreg._core.tensors import per_example
from advreg._core.types import Output, PerExample, Target
from advreg.rules import Here, Rule
from advreg.threats import Norm, Threat, dykstra, l2

__all__ = ["check_norm", "check_objective", "check_rule"]


def check_norm(norm: Norm, *, shape: tuple[int, ...] = (3, 4), dtype: torch.dtype = torch.float64) -> None:
    """Check that a norm keeps its contract, on random perturbations `(5, *shape)`.

    The size is a norm (zero at zero, homogeneous, triangle inequality) of each example alone; the steepest
    direction has size one and no random point of the ball has a larger inner product; random points lie in
    the ball, and depend on the example's key alone; the projection lands inside, leaves what is inside, never
    expands a distance and is the nearest point: of the ball by its support function, of ball and box by
    Dykstra's algorithm.

    Args:
        norm: The norm.
        shape: The shape of one input.
        dtype: The dtype; float64 shows errors that float32 would hide.

    Raises:
        AssertionError: What does not hold.

    Example:
        >>> from advreg import l1
        >>> from advreg.testing import check_norm
        >>> check_norm(l1)
    """
    keys = Keys(0, torch.arange(5))
    like = torch.empty(5, *shape, dtype=dtype)
    d, e = 2 * keys.normal(like), 2 * keys.fold_in(1).normal(like)
    tol = 1e3 * torch.finfo(dtype).eps
    size = norm.size(d)
    _expect(size.shape == (5,), f"size must be (B,); got {tuple(size.shape)} for (5, ...)")
    _expect(bool((norm.size(0 * d) == 0).all()), "size must be zero at zero")
    _expect(_close(norm.size(-3 * d), 3 * size, tol), "size must be homogeneous: size(-3 d) = 3 size(d)")
    triangle = norm.size(d + e) <= (size + norm.size(e)) * (1 + tol)
    _expect(bool(triangle.all()), "size must satisfy the triangle inequality")
    _expect(_close(norm.size(d[2:3]), size[2:3], tol), "size of an example must not depend on the batch")

    apart = (torch.arange(like[0].numel()) % 2 == 0).reshape(shape)  # no entry in common
    triangle = norm.size(torch.where(apart, d, e)) <= (norm.size(d * apart) + norm.size(e * ~apart)) * (
        1 + tol
    )
    _expect(bool(triangle.all()), "size must satisfy the triangle inequality")

    radius = size * torch.tensor([0.1, 0.5, 0.9, 1.0, 2.0], dtype=dtype)
    h = norm.steepest(d)
    best = _inner(d, h)
    _expect(_close(norm.size(h), torch.ones_like(best), tol), "steepest must have size one")
    _expect(bool((norm.steepest(0 * d) == 0).all()), "steepest must be zero where the gradient is zero")
    for number in range(200):
        point = norm.sample(like, keys.fold_in(number))
        _expect(bool((norm.size(point) <= 1 + 1e-6).all()), "sample must lie in the unit ball")
        better = _inner(d, point) > best * (1 + tol)
        _expect(not bool(better.any()), "steepest must maximise the inner product over the unit ball")
    alone = norm.sample(like[:1], Keys(0, torch.tensor([3])))
    _expect(
        bool((norm.sample(like, keys)[3:4] == alone).all()), "sample must depend on the example's key alone"
    )
    for bounds in (None, (-0.4, 0.7)):
        _check_projection(norm, d, e, radius, bounds, keys, tol)


def check_rule(rule: Rule[Any], *, steps: int = 50) -> None:
    """Check that a step rule keeps its contract: a value, per example, that climbs.

    Running it twice gives the same steps (nothing is kept outside the state), an example's steps do not
    depend on the others, a zero gradient is survived, and on a linear function in an L2 ball it gains at
    least half of the optimum in `steps` steps.

    Args:
        rule: The rule.
        steps: How many steps.

    Raises:
        AssertionError: What does not hold.

    Example:
        >>> from advreg.rules import Momentum
        >>> from advreg.testing import check_rule
        >>> check_rule(Momentum(0.2))
    """
    gradients = Keys(0, torch.arange(4)).normal(torch.empty(4, steps, 6, dtype=torch.float64)).unbind(1)
    threat, centre = Threat(l2, 1.0, bounds=None), torch.zeros_like(gradients[0])

    def here(x: Tensor, gradient: Tensor, number: int) -> Here:
        value = (gradient * x).flatten(1).sum(1)
        return Here(x, gradient, value, threat, 0 * x, rule.size, number, steps, (0, steps))

    def run(rows: slice) -> Tensor:
        x, taken = centre[rows], []
        state = rule.init(x)
        for number, gradient in enumerate(gradients):
            step, state = rule.step(here(x, gradient[rows], number), state)
            _expect(step.shape == x.shape, f"a step must be shaped like x; got {tuple(step.shape)}")
            x = threat.project(x + rule.size * step, 0 * x)
            taken.append(step)
        return torch.stack(taken)

    first, again, alone = run(slice(None)), run(slice(None)), run(slice(2, 3))
    _expect(bool((first == again).all()), "two runs must agree: keep everything that changes in the state")
    _expect(
        _close(first[:, 2:3], alone, 1e-12), "an example's steps must not depend on the rest of the batch"
    )
    zero = torch.zeros(2, 3)
    still, _ = rule.step(here(zero, zero, 0), rule.init(zero))
    _expect(bool(still.isfinite().all()), "a zero gradient must not give NaN")

    x, slope, state = centre, gradients[0], rule.init(centre)
    for number in range(steps):
        step, state = rule.step(here(x, slope, number), state)
        x = threat.project(x + rule.size * step, centre)
    gained = _inner(slope, x) / l2.size(slope)
    _expect(bool((gained > 0.5).all()), f"a rule must climb; got {gained.tolist()} of the optimum")


def check_objective(
    objective: PerExample,
    output: Output,
    target: Target,
    *,
    select: Callable[[Any, slice], Any] | None = None,
) -> None:
    """Check that an objective, loss or metric gives one finite number per example, each from its own example.

    Args:
        objective: `(output, target) -> (B,)`.
        output: A batch of outputs, B >= 2.
        target: The targets.
        select: Takes some examples out of an output or target, `(tree, slice) -> tree`; by default tensors
            are sliced, inside tuples, lists and dicts too.

    Raises:
        AssertionError: What does not hold.

    Example:
        >>> import torch
        >>> from advreg import J_IND_reg
        >>> from advreg.testing import check_objective
        >>> check_objective(J_IND_reg, torch.randn(3, 5), torch.randn(3, 5))
    """
    take = select or _take
    value = objective(output, target)
    _expect(isinstance(value, Tensor) and value.ndim == 1, "an objective must return a tensor of shape (B,)")
    _expect(len(value) >= 2, "the check needs two examples or more")
    _expect(bool(value.isfinite().all()), f"an objective must be finite; got {value.tolist()}")
    for number in range(len(value)):
        row = slice(number, number + 1)
        alone = objective(take(output, row), take(target, row))
        _expect(
            alone.shape == (1,) and _close(alone, value[row], 1e-4),
            f"an example's value must not depend on the batch; example {number}: {value[row].tolist()} with "
            f"the others, {alone.tolist()} alone",
        )


def _check_projection(
    norm: Norm,
    d: Tensor,
    e: Tensor,
    radius: Tensor,
    bounds: tuple[float, float] | None,
    keys: Keys,
    tol: float,
) -> None:
    threat, zero = Threat(norm, radius, bounds), torch.zeros_like(d)
    where = "ball" if bounds is None else "ball and box"
    z = threat.project(d, zero)
    _expect(bool(threat.contains(z, zero, atol=tol).all()), f"project must land in the {where}")
    _expect(_close(threat.project(z, zero), z, tol), f"project must leave what is inside the {where}")
    apart = l2.size(z - threat.project(e, zero))
    _expect(bool((apart <= l2.size(d - e) * (1 + tol)).all()), "a projection never expands a distance")
    if bounds is None:
        inside = per_example(radius, d) * norm.sample(d, keys)
        _expect(
            _close(threat.project(inside, zero), inside, 1e-5), "project must leave what is inside the ball"
        )
        # The nearest point z is the one at which no point of the ball lies further along d - z.
        furthest = radius * _inner(d - z, norm.steepest(d - z))
        nearest = furthest <= _inner(d - z, z) + tol * (1 + _inner(d, d))
    else:
        low, high = (torch.tensor(side, dtype=d.dtype) for side in bounds)
        reference = dykstra(norm.project, d, radius, low, high, rounds=5000)
        nearest = l2.size(z - reference) <= 1e-4 * (1 + l2.size(d))
    _expect(bool(nearest.all()), f"project must give the nearest point of the {where}, in Euclidean distance")


def _take(tree: Any, row: slice) -> Any:
    if isinstance(tree, Tensor):
        return tree[row]
    if isinstance(tree, dict):
        return {key: _take(value, row) for key, value in tree.items()}
    return type(tree)(_take(value, row) for value in tree)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def _close(a: Tensor, b: Tensor, tol: float) -> bool:
    return torch.allclose(a, b, rtol=tol, atol=tol)


def _expect(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)
