"""Surrogates of label heads, logits `(B, C)` with a target `(B, C)` of 0 and 1: cross-entropy, margins.

`valid` is that of `advreg.metrics.label_accuracy`: what is not valid counts for nothing, in value and
gradient; an example without a label that counts gives 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

from advreg._core.checks import check_word
from advreg._core.classes import labels
from advreg.objectives._paths import between, check_path
from advreg.objectives._sharpened import SharpenedDice


def label_cross_entropy(
    output: Tensor, target: Tensor, valid: Tensor | None = None, *, masked: bool = False
) -> Tensor:
    """Binary cross-entropy of labels, mean over those that count, `(B,)`, in nats.

    Args:
        output: Logits `(B, C)`.
        target: `(B, C)`, 0 or 1.
        valid: Which labels are there, bool; by default all.
        masked: Whether labels that are wrong count as 0, so that nothing is spent on them.

    Returns:
        `(B,)`, zero or more, float32 at least.

    Raises:
        TypeError: As for `advreg.metrics.label_accuracy`.
        ValueError: As for `advreg.metrics.label_accuracy`.

    Example:
        >>> import torch
        >>> from advreg.objectives import label_cross_entropy
        >>> label_cross_entropy(torch.zeros(1, 3), torch.tensor([[0, 1, 1]]))
        tensor([0.6931])

    Source:
        Goodfellow, Bengio and Courville, Deep learning, 2016, section 6.2.2.
    """
    read = labels(output, target, valid)
    loss = -logsigmoid(-read.margin())
    return read.mean(loss * read.right() if masked else loss)


def label_margin(
    output: Tensor, target: Tensor, valid: Tensor | None = None, *, masked: bool = True
) -> Tensor:
    """Margin of labels: the logit against the truth, mean over those that count, `(B,)`.

    It is `-logit` of a true label and `logit` of another. `masked` counts a label until it flips, by
    `min(margin, 0)`.

    Args:
        output: Logits `(B, C)`.
        target: `(B, C)`, 0 or 1.
        valid: Which labels are there, bool; by default all.
        masked: Whether labels that are wrong count as 0.

    Returns:
        `(B,)`, float32 at least, in units of the logits.

    Raises:
        TypeError: As for `advreg.metrics.label_accuracy`.
        ValueError: As for `advreg.metrics.label_accuracy`.

    Example:
        >>> import torch
        >>> from advreg.objectives import label_margin
        >>> label_margin(torch.tensor([[3.0, 7.0]]), torch.tensor([[1, 0]]))
        tensor([-1.5000])

    Source:
        Carlini and Wagner, arXiv:1608.04644, for each label; masked as by Croce et al., arXiv:2306.12941.
    """
    read = labels(output, target, valid)
    margin = read.margin()
    return read.mean(margin.clamp(max=0) if masked else margin)


@dataclass(frozen=True)
class SharpenedLabels:
    """Share of wrong labels, or 1 - F1, smooth at first and as hard as the metric in the end.

    Logits are multiplied by a factor, `first (last / first)^(share / until)`, and `last` from `until` on. Of
    "accuracy" the value is the mean of `sigmoid(factor margin)`, margin being the logit against the truth: it
    tends to 1 - `label_accuracy`. Of "f1" it is `SharpenedDice` of the labels: it tends to 1 - `label_f1`.

    Args:
        score: "accuracy" or "f1".
        first: The factor at the first step.
        last: The factor in the end.
        until: The share of the steps at which it is reached.
        share: Steps made over all steps; an attack sets it, by `at`.

    Raises:
        ValueError: Another score; a path that leads nowhere.

    Example:
        >>> import torch
        >>> from advreg.objectives import SharpenedLabels
        >>> logits, target = torch.tensor([[2.0, -1.0]]), torch.tensor([[1, 1]])
        >>> [round(SharpenedLabels().at(share)(logits, target).item(), 3) for share in (0.0, 0.3, 1.0)]
        [0.446, 0.426, 0.478]
        >>> [round(SharpenedLabels("f1").at(share)(logits, target).item(), 3) for share in (0.0, 0.3, 1.0)]
        [0.287, 0.271, 0.314]

    Source:
        As for `SharpenedDice`; the measurements behind it: `benchmarks/heads.py`.
    """

    score: Literal["accuracy", "f1"] = "accuracy"
    first: float = 0.5
    last: float = 3.0
    until: float = 0.6
    share: float = 1.0

    def __post_init__(self) -> None:
        check_word("score", self.score, ("accuracy", "f1"))
        check_path(self.first, self.last, self.until)

    def at(self, share: float) -> SharpenedLabels:
        """The objective after this share of the steps."""
        return replace(self, share=share)

    def __call__(self, output: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
        """The value, `(B,)` in [0, 1]."""
        read = labels(output, target, valid)
        factor = between(self.first, self.last, self.share / self.until)
        if self.score == "accuracy":
            return read.mean((factor * read.margin()).sigmoid())
        truth = read.truth.to(read.scores.dtype).masked_fill(~read.counted, _LEFT_OUT)
        dice = SharpenedDice(factor, factor, ignore_index=_LEFT_OUT)
        return dice(read.scores[:, None, :, None], truth[:, None, :, None])


_LEFT_OUT = 255
