"""Per-example bookkeeping of an attack: the best point, its value and step, and what went wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from advreg._core.tensors import per_example, rows


class Track(NamedTuple):
    """Record of each example; every field begins with the batch, `(B, ...)`.

    Attributes:
        place: Its place in the batch.
        x: The point kept.
        value: What is to become large there: the judge's number, or the objective.
        step: The step at which it was met; -1 for the centre.
        finished: Whether the stop rule held there.
        sick: Whether objective or gradient were not finite at some step.
        since: The first such step; -1 for the clean input.
        moved: Whether any gradient was not zero.
    """

    place: Tensor
    x: Tensor
    value: Tensor
    step: Tensor
    finished: Tensor
    sick: Tensor
    since: Tensor
    moved: Tensor

    @staticmethod
    def of(centre: Tensor, value: Tensor | None = None) -> Track:
        """The centre alone is met, with its value `(B,)`; without one nothing, so that any point is worse."""
        place = torch.arange(len(centre), device=centre.device)
        never = torch.zeros_like(place, dtype=torch.bool)
        before = torch.full_like(place, -1)
        if value is None:
            value = centre.new_full(centre.shape[:1], -torch.inf)
        return Track(place, centre, value, before, never, never, before, never)

    def keeping(self, better: Tensor, x: Tensor, value: Tensor, step: int | Tensor) -> Track:
        """With another point where it is better, `(B,)` bool."""
        return self._replace(
            x=torch.where(per_example(better, self.x), x, self.x),
            value=torch.where(better, value, self.value),
            step=torch.where(better, step, self.step),
        )

    def seeing(self, value: Tensor, gradient: Tensor | None, step: int) -> Track:
        """With what a step shows of objective and gradient."""
        sick, moved = ~value.isfinite(), self.moved
        if gradient is not None:
            steepness = rows(gradient).abs().amax(1)
            sick, moved = sick | ~steepness.isfinite(), moved | (steepness > 0)
        since = torch.where(sick & ~self.sick, step, self.since)
        return self._replace(sick=self.sick | sick, since=since, moved=moved)

    def taken(self, some: Tensor | slice) -> Track:
        """Of some of the examples: flags, places or a range."""
        return Track(*(field[some] for field in self))

    def joining(self, other: Track, better: Tensor | None = None) -> Track:
        """With another run of the same examples: the better point of each, and what went wrong in either."""
        better = other.finished | worse(other.value, self.value) if better is None else better
        kept = self.keeping(better, other.x, other.value, other.step)
        return kept._replace(
            finished=self.finished | other.finished,
            sick=self.sick | other.sick,
            since=torch.where(other.sick & ~self.sick, other.since, self.since),
            moved=self.moved | other.moved,
        )

    def again(self, looks: Iterable[tuple[Tensor, Tensor | None]]) -> Track:
        """With what another, more precise look at the points kept has shown, part by part."""
        values, overs = zip(*looks, strict=True)
        finished = self.finished if overs[0] is None else torch.cat(overs)
        return self._replace(value=torch.cat(values), finished=finished)

    def runs(self, count: int) -> list[Track]:
        """The runs that lie one after another, each of so many examples."""
        return [self.taken(slice(first, first + count)) for first in range(0, len(self.place), count)]

    def putting(self, place: Tensor, other: Track) -> Track:
        """With the tracks of some of the examples, at their places `(b,)`, in place of their own."""
        if len(place) == len(self.place):
            return other
        return Track(*(mine.index_copy(0, place, new) for mine, new in zip(self, other, strict=True)))


def worse(value: Tensor, than: Tensor) -> Tensor:
    """Whether values are worse than others, `(B,)` bool; one that is NaN is the worst, as infinity is."""
    return value.nan_to_num(torch.inf, torch.inf, -torch.inf) > than.nan_to_num(
        torch.inf, torch.inf, -torch.inf
    )


def gain(value: Tensor, clean: Tensor) -> Tensor:
    """What values have risen by; nothing where both are infinite alike."""
    return torch.where(value == clean, 0, value - clean)


def joined(tracks: Sequence[Track]) -> Track:
    """The tracks of several batches as those of one."""
    return tracks[0] if len(tracks) == 1 else Track(*map(torch.cat, zip(*tracks, strict=True)))
