"""Detection by the distance of a layer's features from those seen before."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from advreg._core.types import Model, Output
from advreg.detectors._features import (
    Inputs,
    Pool,
    Reading,
    at_rest,
    gathered,
    layer_name,
    read,
    with_features,
    write,
)


@dataclass(frozen=True, eq=False)
class MahalanobisDetector:
    """The distance of a layer's features from their mean, in the units of their own covariance.

    Fit it on in-distribution inputs before use:
    `detector = MahalanobisDetector(model, "encoder").fit(batches)`.

    Args:
        model: A network.
        layer: The name of one of its layers, or the layer: `(B, D)`, or a map or tokens, of which the mean is
            taken over all but the channels.
        shrinkage: The covariance is `(1 - shrinkage) S + shrinkage tr(S)/D I`, S being that of the sample; by
            default the amount is that of Ledoit and Wolf, which serves also where examples are few.
        mean: What `fit` finds, `(D,)`.
        whitening: What `fit` finds, `(D, D)`: the inverse of the covariance's Cholesky factor.
        head: Which part of the layer's output, where that is a list, tuple, mapping or dataclass, such as a
            ModelOutput of transformers, that holds several tensors: its place, key or field.
        channels: Which dimension of the output holds the channels: 1 for `(B, C, *spatial)`, -1 for tokens
            `(B, T, D)` and maps `(B, H, W, D)` of transformers. By default 1; an output of three dimensions,
            or of a shape that looks channels last, is refused until it is said.
        pool: "mean"; "cls", the first token; or a function of the layer's output that returns `(B, D)`, such
            as `lambda tokens: tokens[:, 1:].mean(1)`. Examples must not interact in it.

    Raises:
        TypeError: A model that is no `torch.nn.Module`; when fitted: a layer whose output holds no tensor, or
            several without `head=`.
        ValueError: A layer that the model does not have; options out of range; when fitted: a layer whose
            channels cannot be told.

    Example:
        >>> import torch
        >>> from advreg.detectors import MahalanobisDetector
        >>> x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 9.0])
        >>> detector = MahalanobisDetector(torch.nn.Sequential(torch.nn.Identity()), "0").fit([x])
        >>> [round(score) for score in detector.score(torch.tensor([[0.0, 36.0], [8.0, 0.0]])).tolist()]
        [4, 7]

    Source:
        Lee et al., arXiv:1807.03888, with one class; Ledoit and Wolf, J. Multivariate Analysis 88, 2004.
    """

    model: Model
    layer: str | nn.Module
    shrinkage: float | None = None
    mean: Tensor | None = field(default=None, repr=False)
    whitening: Tensor | None = field(default=None, repr=False)
    head: str | int | None = field(default=None, kw_only=True)
    channels: int | None = field(default=None, kw_only=True)
    pool: Pool = field(default="mean", kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer", layer_name(self.model, self.layer))
        _reading(self)
        if self.shrinkage is not None and not 0 <= self.shrinkage <= 1:
            raise ValueError(
                f"shrinkage must be in [0, 1], or None for Ledoit and Wolf's; got {self.shrinkage}"
            )

    def fit(self, batches: Inputs) -> MahalanobisDetector:
        """A detector that knows the features of these in-distribution inputs; this one stays as it is.

        Raises:
            ValueError: Fewer than 2 examples, or, without shrinkage, no more than features; features that do
                not vary, or are not finite.
        """
        found = gathered(self.model, _reading(self), batches)
        count, width = found.shape
        least = width + 1 if self.shrinkage == 0 else 2
        if count < least:
            raise ValueError(
                f"a covariance of {width} features needs at least {least} examples; got {count}: give more, "
                "choose a narrower layer, or let the covariance shrink (shrinkage=None)"
            )
        wide = found.cpu().double()
        mean = wide.mean(0)
        factor = torch.linalg.cholesky(_covariance(wide - mean, self.shrinkage, str(self.layer)))
        eye = torch.eye(width, dtype=torch.float64)
        whitening = torch.linalg.solve_triangular(factor, eye, upper=False)
        return replace(self, mean=mean.to(found), whitening=whitening.to(found))

    def score(self, x: Tensor) -> Tensor:
        """The Mahalanobis distance of each example, `(B,)`."""
        return self.with_output(x)[1]

    def with_output(self, x: Tensor) -> tuple[Output, Tensor]:
        """The model's output and the score, of one pass."""
        if self.mean is None or self.whitening is None:
            raise _unfitted(self)
        with at_rest(self.model):
            output, features = with_features(self.model, _reading(self), x)
        _same_width(features, self.mean, str(self.layer))
        mean, whitening = self.mean.to(features), self.whitening.to(features)
        distance: Tensor = torch.linalg.vector_norm((features - mean) @ whitening.T, dim=1)
        return output, distance

    def save(self, path: str | Path) -> Path:
        """Write what was fitted, not the model, to an `.npz` file, and return its path."""
        if self.mean is None or self.whitening is None:
            raise _unfitted(self)
        learned = {"mean": self.mean, "whitening": self.whitening}
        options = {"shrinkage": self.shrinkage}
        return write(path, _kind(self), self.model, _reading(self), options, **learned)

    @classmethod
    def load(cls, path: str | Path, model: Model, *, pool: Pool | None = None) -> MahalanobisDetector:
        """Read what `save` wrote, for the same model. Raises `ValueError` for anything else.

        A file holds no functions: where one pooled the features, pass it once more.
        """
        return cls(model, **read(path, cls.__name__, model, pool))


@dataclass(frozen=True, eq=False)
class NearestNeighbourDetector:
    """The distance of a layer's features, scaled to length one, to their k-th nearest neighbour seen before.

    Fit it on in-distribution inputs before use:
    `detector = NearestNeighbourDetector(model, "encoder").fit(batches)`. It keeps the features of them all.

    Args:
        model: A network.
        layer: As for `MahalanobisDetector`.
        k: Which neighbour.
        bank: What `fit` finds: the features of the in-distribution inputs, `(N, D)`.
        head: As for `MahalanobisDetector`, and so are channels and pool.
        channels: See there.
        pool: See there.

    Raises:
        TypeError: As for `MahalanobisDetector`.
        ValueError: As for `MahalanobisDetector`; k less than 1.

    Example:
        >>> import torch
        >>> from advreg.detectors import NearestNeighbourDetector
        >>> network = torch.nn.Sequential(torch.nn.Identity())
        >>> seen = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> detector = NearestNeighbourDetector(network, "0", k=1).fit([seen])
        >>> detector.score(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
        tensor([0.6325, 0.0000])

    Source:
        Sun et al., arXiv:2204.06507.
    """

    model: Model
    layer: str | nn.Module
    k: int = 5
    bank: Tensor | None = field(default=None, repr=False)
    head: str | int | None = field(default=None, kw_only=True)
    channels: int | None = field(default=None, kw_only=True)
    pool: Pool = field(default="mean", kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer", layer_name(self.model, self.layer))
        _reading(self)
        if self.k < 1:
            raise ValueError(f"k must be 1 or more; got {self.k}")

    def fit(self, batches: Inputs) -> NearestNeighbourDetector:
        """A detector that knows the features of these in-distribution inputs; this one stays as it is.

        Raises:
            ValueError: Fewer than k examples; features that are not finite.
        """
        found = gathered(self.model, _reading(self), batches)
        if len(found) < self.k:
            raise ValueError(
                f"the distance to neighbour {self.k} needs at least {self.k} examples; got {len(found)}: "
                "give more, or a smaller k"
            )
        return replace(self, bank=_unit(found))

    def score(self, x: Tensor) -> Tensor:
        """The distance to the k-th neighbour, `(B,)` in [0, 2]."""
        return self.with_output(x)[1]

    def with_output(self, x: Tensor) -> tuple[Output, Tensor]:
        """The model's output and the score, of one pass."""
        if self.bank is None:
            raise _unfitted(self)
        with at_rest(self.model):
            output, features = with_features(self.model, _reading(self), x)
        _same_width(features, self.bank, str(self.layer))
        bank, unit = self.bank.to(features), _unit(features)
        with torch.no_grad():  # a product of matrices would lose the digits of small distances
            distances = torch.cdist(unit, bank, compute_mode="donot_use_mm_for_euclid_dist")
            place = distances.kthvalue(self.k, dim=1).indices
        distance: Tensor = torch.linalg.vector_norm(unit - bank[place], dim=1)
        return output, distance

    def save(self, path: str | Path) -> Path:
        """Write what was fitted, not the model, to an `.npz` file, and return its path."""
        if self.bank is None:
            raise _unfitted(self)
        return write(path, _kind(self), self.model, _reading(self), {"k": self.k}, bank=self.bank)

    @classmethod
    def load(cls, path: str | Path, model: Model, *, pool: Pool | None = None) -> NearestNeighbourDetector:
        """Read what `save` wrote, for the same model. Raises `ValueError` for anything else.

        A file holds no functions: where one pooled the features, pass it once more.
        """
        return cls(model, **read(path, cls.__name__, model, pool))


def _reading(detector: MahalanobisDetector | NearestNeighbourDetector) -> Reading:
    """How it reads its features; checked."""
    return Reading(str(detector.layer), detector.head, detector.channels, detector.pool)


def _covariance(centred: Tensor, shrinkage: float | None, layer: str) -> Tensor:
    """The shrunk covariance of centred features `(N, D)`, invertible, `(D, D)`."""
    count, width = centred.shape
    sample = centred.T @ centred / count
    scale = sample.trace() / width
    if not bool(scale > 0):
        raise ValueError(
            f"the features of the layer {layer!r} are the same for all {count} examples: choose a layer that "
            "is not saturated, and give inputs that differ"
        )
    if shrinkage is None:
        spread = sample.square().sum()
        apart = spread - width * scale**2
        noise = (centred.square().sum(1).square().sum() / count - spread) / count
        shrinkage = min(1.0, float(noise / apart)) if bool(apart > 0) else 1.0
    shrunk = (1 - shrinkage) * sample + shrinkage * scale * torch.eye(width, dtype=sample.dtype)
    if int(torch.linalg.cholesky_ex(shrunk).info) > 0:
        raise ValueError(
            f"the covariance of the features of the layer {layer!r} cannot be inverted with shrinkage "
            f"{shrinkage:.3g}, since some do not vary, or follow from others: let it shrink (shrinkage=None)"
        )
    return shrunk


def _unit(features: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / torch.where(length > 0, length, 1)


def _same_width(features: Tensor, known: Tensor, layer: str) -> None:
    if features.shape[1] != known.shape[-1]:
        raise ValueError(
            f"the layer {layer!r} now gives {features.shape[1]} features; the detector was fitted to "
            f"{known.shape[-1]}: use the model that it was fitted with"
        )


def _kind(detector: object) -> str:
    return type(detector).__name__


def _unfitted(detector: object) -> ValueError:
    return ValueError(
        f"this {_kind(detector)} has not seen in-distribution inputs yet: detector = detector.fit(batches)"
    )
