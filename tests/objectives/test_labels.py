"""Surrogates of label heads against torch's own loss, by hand, and in the limit."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from advreg.metrics import label_accuracy, label_f1
from advreg.objectives import SharpenedLabels, label_cross_entropy, label_margin
from advreg.testing import check_objective


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


LOGITS = 2 * normal(6, 5)
TRUTH = torch.randint(0, 2, (6, 5), generator=torch.Generator().manual_seed(1))
TRUTH[2] = 0
VALID = torch.rand(6, 5, generator=torch.Generator().manual_seed(2)) > 0.3
VALID[4] = False
ALL = {
    "label_cross_entropy": label_cross_entropy,
    "masked": partial(label_cross_entropy, masked=True),
    "label_margin": label_margin,
    "whole margin": partial(label_margin, masked=False),
    "sharpened": SharpenedLabels(),
    "sharpened F1": SharpenedLabels("f1"),
}


@pytest.mark.parametrize("name", ALL)
def test_they_keep_the_contract(name):
    function = ALL[name]
    check_objective(function, LOGITS, TRUTH)
    assert torch.autograd.gradcheck(function, [LOGITS.clone().requires_grad_(), TRUTH])
    assert function(LOGITS.bfloat16(), TRUTH).dtype == torch.float32
    spoilt = LOGITS.clone()
    spoilt[1, 0] = torch.nan
    assert function(spoilt, TRUTH).isnan().tolist() == [place == 1 for place in range(6)]


@pytest.mark.parametrize("name", ALL)
def test_what_is_missing_counts_for_nothing(name):
    function = ALL[name]
    target = TRUTH.double().masked_fill(~VALID, torch.nan)
    output = LOGITS.masked_fill(~VALID, torch.nan).requires_grad_()
    value = function(output, target, valid=VALID)
    for place, there in enumerate(VALID):
        row = slice(place, place + 1)
        expected = function(LOGITS[row, there], TRUTH[row, there]) if there.any() else torch.zeros(1).double()
        torch.testing.assert_close(value[row], expected)
    (gradient,) = torch.autograd.grad(value.sum(), output)
    assert (gradient[~VALID] == 0).all()
    assert gradient.isfinite().all()


def test_cross_entropy_and_margin_by_hand():
    every = binary_cross_entropy_with_logits(LOGITS, TRUTH.double(), reduction="none")
    right = (LOGITS > 0) == (TRUTH > 0)
    torch.testing.assert_close(label_cross_entropy(LOGITS, TRUTH), every.mean(1))
    torch.testing.assert_close(label_cross_entropy(LOGITS, TRUTH, masked=True), (every * right).mean(1))
    margin = LOGITS * (1 - 2 * TRUTH)
    torch.testing.assert_close(label_margin(LOGITS, TRUTH, masked=False), margin.mean(1))
    torch.testing.assert_close(label_margin(LOGITS, TRUTH), margin.clamp(max=0).mean(1))


@pytest.mark.parametrize(("score", "metric"), [("accuracy", label_accuracy), ("f1", label_f1)])
def test_sharpened_labels_tend_to_the_metric(score, metric):
    hard = SharpenedLabels(score, 1.0, 1e5)
    torch.testing.assert_close(hard(LOGITS, TRUTH), 1 - metric(LOGITS, TRUTH), rtol=0, atol=1e-4)
    soft = hard.at(0.0)(LOGITS, TRUTH)
    assert not torch.allclose(soft, hard(LOGITS, TRUTH), atol=1e-2)
    torch.testing.assert_close(SharpenedLabels(score, 4.0, 4.0)(LOGITS / 4, TRUTH), soft)


def test_sharpened_f1_is_the_dice_of_probabilities_at_each_factor():
    generator = np.random.default_rng(3)
    logits, truth = generator.normal(size=(4, 6)), generator.integers(0, 2, (4, 6))
    truth[:, 0] = 1
    for share, factor in ((0.0, 0.5), (0.3, 0.5 * 6**0.5), (0.6, 3.0), (1.0, 3.0)):
        p = 1 / (1 + np.exp(-factor * logits))
        expected = 1 - 2 * (p * truth).sum(1) / (p.sum(1) + truth.sum(1))
        found = SharpenedLabels("f1").at(share)(torch.from_numpy(logits), torch.from_numpy(truth))
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


def test_an_example_without_a_true_label_has_a_gradient_of_its_f1():
    output = torch.full((1, 4), -3.0, requires_grad=True)
    value = SharpenedLabels("f1")(output, torch.zeros(1, 4))
    (gradient,) = torch.autograd.grad(value.sum(), output)
    assert gradient.sum() > 0


def test_options_that_are_refused():
    with pytest.raises(ValueError, match="score must be 'accuracy' or 'f1'; got 'F1'"):
        SharpenedLabels("F1")
    with pytest.raises(ValueError, match="first and last must be above zero"):
        SharpenedLabels(first=0.0)
