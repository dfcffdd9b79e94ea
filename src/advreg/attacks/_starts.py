"""Starts of an attack other than at random: where a head moves most."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from advreg._core.checks import check_kind, examples
from advreg._core.keys import Keys
from advreg._core.tensors import per_example, rows
from advreg._core.trees import head as part_of
from advreg._core.types import Model, Output
from advreg.execution import frozen, heads
from advreg.threats import Threat, l2


def power_start(
    model: Model,
    x: Tensor,
    *,
    threat: Threat,
    head: str | int = "",
    iterations: int = 5,
    seed: int = 0,
    index: Tensor | None = None,
) -> Tensor:
    """The point of the threat in whose direction a head moves most: `project(x + radius d)`.

    `d` is a unit direction that the head's Jacobian J at x stretches most, `argmax ||J d||_2` over
    `size(d) <= 1`, by the power method: `d <- h(J^T J d)` from a random `d`, h being the norm's steepest
    direction. Under L2 that is the first right singular vector; under another norm each iteration raises
    `||J d||`, up to a point that is stationary but need not be the largest. `d` and `-d` stretch alike; the
    seed decides which is taken.

    A squared error whose target is the model's own output has no gradient at x. This start escapes that, and
    in the direction that counts: `pgd_attack(..., start=power_start(...), random_start=False)`.

    Costs one forward pass and `1 + 2 iterations` backward passes, whose graph is kept to the end.
    Results do not depend on batch size or order, and the model is left as it was (see `frozen`). Where J is
    zero, no direction is better than another, and the start is random.

    Args:
        model: As for `pgd_attack`. It is differentiated twice.
        x: Clean inputs `(B, *input)`.
        threat: Norm, radius, bounds and mask. Entries outside the mask count for nothing; the box is seen to
            by the projection.
        head: Which head is to move; "" for a model whose output is the head itself.
        iterations: Of the power method; 0 for a random direction.
        seed: With `index`, decides the first direction.
        index: Each example's place in its data set, int64 `(B,)`; by default 0 to B - 1.

    Returns:
        The starts, `(B, *input)`, detached.

    Raises:
        TypeError: A head that is not one floating-point tensor, `(B, ...)`.
        ValueError: An infinite radius; iterations below zero; an output that does not depend on the input;
            a Jacobian that is not finite; and inputs that do not fit the threat.
        RuntimeError: From torch: a layer without a second derivative. (Attention runs in its plain form,
            which has one.)

    Example:
        >>> import torch
        >>> from advreg import J_IND_reg, Threat, l2, pgd_attack
        >>> from advreg.attacks import power_start
        >>> model = lambda x: x * torch.tensor([3.0, 1.0, 0.1])
        >>> x, threat = torch.full((2, 3), 0.5), Threat(l2, 0.1)
        >>> start = power_start(model, x, threat=threat, iterations=20)
        >>> (start - x).abs().numpy().round(4)
        array([[0.1, 0. , 0. ],
               [0.1, 0. , 0. ]], dtype=float32)
        >>> found = pgd_attack(model, x, model(x), objective=J_IND_reg, threat=threat, start=start,
        ...                    random_start=False)
        >>> found.value.numpy().round(4)
        array([0.09, 0.09], dtype=float32)

    Source:
        Boyd, The power method for l^p norms, 1974; Higham, Estimating the matrix p-norm, 1992. As an attack:
        Khrulkov and Oseledets, Art of singular vectors and universal adversarial perturbations,
        arXiv:1709.03582; without a forward-mode product: Miyato et al., arXiv:1704.03976, take one iteration.
    """
    check_kind("threat", threat, Threat, "Threat(linf, 0.03)")
    threat.validate(x)
    if math.isinf(threat.largest):
        raise ValueError("a start at the radius needs a finite one; got inf: pass a start of your own")
    if iterations < 0:
        raise ValueError(f"iterations must be 0 or more; got {iterations}")
    keys = Keys.of(x, seed, index)
    part = model if head == "" else heads(model, [head])
    twice = sdpa_kernel(SDPBackend.MATH)  # the fused forms of attention have no second derivative
    with frozen(model), torch.inference_mode(mode=False), torch.enable_grad(), twice:
        point = (x.clone() if x.is_inference() else x.detach()).requires_grad_()
        output = _tensor(part(point.clone()), head, len(x))
        direction = _stretched(output, point, threat, keys.normal(x), iterations)
    radius = torch.as_tensor(threat.radius, dtype=x.dtype, device=x.device).expand(len(x))
    return threat.project(x.detach() + per_example(radius, x) * threat.stretched(direction), x.detach())


def _stretched(output: Tensor, x: Tensor, threat: Threat, first: Tensor, iterations: int) -> Tensor:
    """The power method from `first`, `(B, *input)`, on the graph from `x` to `output`."""
    ways = threat.steps_at(x.detach())
    at_random = ways.steepest(first)
    # J^T v as a function of v: its own gradient with respect to v, towards d, is J d.
    dual = torch.zeros_like(output, requires_grad=True)
    (slope,) = torch.autograd.grad(output, x, dual, create_graph=True, allow_unused=True)
    if slope is None:
        raise ValueError(_DETACHED)
    if not slope.requires_grad:  # zero by construction, as of a rounded output
        return at_random
    pushed, direction = first, at_random
    for _ in range(iterations):
        (image,) = torch.autograd.grad(
            slope, dual, threat.stretched(pushed), retain_graph=True, materialize_grads=True
        )
        (pulled,) = torch.autograd.grad(output, x, l2.steepest(image), retain_graph=True)
        if not bool(pulled.isfinite().all()):
            raise ValueError(
                f"the derivative of the output is not finite for {examples(~pulled.isfinite())}: look for a "
                "square root or norm at zero, a logarithm of zero, or float16 overflow"
            )
        steepest = ways.steepest(pulled)
        moved = per_example((rows(steepest) != 0).any(1), steepest)
        pushed = direction = torch.where(moved, steepest, at_random)
    return direction


def _tensor(output: Output, head: str | int, count: int) -> Tensor:
    """The head, or the output itself, as one tensor that begins with the batch."""
    value = output if head == "" else part_of(output, head, "output")
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.shape[:1] != (count,):
        came = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value)
        raise TypeError(
            f"expected a floating-point tensor ({count}, ...) to differentiate; got {came}: say which head "
            "is meant, head='contour'"
        )
    if not value.requires_grad:
        raise ValueError(_DETACHED)
    return value


_DETACHED = (
    "the output does not depend on the input through differentiable operations, so it has no Jacobian: look "
    "for .detach(), .argmax(), thresholds, numpy or torch.no_grad() in the model"
)
