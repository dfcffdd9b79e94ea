"""Accuracy of classes and labels against scikit-learn, and what is refused."""

import math

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, hamming_loss

from advreg.metrics import accuracy, label_accuracy, label_f1
from advreg.testing import check_objective


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def whole(high, *shape, seed=1):
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


SCORES, NUMBERS = normal(12, 4), whole(4, 12)
LOGITS, TRUTH = normal(9, 6), whole(2, 9, 6)
TRUTH[3] = 0  # nothing is true, and in one of the two nothing is predicted
TRUTH[4], LOGITS[4] = 0, -1


def test_accuracy_is_that_of_scikit_learn():
    found = accuracy(SCORES, NUMBERS)
    each = [accuracy_score([t], [o]) for o, t in zip(SCORES.numpy().argmax(1), NUMBERS, strict=True)]
    assert found.tolist() == each
    assert 0 < found.mean() < 1
    assert found.dtype == torch.float64
    check_objective(accuracy, SCORES, NUMBERS)


def test_label_measures_are_those_of_scikit_learn():
    decided = (LOGITS > 0).long()
    right = [1 - hamming_loss(t[None], o[None]) for o, t in zip(decided.numpy(), TRUTH.numpy(), strict=True)]
    torch.testing.assert_close(label_accuracy(LOGITS, TRUTH), torch.tensor(right, dtype=torch.float64))
    f1 = [
        f1_score(t[None], o[None], average="samples", zero_division=1.0)
        for o, t in zip(decided.numpy(), TRUTH.numpy(), strict=True)
    ]
    assert f1[3:5] == [0.0, 1.0]
    torch.testing.assert_close(label_f1(LOGITS, TRUTH), torch.tensor(f1, dtype=torch.float64))
    for metric in (label_accuracy, label_f1):
        check_objective(metric, LOGITS, TRUTH)


@pytest.mark.parametrize("metric", [label_accuracy, label_f1])
def test_labels_that_are_missing_are_as_if_they_were_not_there(metric):
    target = TRUTH.double()
    target[0, 2:4], target[1] = math.nan, math.nan
    output = LOGITS.clone()
    output[0, 2] = math.nan
    found = metric(output, target, valid=target.isfinite())
    kept = [0, 1, 4, 5]
    torch.testing.assert_close(found[:1], metric(LOGITS[:1, kept], TRUTH[:1, kept]))
    assert found[1] == 1
    torch.testing.assert_close(found[2:], metric(LOGITS[2:], TRUTH[2:]))
    with pytest.raises(ValueError, match=r"labels must be 0 or 1; got nan in examples 0, 1: .*valid="):
        metric(output, target)
    with pytest.raises(TypeError, match="valid must be a bool tensor"):
        metric(output, target, valid=target)


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.int32, torch.float32, torch.float16])
def test_labels_of_any_dtype(kind):
    torch.testing.assert_close(label_f1(LOGITS, TRUTH.to(kind)), label_f1(LOGITS, TRUTH))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_gives_float32(kind):
    for found in (
        accuracy(SCORES.to(kind), NUMBERS.int()),
        label_accuracy(LOGITS.to(kind), TRUTH),
        label_f1(LOGITS.to(kind), TRUTH),
    ):
        assert found.dtype == torch.float32


def test_nan_cannot_be_decided():
    for metric, output, target in (
        (accuracy, SCORES, NUMBERS),
        (label_accuracy, LOGITS, TRUTH),
        (label_f1, LOGITS, TRUTH),
    ):
        spoilt = output.clone()
        spoilt[1, 0] = math.nan
        found = metric(spoilt, target)
        assert found.isnan().tolist() == [place == 1 for place in range(len(output))]


REFUSED = {
    "one-hot": (accuracy, SCORES, torch.eye(4)[NUMBERS], ValueError, r"target.argmax\(1\).*labels\(\)"),
    "a column": (accuracy, SCORES, NUMBERS[:, None], ValueError, r"pass target.squeeze\(1\)"),
    "floats": (accuracy, SCORES, NUMBERS.float(), TypeError, r"whole, int64; got torch.float32.*long\(\)"),
    "too large": (accuracy, SCORES, NUMBERS + 1, ValueError, r"must lie in \[0, 3\]; got 4 in example"),
    "below": (accuracy, SCORES, NUMBERS - 100, ValueError, r"\[0, 3\]; got -\d+ in examples 0, 1, 2, 3, 4, "),
    "pixels": (accuracy, normal(2, 4, 5, 5), whole(4, 2, 5, 5), ValueError, r"masks\(activation='softmax'\)"),
    "one score": (accuracy, normal(3, 1), whole(2, 3), ValueError, r"two classes or more.*use labels\(\)"),
    "too few": (accuracy, SCORES, NUMBERS[:3], ValueError, r"shape \(12,\); got \(3,\)"),
    "no tensor": (accuracy, SCORES, [0] * 12, TypeError, "must be tensors; got Tensor and list"),
    "numbers": (label_f1, LOGITS, whole(6, 9), ValueError, r"\(9, 6\), 0 or 1; got \(9,\).*use classes\(\)"),
    "broadcast": (label_f1, LOGITS, whole(2, 9, 1), ValueError, r"nothing is broadcast; got \(9, 6\)"),
    "one label": (label_f1, LOGITS[:, 0], TRUTH[:, 0].double(), ValueError, r"output.unsqueeze\(1\)"),
    "a map": (label_f1, normal(2, 3, 4, 4), whole(2, 2, 3, 4, 4), ValueError, r"\(B, C\).*use masks\(\)"),
    "soft": (label_f1, LOGITS, TRUTH / 2, ValueError, r"0 or 1; got 0.5 in .*\(target > 0.5\)"),
    "minus one": (label_f1, LOGITS, TRUTH - 1, ValueError, r"got -1 in .*valid=lambda target: target >= 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    metric, output, target, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        metric(output, target)
