"""The task of mask heads: its metric, its members, what is ignored."""

import pytest
import torch

from advreg import (
    J_IND_seg,
    dice,
)
from advreg.objectives import SharpenedDice
from advreg.tasks import masks


def logits(*shape, seed=0, scale=2.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


OUTPUT, MASK = logits(3, 2, 5, 6), (logits(3, 2, 5, 6, seed=1) > 0.5).double()


CLASSES = torch.randint(0, 2, (3, 5, 6), generator=torch.Generator().manual_seed(2))


IGNORED = CLASSES.clone()
IGNORED[:, :2] = 255


@pytest.mark.parametrize(
    ("options", "target"),
    [
        ({}, MASK),
        ({"ignore_index": 0}, MASK),
        ({"activation": "softmax"}, CLASSES),
        ({"activation": "softmax", "ignore_index": 255}, IGNORED),
    ],
)
def test_at_a_factor_of_one_it_is_the_papers_objective(options, target):
    plain = SharpenedDice(1.0, 1.0, **options)
    for share in (0.0, 0.5, 1.0):
        torch.testing.assert_close(plain.at(share)(OUTPUT, target), J_IND_seg(OUTPUT, target, **options))
    torch.testing.assert_close(masks(**options).metric(OUTPUT, target), dice(OUTPUT, target, **options))
    twice = SharpenedDice(2.0, 2.0, **options)
    torch.testing.assert_close(twice(OUTPUT, target), J_IND_seg(2 * OUTPUT, target, **options))


def test_what_is_ignored_changes_no_member():
    options = {"activation": "softmax", "ignore_index": 255}
    other = OUTPUT.clone()
    other[:, :, :2] = logits(3, 2, 2, 6, seed=9)
    for member in masks(**options).members:
        assert torch.equal(member.objective(OUTPUT, IGNORED), member.objective(other, IGNORED))
        assert not torch.equal(
            member.objective(OUTPUT, IGNORED), member.objective(OUTPUT, IGNORED.where(IGNORED == 255, 1))
        )
