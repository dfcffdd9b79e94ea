"""Smooth deformation: a free-form deformation by cubic B-splines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import product

import torch
from torch import Tensor

from advreg._core.device import check_values
from advreg._core.tensors import wide
from advreg.transforms._checks import check_count, check_images, check_parameters

_CLOSE = 0.01  # pixels
_FOLDLESS = (0.5, 1 / 2.046392675, 1 / 2.479472335)  # of 1, 2 and 3 axes, in spacings


@dataclass(frozen=True)
class Deformation:
    """Smooth deformation, a free-form one by cubic B-splines: `x'(u) = x(u + phi(u))`.

    `phi(u) = sum_k p_k B_k(u)` in pixels, with one displacement for each point of a coarse grid, `cells + 3`
    points along each axis. Images are read between pixels linearly, beyond the border as at it. At zero the
    image is the same, each value of it.

    A map of this kind does not fold while no displacement is larger than `reach(size)`, 0.5, 0.48 or 0.40
    spacings of the grid along one, two or three axes: `Threat(linf, transform.reach(size), None)` on the
    parameters. There it can be undone, by `forth`.

    Points are in pixels, with the last axis of the image first, (x, y) or (x, y, z), as everywhere in the
    library. A structure that the image shows at q is shown by the deformed one at the u of which
    `q = u + phi(u)`: `back` takes points of the deformed image to the image by that formula, `forth` the
    other way by iterations.

    Args:
        cells: How many cells of the grid an axis has, one number or one for each spatial axis.

    Raises:
        TypeError: Numbers that are not whole.
        ValueError: Less than one cell.

    Example:
        >>> import torch
        >>> from advreg.transforms import Deformation
        >>> x, warp = torch.tensor([[[0.0, 1.0, 2.0, 3.0, 4.0]]]), Deformation(cells=1)
        >>> p = warp.parameters(x) + 1  # one pixel everywhere
        >>> print(warp(x, p).numpy())
        [[[1. 2. 3. 4. 4.]]]
        >>> print(warp.back(torch.tensor([[[2.0]]]), p, (5,)).numpy())
        [[[3.]]]

    Source:
        Rueckert et al., Nonrigid registration using free-form deformations, IEEE Transactions on Medical
        Imaging 18, 1999; Choi and Lee, Injectivity conditions of 2D and 3D uniform cubic B-spline functions,
        Graphical Models 62, 2000 (no folding).
    """

    cells: int | tuple[int, ...] = 3

    def __post_init__(self) -> None:
        for each in (self.cells,) if not isinstance(self.cells, tuple) else self.cells:
            check_count("cells", each, 1)

    def parameters(self, x: Tensor) -> Tensor:
        """The parameters that change nothing, zeros `(B, P)`: for each axis a grid of numbers."""
        check_images(x)
        return x.new_zeros(len(x), self._count(x.shape[2:]))

    def reach(self, size: Sequence[int]) -> float:
        """The largest displacement, in pixels, below which no map of images `(*spatial)` folds."""
        spacings = [_spacing(entries, cells) for entries, cells in zip(size, self._cells(size), strict=True)]
        return _FOLDLESS[len(size) - 1] * min(spacings)

    def __call__(self, x: Tensor, p: Tensor) -> Tensor:
        """Images `(B, C, *spatial)` of one to three spatial axes, each moved by its parameters `(B, P)`."""
        check_images(x)
        size = x.shape[2:]
        check_parameters(p, x, self._count(size))
        full = wide(x)
        here = _pixels(size, full)
        moves = self._moves(
            wide(p).to(full.dtype), size, [_weights(u, *each) for u, each in self._along(size, full)]
        )
        return _read(full, [u + move for u, move in zip(here, moves.unbind(1), strict=True)]).to(x.dtype)

    def back(self, points: Tensor, p: Tensor, size: Sequence[int]) -> Tensor:
        """Where points of the deformed image lie in the image: `u + phi(u)`.

        Args:
            points: `(B, K, axes)` in pixels, the last axis of the image first; a dimension more or less
                between is kept.
            p: The parameters, `(B, P)`.
            size: The image's, `(*spatial)`.

        Raises:
            ValueError: Points or parameters of another shape.
        """
        self._check(points, p, size)
        u = wide(points)
        return (u + self._at(u, wide(p).to(u.dtype), size)).to(points.dtype)

    def forth(self, points: Tensor, p: Tensor, size: Sequence[int], *, rounds: int = 30) -> Tensor:
        """Where points of the image lie in the deformed one: the u of which `u + phi(u)` is the point.

        By the iteration `u <- point - phi(u)`, which comes closer by a fixed factor each time where the map
        does not fold; differentiable in the parameters and the points.

        Args:
            points: As for `back`.
            p: The parameters, `(B, P)`.
            size: The image's, `(*spatial)`.
            rounds: How many iterations; the error shrinks at the rate of the steepest change of phi.

        Raises:
            ValueError: Points or parameters of another shape; a map that folds, or nearly.
        """
        self._check(points, p, size)
        check_count("rounds", rounds, 1)
        q, inner = wide(points), wide(p)
        u, inner = q, inner.to(q.dtype)
        for _ in range(rounds):
            u = q - self._at(u, inner, size)
        check_values(u, partial(self._refuse_folds, u.detach(), q.detach(), inner.detach(), size, rounds))
        return u.to(points.dtype)

    def _refuse_folds(self, u: Tensor, q: Tensor, p: Tensor, size: Sequence[int], rounds: int) -> None:
        left = (u + self._at(u, p, size) - q).abs()
        if not bool((left <= _CLOSE)[q.isfinite()].all()):
            raise ValueError(
                f"the deformation could not be undone to {_CLOSE:g} pixels in {rounds} rounds; got "
                f"{float(left[q.isfinite()].max()):.3g} with displacements up to {float(p.abs().max()):.3g}: "
                f"keep them below reach(size), here {self.reach(size):.3g}, where no map folds, or pass more "
                "rounds"
            )

    def unwarped(self, image: Tensor, p: Tensor, *, rounds: int = 30) -> Tensor:
        """A map of the deformed image, such as a mask that a network found in it, brought back to the image.

        Args:
            image: `(B, C, *spatial)`.
            p: The parameters, `(B, P)`.
            rounds: As for `forth`.
        """
        check_images(image)
        size, full = image.shape[2:], wide(image)
        grid = torch.stack([u.expand(size) for u in _pixels(size, full)][::-1], -1).reshape(1, -1, len(size))
        there = self.forth(grid.expand(len(image), -1, -1), wide(p).to(full.dtype), size, rounds=rounds)
        places = [place.reshape(len(image), *size) for place in there.flip(-1).unbind(-1)]
        return _read(full, places).to(image.dtype)

    def _cells(self, size: Sequence[int]) -> tuple[int, ...]:
        if not isinstance(self.cells, tuple):
            return (self.cells,) * len(size)
        if len(self.cells) != len(size):
            raise ValueError(
                f"cells must be one number, or one for each spatial axis; got {self.cells} for images of "
                f"{tuple(size)}"
            )
        return self.cells

    def _count(self, size: Sequence[int]) -> int:
        return len(size) * math.prod(cells + 3 for cells in self._cells(size))

    def _along(self, size: Sequence[int], like: Tensor) -> list[tuple[Tensor, tuple[int, int]]]:
        """For each axis its pixels, and what its weights depend on: its length and its cells."""
        pixels = [torch.arange(entries, dtype=like.dtype, device=like.device) for entries in size]
        return [(u, (n, c)) for u, n, c in zip(pixels, size, self._cells(size), strict=True)]

    def _grid(self, p: Tensor, size: Sequence[int]) -> Tensor:
        return p.reshape(len(p), len(size), *(cells + 3 for cells in self._cells(size)))

    def _moves(self, p: Tensor, size: Sequence[int], weights: list[Tensor]) -> Tensor:
        """`phi` at each pixel, `(B, axes, *spatial)`, one axis of the grid after another."""
        moves = self._grid(p, size)
        for axis, weight in enumerate(weights):
            moves = torch.movedim(torch.movedim(moves, 2 + axis, -1) @ weight.T, -1, 2 + axis)
        return moves

    def _at(self, points: Tensor, p: Tensor, size: Sequence[int]) -> Tensor:
        """`phi` at points `(B, ..., axes)`, the last axis first."""
        flat = points.reshape(len(points), -1, len(size)).flip(-1)
        cells = self._cells(size)
        weights = [_weights(flat[..., axis], size[axis], cells[axis]) for axis in range(len(size))]
        letters = "xyz"[: len(size)]
        told = ",".join(f"bk{letter}" for letter in letters)
        moves = torch.einsum(f"bd{letters},{told}->bkd", self._grid(p, size), *weights)
        return moves.flip(-1).reshape(points.shape)

    def _check(self, points: Tensor, p: Tensor, size: Sequence[int]) -> None:
        if not 1 <= len(size) <= 3:
            raise ValueError(f"size must be that of one to three spatial axes; got {tuple(size)}")
        if points.shape[-1:] != (len(size),) or points.ndim < 2:
            raise ValueError(
                f"points must be (B, K, {len(size)}) for images of {tuple(size)}; got "
                f"shape {tuple(points.shape)}"
            )
        check_parameters(p, points, self._count(size))


def _spacing(entries: int, cells: int) -> float:
    """The distance of two points of the grid, in pixels, `cells` of which span the axis."""
    return max(entries - 1, 1) / cells


def _weights(u: Tensor, entries: int, cells: int) -> Tensor:
    """The cubic B-splines at places u, `(..., cells + 3)`: they sum to one from the first pixel to the last.

    Beyond the border as at it.
    """
    place = u.clamp(0, entries - 1) / _spacing(entries, cells)
    knots = torch.arange(-1, cells + 2, dtype=u.dtype, device=u.device)
    far = (place[..., None] - knots).abs()
    near = 2 / 3 - far.square() + far**3 / 2
    return torch.where(far < 1, near, (2 - far).clamp(min=0) ** 3 / 6)


def _pixels(size: Sequence[int], like: Tensor) -> list[Tensor]:
    """Each axis's coordinates, to broadcast against `(*spatial)`."""
    axes = [torch.arange(entries, dtype=like.dtype, device=like.device) for entries in size]
    return [u.reshape(*(-1 if k == axis else 1 for k in range(len(size)))) for axis, u in enumerate(axes)]


def _read(x: Tensor, places: list[Tensor]) -> Tensor:
    """Images `(B, C, *spatial)` between pixels, at places `(B, *spatial)` for each axis: multilinear.

    At whole places the values are the image's own, times one, with nothing but zeros added.
    """
    size = x.shape[2:]
    first, share = [], []
    for place, entries in zip(places, size, strict=True):
        inside = place.clamp(0, entries - 1)
        low = inside.detach().floor().clamp(max=max(entries - 2, 0))
        first.append(low.long())
        share.append(inside - low)
    flat = x.flatten(2)
    total: Tensor | None = None
    for corner in product((0, 1), repeat=len(size)):
        at = torch.zeros_like(first[0])
        for low, up, entries in zip(first, corner, size, strict=True):
            at = at * entries + (low + up).clamp(max=entries - 1)
        weight = reduce(torch.mul, [s if up else 1 - s for s, up in zip(share, corner, strict=True)])
        picked = flat.gather(2, at.flatten(1)[:, None].expand(-1, x.shape[1], -1)).reshape(x.shape)
        part = picked * weight[:, None]
        total = part if total is None else total + part
    assert total is not None
    return total
