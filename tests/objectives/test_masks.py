"""Surrogates of mask heads against torch's losses, scipy's divergence, and sums by hand."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from torch.nn import functional as F

from advreg import J_IND_seg
from advreg.objectives import (
    SegPGD,
    at,
    cosine_weighted,
    cross_entropy,
    jensen_shannon,
    margin,
    masked_cross_entropy,
    tversky,
)
from advreg.testing import check_objective


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


MASK = logits(3, 4, 5, 6, seed=2) > 0.5


SOFTMAX, SIGMOID = {"activation": "softmax"}, {"activation": "sigmoid"}


def per_pixel(output, target, activation):
    """Cross-entropy, the true class's probability and whether it is decided for, by torch's own functions."""
    if activation == "softmax":
        p = output.softmax(1).gather(1, target[:, None])[:, 0]
        return F.cross_entropy(output, target, reduction="none"), p, output.argmax(1) == target
    p = output.sigmoid()
    loss = F.binary_cross_entropy_with_logits(output, target.to(output.dtype), reduction="none")
    return loss, torch.where(target, p, 1 - p), (output > 0) == target


@pytest.mark.parametrize(("activation", "target"), [("softmax", CLASSES), ("sigmoid", MASK)])
def test_the_formulas_on_torchs_cross_entropy(activation, target):
    loss, p, right = per_pixel(OUTPUT, target, activation)
    assert right.any()
    assert not right.all()
    options = {"activation": activation}
    mean = lambda values: values.flatten(1).mean(1)  # noqa: E731 - as short as it is
    torch.testing.assert_close(cross_entropy(OUTPUT, target, **options), mean(loss))
    torch.testing.assert_close(masked_cross_entropy(OUTPUT, target, **options), mean(loss * right))
    for share in (0.0, 0.4, 1.0):
        weight = torch.where(right, 1 - share / 2, share / 2)
        torch.testing.assert_close(SegPGD(activation).at(share)(OUTPUT, target), mean(weight * loss))
    assert torch.equal(SegPGD(activation)(OUTPUT, target), SegPGD(activation).at(1)(OUTPUT, target))
    distribution = OUTPUT.softmax(1) if activation == "softmax" else torch.stack([p, 1 - p])
    norm = distribution.norm(dim=1 if activation == "softmax" else 0)
    torch.testing.assert_close(cosine_weighted(OUTPUT, target, **options), mean(p / norm * loss))


def test_cosine_weights_of_cospgds_code():
    one_hot = F.one_hot(CLASSES, 4).movedim(-1, 1).double()
    weight = F.cosine_similarity(OUTPUT.softmax(1), one_hot, dim=1)
    loss = F.cross_entropy(OUTPUT, CLASSES, reduction="none")
    ours = cosine_weighted(OUTPUT, CLASSES, **SOFTMAX)
    torch.testing.assert_close(ours, (weight * loss).flatten(1).mean(1))


def test_one_channel_is_weighted_too_and_the_weight_has_no_gradient():
    output = torch.tensor([2.0, -2.0]).reshape(1, 1, 1, 2).requires_grad_()
    p = output.detach().sigmoid()
    weight = p / (p.square() + (1 - p).square()).sqrt()
    assert weight[0, 0, 0, 1] < 0.2  # not 1, as of a softmax over one channel
    loss = cosine_weighted(output, torch.ones(1, 1, 1, 2))
    torch.testing.assert_close(loss, (-weight * p.log()).mean((1, 2, 3)))
    (gradient,) = torch.autograd.grad(loss.sum(), output)
    torch.testing.assert_close(gradient, weight * (p - 1) / 2)


@pytest.mark.parametrize(("activation", "target"), [("softmax", CLASSES), ("sigmoid", MASK)])
def test_jensen_shannon_is_scipys_squared(activation, target):
    if activation == "softmax":
        predicted, true = OUTPUT.softmax(1).movedim(1, -1), F.one_hot(target, 4)
    else:
        predicted = torch.stack([1 - OUTPUT.sigmoid(), OUTPUT.sigmoid()], -1)
        true = F.one_hot(target.long(), 2)
    expected = jensenshannon(predicted.numpy(), true.numpy(), axis=-1) ** 2
    ours = jensen_shannon(OUTPUT, target, activation=activation)
    np.testing.assert_allclose(ours, expected.reshape(3, -1).mean(1), rtol=1e-9)


def test_jensen_shannon_is_bounded_and_precise_at_both_ends():
    output = torch.tensor([-1e4, -30.0, 30.0, 1e4]).reshape(4, 1, 1, 1)
    value = jensen_shannon(output, torch.ones(4, 1, 1, 1))
    assert (value <= math.log(2) + 1e-7).all()
    torch.testing.assert_close(value[:2], torch.full((2,), math.log(2)))
    torch.testing.assert_close(value[2].double().item(), math.exp(-30) * math.log(2) / 2, rtol=1e-5, atol=0)
    assert value[3] == 0


def test_margins_by_hand():
    output = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, -1.0]]).T.reshape(1, 3, 1, 2)
    target = torch.tensor([[[0, 2]]])  # margins 2 - 3 = -1 and 5 - -1 = 6
    assert margin(output, target, **SOFTMAX, masked=False).item() == 2.5
    assert margin(output, target, **SOFTMAX).item() == -0.5
    binary = torch.tensor([3.0, -7.0, 2.0, -1.0]).reshape(1, 1, 2, 2)
    inside = torch.tensor([1, 1, 0, 0]).reshape(1, 1, 2, 2)  # margins -3, 7, 2, -1
    assert margin(binary, inside, masked=False).item() == 5 / 4
    assert margin(binary, inside).item() == -4 / 4


def test_tversky_by_hand_and_as_dice():
    p, mask = torch.tensor([0.8, 0.4, 0.1]), torch.tensor([1.0, 0.0, 1.0])
    output = p.logit().reshape(1, 1, 1, 3)
    expected = 1 - 0.9 / (0.9 + 0.2 * 0.4 + 0.6 * (0.2 + 0.9))
    ours = tversky(output, mask.reshape(1, 1, 1, 3), alpha=0.2, beta=0.6)
    torch.testing.assert_close(ours, torch.tensor([expected]))
    for target, options in ((MASK, SIGMOID), (CLASSES, SOFTMAX)):
        dice = J_IND_seg(OUTPUT, target, **options)
        torch.testing.assert_close(tversky(OUTPUT, target, **options, alpha=0.5, beta=0.5), dice)


@pytest.mark.parametrize("name", SEGMENTATION)
@pytest.mark.parametrize(
    ("options", "target"), [(SOFTMAX, CLASSES), (SIGMOID, MASK)], ids=["softmax", "sigmoid"]
)
class TestEveryMaskSurrogate:
    def test_gradients_are_those_of_finite_differences(self, name, options, target):
        if name != "cosine_weighted":  # its weight has none: see test_one_channel_is_weighted_too
            function = partial(SEGMENTATION[name], target=target, **options)
            assert torch.autograd.gradcheck(function, OUTPUT.clone().requires_grad_())

    def test_the_contract(self, name, options, target):
        check_objective(partial(SEGMENTATION[name], **options), OUTPUT, target)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_extreme_logits(self, name, options, target, dtype):
        signs = torch.where(OUTPUT > 0, 1e4, -1e4).to(dtype).requires_grad_()
        value = SEGMENTATION[name](signs, target, **options)
        (gradient,) = torch.autograd.grad(value.sum(), signs)
        assert value.isfinite().all()
        assert gradient.isfinite().all()
        assert gradient.dtype == dtype
        assert value.dtype == torch.promote_types(dtype, torch.float32)

    @pytest.mark.parametrize("ignore", [0, 2, 255, -1])
    def test_ignored_pixels_count_nowhere(self, name, options, target, ignore):
        function = partial(SEGMENTATION[name], **options)
        left = torch.ones(3, 5, 6, dtype=torch.bool)
        left[:, 1:3] = False
        left[2, :, 1] = False
        shape = left if options is SOFTMAX else left[:, None].expand_as(MASK)
        target = torch.where(shape, target.long().clamp(min=1), ignore)  # 0 occurs only where it is ignored
        if options is SIGMOID and ignore == 0:
            target[0, 0, 0, 0] = 1
        if options is SOFTMAX and ignore == 2:
            target[shape & (target == 2)] = 3
        noise = torch.where(left[:, None], OUTPUT, logits(3, 4, 5, 6, seed=9))
        first, second = (o.clone().requires_grad_() for o in (OUTPUT, noise))
        value = function(first, target, ignore_index=ignore)
        torch.testing.assert_close(value, function(second, target, ignore_index=ignore))
        (gradient,) = torch.autograd.grad(value.sum(), first)
        assert (gradient[~left[:, None].expand_as(gradient)] == 0).all()
        assert gradient.any()
        for example in (0, 1):  # ignored rows are as good as cut out
            rows = [0, 3, 4]
            alone = function(OUTPUT[example, :, rows][None], target[example, ..., rows, :][None])
            torch.testing.assert_close(value[example : example + 1], alone)

    def test_nothing_left_gives_zero(self, name, options, target):
        target = torch.where(torch.arange(3).reshape(3, *[1] * (target.ndim - 1)) == 1, 255, target.long())
        output = OUTPUT.clone().requires_grad_()
        value = SEGMENTATION[name](output, target, ignore_index=255, **options)
        (gradient,) = torch.autograd.grad(value.sum(), output)
        assert value[1] == 0
        assert (gradient[1] == 0).all()
        assert gradient.isfinite().all()
        assert value[[0, 2]].all()


def test_cross_entropy_ignores_as_torch_does():
    target = CLASSES.clone()
    target[:, :2] = 0
    for ignore in (0, 3):
        theirs = torch.stack(
            [
                F.cross_entropy(o[None], t[None], ignore_index=ignore)
                for o, t in zip(OUTPUT, target, strict=True)
            ]
        )
        torch.testing.assert_close(cross_entropy(OUTPUT, target, ignore_index=ignore, **SOFTMAX), theirs)


def test_what_has_flipped_has_no_gradient_and_what_has_not_a_constant_share():
    output = torch.tensor([2.0, -2.0, -0.1, 0.1]).reshape(1, 1, 2, 2).requires_grad_()
    wrong = torch.tensor([False, True, True, False]).reshape(1, 1, 2, 2)
    for function in (masked_cross_entropy, BALANCED, margin, SegPGD(share=0)):
        (gradient,) = torch.autograd.grad(function(output, torch.ones(1, 1, 2, 2)).sum(), output)
        assert (gradient[wrong] == 0).all()
        assert (gradient[~wrong] < 0).all()
    (gradient,) = torch.autograd.grad(masked_cross_entropy(output, torch.ones(1, 1, 2, 2)).sum(), output)
    torch.testing.assert_close(gradient[0, 0, 0, 0], (torch.tensor(2.0).sigmoid() - 1) / 4)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_balanced_weights_by_a_loop(activation):
    if activation == "softmax":
        output, target = OUTPUT, CLASSES.clone()
        target[0][target[0] == 1] = 2  # class 1 is absent from one example
        groups = [[(n, target[n] == c) for c in range(4)] for n in range(3)]
    else:
        output, target = OUTPUT[:, :1], MASK[:, :1]
        groups = [[(n, target[n, 0] == side) for side in (True, False)] for n in range(3)]
    loss, _, right = (each.reshape(3, 5, 6) for each in per_pixel(output, target, activation))
    expected = []
    for example in groups:
        means = [(loss * right)[n][where].mean() for n, where in example if where.any()]
        expected.append(sum(means) / len(means))
    torch.testing.assert_close(BALANCED(output, target, activation=activation), torch.stack(expected))


def test_confident_pixels_keep_their_gradient_in_single_precision():
    """Where torch's cross-entropy has lost it: the probability rounds to 1."""
    output = torch.tensor([30.0, 0.0, 1.0]).reshape(1, 3, 1, 1).requires_grad_()
    target = torch.zeros(1, 1, 1, dtype=torch.long)
    theirs = torch.autograd.grad(F.cross_entropy(output, target), output)[0]
    assert theirs[0, 0].item() == 0
    for function in (cross_entropy, masked_cross_entropy, jensen_shannon):
        ours = torch.autograd.grad(function(output, target, **SOFTMAX).sum(), output)[0]
        assert ours[0, 0].item() < 0
    exact = -(math.exp(-30) + math.exp(-29))
    ours = torch.autograd.grad(cross_entropy(output, target, **SOFTMAX).sum(), output)[0]
    assert ours[0, 0].item() == pytest.approx(exact, rel=1e-5)


def test_segpgd_takes_its_form_from_the_share_of_steps():
    start, end = at(SegPGD("softmax"), 0.0), at(SegPGD("softmax"), 1.0)
    masked = masked_cross_entropy(OUTPUT, CLASSES, **SOFTMAX)
    torch.testing.assert_close(start(OUTPUT, CLASSES), masked)
    torch.testing.assert_close(end(OUTPUT, CLASSES), cross_entropy(OUTPUT, CLASSES, **SOFTMAX) / 2)
    with pytest.raises(ValueError, match=r"\[0, 1\]; got 2"):
        SegPGD().at(2)
