"""Reading of mask heads: targets of either kind, and errors that teach."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from advreg.objectives import (
    SegPGD,
    cosine_weighted,
    cross_entropy,
    huber,
    jensen_shannon,
    margin,
    masked_cross_entropy,
    tversky,
    worst_point,
)


def logits(*shape, seed=0, scale=2.0, dtype=torch.float64):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def segpgd(output, target, **options):
    return SegPGD(share=0.4, **options)(output, target)


MASKED = partial(margin, masked=False)


BALANCED = partial(masked_cross_entropy, balanced=True)


SEGMENTATION = {
    "cross_entropy": cross_entropy,
    "masked_cross_entropy": masked_cross_entropy,
    "balanced": BALANCED,
    "jensen_shannon": jensen_shannon,
    "margin": margin,
    "margin unmasked": MASKED,
    "cosine_weighted": cosine_weighted,
    "SegPGD": segpgd,
    "tversky": tversky,
}


OUTPUT, CLASSES = (
    logits(3, 4, 5, 6),
    torch.randint(0, 4, (3, 5, 6), generator=torch.Generator().manual_seed(1)),
)


SOFTMAX, SIGMOID = {"activation": "softmax"}, {"activation": "sigmoid"}


@pytest.mark.parametrize("name", SEGMENTATION)
def test_one_hot_targets_are_class_numbers(name):
    one_hot = F.one_hot(CLASSES, 4).movedim(-1, 1)
    function = partial(SEGMENTATION[name], **SOFTMAX)
    torch.testing.assert_close(function(OUTPUT, one_hot), function(OUTPUT, CLASSES))


@pytest.mark.parametrize("name", sorted(set(SEGMENTATION) - {"tversky"}))
@settings(max_examples=30, deadline=None)
@given(
    data=st.lists(st.tuples(st.integers(-400, 400), st.booleans(), st.booleans()), min_size=6, max_size=6),
    shift=st.integers(-10, 10),
)
def test_a_sigmoid_channel_is_a_softmax_over_two(name, data, shift):
    z, inside, ignored = (torch.tensor(column) for column in zip(*data, strict=True))
    z = z.double().reshape(2, 1, 1, 3) / 8  # adding the shift is exact, so that ties stay ties
    target = torch.where(ignored, 255, inside.long()).reshape(2, 1, 1, 3)
    two = torch.cat([torch.zeros_like(z), z], 1) + shift
    function = partial(SEGMENTATION[name], ignore_index=255)
    binary = function(z, target)
    torch.testing.assert_close(
        binary, function(two, target[:, 0], activation="softmax"), rtol=1e-6, atol=1e-9
    )


NUMBERS = torch.zeros(1, 4, 4, dtype=torch.long)


@pytest.mark.parametrize(
    "function", [cross_entropy, tversky, SegPGD.__call__], ids=["CE", "tversky", "SegPGD"]
)
def test_probabilities_are_refused(function):
    masks = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    with pytest.raises(ValueError, match=r"'sigmoid' or 'softmax', surrogates read logits; got 'none'"):
        SegPGD("none")(*masks) if function is SegPGD.__call__ else function(*masks, activation="none")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: margin(torch.zeros(1, 1, 4, 4), NUMBERS, **SOFTMAX), ValueError, "two channels.*'sigmoid'"),
        (
            lambda: cross_entropy(*[torch.zeros(1, 3, 4, 4)] * 2, **SOFTMAX),
            ValueError,
            r"must have one class; got pixels with none or several.*class numbers \(B, \*spatial\)",
        ),
        (
            lambda: cross_entropy(*[torch.zeros(1, 3, 4, 4)] * 2, **SOFTMAX, ignore_index=0),
            ValueError,
            r"ignore_index needs class numbers.*target.argmax\(1\)",
        ),
        (
            lambda: cross_entropy(torch.zeros(1, 3, 4, 4), NUMBERS + 255, **SOFTMAX),
            ValueError,
            "ignore_index=255",
        ),
        (
            lambda: cross_entropy(torch.zeros(1, 1, 4, 4), NUMBERS),
            ValueError,
            "same shape, nothing is broadcast",
        ),
        (lambda: cross_entropy({"mask": NUMBERS}, {"mask": NUMBERS}), TypeError, r"on\('mask', f\)"),
        (lambda: worst_point(torch.zeros(2, 5, 2), torch.zeros(2, 1, 2)), ValueError, "nothing is broadcast"),
        (
            lambda: huber(torch.zeros(2, 5), torch.zeros(2, 5), delta=0),
            ValueError,
            "delta must be positive.*got 0",
        ),
        (
            lambda: tversky(*[torch.zeros(1, 1, 4, 4)] * 2, alpha=-1),
            ValueError,
            "alpha and beta must be positive; got -1 and 0.7",
        ),
    ],
)
def test_errors_say_what_to_do(call, error, message):
    with pytest.raises(error, match=message):
        call()
