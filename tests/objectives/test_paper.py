"""The paper's objectives: their formulas, and gradients by finite differences."""

from functools import partial

import pytest
import torch

from advreg import J_IND_reg, J_IND_seg, J_OOD_reg, J_OOD_seg, negate, soft_dice
from advreg.testing import check_objective

g = torch.Generator().manual_seed(0)


CONTOURS = [torch.randn(3, 6, 2, dtype=torch.float64, generator=g) for _ in range(2)]


LOGITS = torch.randn(3, 2, 4, 5, dtype=torch.float64, generator=g)


MASKS = torch.rand(3, 2, 4, 5, dtype=torch.float64, generator=g) > 0.5


CLASSES = torch.randint(0, 2, (3, 4, 5), generator=g)


CASES = {
    "J_IND_reg": (J_IND_reg, *CONTOURS),
    "J_OOD_reg": (J_OOD_reg, *CONTOURS),
    "J_IND_seg": (J_IND_seg, LOGITS, MASKS),
    "J_IND_seg softmax": (partial(J_IND_seg, activation="softmax"), LOGITS, CLASSES),
    "J_IND_seg probabilities": (partial(J_IND_seg, activation="none"), LOGITS.sigmoid(), MASKS),
    "J_OOD_seg": (J_OOD_seg, LOGITS, LOGITS.flip(0)),
    "J_OOD_seg softmax": (partial(J_OOD_seg, activation="softmax"), LOGITS, LOGITS.flip(0)),
    "negate": (negate(J_IND_reg), *CONTOURS),
}


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_finite_differences(case):
    objective, output, target = CASES[case]
    assert torch.autograd.gradcheck(lambda o: objective(o, target), output.clone().requires_grad_())


@pytest.mark.parametrize("case", CASES)
def test_objectives_keep_the_contract(case):
    check_objective(*CASES[case])


def test_the_papers_formulas():
    s_hat, s = CONTOURS
    p, m = LOGITS.sigmoid(), MASKS.double()
    soft = torch.stack(
        [2 * (p[:, c] * m[:, c]).sum((1, 2)) / (p[:, c].sum((1, 2)) + m[:, c].sum((1, 2))) for c in (0, 1)]
    )
    torch.testing.assert_close(J_IND_reg(s_hat, s), ((s_hat - s) ** 2).sum((1, 2)))
    torch.testing.assert_close(J_OOD_reg(s_hat, s), -(s_hat - s).abs().sum((1, 2)))
    torch.testing.assert_close(soft_dice(LOGITS, MASKS), soft.mean(0))
    torch.testing.assert_close(J_IND_seg(LOGITS, MASKS), 1 - soft.mean(0))
    torch.testing.assert_close(J_OOD_seg(LOGITS, MASKS), soft.mean(0))
    torch.testing.assert_close(
        J_OOD_seg(LOGITS, MASKS.double() * 20 - 10), soft.mean(0)
    )  # the same as logits
