from functools import partial

import pytest
import torch
from networks import WRAPS

from advreg import J_IND_reg, J_IND_seg, J_OOD_reg, J_OOD_seg, negate, on, soft_dice, weighted
from advreg.testing import check_objective

g = torch.Generator().manual_seed(0)
CONTOURS = [torch.randn(3, 6, 2, dtype=torch.float64, generator=g) for _ in range(2)]
LOGITS = torch.randn(3, 2, 4, 5, dtype=torch.float64, generator=g)
MASKS = torch.rand(3, 2, 4, 5, dtype=torch.float64, generator=g) > 0.5
CLASSES = torch.randint(0, 2, (3, 4, 5), generator=g)
BOTH = ({"contour": CONTOURS[0], "mask": LOGITS}, {"contour": CONTOURS[1], "mask": MASKS})

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


def test_gradients_of_joint_objectives():
    joint = weighted((0.3, on("contour", J_IND_reg)), (2.0, on("mask", J_IND_seg)))
    heads = [head.clone().requires_grad_() for head in BOTH[0].values()]
    assert torch.autograd.gradcheck(lambda c, m: joint({"contour": c, "mask": m}, BOTH[1]), heads)


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


@pytest.mark.parametrize("kind", WRAPS)
def test_on_finds_heads_of_whatever_a_model_returns(kind):
    output = WRAPS[kind](CONTOURS[0], LOGITS)
    target = WRAPS[kind](CONTOURS[1], MASKS)
    keys = (0, 1) if kind in ("tuple", "list", "namedtuple") else ("contour", "mask")
    assert torch.equal(on(keys[0], J_IND_reg)(output, target), J_IND_reg(*CONTOURS))
    assert torch.equal(on(keys[1], J_IND_seg)(output, target), J_IND_seg(LOGITS, MASKS))
    if kind == "namedtuple":
        assert torch.equal(on("mask", J_IND_seg)(output, target), J_IND_seg(LOGITS, MASKS))


def test_weighted_and_negate_compose():
    joint = weighted((0.5, on("contour", J_IND_reg)), (2.0, negate(on("mask", J_IND_seg))))
    expected = 0.5 * J_IND_reg(*CONTOURS) - 2 * J_IND_seg(LOGITS, MASKS)
    torch.testing.assert_close(joint(*BOTH), expected)
    with pytest.raises(ValueError, match="at least one"):
        weighted()
