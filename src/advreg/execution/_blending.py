"""Blending of windows: where each lies in an image, and the weighted sum of what a network returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd import Function

from advreg._core.trees import children, rebuilt
from advreg._core.types import Output

Place: TypeAlias = tuple[int, tuple[int, ...]]
"""A window: the number of its image, and where it begins along each spatial dimension."""

_LEAST = 1e-3  # of an importance map, whose largest entry is about 1


@dataclass(frozen=True)
class Grid:
    """Windows of images of one size.

    Attributes:
        spatial: The size of the images.
        size: The size of a window.
        starts: Where windows begin along each dimension, in the padded image; all combinations are windows.
    """

    spatial: tuple[int, ...]
    size: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]

    @property
    def whole(self) -> tuple[int, ...]:
        """The size of the padded images: a window at least."""
        return tuple(map(max, self.spatial, self.size))

    @property
    def padding(self) -> list[tuple[int, int]]:
        """How much is added before and after the image, along each dimension."""
        added = [full - own for full, own in zip(self.whole, self.spatial, strict=True)]
        return [(n // 2, n - n // 2) for n in added]

    def places(self, count: int) -> list[Place]:
        """All windows of so many images."""
        return list(product(range(count), product(*self.starts)))


class Blended:
    """The weighted mean of what windows return, one canvas for each tensor of the output."""

    def __init__(self, output: Output, count: int, grid: Grid, mode: str, sigma: float) -> None:
        weight = _importance(grid.size, mode, sigma)
        self._canvases = {name: _Canvas(name, leaf, count, grid, weight) for name, leaf in _leaves(output)}
        self._built = _mapped(lambda _, leaf: leaf.new_empty(0), output)

    def add(self, output: Output, places: Sequence[Place]) -> None:
        """Add what the network returned for the windows at these places."""
        leaves = dict(_leaves(output))
        if leaves.keys() != self._canvases.keys():
            raise ValueError(
                f"net must return the same structure for every window; got {sorted(leaves)} after "
                f"{sorted(self._canvases)}"
            )
        for name, leaf in leaves.items():
            self._canvases[name].add(leaf, places)

    def finished(self) -> Output:
        """The output for the images, built like that for a window."""
        return _mapped(lambda name, _: self._canvases[name].finished(), self._built)


class _Canvas:
    """The mean of one tensor over the windows that cover each place, as far as they have come."""

    def __init__(self, name: str, leaf: Tensor, count: int, grid: Grid, weight: Tensor) -> None:
        size, scale = _scaled(name, leaf, grid)
        self._name, self._dtype = name, leaf.dtype
        self._kept = _image(name, scale, grid)
        self._inner = tuple(leaf.shape[1 : leaf.ndim - len(size)])
        wide = torch.promote_types(leaf.dtype, torch.float32)
        weight = _resized(weight, size).to(leaf.device, wide.to_real())
        self._shares = _Shares(size, _whole(scale, grid.starts), weight)
        self._begins = dict(zip(product(*grid.starts), product(*self._shares.starts), strict=True))
        whole = [int(n * factor) for n, factor in zip(grid.whole, scale, strict=True)]
        self._sum = torch.zeros((count, *self._inner, *whole), dtype=wide, device=leaf.device)

    def add(self, leaf: Tensor, places: Sequence[Place]) -> None:
        """Add what the network returned for the windows at these places."""
        expected = (len(places), *self._inner, *self._shares.size)
        if leaf.shape != expected or leaf.dtype != self._dtype:
            raise ValueError(
                f"{self._name} must have one shape and dtype for all windows, {expected} of "
                f"{self._dtype} for {len(places)}; got {tuple(leaf.shape)} of {leaf.dtype}"
            )
        where = [(number, self._begins[start]) for number, start in places]
        self._sum = _Sum.apply(self._sum, leaf, self._shares, where)  # type: ignore[no-untyped-call]  # torch's own gap

    def finished(self) -> Tensor:
        """The output for the images, without what was padded."""
        mean = self._sum.to(self._dtype)
        kept: Any = self._kept
        return mean if kept is None else mean[(..., *kept)]


@dataclass(frozen=True, eq=False)
class _Shares:
    """How much each window counts at each of its places: its weight over those of all that cover it.

    Attributes:
        size: The size of a window, in the output.
        starts: Where windows begin along each dimension, in the output.
        weight: The importance of each place of a window, `(*size)`.
    """

    size: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]
    weight: Tensor

    def of(self, begin: Sequence[int]) -> Tensor:
        """The shares of the window that begins there, `(*size)`.

        Windows form a grid, so that their weights are summed along one dimension after another.
        """
        total = self.weight
        for dim, (at, starts, n) in enumerate(zip(begin, self.starts, self.size, strict=True)):
            summed = torch.zeros_like(total)
            for shift in (at - start for start in starts if abs(at - start) < n):
                length = n - abs(shift)
                summed.narrow(dim, max(0, -shift), length).add_(total.narrow(dim, max(0, shift), length))
            total = summed
        return self.weight / total

    def place(self, number: int, begin: Sequence[int]) -> Any:
        """An index of the window that begins there, in an image by its number."""
        return (number, ..., *(slice(at, at + n) for at, n in zip(begin, self.size, strict=True)))


class _Sum(Function):
    """`mean[place] += window * share`, in place; nothing is kept for the gradient."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, windows: Tensor, shares: _Shares, places: Sequence[Place]) -> Tensor:
        ctx.mark_dirty(mean)
        ctx.shares, ctx.places, ctx.shape, ctx.dtype = shares, places, windows.shape, windows.dtype
        for window, (number, begin) in zip(windows, places, strict=True):
            mean[shares.place(number, begin)] += window.to(mean.dtype) * shares.of(begin)
        return mean

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        shares = ctx.shares
        parts = [gradient[shares.place(*place)] * shares.of(place[1]) for place in ctx.places]
        windows = torch.stack(parts) if parts else gradient.new_zeros(ctx.shape)
        return gradient, windows.to(ctx.dtype), None, None


def _importance(size: Sequence[int], mode: str, sigma: float) -> Tensor:
    """The weight of each place of a window, `(*size)`, float32."""
    weight = torch.ones((), dtype=torch.float32)
    for n in size:
        apart = torch.arange(n, dtype=torch.float32) - (n - 1) / 2
        along = torch.exp(-((apart / (sigma * n)) ** 2) / 2) if mode == "gaussian" else torch.ones(n)
        weight = weight[..., None] * along
    return weight.clamp(min=_LEAST)


def _resized(weight: Tensor, size: Sequence[int]) -> Tensor:
    """An importance map at another scale: at each place that of the nearest one, by their centres."""
    for dim, (n, own) in enumerate(zip(size, weight.shape, strict=True)):
        if n != own:
            nearest = ((torch.arange(n, dtype=torch.float64) + 0.5) * own / n).floor().long()
            weight = weight.index_select(dim, nearest.to(weight.device))
    return weight


def _scaled(name: str, leaf: Tensor, grid: Grid) -> tuple[tuple[int, ...], tuple[Fraction, ...]]:
    """The size of a window in an output, and its scale along each dimension.

    Raises:
        ValueError: It has no place in the image; whole numbers, which cannot be averaged.
    """
    dims = len(grid.size)
    if not (leaf.is_floating_point() or leaf.is_complex()):
        raise ValueError(
            f"{name} must be of floating point, so that windows can be blended; got {leaf.dtype}: return "
            "scores or probabilities, and decide after the blending"
        )
    size = tuple(leaf.shape[-dims:])
    if leaf.ndim < dims + 1 or (leaf.ndim == dims + 1 and size != grid.size) or 0 in size:
        raise ValueError(
            f"{name} must be (N, C, *spatial) for windows of {grid.size}; got {tuple(leaf.shape)}, which has "
            "no place in the image: read only heads that have one, with on('mask', ...), or let net return "
            "those alone, SlidingWindow(lambda x: net(x)['mask'], ...); or pool a map after the blending"
        )
    scale, other = ([Fraction(*pair) for pair in zip(leaf.shape[at : at + dims], grid.size, strict=True)]
                    for at in (leaf.ndim - dims, 1))  # fmt: skip
    if leaf.ndim == dims + 2 and len(set(scale)) > 1 and len(set(other)) == 1:
        raise ValueError(
            f"{name} must be (N, C, *spatial) for windows of {grid.size}; got {tuple(leaf.shape)}, which "
            "looks like channels last: return output.movedim(-1, 1)"
        )
    begins = (n * factor for factor, along in zip(scale, grid.starts, strict=True) for n in along)
    if any(begin.denominator > 1 for begin in begins):
        raise _misplaced(name, scale, grid)
    return size, tuple(scale)


def _whole(scale: Sequence[Fraction], starts: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Where windows begin along each dimension, in the output."""
    return tuple(tuple(int(n * factor) for n in along) for factor, along in zip(scale, starts, strict=True))


def _image(name: str, scale: Sequence[Fraction], grid: Grid) -> list[slice] | None:
    """Where the image lies in the output for the padded one; None where nothing was padded.

    Raises:
        ValueError: It does not begin and end at whole places.
    """
    if grid.whole == grid.spatial:
        return None
    found = []
    for (low, _), length, factor in zip(grid.padding, grid.spatial, scale, strict=True):
        begin, end = low * factor, (low + length) * factor
        if begin.denominator > 1 or end.denominator > 1:
            raise _misplaced(name, scale, grid)
        found.append(slice(int(begin), int(end)))
    return found


def _misplaced(name: str, scale: Sequence[Fraction], grid: Grid) -> ValueError:
    shown = " x ".join(map(str, scale))
    least = math.lcm(*(one.denominator for one in scale))
    return ValueError(
        f"{name} must come at a scale that takes each window to whole places; its scale {shown} takes "
        f"windows of {grid.size} in an image of {grid.spatial} in between: choose size, overlap and the size "
        f"of the image so that windows begin and end at multiples of {least}, or let net interpolate to its "
        "input's size"
    )


def _leaves(tree: Output, name: str = "the output") -> Iterator[tuple[str, Tensor]]:
    """The tensors of an output, by the name that messages call them.

    Raises:
        TypeError: Something that is no tensor and says more than a text: windows of it cannot be blended.
    """
    found: list[tuple[str, Tensor]] = []
    _mapped(lambda own, leaf: found.append((own, leaf)), tree, name)
    if not found:
        raise TypeError(f"net must return tensors; got {type(tree).__name__}: return them from its forward")
    yield from found


def _mapped(function: Callable[[str, Tensor], Any], tree: Output, name: str = "the output") -> Output:
    """An output with a function, of name and tensor, applied to each of its tensors."""
    if isinstance(tree, Tensor):
        return function(name, tree)
    held = children(tree)
    if held is None:
        if tree is not None and not isinstance(tree, str):
            raise TypeError(
                f"{name} must be a tensor, so that windows can be blended; got {type(tree).__name__}: let "
                "net return tensors alone"
            )
        return tree
    return rebuilt(tree, {key: _mapped(function, value, f"{name}[{key!r}]") for key, value in held.items()})
