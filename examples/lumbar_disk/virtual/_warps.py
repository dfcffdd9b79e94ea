"""Warps by thin-plate splines in batches, and images warped by them (paper, section 2.1).

The image of a virtual shape is made by the spline that takes the virtual shape to the shape of a real image:
at each pixel of the virtual image it says where in the real image to look (a backward map).

    tps = fit_splines(virtual, real, anchors=border_anchors((128, 128)))
    image = warp(real_images, tps)

Coordinates are (x, y) in pixels, pixel centres at integers, (0, 0) the centre of the top-left pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lumbar_disk.virtual._images import resample
from lumbar_disk.virtual._mesh import MARGIN, UNIT, KernelName, kernel_sum, radial

TOLERANCE = 0.02  # pixels: largest error of a grid that is not exact

# Largest error of a mesh sum in pixels over the largest weight. Measured: 3e-6 on contours of discs, 6e-6
# where they cross themselves, 8.4e-6 on scattered points; for "r" 1.4e-5.
_ERROR = {"r2logr": 9e-6, "r": 2e-5}
_SAFETY = (
    5  # of the error beside the landmarks: elsewhere it was up to 4.6 times as large in 99 of 100 splines
)
_CHUNK = 2**20  # distances held at a time by an exact evaluation
_CACHED = 8  # examples at a time whose sums stay in a processor's cache: more are up to half as slow again


@dataclass(frozen=True, eq=False)
class TPS:
    """Thin-plate splines, one per example: `x + a_0 + (a_1, a_2) x + sum_i w_i U(|x - p_i|)`.

    `fit_splines` makes them.

    Attributes:
        centres: `(B, N, 2)` the landmarks `p_i`, anchors included.
        weights: `(B, N, 2)` the `w_i`, for distances in units of 64 pixels.
        affine: `(B, 3, 2)` the `a`, also in units of 64 pixels. All three are float64, but on devices
            that have none (mps) float32.
        kernel: `"r2logr"` for `U(r) = r^2 log r`, or `"r"` for `U(r) = -r`.
    """

    centres: Tensor
    weights: Tensor
    affine: Tensor
    kernel: KernelName

    def __call__(self, points: Tensor) -> Tensor:
        """Map points `(B, M, 2)`, exactly; the result has their dtype.

        Raises:
            ValueError: If the points are not `(B, M, 2)` with this spline's `B`.
        """
        if points.ndim != 3 or points.shape[::2] != (len(self.centres), 2):
            raise ValueError(
                f"expected points (B, M, 2) with B = {len(self.centres)}, one set per spline; got "
                f"{tuple(points.shape)}. For the same points in every example use points.expand(B, -1, -1)."
            )
        step = max(1, _CHUNK // self.centres[..., 0].numel())
        parts = torch.split(points.to(self.centres.dtype), step, dim=1)
        return torch.cat([self._map(part) for part in parts], dim=1).to(points.dtype)

    def grid(self, size: tuple[int, int], *, exact: bool = False) -> Tensor:
        """Map every pixel of an image.

        Args:
            size: Rows and columns `(H, W)`.
            exact: Evaluate every kernel at every pixel in float64. Otherwise `mesh.kernel_sum` is used, to
                0.02 pixels: examples whose weights are so large that it could miss that, because landmarks
                nearly collide, are compared with exact values beside each landmark, and those that differ by
                a fifth of it, or have landmarks outside the image, are evaluated exactly.

        Returns:
            `(B, H, W, 2)` where each pixel goes, (x, y); float64 if exact, otherwise float32.
        """
        if exact:
            pixels = _pixels(size, self.centres).reshape(1, -1, 2).expand(len(self.centres), -1, -1)
            return self(pixels).view(-1, *size, 2)
        mapped = torch.cat([_mesh_grid(self._take(part), size) for part in _parts(self.centres)])
        wrong = self._wrong(mapped)
        if len(wrong):
            mapped[wrong] = self._take(wrong).grid(size, exact=True).float()
        return mapped

    def _wrong(self, mapped: Tensor) -> Tensor:
        """Which examples of a mesh grid may miss the tolerance: by their weights, then beside landmarks."""
        limits = self.centres.new_tensor([mapped.shape[2] - 1, mapped.shape[1] - 1])
        outside = ((self.centres < -MARGIN) | (self.centres > limits + MARGIN)).flatten(1).any(1)
        doubtful = _ERROR[self.kernel] * self.weights.abs().amax((1, 2)) > TOLERANCE
        doubtful = (outside | doubtful).nonzero()[:, 0]
        if not len(doubtful):
            return doubtful
        part = self._take(doubtful)
        beside = torch.minimum(part.centres.round().clamp(min=0.0), limits)
        x, y = beside.long().unbind(-1)
        error = (part(beside) - mapped[doubtful[:, None], y, x]).norm(dim=-1).amax(1)
        return doubtful[outside[doubtful] | (error * _SAFETY > TOLERANCE)]

    def _take(self, index: Tensor | slice) -> TPS:
        return TPS(self.centres[index], self.weights[index], self.affine[index], self.kernel)

    def _map(self, points: Tensor) -> Tensor:
        values = radial(self.kernel, _squared_distances(points, self.centres))
        linear = torch.cat([torch.ones_like(points[..., :1]), points / UNIT], dim=-1)
        displacement: Tensor = linear @ self.affine + values @ self.weights
        return points + displacement


def fit_splines(
    source: Tensor,
    target: Tensor,
    *,
    kernel: KernelName = "r2logr",
    smoothing: float = 0.0,
    anchors: Tensor | None = None,
) -> TPS:
    """Fit the thin-plate splines that take source points to target points.

    Each coordinate of the displacement is the function of least bending energy through its values at the
    source points: weights and affine part solve `[K + smoothing, P; P^T, 0] [w; a] = [target - source; 0]`
    with `K_ij = U(|p_i - p_j|)` and `P_i = (1, x_i, y_i)`. Equal points give a displacement of exactly 0.

    Args:
        source: `(B, K, 2)` points (x, y) in pixels, float32 or float64.
        target: `(B, K, 2)` where they go.
        kernel: `"r2logr"`, the thin plate in two dimensions (the paper's text), or `"r"`, the biharmonic
            kernel in three (the study's released code).
        smoothing: Weight of the bending energy against the squared error at the points, in the units of
            `K` in pixels, as scipy's `RBFInterpolator` has it; 0 interpolates.
        anchors: `(A, 2)` points that stay where they are, in every example: `border_anchors`.

    Returns:
        The splines.

    Raises:
        ValueError: If shapes do not match, a point is not finite, the kernel is unknown, smoothing is
            negative, or two source points of an example coincide or all lie on a line.

    Example:
        >>> import torch
        >>> corners = torch.tensor([[[4.0, 4.0], [4.0, 27.0], [27.0, 27.0], [27.0, 4.0]]])
        >>> tps = fit_splines(corners, corners + 2, anchors=border_anchors((32, 32)))
        >>> bool((tps(corners) - corners - 2).abs().max() < 1e-4)
        True
        >>> tps(torch.tensor([[[0.0, 0.0]]])).abs().max().item() < 1e-4
        True

    Source:
        Bookstein, Principal warps, IEEE TPAMI 11(6), 1989. Duchon 1977 for smoothing.
    """
    _check(source, target, kernel, smoothing, anchors)
    exact = torch.float32 if source.device.type == "mps" else torch.float64
    source, target = source.to(exact), target.to(exact)
    if anchors is not None:
        fixed = anchors.to(source).expand(len(source), -1, -1)
        source, target = torch.cat([source, fixed], dim=1), torch.cat([target, fixed], dim=1)
    solved = [_solve(source[part], target[part], kernel, smoothing) for part in _parts(source)]
    solution, missed = (torch.cat(pieces) for pieces in zip(*solved, strict=True))
    if missed.any():
        raise ValueError(
            f"no spline for example {int(missed.nonzero()[0])}: two of its source points (anchors included) "
            f"coincide, or all lie on a line. Remove one of each pair, or redraw the shape."
        )
    return TPS(source, solution[:, :-3], solution[:, -3:], kernel)


def border_anchors(size: tuple[int, int]) -> Tensor:
    """Sixteen points on an image's border that a warp keeps in place: its corners and three on each side.

    Those on the sides stand at the quarters of the image's width and height: at 32, 64 and 96 of 128 pixels.

    Args:
        size: Rows and columns `(H, W)`.

    Returns:
        `(16, 2)` float64 (x, y).

    Example:
        >>> border_anchors((128, 128))[:5].tolist()
        [[0.0, 0.0], [0.0, 32.0], [0.0, 64.0], [0.0, 96.0], [0.0, 127.0]]

    Source:
        The study's released code, there for 128 x 128 alone.
    """
    height, width = size
    along = [[0.0, n / 4, n / 2, 3 * n / 4, n - 1.0] for n in (width, height)]
    ends_x, ends_y = ((side[0], side[-1]) for side in along)
    points = [(x, y) for x in along[0] for y in along[1] if x in ends_x or y in ends_y]
    return torch.tensor(points, dtype=torch.float64)


def warp(images: Tensor, tps: TPS, *, exact: bool = False) -> Tensor:
    """Warp images by backward splines: `warped(x) = image(tps(x))`; an identity leaves every bit as it was.

    Args:
        images: `(B, C, H, W)` float32 or float64.
        tps: One spline per image, from the points of the warped image to those of the given one.
        exact: As in `TPS.grid`.

    Returns:
        `(B, C, H, W)`.

    Example:
        >>> import torch
        >>> corners = torch.tensor([[[4.0, 4.0], [4.0, 27.0], [27.0, 27.0], [27.0, 4.0]]])
        >>> image = torch.rand(1, 1, 32, 32)
        >>> bool((warp(image, fit_splines(corners, corners)) == image).all())
        True
        >>> right = warp(image, fit_splines(corners, corners + torch.tensor([1.0, 0.0])))
        >>> bool((right[..., :-1] - image[..., 1:]).abs().max() < 1e-4)
        True
    """
    return resample(images, tps.grid((images.shape[-2], images.shape[-1]), exact=exact))


def _solve(source: Tensor, target: Tensor, kernel: KernelName, smoothing: float) -> tuple[Tensor, Tensor]:
    """Weights and affine part, one under the other, and which examples have none.

    Both kernels are positive definite on weights that the affine functions do not see. Householder
    reflections split those off, and Cholesky's factorisation solves the rest. Elimination on the whole
    system is not used because torch 2.13's batched one, on the CPU with MKL and more than one thread, gives
    wrong pivots from about 190 rows on.
    """
    kernels = radial(kernel, _squared_distances(source, source))
    kernels.diagonal(dim1=1, dim2=2).add_(smoothing / UNIT ** (2 if kernel == "r2logr" else 1))
    affine = functional.pad(source / UNIT, (1, 0), value=1.0)
    values = target - source
    reflected, scales = torch.geqrf(affine)
    turned = torch.ormqr(reflected, scales, kernels, left=True, transpose=True)
    turned = torch.ormqr(reflected, scales, turned, left=False)
    right = torch.ormqr(reflected, scales, values, left=True, transpose=True)
    factor, failed = torch.linalg.cholesky_ex(turned[:, 3:, 3:])
    free = torch.cholesky_solve(right[:, 3:], factor)
    weights = torch.ormqr(reflected, scales, functional.pad(free, (0, 0, 3, 0)), left=True)
    seen = right[:, :3] - turned[:, :3, 3:] @ free
    plane = torch.linalg.solve_triangular(reflected[:, :3].triu(), seen, upper=True)
    # Rounding may let a singular system pass; its solution then misses the values.
    error = (kernels @ weights + affine @ plane - values).abs().amax((1, 2))
    missed = ~(error <= 1e-3 * (1 + values.abs().amax((1, 2))))
    return torch.cat([weights, plane], dim=1), missed | (failed != 0)


def _mesh_grid(tps: TPS, size: tuple[int, int]) -> Tensor:
    pixels = _pixels(size, tps.centres[:0].float()).movedim(-1, 0)
    constant, along_x, along_y = tps.affine.float()[..., None, None].unbind(1)
    affine = constant + along_x * (pixels[0] / UNIT) + along_y * (pixels[1] / UNIT)
    bent = kernel_sum(tps.kernel, tps.centres, tps.weights, size)
    return (pixels + (affine + bent)).movedim(1, -1)


def _parts(tensor: Tensor) -> list[slice]:
    """The examples of a batch in the portions that they are worked on."""
    step = _CACHED if tensor.device.type == "cpu" else max(1, len(tensor))
    return [slice(start, start + step) for start in range(0, len(tensor), step)]


def _pixels(size: tuple[int, int], like: Tensor) -> Tensor:
    """The place of each pixel, `(H, W, 2)`."""
    y, x = (torch.arange(length, device=like.device, dtype=like.dtype) for length in size)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def _squared_distances(one: Tensor, other: Tensor) -> Tensor:
    """Squared distances `(B, M, N)` in units of 64 pixels, by differences: exact where points meet."""
    one, other = one / UNIT, other / UNIT
    x, y = (one[:, :, None, axis] - other[:, None, :, axis] for axis in range(2))
    return x.square_().add_(y.square_())


def _check(source: Tensor, target: Tensor, kernel: str, smoothing: float, anchors: Tensor | None) -> None:
    if source.ndim != 3 or source.shape[-1] != 2 or source.shape != target.shape:
        raise ValueError(
            f"source and target must both be (B, K, 2), K points (x, y) each; got {tuple(source.shape)} and "
            f"{tuple(target.shape)}. For one pair of shapes use source[None], target[None]."
        )
    if not bool(source.isfinite().all() & target.isfinite().all()):
        raise ValueError("source and target must be finite; got NaN or infinity. Look at the landmarks.")
    if kernel not in _ERROR:
        raise ValueError(
            f"unknown kernel {kernel!r}; expected 'r2logr' (the paper) or 'r' (its released code)."
        )
    if smoothing < 0.0:
        raise ValueError(f"smoothing must be 0 (interpolation) or positive; got {smoothing}.")
    if anchors is not None and (anchors.ndim != 2 or anchors.shape[-1] != 2):
        raise ValueError(f"anchors must be (A, 2), the same for all examples; got {tuple(anchors.shape)}.")
