"""Certificates: what no perturbation can make worse, for any metric of any head."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from advreg._core.checks import examples, one_per_example
from advreg._core.targets import count_of
from advreg._core.types import Input, Model, PerExample, Target
from advreg.certificates._bounds import above, below, looks, shifted
from advreg.certificates._sampling import Noisy, Sampling
from advreg.evaluation import Batches, Cell, Settings, Table, measure
from advreg.execution import Batch, Execution
from advreg.objectives import on
from advreg.tasks import Task

Certified: TypeAlias = Mapping[str | int, Mapping[str, Task]]
"""For each head what is certified, by name: `{"mask": {"dice": masks()}}`; a task says which way is worse."""


@dataclass(frozen=True, repr=False)
class Certificate(Table):
    """Table of guaranteed values, with what exactly is guaranteed, which it prints.

    Its rows have the bound "guaranteed", and stand beside those of attacks: the sum of `radius_curve(...)`
    and `certify(...)` is one table, and one figure.

    Args:
        rows: The rows, any iterable of `Row`.
        statement: What is guaranteed, of what, at which confidence.
    """

    statement: str = ""

    def __repr__(self) -> str:
        return f"{super().__repr__()}\n{self.statement}"


def certify(
    model: Model,
    x: Input,
    y: Target,
    metrics: Certified,
    *,
    sigma: float,
    radii: Iterable[float],
    samples: int = 1000,
    confidence: float = 0.999,
    tolerance: float | None = None,
    jointly: int = 1,
    noisy_input: str | int | None = None,
    execution: Execution | None = None,
    groups: Sequence[str] | None = None,
    seed: int = 0,
    index: Tensor | None = None,
) -> Certificate:
    """Guarantee, for each example, how bad a metric can become within each L2 radius: a certificate.

    Of the network under Gaussian noise: let `m` be the median of `metric(model(x + noise), y)` over noise of
    deviation sigma. For no perturbation `d` with `|d|_2 <= R` is the median at `x + d` worse than the
    quantile `Phi(-R / sigma)` of the metric at `x`, counted from its worst value. That quantile is bounded by
    an order statistic of `samples` values, exactly, at a confidence. It holds for any adversary, any metric,
    differentiable or not, and any network; nothing is assumed of either.

    It speaks of the noisy network (see `smoothed`), of L2, and of radii up to about `2.5 sigma`. It needs the
    truth `y`, so it is made when a network is evaluated, not while it is used. Train the network with noise
    of that sigma first (`advreg.training.L_noise`): one that has never seen noise has poor medians.

    Costs `samples` forward passes for each example, of the heads that the metrics read; all radii and all
    metrics share them.

    Args:
        model: As for `pgd_attack`. Call `.eval()` on it first.
        x: Clean inputs `(B, *input)`.
        y: The target, of any structure, as for `pgd_attack`.
        metrics: `{head: {name: task}}`; "" for a model whose output is the head itself. Of a task the metric
            counts, which way it is worse, and its worst number, which stands where nothing is guaranteed.
        sigma: Deviation of the noise, in units of the input. A larger one reaches further, at a worse median.
        radii: L2 radii, distinct, 0 or more; 0 bounds the median itself.
        samples: How many draws of noise, at most. Beyond `largest_radius(samples, sigma)` nothing can be
            said with so many.
        confidence: Of each bound. With `jointly` that of all together.
        tolerance: Sampling of an example stops once none of its bounds can move further than this, in the
            unit of each metric. Looks are made at samples / 2^k, and share the chance to fail, so that
            stopping costs no confidence. None: all samples, one look, the tightest bounds.
        jointly: The number of examples for which all bounds, of all metrics and radii, hold at once
            (Bonferroni); 1: each bound by itself.
        noisy_input: Of a model of several inputs the key of the one that is perturbed, and gets the noise.
        execution: How the model is run; the certificate is of the network as it runs then.
        groups: As for `evaluate`.
        seed: With `index`, decides the noise.
        index: Each example's place in its data set, int64 `(B,)`.

    Returns:
        A `Certificate`: a table whose rows are guaranteed, under the attack's name "smoothing".

    Raises:
        TypeError: Metrics that are no `{head: {name: task}}`.
        ValueError: A sigma, radii, samples or confidence that are none; inputs that are not finite; a metric
            that is NaN; and as for `pgd_attack`.

    Example:
        >>> import torch
        >>> from advreg import J_IND_reg, point_error
        >>> from advreg.certificates import certify
        >>> from advreg.tasks import Task
        >>> model = lambda x: x.reshape(-1, 1, 2)
        >>> x, y = torch.zeros(2, 2), torch.zeros(2, 1, 2)
        >>> certify(model, x, y, {"": {"error": Task(point_error, "higher")}}, sigma=0.1, radii=[0.1])
        Certificate(2 rows; attack: smoothing; head: ''; metric: error; radius: 0.1; bound: guaranteed)
        guaranteed: no perturbation of this L2 norm or less makes the median worse, at sigma 0.1
        confidence: 0.999, of each bound by itself
        holds for: these examples, since it is made with their truth; not for new ones
        Linf: its radius r lies inside the L2 radius r * sqrt(entries of an input), here 1.41 r

    Source:
        Chiang et al., NeurIPS 2020, arXiv:2007.03730, Lemma 1 and section 4, here of the metric itself; Cohen
        et al., arXiv:1902.02918; Voracek and Hein, ICLR 2023, for the rounding.
    """
    index = torch.arange(count_of(x)) if index is None else index
    found = certified_curve(
        model,
        [(x, y, index)],
        metrics,
        sigma=sigma,
        radii=radii,
        samples=samples,
        confidence=confidence,
        tolerance=tolerance,
        jointly=jointly,
        noisy_input=noisy_input,
        execution=execution,
        groups=groups,
        seed=seed,
    )
    entries = math.prod(Batch.unbounded(x, y, noisy_input).x.shape[1:])
    return replace(found, statement=_statement(Sampling(sigma, samples, confidence, jointly), entries))


def certified_curve(
    model: Model,
    batches: Batches,
    metrics: Certified,
    *,
    sigma: float,
    radii: Iterable[float],
    samples: int = 1000,
    confidence: float = 0.999,
    tolerance: float | None = None,
    jointly: int = 1,
    noisy_input: str | int | None = None,
    execution: Execution | None = None,
    groups: Sequence[str] | None = None,
    journal: str | Path | None = None,
    shard: tuple[int, int] | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> Certificate:
    """Guarantee how bad metrics can become within each L2 radius, for all examples of all batches.

    The counterpart of `radius_curve`, from below: resumable by the same journal, shared by processes and
    shards alike, an example's bounds the same in any batch.

    Args:
        model: As for `certify`.
        batches: As for `evaluate`.
        metrics: As for `certify`, and so are sigma, radii, samples, confidence, tolerance, jointly,
            noisy_input and execution.
        sigma: See there.
        radii: See there.
        samples: See there.
        confidence: See there.
        tolerance: See there.
        jointly: See there.
        noisy_input: See there.
        execution: See there.
        groups: As for `evaluate`, and so are journal, shard, seed, device and progress.
        journal: See there.
        shard: See there.
        seed: See there.
        device: See there.
        progress: See there.

    Returns:
        A `Certificate`, in the order of radii, batches, examples, heads and metrics.

    Raises:
        TypeError: As for `certify`.
        ValueError: As for `certify` and `evaluate`.

    Example:
        >>> import torch
        >>> from advreg.certificates import certified_curve
        >>> from advreg.tasks import masks
        >>> batches = [(torch.rand(4, 1, 8, 8), torch.ones(4, 1, 8, 8)) for _ in range(2)]
        >>> table = certified_curve(torch.nn.Conv2d(1, 1, 3, padding=1), batches, {"": {"dice": masks()}},
        ...                         sigma=0.25, radii=[0.0, 0.1], samples=100)
        >>> [mean.count for mean in table.means()]
        [8, 8]

    Source:
        As for `certify`.
    """
    radii = [float(radius) for radius in radii]
    if not radii or len(set(radii)) < len(radii) or not all(0 <= radius < math.inf for radius in radii):
        raise ValueError(f"expected distinct, finite L2 radii of 0 or more; got {radii}")
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(f"tolerance must be 0 or more, in the unit of each metric, or None; got {tolerance}")
    columns = _columns(metrics)
    sampling = Sampling(sigma, samples, confidence, jointly, noisy_input, execution)
    several = jointly * len(radii) * len(columns) if jointly > 1 else 1
    smoothing = Smoothing(replace(sampling, jointly=several), tolerance, columns)
    cells = [Cell("smoothing", radius, smoothing, None, "guaranteed") for radius in radii]
    functions = {head: {name: task.metric for name, task in tasks.items()} for head, tasks in metrics.items()}
    settings = Settings(groups, journal, seed, device, progress, shard=shard)
    found = measure(model, batches, functions, cells, {"radii": radii}, settings)
    return Certificate(found.rows, _statement(sampling))


def _statement(sampling: Sampling, entries: int | None = None) -> str:
    """What is guaranteed; where the number of entries of an input is known, how far Linf balls reach."""
    several = sampling.jointly
    each = f"of all bounds of {several} examples at once" if several > 1 else "of each bound by itself"
    here = "" if entries is None else f", here {math.sqrt(entries):.3g} r"
    norm = f"no perturbation of this L2 norm or less makes the median worse, at sigma {sampling.sigma:g}"
    lines = (
        f"guaranteed: {norm}",
        f"confidence: {sampling.confidence:g}, {each}",
        "holds for: these examples, since it is made with their truth; not for new ones",
        f"Linf: its radius r lies inside the L2 radius r * sqrt(entries of an input){here}",
    )
    return "\n".join(lines)


class Column(NamedTuple):
    """Column of a certificate: a metric of the output, which way it is worse, and what nothing is beyond."""

    name: str
    function: PerExample
    sign: int
    worst: float


@dataclass(frozen=True)
class Smoothing:
    """Percentile smoothing of metrics: their bounds, at radii, for a batch.

    Args:
        sampling: Of the network under noise; each bound fails with its chance.
        tolerance: Where sampling stops earlier; None: nowhere.
        columns: The metrics.
    """

    sampling: Sampling
    tolerance: float | None
    columns: tuple[Column, ...]

    def bounds(
        self, model: Model, x: Input, y: Target, radii: Sequence[float], *, seed: int, index: Tensor
    ) -> Tensor:
        """The bounds, `(R, C, B)` float64."""
        functions = {column.name: column.function for column in self.columns}
        with self.sampling.noisy(model, x, y, functions, seed, index) as noisy:
            return self._bounds(noisy, radii)

    def _bounds(self, noisy: Noisy, radii: Sequence[float]) -> Tensor:
        """Look at more and more samples, of the examples of which a bound can still move."""
        signs = torch.tensor([column.sign for column in self.columns], dtype=torch.float64)[:, None]
        worst = -signs * torch.tensor([[column.worst] for column in self.columns], dtype=torch.float64)
        quantiles = [shifted(radius + noisy.slack, noisy.sigma) for radius in radii]
        left = torch.arange(len(noisy.batch.x))
        found = worst.expand(len(radii), -1, len(left)).clone()
        values = worst.new_empty(len(signs), 0, len(left))  # larger is better
        how = self.sampling
        for n, alpha in looks(how.samples, how.alpha, adaptive=self.tolerance is not None):
            drawn = noisy.take(left).seen(self._values, range(values.shape[1], n))
            values = torch.cat([values, -signs[:, None] * drawn.permute(2, 0, 1)], 1)
            ordered = values.sort(1).values
            low = torch.stack([_at(ordered, below(n, q, alpha), worst) for q in quantiles])
            high = torch.stack([_at(ordered, above(n, q, alpha), worst) for q in quantiles])
            found[:, :, left] = torch.maximum(found[:, :, left], low)  # each look holds
            if self.tolerance is not None:
                open_ = (high - found[:, :, left] > self.tolerance).any(0).any(0)
                left, values = left[open_], values[:, :, open_]
            if len(left) == 0:
                break
        return -signs * found

    def _values(self, model: Model, part: Batch) -> Tensor:
        """The metrics of a part of a batch, `(b, C)` float64 on the CPU."""
        output = model(part.inputs())
        values = []
        for column in self.columns:
            value = one_per_example(column.function(output, part.y), len(part.x), f"the {column.name}")
            if bool(value.isnan().any()):
                raise ValueError(
                    f"the {column.name} is NaN under noise for {examples(value.isnan())}: a metric that is "
                    "certified must be a number for any output, so give it one where it is not defined"
                )
            beyond = column.sign * value > column.sign * column.worst
            if bool(beyond.any()):
                raise ValueError(
                    f"the task of the {column.name} says that nothing is worse than {column.worst:g}; got "
                    f"{value[beyond][0].item():.6g} under noise for {examples(beyond)}: give it its worst "
                    "number"
                )
            values.append(value.double().cpu())
        return torch.stack(values, 1)


def _at(ordered: Tensor, place: int, worst: Tensor) -> Tensor:
    """The `place`-th smallest of values `(C, n, b)` in order, counted from 1; before them the worst."""
    if place < 1:
        return worst.expand(-1, ordered.shape[2])
    if place > ordered.shape[1]:
        return torch.full_like(ordered[:, 0], math.inf)
    return ordered[:, place - 1]


def _columns(metrics: Any) -> tuple[Column, ...]:
    example = '{"mask": {"dice": masks()}}, or {"": {"dice": Task(dice, worse="lower", worst=0.0)}}'
    named = isinstance(metrics, Mapping) and all(isinstance(tasks, Mapping) for tasks in metrics.values())
    if not named or not any(metrics.values()):
        raise TypeError(f"metrics must be {{head: {{name: task}}}}, {example}; got {metrics!r:.100}")
    columns = []
    for head, tasks in metrics.items():
        for name, task in tasks.items():
            if not isinstance(task, Task):
                raise TypeError(
                    f"the metric {name!r} of head {head!r} must be a task, which says which way it is worse; "
                    f"got {getattr(task, '__name__', type(task).__name__)}: write {example}"
                )
            which = f"metric {name!r}" + (f" of head {head!r}" if head != "" else "")
            columns.append(Column(which, on(head, task.metric), task.sign, task.worst))
    return tuple(columns)
