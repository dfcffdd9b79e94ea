"""Dice of masks against scikit-learn's F1: classes, empty masks, ignored pixels."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, jaccard_score

from advreg import J_IND_seg, contour_dice, dice, point_error, soft_dice
from advreg.metrics import aupr, auroc, fpr_at_tpr, iou
from advreg.testing import check_objective


def logits(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_dice_is_scikit_learns_f1():
    output, target = logits(5, 1, 9, 7), logits(5, 1, 9, 7).flip(0) > 0.3
    for ours, o, t in zip(dice(output, target), output, target, strict=True):
        assert ours.item() == pytest.approx(f1_score(t.flatten(), (o > 0).flatten()))


def test_dice_of_classes_is_the_mean_f1_of_the_channels():
    output = logits(4, 3, 8, 8)
    classes = torch.randint(0, 3, (4, 8, 8), generator=torch.Generator().manual_seed(1))
    one_hot = torch.nn.functional.one_hot(classes, 3).movedim(-1, 1)
    expected = [
        f1_score(c.flatten(), o.argmax(0).flatten(), average="macro")
        for o, c in zip(output, classes, strict=True)
    ]
    np.testing.assert_allclose(dice(output, classes, activation="softmax"), expected, rtol=1e-6)
    np.testing.assert_allclose(dice(output, one_hot, activation="softmax"), expected, rtol=1e-6)
    torch.testing.assert_close(
        soft_dice(output, classes, activation="softmax"),
        soft_dice(output.softmax(1), one_hot, activation="none"),
    )


def test_soft_dice_of_certain_logits_is_dice():
    output, target = logits(5, 2, 9, 7), logits(5, 2, 9, 7).flip(0) > 0
    torch.testing.assert_close(soft_dice(1e4 * output, target), dice(output, target))


@pytest.mark.parametrize("function", [dice, soft_dice])
def test_empty_masks(function):
    empty, full = torch.full((1, 1, 4, 4), -1e4), torch.full((1, 1, 4, 4), 1e4)
    nothing, everything = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    assert function(empty, nothing).item() == 1
    assert function(empty, everything).item() == 0
    assert function(full, nothing).item() == 0
    assert function(full, everything).item() == 1
    # An empty channel beside a good one.
    assert function(torch.cat([full, empty], 1), torch.cat([everything, nothing], 1)).item() == 1


@pytest.mark.parametrize("function", [dice, soft_dice])
@pytest.mark.parametrize("ignore", [0, 1, 255, -1])
def test_ignored_pixels_are_as_good_as_cut_out(function, ignore):
    output, target = logits(3, 2, 6, 5), (logits(3, 2, 6, 5).flip(0) > 0.3).long()
    keep = torch.tensor([True, False, True, True, False, True])
    target[:, :, ~keep] = ignore
    if ignore in (0, 1):
        target[:, :, keep] = 1 - ignore
    value = function(output, target, ignore_index=ignore)
    torch.testing.assert_close(value, function(output[:, :, keep], target[:, :, keep]))
    assert not torch.allclose(value, function(output, target.clamp(0, 1)))
    classes = torch.randint(1, 3, (3, 6, 5), generator=torch.Generator().manual_seed(2))
    classes[:, ~keep] = 0
    output = logits(3, 3, 6, 5)
    value = function(output, classes, activation="softmax", ignore_index=0)
    torch.testing.assert_close(value, function(output[:, :, keep], classes[:, keep], activation="softmax"))
    if function is soft_dice:
        joint = J_IND_seg(output, classes, activation="softmax", ignore_index=0)
        torch.testing.assert_close(joint, 1 - value)


@pytest.mark.parametrize("function", [dice, soft_dice])
def test_an_example_that_is_ignored_altogether_agrees(function):
    output = logits(2, 1, 4, 4).requires_grad_()
    target = torch.full((2, 1, 4, 4), 255)
    target[0, 0, :2] = 1
    value = function(output, target, ignore_index=255)
    assert value[1] == 1
    assert value[0] < 1
    if function is soft_dice:
        (gradient,) = torch.autograd.grad(value.sum(), output)
        assert gradient[0, 0, :2].all()
        assert not gradient[0, 0, 2:].any()
        assert not gradient[1].any()


def test_soft_dice_has_a_finite_gradient_where_everything_is_empty():
    output = torch.zeros(1, 1, 3, 3, requires_grad=True)
    soft_dice(output, torch.zeros(1, 1, 3, 3), activation="none").sum().backward()
    assert output.grad.isfinite().all()


def test_metrics_keep_the_contract():
    masks, contours = (logits(4, 2, 6, 6), logits(4, 2, 6, 6) > 0), (9 * logits(4, 7, 2), logits(4, 7, 2))
    for metric in (dice, soft_dice):
        check_objective(metric, *masks)
    check_objective(point_error, *contours)
    check_objective(lambda o, t: contour_dice(o, t, size=(9, 9)), *contours)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: dice(torch.zeros(2, 8, 8), torch.zeros(2, 8, 8)),
            r"\(B, C, \*spatial\).*got \(2, 8, 8\).*unsqueeze",
        ),
        (lambda: dice(torch.zeros(2, 1, 8, 8), torch.zeros(1, 1, 8, 8)), "same shape, nothing is broadcast"),
        (
            lambda: soft_dice(torch.zeros(2, 1, 8, 8), torch.full((2, 1, 8, 8), 255)),
            r"\[0, 1\]; got \[255, 255\]",
        ),
        (
            lambda: soft_dice(torch.zeros(2, 3, 8, 8), torch.full((2, 8, 8), 3), activation="softmax"),
            r"\[0, 2\]; got \[3, 3\]: class numbers count the channels",
        ),
        (
            lambda: soft_dice(*[torch.zeros(1, 1, 4, 4)] * 2, activation="relu"),
            "'sigmoid', 'softmax' or 'none'",
        ),
        (
            lambda: dice(*[torch.zeros(2, 3, 8, 8)] * 2, activation="softmax", ignore_index=0),
            r"needs class numbers \(B, \*spatial\).*target.argmax\(1\)",
        ),
        (lambda: point_error(torch.zeros(2, 5, 2), torch.zeros(2, 10)), r"got \(2, 5, 2\) and \(2, 10\)"),
        (
            lambda: auroc(torch.zeros(3), torch.ones(3, dtype=torch.bool)),
            "both classes; got 3 positives and 0 neg",
        ),
        (lambda: auroc(torch.tensor([0.0, torch.nan]), torch.tensor([True, False])), "without NaN"),
        (lambda: aupr(torch.zeros(2), torch.ones(2, dtype=torch.bool)), "AUPR needs both classes"),
        (lambda: fpr_at_tpr(torch.zeros(2), torch.tensor([True, False]), tpr=95), r"\(0, 1\]; got 95"),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_iou_is_scikit_learns_jaccard():
    output, target = logits(5, 2, 9, 7), logits(5, 2, 9, 7).flip(0) > 0.3
    expected = [
        np.mean([jaccard_score(b.flatten(), a.flatten()) for a, b in zip(o > 0, t, strict=True)])
        for o, t in zip(output, target, strict=True)
    ]
    np.testing.assert_allclose(iou(output, target), expected, rtol=1e-6)
    classes = torch.randint(0, 3, (5, 9, 7), generator=torch.Generator().manual_seed(1))
    scores = logits(5, 4, 9, 7)  # the last class is in no truth
    expected = [
        jaccard_score(c.flatten(), o.argmax(0).flatten(), average="macro", labels=[0, 1, 2])
        for o, c in zip(scores, classes, strict=True)
    ]
    np.testing.assert_allclose(iou(scores, classes, activation="softmax"), expected, rtol=1e-6)
    check_objective(iou, output, target)


def test_iou_of_empty_masks_half_precision_and_nan():
    empty, full = torch.full((1, 1, 4, 4), -1.0), torch.ones(1, 1, 4, 4)
    assert iou(empty, 0 * full).item() == 1
    assert iou(empty, full).item() == 0
    assert iou(full, 0 * full).item() == 0
    assert iou(full.half(), full).dtype == torch.float32
    output = torch.cat([full, full])
    output[1, 0, 0, 0] = torch.nan
    assert iou(output, torch.ones_like(output)).isnan().tolist() == [False, True]
    ignored = iou(
        output, torch.ones_like(output).index_put((torch.tensor(1),), torch.tensor(255.0)), ignore_index=255
    )
    assert ignored.tolist() == [1, 1]


@pytest.mark.parametrize("function", [dice, soft_dice, iou])
def test_signals_and_volumes_are_as_images_of_one_row(function):
    output, target = logits(3, 2, 24), logits(3, 2, 24).flip(0) > 0.2
    expected = function(output.unsqueeze(2), target.unsqueeze(2))
    torch.testing.assert_close(function(output, target), expected)
    torch.testing.assert_close(function(output[:, :, None, None], target[:, :, None, None]), expected)
    numbers = torch.randint(0, 6, (3, 8), generator=torch.Generator().manual_seed(1))
    scores = logits(3, 6, 8)  # with class numbers nothing is ambiguous
    expected = function(scores.unsqueeze(2), numbers.unsqueeze(1), activation="softmax")
    torch.testing.assert_close(function(scores, numbers, activation="softmax"), expected)


def test_images_that_lack_the_channel_are_no_signals():
    for shape in ((2, 16, 16), (2, 16, 24), (2, 16)):
        with pytest.raises(ValueError, match=r"lack its channel: add it with mask.unsqueeze\(1\)"):
            dice(logits(*shape), logits(*shape) > 0)
