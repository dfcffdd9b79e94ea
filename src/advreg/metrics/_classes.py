"""Accuracy of class scores, and accuracy and F1 of labels, each `(B, C)`."""

from __future__ import annotations

import torch
from torch import Tensor

from advreg._core.classes import class_numbers, labels
from advreg.metrics._channels import channel_dice


def accuracy(output: Tensor, target: Tensor) -> Tensor:
    """Accuracy of class scores: 1 where the largest score is that of the true class, otherwise 0.

    Args:
        output: `(B, C)`, logits or any other scores; of equal ones the first counts.
        target: Class numbers `(B,)`, 0 to C - 1, of any type of whole numbers.

    Returns:
        `(B,)`, float32 at least; NaN where a score is NaN.

    Raises:
        TypeError: Something else than tensors; numbers that are not whole.
        ValueError: Other shapes, nothing is broadcast; numbers of classes that there are not.

    Example:
        >>> import torch
        >>> from advreg.metrics import accuracy
        >>> accuracy(torch.tensor([[2.0, 1.0], [2.0, 1.0]]), torch.tensor([0, 1]))
        tensor([1., 0.])

    Source:
        Goodfellow, Bengio and Courville, Deep learning, 2016, section 5.1.2.
    """
    target = class_numbers(output, target)
    right = output.argmax(1) == target
    return torch.where(
        output.isnan().any(1), torch.nan, right.to(torch.promote_types(output.dtype, torch.float32))
    )


def label_accuracy(output: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Share of an example's labels that are right: 1 less the Hamming loss.

    A label is decided by logit > 0. An example without a label that counts has 1: nothing is wrong.

    Args:
        output: Logits `(B, C)`, one for each label, which do not exclude each other.
        target: `(B, C)`, 0 or 1, of any dtype.
        valid: Which labels are there, bool `(B, C)`, or `(B,)`; by default all. It must be cut with the
            batch: take it from the target, `valid=target >= 0`.

    Returns:
        `(B,)` in [0, 1], float32 at least; NaN where a logit that counts is NaN.

    Raises:
        TypeError: Something else than tensors; a `valid` that is not bool.
        ValueError: Shapes that differ; labels that count and are neither 0 nor 1.

    Example:
        >>> import torch
        >>> from advreg.metrics import label_accuracy
        >>> target = torch.tensor([[1, 0, 0, -1]])
        >>> label_accuracy(torch.tensor([[2.0, -1.0, 3.0, 0.5]]), target, valid=target >= 0).numpy().round(2)
        array([0.67], dtype=float32)

    Source:
        Tsoumakas and Katakis, Multi-label classification, Int. J. Data Warehousing and Mining 3, 2007.
    """
    read = labels(output, target, valid)
    share = read.mean(read.right().to(read.scores.dtype), empty=1.0)
    return torch.where(read.unknown(), torch.nan, share)


def label_f1(output: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """F1 of an example's labels: `2 TP / (2 TP + FP + FN)`, 1 where nothing is true and nothing predicted.

    Where nothing is true one false label takes it from 1 to 0. What right negatives there are does not count,
    so it says more than `label_accuracy` where few of many labels are true.

    Args:
        output: As for `label_accuracy`.
        target: As for `label_accuracy`.
        valid: As for `label_accuracy`.

    Returns:
        `(B,)` in [0, 1], float32 at least; NaN where a logit that counts is NaN.

    Raises:
        TypeError: As for `label_accuracy`.
        ValueError: As for `label_accuracy`.

    Example:
        >>> import torch
        >>> from advreg.metrics import label_f1
        >>> label_f1(torch.tensor([[2.0, -1.0, 3.0]]), torch.tensor([[1, 1, 0]]))
        tensor([0.5000])

    Source:
        scikit-learn's `f1_score(average="samples", zero_division=1)`; van Rijsbergen, Information retrieval,
        1979.
    """
    read = labels(output, target, valid)
    dtype = read.scores.dtype
    decided, truth = ((one & read.counted).to(dtype)[:, None] for one in (read.scores > 0, read.truth))
    return torch.where(read.unknown(), torch.nan, channel_dice(decided, truth)[:, 0])
