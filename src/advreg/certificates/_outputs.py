"""Certificates of outputs: the radius of a threshold, labels of pixels, intervals of points."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from scipy.special import bdtrc, betaincinv, ndtri  # type: ignore[import-untyped]  # scipy ships no types
from torch import Tensor
from torch.nn.functional import one_hot

from advreg._core.trees import head as head_of
from advreg._core.types import Input, Model, Output, PerExample, Target
from advreg.certificates._bounds import below, shifted
from advreg.certificates._sampling import Sampling
from advreg.execution import Batch, Execution
from advreg.objectives import on
from advreg.tasks import Task

ABSTAIN = -1
"""The label of a pixel of which nothing is guaranteed."""


def certified_radius(
    model: Model,
    x: Input,
    y: Target,
    task: Task,
    threshold: float,
    *,
    sigma: float,
    head: str | int = "",
    samples: int = 1000,
    confidence: float = 0.999,
    jointly: int = 1,
    noisy_input: str | int | None = None,
    execution: Execution | None = None,
    seed: int = 0,
    index: Tensor | None = None,
) -> Tensor:
    """Guarantee the radius within which a metric cannot become worse than a threshold, from below.

    The counterpart of `advreg.attacks.critical_radius`: for no perturbation of a smaller L2 norm is the
    median of the metric over Gaussian noise worse than the threshold. With `p` a lower bound, at the
    confidence, of the chance that the metric is not worse under noise at `x`, the radius is
    `sigma * Phi^-1(p)`.

    Args:
        model: As for `pgd_attack`.
        x: Clean inputs, `(B, *input)`.
        y: The target.
        task: What the head is for: its metric, and which way it is worse.
        threshold: The number that the metric shall not be worse than.
        sigma: Deviation of the noise, in units of the input.
        head: The key of the head; "" for a model whose output is the head itself.
        samples: Draws of noise; with all of them good, the radius is `largest_radius(samples, sigma)`.
        confidence: Of each radius, or with `jointly` of all.
        jointly: The number of examples for which the radii hold at once (Bonferroni).
        noisy_input: Of a model of several inputs the key of the one that is perturbed, and gets the noise.
        execution: How the model is run.
        seed: With `index`, decides the noise.
        index: Each example's place in its data set, int64 `(B,)`.

    Returns:
        Radii `(B,)` float64; 0 where nothing is guaranteed.

    Raises:
        ValueError: As for `certify`.

    Example:
        >>> import torch
        >>> from advreg.certificates import certified_radius
        >>> from advreg.tasks import Task
        >>> x, task = torch.full((1, 4), 0.5), Task(lambda output, y: output, "lower")
        >>> radius = certified_radius(lambda x: x.sum(1), x, x, task, threshold=1.5, sigma=0.25)
        >>> bool(0.2 < radius < 0.25)  # (2 - 1.5) / |(1, 1, 1, 1)| is the true one
        True

    Source:
        Cohen et al., arXiv:1902.02918, Theorem 1 and section 3.2.2, here of a metric's threshold.
    """
    sampling = Sampling(sigma, samples, confidence, jointly, noisy_input, execution)
    if math.isnan(threshold):
        raise ValueError("threshold must be a number that the metric can cross; got NaN")
    metric = on(head, task.metric)

    def good(network: Model, part: Batch) -> Tensor:
        value = metric(network(part.inputs()), part.y)
        return (task.sign * value <= task.sign * threshold).cpu()  # NaN is not good

    with sampling.noisy(model, x, y, {"the metric": metric}, seed, index) as noisy:
        counts = noisy.seen(good, range(samples)).sum(0).double().numpy()
    chance = betaincinv(counts, samples - counts + 1, sampling.alpha)  # Clopper and Pearson; NaN where 0 good
    radius = torch.from_numpy(sigma * ndtri(chance)).nan_to_num(nan=-math.inf) - noisy.slack
    return radius.clamp(min=0.0)


@dataclass(frozen=True, eq=False)
class PixelCertificate:
    """Certificate of labels, pixel by pixel.

    Attributes:
        labels: `(B, *spatial)` int64; `ABSTAIN`, -1, where nothing is guaranteed.
        radius: The L2 radius within which no label that is given can change.
        classes: How many classes there are.
    """

    labels: Tensor
    radius: float
    classes: int

    def worst(self, target: Tensor) -> Tensor:
        """The labels that are worst for a target of labels: another one wherever nothing is guaranteed."""
        wrong = (target + 1) % self.classes
        return torch.where(self.labels == ABSTAIN, wrong, self.labels)


def certify_pixels(
    model: Model,
    x: Input,
    *,
    sigma: float,
    head: str | int = "",
    tau: float = 0.75,
    samples: int = 100,
    first: int = 10,
    confidence: float = 0.999,
    noisy_input: str | int | None = None,
    execution: Execution | None = None,
    seed: int = 0,
    index: Tensor | None = None,
) -> PixelCertificate:
    """Guarantee the labels of pixels within an L2 radius, or abstain: SegCertify.

    A first few draws of noise choose each pixel's label; the rest test that it is chosen under noise with a
    chance above tau, all pixels of an image together (Holm-Bonferroni). The radius is `sigma * Phi^-1(tau)`.
    It needs no truth, so it can be made while a network is used; of a metric, `certify` guarantees more.

    Args:
        model: As for `pgd_attack`.
        x: Inputs, `(B, *input)`.
        sigma: Deviation of the noise, in units of the input.
        head: The key of the head: logits `(B, 1, *spatial)` of one mask, or scores `(B, C, *spatial)`.
        tau: The chance that is tested, above 0.5; larger ones reach further and abstain more.
        samples: Draws of noise for the test.
        first: Draws that choose the labels.
        confidence: That all labels of an image hold.
        noisy_input: Of a model of several inputs the key of the one that is perturbed, and gets the noise.
        execution: How the model is run.
        seed: With `index`, decides the noise.
        index: Each example's place in its data set, int64 `(B,)`.

    Returns:
        A `PixelCertificate`.

    Raises:
        ValueError: A tau outside (0.5, 1); and as for `certify`.

    Example:
        >>> import torch
        >>> from advreg.certificates import certify_pixels
        >>> logits = lambda x: 4 * (x - 0.5)
        >>> found = certify_pixels(logits, torch.tensor([[[0.0, 0.5, 1.0]]]), sigma=0.25, samples=200)
        >>> found.labels, round(found.radius, 3)
        (tensor([[ 0, -1,  1]]), 0.169)

    Source:
        Fischer et al., Scalable certified segmentation via randomized smoothing, ICML 2021, Algorithm 2.
    """
    if not 0.5 < tau < 1 or first < 1:
        raise ValueError(f"tau must lie between 0.5 and 1, and first be 1 or more; got {tau} and {first}")
    sampling = Sampling(sigma, samples, confidence, 1, noisy_input, execution)
    classes = 2

    def votes(network: Model, part: Batch) -> Tensor:
        nonlocal classes
        scores = _read(network(part.inputs()), head)
        classes = max(2, scores.shape[1])
        labels = (scores[:, 0] > 0).long() if scores.shape[1] == 1 else scores.argmax(1)
        return labels.cpu()

    reads = None if head == "" else [head]
    with sampling.noisy(model, x, None, _summed(head), seed, index, reads) as noisy:
        labels = noisy.seen(votes, range(first + samples))
    best = one_hot(labels[:first], classes).sum(0).argmax(-1)
    hits = (labels[first:] == best).sum(0)
    p_values = torch.from_numpy(bdtrc(hits.double().numpy() - 1, samples, tau)).reshape(hits.shape)
    sure = _holm(p_values.flatten(1), sampling.alpha).reshape(hits.shape)
    radius = float(sigma * ndtri(tau)) - noisy.slack
    return PixelCertificate(torch.where(sure, best, ABSTAIN), max(0.0, radius), classes)


def certify_outputs(
    model: Model,
    x: Input,
    *,
    sigma: float,
    radius: float,
    head: str | int = "",
    samples: int = 1000,
    confidence: float = 0.999,
    noisy_input: str | int | None = None,
    execution: Execution | None = None,
    seed: int = 0,
    index: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Guarantee intervals of outputs within an L2 radius, entry by entry: median smoothing.

    For no perturbation of at most this L2 norm does the median of any entry over Gaussian noise leave its
    interval; all entries of an example together, at the confidence. It needs no truth; of a metric, `certify`
    guarantees more.

    Args:
        model: As for `pgd_attack`.
        x: Inputs, `(B, *input)`.
        sigma: Deviation of the noise, in units of the input.
        radius: L2 radius.
        head: The key of the head, such as points `(B, K, 2)`.
        samples: Draws of noise.
        confidence: That all intervals of an example hold.
        noisy_input: Of a model of several inputs the key of the one that is perturbed, and gets the noise.
        execution: How the model is run.
        seed: With `index`, decides the noise.
        index: Each example's place in its data set, int64 `(B,)`.

    Returns:
        The lower and the upper ends, each like the head, float64; infinite where so few samples say nothing.

    Raises:
        ValueError: As for `certify`.

    Example:
        >>> import torch
        >>> from advreg.certificates import certify_outputs
        >>> low, high = certify_outputs(lambda x: x, torch.zeros(1, 2), sigma=0.25, radius=0.1)
        >>> bool((low < -0.1).all() and (high > 0.1).all() and (high - low < 0.4).all())
        True

    Source:
        Chiang et al., Detection as regression, NeurIPS 2020, arXiv:2007.03730, Lemma 1 and section 4.
    """
    sampling = Sampling(sigma, samples, confidence, 1, noisy_input, execution)
    if not 0 <= radius < math.inf:
        raise ValueError(f"radius must be 0 or more and finite; got {radius}")

    def read(network: Model, part: Batch) -> Tensor:
        return _read(network(part.inputs()), head).double().cpu()

    reads = None if head == "" else [head]
    with sampling.noisy(model, x, None, _summed(head), seed, index, reads) as noisy:
        values = noisy.seen(read, range(samples))
    entries = math.prod(values.shape[2:])
    quantile = shifted(radius + noisy.slack, sigma)
    place = below(samples, quantile, sampling.alpha / (2 * max(1, entries)))
    ordered = values.sort(0).values
    if place < 1:
        endless = torch.full_like(ordered[0], math.inf)
        return -endless, endless
    return ordered[place - 1], ordered[samples - place]


def _read(output: Output, head: str | int) -> Tensor:
    """The head of an output.

    Raises:
        KeyError: A head that the output lacks.
        TypeError: Several heads, and none of them named.
    """
    found: Any = output if head == "" else head_of(output, head, "output")
    if not isinstance(found, Tensor):
        which = "the output" if head == "" else f"the head {head!r}"
        has = f" with {list(found)}" if isinstance(found, Mapping) else ""
        raise TypeError(
            f"{which} must be one tensor; got a {type(found).__name__}{has}: name the head, head='mask'"
        )
    return found


def _summed(head: str | int) -> dict[str, PerExample]:
    """A number of each example that shows whether examples interact: the mean of its head."""

    def mean(output: Output, target: Target) -> Tensor:
        del target
        found = _read(output, head)
        return found.reshape(len(found), -1).double().mean(1)

    return {"the head": mean}


def _holm(p_values: Tensor, alpha: float) -> Tensor:
    """Which hypotheses of each row `(B, N)` are rejected, so that none is falsely with chance above alpha."""
    count = p_values.shape[1]
    ordered, order = p_values.sort(1)
    passes = ordered <= alpha / (count - torch.arange(count))
    rejected = passes.int().cumprod(1).bool()  # up to the first that is not
    return torch.zeros_like(rejected).scatter(1, order, rejected)
