"""Probing of a model without gradients: the worst point met of each example, random windows, directions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from advreg._core.checks import check_function, one_per_example
from advreg._core.keys import Keys
from advreg._core.targets import Kind, Nest
from advreg._core.tensors import per_example, positive, rows
from advreg._core.types import Model, PerExample
from advreg.attacks._best import Track, gain, joined, worse
from advreg.attacks._result import AttackResult
from advreg.attacks._run import Plan, judged, looked_at, report
from advreg.execution import Batch, Execution, running
from advreg.objectives import heads_read
from advreg.rules import Steepest
from advreg.threats import Threat, linf


def probed(
    search: Callable[[Probe], None],
    model: Model,
    batch: Batch,
    keys: Keys,
    objective: PerExample,
    judge: PerExample | None,
    execution: Execution | None,
) -> AttackResult:
    """Run a search without a gradient over a batch, in parts; the worst point that it met of each example."""
    check_function("objective", objective)
    if judge is not None:
        check_function("judge", judge)
    if math.isinf(batch.threat.largest):
        raise ValueError(
            "random search needs a finite radius; got inf: pass the largest distance that makes sense, "
            "for linf the width of the bounds"
        )
    plan = Plan(objective, Steepest(), 0, judge)
    with running(model, heads_read(objective, judge), batch.inputs(), execution) as network, torch.no_grad():
        batch, clean = looked_at(network, plan, batch, resized=True)
        assert batch.structure is not None
        indexed = Nest({0: batch.structure, 1: Kind.ROWS})  # so that keys are cut with their examples

        def run(model: Model, part: Batch) -> Track:
            target, index = part.y
            own = part._replace(y=target, structure=batch.structure)
            work = Probe(model, own, objective, judge, Keys(keys.seed, index))
            search(work)
            return work.track

        with network.quick() as quick:
            whole = batch._replace(y=(batch.y, keys.index), structure=indexed)
            track = joined(list(network.parts.run(partial(run, quick), whole)))
        if network.rounds:
            look = partial(judged, network.exact, plan)
            track = track.again(network.parts.run(look, batch._replace(x=track.x)))
        track = track.keeping(~worse(track.value, clean.value), batch.x, clean.value, -1)
    report(track, tried=False)
    return AttackResult(
        batch.inputs(track.x), track.value, gain(track.value, clean.value), track.step, track.finished
    )


@dataclass(eq=False)
class Probe:
    """One run of some examples: what is attacked, and the worst point met of each."""

    model: Model
    batch: Batch
    objective: PerExample
    judge: PerExample | None
    keys: Keys
    radius: Tensor = field(init=False)
    track: Track = field(init=False)

    def __post_init__(self) -> None:
        wide = torch.promote_types(self.centre.dtype, torch.float32)
        radius = torch.as_tensor(self.threat.radius, dtype=wide, device=self.centre.device)
        self.radius = radius.expand(len(self.centre))
        self.track = Track.of(self.centre)

    @property
    def centre(self) -> Tensor:
        """The clean inputs, `(b, *input)`."""
        return self.batch.x

    @property
    def threat(self) -> Threat:
        """Where they may move."""
        assert isinstance(self.batch.threat, Threat)  # as `Batch.single` has seen to
        return self.batch.threat

    def scores(self, x: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Objective and judge at some points of the examples of a batch."""
        output, y = self.model(batch.inputs(x)), batch.y
        value = one_per_example(self.objective(output, y), len(x), "an objective")
        if self.judge is None:
            return value, value
        score = one_per_example(self.judge(output, y), len(x), "a judge")
        return value, score if score.is_floating_point() else score.float()

    def meet(self, x: Tensor, step: int) -> Tensor:
        """Keep points that are worse than the worst so far; the objective there, `(B,)`."""
        value, score = self.scores(x, self.batch)
        seen = self.track.seeing(value, None, step)
        self.track = seen.keeping(worse(score, seen.value), x, score, step)
        return value

    def scaled(self, pattern: Tensor, share: Tensor | None = None) -> Tensor:
        """A pattern of signs as a perturbation: under linf of the radius, else of a share of its size."""
        return self.threat.stretched(self._sized(pattern, share))

    def _sized(self, pattern: Tensor, share: Tensor | None) -> Tensor:
        if self.threat.norm != linf:
            size = self.threat.norm.size(pattern)
            length = self.radius / torch.where(size > 0, size, 1) * (1 if share is None else share)
            return pattern * per_example(length, pattern).to(pattern.dtype)
        return pattern * per_example(self.radius, pattern).to(pattern.dtype)

    def moved(self, at: Tensor, share: float, keys: Keys) -> Tensor:
        """`at` with another random window; the opposite of it where that would change nothing."""
        inside, signs, size = window(at, share, keys)
        delta = self.scaled(torch.where(inside, signs, 0), size)
        tried = self.threat.project(torch.where(inside, self.centre + delta, at), self.centre)
        same = per_example(rows((tried == at) | at.isnan()).all(1), at)  # NaN: missing, and stays
        opposite = self.threat.project(torch.where(inside, self.centre - delta, at), self.centre)
        return torch.where(same, opposite, tried)

    def slope(self, at: Tensor, draws: int, reach: float, kind: str, at_once: int, keys: Keys) -> Tensor:
        """The estimated gradient at some points, `(B, *input)`."""
        total = torch.zeros_like(at, dtype=torch.promote_types(at.dtype, torch.float32))
        length = self.radius * reach
        if self.threat.norm != linf:
            length = length / self.threat.norm.size(torch.ones_like(at))
        length = per_example(length, at).to(at.dtype)
        for some in _parts(draws, max(1, at_once // 2)):
            u = torch.stack([_direction(keys.fold_in(draw), at, kind) for draw in some])
            if (mask := self.threat.movable) is not None:
                u = u * mask.to(at.device)
            step = length * self.threat.stretched(u)
            points = torch.cat([at + step, at - step]).flatten(0, 1)
            copies = 2 * len(u)
            values, _ = self.scores(self.boxed(points, copies), self.batch.repeat(copies))
            up, down = values.reshape(2, len(u), len(at))
            change = torch.nan_to_num(up - down, 0.0, 0.0, 0.0).to(total.dtype)
            total += (change.reshape(*change.shape, *[1] * (at.ndim - 1)) * u).sum(0)
        safe = torch.where(length > 0, length, 1).to(total.dtype)
        if self.threat.scale is not None:  # along u, in the scale; the gradient is by the input
            safe = safe * positive(self.threat.stretched(torch.ones_like(total)))
        return (total / (2 * draws * safe)).to(at.dtype)

    def boxed(self, points: Tensor, copies: int) -> Tensor:
        """Points `(copies * B, *input)` put into the box, where the mask lets them change."""
        if self.threat.bounds is None:
            return points
        like = self.centre
        lower, upper = (
            torch.as_tensor(side, dtype=like.dtype, device=like.device).expand_as(like)
            for side in self.threat.bounds
        )
        each = points.reshape(copies, *like.shape)
        return torch.where(self.threat.free(like), each.clamp(lower, upper), each).reshape(points.shape)


def check_counts(**told: Any) -> None:
    """Insist on whole numbers of 1 or more, by name.

    Raises:
        TypeError: No whole number, such as 2.5 or True.
        ValueError: Zero or less.
    """
    for name, value in told.items():
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(
                f"{name} must be a whole number, 1 or more; got {value!r} of type {type(value).__name__}"
            )
        if value < 1:
            raise ValueError(f"expected {name} of 1 or more; got {value}")


def check_positive(name: str, value: Any, most: float = math.inf) -> None:
    """Insist on a finite number above zero, and up to `most`.

    Raises:
        TypeError: No number.
        ValueError: A number out of range.
    """
    limit = "finite" if math.isinf(most) else f"at most {most:g}"
    if isinstance(value, bool) or not isinstance(value, Real):
        came = f"{value!r} of type {type(value).__name__}"
        raise TypeError(f"{name} must be a number, above zero and {limit}; got {came}")
    if not (0 < float(value) <= most and math.isfinite(value)):
        raise ValueError(f"{name} must be above zero and {limit}; got {value}")


def _signs(uniform: Tensor) -> Tensor:
    return torch.where(uniform < 0.5, -1, 1).to(uniform.dtype)


def _direction(keys: Keys, like: Tensor, kind: str) -> Tensor:
    return keys.normal(like) if kind == "normal" else _signs(keys.uniform(like))


def stripes(keys: Keys, x: Tensor) -> Tensor:
    """A sign for each channel and each place of the last axis, `(B, *input)`."""
    shape = (*x.shape[:2], *[1] * (x.ndim - 3), x.shape[-1]) if x.ndim > 2 else x.shape
    return _signs(keys.uniform(x.new_empty(shape))).expand_as(x)


def window(x: Tensor, share: float, keys: Keys) -> tuple[Tensor, Tensor, Tensor]:
    """A random window: the entries that it covers and signs, `(B, *input)`, and a size in (0, 1), `(B,)`."""
    if x.ndim <= 2:
        n = rows(x).shape[1]
        draw = keys.uniform(x.new_empty((len(x), 2 * n + 1), dtype=torch.float32))
        size, order, signs = draw[:, 0], draw[:, 1 : n + 1], draw[:, n + 1 :]
        last = order.kthvalue(max(1, round(share * n)), dim=1, keepdim=True).values
        return (order <= last).reshape(x.shape), _signs(signs).to(x.dtype).reshape(x.shape), size
    axes = x.shape[2:]
    draw = keys.uniform(x.new_empty((len(x), 1 + len(axes) + x.shape[1]), dtype=torch.float32))
    size, where, signs = draw[:, 0], draw[:, 1 : 1 + len(axes)], draw[:, 1 + len(axes) :]
    inside = torch.ones_like(x[:, :1], dtype=torch.bool)
    for axis, entries in enumerate(axes):
        side = min(entries, max(1, round(share ** (1 / len(axes)) * entries)))
        first = (where[:, axis] * (entries - side + 1)).long()[:, None]
        place = torch.arange(entries, device=x.device)
        within = (place >= first) & (place < first + side)
        inside = inside & within.reshape(len(x), 1, *(n if k == axis else 1 for k, n in enumerate(axes)))
    channels = _signs(signs).to(x.dtype).reshape(*x.shape[:2], *[1] * len(axes))
    return inside.expand_as(x), channels.expand_as(x), size


def _parts(count: int, size: int) -> Iterable[range]:
    return (range(first, min(first + size, count)) for first in range(0, count, size))
