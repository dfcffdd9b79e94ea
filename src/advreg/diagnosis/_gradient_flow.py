"""Gradient flow: where a gradient comes from, and at which layer it dies."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor

from advreg._core.checks import one_per_example
from advreg._core.modules import named_modules
from advreg._core.trees import map_tensors, tensors
from advreg._core.types import Input, Model, PerExample, Target
from advreg.execution import Batch, frozen


def slope(model: Model, batch: Batch, objective: PerExample) -> tuple[Tensor, Tensor | None]:
    """The objective at some inputs, `(B,)`, and its gradient, `(B, *input)`; None where it has none at all.

    Args:
        model: Inputs to outputs.
        batch: Inputs and what the objective compares with.
        objective: `(output, target) -> (B,)`.

    Example:
        >>> import torch
        >>> from advreg import J_IND_reg, Threat, linf
        >>> from advreg.diagnosis._gradient_flow import slope
        >>> from advreg.execution import Batch
        >>> batch = Batch.of(torch.ones(2, 3), torch.zeros(2, 3), Threat(linf, 0.1))
        >>> value, gradient = slope(lambda x: x.detach(), batch, J_IND_reg)
        >>> value, gradient
        (tensor([3., 3.]), None)
    """
    with frozen(model), torch.inference_mode(mode=False), torch.enable_grad():
        point = batch.x.detach().clone().requires_grad_()
        output = model(map_tensors(Tensor.clone, batch.inputs(point)))
        value = one_per_example(objective(output, batch.y), len(point), "an objective")
        if not value.requires_grad:
            return value.detach(), None
        (gradient,) = torch.autograd.grad(value.sum(), point, allow_unused=True)
    return value.detach(), gradient


class _Call(NamedTuple):
    """One call of a layer, in the order in which they happen."""

    layer: str
    took: list[Tensor]
    gave: list[Tensor]


def dead_end(model: Model, x: Input, y: Target, objective: PerExample) -> str:
    """Where, on its way back from the objective, the gradient of some inputs becomes zero, NaN or infinite.

    Each layer is watched by a hook for one pass, removed afterwards. A gradient is alive at a tensor if it is
    finite and not zero throughout.

    Args:
        model: Inputs to outputs; of a function around modules the layers of these.
        x: Inputs whose gradient is dead, `(B, *input)`. Of a model of several inputs all of them, of which
            those that require a gradient count.
        y: What the objective compares with.
        objective: `(output, target) -> (B,)`.

    Returns:
        A phrase such as "in filter (Median)" or "between the input and encoder.0 (Conv2d)".

    Example:
        >>> import torch
        >>> from advreg import J_IND_reg
        >>> from advreg.diagnosis import dead_end
        >>> layers = torch.nn.Linear(3, 3), torch.nn.Threshold(9.0, 0.0), torch.nn.Linear(3, 2)
        >>> dead_end(torch.nn.Sequential(*layers), torch.ones(2, 3), torch.zeros(2, 2), J_IND_reg)
        'in 1 (Threshold)'

    Source:
        Athalye et al., Obfuscated gradients give a false sense of security, arXiv:1802.00420, section 3.
    """
    calls: list[_Call] = []

    def hook(layer: str, took: Any, gave: Any) -> None:
        calls.append(_Call(layer, list(tensors(took)), list(tensors(gave))))

    with ExitStack() as hooks, frozen(model), torch.inference_mode(mode=False), torch.enable_grad():
        for name, module in named_modules(model):
            if not any(True for _ in module.children()):
                layer = f"{name or 'the model'} ({type(module).__name__})"
                handle = module.register_forward_hook(
                    lambda _, took, gave, layer=layer: hook(layer, took, gave)
                )
                hooks.callback(handle.remove)
        point = x.detach().clone().requires_grad_() if isinstance(x, Tensor) else x
        value = objective(model(map_tensors(Tensor.clone, point)), y)
        if not calls:
            return "between the input and the objective"
        if not value.requires_grad:
            return _cut(calls)
        seen = [tensor for call in calls for tensor in (*call.took, *call.gave) if tensor.requires_grad]
        found = torch.autograd.grad(value.sum(), seen, allow_unused=True) if seen else ()
        alive = {
            id(tensor)
            for tensor, gradient in zip(seen, found, strict=True)
            if gradient is not None and bool((gradient != 0).any()) and bool(gradient.isfinite().all())
        }
    for call in calls:
        if any(id(tensor) in alive for tensor in call.took):
            return f"between the input and {call.layer}"
        if any(id(tensor) in alive for tensor in call.gave):
            return f"in {call.layer}"
    return f"between the layers, {calls[-1].layer} being the last, and the objective"


def _cut(calls: list[_Call]) -> str:
    """Where, on the way forward, the graph ends."""
    for before, call in zip([None, *calls], calls, strict=False):
        if not any(tensor.requires_grad for tensor in call.took):
            return f"between {before.layer if before else 'the input'} and {call.layer}"
        if not any(tensor.requires_grad for tensor in call.gave):
            return f"in {call.layer}"
    return f"between the layers, {calls[-1].layer} being the last, and the objective"
