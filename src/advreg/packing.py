"""Kernels laid out for the processor once in an attack, not at every step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from advreg.models import swapped
from advreg.types import Model

__all__ = ["packed"]

SMALL = 2**18
"""Numbers of input in a small batch, 16 images of 128 x 128: for more, layouts are not worth their room."""
FEW = 2**10
"""Places of a convolution's output, over the whole batch: beyond, the layout of its kernel hardly costs."""
LARGE = 2**19
"""Entries of a kernel: below, its layout costs no more than to ask for it."""


OFTEN = 10
"""Steps in which layouts save more than making them takes."""
_CONVOLVE = ("_reorder_convolution_weight", "_convolution_pointwise")
_TRANSPOSED = ("_reorder_convolution_transpose_weight", "_convolution_transpose_pointwise")
"""Operators of `torch.ops.mkldnn`: what makes a layout, and what takes it."""


@contextmanager
def packed(model: Model, x: Tensor, steps: int) -> Iterator[None]:
    """Let the convolutions of a model lay out their kernels once for a small batch on a CPU.

    oneDNN, which computes torch's convolutions there, takes kernels in a layout of its own. Torch makes it
    anew at every call, forward and backward; where maps are small and examples few, that takes longer than
    the convolution itself. Inside, layouts are kept. Outputs and gradients are the same up to rounding.
    Afterwards, also when the body raised, the parameters are the model's own, the same objects.

    Concerns batches of `SMALL` numbers or fewer, `OFTEN` steps or more and, in modules that are not compiled,
    2D and 3D convolutions in float32 whose kernels have `LARGE` entries or more, and more than one place,
    wherever batch times places of the output are at most `FEW`. It takes up to two more copies of these
    kernels.

    Args:
        model: A `torch.nn.Module` whose parameters require no gradient; any other callable is left alone.
        x: Inputs such as will follow, `(B, *input)`.
        steps: How many passes forward and backward will follow.

    Example:
        >>> import torch
        >>> from advreg import frozen
        >>> from advreg.packing import packed
        >>> model, x = torch.nn.Conv2d(256, 256, 3), torch.rand(2, 256, 5, 5)
        >>> with frozen(model), packed(model, x, steps=10):
        ...     quick = model(x)
        >>> torch.testing.assert_close(quick, model(x))

    Source:
        oneDNN, "Memory format propagation": an operator chooses the layout of its weights.
    """
    few = x.device.type == "cpu" and x.numel() <= SMALL and steps >= OFTEN
    pays = few and isinstance(model, nn.Module) and _available()
    with swapped(_open(cast(nn.Module, model)) if pays else (), _Kernel.of):
        yield


def _open(module: nn.Module) -> Iterator[nn.Module]:
    """The convolutions that are not inside compiled modules."""
    if "_orig_mod" in module._modules or vars(module).get("_compiled_call_impl") is not None:  # noqa: SLF001 - where compile notes it
        return
    if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        yield module
    for child in module.children():
        yield from _open(child)


@cache
def _available() -> bool:
    """Whether this is an x86 processor, where it was tried, and torch has the operators that take layouts."""
    tried = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    known = all(hasattr(torch.ops.mkldnn, name) for name in (*_CONVOLVE, *_TRANSPOSED))
    return tried and known and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]  # torch's own gap


class _Kernel(nn.Parameter):
    """A kernel that keeps its layouts; to all but convolutions the tensor that it was."""

    layouts: dict[Any, tuple[int, Tensor]] | None = None  # with the kernel's version

    @classmethod
    def of(cls, tensor: Tensor) -> Tensor:
        """Such a kernel, of a tensor that can be one; any other as it is."""
        own = (tensor.device.type, tensor.dtype, tensor.layout) == ("cpu", torch.float32, torch.strided)
        plain = own and tensor.is_contiguous() and not (tensor.requires_grad or tensor.is_inference())
        if not plain or tensor.ndim < 4 or tensor.numel() < LARGE or tensor[0, 0].numel() == 1:
            return tensor
        kernel = torch.Tensor._make_subclass(cls, tensor.detach(), False)  # noqa: SLF001 - as nn.Parameter does
        kernel.layouts = {}
        return kernel

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001 - as torch's own subclasses do
            found = _CALLS[func](*args, **kwargs) if func in _CALLS else None
            return func(*args, **kwargs) if found is None else found


@dataclass(frozen=True, eq=False)
class _Way:
    """A way to use a kernel. Transposed, a convolution is its own backward pass, and the other way round."""

    kernel: _Kernel
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def sides(self) -> Iterator[tuple[int, int, int, int]]:
        """For each dimension of a map the stride, the padding, and the kernel's dilation and reach."""
        reach = (
            far * (places - 1) + 1 for far, places in zip(self.dilation, self.kernel.shape[2:], strict=True)
        )
        return zip(self.stride, self.padding, self.dilation, reach, strict=True)

    def size(self, x: Tensor) -> list[int]:
        """The size of a convolution's map."""
        pairs = zip(x.shape[2:], self.sides, strict=True)
        return [(side + 2 * pad - reach) // step + 1 for side, (step, pad, _, reach) in pairs]

    def widened(self, x: Tensor) -> list[int]:
        """The least size of a map whose convolution has the size of this one."""
        pairs = zip(x.shape[2:], self.sides, strict=True)
        return [(side - 1) * step - 2 * pad + reach for side, (step, pad, _, reach) in pairs]

    def convolve(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return self._run(_CONVOLVE, x, bias, self.padding)

    def transposed(self, x: Tensor, bias: Tensor | None, size: Sequence[int]) -> Tensor:
        """To a map of a size whose convolution has the size of this one."""
        rest = [side - least for side, least in zip(size, self.widened(x), strict=True)]
        return self._run(_TRANSPOSED, x, bias, self.padding, rest)

    def _run(self, names: tuple[str, str], x: Tensor, bias: Tensor | None, *padding: Sequence[int]) -> Tensor:
        """By a layout made for the first map that came; it serves maps of other sizes too."""
        lay_out, run = (getattr(torch.ops.mkldnn, name) for name in names)
        how = (*padding, self.stride, self.dilation, self.groups)
        layouts = cast(dict[Any, tuple[int, Tensor]], self.kernel.layouts)
        written = self.kernel._version  # noqa: SLF001 - torch's own counter of writes in place
        key = (names, self.padding, self.stride, self.dilation, self.groups)
        known = layouts.get(key)
        if known is None or known[0] != written:
            known = layouts[key] = written, lay_out(self.kernel, *how, x.shape)
        found: Tensor = run(x.contiguous(), known[1], bias, *how, "none", [], "")
        return found.contiguous()  # as torch's own: a forward may rely on it


class _Convolve(Function):
    """A convolution, or to a size a transposed one; differentiable in the input, any number of times."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, way: _Way, size: Sequence[int] | None) -> Tensor:
        ctx.way, ctx.back = way, x.shape[2:] if size is None else None
        return way.convolve(x, bias) if size is None else way.transposed(x, bias, size)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return _convolve(gradient, None, ctx.way, ctx.back), None, None, None


_convolve: Callable[..., Tensor] = _Convolve.apply


def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:
    """`conv2d` and `conv3d` of `torch.nn.functional` by a kept layout; None where torch's own shall run."""
    way = _way(x, weight, bias, stride, padding, dilation, groups)
    if way is None or x.shape[1] != groups * weight.shape[1] or not _few(len(x), way.size(x)):
        return None
    return _convolve(x, bias, way, None)


def _conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor | None:
    """`conv_transpose2d` and `conv_transpose3d`, likewise."""
    way = _way(x, weight, bias, stride, padding, dilation, groups)
    if way is None or x.shape[1] != weight.shape[0] or not _few(len(x), x.shape[2:]):
        return None
    size = [sum(pair) for pair in zip(way.widened(x), _each(output_padding, x), strict=True)]
    return _convolve(x, bias, way, size)


def _way(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> _Way | None:
    """None where something else than a plain batch in float32 comes, or more than plain numbers is asked."""
    fits = isinstance(weight, _Kernel) and weight.layouts is not None and x.ndim == weight.ndim
    plain = x.dtype == torch.float32 and x.is_contiguous() and not isinstance(padding, str)
    learns = bias is not None and bias.requires_grad
    own = torch.is_autocast_enabled("cpu") or torch._C._are_functorch_transforms_active()  # noqa: SLF001 - no public name
    if not fits or not plain or learns or own or not torch._C._get_mkldnn_enabled():  # noqa: SLF001 - likewise
        return None
    return _Way(cast(_Kernel, weight), _each(stride, x), _each(padding, x), _each(dilation, x), groups)


def _few(count: int, places: Sequence[int]) -> bool:
    return min(count, *places) > 0 and count * math.prod(places) <= FEW


def _each(number: int | Sequence[int], x: Tensor) -> tuple[int, ...]:
    """One number for each dimension of a map."""
    numbers = (number,) if isinstance(number, int) else tuple(number)
    return numbers * (x.ndim - 2) if len(numbers) == 1 else numbers


_CALLS: dict[Any, Callable[..., Tensor | None]] = {
    F.conv2d: _conv,
    F.conv3d: _conv,
    F.conv_transpose2d: _conv_transpose,
    F.conv_transpose3d: _conv_transpose,
}
