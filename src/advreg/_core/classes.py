"""Targets of class heads: numbers of classes that exclude each other, and labels that do not; checked."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from advreg._core.checks import check_tensors, examples, same_shape
from advreg._core.device import check_values
from advreg._core.tensors import wide
from advreg._core.valid import spread

_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class Labels(NamedTuple):
    """Logits of labels, which of them are true, and which count, each `(B, C)`; scores are 0 where not."""

    scores: Tensor
    truth: Tensor
    counted: Tensor

    def margin(self) -> Tensor:
        """The logit against the truth, `(B, C)`: above 0 where the label is wrong."""
        return torch.where(self.truth, -self.scores, self.scores)

    def right(self) -> Tensor:
        """Whether the decision, logit > 0, is the truth, `(B, C)` bool."""
        return (self.scores > 0) == self.truth

    def mean(self, values: Tensor, empty: float = 0.0) -> Tensor:
        """The mean over what counts, `(B,)`; `empty` where nothing does."""
        count = self.counted.sum(1)
        mean = torch.where(self.counted, values, 0).sum(1) / count.clamp(min=1)
        return torch.where(count > 0, mean, empty)

    def unknown(self) -> Tensor:
        """Which examples have a NaN that counts, `(B,)` bool."""
        return self.scores.isnan().any(1)


def class_numbers(output: Tensor, target: Tensor) -> Tensor:
    """The target of class scores `(B, C)` as int64, `(B,)`.

    Raises:
        TypeError: Something else than tensors; a target that is not of whole numbers.
        ValueError: Other shapes; numbers of classes that there are not.
    """
    check_tensors(output, target)
    if output.ndim != 2 or output.shape[1] < 2:
        raise ValueError(
            f"class scores must be (B, C), two classes or more; got {tuple(output.shape)}: {_remedy(output)}"
        )
    if target.shape != output.shape[:1]:
        if target.shape == output.shape:
            remedy = (
                "of one-hot rows pass target.argmax(1); for labels that may be true together use labels()"
            )
        elif target.shape == (len(output), 1):
            remedy = "pass target.squeeze(1)"
        else:
            remedy = "pass one class number for each example"
        raise ValueError(
            f"the target of class scores must be class numbers, shape ({len(output)},); got "
            f"{tuple(target.shape)}: {remedy}"
        )
    if target.dtype not in _WHOLE:
        raise TypeError(f"class numbers must be whole, int64; got {target.dtype}: pass target.long()")
    check_values(target, partial(_check_numbers, target, output.shape[1]))
    return target.long()


def labels(output: Tensor, target: Tensor, valid: Tensor | None = None) -> Labels:
    """The logits of labels `(B, C)`, in float32 at least, with their truth, 0 or 1.

    Raises:
        TypeError: Something else than tensors; a `valid` that is not bool.
        ValueError: Other shapes; a target that counts and is neither 0 nor 1.
    """
    tensors = isinstance(output, Tensor) and isinstance(target, Tensor)
    if tensors and output.ndim == 2 and target.shape == output.shape[:1] and target.dtype in _WHOLE:
        raise ValueError(
            f"labels need a target shaped like the logits, {tuple(output.shape)}, 0 or 1; got "
            f"{tuple(target.shape)}: for the number of one class of several use classes()"
        )
    same_shape(output, target)
    if output.ndim != 2:
        raise ValueError(
            f"logits of labels must be (B, C); got {tuple(output.shape)}: "
            + (
                "for one label, output.unsqueeze(1) and target.unsqueeze(1)"
                if output.ndim < 2
                else "for maps of labels use masks()"
            )
        )
    counted = torch.ones_like(output, dtype=torch.bool)
    if valid is not None:
        counted = spread(valid, output).expand_as(output)
    check_values(target, partial(_check_labels, target, counted))
    return Labels(torch.where(counted, wide(output), 0), (target == 1) & counted, counted)


def _remedy(output: Tensor) -> str:
    if output.ndim > 2:
        return "for a class of each pixel use masks(activation='softmax'); else select scores with through()"
    return "for one score, of two classes, use labels() with logits (B, 1) and a target (B, 1) of 0 or 1"


def _check_numbers(target: Tensor, count: int) -> None:
    outside = (target < 0) | (target >= count)
    if bool(outside.any()):
        raise ValueError(
            f"class numbers must lie in [0, {count - 1}]; got {target[outside][0].item()} in "
            f"{examples(outside)}: count classes from 0, and leave examples without one out"
        )


def _check_labels(target: Tensor, counted: Tensor) -> None:
    odd = counted & (target != 0) & (target != 1)
    if bool(odd.any()):
        some = target[odd][0].item()
        raise ValueError(
            f"labels must be 0 or 1; got {some:.6g} in {examples(odd)}: say what is there with valid=, bool "
            "(B, C), as a task labels(valid=lambda target: target >= 0), or decide, (target > 0.5)"
        )
