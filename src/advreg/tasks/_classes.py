"""Tasks for heads of classes: one of several, and labels of which several may be true."""

from __future__ import annotations

from functools import partial
from typing import Literal

from advreg._core.checks import check_word
from advreg.metrics import accuracy, label_accuracy, label_f1
from advreg.objectives import (
    SharpenedLabels,
    class_cross_entropy,
    class_margin,
    difference_of_logits_ratio,
    label_cross_entropy,
    label_margin,
)
from advreg.rules import Adaptive, Shrinking
from advreg.tasks._given import Given, Valid, check_given
from advreg.tasks._task import PLAIN, Member, Task


def classes() -> Task:
    """A head of classes that exclude each other: `accuracy` of scores `(B, C)`, lower is worse, 0 the worst.

    The target is class numbers, int64 `(B,)`. An example that is wrong is done. Scores are read before a
    softmax: of probabilities attack their logarithm, `through(torch.log, classes())`.

    Example:
        >>> from advreg.tasks import classes
        >>> classes().worst, classes().members[0].name
        (0.0, 'cross-entropy, shrinking radius')
    """
    shrinking = Shrinking()
    return Task(
        accuracy,
        "lower",
        (
            Member("cross-entropy, shrinking radius", class_cross_entropy, PLAIN, shrinking),
            Member("margin to the second class", partial(class_margin, rank=2)),
            Member("APGD, cross-entropy", class_cross_entropy, Adaptive()),
            Member("APGD, difference of logits ratio", difference_of_logits_ratio, Adaptive()),
            Member("margin", class_margin),
            Member("margin to the third class", partial(class_margin, rank=3)),
        ),
        worst=0.0,
    )


def labels(*, score: Literal["accuracy", "f1"] = "accuracy", valid: Valid | None = None) -> Task:
    """A head of labels, several of which may be true: logits `(B, C)`, lower is worse, 0 the worst.

    The target is `(B, C)`, 0 or 1; or a mapping with it as "target" and, bool, "valid".

    Args:
        score: "accuracy", the share of an example's labels that are right, `label_accuracy`; or "f1",
            `label_f1`.
        valid: From the target to which labels are there, bool `(B, C)`: `lambda target: target >= 0`, or
            `torch.isfinite`.

    Raises:
        ValueError: Another score.
        TypeError: A `valid` that is no function.

    Example:
        >>> from advreg.tasks import labels
        >>> labels(score="f1", valid=lambda target: target >= 0).worst
        0.0
    """
    check_word("score", score, ("accuracy", "f1"))
    check_given(valid=valid)
    shrinking = Shrinking()
    sharp = Given(SharpenedLabels(score), valid)
    sharper = Given(SharpenedLabels(score, 1.0, 8.0), valid)
    masked, margin = Given(partial(label_cross_entropy, masked=True), valid), Given(label_margin, valid)
    return Task(
        Given(label_accuracy if score == "accuracy" else label_f1, valid),
        "lower",
        (
            Member("sharper labels", sharper),
            Member("masked cross-entropy, shrinking radius", masked, schedule=shrinking),
            Member("APGD, sharpened labels, shrinking radius", sharp, Adaptive(), shrinking),
            Member("sharpened labels, shrinking radius", sharp, schedule=shrinking),
            Member("margin", margin),
            Member("cross-entropy", Given(label_cross_entropy, valid)),
        ),
        worst=0.0,
    )
