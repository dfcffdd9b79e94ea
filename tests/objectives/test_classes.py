"""Surrogates of class heads against torch's own loss and by hand."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from advreg.metrics import accuracy
from advreg.objectives import class_cross_entropy, class_margin, difference_of_logits_ratio
from advreg.testing import check_objective


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


SCORES = 3 * normal(10, 5)
NUMBERS = torch.randint(0, 5, (10,), generator=torch.Generator().manual_seed(1))
ALL = {
    "class_cross_entropy": class_cross_entropy,
    "class_margin": class_margin,
    "second class": partial(class_margin, rank=2),
    "difference_of_logits_ratio": difference_of_logits_ratio,
}


@pytest.mark.parametrize("name", ALL)
def test_they_keep_the_contract(name):
    check_objective(ALL[name], SCORES, NUMBERS)
    assert torch.autograd.gradcheck(ALL[name], [SCORES.clone().requires_grad_(), NUMBERS])
    assert ALL[name](SCORES.half(), NUMBERS).dtype == torch.float32
    spoilt = SCORES.clone()
    spoilt[2] = torch.nan
    assert ALL[name](spoilt, NUMBERS).isnan().tolist() == [place == 2 for place in range(10)]
    with pytest.raises(ValueError, match=r"class numbers, shape \(10,\); got \(10, 1\)"):
        ALL[name](SCORES, NUMBERS[:, None])


def test_cross_entropy_is_torchs_and_does_not_vanish():
    expected = cross_entropy(SCORES, NUMBERS, reduction="none")
    torch.testing.assert_close(class_cross_entropy(SCORES, NUMBERS), expected)
    sure = torch.tensor([[40.0, 0.0, 0.0]], requires_grad=True)  # a probability that rounds to 1
    (gradient,) = torch.autograd.grad(class_cross_entropy(sure, torch.tensor([0])).sum(), sure)
    assert (gradient != 0).all()


def test_margins_and_the_ratio_by_hand():
    for rank in (1, 2, 3, 4, 9):
        expected = []
        for z, y in zip(SCORES.numpy(), NUMBERS.tolist(), strict=True):
            others = np.sort(np.delete(z, y))[::-1]
            expected.append(others[min(rank, 4) - 1] - z[y])
        found = class_margin(SCORES, NUMBERS, rank=rank)
        torch.testing.assert_close(found, torch.tensor(np.array(expected)))
    ratio = []
    for z, y in zip(SCORES.numpy(), NUMBERS.tolist(), strict=True):
        order = np.sort(z)[::-1]
        ratio.append((np.delete(z, y).max() - z[y]) / (order[0] - order[2]))
    found = difference_of_logits_ratio(SCORES, NUMBERS)
    torch.testing.assert_close(found, torch.tensor(np.array(ratio)))
    torch.testing.assert_close(found, difference_of_logits_ratio(7 * SCORES - 2, NUMBERS))
    for value in (class_margin(SCORES, NUMBERS), found):
        assert torch.equal(value > 0, accuracy(SCORES, NUMBERS) == 0)


def test_two_classes_and_equal_logits():
    two = SCORES[:, :2].clone().requires_grad_()
    value = difference_of_logits_ratio(two, NUMBERS % 2)
    torch.testing.assert_close(value, class_margin(two, NUMBERS % 2))
    (gradient,) = torch.autograd.grad(value.sum(), two)
    assert (gradient != 0).all()
    same = torch.zeros(1, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(difference_of_logits_ratio(same, torch.tensor([1])).sum(), same)
    assert gradient.isfinite().all()


def test_a_rank_is_counted_from_one():
    with pytest.raises(ValueError, match="rank must be 1, the largest other logit, or more; got 0"):
        class_margin(SCORES, NUMBERS, rank=0)
