"""Report of detection: how well scores tell strange inputs, and which adversaries tried."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from advreg._core.bootstrap import Interval

_Scores: TypeAlias = Tensor | ArrayLike


_Groups: TypeAlias = Sequence[Hashable] | None


_Numbers: TypeAlias = NDArray[np.float64]


_ADVERSARIES = ("none", "unaware", "aware")


_AT_ONCE = 2_000_000  # weights that the bootstrap holds at a time: 16 MB


class Detection(NamedTuple):
    """How well scores tell out-of-distribution inputs, the positives, from others; each with its interval.

    The `mean` of an interval is the measure itself, on the scores as they came.

    Attributes:
        auroc: See `advreg.auroc`; 0.5 says nothing, less than 0.5 that strange inputs look more ordinary.
        aupr: See `advreg.metrics.aupr`; depends on how many there are of either. A resample holds scores
            twice, which are ties, so its interval lies a little high where examples are few.
        fpr95: See `advreg.metrics.fpr_at_tpr`: the share of in-distribution inputs that are refused where
            95 % of the others are.
    """

    auroc: Interval
    aupr: Interval
    fpr95: Interval


def threshold(scores_in: _Scores, tpr: float = 0.95) -> float:
    """The score at which the chosen share of in-distribution data passes: strange is `score > threshold`.

    Calibrate on held-out data. A detector knows the inputs that it, or the network, was fitted to, and scores
    them lower.

    Args:
        scores_in: Scores of in-distribution inputs, `(N,)`.
        tpr: The share of them that is to pass, at least; in-distribution counts as positive here.

    Returns:
        The smallest score that serves. With N examples the share is known to about `1 / N`.

    Raises:
        ValueError: No scores, NaN, another shape; a share outside (0, 1].

    Example:
        >>> import torch
        >>> from advreg.detectors import threshold
        >>> scores = torch.arange(1.0, 101.0)
        >>> at = threshold(scores, 0.95)
        >>> at, (scores > at).sum().item()
        (95.0, 5)
    """
    if not 0 < tpr <= 1:
        raise ValueError(f"tpr must be in (0, 1], the share of in-distribution data that passes; got {tpr}")
    ordered = np.sort(_numbers(scores_in, "scores_in"))
    passing = np.arange(1, len(ordered) + 1) / len(ordered)
    return float(ordered[np.argmax(passing >= tpr)])


def detection(
    scores_in: _Scores,
    scores_out: _Scores,
    *,
    groups_in: _Groups = None,
    groups_out: _Groups = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Detection:
    """AUROC, AUPR and FPR at 95 % TPR with percentile bootstrap intervals; out-of-distribution is positive.

    In- and out-of-distribution inputs are resampled apart, each to its own number; with groups, whole groups.

    Args:
        scores_in: Scores of in-distribution inputs, `(N,)`, of none that the detector was fitted to.
        scores_out: Scores of out-of-distribution inputs, `(M,)`.
        groups_in: Which group, such as a patient, each belongs to, `(N,)`; by default each is its own.
        groups_out: The same for `scores_out`, `(M,)`: inputs made from one image are one group.
        confidence: As for `advreg.evaluation.bootstrap`, and so are resamples and seed.
        resamples: See there.
        seed: See there.

    Returns:
        A `Detection`. Where either side is one group, or one example, low and high are nan.

    Raises:
        ValueError: No scores, NaN, another shape; groups that do not pair with them; options out of range.

    Example:
        >>> from advreg.detectors import detection
        >>> found = detection([0.1, 0.3, 0.2, 0.5], [0.4, 0.8, 0.9])
        >>> ["%.2f" % number for number in found.auroc]
        ['0.92', '0.67', '1.00']

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, sections 8.3 (two samples) and 13.3.
    """
    if not 0 < confidence < 1 or resamples < 1:
        came = f"{confidence} and {resamples}"
        raise ValueError(f"confidence must be between 0 and 1, and resamples 1 or more; got {came}")
    low = _Side.of(scores_in, groups_in, "in")
    high = _Side.of(scores_out, groups_out, "out")
    mean = _measures(low, high, np.ones((1, len(low.scores))), np.ones((1, len(high.scores))))[:, 0]
    if low.count < 2 or high.count < 2:
        return Detection(*(Interval(float(value), math.nan, math.nan) for value in mean))
    rng, found = np.random.default_rng(seed), []
    step = max(1, _AT_ONCE // (len(low.scores) + len(high.scores)))
    for first in range(0, resamples, step):
        many = min(step, resamples - first)
        found.append(_measures(low, high, low.draw(rng, many), high.draw(rng, many)))
    tail = (1 - confidence) / 2
    ends = np.quantile(np.concatenate(found, axis=1), [tail, 1 - tail], axis=1)
    return Detection(*(Interval(*map(float, numbers)) for numbers in zip(mean, *ends, strict=True)))


class ReportRow(NamedTuple):
    """One detector under one adversary: "none", "unaware" or "aware"."""

    detector: str
    adversary: str
    detection: Detection
    count_in: int
    count_out: int


@dataclass(frozen=True)
class Report:
    """Detectors under adversaries, as `report` makes them. `report + other` joins two; `print` shows them.

    A detector that has no row "aware" is marked as not tried by an adversary who knows of it; what was seen
    on clean inputs alone is marked as such.

    Args:
        rows: Any iterable of `ReportRow`.
    """

    rows: tuple[ReportRow, ...]

    def __add__(self, other: Report) -> Report:
        return Report(self.rows + other.rows)

    def __str__(self) -> str:
        titles = ("detector", "adversary", "AUROC", "AUPR", "FPR95", "n")
        cells = [titles, *map(_cells, self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
            for row in cells
        ]
        return "\n".join(lines + [f"{name}: {text}" for name, text in self.warnings().items()])

    def warnings(self) -> dict[str, str]:
        """What the rows do not show, by detector; nothing for one that an aware adversary has tried."""
        tried: dict[str, set[str]] = {}
        for row in self.rows:
            tried.setdefault(row.detector, set()).add(row.adversary)
        return {
            name: "no aware adversary: an adversary who knows the detector was not tried"
            if "unaware" in adversaries
            else "clean OOD only: says nothing about an adversary"
            for name, adversaries in tried.items()
            if "aware" not in adversaries
        }


def report(detector: str, scores_in: _Scores, scores_out: Mapping[str, _Scores], **options: Any) -> Report:
    """How one detector does under each adversary, for print.

    Args:
        detector: Its name.
        scores_in: Scores of in-distribution inputs, `(N,)`.
        scores_out: Scores of out-of-distribution inputs, `(M,)`, by adversary: "none", the clean inputs;
            "unaware", attacked to fool the model; "aware", attacked to fool model and detector, see
            `advreg.detectors.aware`. Of inputs that did not fool the model, say so beside it.
        **options: As for `detection`.

    Returns:
        A `Report`, with a row for each.

    Raises:
        ValueError: Another adversary, or none; and as for `detection`.

    Example:
        >>> from advreg.detectors import report
        >>> print(report("reconstruction", [0.1, 0.2, 0.3], {"none": [0.7, 0.8]}))
        detector        adversary  AUROC              AUPR               FPR95              n
        reconstruction  none       1.00 [1.00, 1.00]  1.00 [1.00, 1.00]  0.00 [0.00, 0.00]  3 in, 2 out
        reconstruction: clean OOD only: says nothing about an adversary
    """
    if not scores_out or not set(scores_out) <= set(_ADVERSARIES):
        raise ValueError(f"expected scores_out by adversary, {_ADVERSARIES}; got {list(scores_out)}")
    return Report(
        tuple(
            ReportRow(
                detector,
                adversary,
                detection(scores_in, scores_out[adversary], **options),
                len(_numbers(scores_in, "scores_in")),
                len(_numbers(scores_out[adversary], "scores_out")),
            )
            for adversary in _ADVERSARIES
            if adversary in scores_out
        )
    )


@dataclass(frozen=True, eq=False)
class _Side:
    """One class: its scores in order, the group of each, and how many groups there are."""

    scores: _Numbers
    members: NDArray[np.int64]
    count: int

    @staticmethod
    def of(scores: _Scores, groups: _Groups, name: str) -> _Side:
        numbers = _numbers(scores, f"scores_{name}")
        names: Any = range(len(numbers)) if groups is None else groups
        if hasattr(names, "tolist"):
            names = names.tolist()  # numbers of arrays and tensors, so that they hash by value
        if len(names) != len(numbers):
            raise ValueError(
                f"groups_{name} must name one group per score; got {len(names)} for {len(numbers)} scores"
            )
        places: dict[Hashable, int] = {}
        members = np.array([places.setdefault(group, len(places)) for group in names])
        order = np.argsort(numbers)
        return _Side(numbers[order], members[order], len(places))

    def draw(self, rng: np.random.Generator, resamples: int) -> _Numbers:
        """How often each score stands in each resample, `(resamples, N)`."""
        times = rng.multinomial(self.count, np.full(self.count, 1 / self.count), size=resamples)
        return times[:, self.members].astype(np.float64)


def _measures(low: _Side, high: _Side, weights_in: _Numbers, weights_out: _Numbers) -> _Numbers:
    """AUROC, AUPR and FPR at 95 % TPR of weighted scores, `(3, resamples)`; weights `(resamples, N or M)`."""
    below = np.pad(np.cumsum(weights_in, axis=1), ((0, 0), (1, 0)))
    lost = np.pad(np.cumsum(weights_out, axis=1), ((0, 0), (1, 0)))
    total_in, total_out = below[:, -1:], lost[:, -1:]
    left = below[:, np.searchsorted(low.scores, high.scores, "left")]
    right = below[:, np.searchsorted(low.scores, high.scores, "right")]
    hits = total_out - lost[:, np.searchsorted(high.scores, high.scores, "left")]
    false = total_in - left
    auroc = (weights_out * (left + right)).sum(1) / (2 * total_in * total_out)[:, 0]
    precision = hits / np.maximum(hits + false, 1)  # weights are whole numbers: 0 of 0 is not weighted either
    aupr = (weights_out * precision).sum(1) / total_out[:, 0]
    last = (hits / total_out >= 0.95).sum(1) - 1
    fpr = np.take_along_axis(false, last[:, None], axis=1)[:, 0] / total_in[:, 0]
    return np.stack([auroc, aupr, fpr])


def _numbers(scores: _Scores, name: str) -> _Numbers:
    numbers = np.asarray(scores.detach().cpu().double() if isinstance(scores, Tensor) else scores, np.float64)
    if numbers.ndim != 1 or len(numbers) == 0 or bool(np.isnan(numbers).any()):
        raise ValueError(
            f"{name} must be (N,), N at least 1, without NaN; got shape {numbers.shape} and "
            f"{int(np.isnan(numbers).sum())} NaN"
        )
    return numbers


def _cells(row: ReportRow) -> tuple[str, ...]:
    shown = (f"{part.mean:.2f} [{part.low:.2f}, {part.high:.2f}]" for part in row.detection)
    return (row.detector, row.adversary, *shown, f"{row.count_in} in, {row.count_out} out")
