"""Combinations of objectives: heads, weights, forms, and what they read."""

import pytest
import torch
from networks import WRAPS

from advreg import J_IND_reg, J_IND_seg, negate, on, weighted
from advreg.objectives import (
    Normalised,
    SegPGD,
    at,
    cross_entropy,
    heads_read,
    masked_cross_entropy,
    normalised,
    worst_head,
)
from advreg.testing import check_objective

g = torch.Generator().manual_seed(0)


CONTOURS = [torch.randn(3, 6, 2, dtype=torch.float64, generator=g) for _ in range(2)]


LOGITS = torch.randn(3, 2, 4, 5, dtype=torch.float64, generator=g)


MASKS = torch.rand(3, 2, 4, 5, dtype=torch.float64, generator=g) > 0.5


BOTH = ({"contour": CONTOURS[0], "mask": LOGITS}, {"contour": CONTOURS[1], "mask": MASKS})


def test_gradients_of_joint_objectives():
    joint = weighted((0.3, on("contour", J_IND_reg)), (2.0, on("mask", J_IND_seg)))
    heads = [head.clone().requires_grad_() for head in BOTH[0].values()]
    assert torch.autograd.gradcheck(lambda c, m: joint({"contour": c, "mask": m}, BOTH[1]), heads)


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


CONTOUR, MASK = on("contour", J_IND_reg), on("mask", J_IND_seg)


def test_the_worst_head_of_each_example():
    worst = worst_head((0.02, CONTOUR), (1.0, MASK))
    columns = torch.stack([0.02 * J_IND_reg(*CONTOURS), J_IND_seg(LOGITS, MASKS)], 1)
    assert set(columns.argmax(1).tolist()) == {0, 1}  # either head is the worst of some example
    torch.testing.assert_close(worst(*BOTH), columns.amax(1))
    check_objective(worst, *BOTH)
    contour, mask = (head.clone().requires_grad_() for head in BOTH[0].values())
    gradients = torch.autograd.grad(worst({"contour": contour, "mask": mask}, BOTH[1]).sum(), (contour, mask))
    for number, winner in enumerate(columns.argmax(1).tolist()):
        assert gradients[winner][number].any()
        assert not gradients[1 - winner][number].any()


def test_normalised_has_a_column_for_each_head():
    both = normalised((2, CONTOUR), (0.5, negate(MASK)))
    assert isinstance(both, Normalised)
    assert both.weights == (2.0, 0.5)
    values = both(*BOTH)
    torch.testing.assert_close(values, torch.stack([J_IND_reg(*CONTOURS), -J_IND_seg(LOGITS, MASKS)], 1))
    assert all(
        getattr(each, "weights", None) is None
        for each in (CONTOUR, weighted((1, MASK)), worst_head((1, MASK)))
    )


COMBINE = {"weighted": weighted, "worst_head": worst_head, "normalised": normalised}


@pytest.mark.parametrize("name", COMBINE)
def test_combinations_read_what_their_terms_read(name):
    assert heads_read(COMBINE[name]((1.0, CONTOUR), (1.0, negate(MASK)))) == {"contour", "mask"}
    assert heads_read(COMBINE[name]((1.0, CONTOUR), (1.0, J_IND_reg))) is None


@pytest.mark.parametrize("name", COMBINE)
def test_combinations_hand_on_the_share_of_steps(name):
    changing = COMBINE[name]((3.0, on("mask", SegPGD())), (1.0, negate(on("mask", SegPGD()))))
    for share, form, scale in ((0.0, masked_cross_entropy, 1.0), (1.0, cross_entropy, 0.5)):
        same = COMBINE[name]((3.0, on("mask", form)), (1.0, negate(on("mask", form))))
        torch.testing.assert_close(at(changing, share)(*BOTH), scale * same(*BOTH))
    torch.testing.assert_close(changing(*BOTH), at(changing, 1.0)(*BOTH))
    assert heads_read(at(changing, 0.5)) == {"mask"}
    assert not torch.allclose(at(changing, 0.0)(*BOTH), changing(*BOTH))


def test_a_function_without_forms_stays_as_it_is():
    assert at(J_IND_reg, 0.3) is J_IND_reg
    assert at(MASK, 0.3) == MASK


@pytest.mark.parametrize("name", COMBINE)
def test_errors_of_combinations(name):
    with pytest.raises(ValueError, match=f"{name} needs at least one .*got none"):
        COMBINE[name]()
    with pytest.raises(ValueError, match=f"{name} takes .* one number per example.*must stand outermost"):
        COMBINE[name]((1.0, normalised((1.0, MASK))))


def test_normalised_stands_outermost():
    with pytest.raises(ValueError, match=r"write normalised\(\(weight, negate\(\.\.\.\)\)"):
        negate(normalised((1.0, MASK)))
    with pytest.raises(ValueError, match="on takes"):
        on("mask", normalised((1.0, J_IND_seg)))


def test_a_head_without_a_name_is_the_output_itself():
    assert on("", J_IND_reg) is J_IND_reg
    combined = negate(J_IND_reg)
    assert on("", combined) is combined
    assert heads_read(on("", J_IND_reg)) is None
    both = normalised((1.0, MASK))
    with pytest.raises(ValueError, match="on takes"):
        on("", both)
