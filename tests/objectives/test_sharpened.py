"""Objectives that sharpen on the way: their paths, and what they tend to."""

import math

import pytest
import torch

from advreg import (
    J_IND_seg,
    contour_dice,
    dice,
)
from advreg.objectives import SharpenedDice, SharpenedOverlap, at, contour_overlap
from advreg.tasks import masks

SIZE = (8, 8)


SQUARE = torch.tensor([[1.2, 1.3], [5.8, 1.1], [6.1, 5.9], [1.1, 6.2]])


def logits(*shape, seed=0, scale=2.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


OUTPUT, MASK = logits(3, 2, 5, 6), (logits(3, 2, 5, 6, seed=1) > 0.5).double()


CONTOURS = SQUARE.repeat(3, 1, 1).double() + 0.6 * logits(3, 4, 2, seed=3)


PATHS = {"first": 0.0}, {"first": -1.0}, {"last": 0.0}, {"until": 0.0}, {"until": 1.5}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("make", [SharpenedDice, lambda **path: SharpenedOverlap(SIZE, **path)])
def test_paths_that_lead_nowhere_are_refused(make, path):
    with pytest.raises(ValueError, match="first and last must be above zero and until in"):
        make(**path)


def test_a_sharpened_dice_needs_logits():
    with pytest.raises(ValueError, match="multiplies logits; got activation='none'"):
        SharpenedDice(activation="none")
    with pytest.raises(ValueError, match="activation='none'"):
        masks(activation="none")


def factor(first, last, until, share):
    """By logarithms: a straight line from log(first) to log(last) over the first `until` of the steps."""
    done = min(share / until, 1.0)
    return math.exp((1 - done) * math.log(first) + done * math.log(last))


@pytest.mark.parametrize(("first", "last", "until"), [(0.5, 3.0, 0.6), (1.0, 5.0, 1.0), (4.0, 0.5, 0.3)])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.59, 0.6, 0.61, 1.0])
def test_paths_are_geometric_and_stay_at_their_end(first, last, until, share):
    by = factor(first, last, until, share)
    sharpened = SharpenedDice(first, last, until).at(share)
    torch.testing.assert_close(sharpened(OUTPUT, MASK), J_IND_seg(by * OUTPUT, MASK))
    overlap = SharpenedOverlap(SIZE, first, last, until).at(share)
    expected = contour_overlap(CONTOURS, CONTOURS.flip(0), size=SIZE, softness=by)
    torch.testing.assert_close(overlap(CONTOURS, CONTOURS.flip(0)), expected)


def test_the_form_without_a_share_is_the_last():
    for sharpened, output, target in (
        (SharpenedDice(), OUTPUT, MASK),
        (SharpenedOverlap(SIZE), CONTOURS, CONTOURS.flip(0)),
    ):
        assert at(sharpened, 1.0) == sharpened
        assert torch.equal(sharpened(output, target), at(sharpened, 0.6)(output, target))
        assert not torch.allclose(sharpened(output, target), at(sharpened, 0.3)(output, target))
        assert at(at(sharpened, 0.2), 0.6) == at(sharpened, 0.6)


def test_the_factor_grows_towards_the_hard_dice():
    """A pixel on the right side counts ever less, one on the wrong side ever more."""
    output, target = torch.tensor([[[[1.0, -1.0]]]]), torch.tensor([[[[1.0, 0.0]]]])
    shares = torch.linspace(0, 1, 21).tolist()
    right = torch.cat([SharpenedDice().at(share)(output, target) for share in shares])
    wrong = torch.cat([SharpenedDice().at(share)(-output, target) for share in shares])
    assert (right.diff()[:12] < 0).all()
    assert (wrong.diff()[:12] > 0).all()
    assert (right.diff()[12:] == 0).all()
    sharp = SharpenedDice(1.0, 1e4)(OUTPUT, MASK)
    torch.testing.assert_close(sharp, 1 - dice(OUTPUT, MASK), rtol=0, atol=1e-6)
    edge = SharpenedOverlap(SIZE, 3.0, 1e-4)(CONTOURS, CONTOURS.flip(0))
    exact = contour_dice(CONTOURS, CONTOURS.flip(0), size=SIZE)
    torch.testing.assert_close(edge, 1 - exact.to(edge.dtype), rtol=0, atol=1e-3)
