"""Precision and memory layout: a model in bfloat16 or channels-last for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd import Function

from advreg._core.modules import modules_of, sharded
from advreg._core.tensors import per_example, rows
from advreg._core.trees import map_tensors, tensors
from advreg._core.types import Input, Model, Output
from advreg.execution._frozen import swapped

Precision = Literal["float32", "bfloat16", "float16"]
"""In what a network computes: "float32" stands for its own dtype, whatever that is."""


@contextmanager
def lowered(model: Model, precision: Precision, *, channels_last: bool = False) -> Iterator[None]:
    """Give a model weights and buffers of a lower precision, and then its own again, bit for bit.

    Inside, the parameters are copies that require no gradient; shared ones stay shared. Afterwards, also when
    the body raised, each module has its own parameters and buffers, the same objects.

    Args:
        model: A `torch.nn.Module`, or a function around some.
        precision: "float32" leaves it alone; "bfloat16" and "float16" copy what is floating point.
        channels_last: Whether to copy the kernels of 2D and 3D convolutions so that their channels lie side
            by side.

    Raises:
        ValueError: Another precision; weights that are spread over processes.

    Example:
        >>> import torch
        >>> from advreg.execution._precision import lowered
        >>> model = torch.nn.Linear(2, 1)
        >>> with lowered(model, "bfloat16"):
        ...     model.weight.dtype
        torch.bfloat16
        >>> model.weight.dtype
        torch.float32
    """
    dtype = dtype_of(precision)
    changes = dtype is not None or channels_last
    modules = modules_of(model) if changes else ()
    if sharded(modules):
        raise ValueError(
            "the weights of this network are spread over processes by fully_shard, which alone can lower "
            "them; got an execution with another precision or layout: use fully_shard(..., "
            "mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16)) and a plain Execution()"
        )

    def lower(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        copy = _laid(tensor.detach().to(dtype), channels_last=channels_last)
        return nn.Parameter(copy, requires_grad=False) if isinstance(tensor, nn.Parameter) else copy

    with swapped(modules, lower):
        yield


@contextmanager
def of_their_own(model: Model) -> Iterator[None]:
    """Give a model whose weights were made under `torch.inference_mode` copies that autograd takes."""
    modules = modules_of(model)
    held = (p for one in modules for p in (*one.parameters(recurse=False), *one.buffers(recurse=False)))
    made = any(p.is_inference() for p in held)

    @torch.inference_mode(mode=False)
    def copied(tensor: Tensor) -> Tensor:
        copy = tensor.detach().clone()
        return nn.Parameter(copy, requires_grad=False) if isinstance(tensor, nn.Parameter) else copy

    with swapped(modules if made else (), copied):
        yield


def cast(model: Model, precision: Precision, *, channels_last: bool = False) -> Model:
    """A callable that hands a `lowered` model inputs of its precision, and outputs in that of the input.

    In float16 the gradient of each example is scaled to a size that survives on its way through the network,
    and back to its own at the input.
    """
    dtype = dtype_of(precision)
    if dtype is None:
        laid = partial(map_tensors, partial(_laid, channels_last=True))
        return (lambda x: model(laid(x))) if channels_last else model

    def run(x: Input) -> Output:
        scale: list[Tensor] = []
        given = [tensor for tensor in tensors(x) if tensor.is_floating_point()]
        own = next((tensor.dtype for tensor in given if tensor.requires_grad), given[0].dtype)
        low = entered(x, dtype, scale)
        output = model(map_tensors(partial(_laid, channels_last=channels_last), low))
        floating = [tensor for tensor in tensors(output) if tensor.is_floating_point()]
        leave: Callable[..., tuple[Tensor, ...]] = _Leave.apply
        raised = iter(leave(own, dtype is torch.float16, scale, *floating) if floating else ())
        return map_tensors(lambda tensor: next(raised) if tensor.is_floating_point() else tensor, output)

    return run


def entered(x: Input, dtype: torch.dtype | None, scale: list[Tensor] | None = None) -> Input:
    """Inputs whose floating-point tensors are in another precision; None for their own."""
    if dtype is None:
        return x

    def enter(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        low: Tensor = _Enter.apply(tensor, dtype, [] if scale is None else scale)  # type: ignore[no-untyped-call]  # torch's own gap
        return low

    return map_tensors(enter, x)


def check_precision(precision: Precision) -> None:
    """Insist on a known precision."""
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be one of {get_args(Precision)}; got {precision!r}")


def dtype_of(precision: Precision) -> torch.dtype | None:
    """The dtype to compute in; None for the model's own."""
    check_precision(precision)
    return None if precision == "float32" else getattr(torch, precision)


def _laid(tensor: Tensor, *, channels_last: bool) -> Tensor:
    """A batch or a kernel with its channels side by side; what is neither 2D nor 3D, as it is."""
    forms = {4: torch.channels_last, 5: torch.channels_last_3d}
    if not channels_last or tensor.ndim not in forms:
        return tensor
    return tensor.contiguous(memory_format=forms[tensor.ndim])


class _Enter(Function):
    """The input, in low precision; its gradient, at its own scale again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype, scale: list[Tensor]) -> Tensor:
        ctx.dtype, ctx.scale = x.dtype, scale
        return x.to(dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        wide = gradient.to(ctx.dtype)
        return wide * per_example(ctx.scale[-1], wide) if ctx.scale else wide, None, None


class _Leave(Function):
    """The outputs, in the input's precision; their gradients, in low precision at a scale that survives."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, scaled: bool, scale: list[Tensor], *outputs: Tensor) -> Any:
        ctx.dtypes, ctx.scaled, ctx.scale = [output.dtype for output in outputs], scaled, scale
        return tuple(output.to(dtype) for output in outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        if ctx.scaled:
            peak = torch.stack([rows(gradient).abs().amax(1) for gradient in gradients]).amax(0)
            ctx.scale[:] = [torch.where(peak > 0, peak, 1)]
            gradients = tuple(gradient / per_example(ctx.scale[0], gradient) for gradient in gradients)
        lowered = (gradient.to(dtype) for gradient, dtype in zip(gradients, ctx.dtypes, strict=True))
        return None, None, None, *lowered
