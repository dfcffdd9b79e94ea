"""Detection measures of scores, `(N,)`: AUROC, AUPR, the false positive rate at a true positive rate."""

from __future__ import annotations

import torch
from torch import Tensor

from advreg._core.checks import same_shape


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
    high, low = _positive_and_negative(scores, positive, "AUROC")
    wins: Tensor = torch.searchsorted(low, high) + torch.searchsorted(low, high, right=True)
    area: Tensor = wins.double().mean() / (2 * len(low))
    return area


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
    high, low = _positive_and_negative(scores, positive, "AUPR")
    hits = len(high) - torch.searchsorted(high, high)
    false = len(low) - torch.searchsorted(low, high)
    return (hits.double() / (hits + false)).mean()


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
    high, low = _positive_and_negative(scores, positive, "FPR")
    caught = torch.arange(len(high), 0, -1, dtype=torch.float64, device=high.device) / len(high)
    threshold = high[(caught >= tpr).sum() - 1]
    return (low >= threshold).double().mean()


def _positive_and_negative(scores: Tensor, positive: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """The scores of either class, sorted; checked."""
    same_shape(scores, positive)
    if scores.ndim != 1 or bool(scores.isnan().any()):
        raise ValueError(
            f"scores must be (N,) without NaN; got {tuple(scores.shape)}, NaN {bool(scores.isnan().any())}"
        )
    positive = positive.bool()
    high, low = scores[positive].sort().values, scores[~positive].sort().values
    if len(high) == 0 or len(low) == 0:
        raise ValueError(f"{name} needs both classes; got {len(high)} positives and {len(low)} negatives")
    return high, low
