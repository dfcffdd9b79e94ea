"""Detection by a critic whose score moves no faster than its input: what it detects is guaranteed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, relu
from torch.nn.utils.parametrizations import orthogonal

from advreg._core.tensors import wide
from advreg.detectors._features import Inputs, finite, inputs, opened, stored

LOOSE = 1e-5
"""By how much a product of spectral norms may exceed one: the rounding of float32 weights."""


@dataclass(frozen=True, eq=False)
class LipschitzCritic:
    """A critic of inputs that is 1-Lipschitz under L2: `|score(x) - score(y)| <= |x - y|_2`, for all x and y.

    An adversary who moves an input by r, aware of the critic or not, lowers its score by r at most. What the
    critic detects at a radius is therefore known from clean scores, see
    `advreg.certificates.guaranteed_auroc`. It is a network of its own, on the input.

    Square cells of `pool` pixels are taken together by their sum over `pool`, which is orthonormal; then
    `depth` layers follow, each an orthonormal matrix and sorted pairs (MaxMin), and a unit vector reads the
    score. It is trained by outlier exposure: inputs score below `-margin`, outliers above it.

    Args:
        pool: The side of the cells, of inputs `(B, C, H, W)`; 1 takes inputs of any shape as they are.
        window: The square of the image that is looked at, `(top, left, side)` in pixels; by default all.
        width: Features of each layer, an even number.
        depth: How many layers.
        weights: What `fit` finds: one matrix per layer.
        biases: What `fit` finds: one vector per layer.

    Raises:
        ValueError: Options out of range; weights whose spectral norms, multiplied in float64, exceed one;
            when called: inputs of another shape, smaller than the window, or not finite.
        TypeError: When called: inputs of whole numbers.

    Example:
        >>> import torch
        >>> from advreg.detectors import LipschitzCritic
        >>> g = torch.Generator().manual_seed(0)
        >>> inside, outside = torch.rand(200, 1, 4, 4, generator=g) + 1, torch.rand(200, 1, 4, 4, generator=g)
        >>> critic = LipschitzCritic(pool=2, width=8, depth=2).fit([inside], [outside], margin=1.0, steps=200)
        >>> bool(critic.score(inside).max() < critic.score(outside).min())
        True
        >>> apart = (critic.score(inside) - critic.score(outside)).abs()
        >>> bool((apart <= (inside - outside).flatten(1).norm(dim=1) + 1e-5).all())
        True

    Source:
        Bethune et al., Robust one-class classification with signed distance function using 1-Lipschitz neural
        networks, ICML 2023, arXiv:2303.01978; Anil et al., Sorting out Lipschitz function approximation, ICML
        2019, arXiv:1811.05381 (MaxMin); Hendrycks et al., arXiv:1812.04606 (outlier exposure).
    """

    pool: int = 8
    window: tuple[int, int, int] | None = None
    width: int = 256
    depth: int = 4
    weights: tuple[Tensor, ...] | None = field(default=None, repr=False)
    biases: tuple[Tensor, ...] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _check_counts(pool=self.pool, width=self.width, depth=self.depth)
        if self.width % 2:
            raise ValueError(f"width must be even, since features are sorted in pairs; got {self.width}")
        if self.window is not None and (len(self.window) != 3 or min(self.window) < 0 or not self.window[2]):
            raise ValueError(f"window must be (top, left, side) in pixels; got {self.window}")
        if self.weights is not None and not (found := self.lipschitz) <= 1 + LOOSE:
            raise ValueError(
                f"the spectral norms of a critic's weights must multiply to 1 at most; got {found:.6f}: "
                "a file that was changed, or weights of something else; fit again"
            )

    @property
    def lipschitz(self) -> float:
        """The bound on how fast the score moves: the product of the spectral norms, found in float64.

        Raises:
            ValueError: The critic is not fitted.
        """
        if self.weights is None:
            raise _unfitted()
        matrices = [weight.detach().cpu().double() for weight in self.weights]
        if not all(bool(one.isfinite().all()) for one in matrices):
            return math.nan
        return math.prod(float(torch.linalg.matrix_norm(one, 2)) for one in matrices)

    def fit(
        self,
        inside: Inputs,
        outside: Inputs | Mapping[str, Inputs],
        *,
        margin: float = 4.0,
        steps: int = 2000,
        batch: int = 128,
        lr: float = 1e-3,
        seed: int = 0,
    ) -> LipschitzCritic:
        """A critic that tells these inputs from those outliers; this one stays as it is.

        Args:
            inside: In-distribution inputs: batches `(B, *input)`, or `(x, y, ...)`.
            outside: Outliers of the kinds that are to be found; by name, where each kind is to count alike.
            margin: By how much scores shall keep off zero, on either side. About the radius, in the input's
                L2, up to which the detection is to hold.
            steps: Steps of Adam; the rate falls to zero by a cosine.
            batch: Examples of either side in a step.
            lr: Adam's rate at first.
            seed: Of the weights and of the batches.

        Returns:
            The fitted critic.

        Raises:
            ValueError: No inputs of a kind, or not finite; options out of range.
        """
        _check_counts(steps=steps, batch=batch)
        if not margin > 0 or not lr > 0:
            raise ValueError(f"margin and lr must be above 0; got {margin} and {lr}")
        kinds = outside if isinstance(outside, Mapping) else {"outside": outside}
        held = [self._seen(one, name) for name, one in {"inside": inside, **kinds}.items()]
        if len(held) < 2:
            raise ValueError("outside must hold outliers; got none")
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = self._layers(held[0].shape[1]).to(held[0])
        optimiser = torch.optim.Adam(layers.parameters(), lr)
        slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        each = -(-batch // (len(held) - 1))
        for _ in range(steps):
            drawn = [
                one[torch.randint(len(one), (count,), generator=generator).to(one.device)]
                for one, count in zip(held, [batch, *[each] * (len(held) - 1)], strict=True)
            ]
            low, high = (_through(x, *_held(layers)) for x in (drawn[0], torch.cat(drawn[1:])))
            loss = relu(margin + low).mean() + relu(margin - high).mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own gap
            optimiser.step()
            slower.step()
        with torch.no_grad():
            weights, biases = _held(layers)
            norms = [torch.linalg.matrix_norm(weight.double(), 2).clamp_min(1) for weight in weights]
            own = [(weight / norm).to(weight) for weight, norm in zip(weights, norms, strict=True)]
        return replace(self, weights=tuple(own), biases=tuple(bias.detach().clone() for bias in biases))

    def score(self, x: Tensor) -> Tensor:
        """The score of each input, `(B,)`: below zero for ordinary inputs, above for strange ones."""
        if self.weights is None or self.biases is None:
            raise _unfitted()
        features = self._pooled(wide(x))
        if features.shape[1] != self.weights[0].shape[1]:
            raise ValueError(
                f"inputs must be of the shape that the critic was fitted to, "
                f"{self.weights[0].shape[1]} numbers after pooling; got {tuple(x.shape[1:])}, which make "
                f"{features.shape[1]}"
            )
        weights, biases = ([one.to(features) for one in each] for each in (self.weights, self.biases))
        return finite(_through(features, weights, biases), "the critic's score")

    def save(self, path: str | Path) -> Path:
        """Write the critic to an `.npz` file, and return its path."""
        if self.weights is None or self.biases is None:
            raise _unfitted()
        header = {
            "kind": type(self).__name__,
            "options": {"pool": self.pool, "window": self.window, "width": self.width, "depth": self.depth},
        }
        arrays = {f"weight{n}": one for n, one in enumerate(self.weights)}
        return stored(path, header, arrays | {f"bias{n}": one for n, one in enumerate(self.biases)})

    @classmethod
    def load(cls, path: str | Path) -> LipschitzCritic:
        """Read what `save` wrote; no code of a file is run.

        Raises:
            ValueError: Anything else; weights whose spectral norms, found anew, exceed one, or are NaN.
        """
        header, arrays = opened(path, cls.__name__)
        options: dict[str, Any] = dict(header["options"])
        try:
            window = options.pop("window")
            layers = range(options["depth"] + 1)
            weights, biases = (tuple(arrays[f"{name}{n}"] for n in layers) for name in ("weight", "bias"))
        except KeyError as error:
            raise ValueError(f"{path} lacks {error} of a critic; fit and save again") from error
        return cls(**options, window=window and tuple(window), weights=weights, biases=biases)

    def _layers(self, count: int) -> nn.ModuleList:
        """Orthonormal layers by torch's own parametrisation."""
        sizes = [count, *[self.width] * self.depth, 1]
        return nn.ModuleList(
            orthogonal(nn.Linear(before, after), orthogonal_map="cayley") for before, after in pairwise(sizes)
        )

    def _seen(self, batches: Inputs, name: str) -> Tensor:
        found = [self._pooled(wide(x)) for x in inputs(batches)]
        if not found:
            raise ValueError(f"{name} must hold inputs; got none")
        return finite(torch.cat(found), f"what is {name}")

    def _pooled(self, x: Tensor) -> Tensor:
        """The features `(B, D)` of inputs: a linear map whose norm is at most one."""
        if not x.is_floating_point():
            raise TypeError(
                f"a critic takes floating-point inputs; got {x.dtype}: scale them first, such as x / 255, as "
                "those that it is fitted to"
            )
        if self.window is not None:
            top, left, side = self.window
            if x.ndim != 4 or x.shape[2] < top + side or x.shape[3] < left + side:
                raise ValueError(
                    f"a window of {self.window} needs (B, C, H, W) of {top + side} x {left + side} pixels at "
                    f"least; got {tuple(x.shape)}"
                )
            x = x[..., top : top + side, left : left + side]
        if self.pool > 1:
            if x.ndim != 4 or x.shape[2] % self.pool or x.shape[3] % self.pool:
                raise ValueError(
                    f"a critic that pools takes (B, C, H, W) whose sides are multiples of {self.pool}; got "
                    f"{tuple(x.shape)}: choose another pool, or 1 for none"
                )
            x = avg_pool2d(x, self.pool) * self.pool
        return x.flatten(1)


def _held(layers: nn.ModuleList) -> tuple[list[Tensor], list[Tensor]]:
    """The matrices and vectors of linear layers; each matrix is made once."""
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    return [layer.weight for layer in linear], [layer.bias for layer in linear]


def _through(x: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    """The score `(B,)` of features `(B, D)`."""
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        pairs = (x @ weight.T + bias).reshape(len(x), -1, 2)
        x = torch.cat([pairs.amax(2), pairs.amin(2)], 1)
    return (x @ weights[-1].T + biases[-1]).squeeze(1)


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} must be a whole number above 0; got {count!r}")


def _unfitted() -> ValueError:
    return ValueError("the critic is not fitted: call fit(inside, outside) first, and use what it returns")
