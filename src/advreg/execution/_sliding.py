"""Sliding windows: a network of one size on images of any size, in the memory of one window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional
from torch.utils.checkpoint import checkpoint, get_device_states, set_device_states

from advreg._core.checks import check_word
from advreg._core.modules import modules_of, roots
from advreg._core.tensors import wide
from advreg._core.trees import head
from advreg._core.types import Model, Output
from advreg.execution._blending import Blended, Grid, Place
from advreg.execution._heads import heads as declared

_PADDINGS = ("constant", "reflect", "replicate", "circular")


class SlidingWindow(nn.Module):
    """Sliding-window inference: runs a network on overlapping windows of an image, and blends its outputs.

    For images and volumes `(B, C, *spatial)` that are larger than the network takes, or than memory holds.
    Each place of the output is the mean of the windows that cover it, weighted by an importance map. Values
    are those of `monai.inferers.sliding_window_inference`.

    It can be attacked and trained like any module: gradients, of the input and of the parameters, are those
    of all windows with their graph kept, but each batch of windows is computed again in the backward pass, so
    that the peak of memory is about that of one, for twice the forward passes. Second derivatives are right
    too.

    Heads that have no place in the image, such as classes or key points, are refused where they are read: an
    attack on the mask alone reads that alone. Where the network's forward takes `heads=`, see
    `advreg.execution.heads`, only those that are read are computed.

    Args:
        net: The network, or a function around some, from windows `(N, C, *size)` to a tensor, or a mapping,
            tuple or dataclass of tensors, `(N, ..., *spatial)`: as large as the window or at another scale,
            such as half its resolution, or `(N, *size)`.
        size: Of a window, for each spatial dimension; one number for all. Smaller images are padded on both
            sides, and the output is cropped.
        overlap: The share of a window that the next one covers, in [0, 1); for each dimension, or for all.
        mode: How windows are blended, "gaussian", centre first, or "constant", the plain mean.
        batch: How many windows run at once.
        sigma: The standard deviation of the Gaussian, as a share of the window.
        padding: Of images smaller than a window: "constant", "reflect", "replicate" or "circular".
        fill: What "constant" padding fills in.

    Raises:
        TypeError: A net that cannot be called.
        ValueError: Options out of range; when called: an input of other dimensions, an output that cannot be
            placed, such as one whose scale does not take the windows to whole places.

    Example:
        >>> import torch
        >>> from advreg.execution import SlidingWindow
        >>> net = torch.nn.Conv3d(1, 2, 3, padding=1)
        >>> volumes = SlidingWindow(net, size=8, overlap=0.5)
        >>> x = torch.rand(1, 1, 12, 16, 20, requires_grad=True)
        >>> output = volumes(x)
        >>> tuple(output.shape), tuple(torch.autograd.grad(output.sum(), x)[0].shape)
        ((1, 2, 12, 16, 20), (1, 1, 12, 16, 20))

    Source:
        Isensee et al., nnU-Net, Nature Methods 18, 2021 (Gaussian importance, half overlap); Cardoso et al.,
        MONAI, arXiv:2211.02701; Chen et al., Training deep nets with sublinear memory cost, arXiv:1604.06174.
    """

    def __init__(
        self,
        net: Model,
        size: int | Sequence[int],
        overlap: float | Sequence[float] = 0.5,
        *,
        mode: Literal["gaussian", "constant"] = "gaussian",
        batch: int = 1,
        sigma: float = 0.125,
        padding: Literal["constant", "reflect", "replicate", "circular"] = "constant",
        fill: float = 0.0,
    ) -> None:
        super().__init__()
        if not callable(net):
            raise TypeError(f"net must be a torch.nn.Module, or a function; got {net!r:.60}")
        check_word("mode", mode, ("gaussian", "constant"))
        check_word("padding", padding, _PADDINGS)
        _check_numbers("size", size, lambda one: isinstance(one, int) and one >= 1, "whole, 1 or more, as 96")
        _check_numbers("overlap", overlap, lambda one: 0 <= one < 1, "in [0, 1), as 0.5")
        _check_numbers("batch", batch, lambda one: isinstance(one, int) and one >= 1, "whole, 1 or more")
        _check_numbers("sigma", sigma, lambda one: one > 0, "above 0, as 0.125")
        # of a function the networks that it runs, so that their parameters and modes are found
        self.net = net if isinstance(net, nn.Module) else nn.ModuleList(roots(modules_of(net)))
        self._function = () if isinstance(net, nn.Module) else (net,)
        self.size = size if isinstance(size, int) else tuple(size)
        self.overlap = overlap if isinstance(overlap, (int, float)) else tuple(overlap)
        self.mode, self.batch, self.sigma, self.padding, self.fill = mode, batch, sigma, padding, fill
        self.training = bool(getattr(net, "training", any(one.training for one in self.net.children())))

    def extra_repr(self) -> str:
        """The options, for its text."""
        return f"size={self.size}, overlap={self.overlap}, mode={self.mode!r}, batch={self.batch}"

    def forward(self, x: Tensor, heads: Sequence[str | int] | None = None) -> Output:
        """The blended output for `(B, C, *spatial)`, built like that of the network.

        Args:
            x: Images or volumes.
            heads: The heads that are wanted, which are returned as a dict; None for all, as they come.
        """
        if torch.compiler.is_compiling():  # which loses gradients of what is written in place
            return torch.compiler.disable(self._slid)(x, heads)  # type: ignore[no-untyped-call]  # torch's
        return self._slid(x, heads)

    def _slid(self, x: Tensor, heads: Sequence[str | int] | None) -> Output:
        """The same, never compiled."""
        grid = self._grid(x)
        net = self._function[0] if self._function else self.net
        run = partial(_run, declared(net, heads), heads, grid.size, x.dtype)
        padded = self._padded(wide(x), grid)
        places = grid.places(len(x))
        blended: Blended | None = None
        chance: _Chance | None = None
        for first in range(0, max(1, len(places)), self.batch):
            some = places[first : first + self.batch]
            if torch.is_grad_enabled():
                chance = _same_or(_chance(padded), chance)
                again = partial(self._again, padded, chance)
                output = checkpoint(
                    run, padded, some, use_reentrant=False, preserve_rng_state=False, context_fn=again
                )
            else:
                output = run(padded, some)
            if blended is None:
                blended = Blended(output, len(x), grid, self.mode, self.sigma)
            blended.add(output, some)
        assert blended is not None
        return blended.finished()

    def _grid(self, x: Tensor) -> Grid:
        """The windows of images like `x`."""
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a tensor (B, C, *spatial); got {type(x).__name__}")
        size, overlap = self.size, self.overlap
        told = {len(one) for one in (size, overlap) if isinstance(one, tuple)}
        if x.ndim < 3 or told - {x.ndim - 2}:
            wanted = f"{min(told)} spatial dimensions" if told else "one spatial dimension or more"
            raise ValueError(
                f"x must be (B, C, *spatial) with {wanted}, as size and overlap have it; got "
                f"{tuple(x.shape)}: add the channel, x.unsqueeze(1), move it from the end, x.movedim(-1, 1), "
                "or give one number for each spatial dimension"
            )
        spatial = tuple(x.shape[2:])
        sizes = size if isinstance(size, tuple) else (size,) * len(spatial)
        overlaps = overlap if isinstance(overlap, tuple) else (overlap,) * len(spatial)
        starts = tuple(_starts(*one) for one in zip(spatial, sizes, overlaps, strict=True))
        return Grid(spatial, sizes, starts)

    def _padded(self, x: Tensor, grid: Grid) -> Tensor:
        if grid.whole == grid.spatial:
            return x
        sides = [n for low, high in reversed(grid.padding) for n in (low, high)]
        try:
            return functional.pad(x, sides, self.padding, self.fill if self.padding == "constant" else None)
        except (RuntimeError, NotImplementedError, ValueError) as error:
            raise ValueError(
                f"an image of {grid.spatial} cannot be padded to a window of {grid.size} by "
                f'{self.padding!r}: {str(error).splitlines()[0]}; take padding="constant" or a smaller size'
            ) from error

    def _again(
        self, x: Tensor, chance: _Chance
    ) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Contexts of a pass of some windows, which is about to be, and of the same pass once more."""
        writable = [b for m in self.net.modules() if m.training for b in m.buffers(recurse=False)]
        return nullcontext(), _Rewound(writable, x, chance)


class _Chance(NamedTuple):
    """The states of torch's global generators, of the CPU and of the device of some tensor."""

    cpu: Tensor
    kind: str
    devices: list[int]
    states: list[Tensor]

    def set(self) -> None:
        """Let them be the states again."""
        torch.set_rng_state(self.cpu)
        if self.devices:
            set_device_states(self.devices, self.states, device_type=self.kind)


def _chance(x: Tensor) -> _Chance:
    """The states now."""
    return _Chance(torch.get_rng_state(), x.device.type, *get_device_states(x))


def _same_or(now: _Chance, last: _Chance | None) -> _Chance:
    """The last states where they are still the same: small pieces of memory that stay would scatter it."""
    if last is None or not all(map(torch.equal, [now.cpu, *now.states], [last.cpu, *last.states])):
        return now
    return last


class _Windows(Function):
    """Windows `(N, C, *size)` of images; the gradient is put into zeros, whatever the number of slices."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Sequence[Place], size: Sequence[int]) -> Tensor:
        ctx.shape = x.shape
        ctx.places = [
            (number, slice(None), *(slice(at, at + n) for at, n in zip(start, size, strict=True)))
            for number, start in places
        ]
        cut = [x[place] for place in ctx.places]
        return torch.stack(cut) if cut else x.new_zeros((0, x.shape[1], *size))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        whole = gradient.new_zeros(ctx.shape)
        for one, place in zip(gradient, ctx.places, strict=True):
            whole[place] += one
        return whole, None, None


def _run(
    net: Model,
    heads: Sequence[str | int] | None,
    size: Sequence[int],
    dtype: torch.dtype,
    x: Tensor,
    places: Sequence[Place],
) -> Output:
    """What the network returns for some windows; of its heads those that are wanted."""
    windows: Tensor = _Windows.apply(x, places, size)  # type: ignore[no-untyped-call]  # torch's own gap
    output = net(windows.to(dtype))
    return output if heads is None else {key: head(output, key, "output") for key in heads}


class _Rewound:
    """Context, for any number of passes, in which buffers and generators are as they were."""

    def __init__(self, buffers: Sequence[Tensor], x: Tensor, chance: _Chance) -> None:
        self._buffers, self._x, self._chance = buffers, x, chance
        self._then = [buffer.detach().clone() for buffer in buffers]
        self._now: list[tuple[list[Tensor], _Chance]] = []

    def __enter__(self) -> None:
        self._now.append(([buffer.detach().clone() for buffer in self._buffers], _chance(self._x)))
        self._set(self._then, self._chance)

    def __exit__(self, *error: object) -> None:
        self._set(*self._now.pop())

    def _set(self, values: Sequence[Tensor], chance: _Chance) -> None:
        chance.set()
        for buffer, value in zip(self._buffers, values, strict=True):
            buffer.data.copy_(value)  # unseen by autograd, which may hold it


def _starts(length: int, size: int, overlap: float) -> tuple[int, ...]:
    """Where windows begin along one dimension: a step apart, the last moved back to end with the image."""
    step = max(1, int(size * (1 - overlap)))
    last = max(0, length - size)
    return (*range(0, last, step), last)


def _check_numbers(name: str, value: Any, fits: Callable[[Any], bool], wanted: str) -> None:
    """Insist on a number, or where there are several, on a tuple of them."""
    several = name in ("size", "overlap") and isinstance(value, (tuple, list))
    numbers = list(value) if several else [value]
    if not numbers or not all(
        isinstance(one, (int, float)) and not isinstance(one, bool) and fits(one) for one in numbers
    ):
        each = ", or one for each spatial dimension" if name in ("size", "overlap") else ""
        raise ValueError(f"{name} must be {wanted}{each}; got {value!r}")
