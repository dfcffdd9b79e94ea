"""Stream of virtual samples: as many discs as wanted from a few real ones (paper, section 2.1).

A virtual shape is drawn from a shape model; the image of a real disc, drawn independently of it, is bent by
the thin-plate spline that takes the virtual shape to the real one. Sample number `i` depends on the seed and
on `i` alone: not on the size of a batch, on workers, or on where a run was resumed. So an augmented training
set is its seed and a count; nothing need be stored, and `generate` is there for those who want to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from advreg import Keys
from advreg.metrics import rasterise
from lumbar_disk.data import Discs, Heads, plausible
from lumbar_disk.virtual._images import folding, resample
from lumbar_disk.virtual._mesh import KernelName
from lumbar_disk.virtual._shapes import Distribution, ShapeModel
from lumbar_disk.virtual._warps import border_anchors, fit_splines

ATTEMPTS = 100  # redraws of a shape that is no disc, before the model is blamed
_TEXTURE = -1  # the use of an example's key that is not an attempt at its shape


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples of virtual discs, `B` of them.

    Attributes:
        index: `(B,)` int64 place of each sample in the stream.
        images: `(B, 1, S, S)` float32 in [0, 1].
        contours: `(B, 176, 2)` float32 (x, y) in pixels.
        source: `(B,)` int64 place of the real disc that lent its image.
        redrawn: `(B,)` int64 how many implausible shapes were drawn before.
    """

    index: Tensor
    images: Tensor
    contours: Tensor
    source: Tensor
    redrawn: Tensor

    def target(self) -> Heads:
        """What a network should answer: `{"contour": (B, 176, 2), "mask": (B, 1, S, S)}`."""
        size = (self.images.shape[-2], self.images.shape[-1])
        masks = rasterise(self.contours, size)[:, None].to(self.images.dtype)
        return {"contour": self.contours, "mask": masks}


@dataclass(frozen=True, eq=False)
class Stream:
    """Stream of virtual samples, endless and repeatable, on the device of its real discs.

    Attributes:
        discs: The real discs that lend their images; the training set alone.
        model: Where virtual shapes come from, fitted to the same discs.
        seed: Of the whole stream.
        distribution: Of the shape model's coefficients.
        kernel: Of the splines: "r2logr", the thin plate of the paper's text, or "r", its released code's.

    Example:
        >>> import torch
        >>> from lumbar_disk.data import crops, phantoms
        >>> discs = crops(phantoms(2, seed=0), size=64)
        >>> stream = Stream(discs, ShapeModel.fit(discs.contours, 3), seed=7)
        >>> batch, alone = stream.at(torch.arange(4)), stream.at(torch.tensor([3]))
        >>> batch.images.shape, bool((batch.images[3] == alone.images[0]).all())
        (torch.Size([4, 1, 64, 64]), True)

    Source:
        Chen et al., section 2.1, steps (1) to (3).
    """

    discs: Discs
    model: ShapeModel
    seed: int = 0
    distribution: Distribution = "uniform"
    kernel: KernelName = "r2logr"

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the images."""
        return self.discs.images.shape[-2], self.discs.images.shape[-1]

    def at(self, index: Tensor) -> Samples:
        """Make the samples at the given places.

        Args:
            index: `(B,)` int64, any places in any order.

        Raises:
            ValueError: If a shape is still implausible after 100 redraws.
        """
        contours, redrawn = self._shapes(index)
        source = self._sources(index)
        images = resample(self.discs.images[source], self._map(contours, source))
        return Samples(index, images, contours, source, redrawn)

    def batches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Samples]:
        """Walk the stream in batches from `start` to `stop`, without end if that is None."""
        device = self.discs.images.device
        while stop is None or start < stop:
            end = start + size if stop is None else min(start + size, stop)
            yield self.at(torch.arange(start, end, device=device))
            start = end

    def plausibility(self, count: int, batch: int = 256) -> dict[str, float]:
        """Look at the first `count` shapes as they are drawn, and at the maps of those that are kept.

        Returns:
            Shares in [0, 1]: `implausible` of first draws (they cross themselves or leave the crop, and are
            redrawn), `leaves` of those that leave the crop, `folds` of kept samples whose map turns some
            of the image over, and `folded` the mean share of their pixels that it turns over.
        """
        totals = dict.fromkeys(("implausible", "leaves", "folds", "folded"), 0.0)
        limits = torch.tensor([self.size[1] - 1, self.size[0] - 1])
        for index in torch.split(torch.arange(count), batch):
            first = self.model.sample(self.seed, index, distribution=self.distribution)
            totals["implausible"] += float((~plausible(first, self.size)).sum())
            totals["leaves"] += float(((first < 0) | (first > limits)).flatten(1).any(1).sum())
            contours, _ = self._shapes(index)
            share = folding(self._map(contours, self._sources(index)))
            totals["folds"] += float((share > 0).sum())
            totals["folded"] += float(share.sum())
        return {name: total / count for name, total in totals.items()}

    def _shapes(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Draw each shape until it is plausible: contours `(B, 176, 2)` and the redraws `(B,)`."""
        contours = self.discs.contours.new_empty(len(index), *self.model.mean.shape)
        redrawn = torch.zeros_like(index)
        waiting = torch.arange(len(index), device=index.device)
        for attempt in range(ATTEMPTS + 1):
            drawn = self.model.sample(
                self.seed, index[waiting], distribution=self.distribution, attempt=attempt
            ).to(contours)
            kept = plausible(drawn, self.size)
            contours[waiting[kept]] = drawn[kept]
            redrawn[waiting[kept]] = attempt
            waiting = waiting[~kept]
            if len(waiting) == 0:
                return contours, redrawn
        raise ValueError(
            f"sample {int(index[waiting[0]])}: {ATTEMPTS + 1} shapes in a row cross themselves or leave the "
            f"crop of {self.size[1]} x {self.size[0]} pixels. Fit the model with fewer components (it has "
            f"{len(self.model.modes)}), or crop with more context."
        )

    def _sources(self, index: Tensor) -> Tensor:
        chance = (
            Keys(self.seed, index).fold_in(_TEXTURE).uniform(index.new_empty(len(index), dtype=torch.float64))
        )
        return (chance * len(self.discs)).long()

    def _map(self, contours: Tensor, source: Tensor) -> Tensor:
        anchors = border_anchors(self.size)
        tps = fit_splines(contours, self.discs.contours[source], kernel=self.kernel, anchors=anchors)
        return tps.grid(self.size)


class VirtualDiscs(IterableDataset[tuple[Tensor, Heads]]):
    """Data set of a stretch of a stream: batches `(images, target)` in order.

    For a `DataLoader(batch_size=None)`. Workers take turns, batch by batch, so the order and the samples do
    not depend on how many there are. To go on after a kill, begin at the first sample that was not used.

    Args:
        stream: The stream.
        batch: Samples per batch.
        start: The first sample.
        stop: One past the last; None for a stream without end.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> from lumbar_disk.data import crops, phantoms
        >>> discs = crops(phantoms(2, seed=0), size=64)
        >>> data = VirtualDiscs(Stream(discs, ShapeModel.fit(discs.contours, 3)), batch=2, stop=5)
        >>> [len(images) for images, target in DataLoader(data, batch_size=None)]
        [2, 2, 1]
    """

    def __init__(self, stream: Stream, batch: int, start: int = 0, stop: int | None = None) -> None:
        if batch < 1 or start < 0 or (stop is not None and stop < start):
            raise ValueError(
                f"expected batch of at least 1 and 0 <= start <= stop; got batch={batch}, start={start}, "
                f"stop={stop}."
            )
        self.stream, self.batch, self.start, self.stop = stream, batch, start, stop

    def __iter__(self) -> Iterator[tuple[Tensor, Heads]]:
        """Yield this worker's batches."""
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        start = self.start + number * self.batch
        while self.stop is None or start < self.stop:
            end = start + self.batch if self.stop is None else min(start + self.batch, self.stop)
            samples = self.stream.at(torch.arange(start, end))
            yield samples.images, samples.target()
            start += workers * self.batch
