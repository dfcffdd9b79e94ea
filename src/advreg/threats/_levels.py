"""Grey levels: the grid that files of 8 or 12 bits can hold, and how a point lands on it inside a ball."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from advreg._core.checks import examples
from advreg._core.tensors import rows


@dataclass(frozen=True, eq=False)
class Grid:
    """The values `lower + k (upper - lower) / levels`, k = 0 to `levels`, of each entry.

    Attributes:
        lower: The lower sides of the box, broadcast against the inputs, in the dtype of the inputs.
        upper: The upper sides.
        levels: The number of steps between them, 255 for 8 bits.
    """

    lower: Tensor
    upper: Tensor
    levels: int

    @property
    def step(self) -> Tensor:
        """The width of a level; 1 where the box has none, and only one value."""
        width = (_fine(self.upper) - _fine(self.lower)) / self.levels
        return torch.where(width > 0, width, 1)

    def place(self, x: Tensor) -> Tensor:
        """Where values lie on the grid, as real numbers k."""
        return (_fine(x) - _fine(self.lower)) / self.step

    def value(self, k: Tensor, like: Tensor) -> Tensor:
        """The values of whole k, to the bit what a file's integers divided by `levels` are on [0, 1]."""
        width = _fine(self.upper) - _fine(self.lower)
        exact = _fine(self.lower) + k * width / self.levels
        return torch.clamp(exact.to(like.dtype), self.lower, self.upper)

    def grain(self, x: Tensor) -> Tensor:
        """How far rounding may have put a value beside the grid, `(B, *input)`."""
        largest = torch.maximum(_fine(self.lower).abs(), _fine(self.upper).abs())
        return torch.minimum(4 * torch.finfo(x.dtype).eps * largest, self.step / 4).expand_as(x)

    def off(self, x: Tensor) -> Tensor:
        """Where values lie beside the grid, by more than rounding, bool `(B, *input)`."""
        return ~((_fine(x) - _fine(self.value(self.place(x).round(), x))).abs() <= self.grain(x))

    def nearest(self, z: Tensor, centre: Tensor, reach: Tensor) -> Tensor:
        """The nearest point of the grid that is no further than `reach` from the centre, entry by entry."""
        home = self.place(centre).round()
        most = (_fine(reach) / self.step * (1 + 8 * torch.finfo(reach.dtype).eps)).floor()
        moved = torch.clamp((self.place(z) - home).round(), -most, most)
        return self._landed(home + moved, home, centre)

    def filled(self, z: Tensor, centre: Tensor, size: Callable[[Tensor], Tensor]) -> Tensor:
        """A point of the grid near `z`, of no larger a size, where a size is a sum over the entries.

        Each entry is rounded towards the centre; then those that were nearest to the next level are raised to
        it, one after another, until the size of `z` is spent.

        Args:
            z: Points, `(B, *input)`.
            centre: The centres.
            size: From perturbations `(B, *input)` to what each entry adds.
        """
        home = self.place(centre).round()
        moved = self.place(z) - home
        slack = (self.grain(z) + (_fine(centre) - _fine(self.value(home, centre))).abs()) / self.step
        whole = moved.round()
        whole = torch.where((moved - whole).abs() <= slack, whole, moved.trunc())
        rest = torch.where(whole.abs() < moved.abs(), (moved - whole).abs(), 0)
        rest = torch.where(rest > slack, rest, 0)
        spent = rows(size(whole * self.step))
        left = (rows(size(moved * self.step)) - spent).sum(1, keepdim=True)
        raised = whole + torch.where(rest > 0, moved.sign(), 0)
        cost = rows(size(raised * self.step)) - spent
        order = rows(rest).sort(stable=True, dim=1, descending=True).indices
        within = (cost.gather(1, order).cumsum(1) <= left) & (rows(rest).gather(1, order) > 0)
        chosen = torch.zeros_like(within).scatter(1, order, within).reshape(z.shape)
        return self._landed(torch.where(chosen, raised, whole) + home, home, centre)

    def _landed(self, k: Tensor, home: Tensor, centre: Tensor) -> Tensor:
        k = torch.clamp(k, 0, self.levels)
        return torch.where(k == home, centre, self.value(k, centre))


def check_grid(grid: Grid, centre: Tensor, free: Tensor, radius: Tensor, scale: Tensor | None) -> None:
    """Insist on inputs that lie on the grid, where they may change, and on a dtype that can hold it.

    Raises:
        ValueError: Levels finer than the dtype's; values between two levels.

    Warns:
        UserWarning: A radius above zero that is less than one level, so that nothing can move.
    """
    largest = torch.maximum(_fine(grid.lower).abs(), _fine(grid.upper).abs())
    finest = 2 * torch.finfo(centre.dtype).eps * largest
    if bool((grid.step < finest).any()):
        raise ValueError(
            f"{centre.dtype} cannot hold {grid.levels} levels between these bounds: pass inputs in float32, "
            "and for a quicker network Execution(precision=...)"
        )
    wrong = free & grid.off(centre)
    if bool(wrong.any()):
        value = centre[wrong][0].item()
        raise ValueError(
            f"inputs must lie on the {grid.levels} levels between the bounds, as those of a file do; got "
            f"{value:.9g} between two of them, in {examples(wrong)}: read x from the file's integers, "
            "x = integers / levels for bounds of (0, 1), or round it first, "
            f"(x * {grid.levels}).round() / {grid.levels}; smoothed or resized inputs are on no grid"
        )
    width = _fine(grid.step if scale is None else grid.step / scale).expand_as(centre)
    least = torch.where(free, width, torch.inf).amin()
    short = (radius > 0) & (radius < least * (1 - 8 * torch.finfo(radius.dtype).eps))
    if bool(short.any() & least.isfinite()):
        warnings.warn(
            f"a radius of {float(radius[short].max()):.6g} is less than one of {grid.levels} levels, "
            f"{float(least):.6g}, so that nothing can move: pass a radius of whole levels, such as "
            f"{float(least):.6g}",
            stacklevel=4,
        )


def _fine(x: Tensor) -> Tensor:
    """In float64, where the device has it, so that a quotient rounds once."""
    return x.float() if x.device.type == "mps" else x.double()
