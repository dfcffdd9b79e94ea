"""Detection measures of scores, `(N,)`: AUROC, AUPR, the false positive rate at a true positive rate."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from advreg._core.bootstrap import Interval, check_groups, check_resampling, numbered, percentiles
from advreg._core.checks import same_shape

Scores: TypeAlias = Tensor | ArrayLike
_Groups: TypeAlias = Sequence[Hashable] | None
_Numbers: TypeAlias = NDArray[np.float64]


def auroc(scores: Tensor, positive: Tensor) -> Tensor:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    Args:
        scores: `(N,)`, larger for positives.
        positive: `(N,)` bool.

    Returns:
        A float64 scalar in [0, 1].

    Raises:
        ValueError: Shapes that differ, NaN, or only one of the two classes.

    Example:
        >>> import torch
        >>> from advreg.metrics import auroc
        >>> auroc(torch.tensor([0.1, 0.4, 0.4, 0.9]), torch.tensor([False, False, True, True])).item()
        0.875

    Source:
        Hanley and McNeil, Radiology 143, 1982.
    """
    return _ranked(scores, positive, "AUROC").auroc()[0]


def aupr(scores: Tensor, positive: Tensor) -> Tensor:
    """Area under the precision-recall curve: the average precision, ties counted together.

    `sum of (recall_n - recall_n-1) * precision_n` over the distinct scores from the largest down. It depends
    on how many there are of each class: for scores that say nothing it is the share of the positives.

    Args:
        scores: `(N,)`, larger for positives.
        positive: `(N,)` bool.

    Returns:
        A float64 scalar in [0, 1].

    Raises:
        ValueError: As for `auroc`.

    Example:
        >>> import torch
        >>> from advreg.metrics import aupr
        >>> scores, positive = torch.tensor([0.1, 0.4, 0.4, 0.9]), torch.tensor([False, False, True, True])
        >>> round(aupr(scores, positive).item(), 4)
        0.8333

    Source:
        Davis and Goadrich, The relationship between precision-recall and ROC curves, ICML 2006; the sum is
        scikit-learn's `average_precision_score`.
    """
    return _ranked(scores, positive, "AUPR").aupr()[0]


def fpr_at_tpr(scores: Tensor, positive: Tensor, *, tpr: float = 0.95) -> Tensor:
    """The false positive rate at the largest threshold that catches this share of the positives.

    Args:
        scores: `(N,)`, larger for positives.
        positive: `(N,)` bool.
        tpr: The share of positives to catch, at least: what scores the threshold or more is called positive.

    Returns:
        A float64 scalar in [0, 1]: the share of the negatives that are called positive as well.

    Raises:
        ValueError: As for `auroc`; a share outside (0, 1].

    Example:
        >>> import torch
        >>> from advreg.metrics import fpr_at_tpr
        >>> fpr_at_tpr(torch.tensor([0.1, 0.4, 0.4, 0.9]), torch.tensor([False, False, True, True])).item()
        0.5

    Source:
        Hendrycks et al., Deep anomaly detection with outlier exposure, arXiv:1812.04606 (FPR95).
    """
    if not 0 < tpr <= 1:
        raise ValueError(f"tpr must be in (0, 1]; got {tpr}")
    return _ranked(scores, positive, "FPR").fpr_at_tpr(tpr)[0]


class Detection(NamedTuple):
    """Detection measures with their intervals; out-of-distribution inputs are the positives.

    The `mean` of an interval is the measure itself, on the scores as they came.

    Attributes:
        auroc: See `advreg.metrics.auroc`; 0.5 says nothing, less that strange inputs look more ordinary.
        aupr: See `advreg.metrics.aupr`; depends on how many there are of either. A resample holds scores
            twice, which are ties, so its interval lies a little high where examples are few.
        fpr95: See `advreg.metrics.fpr_at_tpr`: the share of in-distribution inputs that are refused where
            95 % of the others are.
    """

    auroc: Interval
    aupr: Interval
    fpr95: Interval


def threshold(scores_in: Scores, tpr: float = 0.95) -> float:
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
        >>> from advreg.metrics import threshold
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
    scores_in: Scores,
    scores_out: Scores,
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
        >>> from advreg.metrics import detection
        >>> found = detection([0.1, 0.3, 0.2, 0.5], [0.4, 0.8, 0.9])
        >>> ["%.2f" % number for number in found.auroc]
        ['0.92', '0.67', '1.00']

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, sections 8.3 (two samples) and 13.3.
    """
    check_resampling(confidence, resamples)
    low, high = _numbers(scores_in, "scores_in"), _numbers(scores_out, "scores_out")
    check_groups(groups_in, len(low), "groups_in", "score")
    check_groups(groups_out, len(high), "groups_out", "score")
    (low_members, low_count), (high_members, high_count) = (
        numbered(groups_in, len(low)),
        numbered(groups_out, len(high)),
    )
    low_order, high_order = np.argsort(low), np.argsort(high)
    low_sorted, high_sorted = torch.from_numpy(low[low_order]), torch.from_numpy(high[high_order])

    def measures(low_times: _Numbers, high_times: _Numbers) -> _Numbers:
        """The three measures, `(3, R)`, where groups count so many times, `(R, groups)`."""
        low_weights = torch.from_numpy(low_times[:, low_members[low_order]])
        high_weights = torch.from_numpy(high_times[:, high_members[high_order]])
        ranked = _Ranked(low_sorted, high_sorted, low_weights, high_weights)
        return torch.stack([ranked.auroc(), ranked.aupr(), ranked.fpr_at_tpr(0.95)]).numpy()

    def resampled(low_groups: _Numbers, high_groups: _Numbers, axis: int) -> _Numbers:
        del axis  # the last one
        return measures(_times(low_groups, low_count), _times(high_groups, high_count))

    mean = measures(np.ones((1, low_count)), np.ones((1, high_count)))[:, 0]
    if low_count < 2 or high_count < 2:
        return Detection(*(Interval(float(value), math.nan, math.nan) for value in mean))
    ends = percentiles(
        (np.arange(low_count), np.arange(high_count)),
        resampled,
        paired=False,
        entries=len(low) + len(high),
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )
    return Detection(*(Interval(*map(float, numbers)) for numbers in zip(mean, *ends, strict=True)))


@dataclass(frozen=True, eq=False)
class _Ranked:
    """Scores of negatives `(N,)` and of positives `(M,)`, sorted, and how often each counts, `(R, N or M)`.

    With `weights` of ones it is the data itself; a bootstrap has a row for each resample.
    """

    low: Tensor
    high: Tensor
    low_weights: Tensor
    high_weights: Tensor

    def auroc(self) -> Tensor:
        """The area under the ROC curve, `(R,)`."""
        below = torch.nn.functional.pad(self.low_weights.cumsum(1), (1, 0))
        wins = below[:, torch.searchsorted(self.low, self.high)]
        wins = wins + below[:, torch.searchsorted(self.low, self.high, right=True)]
        pairs = self.low_weights.sum(1) * self.high_weights.sum(1)
        return (self.high_weights * wins).sum(1) / (2 * pairs)

    def aupr(self) -> Tensor:
        """The average precision, `(R,)`."""
        hits, false = self._called()
        precision = hits / (hits + false).clamp(min=1)  # weights are whole: 0 of 0 counts for nothing
        return (self.high_weights * precision).sum(1) / self.high_weights.sum(1)

    def fpr_at_tpr(self, tpr: float) -> Tensor:
        """The false positive rate at the largest threshold that catches so many positives, `(R,)`."""
        hits, false = self._called()
        last = (hits / self.high_weights.sum(1, keepdim=True) >= tpr).sum(1, keepdim=True) - 1
        return false.gather(1, last)[:, 0] / self.low_weights.sum(1)

    def _called(self) -> tuple[Tensor, Tensor]:
        """True and false positives where each positive's score is the threshold, `(R, M)` both."""
        low = torch.nn.functional.pad(self.low_weights.cumsum(1), (1, 0))
        high = torch.nn.functional.pad(self.high_weights.cumsum(1), (1, 0))
        hits = high[:, -1:] - high[:, torch.searchsorted(self.high, self.high)]
        return hits, low[:, -1:] - low[:, torch.searchsorted(self.low, self.high)]


def _ranked(scores: Tensor, positive: Tensor, name: str) -> _Ranked:
    """The scores of either class; checked."""
    same_shape(scores, positive)
    if scores.ndim != 1 or bool(scores.isnan().any()):
        raise ValueError(
            f"scores must be (N,) without NaN; got {tuple(scores.shape)}, NaN {bool(scores.isnan().any())}"
        )
    positive = positive.bool()
    high, low = scores[positive].sort().values, scores[~positive].sort().values
    if len(high) == 0 or len(low) == 0:
        raise ValueError(f"{name} needs both classes; got {len(high)} positives and {len(low)} negatives")
    ones = (torch.ones(1, len(side), dtype=torch.float64, device=scores.device) for side in (low, high))
    return _Ranked(low, high, *ones)


def _times(groups: NDArray[Any], count: int) -> _Numbers:
    """Times that each of `count` groups stands in each row, `(R, N)` to `(R, count)`."""
    rows = np.arange(len(groups))[:, None] * count
    found = np.bincount((rows + groups.astype(np.int64)).ravel(), minlength=len(groups) * count)
    return found.reshape(len(groups), count).astype(np.float64)


def _numbers(scores: Scores, name: str) -> _Numbers:
    """Scores as numbers, `(N,)`; checked."""
    numbers = np.asarray(scores.detach().cpu().double() if isinstance(scores, Tensor) else scores, np.float64)
    if numbers.ndim != 1 or len(numbers) == 0 or bool(np.isnan(numbers).any()):
        raise ValueError(
            f"{name} must be (N,), N at least 1, without NaN; got shape {numbers.shape} and "
            f"{int(np.isnan(numbers).sum())} NaN"
        )
    return numbers
